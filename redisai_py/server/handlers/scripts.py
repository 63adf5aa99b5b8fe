"""AI.SCRIPT*: store, read, delete, list, run; and what a running script may ask of the server."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import hiredis

from redisai_py.commands import COMMANDS, scripts, tensors
from redisai_py.commands.replies import scan_reply, script_reply
from redisai_py.errors import CommandError, DeadlineExceeded, RedisAIError, UpstreamError
from redisai_py.model import Script
from redisai_py.resp_reply import OK, TIMEDOUT, encode_reply
from redisai_py.server.handlers.models import load_model
from redisai_py.server.handlers.tensors import tensor_get, tensor_set
from redisai_py.server.keymap import Place
from redisai_py.tensor import Tensor

if TYPE_CHECKING:
    from redisai_py.server.connection import Connection

__all__ = [
    "SCRIPT_MISSING",
    "ConnectionHost",
    "run_script",
    "script_del",
    "script_execute",
    "script_get",
    "script_scan",
    "script_store",
]

SCRIPT_MISSING = "ERR script key is empty"

_NOT_FROM_SCRIPTS = frozenset(
    (
        b"SUBSCRIBE PSUBSCRIBE SSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE SUNSUBSCRIBE MONITOR SYNC PSYNC MULTI EXEC DISCARD "
        b"WATCH UNWATCH AUTH HELLO RESET QUIT SELECT CLIENT BLPOP BRPOP BLMOVE BRPOPLPUSH BZPOPMIN BZPOPMAX BLMPOP "
        b"BZMPOP WAIT WAITAOF SHUTDOWN DEBUG REPLCONF FAILOVER"
    ).split()
)
"""Commands that block, or that change what the client's connection is."""


async def script_store(request: scripts.ScriptStore, connection: Connection) -> Any:
    """AI.SCRIPTSTORE, AI.SCRIPTSET: compiled first, so that a bad script never replaces a good one."""
    store = (await connection.session.authenticated()).store
    await connection.server.scripts.compile(request.source, request.device, request.entry_points)
    script = Script(uuid.uuid4().hex, request.device, request.tag, request.entry_points, request.source)
    await store.put_script(request.key, script)
    connection.server.loading.holds(_place(request.key, connection), script)
    return OK


def _place(key: bytes, connection: Connection) -> Place:
    return Place("SCRIPT", connection.session.identity.database, key)


async def script_get(request: scripts.ScriptGet, connection: Connection) -> Any:
    """AI.SCRIPTGET."""
    return script_reply(request, await (await connection.session.authenticated()).store.script(request.key))


async def script_del(request: scripts.ScriptDel, connection: Connection) -> Any:
    """AI.SCRIPTDEL."""
    store = (await connection.session.authenticated()).store
    await store.delete(request.key, b"SCRIPT", SCRIPT_MISSING)
    connection.server.loading.gone(_place(request.key, connection))
    return OK


async def script_scan(request: scripts.ScriptScan, connection: Connection) -> Any:
    """AI._SCRIPTSCAN."""
    store = (await connection.session.authenticated()).store
    return scan_reply([entry async for entry in store.scan(b"SCRIPT")])


async def script_execute(request: scripts.ScriptExecute, connection: Connection) -> Any:
    """AI.SCRIPTEXECUTE, AI.SCRIPTRUN."""
    store = (await connection.session.authenticated()).store
    script = await store.script(request.key)
    inputs = await store.tensors(request.inputs)
    try:
        outputs = await run_script(script, request, inputs, connection, request.timeout_ms)
    except DeadlineExceeded as error:
        if str(error) == "TIMEDOUT":
            return TIMEDOUT
        raise
    if not connection.gone:
        await store.put_tensors(list(zip(request.outputs, outputs, strict=True)))
    return OK


async def run_script(
    script: Script, request: scripts.ScriptExecute, inputs: list[Tensor], connection: Connection, timeout_ms: int | None
) -> list[Tensor]:
    """Run a script's function as the connection's client."""
    host = ConnectionHost(connection)
    keys, args, count = list(request.keys), list(request.args), len(request.outputs)
    server = connection.server
    place, device = _place(request.key, connection), script.device.text
    server.loading.holds(place, script)
    run = server.scripts.run(script, request.function, inputs, keys, args, count, host, timeout_ms)
    stats = server.script_stats.of(script.id)
    try:
        outputs = await run
    except RedisAIError as error:
        if str(error) != "TIMEDOUT":
            stats.failed(error)
            server.journal.script_failed(place, request.function, device, error)
        raise
    run_s, queued_s = run.duration_us / 1e6, run.queued_us / 1e6
    stats.executed(1, run_s, (queued_s,))
    stats.succeeded(1, run_s, 0)
    server.journal.script_ran(place, request.function, device, run_s, queued_s)
    return outputs


class ConnectionHost:
    """What a script may ask for, with the rights and in the database of the client that runs it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def execute(self, argv: list[bytes]) -> Any:
        """One Redis command: None, bytes, int, a list of these, or the error as a value."""
        name = argv[0].upper() if argv else b""
        if name in COMMANDS:
            return await self._execute_ai(argv)
        blocks = name in (b"XREAD", b"XREADGROUP") and b"BLOCK" in {word.upper() for word in argv}
        if name in _NOT_FROM_SCRIPTS or blocks:
            return UpstreamError(f"ERR {name.decode()} is not allowed from a script")
        try:
            (raw,) = await self._connection.session.capture([argv])
        except RedisAIError as error:
            return error
        return _tree(raw)

    async def _execute_ai(self, argv: list[bytes]) -> Any:
        try:
            request = COMMANDS[argv[0].upper()].parse(argv)
            if isinstance(request, tensors.TensorSet):
                value = await tensor_set(request, self._connection)
            elif isinstance(request, tensors.TensorGet):
                value = await tensor_get(request, self._connection)
            else:
                raise CommandError(f"ERR {argv[0].decode('utf-8', 'replace')} is not allowed from a script")
        except RedisAIError as error:
            return error
        return _tree(b"".join(encode_reply(value, 2)))

    async def model_execute(self, key: bytes, inputs: list[Tensor], outputs: int) -> list[Tensor]:
        """Run a stored model: not counted in its statistics, as RedisAI does not."""
        connection = self._connection
        access = await connection.session.authenticated()
        (ids,) = access.pipeline([(b"HMGET", key, b"kind", b"id")])
        loaded = await load_model(key, ids, access.store, connection)
        for noun, names, given in (("inputs", loaded.inputs, len(inputs)), ("outputs", loaded.outputs, outputs)):
            if len(names) != given:
                raise CommandError(f"ERR Expected {len(names)} {noun} but got {given}")
        values = await connection.server.engine.run_model(loaded, list(inputs), counted=False)
        return [value for value in values if isinstance(value, Tensor)]


def _tree(raw: bytes) -> Any:
    reader = hiredis.Reader()
    reader.feed(raw)
    return _with_errors(reader.gets())


def _with_errors(reply: Any) -> Any:
    if isinstance(reply, hiredis.ReplyError):
        return UpstreamError(str(reply))
    if isinstance(reply, list):
        return [_with_errors(item) for item in reply]
    if isinstance(reply, dict):
        return [_with_errors(item) for pair in reply.items() for item in pair]
    if isinstance(reply, float):
        return repr(reply).encode()
    return int(reply) if isinstance(reply, bool) else reply
