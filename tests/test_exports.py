"""Export lists say what is there, and modules take from each other only what they export."""

from __future__ import annotations

import ast

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


def test_exports_exist() -> None:
    wrong = []
    for name, module in ALL.items():
        exports = module.exports
        if exports is None:
            if module.definitions:
                wrong.append(f"{name} has definitions, and no __all__ that says which are for others")
        elif len(exports) != len(set(exports)) or not set(exports) <= _names(module):
            wrong.append(f"the __all__ of {name} has a name twice, or one that is not there")
    assert wrong == []


def test_only_exports_are_taken() -> None:
    wrong = []
    for name, module in ALL.items():
        for taken in module.imports:
            source = ALL.get(taken.module)
            if source is None or not taken.name or f"{taken.module}.{taken.name}" in ALL:
                continue
            if taken.name not in (source.exports or ()):
                wrong.append(f"{name} takes {taken.name}, which is not in the __all__ of {taken.module}")
    assert wrong == []
