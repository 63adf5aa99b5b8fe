"""Recognising commands without parsing them: most of what a busy server receives. Pure.

- A frame that was seen before is found by its bytes (`Frames`).
- Commands that match a known template are recognised by it (`templates`); several in a row are one `Burst`. So are
  commands with a joint action, such as those that are only passed through.
- A chunk that is one ordinary command is parsed by hiredis.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import hiredis

from redisai_py.resp.reader import MORE, STEP, new_reader
from redisai_py.resp.templates import MAX_FRAME, Burst, Command, Frames, Template

__all__ = ["Recogniser"]

_BLOB_MARK = b"\r\n$4\r\nBLOB\r\n$"
_LARGE_COUNT = re.compile(rb"\*\d{4}").search
_ONLY_BYTES = {bytes}
_PLAIN_NAME = re.compile(rb"\*\d{1,3}\r\n\$\d{1,2}\r\n([A-Za-z]+)\r\n").match


class Recogniser:
    """Recognises the command at a position.

    Args: frames: remembered frames.   bursts, joint: see `CommandParser`.   burst_size: its most bytes, 0 for none.
    """

    __slots__ = ("_burst_size", "_bursts", "_frames", "_joint", "_reader", "template")

    def __init__(self, frames: Frames, bursts: bool, joint: Callable[[bytes], Any], burst_size: int) -> None:
        self._frames = frames
        self._bursts = bursts
        self._joint = joint
        self._burst_size = burst_size
        self._reader = new_reader()
        self.template: Template | None = None
        """The template of the last burst, or one the server has set: the next command probably matches it."""

    def _burst(self, data: bytes, position: int, end: int) -> Burst | None:
        """The commands of a known template that start at `position`."""
        template = self.template
        words = template.words(data, position, end) if template is not None else None
        if not words:
            mark = data.find(_BLOB_MARK, position, position + MAX_FRAME)
            if mark < 0:
                return None
            other = self._frames.template_of(data[position : data.find(b"\r\n", mark + 14) + 2])
            if other is None or other is template:
                return None
            self.template = template = other
            words = template.words(data, position, end)
        if not words:
            return None
        assert template is not None
        return Burst(template.action, data[position : position + len(words) * template.stride], words)

    def _recognise(self, data: bytes, position: int, end: int) -> Command | Burst | None:
        """The remembered command whose frame starts at `position`, or all the following ones together if they have no
        payload and differ only in their second word.
        """
        stop = data.find(b"\r\n*", position, position + MAX_FRAME) + 2
        if stop < 2:
            stop = end
        if stop - position > MAX_FRAME:
            return None
        frame = data[position:stop]
        known = self._frames.by_bytes.get(frame)
        template: Template | None = known.template if known is not None else self._frames.template_of(frame[:-2])
        if template is not None and self._bursts and (known is None or data.startswith(template.before, stop)):
            words = template.words(data, position, end)
            if words:
                self.template = template
                return Burst(template.action, data[position : position + len(words) * template.stride], words)
        return known

    def _joint_burst(self, data: bytes, position: int, end: int) -> Burst | None:
        """All complete commands from `position` on, if they have a joint action."""
        first = _PLAIN_NAME(data, position)
        action = self._joint(first[1]) if first is not None else None
        if action is None:
            return None
        stop = end if data.endswith(b"\r\n") else data.rfind(b"\r\n*", position, end) + 2
        if not position < stop <= position + self._burst_size:
            return None
        frame = data[position:stop]
        names = self._read(frame, action)
        return Burst(action, frame, names) if names else None

    def _parse_quick(self, data: bytes) -> Command | None:
        """The command, if the chunk is exactly one ordinary command; otherwise None."""
        words = self._read(data, None)
        # hiredis also parses RESP types other than bulk strings, but commands must not contain them.
        return Command(words, data) if words and hiredis.pack_command(tuple(words)) == data else None

    def _read(self, data: bytes, action: Any) -> list[Any]:
        """Let hiredis parse commands: the names of all commands in the data, if all have this joint action; or, with
        `action` None, the words of the only command. Empty if the data is anything else.

        hiredis is several times faster than Python. But it allocates what a count announces, accepts more than commands
        consist of, and does not say where a command ends. So it gets no large counts, and its result is checked.
        """
        if data[:1] != b"*" or _LARGE_COUNT(data) is not None:
            return []
        reader, joint = self._reader, self._joint
        found: list[Any] = []
        whole = False  # whether the reader's data ends with a command; only known directly after one
        try:
            for at in range(0, len(data), STEP):
                reader.feed(data[at : at + STEP])
                whole = False
                while not whole and (argv := reader.gets()) is not MORE:
                    if type(argv) is not list or set(map(type, argv)) != _ONLY_BYTES:
                        return []
                    if action is None:
                        if reader.has_data():
                            return []
                        found = argv
                    elif joint(argv[0]) is action:
                        found.append(argv[0])  # only the name: all words would be new memory for each command
                    else:
                        return []
                    whole = not reader.has_data()
        except hiredis.ProtocolError:
            whole = False
        finally:
            if not whole:
                self._reader = new_reader()
        return found if whole else []
