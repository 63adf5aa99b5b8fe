"""What is kept near, and for how long."""

from __future__ import annotations

import numpy as np

from redisai_py.store import codec
from redisai_py.store.cache import MAX_ENTRY_BYTES, NearCache
from redisai_py.tensor import Tensor

_ENTRY = 512
_READS = 8


def _raw(number: float) -> bytes:
    tensor = Tensor.from_numpy(np.array([number], np.float32))
    return codec.encode_header(tensor) + bytes(tensor.data)


def test_a_tensor_is_what_its_string_says() -> None:
    near = NearCache(1 << 20)
    near.put(b"x", _raw(3))
    tensor = near.entries[b"x"].tensor()
    assert tensor is not None
    assert tensor.numpy().tolist() == [3]
    assert near.entries[b"x"].tensor() is tensor


def test_a_model_is_no_tensor() -> None:
    near = NearCache(1 << 20)
    near.put_model(b"m", "id", "identity")
    assert near.entries[b"m"].tensor() is None
    assert (near.entries[b"m"].identity, near.entries[b"m"].raw) == ("identity", b"id")


def test_the_oldest_go_first() -> None:
    size = len(_raw(0)) + _ENTRY
    near = NearCache(3 * size)
    for key in (b"a", b"b", b"c", b"a", b"d"):
        near.put(key, _raw(1))
    assert list(near.entries) == [b"c", b"a", b"d"]
    assert near.size_bytes == 3 * size
    for key in (b"c", b"a", b"d", b"none"):
        near.drop(key)
    assert near.size_bytes == 0


def test_large_values_are_not_kept_and_what_they_replace_goes() -> None:
    near = NearCache(1 << 20)
    near.put(b"x", _raw(1))
    near.put(b"x", bytes(MAX_ENTRY_BYTES + 1))
    assert near.entries == {}
    assert near.size_bytes == 0


def test_what_others_change_is_read_for_a_while_and_then_kept_again() -> None:
    near = NearCache(1 << 20)
    near.put_read(b"x", _raw(1))
    near.changed(b"x")
    for _ in range(_READS):
        near.put_read(b"x", _raw(2))
        assert b"x" not in near.entries
    near.put_read(b"x", _raw(2))
    assert b"x" in near.entries


def test_what_we_write_ourselves_is_kept_at_once() -> None:
    near = NearCache(1 << 20)
    near.put_read(b"x", _raw(1))
    near.changed(b"x")
    near.put(b"x", _raw(2))
    assert b"x" in near.entries


def test_a_replaced_model_is_kept_at_once() -> None:
    near = NearCache(1 << 20)
    near.put_model(b"m", "old", "1")
    near.changed(b"m")
    near.put_model(b"m", "new", "2")
    assert near.entries[b"m"].identity == "2"


def test_the_memory_of_changes_is_bounded() -> None:
    near = NearCache(1 << 20)
    for i in range(5000):
        near.changed(b"%d" % i)
    near.put_read(b"0", _raw(1))
    near.put_read(b"4999", _raw(1))
    assert list(near.entries) == [b"0"]
