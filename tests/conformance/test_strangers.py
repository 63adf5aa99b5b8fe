"""Whatever one client writes under its keys, every client gets every reply in its place, soon, and no stream ends.

One client writes random bytes, random tensor headers and random hashes, and asks for them in every way there is; others
with the same identity, so on the same streams, write and read tensors and check each one. How long nobody is served is
measured as CPU time of the event loop's thread, which a busy machine does not change.
"""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redisai_py.errors import WrongType
from redisai_py.store import codec
from tests.conformance.contents import scaling_model
from tests.support import FrontDoor, RedisServer
from tests.wire import Wire

_STALL_CPU_S = 0.05
_WAIT_S = 15.0

numbers = st.sampled_from([0, 1, 2, 4, -1, 2**31, 2**62, 2**63, 2**64, 2**66, 10**300, 10**9])
scalars = st.none() | st.booleans() | st.floats() | st.text(max_size=3) | numbers
values: st.SearchStrategy[Any] = st.recursive(
    scalars, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=3), v, max_size=3), max_leaves=6
)
dims = st.lists(scalars, max_size=4) | st.lists(numbers, max_size=70) | values
entries = st.fixed_dictionaries(
    {"dtype": st.sampled_from(["F32", "U8", "I64", "BOOL", "F99"]) | values, "shape": dims},
    optional={"data_offsets": st.just([0, 4]) | st.just([0, 0]) | values},
)
headers = st.dictionaries(st.text(max_size=3) | st.just("__metadata__"), entries | values, max_size=3)
metadata = st.fixed_dictionaries({"dtype": st.just("STRING"), "shape": dims.map(json.dumps) | values})


_STRINGS = {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}


def _framed(header: bytes, data: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def _string(header: Any, data: bytes) -> bytes:
    return _framed(json.dumps(header).encode(), data)


_LONGEST = 65_000  # headers may have 64 KiB
_SHAPED = '{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,4]}}'
extremes = st.sampled_from(
    [
        '{"a":' + "[" * _LONGEST,
        '{"a":' * 10_000 + "1" + "}" * 10_000,
        '{"a":' + "1" * _LONGEST + "}",
        _SHAPED % ",".join("1" * 30_000),
        _SHAPED % ("9" * 60_000),
        _SHAPED % ("1." + "1" * 60_000),
        _SHAPED % "1e999",
        _SHAPED % ",".join([str(2**63 - 1)] * 60 + ["0"]),
        "{" + ",".join([(_SHAPED % "1")[1:-1]] * 1000) + "}",
        json.dumps({str(i): 1 for i in range(6000)}),
        '{"' + "\\u0041" * 10_000 + '":1}',
        " " * _LONGEST + "{}",
        *(
            json.dumps({"__metadata__": {"dtype": "STRING", "shape": shape}, "t": _STRINGS})
            for shape in ("[" * 50_000, "9" * 50_000, "[" + "1," * 25_000 + "1]", "[" + "0," * 25_000 + "1]")
        ),
    ]
)

strings = st.one_of(
    st.builds(lambda text, data: _framed(text.encode(), data), extremes, st.binary(max_size=8)),
    st.binary(min_size=60_000, max_size=70_000),  # the size from which values are read one by one
    st.binary(max_size=200),
    st.builds(_framed, st.binary(max_size=60), st.binary(max_size=8)),
    st.builds(lambda text: struct.pack("<Q", len(text) + 1) + b"{" + text, st.binary(max_size=60)),
    st.builds(_string, headers, st.binary(max_size=8)),
    st.builds(lambda entry, data: _string({"t": entry}, data), entries, st.binary(max_size=8)),
    st.builds(lambda entry, meta: _string({"t": entry, "__metadata__": meta}, b"a\0"), entries, metadata),
)
words = st.one_of(
    st.binary(max_size=30),
    numbers.map(lambda n: b"%d" % n),
    values.map(lambda value: json.dumps(value).encode()),
    st.sampled_from(
        [b"", b"0", b"1", b"CPU", b"GPU:0", b"XPU", b"ONNX", b"TORCH", b"[]", b'["x"]', b"1048576", b"\xff"]
    ),
)
_GOOD_MODEL = {
    b"kind": b"MODEL", b"id": b"0", b"backend": b"ONNX", b"device": b"CPU", b"tag": b"", b"batchsize": b"0",
    b"minbatchsize": b"0", b"minbatchtimeout": b"0", b"inputs": b"[]", b"outputs": b"[]", b"chunks": b"1",
    b"blob:0": scaling_model(2),
}  # fmt: skip
_GOOD_SCRIPT = {
    b"kind": b"SCRIPT", b"id": b"0", b"device": b"CPU", b"tag": b"", b"entry_points": b'["f"]',
    b"source": b"def f(): pass",
}  # fmt: skip
hashes = st.one_of(
    st.builds(
        lambda changed: _GOOD_MODEL | changed, st.dictionaries(st.sampled_from(list(_GOOD_MODEL)), words, max_size=3)
    ),
    st.builds(
        lambda changed: _GOOD_SCRIPT | changed, st.dictionaries(st.sampled_from(list(_GOOD_SCRIPT)), words, max_size=3)
    ),
    st.dictionaries(st.sampled_from(list(_GOOD_MODEL)) | st.binary(max_size=5), words, min_size=1, max_size=5),
)

_READS: list[tuple[Any, ...]] = [
    ("AI.TENSORGET", "evil", "META"),
    ("AI.TENSORGET", "evil", "VALUES"),
    ("AI.TENSORGET", "evil", "BLOB"),
    ("AI.MODELGET", "evil", "META"),
    ("AI.MODELGET", "evil"),
    ("AI.SCRIPTGET", "evil"),
    ("AI.INFO", "evil"),
    ("AI.MODELEXECUTE", "evil", "INPUTS", 1, "good", "OUTPUTS", 1, "out", "TIMEOUT", 2000),
    ("AI.MODELEXECUTE", "model", "INPUTS", 1, "evil", "OUTPUTS", 1, "out"),
    ("AI.DAGEXECUTE", "LOAD", 1, "evil", "|>", "AI.TENSORGET", "evil", "VALUES"),
    ("AI.DAGEXECUTE", "LOAD", 1, "evil", "PERSIST", 1, "evil", "IFUNCHANGED", "|>", "AI.TENSORGET", "evil", "META"),
    ("AI._MODELSCAN",),
    ("AI._SCRIPTSCAN",),
    ("AI.TENSORSET", "evil", "FLOAT", 1),
]


@settings(max_examples=300)
@given(strings)
def test_no_string_takes_long_to_read(value: bytes) -> None:
    before = time.thread_time()
    with suppress(WrongType):
        codec.decode_tensor(value).numpy()
    assert time.thread_time() - before < _STALL_CPU_S


@settings(max_examples=300)
@given(hashes)
def test_no_hash_takes_long_to_read(fields: dict[bytes, bytes]) -> None:
    before = time.thread_time()
    with suppress(WrongType):
        codec.decode_model([fields.get(name) for name in codec.MODEL_META_FIELDS])
    with suppress(WrongType):
        codec.decode_script([fields.get(name) for name in codec.SCRIPT_FIELDS])
    assert time.thread_time() - before < _STALL_CPU_S


class Victims:
    """Clients that write and read tensors of their own and look at every reply."""

    def __init__(self, port: int, count: int) -> None:
        self._stop = threading.Event()
        self.failures: list[BaseException] = []
        self.rounds = 0
        self.slowest_s = 0.0
        self._threads = [threading.Thread(target=self._work, args=(port, i)) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def _work(self, port: int, number: int) -> None:
        try:
            with Wire(port) as wire:
                turn = 0
                while not self._stop.is_set():
                    turn += 1
                    self._round(wire, number, turn)
        except BaseException as error:
            self.failures.append(error)

    def _round(self, wire: Wire, number: int, turn: int) -> None:
        commands: list[tuple[Any, ...]] = []
        expected: list[Any] = []
        for i in range(3):
            value = struct.pack("<i", (number << 20) + (turn << 2) + i)
            commands += [
                ("AI.TENSORSET", f"v{number}:{i}", "INT32", 1, "BLOB", value),
                ("AI.TENSORGET", f"v{number}:{i}", "BLOB"),
            ]
            expected += [b"OK", value]
        commands += [("AI.MODELEXECUTE", "model", "INPUTS", 1, "good", "OUTPUTS", 1, f"o{number}"), ("ECHO", str(turn))]
        expected += [b"OK", str(turn).encode()]
        since = time.monotonic()
        replies = wire.pipeline(commands)
        self.slowest_s = max(self.slowest_s, time.monotonic() - since)
        assert replies == expected
        self.rounds += 1

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


@contextmanager
def victims(port: int) -> Iterator[Victims]:
    working = Victims(port, 3)
    try:
        yield working
    finally:
        working.stop()


@pytest.fixture
def prepared(front_door: FrontDoor, redis_server: RedisServer) -> tuple[int, int]:
    with Wire(redis_server.port) as bare, Wire(front_door.port) as wire:
        bare("FLUSHALL")
        assert wire("AI.MODELSTORE", "model", "ONNX", "CPU", "BLOB", scaling_model(2)) == b"OK"
        assert wire("AI.TENSORSET", "good", "FLOAT", 1, 2, "VALUES", 1, 2) == b"OK"
    return front_door.port, redis_server.port


@pytest.mark.timeout(240)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(strings | hashes, min_size=1, max_size=4))
def test_others_work_on(
    prepared: tuple[int, int], front_door: FrontDoor, contents: list[bytes | dict[bytes, bytes]]
) -> None:
    port, redis_port = prepared
    with (
        front_door.longest_turn() as longest,
        victims(port) as working,
        Wire(port) as stranger,
        Wire(redis_port) as bare,
    ):
        for content in contents:
            for number, command in enumerate(_READS):
                bare("DEL", "evil")
                if isinstance(content, bytes):
                    bare("SET", "evil", content)
                else:
                    bare("HSET", "evil", *[word for pair in content.items() for word in pair])
                reply, echo = stranger.pipeline([command, ("ECHO", str(number))])
                assert echo == str(number).encode(), "a reply is not in its place"
                assert "internal error" not in str(reply), (command, content)
    assert not working.failures
    assert working.rounds
    assert working.slowest_s < _WAIT_S
    assert longest[0] < _STALL_CPU_S
