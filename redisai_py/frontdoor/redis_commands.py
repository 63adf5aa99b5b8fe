"""Commands other than AI commands. Nearly all go to Redis byte for byte. This module handles commands that change what
the front door must know (identity, protocol, database, modes), and commands whose replies are not one to one.

Redis always decides first: the command runs on the client's own connection, and only a positive reply changes our
state.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from redisai_py.errors import CommandError
from redisai_py.frontdoor import redis_info
from redisai_py.frontdoor.eager_task import NO_REPLY
from redisai_py.frontdoor.redis_info import ask_and_pass_on
from redisai_py.frontdoor.session import Session
from redisai_py.frontdoor.state import Mode
from redisai_py.frontdoor.tracking import Tracking
from redisai_py.frontdoor.transaction import Transaction
from redisai_py.resp.templates import Burst, Command

__all__ = ["Relayed", "RelayedBurst", "redis_action"]

Handler = Callable[[Session, list[bytes]], Coroutine[Any, Any, Any]]


@dataclass(frozen=True, slots=True)
class Relayed:
    """Passed on unchanged.

    sticky: afterwards Redis holds state for the client that a new connection would lack.   blocks: it may wait long.
    """

    name: bytes = b""
    sticky: bool = False
    blocks: bool = False
    is_ai: ClassVar = False

    @property
    def changes_nothing(self) -> bool:
        """Whether the command has no effect on our state."""
        return not (self.sticky or self.blocks)

    def start(self, session: Session, command: Command) -> bool:
        if not session.relay.pass_on(command):
            return False
        if self.sticky:
            session.sticky = True
            if self.name == b"WATCH":
                session.watches = True
        if self.blocks:
            session.relay.blocks = session.turn.relayed or 1  # 1 if the connection must be opened first
        return True


class RelayedBurst:
    """Commands that would each be `Relayed` and nothing else, passed on together."""

    __slots__ = ()
    is_ai = False

    def start(self, session: Session, burst: Burst) -> bool:
        turn, relay = session.turn, session.relay
        if relay.upstream is None or turn.skip_next:
            turn.unroll(burst)
            return True
        return relay.pass_on_burst(burst)


@dataclass(frozen=True, slots=True)
class Special:
    """Run exclusively by a coroutine that asks Redis and then changes our state."""

    name: bytes
    handler: Handler
    is_ai: ClassVar = False

    def start(self, session: Session, command: Command) -> bool:
        turn = session.turn
        return turn.idle and turn.run_alone(self.handler(session, [bytes(word) for word in command.argv]))


def redis_action(name: bytes) -> Relayed | Special:
    """The action of a command that is not AI, by its upper-case name."""
    return _ACTIONS.get(name, _RELAYED)


async def _auth(session: Session, argv: list[bytes]) -> object:
    raw = await session.ask(argv)
    if raw == b"+OK\r\n":
        user, password = (b"default", argv[1]) if len(argv) == 2 else (argv[1], argv[2])
        session.change_identity(replace(session.identity, user=user, password=password))
        session.accept()
    return session.pass_on(raw)


async def _hello(session: Session, argv: list[bytes]) -> object:
    raw = await session.ask(argv)
    if raw[:1] != b"-":
        session.accept()
        if len(argv) > 1:
            session.protocol = int(argv[1])
            if session.protocol == 2 and any(session.subscribed.values()):
                session.mode = Mode.SUBSCRIBED
        options = iter(argv[2:])
        for option in options:
            if option.upper() == b"AUTH":
                session.change_identity(replace(session.identity, user=next(options), password=next(options)))
            else:  # SETNAME, since Redis has accepted the command
                next(options)
                session.sticky = True
    return session.pass_on(raw)


async def _select(session: Session, argv: list[bytes]) -> object:
    raw = await session.ask(argv)
    if raw == b"+OK\r\n":
        session.select(int(argv[1]))
    return session.pass_on(raw)


async def _reset(session: Session, argv: list[bytes]) -> object:
    raw = await session.ask(argv)
    if raw == b"+RESET\r\n":
        skipped = session.turn.skip_next
        session.reset()
        session.turn.skip(skipped)  # from CLIENT REPLY SKIP, which applies to RESET itself
    return session.pass_on(raw)


async def _quit(session: Session, argv: list[bytes]) -> object:
    session.turn.write((b"+OK\r\n",))
    session.turn.close_after_reply()
    return NO_REPLY


async def _multi(session: Session, argv: list[bytes]) -> object:
    raw = await session.ask(argv)
    if raw == b"+OK\r\n":
        session.begin_transaction(Transaction(session))
    return session.pass_on(raw)


async def _subscribe(session: Session, argv: list[bytes]) -> object:
    return await session.relay.stream(Command(list(argv)), max(len(argv) - 1, 1))


async def _unsubscribe(session: Session, argv: list[bytes]) -> object:
    kind = argv[0].lower().removesuffix(b"unsubscribe")
    confirmations = len(argv) - 1 or max(len(session.subscribed[kind]), 1)
    return await session.relay.stream(Command(list(argv)), confirmations)


async def _monitor(session: Session, argv: list[bytes]) -> object:
    raw, *lines = await session.capture([argv])  # other clients' commands may come with the reply
    if raw == b"+OK\r\n":
        session.mode = Mode.MONITOR
    return session.pass_on(b"".join((raw, *lines)))


async def _replicate(session: Session, argv: list[bytes]) -> object:
    """A tunnel from Redis's first byte on, unless Redis answers with an error: then it is an ordinary command."""
    upstream = await session.relay.connect()
    first = await session.relay.tunnel(upstream, Command(list(argv)))
    return session.pass_on(first) if first[:1] == b"-" else NO_REPLY


async def _client(session: Session, argv: list[bytes]) -> object:
    action = argv[1].upper() if len(argv) > 1 else b""
    if action == b"REPLY" and len(argv) == 3 and session.mode is not Mode.SUBSCRIBED:  # Redis refuses it there
        return _client_reply(session, argv[2].upper())
    raw = await session.ask(argv)
    if action in (b"TRACKING", b"CACHING", b"SETNAME", b"SETINFO", b"NO-EVICT", b"NO-TOUCH") and raw[:1] == b"+":
        session.sticky = action != b"SETINFO" or session.sticky
        if action == b"TRACKING":
            session.track(Tracking.from_words(argv))
    return session.pass_on(raw)


def _client_reply(session: Session, how: bytes) -> object:
    """We implement CLIENT REPLY ourselves: Redis keeps replying, so that replies can be counted, and we drop them."""
    if how == b"ON":
        session.turn.mute(False)
        session.turn.write((b"+OK\r\n",))
    elif how == b"OFF":
        session.turn.mute(True)
    elif how == b"SKIP":
        session.turn.skip(not session.turn.muted)
    else:
        raise CommandError("ERR syntax error")
    return NO_REPLY


async def _http(session: Session, argv: list[bytes]) -> object:
    """A browser tricked into sending a request here: like Redis, we close such connections."""
    session.turn.close_after_reply()
    return NO_REPLY


_RELAYED = Relayed()
_ACTIONS: dict[bytes, Relayed | Special] = {
    name: Special(name, handler)
    for name, handler in {
        b"AUTH": _auth,
        b"HELLO": _hello,
        b"SELECT": _select,
        b"RESET": _reset,
        b"QUIT": _quit,
        b"SHUTDOWN": ask_and_pass_on,  # Redis exits without sending earlier replies; then the connection just ends
        b"MULTI": _multi,
        b"SUBSCRIBE": _subscribe,
        b"PSUBSCRIBE": _subscribe,
        b"SSUBSCRIBE": _subscribe,
        b"UNSUBSCRIBE": _unsubscribe,
        b"PUNSUBSCRIBE": _unsubscribe,
        b"SUNSUBSCRIBE": _unsubscribe,
        b"MONITOR": _monitor,
        b"SYNC": _replicate,
        b"PSYNC": _replicate,
        b"CLIENT": _client,
        b"POST": _http,
        b"HOST:": _http,
        b"INFO": redis_info.info,
        b"COMMAND": redis_info.command,
        b"MODULE": redis_info.module,
    }.items()
}
_ACTIONS |= {name: Relayed(name) for name in (b"EXEC", b"DISCARD", b"UNWATCH", b"PING")}
_ACTIONS |= {name: Relayed(name, sticky=True) for name in (b"WATCH", b"READONLY", b"ASKING", b"REPLCONF")}
_ACTIONS |= {
    name: Relayed(name, blocks=True)
    for name in (
        b"BLPOP BRPOP BLMOVE BRPOPLPUSH BLMPOP BZPOPMIN BZPOPMAX BZMPOP XREAD XREADGROUP WAIT WAITAOF FAILOVER"
    ).split()
}
