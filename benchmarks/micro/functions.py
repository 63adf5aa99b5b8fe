"""The functions that every request passes: parser, header codec, reply encoder, beside a plain way to do the same."""

from __future__ import annotations

import json
import statistics
import struct
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import hiredis
from harness.report import Pace, row
from harness.servers import Servers
from harness.wire import encode

from redisai_py.commands import COMMANDS
from redisai_py.frontdoor.dispatch import action_of
from redisai_py.resp.replies import TensorReply, encode_reply
from redisai_py.resp.requests import CommandParser
from redisai_py.resp.templates import Command, Frames
from redisai_py.store import codec
from redisai_py.tensor import DType, Tensor

__all__ = ["codec_functions", "parser_functions"]

_CALLS, _CALLS_SMOKE = 20_000, 200
_DATA = bytes(range(256)) * 4
_TENSOR_SET = encode("AI.TENSORSET", "key", "FLOAT", 256, "BLOB", _DATA)
_EXECUTE = encode("AI.MODELEXECUTE", "model", "INPUTS", 1, "in", "OUTPUTS", 1, "out")


def _compare(name: str, ours: Callable[[], object], plain: Callable[[], object], pace: Pace) -> dict[str, Any]:
    """Nanoseconds per call of both, interleaved; the rate is calls per second of one core."""
    calls = _CALLS_SMOKE if pace.smoke else _CALLS
    sides = {"ours": ours, "plain": plain}
    rounds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(max(pace.rounds, 3)):
        for side, function in sides.items():
            started = time.process_time()
            for _ in range(calls):
                function()
            rounds[side].append((time.process_time() - started) / calls * 1e6)
    figures = {
        side: {
            "per_s": round(1e6 / max(statistics.median(values), 1e-3), 1),
            "cpu_us": round(statistics.median(values), 4),
        }
        for side, values in rounds.items()
    }
    return row(name, figures, "ours", "plain", calls=calls)


def parser_functions(servers: Servers, pace: Pace) -> Iterator[dict[str, Any]]:
    """Bytes to a request: frames seen before, and new ones; plain is hiredis's reader, which validates nothing."""
    reader = hiredis.Reader()

    def plain(frame: bytes) -> object:
        reader.feed(frame)
        return reader.gets()

    for name, frame in (("tensorset", _TENSOR_SET), ("modelexecute", _EXECUTE)):
        frames = Frames()
        known = CommandParser(frames, bursts=True)
        for command in known.feed(frame):
            assert isinstance(command, Command)
            action_of(command, frames)
        yield _compare(f"parser.{name}.known", partial(known.feed, frame), partial(plain, frame), pace)
        new = CommandParser(Frames())
        spec = COMMANDS[f"AI.{name.upper()}".encode()]

        def parse(frame: bytes = frame, new: CommandParser = new, spec: Any = spec) -> object:
            (command,) = new.feed(frame)
            assert isinstance(command, Command)
            return spec.parse(command.argv)

        yield _compare(f"parser.{name}.new", parse, partial(plain, frame), pace)


def codec_functions(servers: Servers, pace: Pace) -> Iterator[dict[str, Any]]:
    """Tensor to bytes and back, and the reply; plain does the same with json and struct each time."""
    tensor = Tensor(DType.FLOAT, (256,), _DATA)
    value = codec.encode_header(tensor) + _DATA

    def plain_encode() -> object:
        body = json.dumps({"tensor": {"dtype": "F32", "shape": [256], "data_offsets": [0, len(_DATA)]}}).encode()
        return struct.pack("<Q", len(body)) + body

    def plain_decode() -> object:
        (length,) = struct.unpack_from("<Q", value)
        return json.loads(value[8 : 8 + length]), memoryview(value)[8 + length :]

    def plain_reply() -> object:
        return encode("dtype", "FLOAT", "shape", 256, "blob", _DATA)

    yield _compare("codec.encode_header", partial(codec.encode_header, tensor), plain_encode, pace)
    yield _compare("codec.decode_tensor", partial(codec.decode_tensor, value), plain_decode, pace)
    reply = TensorReply(tensor.dtype, tensor.shape, True, _DATA)
    yield _compare("codec.encode_reply", partial(encode_reply, reply, 2), plain_reply, pace)
