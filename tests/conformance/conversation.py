"""One connection that is spoken to in the words of transcripts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.conformance.contents import Contents
from tests.conformance.transcript import read_reply, request_bytes
from tests.support import raw_socket

__all__ = ["CONTENTS", "Conversation", "talk"]

CONTENTS = Contents()


class Conversation:
    """Commands out, replies in, both as transcripts write them."""

    def __init__(self, port: int) -> None:
        self._open = contextlib.ExitStack()
        self.socket = self._open.enter_context(raw_socket(port))
        self._answers = self._open.enter_context(self.socket.makefile("rb"))

    def send(self, *commands: str) -> None:
        """Send commands in one piece, without waiting."""
        self.socket.sendall(b"".join(request_bytes(words, CONTENTS) for words in commands))

    def reply(self) -> str:
        """The next reply."""
        return read_reply(self._answers, CONTENTS.names)

    def ask(self, words: str) -> str:
        """One command and its reply."""
        self.send(words)
        return self.reply()

    def given(self, *commands: str) -> None:
        """Commands that must succeed."""
        for words in commands:
            answer = self.ask(words)
            assert not answer.startswith("-"), f"{words}: {answer}"

    def close(self) -> None:
        """Close the connection."""
        self._open.close()


@contextlib.contextmanager
def talk(port: int) -> Iterator[Conversation]:
    """A conversation that is closed at the end."""
    conversation = Conversation(port)
    try:
        yield conversation
    finally:
        conversation.close()
