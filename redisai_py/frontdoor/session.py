"""One client's state at Redis: identity, access, and modes.

An identity counts once Redis has accepted it on the client's own connection (`relay`). Only then do AI commands get the
identity's shared `Access`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from redisai_py.errors import NotAuthenticated, UpstreamError, UpstreamRefused
from redisai_py.frontdoor.eager_task import NO_REPLY
from redisai_py.frontdoor.relay import Relay
from redisai_py.frontdoor.state import Mode, State
from redisai_py.frontdoor.tracking import OwnAccess
from redisai_py.frontdoor.turn import Turn
from redisai_py.resp.redis_errors import error_in
from redisai_py.upstream.access import Access
from redisai_py.upstream.address import Identity

__all__ = ["Session"]


class Session(State):
    """A client's state at Redis. Args: see `State`, `Relay`."""

    def __init__(self, turn: Turn, on_accepted: Callable[[bool], object], on_flow: Callable[[bool], object]) -> None:
        super().__init__(on_accepted)
        self.turn = turn
        self.relay = Relay(self, turn, on_flow)
        self.capture = self.relay.capture
        self.access: Access | None = None
        self.transaction: Any = None
        """The `Transaction` since MULTI."""

    async def authenticated(self) -> Access:
        """The identity's shared access, once Redis has accepted this client on its own connection.

        Raises: NotAuthenticated; the client must AUTH first.
        """
        if self.access is None:
            try:
                raw = await self.ask([b"PING"])
            except UpstreamRefused as refused:
                return await self._as_anybody(refused)
            if isinstance(error := error_in(raw), NotAuthenticated):
                raise error
            self.accept()
            self.access = self._accesses.acquire(self.identity)
        return await self._open(self.access)

    @property
    def _accesses(self) -> Any:
        return self.turn.services.accesses

    async def _as_anybody(self, refused: UpstreamRefused) -> Access:
        """Redis has no capacity for this client's own connection, which AI commands do not need. Raises `refused`
        unless the shared connection exists and Redis requires no password.
        """
        if self.identity.user is not None:
            raise refused
        access = self._accesses.acquire(self.identity)
        try:
            shared = await access.ensure()
            # Any password is correct for a user without one, and only then; the shared connection stays unchanged.
            await shared.call(b"AUTH", b"default", b"")
        except UpstreamError:
            self._accesses.release(access)
            raise refused from None
        self.accept()
        self.access = access
        return await self._open(access)

    async def is_accepted(self) -> bool:
        """Whether Redis serves this client; asks Redis if no reply has shown it yet. Raises: UpstreamError."""
        if not self.accepted:
            raw = await self.ask([b"PING"])
            if not isinstance(error_in(raw), NotAuthenticated):
                self.accept()
        return self.accepted

    async def authenticated_in_multi(self) -> Access:
        """`authenticated` inside a transaction, where a PING would be queued: MULTI's own OK proved the identity."""
        if self.access is None:
            self.access = self._accesses.acquire(self.identity)
        return await self._open(self.access)

    async def _open(self, access: Access) -> Access:
        await access.ensure()
        if self.access is not access:  # released while it was being opened for others too
            raise UpstreamError("ERR client disconnected")
        if self.tracking is not None and self.tracking.noloop and self.mode is Mode.TRACKED:
            return OwnAccess(self, access).as_access()
        return access

    async def ask(self, argv: list[Any]) -> bytes:
        """Redis's raw reply to a command on the client's own connection; the caller updates our state from it."""
        (raw,) = await self.capture([argv])
        return raw

    def pass_on(self, raw: bytes) -> object:
        """Give the client Redis's reply unchanged."""
        self.turn.write((raw,))
        return NO_REPLY

    def begin_transaction(self, transaction: Any) -> None:
        """MULTI."""
        self.accept()
        self.mode = Mode.TRANSACTION
        self.transaction = transaction

    def leave_transaction(self) -> None:
        """EXEC or DISCARD has ended the transaction, and every WATCH."""
        self.watches = False
        self.mode = self.resting_mode
        self.transaction = None

    def select(self, database: int) -> None:
        """Redis changed the client's database."""
        self.change_identity(replace(self.identity, database=database))

    def change_identity(self, identity: Identity) -> None:
        """The client has a new identity or database from now on."""
        if identity != self.identity:
            self.identity = identity
            self._release()

    def _release(self) -> None:
        if self.access is not None:
            self._accesses.release(self.access)
            self.access = None

    def reset(self) -> None:
        """Redis answered RESET: the client is like a new one."""
        self.change_identity(Identity())
        self._release()
        self.forget()
        self.transaction = None
        self.turn.mute(False)
        self.relay.reset()

    def close(self) -> None:
        """The client has left."""
        self._release()
        self.relay.close()
