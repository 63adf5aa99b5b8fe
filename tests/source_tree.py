"""The modules of the distribution, read and not run: what they define and what they import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

__all__ = ["PACKAGE", "PLUGINS", "ROOT", "Module", "modules"]

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "redisai_py"
PLUGINS = ROOT / "backends"


@dataclass(frozen=True)
class Import:
    """One import. name: of the module, or of what is taken from it.   late: inside a function, so not at import."""

    module: str
    name: str
    late: bool


@dataclass(frozen=True)
class Module:
    """One source file."""

    name: str
    path: Path

    @cached_property
    def tree(self) -> ast.Module:
        """What is written there."""
        return ast.parse(self.path.read_text(), str(self.path))

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """What it imports when it runs: not what stands under TYPE_CHECKING."""
        return tuple(_imports(self.tree, late=False))

    @cached_property
    def known(self) -> set[str]:
        """Modules whose names stand in an import, also under TYPE_CHECKING; of `from a import b` both a and a.b."""
        found: set[str] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                found.add(node.module)
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
        return found

    @cached_property
    def exports(self) -> list[str] | None:
        """`__all__`, None if there is none."""
        for node in self.tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
                assert isinstance(node, ast.Assign)
                names = ast.literal_eval(node.value)
                assert isinstance(names, list)
                return names
        return None

    @cached_property
    def definitions(self) -> set[str]:
        """Functions and classes at the top level."""
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        return {node.name for node in self.tree.body if isinstance(node, kinds)}


def _imports(node: ast.AST, late: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for alternative in child.orelse:
                yield from _imports(alternative, late)
        elif isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, "", late)
        elif isinstance(child, ast.ImportFrom):
            assert child.module is not None, "relative imports are not used here"
            for alias in child.names:
                yield Import(child.module, alias.name, late)
        else:
            is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from _imports(child, late or is_function)


def modules(root: Path) -> dict[str, Module]:
    """The modules under `root` by their names, which begin with the names of packages in or at `root`."""
    base = root if (root / "__init__.py").exists() else root / "."
    start = base.parent if (root / "__init__.py").exists() else root
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(start).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(name, path)
    return found
