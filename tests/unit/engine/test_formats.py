"""What a file is, told by bytes of a stranger: soon, whatever they are."""

from __future__ import annotations

import time

import pytest

from redisai_py.engine.formats import advice


@pytest.mark.parametrize("blob", [b"\x08\x01" * 16_000_000, b"\x08" + b"\xff" * 16_000_000, b"\x3a\x00" * 16_000_000])
def test_endless_bytes_are_told_nothing_of_soon(blob: bytes) -> None:
    began = time.thread_time()
    assert advice(blob, "ONNX") == ""
    assert time.thread_time() - began < 1
