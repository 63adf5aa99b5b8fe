"""CPython keeps the attributes of an object in the object itself while they are fewer than 30; beyond, each access is a
look-up in a dict, without the interpreter's shortcuts. The objects that all commands share must not grow that far.
"""

from __future__ import annotations

import ast

from tests.source_tree import PACKAGE, modules

_MOST = 29


def _attributes(cls: ast.ClassDef) -> set[str]:
    """The attributes that the methods of a class set on `self`."""
    return {
        node.attr
        for node in ast.walk(cls)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def _has_slots(cls: ast.ClassDef) -> bool:
    targets = [target for node in cls.body if isinstance(node, ast.Assign) for target in node.targets]
    return any(isinstance(target, ast.Name) and target.id == "__slots__" for target in targets)


def test_no_object_has_more_attributes_than_it_can_hold_itself() -> None:
    counts = {
        f"{name}.{node.name}": len(_attributes(node))
        for name, module in modules(PACKAGE).items()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef) and not _has_slots(node)
    }
    assert counts["redisai_py.engine.runner.Runner"] > 15, "the attributes are not found"
    assert {name: count for name, count in counts.items() if count > _MOST} == {}
