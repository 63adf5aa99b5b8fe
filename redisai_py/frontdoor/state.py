"""What Redis knows of one client, and how that changes the effect of the client's commands."""

from __future__ import annotations

import enum
from collections.abc import Callable

from redisai_py.frontdoor.tracking import Tracking
from redisai_py.upstream.address import Identity

__all__ = ["Mode", "State"]


class Mode(enum.IntEnum):
    """States in which commands are handled specially; falsy is the ordinary state."""

    NORMAL = 0
    TRANSACTION = 1
    SUBSCRIBED = 2  # RESP2 with at least one subscription: Redis accepts few commands
    MONITOR = 3
    TUNNEL = 4  # replication: bytes pass both ways, for good
    TRACKED = 5  # CLIENT TRACKING: Redis sends the client invalidations


class State:
    """Args: on_accepted: called when it is known whether Redis serves the client."""

    def __init__(self, on_accepted: Callable[[bool], object]) -> None:
        self._on_accepted = on_accepted
        self.protocol = 2
        self.identity = Identity()
        self.accepted = False
        """Redis has sent a reply that only authenticated clients get."""
        self.mode = Mode.NORMAL
        self.tracking: Tracking | None = None
        self.watches = False
        """WATCH: an EXEC of ours would end it."""
        self.sticky = False
        """Redis holds state for this client that a new connection would lack."""
        self.subscribed: dict[bytes, set[bytes]] = {b"": set(), b"p": set(), b"s": set()}
        """Channels, patterns, shards."""

    def accept(self, accepted: bool = True) -> None:
        """Redis has shown that it serves this client; after RESET that is unknown again."""
        self.accepted = accepted
        self._on_accepted(accepted)

    def track(self, tracking: Tracking | None) -> None:
        """Tracking was turned on or off."""
        self.tracking = tracking
        if self.mode in (Mode.NORMAL, Mode.TRACKED):
            self.mode = self.resting_mode

    @property
    def resting_mode(self) -> Mode:
        """The mode without transactions, subscriptions and the like."""
        return Mode.TRACKED if self.tracking is not None else Mode.NORMAL

    def forget(self) -> None:
        """Redis answered RESET: the client is like a new one, except for its identity."""
        self.accept(False)
        self.protocol = 2
        self.tracking = None
        self.mode = Mode.NORMAL
        self.sticky = self.watches = False
        for names in self.subscribed.values():
            names.clear()
