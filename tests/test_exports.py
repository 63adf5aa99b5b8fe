"""Export lists say what is there, and modules take from each other only what they export."""

from __future__ import annotations

import ast

import pytest

from tests.source_tree import PACKAGE, PLUGINS, Module, modules

ALL = modules(PACKAGE) | modules(PLUGINS)


def _names(module: Module) -> set[str]:
    """What stands in a module's namespace once it has run."""
    found = set(module.definitions)
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("name", ALL)
def test_exports_exist(name: str) -> None:
    module = ALL[name]
    if module.exports is None:
        assert not module.definitions, "a module with definitions says in __all__ which are for others"
        return
    assert len(module.exports) == len(set(module.exports))
    assert set(module.exports) <= _names(module)


@pytest.mark.parametrize("name", ALL)
def test_only_exports_are_taken(name: str) -> None:
    for taken in ALL[name].imports:
        source = ALL.get(taken.module)
        if source is not None and taken.name and f"{taken.module}.{taken.name}" not in ALL:
            assert taken.name in (source.exports or ()), f"{taken.name} is not in the __all__ of {taken.module}"
