"""Calls and results in shared memory: what is written comes back, and nothing malformed passes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from redisai_py.engine.isolation.wire import FRAME, Op, Part, layout
from redisai_py.engine.torchscript.calls import (
    END,
    RESULTS_AT,
    TOO_LARGE,
    Call,
    Results,
    progress,
    read_calls,
    read_result,
    reset,
)
from redisai_py.errors import ProtocolError
from redisai_py.tensor import DType, Tensor

FLOATS = Tensor.from_numpy(np.arange(6, dtype=np.float32).reshape(2, 3))
EMPTY = Tensor.from_numpy(np.zeros((3, 0), np.int8))
SCALAR = Tensor.from_numpy(np.array(2.5))


def memory(size: int = 4096) -> memoryview:
    return memoryview(bytearray(size))


def test_calls_come_back() -> None:
    call = Call("id", "f", True, [b"k\xff"], [b"", b"a"], 2)
    rows = ([FLOATS, EMPTY, SCALAR], [], [FLOATS, EMPTY, SCALAR], [SCALAR])
    messages = [call.message(inputs) for inputs in rows]
    data = b"".join(bytes(part) for parts, _ in messages for part in parts) + END
    assert len(data) == sum(size for _, size in messages) + len(END)
    view = memoryview(data)
    found = list(read_calls(view))
    for (at, (text, *parts)), inputs in zip(found, rows, strict=True):
        described = json.loads(bytes(view[at + text.offset : at + text.offset + text.nbytes]))
        assert described == {
            "id": "id",
            "function": "f",
            "entry_point": True,
            "keys": ["k\xff"],
            "args": ["", "a"],
            "outputs": 2,
        }
        assert all((at + part.offset) % 64 == 0 for part in parts)
        tensors = [
            Tensor(tensor.dtype, part.shape, view[at + part.offset : at + part.offset + part.nbytes])
            for tensor, part in zip(inputs, parts, strict=True)
        ]
        assert tensors == inputs


def test_results_come_back() -> None:
    view = memory()
    reset(view)
    results = Results(view)
    results.begin_batch()
    results.begin(1)
    assert progress(view) == (1, 0)
    results.put(1, 7000, [(item.dtype, item.shape, item.data) for item in (FLOATS, EMPTY, SCALAR)])
    results.fail(2, {"text": "no"})
    results.put(3, 1, [(DType.UINT8, (9000,), bytes(9000))])
    results.put(4, 2, [])
    assert progress(view) == (1, 4)
    one = read_result(view, RESULTS_AT)
    assert (one.run_ns, one.outputs) == (7000, [FLOATS, EMPTY, SCALAR])
    two = read_result(view, one.end)
    assert (two.outputs, two.told) == (None, {"text": "no"})
    three = read_result(view, two.end)
    assert (three.op, three.outputs) == (TOO_LARGE, None)
    assert read_result(view, three.end).outputs == []


def test_a_full_memory_is_never_overrun() -> None:
    view = memory(1024)
    results = Results(view)
    results.begin_batch()
    for number in range(1, 40):
        results.put(number, 0, [(DType.UINT8, (100,), bytes(100))])
        results.fail(number, {"text": "x" * 100})
    finished = progress(view)[1]
    at = RESULTS_AT
    for _ in range(2 * finished - 1):
        at = read_result(view, at).end
    assert at <= len(view)


def _frame(op: int, header: bytes, total: int) -> bytes:
    return FRAME.pack(op, 0, 0, len(header), 0, total).ljust(64, b"\0") + header


HEADER = layout([Part(0, (2,), 8)]).header


@pytest.mark.parametrize(
    "data",
    [
        _frame(0, b"", 0),
        _frame(99, b"", 0),
        _frame(Op.DONE, HEADER, 1 << 40),
        _frame(Op.DONE, HEADER, 0),
        _frame(Op.DONE, HEADER[:-1], 128),
        _frame(Op.DONE, layout([Part(0, (3,), 8)]).header, 128),
        _frame(Op.DONE, layout([Part(200, (2,), 8)]).header, 128),
        _frame(Op.DONE, layout([Part(tuple(DType).index(DType.STRING), (1,), 8)]).header, 128),
        _frame(Op.FAILED, b"[]", 64),
        _frame(Op.FAILED, b"{", 64),
        _frame(Op.FAILED, b'{"text": 1}', 64),
        _frame(Op.FAILED, b"\xff", 64),
    ],
)
def test_malformed_results_are_refused(data: bytes) -> None:
    view = memory()
    view[RESULTS_AT : RESULTS_AT + len(data)] = data
    with pytest.raises(ProtocolError):
        read_result(view, RESULTS_AT)


@pytest.mark.parametrize("at", [4096, 4095, 1 << 50])
def test_results_beyond_the_memory_are_refused(at: int) -> None:
    with pytest.raises(ProtocolError):
        read_result(memory(), at)


def test_what_is_read_is_a_copy() -> None:
    view = memory()
    results = Results(view)
    results.put(1, 0, [(FLOATS.dtype, FLOATS.shape, FLOATS.data)])
    found: Any = read_result(view, RESULTS_AT).outputs
    view[:] = bytes(len(view))
    assert found == [FLOATS]
