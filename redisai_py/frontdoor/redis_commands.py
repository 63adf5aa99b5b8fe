"""Commands that are not ours. Nearly all go to Redis byte for byte; here are those that change what the front door
must know (who the client is, its protocol, database and modes), and those whose replies are not one to one.

Redis always decides first: the command runs on the client's own connection, and only a reply that says yes changes
our state.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from redisai_py.errors import CommandError
from redisai_py.frontdoor import redis_info as amended
from redisai_py.frontdoor.driver import NO_REPLY
from redisai_py.frontdoor.session import Mode
from redisai_py.frontdoor.tracking import Tracking
from redisai_py.frontdoor.transaction import Transaction
from redisai_py.resp.templates import Burst, Command

if TYPE_CHECKING:
    from redisai_py.frontdoor.connection import Connection

__all__ = ["Relayed", "RelayedRow", "understand_plain"]

Action = Callable[["Connection", list[bytes]], Coroutine[Any, Any, Any]]


class Relayed:
    """Passed on as it is.

    sticky: Redis then holds state for the client that a new connection would not have.   blocks: it may wait long.
    """

    __slots__ = ("blocks", "name", "sticky")
    is_ai = False

    def __init__(self, name: bytes = b"", sticky: bool = False, blocks: bool = False) -> None:
        self.name = name
        self.sticky = sticky
        self.blocks = blocks

    @property
    def changes_nothing(self) -> bool:
        """Whether we need not know that there was such a command."""
        return not (self.sticky or self.blocks)

    def start(self, connection: Connection, command: Command) -> bool:
        if not connection.session.relay(command):
            return False
        if self.sticky:
            connection.session.sticky = True
            if self.name == b"WATCH":
                connection.session.watches = True
        if self.blocks:
            connection.session.blocks = connection.session.relayed or 1  # 1 where the connection is opened first
        return True


class RelayedRow:
    """Commands, each of which would be `Relayed` and no more, passed on together."""

    __slots__ = ()
    is_ai = False

    def start(self, connection: Connection, burst: Burst) -> bool:
        session = connection.session
        if session.upstream is None or session.skip_next:
            connection.unroll(burst)
            return True
        if not session.relay_row(burst):
            return False
        connection.server.commands_processed += len(burst.words) - 1
        return True


class Special:
    """Run alone by a coroutine that asks Redis and then changes our state."""

    __slots__ = ("action", "name")
    is_ai = False

    def __init__(self, name: bytes, action: Action) -> None:
        self.name = name
        self.action = action

    def start(self, connection: Connection, command: Command) -> bool:
        return connection.idle and connection.run_alone(self.action(connection, [bytes(word) for word in command.argv]))


def understand_plain(name: bytes) -> Relayed | Special:
    """The meaning of a command that is not AI, by its upper-case name."""
    return _MEANINGS.get(name, _RELAYED)


async def _ask(connection: Connection, argv: list[bytes]) -> bytes:
    """Redis's raw reply, which the client gets as it is; our own state follows from it."""
    (raw,) = await connection.session.capture([argv])
    return raw


def _pass(connection: Connection, raw: bytes) -> object:
    connection.write((raw,))
    return NO_REPLY


async def _auth(connection: Connection, argv: list[bytes]) -> object:
    raw = await _ask(connection, argv)
    if raw == b"+OK\r\n":
        user, password = (b"default", argv[1]) if len(argv) == 2 else (argv[1], argv[2])
        connection.session.become(replace(connection.session.identity, user=user, password=password))
        connection.session.accept()
    return _pass(connection, raw)


async def _hello(connection: Connection, argv: list[bytes]) -> object:
    raw = await _ask(connection, argv)
    session = connection.session
    if raw[:1] != b"-":
        session.accept()
        if len(argv) > 1:
            session.protocol = int(argv[1])
            if session.protocol == 2 and any(session.subscribed.values()):
                session.mode = Mode.SUBSCRIBED
        options = iter(argv[2:])
        for option in options:
            if option.upper() == b"AUTH":
                session.become(replace(session.identity, user=next(options), password=next(options)))
            else:  # SETNAME, or Redis would have refused
                next(options)
                session.sticky = True
    return _pass(connection, raw)


async def _select(connection: Connection, argv: list[bytes]) -> object:
    raw = await _ask(connection, argv)
    if raw == b"+OK\r\n":
        connection.session.become(replace(connection.session.identity, database=int(argv[1])))
    return _pass(connection, raw)


async def _reset(connection: Connection, argv: list[bytes]) -> object:
    raw = await _ask(connection, argv)
    if raw == b"+RESET\r\n":
        skipped = connection.session.skip_next
        connection.session.reset()
        connection.session.skip_next = skipped  # by CLIENT REPLY SKIP, which RESET does not undo for itself
    return _pass(connection, raw)


async def _quit(connection: Connection, argv: list[bytes]) -> object:
    connection.write((b"+OK\r\n",))
    connection.close_after_reply()
    return NO_REPLY


async def _shutdown(connection: Connection, argv: list[bytes]) -> object:
    """Alone: Redis ends without sending what it has answered before. One that works is answered by the end."""
    return _pass(connection, await _ask(connection, argv))


async def _multi(connection: Connection, argv: list[bytes]) -> object:
    raw = await _ask(connection, argv)
    if raw == b"+OK\r\n":
        connection.session.accept()
        connection.session.mode = Mode.TRANSACTION
        connection.session.transaction = Transaction(connection)
    return _pass(connection, raw)


async def _subscribe(connection: Connection, argv: list[bytes]) -> object:
    return await connection.session.stream(Command(list(argv)), max(len(argv) - 1, 1))


async def _unsubscribe(connection: Connection, argv: list[bytes]) -> object:
    session = connection.session
    kind = argv[0].lower().removesuffix(b"unsubscribe")
    confirmations = len(argv) - 1 or max(len(session.subscribed[kind]), 1)
    return await session.stream(Command(list(argv)), confirmations)


async def _monitor(connection: Connection, argv: list[bytes]) -> object:
    raw, *lines = await connection.session.capture([argv])  # what others do meanwhile comes with the reply
    if raw == b"+OK\r\n":
        connection.session.mode = Mode.MONITOR
    return _pass(connection, b"".join((raw, *lines)))


async def _replicate(connection: Connection, argv: list[bytes]) -> object:
    """A tunnel from Redis's first byte on, unless that begins an error: then it is a command like any other."""
    session = connection.session
    upstream = await session.connect()
    first = await session.tunnel(upstream, Command(list(argv)))
    return _pass(connection, first) if first[:1] == b"-" else NO_REPLY


async def _client(connection: Connection, argv: list[bytes]) -> object:
    session = connection.session
    action = argv[1].upper() if len(argv) > 1 else b""
    if action == b"REPLY" and len(argv) == 3 and session.mode is not Mode.SUBSCRIBED:  # there Redis refuses it
        return _client_reply(connection, argv[2].upper())
    raw = await _ask(connection, argv)
    if action in (b"TRACKING", b"CACHING", b"SETNAME", b"SETINFO", b"NO-EVICT", b"NO-TOUCH") and raw[:1] == b"+":
        session.sticky = action != b"SETINFO" or session.sticky
        if action == b"TRACKING":
            session.track(Tracking.from_words(argv))
    return _pass(connection, raw)


def _client_reply(connection: Connection, how: bytes) -> object:
    """CLIENT REPLY is ours to keep: Redis goes on answering us, so that replies stay countable, and we say nothing."""
    session = connection.session
    if how == b"ON":
        session.muted = session.skip_next = False
        connection.write((b"+OK\r\n",))
    elif how == b"OFF":
        session.muted, session.skip_next = True, False
    elif how == b"SKIP":
        session.skip_next = not session.muted
    else:
        raise CommandError("ERR syntax error")
    return NO_REPLY


async def _http(connection: Connection, argv: list[bytes]) -> object:
    """A browser tricked into sending a request here: Redis closes such connections, and so do we."""
    connection.close_after_reply()
    return NO_REPLY


_RELAYED = Relayed()
_MEANINGS: dict[bytes, Relayed | Special] = {
    name: Special(name, action)
    for name, action in {
        b"AUTH": _auth,
        b"HELLO": _hello,
        b"SELECT": _select,
        b"RESET": _reset,
        b"QUIT": _quit,
        b"SHUTDOWN": _shutdown,
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
        b"INFO": amended.info,
        b"COMMAND": amended.command,
        b"MODULE": amended.module,
    }.items()
}
_MEANINGS |= {name: Relayed(name) for name in (b"EXEC", b"DISCARD", b"UNWATCH", b"PING")}
_MEANINGS |= {name: Relayed(name, sticky=True) for name in (b"WATCH", b"READONLY", b"ASKING", b"REPLCONF")}
_MEANINGS |= {
    name: Relayed(name, blocks=True)
    for name in (
        b"BLPOP BRPOP BLMOVE BRPOPLPUSH BLMPOP BZPOPMIN BZPOPMAX BZMPOP XREAD XREADGROUP WAIT WAITAOF FAILOVER"
    ).split()
}
