"""The Redis protocol without sockets: bytes in, commands out.

Rules:
- `CommandParser` is fed chunks of any size and returns complete commands. It never waits and never raises: a broken
  frame sets `error`, and everything after it is ignored, as Redis replies once and closes.
- The texts of framing errors, and what counts as one, are Redis's own (`networking.c` is the authority).
- A large argument is received straight into its own buffer: the shell calls `get_buffer()` and reports `received(n)`,
  so only the kernel copies the bytes.
- The `Recogniser` handles commands that need no parsing, because they were seen before or are ordinary.
- Until a client is authenticated, its commands may have 10 words of 16 KiB, as in Redis. Whether it is may depend on
  earlier commands: the parser stops before a larger command and asks (`doubt`).

It does not know what commands mean.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from redisai_py.errors import ProtocolError
from redisai_py.resp.inline import split_inline
from redisai_py.resp.recognition import Recogniser
from redisai_py.resp.templates import Burst, Command, Frames

__all__ = ["LARGE_ARGUMENT", "CommandParser", "unroll"]

MAX_INLINE = 64 * 1024
LARGE_ARGUMENT = 64 * 1024
_QUICK_SIZE = min(16 * 1024, LARGE_ARGUMENT)
_UNKNOWN_WORDS = 10
_UNKNOWN_SIZE = 16 * 1024
_UNKNOWN_COMMANDS = 64
_MANY_WORDS = ProtocolError("ERR Protocol error: unauthenticated multibulk length")
_LONG_WORD = ProtocolError("ERR Protocol error: unauthenticated bulk length")
_MANY = ProtocolError("")  # a reason to stop, not an error
_WORD_BYTES = 64
"""Memory of a word in addition to its own bytes."""
# Canonical decimals, the common case without int(); no limit on arguments is below the largest of them.
_NOTHING = re.compile(rb"(?:\*(?:0|-[1-9][0-9]{0,8})\r\n|[ \t]{0,8}\r?\n){0,10000}+")
"""Commands without words. Handled one by one, a million of them (4 MB) would take a second."""
_LENGTHS = {b"%d" % n: n for n in range(1025)}


class CommandParser(Recogniser):
    """Incremental parser of a client's byte stream.

    Args: frames: remembered frames.   max_argument_bytes: longest single argument.   max_arguments: most per command.
          allocate: returns writable memory for a large argument of n bytes; called only once the length is known to be
          legal.   bursts: whether to return bursts, instead of their commands one by one.   joint: returns the action
          that commands of a name share with their neighbours, None for a name that has none; called only with `bursts`.
          authenticated: whether the client is known to be.
    """

    __slots__ = (
        "_allocate",
        "_argc",
        "_args",
        "_begun_bytes",
        "_filled",
        "_head",
        "_large",
        "_large_size",
        "_quick_size",
        "_rest",
        "at_boundary",
        "authenticated",
        "doubt",
        "error",
        "max_argument_bytes",
        "max_arguments",
    )

    def __init__(
        self,
        frames: Frames,
        max_argument_bytes: int = 512 * 1024 * 1024,
        max_arguments: int = 2**31 - 1,
        allocate: Callable[[int], memoryview] = lambda size: memoryview(bytearray(size)),
        *,
        bursts: bool = False,
        joint: Callable[[bytes], Any] = lambda _: None,
        authenticated: bool = True,
    ) -> None:
        super().__init__(frames, bursts, joint, max_argument_bytes if max_arguments >= 1000 else 0)
        self.error: ProtocolError | None = None
        self.at_boundary = authenticated
        """Whether the next bytes begin a command, which may be a remembered one."""
        self.authenticated = authenticated
        self.doubt: ProtocolError | None = None
        """Why the parser has stopped, waiting to know whether the client is authenticated; see `go_on`."""
        self.max_argument_bytes = max_argument_bytes
        self.max_arguments = max_arguments
        self._quick_size = _QUICK_SIZE if max_argument_bytes >= _QUICK_SIZE and max_arguments >= 1000 else 0
        self._allocate = allocate
        self._rest = b""  # bytes of an incomplete argument or header
        self._args: list[Any] = []
        self._argc = 0  # arguments still to come; 0 at a command's boundary
        self._begun_bytes = 0  # lower bound of the bytes in `_args`
        self._large_size = -1  # size of the large argument in progress, -1 for none
        self._head = b""  # the part of it that came in the chunk where it began
        self._large: memoryview | None = None  # its buffer, including CR LF, once requested
        self._filled = 0

    # -- large arguments ---------------------------------------------------------------------------------------------

    @property
    def receiving_large(self) -> bool:
        """Whether the next bytes belong to a large argument and should be received through `get_buffer`."""
        return self._large_size >= 0

    @property
    def large(self) -> tuple[list[Any], int] | None:
        """(arguments so far, size) if a large argument, the last of its command, has begun and may be diverted."""
        return (
            (self._args, self._large_size) if self._large_size >= 0 and self._argc == 1 and not self._filled else None
        )

    def divert(self) -> bytes:
        """Leave the large argument to the caller, who takes its bytes and CR LF from the stream before feeding again.

        Returns: the part that has already arrived. The command is not returned; the caller has its arguments.
        """
        self._large_size = -1
        self._args = []
        self._argc = 0
        head, self._head = self._head, b""
        self._look_at_boundary()
        return head

    def get_buffer(self) -> memoryview:
        """The memory for the next bytes of the large argument."""
        if self._large is None:
            self._large = self._allocate(self._large_size + 2)
            self._filled = len(self._head)
            self._large[: self._filled] = self._head
            self._head = b""
        return self._large[self._filled :]

    def received(self, count: int) -> list[Command | Burst]:
        """Report `count` bytes put into `get_buffer()`. Returns: the command, if that completed it."""
        self._filled += count
        large = self._large
        assert large is not None
        if self._filled < len(large):
            return []
        self._large = None
        self._large_size = -1
        self._filled = 0
        self._args.append(large[:-2].toreadonly())
        self._argc -= 1
        self._begun_bytes += len(large) + _WORD_BYTES
        commands: list[Command | Burst] = []
        if self._argc == 0:
            commands.append(Command(self._args))
            self._args = []
            self._begun_bytes = 0
        self._look_at_boundary()
        return commands

    def close(self) -> None:
        """No more bytes will come: drop an incomplete command."""
        self._large = None
        self._head = self._rest = b""
        self._args = []
        self._begun_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Memory held by the incomplete command."""
        return self._begun_bytes + len(self._rest) + len(self._head) + self._filled

    # -- authentication ----------------------------------------------------------------------------------------------

    def accept(self, accepted: bool) -> None:
        """Redis has accepted the client, or after RESET no longer does."""
        self.authenticated = accepted
        self._look_at_boundary()

    def go_on(self) -> list[Command | Burst]:
        """Parse the command at which the parser stopped: an error without authentication, otherwise more commands."""
        doubt, self.doubt = self.doubt, None
        if not self.authenticated and doubt is not _MANY:
            self.error = doubt
            self._rest = b""
        return self.feed(b"")

    # -- everything else ---------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> list[Command | Burst]:
        """Process the next bytes. Returns: the complete commands, in order."""
        out: list[Command | Burst] = []
        if self._large_size >= 0:
            buffer = self.get_buffer()
            taken = min(len(data), len(buffer))
            buffer[:taken] = data[:taken]
            out = self.received(taken)
            data = data[taken:]
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if self.error is None and data:
            (self._parse if self.authenticated else self._parse_cautiously)(data, out)
        self._look_at_boundary()
        return out

    def _look_at_boundary(self) -> None:
        self.at_boundary = self.authenticated and not (
            self._rest or self._argc or self._large_size >= 0 or self.error is not None
        )

    def _parse(self, data: bytes, out: list[Command | Burst]) -> None:
        position, end = 0, len(data)
        may_be_burst = self._bursts  # a failed attempt reads the whole chunk, so there is at most one per chunk
        while position < end:
            if self._argc == 0:
                command: Command | Burst | None = None
                if may_be_burst:
                    command = self._joint_burst(data, position, end)
                    may_be_burst = command is not None
                if command is None and self._bursts:
                    command = self._burst(data, position, end)
                if command is None:
                    template = self.template
                    if template is not None and end - position < template.stride and template.begins(data, position):
                        self._rest = data[position:]  # recognised once the rest has arrived
                        return
                    command = self._recognise(data, position, end)
                    if command is None and position == 0 and end <= self._quick_size:
                        command = self._parse_quick(data)
                if command is not None:
                    out.append(command)
                    position += len(command.frame)
                    continue
            position = self._parse_one(data, position, end, out)
            if position < 0:
                return

    def _parse_cautiously(self, data: bytes, out: list[Command | Burst]) -> None:
        """Parse the commands of a client that may not be authenticated: one by one, and not many."""
        position, end = 0, len(data)
        while 0 <= position < end:
            if self._argc == 0 and len(out) >= _UNKNOWN_COMMANDS:
                position = self._stop(data, position, _MANY)
            else:
                position = self._parse_one(data, position, end, out)

    def _parse_one(self, data: bytes, position: int, end: int, out: list[Command | Burst]) -> int:
        """Parse from `position`. Returns: the position after one command, or -1 for an incomplete or broken frame."""
        start = position
        if self._argc:
            start = -1  # the frame began in an earlier chunk
        elif data[position] != 42:  # '*'
            return self._parse_inline(data, position, out)
        else:
            position = self._parse_count(data, position)
            if position < 0 or self._argc == 0:
                return position
        args = self._args
        begun, first_position = len(args), position
        while self._argc:
            line = data.find(b"\r\n", position, position + MAX_INLINE)
            if position < end and data[position] != 36:  # '$'
                return self._fail(f"expected '$', got '{chr(data[position])}'")
            if line < 0:
                self._begun_bytes += position - first_position + (len(args) - begun) * _WORD_BYTES
                return self._wait(data, position, "too big bulk count string")
            size = self._size(data[position + 1 : line])
            if size < 0:
                return self._fail("invalid bulk length")
            first = line + 2
            stop = first + size
            if size > _UNKNOWN_SIZE and not self.authenticated:
                return self._stop(data, position, _LONG_WORD)
            if stop + 2 > end:
                self._begun_bytes += position - first_position + (len(args) - begun) * _WORD_BYTES
                return self._incomplete(data, position, first, size)
            args.append(data[first:stop])
            self._argc -= 1
            position = stop + 2
        self._args = []
        self._begun_bytes = 0
        out.append(Command(args, data[start:position] if start >= 0 else b""))
        return position

    def _parse_count(self, data: bytes, position: int) -> int:
        """Parse `*n`. Returns: the position after it. A count of 0 or less is an empty command, as in Redis."""
        line = data.find(b"\r\n", position, position + MAX_INLINE)
        if line < 0:
            return self._wait(data, position, "too big mbulk count string")
        word = data[position + 1 : line]
        count = _LENGTHS.get(word)
        if count is None:
            count = self._integer(word)
        if count is None or count > self.max_arguments:
            return self._fail("invalid multibulk length")
        if count > _UNKNOWN_WORDS and not self.authenticated:
            return self._stop(data, position, _MANY_WORDS)
        if count <= 0:
            return _after_nothing(data, line + 2)
        self._argc = count
        return line + 2

    def _size(self, word: bytes) -> int:
        """The length in `$n`; -1 if it is invalid or too large."""
        size = _LENGTHS.get(word)
        if size is None:
            size = self._integer(word)
            if size is None or size > self.max_argument_bytes:
                return -1
        return size

    def _incomplete(self, data: bytes, position: int, first: int, size: int) -> int:
        if size < LARGE_ARGUMENT:
            self._rest = data[position:]
            return -1
        self._large_size = size
        self._head = data[first:]
        return -1

    def _wait(self, data: bytes, position: int, too_big: str) -> int:
        if len(data) - position >= MAX_INLINE:
            return self._fail(too_big)
        self._rest = data[position:]
        return -1

    def _stop(self, data: bytes, position: int, doubt: ProtocolError) -> int:
        self.doubt = doubt
        self._rest = data[position:]
        return -1

    def _parse_inline(self, data: bytes, position: int, out: list[Command | Burst]) -> int:
        line = data.find(b"\n", position, position + MAX_INLINE)
        if line < 0:
            return self._wait(data, position, "too big inline request")
        argv = split_inline(data[position:line].removesuffix(b"\r"))
        if argv is None:
            return self._fail("unbalanced quotes in request")
        if not argv:
            return _after_nothing(data, line + 1)
        out.append(Command(list(argv)))
        return line + 1

    def _fail(self, text: str) -> int:
        self.error = ProtocolError(f"ERR Protocol error: {text}")
        self._rest = b""
        return -1

    @staticmethod
    def _integer(word: bytes) -> int | None:
        """Redis's `string2ll`: no sign but `-`, no leading zero, no blanks."""
        digits = word[1:] if word[:1] == b"-" else word
        if not digits.isdigit() or len(digits) > 19 or (digits[:1] == b"0" and word != b"0"):
            return None
        return int(word)


def unroll(burst: Burst, frames: Frames) -> list[Command]:
    """The commands of a burst one by one, parsed."""
    return [command for command in CommandParser(frames).feed(burst.frame) if isinstance(command, Command)]


def _after_nothing(data: bytes, position: int) -> int:
    """The position after the commands without words that begin here."""
    found = _NOTHING.match(data, position)
    return found.end() if found is not None else position
