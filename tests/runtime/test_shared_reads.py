"""A model that several front doors run is read from Redis by one of them, and held by none."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import redis

from tests.runtime.faulty import engines
from tests.runtime.serving import Serving, eventually, wait_until_gone
from tests.runtime.test_front_doors import front_doors
from tests.runtime.test_shared_engines import Clients, Isolated, apart, clients, door_of

__all__ = ["clients"]

MB = 1_000_000


def weights(size: int, value: float = 3.0) -> bytes:
    """An ONNX model of so many bytes: y = x + the sum of the weights, which is `value`."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    large = np.zeros(size // 4, np.float32)
    large[7] = value
    nodes = [helper.make_node("ReduceSum", ["w"], ["s"], keepdims=0), helper.make_node("Add", ["x", "s"], ["y"])]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(large, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def run(client: redis.Redis, key: str = "m") -> float:
    assert client.execute_command("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 1) == b"OK"
    assert client.execute_command("AI.MODELEXECUTE", key, "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
    return float(client.execute_command("AI.TENSORGET", "y", "VALUES")[0])


def peak_bytes(process: psutil.Process) -> int:
    """The most memory that a process ever held."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


class Sent:
    """Bytes that Redis has sent since this began."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._before = self._now()

    def _now(self) -> int:
        return int(self._client.info("stats")["total_net_output_bytes"])

    @property
    def nbytes(self) -> int:
        return self._now() - self._before


@pytest.mark.slow
def test_a_second_front_door_takes_the_model_without_its_bytes(isolated: Isolated, clients: Clients) -> None:
    serving = isolated("--processes", 2)
    first, second = apart(serving, clients)
    blob = weights(100 * MB)
    first.execute_command("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", blob)
    assert run(first) == 4.0
    door = door_of(serving, second)
    sent, before = Sent(second), peak_bytes(door)
    began = time.monotonic()
    assert run(second) == 4.0
    took_s = time.monotonic() - began
    assert sent.nbytes < 1 * MB, "nobody reads the blob again"
    assert peak_bytes(door) - before < 20 * MB
    assert took_s < 5, "a load of milliseconds, on whatever machine this is"
    assert len(engines(serving)) == 1
    # The file of the first front door outlives it, and a process that ends.
    door_of(serving, first).kill()
    eventually(lambda: len(front_doors(serving)) == 2)
    (process,) = engines(serving)
    process.kill()
    wait_until_gone(process)
    third, fourth = apart(serving, clients)
    for client in (second, third, fourth):
        assert run(client) == 4.0
    assert sent.nbytes < 1 * MB


@pytest.mark.slow
def test_front_doors_that_need_a_model_at_once_read_it_once(isolated: Isolated, clients: Clients) -> None:
    blob = weights(10 * MB)
    serving = isolated("--processes", 3)
    clients(serving).execute_command("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", blob)
    again(serving)
    several = [clients(serving) for _ in range(6)]
    sent, results = Sent(several[0]), []
    threads = [threading.Thread(target=lambda client: results.append(run(client)), args=(each,)) for each in several]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [4.0] * 6
    assert len(blob) <= sent.nbytes < 1.1 * len(blob)
    assert len(engines(serving)) == 1


def again(serving: Serving) -> None:
    """All front doors and engine processes are new; Redis keeps what it has."""
    before = [*front_doors(serving), *engines(serving)]
    for process in before:
        process.kill()
    for process in before:
        wait_until_gone(process)
    eventually(lambda: len(front_doors(serving)) == 3)


def test_an_id_under_another_key_proves_nothing(isolated: Isolated, clients: Clients) -> None:
    serving = isolated("--processes", 2)
    first, second = apart(serving, clients)
    for key, value in (("m", 3.0), ("n", 4.0)):
        first.execute_command("AI.MODELSTORE", key, "ONNX", "CPU", "BLOB", weights(2 * MB, value))
        assert run(first, key) == 1.0 + value
    first.copy("n", "forged")
    first.hset("forged", "id", first.hget("m", "id"))
    sent = Sent(second)
    assert run(second, "forged") == 5.0, "what is in the key, not what has this id elsewhere"
    assert sent.nbytes > 2 * MB
    first.copy("n", "m", replace=True)
    assert run(second, "m") == run(first, "m") == 5.0
