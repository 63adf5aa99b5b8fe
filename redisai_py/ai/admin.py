"""AI.INFO and AI.CONFIG."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog

from redisai_py.ai.multi import InMulti, checked
from redisai_py.commands import admin
from redisai_py.commands._args import text_name
from redisai_py.commands.admin import RunInfo, info_reply
from redisai_py.engine.stats import RunStats
from redisai_py.errors import NO_RUN_INFO, BackendError, CommandError, MissingKey, NotPermitted, WrongType
from redisai_py.frontdoor.services import Services
from redisai_py.frontdoor.turn import Turn
from redisai_py.model import Kind
from redisai_py.ops.keymap import ProgramKey
from redisai_py.ops.sibling_handler import apply_setting, program_state
from redisai_py.ops.tallies import counts_of, program_topic
from redisai_py.resp.redis_errors import redis_error
from redisai_py.resp.replies import OK
from redisai_py.serve.figures import added
from redisai_py.store.codec import decode_id

__all__ = ["HANDLERS", "IN_MULTI"]

INFO_FIELDS = (b"kind", b"id", b"backend", b"device", b"tag")
_KINDS = frozenset(kind.value for kind in Kind)
"""The fields of a key's hash that AI.INFO reads."""
NEEDS_CONFIG = (b"CONFIG", b"SET", b"redisai-py-asks-for-the-right-only", b"")
"""The Redis command that a client must be allowed to run before it may change a setting here. Redis checks the right
first; then it does not know the setting, and changes nothing.
"""

logger = structlog.get_logger()


async def info(request: admin.Info, turn: Turn) -> Any:
    """AI.INFO: the counters of the current model or script; of this server only, as RedisAI's are of each node."""
    access = await turn.session.authenticated()
    (pending,) = access.pipeline([(b"HMGET", request.key, *INFO_FIELDS)])
    try:
        fields = await pending
    except WrongType as error:
        raise MissingKey(NO_RUN_INFO) from error
    program_key, stored_id = _counted(request, fields, turn)
    try:
        identity = await turn.services.programs.identity(program_key, stored_id, access.store)
    except (MissingKey, WrongType):  # replaced just now, or an incomplete model
        identity = None
    return await _report(request, fields, program_key, identity, turn.services)


async def info_report(request: admin.Info, fields: Sequence[bytes | None], turn: Turn) -> Any:
    """The reply, from the values of INFO_FIELDS alone. Raises MissingKey if they belong to no model or script."""
    program_key, stored_id = _counted(request, fields, turn)
    identity = turn.services.keys.identity(program_key, stored_id)
    return await _report(request, fields, program_key, identity, turn.services)


def _counted(request: admin.Info, fields: Sequence[bytes | None], turn: Turn) -> tuple[ProgramKey, str]:
    """The model or script's database and key, and its id. Raises MissingKey: it is neither."""
    kind, stored_id = fields[:2]
    if kind not in _KINDS:
        raise MissingKey(NO_RUN_INFO)
    program_key = ProgramKey(Kind(kind), turn.session.identity.database, request.key)
    try:
        return program_key, decode_id(stored_id)
    except WrongType:
        raise MissingKey(NO_RUN_INFO) from None


async def _report(
    request: admin.Info,
    fields: Sequence[bytes | None],
    program_key: ProgramKey,
    identity: str | None,
    services: Services,
) -> Any:
    backend, device, tag = fields[2:]
    is_model = program_key.kind is Kind.MODEL
    run_id = identity or ""  # no counters exist for the empty id
    if request.reset:
        await _reset(program_key.kind, run_id, services)
        return OK
    stats, state = await _figures(program_key.kind, run_id, services)
    report = RunInfo(
        key=request.key,
        kind=program_key.kind,
        backend=(backend or b"").decode("utf-8", "surrogateescape") if is_model else "TORCH",
        device=(device or b"").decode("utf-8", "surrogateescape"),
        tag=tag or b"",
        duration_us=stats.duration_us,
        samples=stats.samples if is_model else -1,
        calls=stats.calls,
        errors=stats.errors,
        more=_more(stats, is_model, state) if request.full else {},
    )
    return info_reply(report, request.full)


async def _reset(kind: Kind, run_id: str, services: Services) -> None:
    """Here, and in the server's other processes before the client has its reply."""
    services.stats(kind).reset(run_id)
    topic = program_topic(kind, run_id)
    what = {"kind": "reset", "of": kind.name, "identity": run_id, "topic": topic, "changes": True}
    await services.siblings.ask(what, counts_of(services, [topic]))


async def _figures(kind: Kind, run_id: str, services: Services) -> tuple[RunStats, dict[str, Any]]:
    """The counters of the whole server, and how the program stands in all of its processes."""
    topic = program_topic(kind, run_id)
    own = counts_of(services, [topic])
    what = {"kind": "program", "of": kind.name, "identity": run_id, "topics": [topic]}
    answer = await services.siblings.ask(what, own)
    states = [program_state(services, kind, run_id), *(reply for reply in answer.replies if reply is not None)]
    total = added(own.get(topic, {}), answer.figures.get(topic, {}))
    last_error = next((state["last_error"] for state in states if state["last_error"]), "")
    return RunStats.from_tally(total, last_error), _joined(states)


def _joined(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Memory and runs are sums, with an engine process that several use once; else the first that says something."""
    first = {name: next((state[name] for state in states if state[name]), value) for name, value in states[0].items()}
    shared = {state["process"]: state["loaded_bytes"] for state in states if state["process"]}
    size = sum(shared.values()) + sum(state["loaded_bytes"] for state in states if state["here"])
    return {**first, "loaded_bytes": size, "unfinished": sum(state["unfinished"] for state in states)}


def _more(stats: RunStats, is_model: bool, state: dict[str, Any]) -> dict[bytes, Any]:
    """Whether the model is loaded, its size in all processes, and its runs that wait or run; zeros for a script."""
    memory = {name.encode(): state[name] for name in ("loaded", "loaded_bytes", "unfinished")}
    return {**memory, **_details(stats), **(_model(state) if is_model else {})}


def _model(state: dict[str, Any]) -> dict[bytes, Any]:
    """A loaded model's tensors, how its runs are merged, and its engine process; empty if it is not loaded. Also why it
    is in quarantine.
    """
    return {
        b"inputs": [_tensor(*spec) for spec in state["inputs"]],
        b"outputs": [_tensor(*spec) for spec in state["outputs"]],
        b"stateful": state["stateful"],
        b"merged_kinds": state["merged_kinds"],
        b"not_merged": state["not_merged"].encode(),
        b"process": state["process"],
        b"quarantine": state["quarantine"].encode(),
    }


def _tensor(name: str, kind: str | None, shape: list[int] | None) -> list[Any]:
    """Name, dtype and dimensions; -1 for a dynamic dimension, null for what the model does not declare."""
    return [text_name(name), kind.encode() if kind else None, shape]


def _details(stats: RunStats) -> dict[bytes, Any]:
    """Times in microseconds, batch sizes in rows as pairs (rows, executions)."""
    fields: dict[bytes, Any] = {b"loads": stats.loads, b"batches": stats.batches}
    for name, distribution in ((b"queue_time", stats.queue_time), (b"run_time", stats.run_time)):
        for quantile in ("p50", "p95", "p99"):
            fields[b"%b_%b_us" % (name, quantile.encode())] = round(getattr(distribution, f"{quantile}_us"))
    fields[b"batch_rows"] = [item for pair in sorted(stats.batch_rows.items()) for item in pair]
    fields[b"last_error"] = stats.last_error.encode()
    return fields


async def config_get(request: admin.ConfigGet, turn: Turn) -> Any:
    """AI.CONFIG GET."""
    await turn.session.authenticated()
    return setting(request.name, turn.services)


def setting(name: str, services: Services) -> Any:
    """The two settings that RedisAI returns; null for any other."""
    if name == "MODEL_CHUNK_SIZE":
        return services.settings.model_chunk_size
    # A path's bytes need not be UTF-8; they are returned unchanged.
    return services.settings.backends_path.encode("utf-8", "surrogateescape") if name == "BACKENDSPATH" else None


async def config_set(request: admin.ConfigSet, turn: Turn) -> Any:
    """AI.CONFIG MODEL_CHUNK_SIZE, BACKENDSPATH: for this server, until it ends; requires the right to CONFIG SET."""
    await _need_config(turn)
    return await change_setting(request, turn.services)


async def change_setting(request: admin.ConfigSet, services: Services) -> Any:
    """Change a setting in all processes of the server and log it."""
    apply_setting(services, request.name, request.value)
    logger.info("setting changed", name=request.name, value=request.value)
    what = {"kind": "set", "name": request.name, "value": request.value, "changes": True}
    await services.siblings.ask(what, {})
    return OK


async def load_backend_command(request: admin.LoadBackend, turn: Turn) -> Any:
    """AI.CONFIG LOADBACKEND: import an installed plugin now, off the event loop; the path is ignored.

    The reply is RedisAI's short text; the log has the reason of a failure.
    """
    await _need_config(turn)
    failed = CommandError("ERR error loading backend")
    engine = turn.services.engine
    if request.backend in engine.backend_versions():
        raise failed
    try:
        version = await asyncio.get_running_loop().run_in_executor(None, engine.import_backend, request.backend)
    except BackendError as error:
        logger.warning("backend not loaded", backend=request.backend, error=str(error))
        raise failed from error
    logger.info("backend loaded", backend=request.backend, version=version)
    turn.services.siblings.notify({"kind": "import", "backend": request.backend})
    return OK


async def _need_config(turn: Turn) -> None:
    await turn.session.authenticated()
    (raw,) = await turn.session.capture([list(NEEDS_CONFIG)])
    check_config_right(raw[1:].decode("utf-8", "replace").strip())


def check_config_right(error: str) -> None:
    """Raise Redis's NOPERM unless the client may run CONFIG SET.

    Args: error: Redis's reply to NEEDS_CONFIG. A Redis without CONFIG is no reason to refuse.
    """
    refusal = redis_error(error)
    if isinstance(refusal, NotPermitted):
        raise refusal


def _info_in_multi(request: admin.Info, turn: Turn) -> InMulti:
    def finish(replies: list[Any]) -> Any:
        try:
            fields = checked(replies[0])
        except WrongType:
            raise MissingKey(NO_RUN_INFO) from None
        return info_report(request, fields, turn)

    return [[b"HMGET", request.key, *INFO_FIELDS]], finish


def _config_get_in_multi(request: admin.ConfigGet, turn: Turn) -> InMulti:
    return [], lambda replies: setting(request.name, turn.services)


def _config_set_in_multi(request: admin.ConfigSet, turn: Turn) -> InMulti:
    def finish(replies: list[Any]) -> Any:
        check_config_right(str(replies[0]))
        return change_setting(request, turn.services)

    return [list(NEEDS_CONFIG)], finish


HANDLERS: dict[type, Any] = {
    admin.Info: info,
    admin.ConfigGet: config_get,
    admin.ConfigSet: config_set,
    admin.LoadBackend: load_backend_command,
}
"""Request -> its handler."""

IN_MULTI: dict[type, Any] = {
    admin.Info: _info_in_multi,
    admin.ConfigGet: _config_get_in_multi,
    admin.ConfigSet: _config_set_in_multi,
}
"""Request -> the plain commands that stand for it in a transaction."""
