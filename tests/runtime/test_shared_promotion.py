"""Models that run in the front doors themselves (`--isolation auto`), where there are several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import redis

from tests.runtime.faulty import engines, info
from tests.runtime.serving import eventually
from tests.runtime.test_shared_engines import Clients, Isolated, apart, clients

__all__ = ["clients"]

MB = 1024 * 1024


def looked_up(size: int) -> bytes:
    """An ONNX model of so many bytes whose runs are short: y = x + one of its weights."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    table, index = np.full(size // 4, 3.0, np.float32), np.array([7])
    nodes = [helper.make_node("Gather", ["w", "i"], ["v"]), helper.make_node("Add", ["x", "v"], ["y"])]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    known = [numpy_helper.from_array(table, "w"), numpy_helper.from_array(index, "i")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], known), opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def run_often(several: Sequence[redis.Redis], key: str, times: int = 150) -> None:
    for client in several:
        client.execute_command("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 1)
        for _ in range(times):
            client.execute_command("AI.MODELEXECUTE", key, "INPUTS", 1, "x", "OUTPUTS", 1, "y")
        assert float(client.execute_command("AI.TENSORGET", "y", "VALUES")[0]) == 4.0


@pytest.mark.slow
def test_copies_in_front_doors_are_bounded_together_and_leave_the_process(isolated: Isolated, clients: Clients) -> None:
    serving = isolated("--processes", 2, mode="auto")
    both = apart(serving, clients)
    small, large = looked_up(20 * MB), looked_up(40 * MB)  # two copies of the latter would be more than 64 MB
    for key, blob in (("small", small), ("large", large)):
        both[0].execute_command("AI.MODELSTORE", key, "ONNX", "CPU", "BLOB", blob)

    def moved() -> bool:
        run_often(both, "small")
        return info(both[0], "small")[b"process"] == 0

    assert eventually(moved, 60)
    assert info(both[1], "small")[b"loaded_bytes"] == 2 * len(small)
    for _ in range(3):
        run_often(both, "large")
    (process,) = engines(serving)
    assert info(both[0], "large")[b"process"] == process.pid, "and the process of the small model has ended"
    assert info(both[1], "large")[b"loaded_bytes"] == len(large)
