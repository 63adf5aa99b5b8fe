"""Names of backends that commands accept."""

from __future__ import annotations

from redisai_py.commands.arguments import Argument, flag
from redisai_py.errors import UNSUPPORTED_BACKEND, CommandError
from redisai_py.tensor import Buffer

__all__ = ["BACKEND", "accept_backend", "parse_backend"]

_REDISAIS_OWN = ("TF", "TFLITE", "TORCH", "ONNX")
"""Accepted without a plugin, too: loading such a backend fails with a text that says what to install."""
_LONGEST = 64

BACKEND = Argument("backend", "oneof", arguments=tuple(map(flag, _REDISAIS_OWN)))

_accepted = {name.encode() for name in _REDISAIS_OWN}


def accept_backend(name: str) -> None:
    """Accept one more backend name in AI.MODELSTORE, AI.MODELSET and AI.CONFIG LOADBACKEND.

    The server calls this at start for every installed plugin.
    """
    _accepted.add(name.upper().encode())


def parse_backend(word: Buffer) -> str:
    """The backend's wire name, upper case. Raises: CommandError `ERR unsupported backend`."""
    name = bytes(word).upper() if len(word) <= _LONGEST else b""
    if name not in _accepted:
        raise CommandError(UNSUPPORTED_BACKEND)
    return name.decode()
