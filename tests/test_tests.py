"""The tests mirror the tree, and those that say that they need no server need none."""

from __future__ import annotations

import ast
import re
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


def _room(path: Path) -> str:
    """The package whose tests are in the folder of this file."""
    return ".".join((PACKAGE.name, *path.parent.relative_to(UNIT).parts))


def _modules_named(path: Path) -> set[str]:
    """Modules that are named in a file, and the packages that they are in."""
    found = re.findall(r"\b(?:redisai_py|tests\.unit)(?:\.\w+)*", path.read_text())
    return {".".join(name.split(".")[:count]) for name in found for count in range(1, name.count(".") + 2)}


def test_unit_tests_are_in_a_folder_of_the_room_that_they_test() -> None:
    rooms = {".".join(path.relative_to(ROOT).parts) for path in PACKAGE.rglob("*") if path.is_dir()} | {PACKAGE.name}
    tests = {path: _room(path) for path in sorted(UNIT.rglob("test_*.py"))}
    assert len(tests) > 50, "the tests are not found"
    assert set(tests.values()) <= rooms
    names = {path: (room, room.replace(f"{PACKAGE.name}.", "tests.unit.")) for path, room in tests.items()}
    assert [path for path, (room, shared) in names.items() if not {room, shared} & _modules_named(path)] == []


def test_rooms_have_unit_tests() -> None:
    tested = {path.name for path in UNIT.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert {"ai", "client", "commands", "engine", "frontdoor", "ops", "resp", "serve", "store", "upstream"} <= tested


def test_unit_tests_need_no_server() -> None:
    wrong = {
        str(path.relative_to(ROOT)): sorted(found)
        for folder in (UNIT, PROPERTY)
        for path in folder.rglob("*.py")
        if (found := SERVERS & set(_names(path)))
    }
    assert wrong == {}
