"""A setting has one name, from its flag to whoever uses it; only the unit at its end may change."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

from redisai_py.config import settings
from tests.source_tree import PACKAGE, Module, modules

NAMES = {setting.name for setting in settings()}
_ITSELF = (ast.Attribute, ast.BinOp, ast.IfExp)
"""A setting, also in another unit; not what is found out by asking for it."""
_UNIT = re.compile(r"_(ms|s|us|mb|bytes)\Z")
MORE_GENERAL = {("DataDirectory", "path")}
"""Parameters that do not know of the setting that they get: (class, parameter)."""


def _settings_in(expression: ast.expr) -> set[str]:
    """The settings that an expression is made of."""
    return {
        node.attr
        for node in ast.walk(expression)
        if isinstance(node, ast.Attribute)
        and node.attr in NAMES
        and "config" in (getattr(node.value, "id", ""), getattr(node.value, "attr", ""))
    }


def _parameters(module: Module, call: ast.Call) -> list[str]:
    """The names of the parameters of a class of ours; nothing for functions, which are more general, and for others."""
    function = call.func
    if isinstance(function, ast.Name) and function.id == "partial":
        function, own = call.args[0], 1
    else:
        own = 0
    if not isinstance(function, ast.Name):
        return []
    found: Any = getattr(importlib.import_module(module.name), function.id, None)
    ours = str(getattr(found, "__module__", "")).startswith(PACKAGE.name)
    if not ours or not inspect.isclass(found) or issubclass(found, Exception):
        return []
    return [""] * own + list(inspect.signature(found).parameters)


def _uses() -> Iterator[tuple[str, str, str]]:
    """(callee, parameter, setting) of each argument that is a setting."""
    for module in modules(PACKAGE).values():
        for call in ast.walk(module.tree):
            if isinstance(call, ast.Call) and _settings_in(call) and (names := _parameters(module, call)):
                callee = ast.unparse(call.func)
                given = [*zip(names, call.args, strict=False), *((word.arg, word.value) for word in call.keywords)]
                for name, argument in given:
                    for setting in _settings_in(argument) if name and isinstance(argument, _ITSELF) else ():
                        yield callee, name, setting


def test_a_setting_keeps_its_name() -> None:
    uses = set(_uses())
    assert len(uses) > 12, "the uses are not found"
    wrong = {use for use in uses if _UNIT.sub("", use[1]) != _UNIT.sub("", use[2]) and use[:2] not in MORE_GENERAL}
    assert wrong == set()
