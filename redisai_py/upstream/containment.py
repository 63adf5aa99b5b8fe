"""Containment: an exception in a callback affects only the client whose command raised it.

Replies of Redis and results of runs reach callbacks from loops that many clients share. An exception there is a bug of
ours. It must neither end the stream nor leave a client waiting: the client gets the error and its connection is closed,
because the state of its command is unknown. The loop continues with the next reply.

The client is found in the callback itself: a turn, or an object with an attribute `turn`, among the arguments of a
`partial`, the object of a bound method, and the items of lists and tuples.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import MethodType
from typing import Any, Protocol

import structlog

__all__ = ["Requester", "contain"]

logger = structlog.get_logger()


class Requester(Protocol):
    """A client's turn."""

    gone: bool
    """The client has left."""

    def broken(self, error: BaseException) -> None:
        """Answer the command with the error, and close the connection."""


def contain(asked: Any, error: Exception) -> None:
    """Answer and close every client in `asked`, a callback or its members. Never fails; logs the traceback."""
    requesters = dict.fromkeys(_requesters(asked))
    if not requesters:
        logger.error("internal error", callback=repr(asked)[:200], exc_info=error)
    for requester in requesters:
        requester.broken(error)


def _requesters(value: Any) -> Iterator[Requester]:
    if isinstance(value, partial):
        yield from _requesters(value.func)
        yield from _requesters(value.args)
    elif isinstance(value, MethodType):
        yield from _requesters(value.__self__)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _requesters(item)
    elif hasattr(value, "broken"):
        yield value
    elif (turn := getattr(value, "turn", None)) is not None:
        yield turn
