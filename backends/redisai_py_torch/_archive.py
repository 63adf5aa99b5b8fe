"""Is this blob a torch.export archive (.pt2), and is it safe to pass to `torch.export.load`?

`torch.export.load` trusts its input: it unpickles, loads compiled libraries, resolves any name under `torch` to a
function, evaluates symbolic expressions and generates source code from names. A model comes from the network, so all of
this is checked first, and an archive with more than a plain graph and plain tensors is refused. This closes the known
ways, but it is not a sandbox: users who may store models must still be trusted (docs/adr/0006).

Source: the layout that PyTorch 2.5 to 2.13 write; torch/export/pt2_archive and torch/_export/serde.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch

from redisai_py.backend import Blob, opened
from redisai_py.errors import BackendError

__all__ = ["check_export_archive", "is_export_archive", "is_saved_object"]

_COMPILED = ("data/aotinductor/", "data/executorch/")
_CUSTOM_OBJECTS = ("data/constants/custom_obj_", "data/constants/opaque_obj_")
_LEGACY_GRAPH = "serialized_exported_program.json"

_IDENTIFIER = re.compile(r"[\w.]*")
_SYMBOL = re.compile(r"Symbol\('\w+'(, [a-z]+=(True|False))*\)")
_EXPRESSION = re.compile(r"[\w\s+\-*/%(),.<>=!&|~^]*")
_EXPRESSION_WORD = re.compile(r"[A-Za-z_]\w*")
_EXPRESSION_NAME = re.compile(r"[a-z]+\d+|[A-Z][A-Za-z]*|(zoo|oo|int_oo|floor|ceiling)")
_TREESPEC = re.compile(r"[\w\s.,:{}\[\]\"\\\-]*")
_TARGET = re.compile(r"torch\.ops\.\w+\.\w+(\.\w+)?|torch\._?sym_\w+|_operator\.\w+|math\.\w+")
_DUNDER_OPERATORS = re.compile(r"\.__i?(and|or|xor|lshift|rshift)__(?=\.|$)")
_CALLERS = {"_operator.call", "_operator.attrgetter", "_operator.methodcaller", "_operator.itemgetter"}


def is_export_archive(blob: Blob) -> bool:
    """Whether the bytes are a zip file with the members of a torch.export archive."""
    return any(name == _LEGACY_GRAPH or name.endswith("/archive_format") for name in _members(blob))


def is_saved_object(blob: Blob) -> bool:
    """Whether `torch.save` wrote the bytes, for weights or a whole module: a pickle, without code."""
    inner = {name.partition("/")[2] for name in _members(blob)}
    return "data.pkl" in inner and "constants.pkl" not in inner


def _members(blob: Blob) -> list[str]:
    try:
        with opened(blob) as file, zipfile.ZipFile(file) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError):
        return []


def check_export_archive(blob: Blob) -> None:
    """Refuse an archive that contains anything but graphs and tensors.

    Raises: BackendError that names the member and what is wrong with it; zipfile.BadZipFile if it cannot be read.
    """
    with opened(blob) as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = Counter(member.filename for member in members)
        for member in members:
            if names[member.filename] > 1:
                raise _refused(member.filename, "a second member of that name")
            if member.compress_type != zipfile.ZIP_STORED:  # PyTorch compresses nothing, but a zip bomb would
                raise _refused(member.filename, "compressed data")
            _check_member(member.filename, archive)


def _check_member(name: str, archive: zipfile.ZipFile) -> None:
    inner = name if name == _LEGACY_GRAPH else name.partition("/")[2]
    if inner.startswith(_COMPILED):
        raise _refused(name, "compiled code")
    if inner.startswith(_CUSTOM_OBJECTS):
        raise _refused(name, "a pickled object")
    if name.endswith(".pt"):
        _check_pickle(name, archive)
    elif name.endswith("_config.json"):
        folder = name.rpartition("/")[0]
        for payload in json.loads(archive.read(name)).get("config", {}).values():
            if payload.get("use_pickle"):
                _check_pickle(f"{folder}/{payload['path_name']}", archive)
    elif name.endswith(".json"):
        _check_graph(name, json.loads(archive.read(name)))


def _check_pickle(name: str, archive: zipfile.ZipFile) -> None:
    """PyTorch's restricted unpickler accepts only tensors and numbers."""
    data = archive.read(name)
    if not data:
        return
    try:
        torch.load(io.BytesIO(data), map_location="meta", weights_only=True)
    except Exception as error:
        raise _refused(name, "a pickle of more than tensors") from error


def _check_graph(name: str, document: Any) -> None:
    for key, text in _strings(document):
        rule = _RULES.get(key)
        if rule is not None and not rule(text):
            raise _refused(name, f"{key} {text[:80]!r}")


def _strings(document: Any) -> Iterator[tuple[str, str]]:
    """(key, text) of every string in a JSON document; an element of a list has the list's key."""
    pending: list[tuple[str, Any]] = [("", document)]
    while pending:
        key, value = pending.pop()
        if isinstance(value, str):
            yield key, value
        elif isinstance(value, dict):
            pending.extend(value.items())
        elif isinstance(value, list):
            pending.extend((key, element) for element in value)


def _is_operator(target: str) -> bool:
    """Whether it names an operator of PyTorch, or of Python on numbers, and never `torch.os.system` or the like."""
    if target.startswith(("torch", "_operator", "math", "#")):
        plain = _DUNDER_OPERATORS.sub("", target)
        return _TARGET.fullmatch(target) is not None and "__" not in plain and target not in _CALLERS
    return _IDENTIFIER.fullmatch(target) is not None


def _is_expression(text: str) -> bool:
    """Whether it is arithmetic on dimension symbols (s0, u1, Symbol('s0')) with sympy's own, capitalised functions."""
    text = _SYMBOL.sub("s0", text)
    words = _EXPRESSION_WORD.findall(text)
    return _EXPRESSION.fullmatch(text) is not None and all(_EXPRESSION_NAME.fullmatch(word) for word in words)


_RULES: dict[str, Callable[[str], bool]] = {
    "target": _is_operator,
    "expr_str": _is_expression,
    "name": lambda text: _IDENTIFIER.fullmatch(text) is not None,
    "forward_arg_names": str.isidentifier,
    "in_spec": lambda text: _TREESPEC.fullmatch(text) is not None,
    "out_spec": lambda text: _TREESPEC.fullmatch(text) is not None,
}


def _refused(name: str, what: str) -> BackendError:
    return BackendError(f"ERR torch.export archive refused: {name} holds {what}")
