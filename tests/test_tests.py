"""The tests mirror the tree, and those that say that they need no server need none."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.source_tree import PACKAGE, ROOT

UNIT = ROOT / "tests" / "unit"
PROPERTY = ROOT / "tests" / "property"
SERVERS = {"redis_server", "front_door", "bare", "client", "RedisServer", "FrontDoor"}
"""Fixtures and classes that start a Redis or our server."""


def _names(path: Path) -> Iterator[str]:
    """Arguments of tests and fixtures, and what is imported."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and (node.name.startswith("test_") or node.decorator_list):
            yield from (argument.arg for argument in node.args.args)
        elif isinstance(node, ast.alias):
            yield node.name


def test_rooms_have_their_tests_under_their_names() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    tested = {path.name for path in UNIT.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert tested <= rooms
    assert {"ai", "client", "commands", "engine", "frontdoor", "ops", "resp", "serve", "store", "upstream"} <= tested


def test_unit_tests_need_no_server() -> None:
    wrong = {
        str(path.relative_to(ROOT)): sorted(found)
        for folder in (UNIT, PROPERTY)
        for path in folder.rglob("*.py")
        if (found := SERVERS & set(_names(path)))
    }
    assert wrong == {}
