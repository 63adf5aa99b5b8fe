"""A call: the words to send and how to read the reply. Pure."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

__all__ = [
    "Call",
    "Key",
    "Keys",
    "Progress",
    "counted",
    "is_pure",
    "listify",
    "option",
    "pairs",
    "text",
    "texts",
    "warn_deprecated",
    "warn_experimental",
]

Key = str | bytes
Keys = Key | Sequence[Key]
Progress = Callable[[int, int], object]
"""Called repeatedly with what is done so far and the total, in bytes unless something else is said."""

T_co = TypeVar("T_co", covariant=True)


@dataclass(slots=True)
class Call(Generic[T_co]):
    """One command with a result of type T_co.

    argv: its words, not yet encoded; a tuple of buffers is one word.   decode: reply as received (bytes) -> result.
    repeatable: sending it twice has the effect of sending it once, so it may be repeated after a lost connection.
    progress: called with the bytes sent.   direct: sent to Redis itself, not to the server.
    """

    argv: list[Any]
    decode: Callable[[Any], T_co]
    repeatable: bool = True
    progress: Progress | None = None
    direct: bool = False


def text(value: Any) -> Any:
    """A status or bulk string as str; other values unchanged."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def texts(values: Iterable[Any]) -> list[Any]:
    """`text` of each value."""
    return [text(value) for value in values]


def pairs(reply: Sequence[Any]) -> dict[str, Any]:
    """Field, value, field, value ... as a dict: names in lower case, strings decoded except `blob`, lists untouched."""
    fields: dict[str, Any] = {}
    for name, value in zip(reply[::2], reply[1::2], strict=True):
        key = text(name).lower()
        fields[key] = value if key == "blob" else text(value)
    return fields


def is_pure(inputs: Keys, outputs: Keys) -> bool:
    """Whether a run does not write its own inputs, so that a second run gives the same result."""
    return _as_bytes(inputs).isdisjoint(_as_bytes(outputs))


def _as_bytes(keys: Keys) -> set[bytes]:
    return set(map(_key_as_sent, listify(keys)))


def _key_as_sent(key: Any) -> bytes:
    """The key as redis-py sends it; numbers are valid keys, too."""
    if isinstance(key, str):
        return key.encode("utf-8", "surrogateescape")
    return bytes(key) if isinstance(key, (bytes, bytearray, memoryview)) else repr(key).encode()


def listify(value: Any) -> Sequence[Any]:
    """A list or tuple unchanged, another value as a tuple of one."""
    return value if isinstance(value, (list, tuple)) else (value,)


def counted(keyword: str, values: Any) -> list[Any]:
    """The words `KEYWORD n value ...`."""
    items = listify(values)
    return [keyword, len(items), *items]


def option(keyword: str, value: Any) -> list[Any]:
    """The words `KEYWORD value`; none if the value is None."""
    return [] if value is None else [keyword, value]


def warn_deprecated(name: str, instead: str, stacklevel: int = 4) -> None:
    """Warn as the `redisai` package does; `stacklevel` is the distance to the user's code."""
    message = f"Call to deprecated method {name}. (Use {instead} instead) -- Deprecated since version 1.2.0."
    warnings.warn(message, DeprecationWarning, stacklevel=stacklevel)


def warn_experimental(what: str) -> None:
    """Warn as the `redisai` package does."""
    message = f"Experimental: {what} List API is experimental and might change in the future without any notice"
    warnings.warn(message, UserWarning, stacklevel=4)
