"""Commands on the wire, and templates that recognise later ones without parsing. Pure.

- A frame is a command's bytes. Clients repeat their commands, so `Frames` remembers commands by their frames: one
  dictionary look-up then replaces parsing and validation (docs/adr/0003).
- A template is a frame with holes. A `KeyTemplate` has two: the second word (the key) and the payload; all connections
  share it. A `BlobTemplate` has one, the payload; it is the last long command of one client.
- Consecutive commands of one template form a `Burst` (docs/adr/0015). So do other commands with a joint action.

This module does not know what a command does: `action` is attached by the server.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from redisai_py.bounded import BoundedCache

__all__ = ["MAX_FRAME", "BlobTemplate", "Burst", "Command", "Frames", "KeyTemplate", "Template", "encode_command"]

MAX_FRAME = 384
"""A frame (or its head, up to the blob) longer than this is not remembered."""
_LONGEST_BURST = 64
_FEW = 4
"""This many commands or more are matched together by a regular expression; compiling it costs as much as 50 matches."""
_STEP = 16
_SECOND_WORD = re.compile(rb"\*\d{1,4}\r\n\$\d{1,3}\r\n[\w.]+\r\n\$(\d{1,3})\r\n").match


class Command:
    """One command as it arrived.

    argv:  its arguments, the name first; bytes, or a memoryview for a large one.
    frame: its bytes on the wire if it arrived in one chunk, else b"".
    action: the function that starts it, attached by the server.
    template: of similar commands, one of which may come next; None if this command predicts nothing.
    """

    __slots__ = ("action", "argv", "frame", "template")

    def __init__(self, argv: list[Any], frame: bytes = b"", action: Any = None) -> None:
        self.argv = argv
        self.frame = frame
        self.action = action
        self.template: Template | None = None

    def wire(self) -> list[bytes | memoryview]:
        """The command's bytes for Redis, with large arguments as separate buffers."""
        return [self.frame] if self.frame else encode_command(self.argv)


class KeyTemplate:
    """A frame with two holes: commands that differ only in their second word and in their payload.

    before, after: their bytes up to the second word, and from its end up to the payload; they contain the lengths of
                   word and payload, so all these commands have the same length.
    word_at, word_end: where a command's second word is, from the `$` to the line break after it.
    after_at, payload_at, stride: where that word ends without it, where the payload begins, and the next command.
    action: starts a burst of them; attached by the server.
    """

    __slots__ = (
        "_pattern", "action", "after", "after_at", "before", "payload_at", "payload_size", "stride", "word_at",
        "word_end",
    )  # fmt: skip

    def __init__(self, before: bytes, word_size: int, after: bytes, payload_size: int) -> None:
        self.before = before
        self.after = after
        self.payload_size = payload_size
        self.word_at = before.rindex(b"$")
        self.after_at = len(before) + word_size
        self.word_end = self.after_at + 2
        self.payload_at = self.after_at + len(after)
        self.stride = self.payload_at + payload_size + 2
        self.action: Any = None
        self._pattern: re.Pattern[bytes] | None = None

    def alone(self, data: bytes) -> Burst | None:
        """The burst of one that `data` is; None if it is not exactly one command of this template."""
        if len(data) != self.stride or not self._is_at(data, 0):
            return None
        return Burst(self.action, data, [data[self.word_at : self.word_end]])

    def words(self, data: bytes, position: int, end: int) -> list[bytes]:
        """The second words, with their lengths as on the wire (`$1\\r\\nk\\r\\n`), of the consecutive commands of this
        template from `position` on: only complete ones, and at most as many as one burst takes.
        """
        stride = self.stride
        left = min((end - position) // stride, _LONGEST_BURST)
        words: list[bytes] = []
        if left >= _FEW and data.startswith(self.before, position + (_FEW - 1) * stride):
            pattern = self._pattern or self._compile()
            while left:  # in steps, so that little is read beyond the end of a short row
                step = min(left, _STEP)
                stop = position + step * stride
                found = pattern.findall(data, position, stop)
                if len(found) != step:  # so many matches of a command's length can only be commands
                    break
                words += found
                position = stop
                left -= step
        while left and self._is_at(data, position):
            words.append(data[position + self.word_at : position + self.word_end])
            position += stride
            left -= 1
        return words

    def _is_at(self, data: bytes, position: int) -> bool:
        return (
            data.startswith(self.before, position)
            and data.startswith(self.after, position + self.after_at)
            and data.startswith(b"\r\n", position + self.stride - 2)
        )

    def begins(self, data: bytes, position: int) -> bool:
        """Whether the incomplete command at `position` may be one of this template."""
        if len(data) - position < len(self.before):
            return self.before.startswith(data[position:])
        return data.startswith(self.before, position) and self.after.startswith(
            data[position + self.after_at : position + self.payload_at]
        )

    def _compile(self) -> re.Pattern[bytes]:
        at = self.word_at
        word = re.escape(self.before[at:]) + b".{%d}\r\n" % (self.after_at - len(self.before))
        rest = re.escape(self.after[2:]) + b".{%d}\r\n" % self.payload_size
        self._pattern = re.compile(re.escape(self.before[:at]) + b"(" + word + b")" + rest, re.DOTALL)
        return self._pattern


class BlobTemplate:
    """A frame with one hole: commands that differ only in one word, of the same length. A burst has one of them.

    word_at, word_end, stride: where in a command that word is, and the length of the command.
    action: starts such a burst; attached by the server.
    """

    __slots__ = ("_after", "action", "before", "stride", "word_at", "word_end")

    def __init__(self, frame: bytes, word_at: int, word_size: int, action: Any) -> None:
        self.before = frame[:word_at]
        self.word_at = word_at
        self.word_end = word_at + word_size
        self._after = frame[self.word_end :]
        self.stride = len(frame)
        self.action = action

    def alone(self, data: bytes) -> Burst | None:
        """The burst of one that `data` is; None if it is not exactly one command of this template."""
        if len(data) != self.stride or not (data.startswith(self.before) and data.endswith(self._after)):
            return None
        return Burst(self.action, data, [data[self.word_at : self.word_end]])

    def words(self, data: bytes, position: int, end: int) -> list[bytes]:
        """The word of the command at `position`, if that is a complete command of this template."""
        if end - position < self.stride or not self._is_at(data, position):
            return []
        return [data[position + self.word_at : position + self.word_end]]

    def _is_at(self, data: bytes, position: int) -> bool:
        return data.startswith(self.before, position) and data.startswith(self._after, position + self.word_end)

    def begins(self, data: bytes, position: int) -> bool:
        """Whether the incomplete command at `position` may be one of this template."""
        if len(data) - position < self.word_at:
            return self.before.startswith(data[position:])
        return data.startswith(self.before, position) and self._after.startswith(data[position + self.word_end :])


Template = KeyTemplate | BlobTemplate


class Burst:
    """One or more consecutive commands with one action.

    frame: their bytes.   words: one per command: for a KeyTemplate the second word, with its length as on the wire; for
    a BlobTemplate the word in which they differ; for others the name.
    """

    __slots__ = ("action", "frame", "words")

    def __init__(self, action: Any, frame: bytes, words: list[bytes]) -> None:
        self.frame = frame
        self.words = words
        self.action = action


class Frames:
    """Remembered frames, shared by all connections of a server; bounded, and cleared completely when full."""

    __slots__ = ("by_bytes", "templates")

    def __init__(self, limit: int = 4096) -> None:
        self.by_bytes: BoundedCache[bytes, Command] = BoundedCache(limit)
        self.templates: BoundedCache[tuple[bytes, bytes], KeyTemplate] = BoundedCache(limit)

    def keep_template(self, command: Command, action: Callable[[KeyTemplate], Any], *, payload: bool = True) -> None:
        """Remember the template of a command; a new one gets `action(template)`. A command in an unusual encoding gets
        none.

        Args: payload: the last word is a payload, which may be anything of that length; otherwise only the second word
              differs.
        """
        name, word = command.argv[:2]
        payload_size = len(command.argv[-1]) if payload else 0
        before = b"*%d\r\n$%d\r\n%b\r\n$%d\r\n" % (len(command.argv), len(name), name, len(word))
        head = command.frame[: -payload_size - 2]
        after = head[len(before) + len(word) :]
        template = self.templates.get((before, after))
        if template is None:
            if not head.startswith(before) or len(head) > MAX_FRAME:
                return
            template = self.templates.keep((before, after), KeyTemplate(before, len(word), after, payload_size))
            template.action = action(template)
        if not payload:
            command.template = template

    def template_of(self, head: bytes) -> KeyTemplate | None:
        """The template of commands with this head: up to the payload, or without one up to the last CR."""
        found = _SECOND_WORD(head)
        if found is None:
            return None
        start = found.end()
        return self.templates.get((head[:start], head[start + int(found[1]) :]))

    def remember(self, command: Command) -> None:
        """Return `command` from now on for frames with exactly its bytes."""
        if len(command.frame) <= MAX_FRAME:
            self.by_bytes.keep(command.frame, command)


def encode_command(argv: list[Any]) -> list[bytes | memoryview]:
    """A command's bytes for Redis; arguments of 16 KiB and more stay separate buffers.

    An argument that is a tuple of buffers is sent as one bulk string, its parts unjoined.
    """
    segments: list[bytes | memoryview] = []
    head = [b"*%d\r\n" % len(argv)]
    for argument in argv:
        if type(argument) is tuple:
            head.append(b"$%d\r\n" % sum(map(len, argument)))
            segments += (b"".join(head), *argument)
            head = [b"\r\n"]
        elif len(argument) >= 16384:
            head.append(b"$%d\r\n" % len(argument))
            segments += (b"".join(head), argument)
            head = [b"\r\n"]
        else:
            head.append(b"$%d\r\n%b\r\n" % (len(argument), argument))
    segments.append(b"".join(head))
    return segments
