"""What Redis knows of one client, and how that changes what the client's commands do."""

from __future__ import annotations

import enum
from collections.abc import Callable

from redisai_py.frontdoor.tracking import Tracking
from redisai_py.upstream.address import Identity

__all__ = ["Mode", "State"]


class Mode(enum.IntEnum):
    """States in which commands do not simply run; falsy is the ordinary one."""

    NORMAL = 0
    TRANSACTION = 1
    SUBSCRIBED = 2  # RESP2 with at least one subscription: Redis takes few commands
    MONITOR = 3
    TUNNEL = 4  # replication: bytes both ways, never ours again
    TRACKED = 5  # CLIENT TRACKING: Redis tells the client what has changed


class State:
    """Args: on_accepted: told when it turns out whether Redis serves the client."""

    def __init__(self, on_accepted: Callable[[bool], object]) -> None:
        self._on_accepted = on_accepted
        self.protocol = 2
        self.identity = Identity()
        self.accepted = False
        """Redis has answered something that it answers to nobody who has yet to authenticate."""
        self.mode = Mode.NORMAL
        self.tracking: Tracking | None = None
        self.watches = False
        """WATCH: an EXEC of ours would end it."""
        self.sticky = False
        """Redis holds state for this client that a new connection would not have."""
        self.subscribed: dict[bytes, set[bytes]] = {b"": set(), b"p": set(), b"s": set()}
        """Channels, patterns, shards."""

    def accept(self, accepted: bool = True) -> None:
        """Redis has shown that it serves this client; after RESET that is open again."""
        self.accepted = accepted
        self._on_accepted(accepted)

    def track(self, tracking: Tracking | None) -> None:
        """Redis does, or does not any more, tell the client what has changed."""
        self.tracking = tracking
        if self.mode in (Mode.NORMAL, Mode.TRACKED):
            self.mode = self.resting_mode

    @property
    def resting_mode(self) -> Mode:
        """The mode outside of transactions, subscriptions and the like."""
        return Mode.TRACKED if self.tracking is not None else Mode.NORMAL

    def forget(self) -> None:
        """Redis answered RESET: the client is as new, but for its identity."""
        self.accept(False)
        self.protocol = 2
        self.tracking = None
        self.mode = Mode.NORMAL
        self.sticky = self.watches = False
        for names in self.subscribed.values():
            names.clear()
