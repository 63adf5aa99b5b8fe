"""AI.SCRIPT*: store, read, delete, list, run; and the calls of running scripts."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import hiredis

from redisai_py.ai.model_loading import load_model
from redisai_py.ai.multi import InMulti, checked, deletion
from redisai_py.commands import COMMANDS, scripts, tensors
from redisai_py.commands.models import scan_reply
from redisai_py.commands.script_runs import ScriptExecute
from redisai_py.commands.scripts import script_reply
from redisai_py.commands.tensors import tensor_reply
from redisai_py.engine.torchscript import ScriptRun
from redisai_py.errors import (
    SCRIPT_KEY_EMPTY,
    CommandError,
    MissingKey,
    QueueTimeout,
    RedisAIError,
    UpstreamError,
    UpstreamLost,
)
from redisai_py.frontdoor.services import Services
from redisai_py.frontdoor.turn import Turn
from redisai_py.model import Kind, Script
from redisai_py.ops.keymap import Held, Place
from redisai_py.pending import Pending
from redisai_py.resp.replies import OK, TIMEDOUT, encode_reply
from redisai_py.store import codec
from redisai_py.store.programs import MODEL_ID_FIELDS
from redisai_py.tensor import Tensor
from redisai_py.upstream.access import Access

__all__ = ["HANDLERS", "IN_MULTI", "ClientHost", "count_script", "known_script", "met_script", "run_script"]

_NOT_FROM_SCRIPTS = frozenset(
    (
        b"SUBSCRIBE PSUBSCRIBE SSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE SUNSUBSCRIBE MONITOR SYNC PSYNC MULTI EXEC DISCARD "
        b"WATCH UNWATCH AUTH HELLO RESET QUIT SELECT CLIENT BLPOP BRPOP BLMOVE BRPOPLPUSH BZPOPMIN BZPOPMAX BLMPOP "
        b"BZMPOP WAIT WAITAOF SHUTDOWN DEBUG REPLCONF FAILOVER"
    ).split()
)
"""Commands that block, or that change the state of the client's connection."""


async def script_store(request: scripts.ScriptStore, turn: Turn) -> Any:
    """AI.SCRIPTSTORE, AI.SCRIPTSET: compile first, so that a bad script never replaces a good one."""
    store = (await turn.session.authenticated()).store
    script = Script(uuid.uuid4().hex, request.device, request.tag, request.entry_points, request.source)
    await store.check_store(request.key, script.id)
    owner = turn.session.identity.owner
    await turn.services.scripts.compile(request.source, request.device, request.entry_points, owner=owner)
    await store.put_script(request.key, script)
    turn.services.programs.holds(_place(request.key, turn), script)
    return OK


def _place(key: bytes, turn: Turn) -> Place:
    return Place(Kind.SCRIPT, turn.session.identity.database, key)


async def script_get(request: scripts.ScriptGet, turn: Turn) -> Any:
    """AI.SCRIPTGET."""
    return script_reply(request, await (await turn.session.authenticated()).store.script(request.key))


async def script_del(request: scripts.ScriptDel, turn: Turn) -> Any:
    """AI.SCRIPTDEL."""
    store = (await turn.session.authenticated()).store
    await store.delete(request.key, Kind.SCRIPT, SCRIPT_KEY_EMPTY)
    turn.services.programs.gone(_place(request.key, turn))
    return OK


async def script_scan(request: scripts.ScriptScan, turn: Turn) -> Any:
    """AI._SCRIPTSCAN."""
    store = (await turn.session.authenticated()).store
    return scan_reply([entry async for entry in store.scan(Kind.SCRIPT)])


async def script_execute(request: ScriptExecute, turn: Turn) -> Any:
    """AI.SCRIPTEXECUTE, AI.SCRIPTRUN."""
    store = (await turn.session.authenticated()).store
    known = known_script(request.key, turn)
    script = await store.script(request.key)
    met_script(request.key, script, turn, known)
    inputs = await store.tensors(request.inputs)

    def started(run: ScriptRun) -> None:
        turn.cancelled_by(partial(turn.services.scripts.cancel_queued, run))

    try:
        outputs = await run_script(script, request, inputs, turn, request.timeout_ms, started)
    except QueueTimeout:
        return TIMEDOUT
    if not turn.gone:
        await store.put_tensors(list(zip(request.outputs, outputs, strict=True)))
    return OK


def known_script(key: bytes, turn: Turn) -> Held | None:
    """Call this before a script is read, for `met_script`."""
    return turn.services.keys.held(_place(key, turn))


def met_script(key: bytes, script: Script, turn: Turn, known: Held | None) -> None:
    """Call this when a script was read, not when it is run: by then the key may long hold another one."""
    services = turn.services
    services.programs.met(_place(key, turn), script, known)
    services.script_stats.of(script.identity)  # counted from now on, until the key is stored again or deleted


async def run_script(
    script: Script,
    request: ScriptExecute,
    inputs: list[Tensor],
    turn: Turn,
    timeout_ms: int | None,
    started: Callable[[ScriptRun], object],
    counted: bool = True,
) -> list[Tensor]:
    """Call a script's function as the connection's client, who is authenticated.

    Args: started: gets the run once it is queued.
          counted: False leaves the counters to `count_script`, for operations of a DAG that may turn out as not run.
    """
    services, device = turn.services, script.device.text
    place = _place(request.key, turn)
    # Held for the run, so that its requests to Redis are done even if the client leaves meanwhile.
    with services.accesses.held(turn.session.identity) as access:
        host = ClientHost(turn, access)
        keys, args, count = list(request.keys), list(request.args), len(request.outputs)
        owner = access.identity.owner
        run = services.scripts.run(script, request.function, inputs, keys, args, count, host, timeout_ms, owner)
        started(run)
        try:
            outputs = await run
        except RedisAIError as error:
            if run.started:
                services.event_log.script_failed(place, request.function, device, error)
            raise
        finally:
            if counted:
                count_script(script, run, services)
    services.event_log.script_ran(place, request.function, device, run.duration_us / 1e6, run.queued_us / 1e6)
    return outputs


def count_script(script: Script, run: ScriptRun, services: Services) -> None:
    """Count a run in AI.INFO, unless it never reached a worker, or its script's counters were removed meanwhile."""
    stats = services.script_stats.known(script.identity)
    if stats is None or not run.started or not run.done:
        return
    if run.error is not None:
        stats.failed(run.error)
        return
    run_s = run.duration_us / 1e6
    stats.executed(1, run_s, (run.queued_us / 1e6,), calls=1, samples=0)


class ClientHost:
    """Answers a script's calls, with the rights and in the database of the client that runs it."""

    def __init__(self, turn: Turn, access: Access) -> None:
        self._turn = turn
        self._access = access

    async def execute(self, argv: list[bytes]) -> Any:
        """Run one Redis command. Returns: None, bytes, int, a list of these, or the error as a value."""
        name = argv[0].upper() if argv else b""
        if name in COMMANDS:
            return await self._execute_ai(argv)
        blocks = name in (b"XREAD", b"XREADGROUP") and b"BLOCK" in {word.upper() for word in argv}
        if name in _NOT_FROM_SCRIPTS or blocks:
            return UpstreamError(f"ERR {name.decode()} is not allowed from a script")
        # Not on the client's own connection: that one may use RESP3, in which some replies have another form, and a
        # script must not depend on its caller's protocol.
        try:
            async with self._access.dedicated() as upstream:
                reply = await _value_or_error(upstream.call(*argv))
        except RedisAIError as error:
            return self._noted(error)
        return _plain(reply)

    def _noted(self, error: RedisAIError) -> RedisAIError:
        """An error as the script sees it. A lost Redis is lost for its client too, whatever the script does with it."""
        if isinstance(error, UpstreamLost) and not self._turn.gone:
            self._turn.end_with(error)
        return error

    async def _execute_ai(self, argv: list[bytes]) -> Any:
        try:
            request = COMMANDS[argv[0].upper()].parse(argv)
            await self._access.ensure()
            store = self._access.store
            if isinstance(request, tensors.TensorSet):
                await store.put_tensors([(request.key, request.tensor)])
                return OK
            if isinstance(request, tensors.TensorGet):
                tensor = await store.tensor(request.key)
                return _tree(b"".join(encode_reply(tensor_reply(request, tensor.dtype, tensor.shape, tensor.data), 2)))
        except RedisAIError as error:
            return self._noted(error)
        return CommandError(f"ERR {argv[0].decode('utf-8', 'replace')} is not allowed from a script")

    async def model_execute(self, key: bytes, inputs: list[Tensor], outputs: int) -> list[Tensor]:
        """Run a stored model; as in RedisAI, its statistics do not count the run."""
        services, access = self._turn.services, self._access
        await access.ensure()
        (ids,) = access.pipeline([(b"HMGET", key, *MODEL_ID_FIELDS)])
        loaded = await load_model(key, ids, access.store, self._turn)
        for noun, names, given in (("inputs", loaded.inputs, len(inputs)), ("outputs", loaded.outputs, outputs)):
            if len(names) != given:
                raise CommandError(f"ERR Expected {len(names)} {noun} but got {given}")
        # The script is stopped after that time, so its model must not stay in the queue.
        timeout_ms = services.scripts.settings.script_execution_timeout_ms or None
        # Alone and immediately, as in RedisAI: a minimum batch size might make it wait forever.
        alone = loaded.model.minbatchsize > 1
        run = services.runs.start(loaded, list(inputs), timeout_ms, counted=False, alone=alone)
        return [value for value in await run if isinstance(value, Tensor)]


async def _value_or_error(reply: Pending[Any]) -> Any:
    """Redis's error as a value, because the connection is still good."""
    try:
        return await reply
    except UpstreamLost:
        raise
    except RedisAIError as error:
        return error


def _plain(reply: Any) -> Any:
    """A reply with large strings converted to bytes."""
    if isinstance(reply, list):
        return [_plain(item) for item in reply]
    return bytes(reply) if isinstance(reply, memoryview) else reply


def _tree(raw: bytes) -> Any:
    reader = hiredis.Reader()
    reader.feed(raw)
    return reader.gets()


def _script_get(request: scripts.ScriptGet, turn: Turn) -> InMulti:
    def finish(replies: list[Any]) -> Any:
        if replies[0] == b"none":
            raise MissingKey(SCRIPT_KEY_EMPTY)
        return script_reply(request, codec.decode_script(checked(replies[1])))

    return [[b"TYPE", request.key], [b"HMGET", request.key, *codec.SCRIPT_FIELDS]], finish


HANDLERS: dict[type, Any] = {
    scripts.ScriptStore: script_store,
    scripts.ScriptGet: script_get,
    scripts.ScriptDel: script_del,
    scripts.ScriptScan: script_scan,
    ScriptExecute: script_execute,
}
"""Request -> its handler."""

IN_MULTI: dict[type, Any] = {
    scripts.ScriptGet: _script_get,
    scripts.ScriptDel: deletion(Kind.SCRIPT, SCRIPT_KEY_EMPTY),
}
"""Request -> the plain commands that stand for it in a transaction."""
