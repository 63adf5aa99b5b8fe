"""Script sources: read them, and find the functions that clients may call."""

from __future__ import annotations

import ast
from pathlib import Path

from redisai_py.cli.failures import UsageError

__all__ = ["entry_points_of", "read_source"]

_SIGNATURE = ("List[Tensor]", "List[str]", "List[str]")


def read_source(path: Path) -> str:
    """The text of the file. Raises: UsageError: not text.   OSError."""
    if path.is_dir():
        raise UsageError(f"{path}: a directory is not a script")
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text") from error


def entry_points_of(source: str, what: str) -> list[str]:
    """Functions with the signature of an entry point, in order. Raises: UsageError: there is none."""
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        raise UsageError(f"{what}{line}: {error.msg}") from error
    except ValueError as error:
        raise UsageError(f"{what}: {error}") from error
    found = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and _is_entry_point(node)]
    if not found:
        raise UsageError(
            f"{what}: no function takes (tensors: List[Tensor], keys: List[str], args: List[str]); "
            "only such a function can be an entry point"
        )
    return found


def _is_entry_point(function: ast.FunctionDef) -> bool:
    types = [argument.annotation for argument in function.args.args]
    return tuple(_type_text(annotation) for annotation in types) == _SIGNATURE


def _type_text(annotation: ast.expr | None) -> str:
    text = ast.unparse(annotation) if annotation is not None else ""
    return text.replace("list[", "List[").replace("torch.Tensor", "Tensor").replace("typing.", "")
