"""What is remembered of a command: enough to know it again, and nothing of the data it came with."""

from __future__ import annotations

import gc
from typing import Any

import hiredis
import pytest

from redisai_py.frontdoor.dispatch import action_of
from redisai_py.resp.requests import CommandParser
from redisai_py.resp.templates import Burst, Command, Frames
from redisai_py.store import codec
from redisai_py.tensor import DType

_BLOB = b"\x01\x02\x03\x04" * 250


def _remember(*words: Any) -> Frames:
    frames = Frames()
    for command in CommandParser(frames).feed(hiredis.pack_command(words)):
        action_of(command, frames)
    return frames


def _reachable(root: object) -> list[object]:
    """Every object that `root` keeps alive, classes and modules left out."""
    found: dict[int, object] = {}
    waiting = [root]
    while waiting:
        each = waiting.pop()
        if id(each) not in found and not isinstance(each, type) and type(each).__name__ not in ("module", "function"):
            found[id(each)] = each
            waiting += gc.get_referents(each)
    return list(found.values())


@pytest.mark.parametrize("dtype", ["FLOAT", "INT8"])
def test_blob_of_a_remembered_tensorset_is_not_kept(dtype: str) -> None:
    shape = 250 if dtype == "FLOAT" else 1000
    frames = _remember("AI.TENSORSET", "key", dtype, shape, "BLOB", _BLOB)
    assert len(frames.templates) == 1
    assert not any(isinstance(each, bytes) and len(each) >= len(_BLOB) for each in _reachable(frames))


def test_a_tensor_of_zeros_is_not_kept() -> None:
    assert not _remember("AI.TENSORSET", "key", "FLOAT", 1000).by_bytes
    assert _remember("AI.TENSORSET", "key", "FLOAT", 2).by_bytes
    assert _remember("AI.TENSORSET", "key", "FLOAT", 2, "VALUES", 1, 2).by_bytes


@pytest.mark.parametrize("key", [b"yek", b"BLO", b"\r\n$"])
def test_another_tensor_of_a_known_form_is_not_parsed(key: bytes) -> None:
    frames = _remember("AI.TENSORSET", "key", "FLOAT", 250, "BLOB", _BLOB)
    other = bytes(reversed(_BLOB))
    (burst,) = CommandParser(frames, bursts=True).feed(
        hiredis.pack_command(("AI.TENSORSET", key, "FLOAT", 250, "BLOB", other))
    )
    assert isinstance(burst, Burst)
    assert burst.action.keys(burst) == [key]
    tensor = codec.decode_tensor(burst.action.value(burst, 0))
    assert (tensor.dtype, tensor.shape, bytes(tensor.data)) == (DType.FLOAT, (250,), other)


@pytest.mark.parametrize(("dtype", "data"), [("BOOL", b"\1" * 100), ("STRING", b"\0" * 100)])
def test_data_that_must_be_validated_is_parsed_each_time(dtype: str, data: bytes) -> None:
    frames = _remember("AI.TENSORSET", "key", dtype, 100, "BLOB", data)
    assert not frames.templates
    (command,) = CommandParser(frames, bursts=True).feed(
        hiredis.pack_command(("AI.TENSORSET", "key", dtype, 100, "BLOB", b"\2" * 100))
    )
    assert isinstance(command, Command)
    assert command.action is None


@pytest.mark.parametrize(
    "words",
    [
        ("AI.TENSORSET", "yek", "FLOAT", 249, "BLOB", _BLOB),  # the blob is too long
        ("AI.TENSORSET", "yek", "FLOAT", 250, "BLOB", _BLOB[1:]),
        ("AI.TENSORSET", "yek", "FLOTT", 250, "BLOB", _BLOB),
        ("AI.TENSORSET", "yek", "FLOAT", 250, "BLOB", _BLOB, "x"),
    ],
)
def test_a_wrong_command_is_not_taken_for_one_of_a_known_form(words: tuple[Any, ...]) -> None:
    frames = _remember("AI.TENSORSET", "key", "FLOAT", 250, "BLOB", _BLOB)
    (command,) = CommandParser(frames, bursts=True).feed(hiredis.pack_command(words))
    assert isinstance(command, Command)
    assert type(action_of(command, frames)).__name__ == "Failing"
