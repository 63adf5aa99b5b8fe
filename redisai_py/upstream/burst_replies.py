"""Redis's replies to a burst, commands that are sent together: usually they are alike and need no parsing. Pure."""

from __future__ import annotations

from typing import Any

__all__ = ["INCOMPLETE", "UNLIKE", "BurstReplies"]

INCOMPLETE, UNLIKE = -1, -2

_MOST_BYTES = 128 * 1024
"""Longer replies are parsed as they come: unparsed ones are kept until all have come."""
_LONGEST_LENGTH = 16
"""Maximum bytes of a string's length on the wire."""


class BurstReplies:
    """The replies to consecutive commands that Redis answers with a string or an error each, never with an array.

    The stream shows bytes to `joint_reply`, unparsed, that are the replies if all are as long as the first, which
    it must check, and passes the result to `answer_together`. It parses all other replies and passes them to
    `answer_each`.
    """

    __slots__ = ("_replies", "count")

    def __init__(self, count: int) -> None:
        self.count = count
        self._replies: list[Any] = []

    def joint_reply(self, data: bytes, start: int, end: int) -> bytes | None:
        """The client's replies to all, if these replies of Redis are alike."""
        raise NotImplementedError

    def answer_together(self, reply: bytes) -> None:
        """Send what `joint_reply` returned."""
        raise NotImplementedError

    def answer_each(self, replies: list[Any]) -> None:
        """Reply to each with Redis's reply; see `Callback`."""
        raise NotImplementedError

    def __call__(self, reply: Any) -> None:
        """One parsed reply."""
        self._replies.append(reply)
        if len(self._replies) == self.count:
            self.answer_each(self._replies)

    @property
    def begun(self) -> bool:
        """Whether some of the replies were parsed."""
        return bool(self._replies)

    def end(self, data: bytes, start: int) -> int:
        """Where the replies end if all are as long as the first, which begins at `start`. UNLIKE: they must be parsed;
        INCOMPLETE: not all have come.
        """
        stop = data.find(b"\r\n", start, start + _LONGEST_LENGTH)
        if stop < 0:
            return INCOMPLETE if len(data) < start + _LONGEST_LENGTH else UNLIKE
        length = data[start + 1 : stop]
        if data[start] != 36 or not length.isdigit():  # '$'
            return UNLIKE
        stride = stop - start + int(length) + 4
        end = start + self.count * stride
        if end - start > _MOST_BYTES:
            return UNLIKE
        if end <= len(data):
            return end
        first = data[start : stop + 2]
        size = len(first)
        alike = all([first.startswith(data[at : at + size]) for at in range(start, len(data), stride)])
        return INCOMPLETE if alike else UNLIKE
