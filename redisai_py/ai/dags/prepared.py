"""The common part of a program's DAGs, parsed and planned once.

A program sends the same DAG repeatedly, with other data, and for another conversation with other keys. A `PreparedDag`
is a DAG without data and keys, as a prepared statement is a query without values. A `BoundDag` is one command: its
prepared DAG, its keys and its blobs. Names inside a DAG are local, so a prepared DAG keeps the names of the command it
was made from; only the keys read from and written to Redis belong to the command.

Whether a command has a prepared DAG is decided from its words alone. If all of them have the same lengths, a `_Layout`
says which words are names and which are blobs. Then the other words must be equal, and names must be equal or differ in
the same places.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

from redisai_py.commands import COMMANDS
from redisai_py.commands.dags import SEPARATOR, Dag
from redisai_py.commands.model_runs import CacheUse, ModelExecute
from redisai_py.commands.script_runs import ScriptExecute
from redisai_py.commands.spec import CommandSpec
from redisai_py.commands.tensors import Form, TensorGet, TensorSet
from redisai_py.engine.dag import Graph, Operation, OperationKind, Version
from redisai_py.resp.requests import LARGE_ARGUMENT
from redisai_py.resp.templates import BlobTemplate
from redisai_py.store.tensors import expiry_options
from redisai_py.tensor import DType, Tensor

__all__ = ["BoundDag", "PreparedDag", "bind"]

_MOST_PREPARED = 2048
_MOST_LAYOUTS = 8
"""Maximum number of prepared DAGs for commands whose words have the same lengths."""
_LONGEST_PREPARED = 4096
_LONGEST_TEMPLATE = 1024
"""Without the blob; every connection keeps one."""
_LOADED = -1
_KEYWORDS = frozenset(
    b"|> LOAD PERSIST ROUTING TIMEOUT EX KEEPTTL IFUNCHANGED INPUTS OUTPUTS KEYS ARGS META BLOB VALUES $".split()
)


class PreparedDag:
    """A DAG without its keys and the bytes of its blobs."""

    __slots__ = (
        "blobs", "gets", "graph", "load_versions", "models", "one_run", "options", "outputs",
        "persist_versions", "reply", "request", "scripts", "tensors",
    )  # fmt: skip

    def __init__(self, request: Dag, blobs: dict[int, int]) -> None:
        self.request = request
        self.graph = Graph([_describe(op) for op in request.ops], request.load)
        self.models = [(i, op) for i, op in enumerate(request.ops) if isinstance(op, ModelExecute)]
        self.scripts = [(i, op) for i, op in enumerate(request.ops) if isinstance(op, ScriptExecute)]
        self.tensors = {Version(op.key, i): op.tensor for i, op in enumerate(request.ops) if isinstance(op, TensorSet)}
        """Outputs of TENSORSET operations; those with a blob are filled in per command."""
        self.blobs = [
            (Version(op.key, i), op.tensor, at)
            for i, at in blobs.items()
            if isinstance(op := request.ops[i], TensorSet)
        ]
        """(version, tensor of the same dtype and shape, position of the blob among the command's words)."""
        self.gets = [(i, op, self.graph.inputs[i][0]) for i, op in enumerate(request.ops) if isinstance(op, TensorGet)]
        """(position, operation, version that it reads)"""
        self.reply = _reply_around(self.gets, len(request.ops))
        """The reply of a successful DAG without the tensors: for each its version and the bytes before it, then None
        and the bytes after the last one. None if filling in blobs is not enough."""
        self.load_versions = [Version(name, _LOADED) for name in request.load]
        self.persist_versions = [self.graph.last[name] for name in request.persist]
        self.one_run = len(self.models) == 1 and not self.scripts and self.models[0][1].cache is not CacheUse.ONLY
        """Whether it computes only one run of a model."""
        self.outputs = [Version(name, i) for i, op in self.models for name in op.writes]
        """Outputs of models."""
        self.options = expiry_options(request.ex_seconds, request.keepttl)


def _reply_around(gets: list[tuple[int, TensorGet, Version]], count: int) -> list[tuple[Version | None, bytes]] | None:
    if any(op.meta or op.form is not Form.BLOB for _, op, _ in gets):
        return None
    found: list[tuple[Version | None, bytes]] = []
    before, at = b"*%d\r\n" % count, 0
    for i, _, version in gets:
        found.append((version, before + b"+OK\r\n" * (i - at)))
        before, at = b"\r\n", i + 1
    return [*found, (None, before + b"+OK\r\n" * (count - at))]


@dataclass(slots=True)
class BoundDag:
    """One DAG command.

    load, persist: its keys, in the order of the prepared DAG's.   argv: its words, or only the blobs among them.
    """

    prepared: PreparedDag
    load: tuple[bytes, ...]
    persist: tuple[bytes, ...]
    argv: Sequence[Any] | Mapping[int, Any] = ()

    def with_blob(self, data: bytes) -> BoundDag:
        """The same command with other data of the same length in its only blob."""
        ((_, _, at),) = self.prepared.blobs
        return BoundDag(self.prepared, self.load, self.persist, {at: data})

    def template(self, frame: bytes, action: Callable[[BoundDag], Any]) -> BlobTemplate | None:
        """The common part of commands that differ from this one only in their blob, if it has exactly one and they are
        not long. frame: the command's bytes.
        """
        blobs = self.prepared.blobs
        if len(blobs) != 1 or not frame or len(frame) >= LARGE_ARGUMENT:
            return None
        at, argv = blobs[0][2], self.argv
        size = len(argv[at])
        if len(frame) - size > _LONGEST_TEMPLATE or size == len(SEPARATOR):  # such a blob could look like a separator
            return None
        behind = sum([len(b"$%d\r\n\r\n" % len(argv[i])) + len(argv[i]) for i in range(at + 1, len(argv))])
        bare = BoundDag(self.prepared, self.load, self.persist)
        return BlobTemplate(frame, len(frame) - behind - size - 2, size, action(bare))

    def values(self) -> dict[Version, Any]:
        """The values that exist before the first operation."""
        prepared = self.prepared
        values: dict[Version, Any] = dict(prepared.tensors)
        for version, like, at in prepared.blobs:
            values[version] = Tensor(like.dtype, like.shape, self.argv[at])
        return values


class _Layout:
    """The positions of names among a command's words, and the prepared DAGs of such commands.

    Args: names_at: positions of the names.   blobs: positions of the blobs that a prepared DAG is filled with.
          lengths: of the command's words.
    """

    __slots__ = ("_literals", "_names", "_perhaps_separators", "blobs", "names_at", "prepared")

    def __init__(self, names_at: tuple[int, ...], blobs: frozenset[int], lengths: tuple[int, ...]) -> None:
        self.names_at = names_at
        self.blobs = blobs
        self.prepared: dict[Hashable, tuple[PreparedDag, list[int], list[int]]] = {}
        """By the result of `read`: the prepared DAG, and which of the names are the keys of LOAD and PERSIST."""
        self._literals = itemgetter(*[at for at in range(len(lengths)) if at not in blobs and at not in names_at])
        self._perhaps_separators = [at for at in blobs if lengths[at] == len(SEPARATOR)]
        self._names = itemgetter(0, 0, *names_at)  # with fewer than two arguments it would not return a tuple

    def read(self, argv: list[Any]) -> tuple[Hashable, list[bytes]]:
        """The key of a prepared DAG, and the names without duplicates."""
        numbers: dict[bytes, int] = {}
        places = tuple([numbers.setdefault(name, len(numbers)) for name in self._names(argv)[2:]])
        return (self._literals(argv), places), list(numbers)

    def bind(self, argv: list[Any]) -> BoundDag | None:
        """The command with these words, if there is a prepared DAG for it."""
        key, names = self.read(argv)
        known = self.prepared.get(key)
        if known is None or not _are_names(names):
            return None
        if self._perhaps_separators and SEPARATOR in [argv[at] for at in self._perhaps_separators]:
            return None  # such a blob looks like a separator
        prepared, load, persist = known
        if not names:
            return BoundDag(prepared, prepared.request.load, prepared.request.persist, argv)
        return BoundDag(prepared, tuple([names[i] for i in load]), tuple([names[i] for i in persist]), argv)

    def add(self, prepared: PreparedDag, argv: list[Any]) -> None:
        """Remember the prepared DAG of a parsed command."""
        key, names = self.read(argv)
        request = prepared.request
        load, persist = (request.load, request.persist) if names else ((), ())
        self.prepared[key] = (prepared, [names.index(name) for name in load], [names.index(name) for name in persist])


class _PreparedDags:
    """Layouts by the lengths of a command's words; cleared when there are too many prepared DAGs."""

    def __init__(self) -> None:
        self._layouts: dict[tuple[int, ...], list[_Layout]] = {}
        self._count = 0

    def find(self, argv: list[Any], lengths: tuple[int, ...]) -> BoundDag | None:
        """The command with these words, if there is a prepared DAG for it."""
        for layout in self._layouts.get(lengths, ()):
            bound = layout.bind(argv)
            if bound is not None:
                return bound
        return None

    def add(self, prepared: PreparedDag, argv: list[Any], lengths: tuple[int, ...], blobs: frozenset[int]) -> None:
        """Remember the prepared DAG of a parsed command."""
        if self._count >= _MOST_PREPARED:
            self.clear()
        names_at = _names_at(prepared.request, argv, blobs)
        layouts = self._layouts.setdefault(lengths, [])
        layout = next((each for each in layouts if (each.names_at, each.blobs) == (names_at, blobs)), None)
        if layout is None:
            if len(layouts) == _MOST_LAYOUTS:
                return
            layout = _Layout(names_at, blobs, lengths)
            layouts.append(layout)
        layout.add(prepared, argv)
        self._count += 1

    def clear(self) -> None:
        """Forget all."""
        self._layouts.clear()
        self._count = 0


def _names_at(request: Dag, argv: list[Any], blobs: frozenset[int]) -> tuple[int, ...]:
    """Positions of all names; none if some of these words also have another meaning, and then only identical words
    match.
    """
    uses = [*request.load, *request.persist, *(name for op in request.ops for name in (*op.reads, *op.writes))]
    if request.routing is not None:
        uses.append(request.routing)
    names = frozenset(uses)
    positions = tuple([at for at, word in enumerate(argv) if at not in blobs and word in names])
    return positions if len(positions) == len(uses) and _are_names(names) else ()


def _are_names(words: Iterable[bytes]) -> bool:
    """Whether none of these words is ambiguous."""
    return _KEYWORDS.isdisjoint([word.upper() for word in words])


_prepared_dags = _PreparedDags()


def bind(spec: CommandSpec, argv: list[Any]) -> BoundDag:
    """The DAG command with these words; a command without a prepared DAG is parsed. Raises: CommandError."""
    lengths = tuple(map(len, argv))
    known = _prepared_dags.find(argv, lengths)
    if known is not None:
        return known
    request: Dag = COMMANDS[spec.name].parse(argv)
    blobs = _numeric_blobs(request, argv)
    prepared = PreparedDag(_without(request, blobs), blobs)
    if sum(lengths) - sum(lengths[at] for at in blobs.values()) <= _LONGEST_PREPARED:
        _prepared_dags.add(prepared, argv, lengths, frozenset(blobs.values()))
    return BoundDag(prepared, request.load, request.persist, argv)


def _numeric_blobs(request: Dag, argv: list[Any]) -> dict[int, int]:
    """TENSORSET operation -> position of its blob, for blobs whose bytes need no check."""
    begins = [at for at, word in enumerate(argv) if word == SEPARATOR][-len(request.ops) :]
    ends = (*begins[1:], len(argv))
    return {
        i: end - 1  # an operation's blob is its last word
        for i, (op, end) in enumerate(zip(request.ops, ends, strict=True))
        if isinstance(op, TensorSet)
        and op.tensor.dtype not in (DType.BOOL, DType.STRING)
        and argv[end - 1] is op.tensor.data
    }


def _without(request: Dag, blobs: dict[int, int]) -> Dag:
    """The DAG without the bytes of these operations' blobs, which a prepared DAG must not keep."""
    ops = list(request.ops)
    for i in blobs:
        op = ops[i]
        assert isinstance(op, TensorSet)
        ops[i] = TensorSet(op.key, Tensor(op.tensor.dtype, op.tensor.shape, b""))
    return replace(request, ops=tuple(ops))


def _describe(op: Any) -> Operation:
    kind = OperationKind.TENSOR
    if isinstance(op, ModelExecute):
        kind = OperationKind.MODEL
    elif isinstance(op, ScriptExecute):
        kind = OperationKind.SCRIPT
    return Operation(kind, op.reads, op.writes)
