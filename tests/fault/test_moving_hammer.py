"""Models that are stored again and again while many run them, and move between a shared engine process and the server.

Invariant: every run is answered, with its result. Threads are switched far more often than they usually are.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from redisai_py.config import Config
from tests.fault.hammering import Duration, do_together
from tests.support import FrontDoor, RedisServer, one_front_door
from tests.wire import Wire

make_models = pytest.importorskip("scripts.make_models")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), one_front_door]

_SECONDS = 45
_ENOUGH = 60  # models that were stored
_MODELS = ("m0", "m1", "m2", "m3")
_CLIENTS = 10


@pytest.fixture
def door(redis_server: RedisServer) -> Iterator[FrontDoor]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    server = FrontDoor(
        Config(redis=redis_server.url, port=0, drain_timeout_s=1, engine_processes=1, threads_per_queue=3)
    )
    yield server
    server.stop()
    sys.setswitchinterval(before)


def test_runs_of_models_that_move_are_all_answered(door: FrontDoor) -> None:
    blob = make_models.BUILDERS["onnx_mlp.onnx"]()
    x = np.random.default_rng(7).standard_normal((1, 784), np.float32)
    stored = 0
    duration = Duration(_SECONDS, lambda: stored >= _ENOUGH)
    failures: list[BaseException] = []

    def store(rng: random.Random) -> None:
        nonlocal stored
        with Wire(door.port) as client:
            while not (failures or duration.is_over):
                batching = rng.choice([(), ("BATCHSIZE", 8)])
                assert client("AI.MODELSTORE", rng.choice(_MODELS), "ONNX", "CPU", *batching, "BLOB", blob) == b"OK"
                stored += 1

    def run(rng: random.Random) -> None:
        with Wire(door.port) as client:
            while not (failures or duration.is_over):
                words = ("AI.MODELEXECUTE", rng.choice(_MODELS), "INPUTS", 1, "x", "OUTPUTS", 1, "y")
                replies = client("AI.DAGEXECUTE_RO", "LOAD", 1, "x", "|>", *words, "|>", "AI.TENSORGET", "y", "BLOB")
                assert isinstance(replies, list), replies
                assert replies[0] == b"OK", replies
                np.testing.assert_allclose(np.frombuffer(replies[1], np.float32), expected, rtol=1e-4, atol=1e-5)

    with Wire(door.port) as client:
        for name in _MODELS:
            assert client("AI.MODELSTORE", name, "ONNX", "CPU", "BLOB", blob) == b"OK"
        assert client("AI.TENSORSET", "x", "FLOAT", 1, 784, "BLOB", x.tobytes()) == b"OK"
        assert client("AI.MODELEXECUTE", "m0", "INPUTS", 1, "x", "OUTPUTS", 1, "expected") == b"OK"
        expected = np.frombuffer(client("AI.TENSORGET", "expected", "BLOB"), np.float32)
    do_together([store, *[run] * _CLIENTS], failures)
    assert stored >= _ENOUGH
