"""The exception tree. Every failure that a client may see is one of these; anything else is a bug of ours.

Rules: an exception's text is exactly what follows `-` on the wire, prefix included (`ERR ...`, `WRONGTYPE ...`; some texts
of RedisAI carry no prefix at all, shared by spec and tests). Texts are one line: `wire()` turns CR and LF into spaces and
caps the length. This module knows nothing of sockets, Redis or frameworks.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "BackendNotInstalled",
    "CommandError",
    "Conflict",
    "DeadlineExceeded",
    "MissingKey",
    "Overloaded",
    "ProtocolError",
    "RedisAIError",
    "ShapeMismatch",
    "UpstreamError",
    "WrongType",
]

MAX_TEXT = 4096


class RedisAIError(Exception):
    """Base of all failures with a reply of their own; `str(error)` is the reply's text."""

    def wire(self) -> str:
        """The text after `-`: one line, at most 4096 characters."""
        return str(self).replace("\r", " ").replace("\n", " ")[:MAX_TEXT]


class ProtocolError(RedisAIError):
    """Framing is broken: the client gets this reply, then the connection is closed."""


class CommandError(RedisAIError):
    """Arity, syntax or a bad value: the client gets this reply and stays connected."""


class MissingKey(RedisAIError):
    """The key that a command names does not exist."""


class WrongType(RedisAIError):
    """The key holds something other than what the command works on."""

    def __init__(self, text: str = "WRONGTYPE Operation against a key holding the wrong kind of value") -> None:
        super().__init__(text)


class ShapeMismatch(RedisAIError):
    """Tensors disagree with each other or with the model."""


class BackendError(RedisAIError):
    """A framework refused a model or failed in a run; the text is the framework's own."""


class BackendNotInstalled(BackendError):
    """No plugin of that name, or its framework cannot be imported."""


class DeadlineExceeded(RedisAIError):
    """A limit on time passed. For TIMEOUT the reply is `+TIMEDOUT`, for the settings an error that names the setting."""

    def __init__(self, text: str = "TIMEDOUT") -> None:
        super().__init__(text)


class Overloaded(RedisAIError):
    """A bounded queue is full: back-pressure instead of memory growth."""


class Conflict(RedisAIError):
    """IFUNCHANGED: a key that a DAG loaded was changed before its commit."""


class UpstreamError(RedisAIError):
    """Redis is out of reach, or its own error text passed on verbatim."""
