"""Refuse TorchScript archives that run code while they are loaded, before `torch.jit.load` sees them.

`torch.jit.load` calls the method `__setstate__` of every object in an archive that has one, and holds the GIL
meanwhile: a loop in it would stop the whole process forever. Quantised modules of early PyTorch need the method to pack
their weights. So the method may not compute: it may assign, call the packing operators, and call methods with the same
restrictions.

The code in an archive is TorchScript as PyTorch prints it, and Python's parser can read it.
"""

from __future__ import annotations

import ast
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator

import torch

from redisai_py.backend import Blob, opened
from redisai_py.errors import BackendError

__all__ = ["check_unpickling"]

_HOOK = "__setstate__"
_MAX_MEMBERS = 100_000
_MAX_CODE_BYTES = 64 * 1024 * 1024
_MAX_CALLS = 1000
_HARMLESS = frozenset(("annotate", "unchecked_cast", "uninitialized", "getattr", "isinstance", "int", "float", "bool"))
_COMPUTES = (ast.While, ast.For, ast.ListComp, ast.DictComp, ast.Lambda, ast.BinOp, ast.AugAssign)


def check_unpickling(blob: Blob) -> None:
    """Refuse an archive whose objects would compute while they are loaded. PyTorch handles files that are not zip.

    Raises: BackendError that names what is wrong; PyTorch's own error for what PyTorch cannot read either.
    """
    if blob[:2] != b"PK":
        return
    try:
        sources = _sources(blob)
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        with opened(blob) as file:
            torch._C.PyTorchFileReader(file)  # raises PyTorch's error; if PyTorch can read it, we refuse below
        raise BackendError(f"ERR TorchScript archive cannot be read: {error}") from error
    if not any(_HOOK in source for source in sources):
        return
    try:
        functions = _functions(map(ast.parse, sources))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _refused("is not readable") from error
    if _weigh(_HOOK, functions, ()) > _MAX_CALLS:
        raise _refused(f"makes more than {_MAX_CALLS} calls")


def _sources(blob: Blob) -> list[str]:
    """The source files in an archive."""
    with opened(blob) as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) > _MAX_MEMBERS:
            raise BackendError(f"ERR TorchScript archive refused: more than {_MAX_MEMBERS} files")
        name, count = Counter(member.filename for member in members).most_common(1)[0] if members else ("", 0)
        if count > 1:  # which of them PyTorch would read is undefined
            raise BackendError(f"ERR TorchScript archive refused: a second file {name[:200]!r}")
        code = [member for member in members if member.filename.endswith(".py")]
        if sum(member.file_size for member in code) > _MAX_CODE_BYTES:
            raise BackendError(f"ERR TorchScript archive refused: more than {_MAX_CODE_BYTES} bytes of code")
        return [archive.read(member).decode() for member in code]


def _functions(modules: Iterable[ast.Module]) -> dict[str, list[ast.FunctionDef]]:
    """All functions by their bare name, because the class of a called method is unknown here."""
    found: dict[str, list[ast.FunctionDef]] = {}
    for module in modules:
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef):
                found.setdefault(node.name, []).append(node)
    return found


def _weigh(name: str, functions: dict[str, list[ast.FunctionDef]], callers: tuple[str, ...]) -> int:
    """Maximum number of calls that functions of that name make. Raises: BackendError: one of them computes."""
    if name in callers:
        raise _refused(f"calls {name} from itself")
    calls = 0
    for function in functions.get(name, ()):
        for node in ast.walk(function):
            if isinstance(node, _COMPUTES):
                raise _refused(f"computes ({type(node).__name__} in {name})")
        for called in _called(function):
            calls += 1 + (_weigh(called, functions, (*callers, name)) if called else 0)
            if calls > _MAX_CALLS:
                return calls
    return calls


def _called(function: ast.FunctionDef) -> Iterator[str]:
    """Bare names of the archive's functions that are called; allowed calls yield nothing. Raises: BackendError."""
    for node in ast.walk(function):
        if not isinstance(node, ast.Call):
            continue
        path = ast.unparse(node.func)
        if path in _HARMLESS or path.startswith("ops.quantized."):
            yield ""
        elif path.startswith(("torch.", "ops.")):
            raise _refused(f"calls {path[:200]}")
        else:
            yield path.rpartition(".")[2]


def _refused(what: str) -> BackendError:
    return BackendError(f"ERR TorchScript archive refused: its {_HOOK}, which runs while a model is loaded, {what}")
