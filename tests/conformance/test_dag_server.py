"""Random DAGs, sent to the real server, give the replies and leave the keys that a naive reader of the command expects.

The reader (`Sequential`) goes through the operations one after the other and knows nothing of graphs, versions or
caches. Every DAG is sent several times: the first time the server reads from Redis what it needs, later it has it near.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import hiredis
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from redisai_py.store import codec
from redisai_py.tensor import Tensor
from scripts import make_models
from tests.support import FrontDoor, RedisServer
from tests.wire import Wire

NAMES = ("a", "b", "c", "d", "e")
MISSING = "ERR tensor key is empty or in a different shard"
WRONGTYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
_SCRIPT = """
def swap(tensors: List[Tensor], keys: List[str], args: List[str]):
    return [tensors[1], tensors[0]]

def fail(tensors: List[Tensor], keys: List[str], args: List[str]):
    assert tensors[0].numel() < 0, "always"
    return [tensors[0], tensors[1]]
"""
_TOLERANCE_MS = 20_000

Array = NDArray[Any]
Failure = str
"""A reply that is an error with this text; `ANY` is any error."""
ANY = "any error"


@dataclass(frozen=True)
class Item:
    """A key of Redis: a tensor, or what else it holds (`hash`, `text`); lifetime_s None for ever."""

    holds: Array | str
    lifetime_s: int | None = None


Space = dict[str, Item]


@dataclass(frozen=True)
class Op:
    """kind: set, get, mul, add, swap, fail."""

    kind: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    array: Array | None = None

    def words(self, deprecated: bool) -> list[Any]:
        """As it is sent."""
        if self.kind == "set":
            assert self.array is not None
            dtype = {"float32": "FLOAT", "int64": "INT64"}[self.array.dtype.name]
            return ["AI.TENSORSET", *self.writes, dtype, *map(str, self.array.shape), "BLOB", self.array.tobytes()]
        if self.kind == "get":
            return ["AI.TENSORGET", *self.reads, "META", "BLOB"]
        if self.kind in ("mul", "add"):
            command, runnable = "AI.MODEL", [self.kind]
        else:
            command, runnable = "AI.SCRIPT", ["s", self.kind]
        if deprecated:
            return [f"{command}RUN", *runnable, "INPUTS", *self.reads, "OUTPUTS", *self.writes]
        counts = ("INPUTS", str(len(self.reads)), *self.reads, "OUTPUTS", str(len(self.writes)), *self.writes)
        return [f"{command}EXECUTE", *runnable, *counts]

    def compute(self, inputs: list[Array]) -> list[Array] | None:
        """The outputs, None if the operation fails."""
        if self.kind == "fail":
            return None
        if self.kind == "swap":
            return inputs[::-1]
        rows = {len(array) for array in inputs} - {1}
        if any(array.dtype != np.float32 for array in inputs) or len(rows) > 1:
            return None
        return [inputs[0] * np.float32(2)] if self.kind == "mul" else [inputs[0] + inputs[1]]


@dataclass(frozen=True)
class Graph:
    """A DAG command. expiry: the words EX or KEEPTTL, if any."""

    ops: tuple[Op, ...]
    load: tuple[str, ...]
    persist: tuple[str, ...]
    expiry: tuple[str, ...]
    ifunchanged: bool
    deprecated: bool

    def words(self) -> list[Any]:
        """As it is sent."""
        words: list[Any] = ["AI.DAGRUN" if self.deprecated else "AI.DAGEXECUTE"]
        if not self.persist and not any(op.kind in ("swap", "fail") for op in self.ops):
            words[0] += "_RO"
        words += [] if self.deprecated else ["ROUTING", "r"]
        for keyword, keys in (("LOAD", self.load), ("PERSIST", self.persist)):
            words += [keyword, str(len(keys)), *keys] if keys else []
        words += [*self.expiry, *["IFUNCHANGED"] * self.ifunchanged]
        for op in self.ops:
            words += ["|>", *op.words(self.deprecated)]
        return words


class Sequential:
    """One operation after the other."""

    def __init__(self, graph: Graph, space: Space) -> None:
        self.graph = graph
        self.space = dict(space)
        self.scope: dict[str, Array | None] = {}
        self.reply: Failure | list[Any] = []

    def run(self) -> None:
        for key in self.graph.load:
            item = self.space.get(key)
            if item is None or isinstance(item.holds, str):
                self.reply = MISSING if item is None else WRONGTYPE
                return
            self.scope[key] = item.holds
        replies: list[Any] = []
        failed = False
        for op in self.graph.ops:
            replies.append(self._step(op, failed))
            failed = failed or replies[-1] == ANY
        self.reply = replies
        if not failed and self.graph.persist:
            self._persist(replies)

    def _step(self, op: Op, failed: bool) -> Any:
        inputs = [self.scope[name] for name in op.reads]
        if op.kind == "set":
            self.scope[op.writes[0]] = op.array
            return b"OK"
        if op.kind == "get":
            return b"NA" if inputs[0] is None else _shown(inputs[0])
        outputs = None if failed else op.compute([array for array in inputs if array is not None])
        for name, output in zip(op.writes, outputs or [None] * len(op.writes), strict=True):
            self.scope[name] = output
        if failed:
            return b"NA"
        return ANY if outputs is None else b"OK"

    def _persist(self, replies: list[Any]) -> None:
        if any(isinstance(item.holds, str) for key in self.graph.persist if (item := self.space.get(key))):
            replies.append(WRONGTYPE)
            return
        for key in self.graph.persist:
            lifetime = None
            if self.graph.expiry[:1] == ("EX",):
                lifetime = int(self.graph.expiry[1])
            elif self.graph.expiry and key in self.space:
                lifetime = self.space[key].lifetime_s
            array = self.scope[key]
            assert array is not None
            self.space[key] = Item(array, lifetime)


def _shown(array: Array) -> list[Any]:
    dtype = {"float32": b"FLOAT", "int64": b"INT64"}[array.dtype.name]
    return [b"dtype", dtype, b"shape", list(array.shape), b"blob", array.tobytes()]


# -- strategies --------------------------------------------------------------------------------------------------------

names = st.sampled_from(NAMES)
arrays = st.builds(
    lambda rows, number, dtype: np.full((rows, 2), number, dtype),
    st.sampled_from((1, 2, 2, 3)),
    st.integers(-50, 50),
    st.sampled_from((np.float32, np.float32, np.float32, np.float32, np.int64)),
)
lifetimes = st.sampled_from((None, None, 1000, 2000))
items = st.builds(Item, st.one_of(arrays, arrays, arrays, arrays, st.sampled_from(("hash", "text"))), lifetimes)
spaces = st.dictionaries(names, items, min_size=2)
kinds = st.sampled_from(("set", "get", "get", "mul", "mul", "mul", "add", "add", "swap", "swap", "fail"))
_ARITY = {"mul": (1, 1), "add": (2, 1), "swap": (2, 2), "fail": (2, 2)}


@st.composite
def graphs(draw: st.DrawFn, space: Space) -> Graph:
    """Every name is loaded or written before it is read; most LOAD keys are there."""
    tensors = sorted(key for key, item in space.items() if not isinstance(item.holds, str))
    sources = st.sampled_from(tensors * 8 + list(NAMES)) if tensors else names
    load = draw(st.lists(sources, max_size=3, unique=True))
    known = list(load)
    ops: list[Op] = []
    for _ in range(draw(st.integers(1, 8))):
        kind = draw(kinds) if known else "set"
        if kind == "set":
            ops.append(Op("set", (), (draw(names),), draw(arrays)))
        elif kind == "get":
            ops.append(Op("get", (draw(st.sampled_from(known)),)))
        else:
            reads, writes = _ARITY[kind]
            inputs = draw(st.lists(st.sampled_from(known), min_size=reads, max_size=reads))
            outputs = draw(st.lists(names, min_size=writes, max_size=writes))
            ops.append(Op(kind, tuple(inputs), tuple(outputs)))
        known = sorted({*known, *ops[-1].writes})
    persist = tuple(draw(st.lists(st.sampled_from(known), max_size=4, unique=True)))
    expiry = draw(st.sampled_from(((), (), ("EX", "500"), ("KEEPTTL",)))) if persist else ()
    unchanged = bool(load and persist and draw(st.booleans()))
    return Graph(tuple(ops), tuple(load), persist, expiry, unchanged, draw(st.booleans()))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Space, Graph]:
    space = draw(spaces)
    return space, draw(graphs(space))


# -- the server --------------------------------------------------------------------------------------------------------


@dataclass
class World:
    """Clients of Redis itself and of ours; models and the script are stored."""

    bare: Wire
    ours: Wire

    def put(self, space: Space) -> None:
        """Let the keys be these and no others."""
        commands: list[tuple[Any, ...]] = [("DEL", *NAMES)]
        for key, item in space.items():
            if isinstance(item.holds, str):
                commands.append(("HSET", key, "f", "v") if item.holds == "hash" else ("SET", key, "no tensor"))
            else:
                commands.append(("SET", key, _stored(item.holds)))
            commands += [("EXPIRE", key, str(item.lifetime_s))] if item.lifetime_s else []
        self.bare.pipeline(commands)

    def holds(self, space: Space) -> None:
        """Assert that the keys are these and no others, with about these lifetimes."""
        kinds = self.bare.pipeline([("TYPE", key) for key in NAMES])
        left = self.bare.pipeline([("PTTL", key) for key in NAMES])
        values = self.bare("MGET", *NAMES)
        for key, kind, left_ms, value in zip(NAMES, kinds, left, values, strict=True):
            item = space.get(key)
            if item is None:
                assert kind == b"none", key
                continue
            if isinstance(item.holds, str):
                assert kind == (b"hash" if item.holds == "hash" else b"string"), key
            else:
                assert value == _stored(item.holds), key
            if item.lifetime_s is None:
                assert left_ms == -1, key
            else:
                assert 0 <= item.lifetime_s * 1000 - left_ms < _TOLERANCE_MS, key


def _stored(array: Array) -> bytes:
    tensor = Tensor.from_numpy(array)
    return codec.encode_header(tensor) + bytes(tensor.data)


@pytest.fixture(scope="module")
def world(redis_server: RedisServer, front_door: FrontDoor) -> Iterator[World]:
    with Wire(redis_server.port) as bare, Wire(front_door.port) as ours:
        bare("FLUSHALL")
        for name, build in (("mul", make_models.build_onnx_mul), ("add", make_models.build_onnx_add)):
            assert ours("AI.MODELSTORE", name, "ONNX", "CPU", "BLOB", build()) == b"OK"
        assert ours("AI.SCRIPTSTORE", "s", "CPU", "ENTRY_POINTS", "2", "swap", "fail", "SOURCE", _SCRIPT) == b"OK"
        yield World(bare, ours)


def _matches(reply: Any, expected: Any) -> bool:
    """Whether a reply is as expected; where an error is expected, its text if that is known."""
    if isinstance(reply, hiredis.ReplyError):
        return expected == ANY or expected == str(reply)
    if isinstance(reply, list) and isinstance(expected, list):
        return len(reply) == len(expected) and all(map(_matches, reply, expected))
    return bool(type(reply) is type(expected) and reply == expected)


FEW = settings(max_examples=60)


@FEW
@given(cases())
def test_a_dag_is_its_operations_one_after_the_other(world: World, case: tuple[Space, Graph]) -> None:
    space, graph = case
    world.put(space)
    for _ in range(3):  # from Redis, then from what is near, on what the time before has left
        expected = Sequential(graph, space)
        expected.run()
        reply = world.ours(*graph.words())
        assert _matches(reply, expected.reply), (reply, expected.reply)
        space = expected.space
        world.holds(space)


@FEW
@given(cases(), st.data())
def test_a_dag_behind_another_in_a_pipeline_sees_what_that_one_left(
    world: World, case: tuple[Space, Graph], data: st.DataObject
) -> None:
    space, first = case
    second = data.draw(graphs(space), label="second")
    world.put(space)
    for _ in range(2):
        replies = world.ours.pipeline([first.words(), second.words()])
        for graph, reply in zip((first, second), replies, strict=True):
            expected = Sequential(graph, space)
            expected.run()
            assert _matches(reply, expected.reply), (reply, expected.reply)
            space = expected.space
        world.holds(space)


@settings(FEW, max_examples=40)
@given(cases(), st.data())
def test_a_dag_that_fails_writes_nothing(world: World, case: tuple[Space, Graph], data: st.DataObject) -> None:
    space, graph = case
    known = [*graph.load, *(name for op in graph.ops for name in op.writes)]
    name = data.draw(st.sampled_from(known))
    at = data.draw(st.integers(0, len(graph.ops)))
    there = {*graph.load, *(each for op in graph.ops[:at] for each in op.writes)}
    reads = (name if name in there else min(there, default=""),) * 2
    if not reads[0]:
        at, reads = len(graph.ops), (known[0],) * 2
    ops = (*graph.ops[:at], Op("fail", reads, ("e", "d")), *graph.ops[at:])
    graph = replace(graph, ops=ops, persist=graph.persist or (known[0],))
    world.put(space)
    for _ in range(2):
        expected = Sequential(graph, space)
        expected.run()
        assert expected.space == space
        assert _matches(world.ours(*graph.words()), expected.reply)
        world.holds(space)


@settings(FEW, max_examples=25)
@given(cases(), st.sampled_from(NAMES))
def test_a_persist_key_that_holds_something_else_stops_every_write(
    world: World, case: tuple[Space, Graph], key: str
) -> None:
    space, graph = case
    setting = Op("set", (), (key,), np.full((1, 2), 7, np.float32))
    persist = tuple(dict.fromkeys((*graph.persist, key)))
    graph = replace(graph, ops=(*graph.ops, setting), persist=persist, load=tuple(k for k in graph.load if k != key))
    known = {*graph.load}
    for op in graph.ops:
        if not known.issuperset(op.reads):
            return  # it read the key that is no longer loaded
        known.update(op.writes)
    graph = replace(graph, ifunchanged=graph.ifunchanged and bool(graph.load))
    space = {**space, key: Item("hash")}
    world.put(space)
    for _ in range(2):
        expected = Sequential(graph, space)
        expected.run()
        assert _matches(world.ours(*graph.words()), expected.reply)
        world.holds(space)
