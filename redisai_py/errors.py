"""The exception tree. Every failure that a client may see is one of these; anything else is a bug of ours.

Rules: an exception's text is exactly what follows `-` on the wire, prefix included (`ERR ...`, `WRONGTYPE ...`; some
texts of RedisAI carry no prefix at all, shared by spec and tests). Texts are one line: `wire()` turns CR and LF into
spaces and caps the length. Texts that several modules need are constants here; a text that one command's parser alone
gives stands beside that parser (`redisai_py.commands`). This module knows nothing of sockets, Redis or frameworks.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "INPUT_COUNT_MISMATCH",
    "INPUT_COUNT_NOT_POSITIVE",
    "INVALID_TIMEOUT",
    "IN_TRANSACTION",
    "MODEL_KEY_EMPTY",
    "NO_RUN_INFO",
    "NO_TIMEOUT_VALUE",
    "OUTPUT_COUNT_MISMATCH",
    "SCRIPT_KEY_EMPTY",
    "TENSOR_KEY_EMPTY",
    "UNSUPPORTED_BACKEND",
    "BackendError",
    "BackendNotInstalled",
    "Busy",
    "CommandError",
    "Conflict",
    "DeadlineExceeded",
    "Loading",
    "MemoryLimitExceeded",
    "MissingKey",
    "Moved",
    "NoRoom",
    "NoScript",
    "NoSuchKey",
    "NotAuthenticated",
    "NotPermitted",
    "OutOfMemory",
    "Overloaded",
    "ProtocolError",
    "QueueTimeout",
    "RedisAIError",
    "RunTimeout",
    "ShapeMismatch",
    "TransactionAborted",
    "Unproven",
    "UpstreamError",
    "UpstreamLost",
    "UpstreamRefused",
    "WrongArity",
    "WrongFraming",
    "WrongType",
]

MAX_TEXT = 4096

TENSOR_KEY_EMPTY = "ERR tensor key is empty or in a different shard"
MODEL_KEY_EMPTY = "ERR model key is empty"
SCRIPT_KEY_EMPTY = "ERR script key is empty"
IN_TRANSACTION = "ERR Cannot run RedisAI command within a transaction or a LUA script"
INPUT_COUNT_NOT_POSITIVE = "ERR Input count must be a positive integer"
INVALID_TIMEOUT = "ERR Invalid value for TIMEOUT"
NO_TIMEOUT_VALUE = "ERR No value provided for TIMEOUT"
INPUT_COUNT_MISMATCH = "Number of keys given as INPUTS here does not match model definition"
OUTPUT_COUNT_MISMATCH = "Number of keys given as OUTPUTS here does not match model definition"
UNSUPPORTED_BACKEND = "ERR unsupported backend"
NO_RUN_INFO = "ERR cannot find run info for key"


class RedisAIError(Exception):
    """Base of all failures with a reply of their own; `str(error)` is the reply's text."""

    def wire(self) -> str:
        """The text after `-`: one line, at most 4096 characters."""
        return str(self).replace("\r", " ").replace("\n", " ")[:MAX_TEXT]


class ProtocolError(RedisAIError):
    """Framing is broken: the client gets this reply, then the connection is closed."""


class CommandError(RedisAIError):
    """Arity, syntax or a bad value: the client gets this reply and stays connected.

    checks: look-ups (`redisai_py.commands.checks`) that RedisAI makes before it would see this error, in order. Whoever
            answers evaluates them first; the first that fails is the reply instead of this error.
    """

    def __init__(self, text: str, checks: tuple[Any, ...] = ()) -> None:
        super().__init__(text)
        self.checks = checks


class WrongArity(CommandError):
    """Too few or too many words, where the text is the one of Redis itself.

    typed: the command's name as the client sent it. The text has it in lower case, as Redis 7 and later do.
    """

    def __init__(self, typed: bytes) -> None:
        super().__init__(f"ERR wrong number of arguments for '{typed.decode('utf-8', 'replace').lower()}' command")


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


class MemoryLimitExceeded(BackendError):
    """A load or a run was refused memory: by a limit of the server's, or by the machine."""


class DeadlineExceeded(RedisAIError):
    """A limit on time passed: one of the two below."""


class QueueTimeout(DeadlineExceeded):
    """A command's TIMEOUT passed before its run began. The reply is the status `TIMEDOUT` and no error."""

    def __init__(self) -> None:
        super().__init__("TIMEDOUT")


class RunTimeout(DeadlineExceeded):
    """A run took longer than a setting allows, which the text names."""


class Overloaded(RedisAIError):
    """A bounded queue is full: back-pressure instead of memory growth."""


class Conflict(RedisAIError):
    """IFUNCHANGED: a key that a DAG loaded was changed before its commit."""


class UpstreamError(RedisAIError):
    """Redis's own error text, passed on verbatim."""


class OutOfMemory(UpstreamError):
    """OOM: Redis has reached `maxmemory`."""


class NotPermitted(UpstreamError):
    """NOPERM: the user may not run the command, or not on these keys."""


class NotAuthenticated(NotPermitted):
    """NOAUTH: the client has to authenticate first."""


class Busy(UpstreamError):
    """Redis cannot tell or do now what it can later: BUSY (with a script), CLUSTERDOWN, TRYAGAIN."""


class Loading(Busy):
    """Redis has no data to serve yet: LOADING, or MASTERDOWN of a replica."""


class Moved(UpstreamError):
    """MOVED or ASK: another node of a cluster has the key."""


class NoScript(UpstreamError):
    """NOSCRIPT: Redis does not know the script."""


class NoSuchKey(UpstreamError):
    """The key to be renamed does not exist."""


class NoRoom(UpstreamError):
    """Redis accepts no connection: there are too many, or none are let in from here (DENIED)."""


class TransactionAborted(UpstreamError):
    """EXECABORT: nothing of the transaction was done."""


class Unproven(UpstreamError):
    """UNPROVEN, from a script of ours: the user may not read what is to be compared."""


class WrongFraming(UpstreamError):
    """Redis could not read what was sent, or would not: an argument may be longer than it takes."""


class UpstreamLost(UpstreamError):
    """Redis is out of reach, or the connection to it was lost. No client is sent this text: its connection is closed
    where the reply would have been, as Redis's own end would close it (docs/adr/0017).
    """

    @classmethod
    def under_way(cls, cause: BaseException | None) -> UpstreamLost:
        """The connection was lost after the command was sent."""
        why = f": {cause}" if cause else ""
        return cls(f"ERR upstream Redis connection lost{why}; the command may have been applied")


class UpstreamRefused(UpstreamError):
    """Redis has no room for the client's own connection: the client gets these words, and is closed behind them."""
