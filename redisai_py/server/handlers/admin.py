"""AI.INFO and AI.CONFIG."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from redisai_py.backend import load_backend, loaded_backends
from redisai_py.commands import admin
from redisai_py.commands.replies import RunInfo, info_reply
from redisai_py.engine.stats import RunStats
from redisai_py.errors import BackendError, CommandError, MissingKey, UpstreamError
from redisai_py.resp_reply import OK

if TYPE_CHECKING:
    from redisai_py.server.connection import Connection

__all__ = ["config_get", "config_set", "info", "load_backend_command"]

_NO_INFO = "ERR cannot find run info for key"
_FIELDS = (b"kind", b"id", b"backend", b"device", b"tag")


async def info(request: admin.Info, connection: Connection) -> Any:
    """AI.INFO: the counters of what the key holds now; this process's own, as RedisAI's are each node's own."""
    access = await connection.session.authenticated()
    (pending,) = access.pipeline([(b"HMGET", request.key, *_FIELDS)])
    try:
        kind, run_id, backend, device, tag = await pending
    except UpstreamError as error:
        if "WRONGTYPE" in str(error):
            raise MissingKey(_NO_INFO) from error
        raise
    if kind not in (b"MODEL", b"SCRIPT"):
        raise MissingKey(_NO_INFO)
    server = connection.server
    is_model = kind == b"MODEL"
    if request.reset:
        if is_model:
            server.engine.reset_stats(run_id.decode())
        else:
            server.script_stats.of(run_id.decode()).reset()
        return OK
    stats = server.engine.stats(run_id.decode()) if is_model else server.script_stats.of(run_id.decode()).snapshot()
    report = RunInfo(
        key=request.key,
        kind=kind.decode(),
        backend=backend.decode() if is_model else "TORCH",
        device=device.decode(),
        tag=tag or b"",
        duration_us=stats.duration_us,
        samples=stats.samples if is_model else -1,
        calls=stats.calls,
        errors=stats.errors,
        more=_details(stats) if request.full else {},
    )
    return info_reply(report, request.full)


def _details(stats: RunStats) -> dict[bytes, Any]:
    """What AI.INFO FULL adds: times in microseconds, batch sizes in rows."""
    fields: dict[bytes, Any] = {b"loads": stats.loads, b"batches": stats.batches}
    for name, distribution in ((b"queue_time", stats.queue_time), (b"run_time", stats.run_time)):
        for quantile in ("p50", "p95", "p99"):
            fields[b"%b_%b_us" % (name, quantile.encode())] = round(getattr(distribution, f"{quantile}_us"))
    fields[b"batch_rows"] = [item for pair in sorted(stats.batch_rows.items()) for item in pair]
    fields[b"last_error"] = stats.last_error.encode()
    return fields


async def config_get(request: admin.ConfigGet, connection: Connection) -> Any:
    """AI.CONFIG GET: the two settings of RedisAI, null for any other."""
    await connection.session.authenticated()
    if request.name == "MODEL_CHUNK_SIZE":
        return connection.server.model_chunk_size
    if request.name == "BACKENDSPATH":
        return connection.server.backends_path.encode()
    return None


async def config_set(request: admin.ConfigSet, connection: Connection) -> Any:
    """AI.CONFIG MODEL_CHUNK_SIZE, BACKENDSPATH: for this process, until it ends; needs the right to CONFIG."""
    await _need_config(connection)
    if request.name == "MODEL_CHUNK_SIZE":
        connection.server.model_chunk_size = int(request.value)
    else:
        connection.server.backends_path = str(request.value)
    return OK


async def load_backend_command(request: admin.LoadBackend, connection: Connection) -> Any:
    """AI.CONFIG LOADBACKEND: import an installed plugin now, off the event loop; the path only names it."""
    await _need_config(connection)
    if request.backend in loaded_backends():
        raise CommandError("ERR error loading backend")
    try:
        await asyncio.get_running_loop().run_in_executor(None, load_backend, request.backend)
    except BackendError as error:
        raise CommandError(f"ERR error loading backend: {error}") from error
    return OK


async def _need_config(connection: Connection) -> None:
    """Raise Redis's NOPERM unless the client may run CONFIG; a server without CONFIG at all is no reason to refuse."""
    await connection.session.authenticated()
    (raw,) = await connection.session.capture([[b"CONFIG", b"GET", b"maxmemory"]])
    if raw.startswith((b"-NOPERM", b"-NOAUTH")):
        raise UpstreamError(raw[1:].decode("utf-8", "replace").strip())
