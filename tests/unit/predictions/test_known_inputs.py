"""Digests of large inputs that came before."""

from __future__ import annotations

import os

import pytest

from redisai_py.predictions import known_inputs
from redisai_py.predictions.identity import inputs_digest
from redisai_py.predictions.known_inputs import KnownInputs
from redisai_py.tensor import DType, Tensor

SIZE = 16 * 1024


def tensor(data: bytes, dtype: DType = DType.UINT8, shape: tuple[int, ...] = (SIZE,)) -> Tensor:
    return Tensor(dtype, shape, memoryview(data))


@pytest.fixture
def hashed(monkeypatch):
    """The tensors that were hashed."""
    found: list[Tensor] = []

    def count(tensor: Tensor) -> bytes:
        found.append(tensor)
        return inputs_digest([tensor])

    monkeypatch.setattr(known_inputs, "tensor_digest", count)
    return found


def test_an_input_that_comes_again_is_compared_and_not_hashed(hashed):
    known = KnownInputs(1 << 20)
    data = os.urandom(SIZE)
    expected = inputs_digest([tensor(data)])
    assert [known.digest("me", [tensor(bytes(data))]) for _ in range(5)] == [expected] * 5
    assert len(hashed) == 2  # kept from its second time on
    assert known.quick_digest("me", [tensor(data)]) == known.find("me", [tensor(data)]) == expected
    assert known.digest("you", [tensor(data)]) == expected
    assert len(hashed) == 3  # another owner's
    assert known.quick_digest("you", [tensor(data)]) is None


def test_only_equality_of_all_bytes_counts(hashed):
    known = KnownInputs(1 << 20)
    data = bytes(SIZE)
    for _ in range(3):
        known.digest("me", [tensor(data)])
    for at in (1, 255, SIZE // 2 + 1, SIZE - 2):  # between the bytes that are sampled
        other = bytearray(data)
        other[at] = 1
        assert known.digest("me", [tensor(bytes(other))]) == inputs_digest([tensor(bytes(other))])
    for dtype, shape in ((DType.INT8, (SIZE,)), (DType.UINT8, (2, SIZE // 2)), (DType.FLOAT, (SIZE // 4,))):
        same_bytes = tensor(data, dtype, shape)
        assert known.digest("me", [same_bytes]) == inputs_digest([same_bytes]) != inputs_digest([tensor(data)])


def test_small_inputs_are_hashed_and_several_are_told_apart(hashed):
    known = KnownInputs(1 << 20)
    small, large = Tensor(DType.UINT8, (3,), b"abc"), tensor(os.urandom(SIZE))
    for inputs in ([small], [small, large], [large, small], [small, small], []):
        assert known.digest("me", inputs) == inputs_digest(inputs)
    assert known.quick_digest("me", [small]) == inputs_digest([small])


def test_memory_is_bounded_and_inputs_that_never_repeat_take_none(hashed):
    known = KnownInputs(1 << 20)
    for _ in range(100):
        known.digest("me", [tensor(os.urandom(SIZE))])
    assert known.size_bytes == 0
    often = [tensor(os.urandom(SIZE)) for _ in range(100)]
    for _ in range(2):
        for each in often:
            known.digest("me", [each])
    assert 0 < known.size_bytes <= 1 << 20
    none = KnownInputs(0)
    for _ in range(3):
        assert none.digest("me", often[:1]) == inputs_digest(often[:1])
    assert none.size_bytes == 0
