"""Runs under load, of models that are replaced and evicted, on inputs that are overwritten.

Invariants: a result is that of one version of the model, no older than the last one acknowledged before the command, on
one value of the input, likewise; a bad request fails alone; and of models that nobody replaces every run counts once.
The models multiply by their version, and the second column of every input is 1: so a result tells both.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import redis

from redisai_py.config import Config
from scripts import make_models
from tests.fault.hammering import Duration, do_together
from tests.support import FrontDoor, RedisServer
from tests.wire import Wire

_SECONDS = 3
_ENOUGH = 100  # results
_OK = "b'OK'"
_LATEST = 2**10  # the products of a version and an input are exact
_BATCHING = ("", "BATCHSIZE 8", "BATCHSIZE 16 MINBATCHSIZE 3 MINBATCHTIMEOUT 2")
_COUNTED = ("c0", "c1", "c2")
_FAILED = ("Got invalid dimensions", "Unexpected input data type")  # ONNX Runtime's words


@pytest.fixture(scope="module")
def door(redis_server: RedisServer) -> Iterator[FrontDoor]:
    """In which four models have room."""
    budget = 4 * len(make_models.build_onnx_mul())
    server = FrontDoor(
        Config(
            redis=redis_server.url, port=0, drain_timeout_s=1, threads_per_queue=3, auto_batch=16, queue_limit=6,
            loaded_models_limit_bytes=budget,
        )
    )  # fmt: skip
    yield server
    server.stop()


def _times(factor: int) -> bytes:
    """A model that multiplies by this."""
    two, wanted = np.float32(2).tobytes(), np.float32(factor).tobytes()
    return make_models.build_onnx_mul().replace(two, wanted)


def _blob(number: int, rows: int = 1) -> bytes:
    return np.array([[number, 1]] * rows, np.float32).tobytes()


class _Written:
    """What one thread writes under one key: numbers that grow."""

    def __init__(self) -> None:
        self.begun = self.acknowledged = 1


class _Hammer:
    """Threads that write and run until the time is over, and what they saw."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._time = Duration(_SECONDS, lambda: self.replies[_OK] > _ENOUGH)
        self._models = {name: _Written() for name in ("m0", "m1")}
        self._inputs = {name: _Written() for name in ("x0", "x1")}
        self.wrong: Counter[str] = Counter()
        self.replies: Counter[str] = Counter()
        self.counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def run(self) -> None:
        with Wire(self._port) as client:
            client("RPUSH", "list", "no tensor")
            for name, batching in zip((*self._models, *_COUNTED), (*_BATCHING, *_BATCHING), strict=False):
                self._store(client, name, batching, 1)
            for name in self._inputs:
                client("AI.TENSORSET", name, "FLOAT", 1, 2, "BLOB", _blob(1))
        do_together([self._replace, self._overwrite, *[self._ask] * 6], [])

    def _store(self, client: Wire, name: str, batching: str, factor: int) -> None:
        words = ("AI.MODELSTORE", name, "ONNX", "CPU", *batching.split(), "BLOB", _times(factor))
        assert client(*words) == b"OK"

    def _replace(self, rng: random.Random) -> None:
        with Wire(self._port) as client:
            while not self._time.is_over:
                name = rng.choice(list(self._models))
                model = self._models[name]
                if model.begun == _LATEST:
                    return
                model.begun += 1
                self._store(client, name, rng.choice(_BATCHING), model.begun)
                model.acknowledged = model.begun
                time.sleep(rng.random() * 0.01)  # each model is run for a while

    def _overwrite(self, rng: random.Random) -> None:
        with Wire(self._port) as client:
            while not self._time.is_over:
                name = rng.choice(list(self._inputs))
                value = self._inputs[name]
                value.begun += 1
                assert client("AI.TENSORSET", name, "FLOAT", 1, 2, "BLOB", _blob(value.begun)) == b"OK"
                value.acknowledged = value.begun
                time.sleep(rng.random() * 0.003)  # each input is near for a while

    def _ask(self, rng: random.Random) -> None:
        own = str(rng.random())
        counts: Counter[tuple[str, str]] = Counter()
        client = Wire(self._port)
        client("AI.TENSORSET", own + "wide", "FLOAT", 1, 3, "BLOB", bytes(12))
        client("AI.TENSORSET", own + "int", "INT32", 1, 2, "BLOB", bytes(8))
        while not self._time.is_over:
            rng.choice((self._one_result, self._one_result, self._two_counted, self._bad))(rng, client, own, counts)
            if rng.random() < 0.05:  # while a run is under way, that only models without a count have
                client.send("AI.MODELEXECUTE", rng.choice(("m0", "m1")), "INPUTS", 1, "x0", "OUTPUTS", 1, own + "left")
                client.close()
                client = Wire(self._port)
        client.close()
        with self._lock:
            self.counts += counts

    def _one_result(self, rng: random.Random, client: Wire, own: str, counts: Counter[tuple[str, str]]) -> None:
        """Of a model that others replace, on an input that others overwrite, or on one of our own."""
        name, rows = rng.choice(list(self._models)), rng.choice((1, 1, 2, 7, 20))
        source = rng.choice((own, *self._inputs))
        model, written = self._models[name], self._inputs.get(source)
        number = rng.randrange(1, _LATEST)
        if written is None:
            client("AI.TENSORSET", own, "FLOAT", rows, 2, "BLOB", _blob(number, rows))
        oldest, lowest = model.acknowledged, number if written is None else written.acknowledged
        run = ("AI.MODELEXECUTE", name, "INPUTS", 1, source, "OUTPUTS", 1, own + "y")
        if rng.random() < 0.3:
            dag = ("AI.DAGEXECUTE", "LOAD", 1, source, "PERSIST", 1, own + "y", "|>", *run)
            replies, result = client.pipeline([dag, ("AI.TENSORGET", own + "y", "BLOB")])
            (reply,) = replies
        else:
            timeout = rng.choice(((), ("TIMEOUT", 1)))
            reply, result = client.pipeline([(*run, *timeout), ("AI.TENSORGET", own + "y", "BLOB")])
        self.replies[str(reply)[:20]] += 1
        if reply != b"OK":
            if reply != b"TIMEDOUT" and "run queue is full" not in str(reply):
                self.wrong[f"{name}: {reply}"] += 1
            return
        latest, highest = model.begun, number if written is None else written.begun
        product, factor = np.frombuffer(result, np.float32).reshape(-1, 2).T
        if written is None and len(factor) != rows:
            self.wrong[f"{len(factor)} rows instead of {rows}"] += 1
        if not (np.all(factor == factor[0]) and oldest <= factor[0] <= latest):
            self.wrong[f"factor {factor} not from {oldest} to {latest}"] += 1
        if not np.all((lowest <= product / factor) & (product / factor <= highest)):
            self.wrong[f"input {product / factor} not from {lowest} to {highest}"] += 1

    def _two_counted(self, rng: random.Random, client: Wire, own: str, counts: Counter[tuple[str, str]]) -> None:
        """Two at once, one of which may fail, or have an output that may not be written; or a DAG of two."""
        first, second = rng.choice(_COUNTED), rng.choice(_COUNTED)
        sources = (*self._inputs, *self._inputs, own + "wide", own + "int")
        outputs = (own + "z", own + "z", "list")
        runs = [
            ("AI.MODELEXECUTE", name, "INPUTS", 1, rng.choice(sources), "OUTPUTS", 1, rng.choice(outputs))
            for name in (first, second)
        ]
        if rng.random() < 0.3:
            words = ("LOAD", 2, runs[0][4], runs[1][4], "PERSIST", 1, runs[1][7], "|>", *runs[0], "|>", *runs[1])
            replies = client("AI.DAGEXECUTE", *words)
        else:
            replies = client.pipeline([(*run, *rng.choice(((), ("TIMEOUT", 1)))) for run in runs])
        for name, reply in zip((first, second), replies, strict=False):  # a DAG's may have WRONGTYPE behind them
            self._count(name, reply, counts)

    def _count(self, name: str, reply: Any, counts: Counter[tuple[str, str]]) -> None:
        self.replies[str(reply)[:20]] += 1
        text = str(reply)
        if reply == b"OK" or text.startswith("WRONGTYPE"):
            counts[name, "calls"] += 1
        elif text.startswith(_FAILED):
            counts.update([(name, "calls"), (name, "errors")])
        elif reply not in (b"NA", b"TIMEDOUT") and "run queue is full" not in text:
            self.wrong[f"{name}: {text}"] += 1

    def _bad(self, rng: random.Random, client: Wire, own: str, counts: Counter[tuple[str, str]]) -> None:
        source = own + rng.choice(("wide", "int"))
        reply = client("AI.MODELEXECUTE", rng.choice(list(self._models)), "INPUTS", 1, source, "OUTPUTS", 1, own + "y")
        if not str(reply).startswith(_FAILED) and "run queue is full" not in str(reply):
            self.wrong[f"bad: {reply}"] += 1


def test_a_result_is_that_of_one_model_on_one_input_and_counts_once(door: FrontDoor, bare: redis.Redis) -> None:
    hammer = _Hammer(door.port)
    hammer.run()
    assert not hammer.wrong
    assert hammer.replies[_OK] > _ENOUGH
    with Wire(door.port) as client:
        for name in _COUNTED:
            info = client("AI.INFO", name, "FULL")
            fields = dict(zip(info[::2], info[1::2], strict=True))
            assert fields[b"calls"] == hammer.counts[name, "calls"]
            assert fields[b"errors"] == hammer.counts[name, "errors"]
            assert fields[b"unfinished"] == 0
