"""Commands as people type them: words on a line, quoted as in redis-cli. Pure."""

from __future__ import annotations

__all__ = ["split_inline"]

_ESCAPES = {110: 10, 114: 13, 116: 9, 98: 8, 97: 7}  # n r t b a
_SPACES = b" \n\r\t\0\x0b\x0c"
_HEX = frozenset(b"0123456789abcdefABCDEF")


def split_inline(line: bytes) -> list[bytes] | None:
    """The arguments of an inline command, quoted as in redis-cli; None if quotes are unbalanced.

    Source: `sdssplitargs` of Redis.
    """
    if b'"' not in line and b"'" not in line:
        return line.replace(b"\0", b" ").split()
    argv: list[bytes] = []
    i, n = 0, len(line)
    while True:
        while i < n and line[i] in _SPACES:
            i += 1
        if i >= n:
            return argv
        word = bytearray()
        while i < n and line[i] not in _SPACES:
            if line[i] in b"\"'":
                i = _quoted(line, i + 1, line[i], word)
                if i < 0 or (i < n and line[i] not in _SPACES):
                    return None
            else:
                word.append(line[i])
                i += 1
        argv.append(bytes(word))


def _quoted(line: bytes, i: int, quote: int, word: bytearray) -> int:
    """Append the text between quotes to `word`. Returns: the position after the closing quote, or -1."""
    n = len(line)
    while i < n:
        c = line[i]
        if c == quote:
            return i + 1
        if c == 92 and i + 1 < n:  # backslash
            following = line[i + 1]
            if quote == 39:
                if following == 39:
                    c, i = 39, i + 1
            elif following == 120 and i + 3 < n and line[i + 2] in _HEX and line[i + 3] in _HEX:
                c, i = int(line[i + 2 : i + 4], 16), i + 3
            else:
                c, i = _ESCAPES.get(following, following), i + 1
        word.append(c)
        i += 1
    return -1
