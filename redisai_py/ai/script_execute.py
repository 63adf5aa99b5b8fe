"""AI.SCRIPTEXECUTE and AI.SCRIPTRUN: on cached values without a coroutine, or from Redis. In MULTI they are refused.

A function that calls neither Redis nor a model has no effect but its outputs. So, as a model does, it runs immediately
on cached values if its runs are short, and `store.writer` writes the outputs if Redis still holds the values used. The
handler takes all the others. Operations of DAGs start here too.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any

from redisai_py.ai.model_loading import keep_near, near_tensors
from redisai_py.ai.script_host import ClientHost
from redisai_py.ai.speculation import StoresOutputs, encode_tensors
from redisai_py.commands.script_runs import ScriptExecute
from redisai_py.engine.torchscript.fleet import ScriptStopped
from redisai_py.engine.torchscript.jobs import ScriptRun
from redisai_py.errors import QueueTimeout, RedisAIError, RunTimeout
from redisai_py.frontdoor.services import Services
from redisai_py.frontdoor.turn import Turn
from redisai_py.model import Kind, Script
from redisai_py.ops.keymap import ProgramEntry, ProgramKey
from redisai_py.resp.replies import OK, TIMEDOUT
from redisai_py.resp.templates import Command
from redisai_py.store import codec
from redisai_py.store.cache import NearCache
from redisai_py.store.writer import Used, Writer
from redisai_py.tensor import Tensor
from redisai_py.upstream.access import Access

__all__ = [
    "HANDLERS",
    "ExecuteScript",
    "count_script",
    "record_script_read",
    "resolve_near_script",
    "script_entry",
    "script_key",
    "start_script",
]

_ID_FIELDS = (b"kind", b"id")


class ExecuteScript:
    """AI.SCRIPTEXECUTE, AI.SCRIPTRUN."""

    __slots__ = ("request",)
    is_ai = True

    def __init__(self, request: ScriptExecute) -> None:
        self.request = request

    def start(self, turn: Turn, command: Command) -> bool:
        if turn.busy or turn.in_flight or turn.relayed:
            return False
        access = turn.session.access
        writer = access.writer if access is not None else None
        if writer is not None and (near := writer.near) is not None:
            used: Used = []
            script = resolve_near_script(turn, near, self.request, used)
            inputs = near_tensors(near, self.request.inputs, used) if script is not None else None
            if script is not None and inputs is not None:
                _NearRun(self.request, turn, writer, used, script).start(inputs)
                return True
        return turn.run_alone(script_execute(self.request, turn))

    @property
    def reads(self) -> tuple[bytes, ...]:
        """The keys it reads."""
        return (self.request.key, *self.request.inputs)

    def execute(self, turn: Turn) -> Coroutine[Any, Any, Any]:
        """The whole command, for a client with no other work in progress."""
        return script_execute(self.request, turn)


# -- which script a key means ------------------------------------------------------------------------------------------


def script_key(key: bytes, turn: Turn) -> ProgramKey:
    """Where the client's key is."""
    return ProgramKey(Kind.SCRIPT, turn.session.identity.database, key)


def script_entry(key: bytes, turn: Turn) -> ProgramEntry | None:
    """Call this before a script is read, for `record_script_read`."""
    return turn.services.keys.get(script_key(key, turn))


def record_script_read(key: bytes, script: Script, turn: Turn, known: ProgramEntry | None) -> None:
    """Call this when a script was read, not when it is run: by then the key may long hold another one."""
    services = turn.services
    services.programs.record_read(script_key(key, turn), script, known)
    services.script_stats.of(script.identity)  # counted from now on, until the key is stored again or deleted


def resolve_near_script(turn: Turn, near: NearCache, request: ScriptExecute, used: Used) -> Script | None:
    """The script if its id is near and its function is known to be short and without effects; then it is added to
    `used`.
    """
    entry = near.entries.get(request.key)
    if entry is None or entry.identity is None:
        return None
    known = turn.services.scripts.known.get(entry.identity)
    function = known.functions.get(request.function) if known is not None else None
    if known is None or function is None or not function.short:
        return None
    used.append((request.key, entry))
    return known.script


# -- runs --------------------------------------------------------------------------------------------------------------


def start_script(
    script: Script,
    request: ScriptExecute,
    inputs: list[Tensor],
    turn: Turn,
    timeout_ms: int | None,
    *,
    speculative: bool = False,
) -> ScriptRun:
    """Run a script's function as the authenticated client. The caller counts the run with `count_script`.

    Args: speculative: on cached values, so the function may call neither Redis nor a model.
    """
    services = turn.services
    access: Access | None = None
    if not speculative and not services.scripts.known.of(script).function(request.function).pure:
        # Held for the run, so that its requests to Redis are done even if the client leaves meanwhile.
        access = services.accesses.acquire(turn.session.identity)
    run = _LoggedRun(services, access, script_key(request.key, turn), request.function, script.device.text)
    host = ClientHost(turn, access) if access is not None else None
    keys, args, count = request.keys, request.args, len(request.outputs)
    owner = turn.session.identity.owner
    services.scripts.run(script, request.function, inputs, keys, args, count, host, timeout_ms, owner, run)
    return run


class _LoggedRun(ScriptRun):
    """A run that is not speculative, or a DAG's. access: what it holds until it has ended."""

    __slots__ = ("_access", "_device", "_function", "_program_key", "_services")

    def __init__(
        self, services: Services, access: Access | None, program_key: ProgramKey, function: str, device: str
    ) -> None:
        super().__init__()
        self._services = services
        self._access = access
        self._program_key = program_key
        self._function = function
        self._device = device

    def resolve(self, value: list[Tensor]) -> None:
        if not self.done:
            self._let_go()
            _log(self, self._services, self._program_key, self._function, self._device, None)
            super().resolve(value)

    def fail(self, error: BaseException) -> None:
        if not self.done:
            self._let_go()
            error = _named(error, self._program_key, self._function)
            _log(self, self._services, self._program_key, self._function, self._device, error)
            super().fail(error)

    def _let_go(self) -> None:
        access, self._access = self._access, None
        if access is not None:
            self._services.accesses.release(access)


def _named(error: BaseException, program_key: ProgramKey, function: str) -> BaseException:
    """The error; what has ended a script's process names the script."""
    if isinstance(error, ScriptStopped | RunTimeout):
        return type(error)(f"{error} (script '{program_key.name}', function '{function}')")
    return error


def _log(
    run: ScriptRun, services: Services, program_key: ProgramKey, function: str, device: str, error: BaseException | None
) -> None:
    if error is None:
        services.event_log.script_ran(program_key, function, device, run.duration_us / 1e6, run.queued_us / 1e6)
    elif run.started and isinstance(error, RedisAIError):
        services.event_log.script_failed(program_key, function, device, error)


def count_script(script: Script, run: ScriptRun, services: Services) -> None:
    """Count a run in AI.INFO, unless it never reached a worker, or its script's counters were removed meanwhile."""
    stats = services.script_stats.known(script.identity)
    if stats is None or not run.started or not run.done:
        return
    if run.error is not None:
        stats.failed(run.error)
        return
    stats.executed(1, run.duration_us / 1e6, (run.queued_us / 1e6,), calls=1, samples=0)


# -- on cached values --------------------------------------------------------------------------------------------------


class _NearRun(ScriptRun, StoresOutputs):
    """One command under way: a `Member` of a commit, and a run."""

    __slots__ = ("_alone", "_request", "_script", "_writer", "turn", "used", "writes")
    options: tuple[bytes, ...] = ()

    def __init__(self, request: ScriptExecute, turn: Turn, writer: Writer, used: Used, script: Script) -> None:
        ScriptRun.__init__(self)
        self._request = request
        self.turn = turn
        self._writer = writer
        self._script = script
        self.used = used
        self.writes: list[tuple[bytes, bytes]] = []
        self._alone = writer.alone

    @property
    def output_keys(self) -> Sequence[bytes]:
        return self._request.outputs

    def start(self, inputs: list[Tensor]) -> None:
        """Run; the command then ends by itself."""
        turn, request = self.turn, self._request
        turn.begin(self._cancel)
        turn.services.scripts.run(
            self._script,
            request.function,
            inputs,
            request.keys,
            request.args,
            len(request.outputs),
            None,
            request.timeout_ms,
            turn.session.identity.owner,
            self,
            self._alone,
        )
        self._alone = False

    def _cancel(self) -> None:
        self.turn.services.scripts.cancel_queued(self)

    def resolve(self, value: list[Tensor]) -> None:
        """The run has ended: its outcome, an error too, counts if what it used still holds."""
        if self.done:
            return
        self.done = True
        self.value = value
        if self.turn.gone:
            count_script(self._script, self, self.turn.services)
            return
        self.writes = encode_tensors(zip(self._request.outputs, value, strict=True))
        if self._alone:
            self._writer.commit(self)
        else:
            self._writer.add(self)

    def fail(self, error: BaseException) -> None:
        if self.done:
            return
        self.done = True
        self.error = error = _named(error, script_key(self._request.key, self.turn), self._request.function)
        if self.turn.gone:
            count_script(self._script, self, self.turn.services)
        elif isinstance(error, QueueTimeout):
            self.turn.finish(TIMEDOUT)
        else:
            self._writer.add(self)

    def committed(self) -> None:
        turn, services = self.turn, self.turn.services
        count_script(self._script, self, services)
        if self.error is not None or self.duration_us >= services.event_log.slow_run_s * 1e6:
            program_key = script_key(self._request.key, turn)
            _log(self, services, program_key, self._request.function, self._script.device.text, self.error)
        super().committed()

    def retry(self) -> Coroutine[Any, Any, Any]:
        return script_execute(self._request, self.turn)


# -- from Redis --------------------------------------------------------------------------------------------------------


async def script_execute(request: ScriptExecute, turn: Turn) -> Any:
    """AI.SCRIPTEXECUTE, AI.SCRIPTRUN: script and inputs in one round trip, the run, the outputs in another."""
    access = await turn.session.authenticated()
    script, inputs = await _read(request, turn, access)
    services = turn.services
    run = start_script(script, request, inputs, turn, request.timeout_ms)
    turn.cancelled_by(partial(services.scripts.cancel_queued, run))
    try:
        outputs = await run
    except QueueTimeout:
        return TIMEDOUT
    finally:
        count_script(script, run, services)
    if not turn.gone:
        await access.store.put_tensors(list(zip(request.outputs, outputs, strict=True)))
    return OK


async def _read(request: ScriptExecute, turn: Turn, access: Access) -> tuple[Script, list[Tensor]]:
    """The script and the inputs; kept near."""
    store, near = access.store, access.near
    held = script_entry(request.key, turn)
    known = turn.services.scripts.known.get(held.identity) if held is not None else None
    fields = codec.SCRIPT_FIELDS if known is None else _ID_FIELDS
    reply, values_of_inputs = store.model_and_tensors(request.key, request.inputs, fields)
    if held is None or known is None or await reply != [Kind.SCRIPT.value, held.stored_id.encode()]:
        script = await (store.decode_script(request.key, reply) if known is None else store.script(request.key))
        record_script_read(request.key, script, turn, held)
    else:
        script = known.script
        turn.services.script_stats.of(script.identity)
    values = await values_of_inputs()
    inputs = await store.decode_all(request.inputs, values)
    if near is not None:
        near.put_script(request.key, script.id, script.identity)
        keep_near(near, request.inputs, values)
    return script, inputs


HANDLERS: dict[type, Any] = {
    ScriptExecute: script_execute,
}
"""Request -> its handler."""
