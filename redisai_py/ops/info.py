"""The `ai_*` sections of INFO, with the names and the order that RedisAI's clients expect."""

from __future__ import annotations

from pathlib import Path

from redisai_py.frontdoor.services import Services
from redisai_py.ops.aggregate import Aggregate, aggregate
from redisai_py.ops.tallies import ClientFigures, server_state

__all__ = ["MODULE_NAME", "MODULE_VERSION", "default_backends_path", "info_sections"]

MODULE_NAME = "ai"
MODULE_VERSION = 10207
"""major * 10000 + minor * 100 + patch of the RedisAI version whose protocol this is, 1.2.7."""

# In the order of RedisAI's section.
_VERSION_FIELDS = {
    "TF": "ai_TensorFlow_version",
    "TFLITE": "ai_TensorFlowLite_version",
    "TORCH": "ai_Torch_version",
    "ONNX": "ai_onnxruntime_version",
}
_CPU_FIELDS = (
    "self_used_cpu_sys",
    "self_used_cpu_user",
    "children_used_cpu_sys",
    "children_used_cpu_user",
    "main_thread_used_cpu_sys",
    "main_thread_used_cpu_user",
)
_ONE_LINE = str.maketrans("\r\n", "  ")
_ALL = {"everything", "modules", MODULE_NAME}


async def info_sections(services: Services, wanted: set[str]) -> str:
    """The requested sections (arguments in lower case), as INFO prints them; "" if none.

    Called by a Task if the server has several front doors. Raises: RedisAIError: they cannot be asked.
    """
    sections = {
        "ai_versions": _versions,
        "ai_git": _git,
        "ai_load_time_configs": _settings,
        "ai_backends_info": _backends,
        "ai_cpu": _cpu,
    }
    chosen = [name for name in sections if wanted & _ALL or name in wanted]
    if not chosen:
        return ""
    nobody = ClientFigures(0, 0)  # INFO does not show them
    server = await aggregate(services, server_state(services, nobody, []))
    return "\r\n".join(f"# {name}\r\n{_lines(sections[name](services, server))}" for name in chosen)


def default_backends_path() -> str:
    """Initial BACKENDSPATH: `backends` next to the server's own files. Nothing is read there."""
    return str(Path(__file__).resolve().parents[1] / "backends")


def _lines(fields: dict[str, object]) -> str:
    # A device string comes from clients, and must not create lines.
    return "".join(f"{name}:{value}".translate(_ONE_LINE) + "\r\n" for name, value in fields.items())


def _versions(services: Services, server: Aggregate) -> dict[str, object]:
    return {"ai_RedisAI_version": "1.2.7", "ai_low_level_API_version": 1, "ai_rdb_version": 4}


def _git(services: Services, server: Aggregate) -> dict[str, object]:
    return {"ai_git_sha": "unknown"}


def _settings(services: Services, server: Aggregate) -> dict[str, object]:
    settings = services.engine.settings
    return {
        "ai_threads_per_queue": settings.threads_per_queue,
        "ai_inter_op_parallelism": settings.inter_op_parallelism,
        "ai_intra_op_parallelism": settings.intra_op_parallelism,
        "ai_model_execution_timeout": settings.model_execution_timeout_ms,
        "ai_backend_memory_limit": settings.backend_memory_limit_bytes // 1_000_000,
    }


def _backends(services: Services, server: Aggregate) -> dict[str, object]:
    versions = server.union("backends")
    framework = next((version for version in server.every("script_framework") if version is not None), None)
    if framework is not None:  # scripts need no backend in this process
        versions.setdefault("TORCH", framework)
    own = [name for name in _VERSION_FIELDS if name in versions]
    others = sorted(versions.keys() - _VERSION_FIELDS.keys())
    fields: dict[str, object] = {}
    for name in [*own, *others]:
        fields[_VERSION_FIELDS.get(name, f"ai_{name}_version")] = versions[name]
        if name == "ONNX":
            fields |= _onnx(server)
    return fields


def _onnx(server: Aggregate) -> dict[str, object]:
    """RedisAI counts the bytes and calls of its own allocator under ONNX Runtime. This server has none, so `memory` is
    the size of the loaded models, and `access_num` counts loads and executions, which make the runtime allocate.
    """
    engine = server.engine
    threads = sum(queue.threads for queue in engine.queues.values()) + len(server.listed("script_queues"))
    on_cpu = [model for model in engine.models if model.backend == "ONNX" and model.device.upper().startswith("CPU")]
    return {
        "ai_onnxruntime_memory": sum(model.nbytes for model in on_cpu),
        "ai_onnxruntime_memory_access_num": engine.executions.get("ONNX", 0) + engine.loads.get("ONNX", 0),
        "ai_onnxruntime_maximum_run_sessions_number": threads,
    }


def _cpu(services: Services, server: Aggregate) -> dict[str, object]:
    seconds = server.counts["cpu"]
    fields: dict[str, object] = {f"ai_{name}": _seconds(seconds.get(name)) for name in _CPU_FIELDS}
    for name, value in server.engine.worker_cpu_s.items():
        fields[name] = _seconds(value)
    return fields | {name: "N/A" for name in server.listed("script_queues") if name not in fields}


def _seconds(value: float | None) -> str:
    return "N/A" if value is None else f"{value:.6f}"
