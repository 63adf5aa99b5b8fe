"""Numbers that only grow, one writer per key: whoever reads finds none that is older than what was acknowledged before
it asked, none that was refused, none that is mixed with another, and never an older one than it found before.

Two sidecars on one Redis, which now and then is out of memory. Tensors of all sizes, written in every way, and read as
they are, through models, and by Redis's own GET.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import hiredis
import numpy as np
import redis

from redisai_py.store import codec
from redisai_py.tensor import Tensor
from scripts import make_models
from tests.fault.hammering import Duration, do_together
from tests.support import FrontDoor
from tests.wire import Wire

_SECONDS = 4
_ENOUGH = 10  # of each kind
_ROWS = (1, 1, 1, 128, 9_000, 140_000)
_DTYPES = {"FLOAT": "<f4", "DOUBLE": "<f8", "INT32": "<i4", "INT64": "<i8"}
_MODEL = make_models.build_onnx_mul()
_NO_MEMORY = ("OOM ", "EXECABORT ")
Argv = tuple[Any, ...]


class _Key:
    """What its one writer has done. dtype: of all its tensors."""

    def __init__(self, name: str, dtype: str = "FLOAT") -> None:
        self.name = name
        self.dtype = dtype
        self.sent = 0
        self.acknowledged = 0
        self.refused: set[int] = set()

    def next(self) -> int:
        """The number of another write."""
        self.sent += 1
        return self.sent

    def command(self, number: int, rows: int) -> Argv:
        """AI.TENSORSET of a tensor that holds the number throughout."""
        data = np.full((rows, 2), number, _DTYPES[self.dtype]).tobytes()
        return ("AI.TENSORSET", self.name, self.dtype, rows, 2, "BLOB", data)

    def plain(self, number: int, rows: int) -> Argv:
        """The same as Redis's own SET."""
        tensor = Tensor.from_numpy(np.full((rows, 2), number, _DTYPES[self.dtype]))
        return ("SET", self.name, codec.encode_header(tensor) + bytes(tensor.data))

    def settle(self, number: int, reply: Any) -> None:
        """Note the outcome of a write."""
        text = str(reply)
        if reply == b"OK":
            self.acknowledged = max(self.acknowledged, number)
        else:
            assert text.startswith(_NO_MEMORY), text
            self.refused.add(number)


class _Reader:
    """Judges what it reads."""

    def __init__(self) -> None:
        self._found: Counter[str] = Counter()

    def judge(self, key: _Key, since: int, data: Any, factor: int = 1) -> None:
        """Assert that this may be read by whoever asked when `since` was acknowledged."""
        assert not isinstance(data, hiredis.ReplyError), str(data)
        numbers = set(np.unique(np.frombuffer(data, _DTYPES[key.dtype])))
        assert len(numbers) == 1, f"{key.name} is mixed of {numbers}"
        number = int(numbers.pop()) / factor
        assert since <= number <= key.sent
        assert number not in key.refused
        assert number >= self._found[key.name]
        self._found[key.name] = int(number)


class _Hammer:
    """Everybody, until the time is over or somebody has failed."""

    def __init__(self, ports: Sequence[int], bare: redis.Redis) -> None:
        self.counts: Counter[str] = Counter()
        self._ports = ports
        self._redis_port: int = bare.connection_pool.connection_kwargs["port"]
        self._bare = bare
        self._time = Duration(_SECONDS, self._has_done_enough)
        self._failures: list[BaseException] = []
        floats = [_Key(f"k{i}") for i in range(6)]
        self._keys = [*floats, *(_Key(f"k{dtype}", dtype) for dtype in _DTYPES)]
        self._floats = floats
        for key in self._keys:
            bare.execute_command(*key.plain(0, 1))

    def run(self) -> None:
        """Raises what the first to fail raised."""
        writers = [partial(self._write, keys=self._keys[i::3]) for i in range(3)]
        do_together([self._exhaust, *writers, *[self._read] * 3], self._failures)

    @property
    def _goes_on(self) -> bool:
        return not (self._time.is_over or self._failures)

    def _has_done_enough(self) -> bool:
        return min(list(self.counts.values()), default=0) > _ENOUGH

    def _exhaust(self, rng: random.Random) -> None:
        pause = threading.Event()
        while self._goes_on:
            self._bare.config_set("maxmemory", 1)
            pause.wait(rng.uniform(0, 0.003))
            self._bare.config_set("maxmemory", 0)
            pause.wait(rng.uniform(0, 0.03))

    def _write(self, rng: random.Random, keys: list[_Key]) -> None:
        clients = [Wire(port) for port in (*self._ports, self._redis_port)]
        while self._goes_on:
            client, key, rows = rng.choice(clients[:2]), rng.choice(keys), rng.choice(_ROWS)
            way = rng.choice(("one", "one", "row", "row", "plain", "multi", "dag"))
            self.counts[way] += 1
            if way == "row":
                writes = [(each, each.next()) for each in rng.choices(keys, k=rng.choice((2, 4, 16)))]
                replies = client.pipeline([each.command(number, 1) for each, number in writes])
                for (each, number), reply in zip(writes, replies, strict=True):
                    each.settle(number, reply)
                continue
            number = key.next()
            if way == "one":
                reply = client(*key.command(number, rows))
            elif way == "plain":
                reply = clients[2](*key.plain(number, rows))
            elif way == "dag":
                reply = client("AI.DAGEXECUTE", "PERSIST", "1", key.name, "|>", *key.command(number, rows))
            else:
                reply = client.pipeline([("MULTI",), key.command(number, rows), ("EXEC",)])[-1]
            key.settle(number, reply[0] if isinstance(reply, list) else reply)
        for each in clients:
            each.close()

    def _read(self, rng: random.Random) -> None:
        clients = [Wire(port) for port in self._ports]
        reader = _Reader()
        output = str(rng.random())
        while self._goes_on:
            client, key = rng.choice(clients), rng.choice(self._keys)
            number = rng.choice(self._floats)
            way = rng.choice(("get", "gets", "plain get", "run", "run", "read-only dag"))
            self.counts[way] += 1
            since = {each: each.acknowledged for each in self._keys}
            run = ("AI.MODELEXECUTE", "m", "INPUTS", "1", number.name, "OUTPUTS", "1", output)
            if way == "get":
                reader.judge(key, since[key], client("AI.TENSORGET", key.name, "BLOB"))
            elif way == "gets":
                several = rng.sample(self._keys, 4)
                replies = client.pipeline([("AI.TENSORGET", each.name, "BLOB") for each in several])
                for each, reply in zip(several, replies, strict=True):
                    reader.judge(each, since[each], reply)
            elif way == "plain get":
                reader.judge(key, since[key], codec.decode_tensor(client("GET", key.name)).data)
            elif way == "run":
                reply = client(*run)
                if reply == b"OK":
                    reader.judge(number, since[number], rng.choice(clients)("AI.TENSORGET", output, "BLOB"), 2)
                else:
                    assert str(reply).startswith(_NO_MEMORY)
            else:
                reply = client(
                    "AI.DAGEXECUTE_RO", "LOAD", "1", number.name, "|>", *run, "|>", "AI.TENSORGET", output, "BLOB"
                )
                reader.judge(number, since[number], reply[1], 2)
        for each in clients:
            each.close()


def test_hammer(doors: list[FrontDoor], bare: redis.Redis) -> None:
    with Wire(doors[0].port) as client:
        assert client("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", _MODEL) == b"OK"
    hammer = _Hammer([door.port for door in doors], bare)
    try:
        hammer.run()
    finally:
        bare.config_set("maxmemory", 0)
    assert min(hammer.counts.values()) > _ENOUGH
    assert bare.keys("*:staging:*") == []
