"""What a program's DAGs have in common, parsed and planned once.

A program sends the same DAG again and again, with other data, and for another conversation with other keys. A
`Template` is a DAG without both; a `BoundDag` is one command: its template, its keys and its blobs. Inside a DAG names
are local, so that a template keeps those of the command that it was made of, and only the keys that go in and out of
Redis are the command's own.

Whether a template fits a command is told from the words alone: all have the same lengths, those that are no keys and no
blobs are equal, and keys that are the same or differ in the one are the same or differ in the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from redisai_py.commands import COMMANDS
from redisai_py.commands.dags import SEPARATOR, Dag
from redisai_py.commands.models import ModelExecute
from redisai_py.commands.scripts import ScriptExecute
from redisai_py.commands.spec import CommandSpec
from redisai_py.commands.tensors import TensorSet
from redisai_py.engine.dag import Graph, Kind, Operation, Version
from redisai_py.store.store import expiry_options
from redisai_py.tensor import DType, Tensor

__all__ = ["BoundDag", "Template", "bind"]

_MAX_TEMPLATES = 2048
_MOST_ALIKE = 8
"""Templates whose words have the same lengths."""
_LONGEST_TEMPLATE = 4096
_LOADED = -1
_KEYWORDS = frozenset(
    b"|> LOAD PERSIST ROUTING TIMEOUT EX KEEPTTL IFUNCHANGED INPUTS OUTPUTS KEYS ARGS META BLOB VALUES $".split()
)


class Template:
    """A DAG without its keys and the bytes of its blobs."""

    __slots__ = ("blobs", "graph", "load_versions", "models", "options", "request", "scripts", "tensors")

    def __init__(self, request: Dag, blobs: dict[int, int]) -> None:
        self.request = request
        self.graph = Graph([_describe(op) for op in request.ops], request.load)
        self.models = [(i, op) for i, op in enumerate(request.ops) if isinstance(op, ModelExecute)]
        self.scripts = [(i, op) for i, op in enumerate(request.ops) if isinstance(op, ScriptExecute)]
        self.tensors = {Version(op.key, i): op.tensor for i, op in enumerate(request.ops) if isinstance(op, TensorSet)}
        """What TENSORSET operations set; those with a blob are filled in per command."""
        self.blobs = [
            (Version(op.key, i), op.tensor, at)
            for i, at in blobs.items()
            if isinstance(op := request.ops[i], TensorSet)
        ]
        """(version, tensor of the same dtype and shape, position of the blob among the command's words)."""
        self.load_versions = [Version(name, _LOADED) for name in request.load]
        self.options = expiry_options(request.ex_seconds, request.keepttl)


class BoundDag:
    """One DAG command.

    load, persist: its keys, in the order of the template's.
    """

    __slots__ = ("_argv", "load", "persist", "template")

    def __init__(
        self, template: Template, load: tuple[bytes, ...], persist: tuple[bytes, ...], argv: Sequence[Any] = ()
    ) -> None:
        self.template = template
        self.load = load
        self.persist = persist
        self._argv = argv

    def values(self) -> dict[Version, Any]:
        """The values that are there before the first operation."""
        template = self.template
        values: dict[Version, Any] = dict(template.tensors)
        for version, like, at in template.blobs:
            values[version] = Tensor(like.dtype, like.shape, self._argv[at])
        return values


class _Pattern:
    """The words of the command that a template was made of: which are keys, and what another one must have too."""

    __slots__ = ("_keys", "_literals", "_literals_of", "_local", "template")

    def __init__(self, template: Template, argv: Sequence[Any]) -> None:
        self.template = template
        request = template.request
        routing = () if request.routing is None else (request.routing,)
        own = {*request.load, *request.persist, *routing}
        named = [name for op in request.ops for name in (*op.reads, *op.writes)]
        self._local = frozenset(named).difference(own)
        blobs = {at for _, _, at in template.blobs}
        words = [(at, word) for at, word in enumerate(argv) if at not in blobs]
        keys = [(at, word) for at, word in words if word in own]
        uses = sum(name in own for name in (*request.load, *request.persist, *routing, *named))
        if len(keys) != uses or not _are_keys(own):
            keys = []  # some of these words are something else as well: only the very same words will do
        self._keys = keys
        literals = [item for item in words if item not in keys]
        self._literals_of = itemgetter(*[at for at, _ in literals])
        self._literals = tuple([word for _, word in literals])

    def bind(self, argv: list[Any]) -> BoundDag | None:
        """The command of these words, each as long as the template's own; None if it is another DAG."""
        if self._literals_of(argv) != self._literals:
            return None
        request = self.template.request
        if not self._keys:
            return BoundDag(self.template, request.load, request.persist, argv)
        keys: dict[bytes, bytes] = {}
        for at, word in self._keys:
            key = argv[at]
            if keys.setdefault(word, key) != key:
                return None
        own = set(keys.values())
        if len(own) < len(keys) or not own.isdisjoint(self._local) or not _are_keys(own):
            return None
        load, persist = [keys[name] for name in request.load], [keys[name] for name in request.persist]
        return BoundDag(self.template, tuple(load), tuple(persist), argv)


def _are_keys(words: set[bytes]) -> bool:
    """Whether none of these could be taken for what it is not."""
    return _KEYWORDS.isdisjoint([word.upper() for word in words])


_patterns: dict[tuple[int, ...], list[_Pattern]] = {}


def bind(spec: CommandSpec, argv: list[Any]) -> BoundDag:
    """The DAG command of these words; one like none before is parsed, with all that parsing checks. Raises:
    CommandError.
    """
    lengths = tuple(map(len, argv))
    alike = _patterns.get(lengths)
    for pattern in alike or ():
        bound = pattern.bind(argv)
        if bound is not None:
            return bound
    request: Dag = COMMANDS[spec.name].parse(argv)
    blobs = _numeric_blobs(request, argv)
    template = Template(request, blobs)
    if sum(lengths) - sum(lengths[at] for at in blobs.values()) <= _LONGEST_TEMPLATE:
        if alike is None:
            if len(_patterns) >= _MAX_TEMPLATES:
                _patterns.clear()
            alike = _patterns[lengths] = []
        alike.insert(0, _Pattern(template, argv))
        del alike[_MOST_ALIKE:]
    return BoundDag(template, request.load, request.persist, argv)


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


def _describe(op: Any) -> Operation:
    kind = Kind.MODEL if isinstance(op, ModelExecute) else Kind.SCRIPT if isinstance(op, ScriptExecute) else Kind.TENSOR
    return Operation(kind, op.reads, op.writes)
