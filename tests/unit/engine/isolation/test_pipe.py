"""A pipe with both its ends: real memory, a real socket, the far end on a thread."""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redisai_py.backend import Array, InputSpec
from redisai_py.engine.isolation import batches, memory
from redisai_py.engine.isolation import pipe_layout as at
from redisai_py.engine.isolation.host_messages import HeldValues
from redisai_py.engine.isolation.host_pipe import HostPipe
from redisai_py.engine.isolation.hosted import Hosted, Programs
from redisai_py.engine.isolation.pipe import Ended, Pipe
from redisai_py.engine.isolation.wire import Op, Part
from redisai_py.engine.merging import BatchSizeMismatch, Value
from redisai_py.errors import ProtocolError
from redisai_py.tensor import DType, Tensor


class Doubles:
    """A session. A negative first element fails; 1000 gives a large output."""

    inputs = (InputSpec("x"),)
    outputs = ("y",)
    nbytes = 0

    def run(self, inputs: Sequence[Array], keep_on_device: bool = False) -> list[Array | None]:
        x = np.asarray(inputs[0])
        if x.flat[0] < 0:
            raise ValueError("no negative numbers")
        return [np.full((300, 1000), 7, np.float32) if x.flat[0] == 1000 else x * 2]

    def terminate(self) -> bool:
        return False

    def close(self) -> None: ...


class _Same(Doubles):
    """Gives back its input."""

    def run(self, inputs: Sequence[Array], keep_on_device: bool = False) -> list[Array | None]:
        return [np.array(inputs[0])]


class Ends:
    def __init__(self, session: Doubles | None = None) -> None:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fd = memory.create(at.PIPE_BYTES)
        self.pipe: Pipe[str] = Pipe(1, self, near, fd)
        self.far_socket = far.dup()
        self.host = HostPipe(far, os.dup(fd), Hosted(session or Doubles(), Programs()), HeldValues())
        os.close(fd)

    def put(self, name: str, *members: Tensor) -> None:
        rows = sum(tensor.shape[0] for tensor in members)
        layout = batches.layout_of(members[:1], rows)
        assert layout is not None
        batches.write(self.pipe.put([name], layout), layout, [(tensor,) for tensor in members])

    def put_each(self, names: Sequence[str], runs: Sequence[Sequence[Tensor]]) -> None:
        layout = batches.layout_of(runs[0], 0)
        assert layout is not None
        batches.write_each(self.pipe.put(names, layout), layout, runs)

    def next_parts(self) -> Sequence[Part]:
        ended = self.pipe.take_ended(self.pipe.ended_number)
        return ended.parts() if ended is not None else ()

    def wait(self, count: int) -> list[tuple[str, int, list[list[Value]]]]:
        """Names, ops and values of that many batches."""
        found: list[tuple[str, int, list[list[Value]]]] = []
        while len(found) < count:
            assert select.select([self.pipe.sock], [], [], 20)[0], "the process does not ring"
            assert self.pipe.hear()
            while (ended := self.pipe.take_ended(self.pipe.ended_number)) is not None:
                found.append((ended.flight.batch, ended.op, _values(ended)))
        return found


def _values(ended: Ended[str]) -> list[list[Value]]:
    return batches.values_of(ended.parts(), ended.message, (1,)) if ended.op == Op.DONE else []


@pytest.fixture
def ends() -> Iterator[Ends]:
    both = Ends()
    both.host.thread.start()
    yield both
    both.pipe.close()
    both.far_socket.shutdown(socket.SHUT_RDWR)
    both.far_socket.close()
    both.host.thread.join(20)
    assert not both.host.thread.is_alive()


def row(value: float, width: int = 4) -> Tensor:
    return Tensor.from_numpy(np.full((1, width), value, np.float32))


def test_batches_come_back_in_order_and_the_rings_never_fill(ends: Ends) -> None:
    sent = came = 0
    while came < 3000:
        while sent < 3000 and ends.pipe.has_room:
            ends.put(str(sent), row(sent % 100 + 1, 1 + sent % 2000))
            sent += 1
        ends.pipe.tell()
        for name, op, values in ends.wait(1):
            assert (int(name), op) == (came, Op.DONE)
            assert values == [[row((came % 100 + 1) * 2, 1 + came % 2000)]]
            came += 1
    assert not ends.pipe.flights
    assert ends.pipe.current_number == 0


def test_runs_of_one_kind_share_a_message_and_have_answers_of_their_own(ends: Ends) -> None:
    """Some 40 laps of the ring, in messages of 1 to 32 runs."""
    sent = came = 0
    width = 700
    while came < 6000:
        while ends.pipe.has_room and sent < 6000:
            count = min(1 + sent % 32, 6000 - sent)
            numbers = range(sent, sent + count)
            ends.put_each([str(number) for number in numbers], [(row(number % 900 + 1, width),) for number in numbers])
            sent += count
        ends.pipe.tell()
        for name, op, values in ends.wait(1):
            assert (int(name), op) == (came, Op.DONE)
            assert values == [[row((came % 900 + 1) * 2, width)]]
            came += 1
    assert not ends.pipe.flights


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 1, 5)], ids=str)
def test_runs_of_any_shape_share_a_message(ends: Ends, shape: tuple[int, ...]) -> None:
    tensors = [Tensor.from_numpy(np.full(shape, number, np.float64)) for number in (1, 2, 3)]
    if 0 in shape:
        ends.host.hosted.session = _Same()
    ends.put_each(["a", "b", "c"], [(tensor,) for tensor in tensors])
    ends.pipe.tell()
    found = [value for _, _, ((value,),) in ends.wait(3)]
    factor = 1 if 0 in shape else 2
    assert found == [Tensor.from_numpy(tensor.numpy() * factor) for tensor in tensors]


def test_a_failure_in_a_message_is_that_of_its_run_alone(ends: Ends) -> None:
    ends.put_each(["a", "b", "c", "d"], [(row(1.0),), (row(-1.0),), (row(1000.0),), (row(3.0),)])
    ends.pipe.tell()
    found = ends.wait(4)
    assert [(name, op) for name, op, _ in found] == [
        ("a", Op.DONE),
        ("b", Op.FAILED),
        ("c", Op.DONE),
        ("d", Op.DONE),
    ]
    assert found[3][2] == [[row(6.0)]]


def test_a_message_takes_what_fits_into_it() -> None:
    for inputs in ((row(1.0, 5),), (row(1.0, 20_000),), (row(1.0, 60_000),)):
        layout = batches.layout_of(inputs, 0)
        assert layout is not None
        most = at.most_in_message(len(layout.header), layout.total)
        assert most >= 1
        stride = at.stride_of(len(layout.header), layout.total)
        assert layout.total + (most - 1) * stride <= at.MESSAGE_BYTES < layout.total + most * stride


def test_a_failure_is_that_of_its_batch_alone(ends: Ends) -> None:
    for name, value in (("a", 1.0), ("b", -1.0), ("c", 2.0)):
        ends.put(name, row(value))
    ends.pipe.tell()
    assert [(name, op) for name, op, _ in ends.wait(3)] == [("a", Op.DONE), ("b", Op.FAILED), ("c", Op.DONE)]


def test_large_outputs_come_in_files_of_their_own(ends: Ends) -> None:
    for name, value in (("a", 1000.0), ("b", 1.0), ("c", 1000.0)):
        ends.put(name, row(value))
    ends.pipe.tell()
    (_, _, first), (_, _, second), (_, _, third) = ends.wait(3)
    assert second == [[row(2.0)]]
    for values in (first, third):
        assert isinstance(values[0][0], Tensor)
        assert np.array_equal(values[0][0].numpy(), np.full((300, 1000), 7, np.float32))


class _Stoppable(Doubles):
    """A run lasts until it is stopped."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self._stop = threading.Event()

    def run(self, inputs: Sequence[Array], keep_on_device: bool = False) -> list[Array | None]:
        self.begun.set()
        assert self._stop.wait(20)
        raise ValueError("stopped")

    def terminate(self) -> bool:
        self._stop.set()
        return True


def test_a_run_that_is_stopped_by_hanging_up_stays_unanswered() -> None:
    """The server that hung up, as a model moves, repeats what was under way; an answer would be taken for its end."""
    session = _Stoppable()
    ends = Ends(session)
    ends.host.thread.start()
    ends.put("first", row(1))
    ends.put("behind", row(2))
    ends.pipe.tell()
    assert session.begun.wait(20)
    ends.host.hang_up()
    ends.host.thread.join(20)
    assert not ends.host.thread.is_alive()
    assert ends.pipe.ended_number == 0
    assert ends.pipe.current_number == 1
    assert ends.pipe.take_ended(ends.pipe.ended_number) is None
    ends.pipe.close()
    ends.far_socket.close()


class _Closing(Doubles):
    """Several threads may be in it; runs fail once it is closed."""

    concurrent = True

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.closed = False

    def run(self, inputs: Sequence[Array], keep_on_device: bool = False) -> list[Array | None]:
        if self.closed:
            raise AttributeError("there is nothing left of the model")
        self.begun.set()
        assert self.go.wait(20)
        return super().run(inputs)

    def terminate(self, thread_id: int | None = None) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


def test_runs_of_a_model_that_is_unloaded_meanwhile_stay_unanswered() -> None:
    session = _Closing()
    ends = Ends(session)
    ends.host.thread.start()
    ends.put_each(["under way", "behind", "last"], [(row(1),), (row(2),), (row(3),)])
    ends.pipe.tell()
    assert session.begun.wait(20)
    ends.host.close()
    ends.host.hosted.close()
    session.go.set()
    ends.host.thread.join(20)
    assert not ends.host.thread.is_alive()
    ended = ends.pipe.take_ended(ends.pipe.ended_number)
    assert ended is not None
    assert (ended.flight.batch, ended.op) == ("under way", Op.DONE)
    assert [flight.batch for flight in ends.pipe.flights.values()] == ["behind", "last"]
    assert ends.pipe.ended_number == 1
    ends.pipe.close()
    ends.far_socket.close()


def test_the_end_of_the_process_is_heard() -> None:
    ends = Ends()
    ends.put("a", row(1.0))
    ends.far_socket.close()
    ends.host._sock.close()
    assert select.select([ends.pipe.sock], [], [], 20)[0]
    assert ends.pipe.hear() is False
    with pytest.raises(OSError, match="pipe"):
        ends.pipe.tell()
    assert list(ends.pipe.flights) == [1], "it is known what was on its way"
    assert ends.pipe.current_number == 0, "and that it had not begun"
    ends.pipe.close()


def record(op: int = Op.DONE, flags: int = 0, header: int = 0, place: int = 0, total: int = 0) -> bytes:
    return at.RECORD.pack(op, flags, 0, header, 5, place, total)


@pytest.mark.parametrize(
    "wrong",
    [
        record(header=64, total=8),
        record(place=at.RING_BYTES - 64, total=128),
        record(total=2**63),
        record(place=2**63, total=64),
        record(flags=1, total=64),
        record(header=7, total=64),
    ],
)
def test_what_a_process_says_is_checked(wrong: bytes) -> None:
    ends = Ends()
    ends.put("a", row(1.0))
    shared: Any = ends.host._shared
    shared[at.record_at(1) : at.record_at(1) + at.RECORD.size] = wrong
    shared[at.ENDED_AT : at.ENDED_AT + 8] = struct.pack("<Q", 2**64 - 1)
    with pytest.raises(ProtocolError):
        ends.next_parts()
    ends.far_socket.send(b"x" * 24)
    with pytest.raises(ProtocolError, match="no bell"):
        ends.pipe.hear()
    for sock in (ends.pipe.sock, ends.far_socket):
        sock.close()
    ends.host._sock.close()


@given(st.lists(st.tuples(st.integers(1, at.MESSAGE_BYTES), st.booleans()), max_size=200))
def test_places_in_a_ring_never_overlap(steps: list[tuple[int, bool]]) -> None:
    ring = at.Ring()
    taken: list[tuple[int, int]] = []
    for size, frees in steps:
        if frees and taken:
            place, length = taken.pop(0)
            ring.freed = place + length
        if not ring.is_half_empty:
            continue
        place = ring.take(size) or 0
        offset = place % at.RING_BYTES
        assert offset + size <= at.RING_BYTES
        for other, length in taken:
            start = other % at.RING_BYTES
            assert offset + size <= start or start + length <= offset
        taken.append((place, size))


@pytest.mark.parametrize("dtype", [dtype for dtype in DType if dtype is not DType.STRING])
@pytest.mark.parametrize("sizes", [(1,), (2, 1, 3)])
@pytest.mark.parametrize("tail", [(), (3,), (0,), (40, 50)])
def test_what_is_merged_is_split_again(dtype: DType, sizes: tuple[int, ...], tail: tuple[int, ...]) -> None:
    members = [
        [
            Tensor.from_numpy(
                (np.arange(size * int(np.prod(tail))) % 2 + i).reshape(size, *tail).astype(dtype.numpy_dtype)
            )
        ]
        for i, size in enumerate(sizes)
    ]
    layout = batches.layout_of(members[0], sum(sizes))
    assert layout is not None
    message = memoryview(bytearray(layout.total))
    message[: len(layout.header)] = layout.header
    batches.write(message, layout, members)
    parts = memory.parsed(layout.header, layout.total)
    assert batches.values_of(parts, message, sizes) == members
    if len(sizes) > 1:
        with pytest.raises(BatchSizeMismatch):
            batches.values_of(parts, message, (1, 1))


def test_strings_do_not_go_through_a_pipe() -> None:
    make: Callable[..., Tensor] = Tensor
    assert batches.layout_of([make(DType.STRING, (1,), b"a\0")], 1) is None
