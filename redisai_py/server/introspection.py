"""What the server says of itself: the `ai_*` sections of INFO, with the names and the order that RedisAI's clients
read.
"""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

from redisai_py.backend import loaded_backends

if TYPE_CHECKING:
    from redisai_py.server.app import Server

__all__ = ["MODULE_NAME", "MODULE_VERSION", "info_sections"]

MODULE_NAME = "ai"
MODULE_VERSION = 10207
"""major * 10000 + minor * 100 + patch of the RedisAI version whose protocol this is, 1.2.7."""

_VERSION_FIELDS = {
    "TF": "ai_TensorFlow_version",
    "TFLITE": "ai_TensorFlowLite_version",
    "TORCH": "ai_Torch_version",
    "ONNX": "ai_onnxruntime_version",
}
_ALL = {"everything", "modules", MODULE_NAME}


def info_sections(server: Server, wanted: set[str]) -> str:
    """The sections that INFO's arguments (lower case) ask for, as INFO prints them; "" if none."""
    sections = {
        "ai_versions": _versions,
        "ai_git": _git,
        "ai_load_time_configs": _settings,
        "ai_backends_info": _backends,
        "ai_cpu": _cpu,
    }
    chosen = [name for name in sections if wanted & _ALL or name in wanted]
    return "\r\n".join(f"# {name}\r\n{_lines(sections[name](server))}" for name in chosen)


def _lines(fields: dict[str, object]) -> str:
    return "".join(f"{name}:{value}\r\n" for name, value in fields.items())


def _versions(server: Server) -> dict[str, object]:
    return {"ai_RedisAI_version": "1.2.7", "ai_low_level_API_version": 1, "ai_rdb_version": 4}


def _git(server: Server) -> dict[str, object]:
    return {"ai_git_sha": "unknown"}


def _settings(server: Server) -> dict[str, object]:
    settings = server.engine.settings
    return {
        "ai_threads_per_queue": settings.threads_per_queue,
        "ai_inter_op_parallelism": settings.inter_op,
        "ai_intra_op_parallelism": settings.intra_op,
        "ai_model_execution_timeout": settings.model_execution_timeout_ms,
        "ai_backend_memory_limit": settings.backend_memory_limit_bytes // 1_000_000,
    }


def _backends(server: Server) -> dict[str, object]:
    fields: dict[str, object] = {}
    for name, backend in sorted(loaded_backends().items()):
        fields[_VERSION_FIELDS.get(name, f"ai_{name}_version")] = backend.version
    return fields


def _cpu(server: Server) -> dict[str, object]:
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    main = resource.getrusage(resource.RUSAGE_THREAD)
    fields: dict[str, object] = {
        "ai_self_used_cpu_sys": _seconds(own.ru_stime),
        "ai_self_used_cpu_user": _seconds(own.ru_utime),
        "ai_children_used_cpu_sys": _seconds(children.ru_stime),
        "ai_children_used_cpu_user": _seconds(children.ru_utime),
        "ai_main_thread_used_cpu_sys": _seconds(main.ru_stime),
        "ai_main_thread_used_cpu_user": _seconds(main.ru_utime),
    }
    for name, seconds in server.engine.snapshot().worker_cpu_s.items():
        fields[name] = "N/A" if seconds is None else _seconds(seconds)
    return fields


def _seconds(value: float) -> str:
    return f"{value:.6f}"
