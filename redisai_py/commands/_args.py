"""Words of a command: keyword comparison, the two integer grammars, C's double grammar, and a cursor.

A word is `bytes`. A large one may be a `memoryview` or `bytearray`; it is copied only if it becomes a key or a name.
Keywords match case-insensitively, over the whole word.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from redisai_py.commands.checks import Check
from redisai_py.errors import CommandError
from redisai_py.tensor import Buffer

__all__ = [
    "INT64_MAX",
    "Args",
    "Argv",
    "double",
    "is_word",
    "lenient_integer",
    "name_text",
    "show_word",
    "strict_integer",
    "text_name",
    "to_bytes",
]

Argv = Sequence[Buffer]

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
_LONGEST_INT64 = 20
_LONGEST_SHOWN = 128

# Counts and dimensions are nearly always small, so a dictionary look-up replaces parsing.
_SMALL = {b"%d" % value: value for value in range(4097)}

# The possessive `++` keeps this linear. Without it, a word of 16 KB digits and one letter took 10 s of backtracking.
_DECIMAL = re.compile(rb"[+-]?(\d++\.?\d*+|\.\d++)(?:[eE][+-]?\d++)?")
_HEXADECIMAL = re.compile(rb"[+-]?0[xX]([0-9a-fA-F]++\.?[0-9a-fA-F]*+|\.[0-9a-fA-F]++)(?:[pP][+-]?\d++)?")
_INFINITE = re.compile(rb"[+-]?inf(?:inity)?", re.IGNORECASE)


def to_bytes(word: Buffer) -> bytes:
    """The word as `bytes`; copies a word of another type."""
    return word if type(word) is bytes else bytes(word)


def is_word(word: Buffer, keyword: bytes) -> bool:
    """Whether `word` equals the upper-case `keyword`, case-insensitively."""
    return len(word) == len(keyword) and (word == keyword or bytes(word).upper() == keyword)


def name_text(word: Buffer) -> str:
    """A name as text; bytes that are not UTF-8 survive the round trip through `text_name`."""
    return bytes(word).decode("utf-8", "surrogateescape")


def text_name(name: str) -> bytes:
    """The inverse of `name_text`."""
    return name.encode("utf-8", "surrogateescape")


def show_word(word: Buffer) -> str:
    """A word for an error text, truncated if long."""
    return bytes(word[:_LONGEST_SHOWN]).decode("utf-8", "replace")


def strict_integer(word: Buffer) -> int | None:
    """`0|-?[1-9][0-9]*` within int64, else None."""
    if type(word) is not bytes:
        if len(word) > _LONGEST_INT64:
            return None
        word = bytes(word)
    small = _SMALL.get(word)
    if small is not None:
        return small
    digits = word[1:] if word[:1] == b"-" else word
    if len(word) > _LONGEST_INT64 or not digits.isdigit() or digits[:1] == b"0":
        return None
    value = int(word)
    return value if INT64_MIN <= value <= INT64_MAX else None


def double(word: Buffer) -> float | None:
    """C's strtod over the whole word: decimal, exponent, hexadecimal, inf; no white space, no nan, no range errors."""
    text = to_bytes(word)
    if (match := _DECIMAL.fullmatch(text)) is not None:
        value = float(text)
    elif (match := _HEXADECIMAL.fullmatch(text)) is not None:
        try:
            value = float.fromhex(text.decode("ascii"))
        except OverflowError:
            return None
    else:
        return float(text) if _INFINITE.fullmatch(text) else None
    # Infinity is an overflow, and zero from a nonzero mantissa an underflow: strtod's range errors.
    if math.isinf(value) or (value == 0.0 and match[1].strip(b"0.")):
        return None
    return value


def lenient_integer(word: Buffer) -> int | None:
    """A strict integer, or a double with an integral value within int64 (`4.0`, `1e2`), else None."""
    value = strict_integer(word)
    if value is not None:
        return value
    real = double(word)
    if real is None or not real.is_integer() or not -(2.0**63) <= real < 2.0**63:
        return None
    return int(real)


class Args:
    """A cursor over the words of a command. `checks` are the look-ups that RedisAI has made up to this point."""

    __slots__ = ("argv", "checks", "end", "pos")

    def __init__(self, argv: Argv, start: int) -> None:
        self.argv = argv
        self.pos = start
        self.end = len(argv)
        self.checks: list[Check] = []

    @property
    def left(self) -> int:
        """Number of words left."""
        return self.end - self.pos

    def take_word(self) -> Buffer:
        """The next word, which must exist."""
        word = self.argv[self.pos]
        self.pos += 1
        return word

    def take_words(self, count: int) -> tuple[bytes, ...]:
        """The next `count` words as bytes, or as many as are left."""
        start = self.pos
        self.pos = min(start + count, self.end)
        return tuple(map(to_bytes, self.argv[start : self.pos]))

    def accept(self, keyword: bytes) -> bool:
        """Take the next word if it is `keyword`."""
        if self.pos < self.end and is_word(self.argv[self.pos], keyword):
            self.pos += 1
            return True
        return False

    def error(self, text: str) -> CommandError:
        """A syntax error at this point, with the look-ups made so far."""
        return CommandError(text, tuple(self.checks))
