"""Every setting of the server: one frozen object, and the one table of names, defaults, limits and help texts.

A setting is a field of `Config`. The command line, the environment and the documentation derive from its metadata.
Rules: every `Config` is valid, because the constructor checks it; byte counts end in `_bytes`, durations in `_ms` or
`_s`. `redisai_py.cli.settings` reads flags, files and environment variables; this module does not.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redisai_py.machine import granted_cores, memory_bytes
from redisai_py.setting import MOST_THREADS, Setting, check_listening, device_threads, setting_field
from redisai_py.urls import check_url

__all__ = ["MIN_CHUNK_SIZE", "MOST_PROCESSES", "Config", "settings", "words"]

NETWORK = "Network"
REDIS = "Redis"
RUNS = "Runs"
MEMORY = "Memory"
PROCESS = "Process"
MIN_CHUNK_SIZE = 64 * 1024
"""Smallest MODEL_CHUNK_SIZE. Each chunk is a field of the model's hash and an element of the reply."""
MOST_PROCESSES = 64
_CORES_TO_STAY_AWAKE = 2
_MOST_AUTOMATIC_THREADS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of one server.

    Raises: ValueError, naming the setting, for a value out of bounds.
    """

    host: tuple[str, ...] = setting_field(
        ("127.0.0.1", "-::1"),
        NETWORK,
        "Addresses to listen on. The server skips an address marked with - if the machine does not have it. 0.0.0.0 or "
        '* is every IPv4 interface, :: or ::* every IPv6 interface, "" none.',
    )
    port: int = setting_field(6390, NETWORK, "TCP port to listen on.", minimum=1, maximum=65535, zero="any free port")
    unix_socket: Path | None = setting_field(  # noqa: RUF009 - a Path is immutable, the rule does not know
        None, NETWORK, "Unix socket to listen on, in addition to the addresses."
    )
    unix_socket_perm: str = setting_field("700", NETWORK, "Permissions of the Unix socket, in octal.")
    protected_mode: bool = setting_field(
        True, NETWORK, "Refuse to listen beyond this machine while Redis accepts clients without a password."
    )
    max_clients: int = setting_field(10_000, NETWORK, "Maximum number of client connections.", minimum=1)
    backlog: int = setting_field(511, NETWORK, "Maximum number of connections waiting to be accepted.", minimum=1)
    max_argument_bytes: int = setting_field(
        512 * 1024 * 1024, NETWORK, "Maximum size of a command's argument. Redis has the same limit.", minimum=1024
    )
    max_arguments: int = setting_field(
        2**31 - 1, NETWORK, "Maximum number of arguments of a command. Redis 7 has the same limit.", minimum=16
    )
    client_query_buffer_limit: int = setting_field(
        1024 * 1024 * 1024,
        NETWORK,
        "Maximum number of unprocessed bytes received from one client, including an incomplete command. The server "
        "disconnects a client that exceeds it. Redis has the same limit.",
        minimum=1024 * 1024,
    )
    maxmemory_clients: int = setting_field(
        0,
        NETWORK,
        "Maximum number of bytes held for all clients together, including unread replies. When it is exceeded, the "
        "server disconnects the client that holds most.",
        minimum=1024 * 1024,
        zero="half of the memory",
    )
    upload_timeout_s: int = setting_field(
        30,
        NETWORK,
        "Disconnect a client that stops in the middle of a large argument for this many seconds.",
        minimum=1,
        zero="no limit",
    )
    output_buffer_limit_bytes: int = setting_field(
        256 * 1024 * 1024,
        NETWORK,
        "Disconnect a client with more unread reply bytes than this. A single reply may be larger.",
        minimum=1024 * 1024,
        zero="no limit",
    )

    redis: str | None = setting_field(
        None,
        REDIS,
        "Redis to use: redis://HOST:PORT, rediss://HOST:PORT (TLS) or unix:///PATH. "
        "By default the server starts a private Redis.",
    )
    redis_password_file: Path | None = setting_field(  # noqa: RUF009 - as above
        None, REDIS, "File whose first line is the password for --redis. Keeps the password off the command line."
    )
    data_dir: Path = setting_field(  # noqa: RUF009 - a Path is immutable, the rule does not know
        Path("redisai-data"), REDIS, "Data directory of the private Redis."
    )
    require_password: bool = setting_field(
        False,
        REDIS,
        "Protect the private Redis with a generated password, kept in the file `password` of the data directory.",
    )
    appendfsync: str = setting_field(
        "everysec",
        REDIS,
        "When the private Redis syncs its log to disk. always: no acknowledged write is ever lost. everysec: a crash "
        "of the machine, or of the private Redis while the disk is slow, may lose the last 2 s of acknowledged "
        "writes. no: a crash of the machine may lose 30 s or more.",
        choices=("always", "everysec", "no"),
    )
    redis_server: str | None = setting_field(
        None, REDIS, "redis-server or valkey-server to run as the private Redis. By default the one on PATH."
    )
    upstream_pool: int = setting_field(
        8, REDIS, "Connections to Redis per user for values of 64 KiB or more, and for scripts.", minimum=1
    )
    upstream_retry_ms: int = setting_field(
        3000,
        REDIS,
        "Milliseconds a command waits for an unreachable Redis before its client is disconnected. Only commands not "
        "yet sent to Redis wait.",
        minimum=1,
        zero="disconnect at once",
    )
    upstream_timeout_ms: int = setting_field(
        10_000,
        REDIS,
        "Milliseconds Redis may take to answer a PING while clients wait for replies. After that the server treats "
        "Redis as hung and closes all connections to it. Blocking commands and scripts may take longer.",
        minimum=100,
        zero="wait forever",
    )
    upstream_keepalive_s: int = setting_field(
        30,
        REDIS,
        "Seconds of silence on a connection to Redis before TCP keepalive probes it.",
        minimum=1,
        zero="off",
    )

    threads_per_queue: int = setting_field(
        0,
        RUNS,
        "Worker threads per device. A model runs on several of them at once if its framework allows it.",
        minimum=1,
        maximum=MOST_THREADS,
        zero="one per core, at most 4, and one more that a single model leaves to the others",
    )
    device_threads: tuple[str, ...] = setting_field(
        (),
        RUNS,
        "Worker threads of one device, for models: DEVICE=N, for example GPU:0=1. Overrides --threads-per-queue.",
    )
    worker_nice: int = setting_field(
        5,
        RUNS,
        "Nice value of the threads and processes that run models and scripts, relative to the rest of the server, so "
        "that clients are served while models keep all cores busy. Linux only.",
        minimum=1,
        maximum=19,
        zero="the same as the rest",
    )
    intra_op_parallelism: int = setting_field(
        0,
        RUNS,
        "Threads a framework uses inside one operation.",
        minimum=1,
        zero="the cores divided by the threads that one model may run on",
    )
    inter_op_parallelism: int = setting_field(
        0, RUNS, "Threads a framework uses to run operations in parallel.", minimum=1, zero="the framework's default"
    )
    model_execution_timeout_ms: int = setting_field(
        5000, RUNS, "Maximum run time of a model, in milliseconds.", minimum=1000, zero="no limit"
    )
    isolation: str = setting_field(
        "auto",
        RUNS,
        "Where models are loaded and run. auto: in engine processes, so that no model can crash or hang the server; an "
        "ONNX model with short runs moves into the server after 100 good runs. all: always in engine processes. none: "
        "in the server. On systems other than Linux, auto is none.",
        choices=("none", "auto", "all"),
    )
    engine_processes: int = setting_field(
        8,
        RUNS,
        "Engine processes per backend on the CPU. Each model has one of its own until there are this many; then models "
        "share them. A GPU has one.",
        minimum=1,
        maximum=MOST_THREADS,
    )
    model_load_timeout_ms: int = setting_field(
        120_000,
        RUNS,
        "Maximum time to load a model in an engine process, in milliseconds. Loads in the server have no limit.",
        minimum=1000,
        zero="no limit",
    )
    runaway_limit: int = setting_field(
        4,
        RUNS,
        "Number of runs and loads past their time limit, each on an abandoned thread, that the server tolerates before "
        "it restarts itself.",
        minimum=1,
        zero="restart at the first",
    )
    script_execution_timeout_ms: int = setting_field(
        5000, RUNS, "Maximum run time of a script, in milliseconds.", minimum=1, zero="no limit"
    )
    queue_limit: int = setting_field(
        10_000,
        RUNS,
        "Maximum number of runs queued per model, and for all scripts together. Further runs get an error.",
        minimum=1,
    )
    auto_batch: int = setting_field(
        0,
        RUNS,
        "Maximum rows of a merged run for models stored without BATCHSIZE. Merging starts once merged runs have "
        "returned the same results as single runs.",
        minimum=1,
        zero="merge only models with BATCHSIZE",
    )
    preload: tuple[str, ...] = setting_field((), RUNS, "Models to load before the server is ready: their keys, or all.")

    near_cache_bytes: int = setting_field(
        64 * 1024 * 1024,
        MEMORY,
        "Size of the cache of tensors and model ids. Redis confirms a cached value at each use.",
        minimum=1024,
        zero="off",
    )
    prediction_cache_bytes: int = setting_field(
        64 * 1024 * 1024,
        MEMORY,
        "Memory for predictions that the server keeps at hand for up to 5 s, and for inputs that it recognises.",
        minimum=1024,
        zero="look in Redis each time",
    )
    loaded_models_limit_bytes: int = setting_field(
        0,
        MEMORY,
        "Memory for loaded models, of all front doors together. Above it, the server unloads the least recently used.",
        minimum=1,
        zero="half of the memory",
    )
    backend_memory_limit_mb: int = setting_field(
        0, MEMORY, "Memory limit of ONNX Runtime's CPU allocator, in millions of bytes.", minimum=1, zero="no limit"
    )
    engine_memory_limit_mb: int = setting_field(
        0,
        MEMORY,
        "Memory limit of an engine process beyond what its framework takes, in millions of bytes.",
        minimum=64,
        zero="four fifths of the memory",
    )
    script_memory_limit_mb: int = setting_field(
        2048, MEMORY, "Memory limit of a script's process, in millions of bytes.", minimum=64, zero="no limit"
    )
    model_chunk_size: int = setting_field(
        535_822_336,
        MEMORY,
        "Maximum size, in bytes, of the chunks in which a model's blob is stored.",
        minimum=MIN_CHUNK_SIZE,
    )

    processes: int = setting_field(
        1,
        PROCESS,
        "Front-door processes that share the clients and engine processes, each with its own event loop and caches. "
        "More than one pays if many clients keep one core busy, other cores are free, and models run without "
        "BATCHSIZE.",
        minimum=1,
        maximum=MOST_PROCESSES,
    )
    busy_poll_us: int = setting_field(
        60,
        PROCESS,
        "Maximum time, in microseconds, to poll for an imminent reply or command instead of sleeping. Applies with few "
        "clients and at least two cores.",
        minimum=1,
        zero="sleep at once",
    )
    drain_timeout_s: int = setting_field(
        20, PROCESS, "Seconds running commands may take to finish at shutdown.", minimum=1, zero="none: stop at once"
    )
    stall_timeout_s: int = setting_field(
        10,
        PROCESS,
        "Kill and restart the server after this many seconds without a heartbeat.",
        minimum=2,
        zero="never",
    )
    log_level: str = setting_field("info", PROCESS, "Minimum log level.", choices=("debug", "info", "warning", "error"))
    log_format: str = setting_field("text", PROCESS, "Format of the log on standard error.", choices=("text", "json"))
    slow_run_ms: int = setting_field(
        1000,
        PROCESS,
        "Log runs of models and scripts that take at least this many milliseconds.",
        minimum=1,
        zero="none",
    )
    http: int = setting_field(
        0, PROCESS, "TCP port for /metrics (Prometheus), /healthz and /readyz.", minimum=1, maximum=65535, zero="off"
    )
    http_host: str = setting_field("127.0.0.1", PROCESS, "Address of the HTTP port. No authentication.")

    def __post_init__(self) -> None:
        for setting in _SETTINGS:
            setting.check(getattr(self, setting.name))
        if self.redis is not None:
            check_url(self.redis)
        device_threads(self.device_threads)
        check_listening(self.host, self.unix_socket, self.unix_socket_perm)

    @property
    def spare_threads(self) -> int:
        """Worker threads of a device that one model leaves to the others: one, if the number is automatic."""
        return 0 if self.threads_per_queue else 1

    def resolved(self) -> Config:
        """The same settings, with this machine's values instead of automatic ones (0), and each process's part of what
        several front doors share. The server reads these.
        """
        doors = self.processes
        cores = granted_cores()
        own_cores = cores / doors
        computing = self.threads_per_queue or max(1, min(_MOST_AUTOMATIC_THREADS, math.ceil(own_cores)))
        return dataclasses.replace(
            self,
            threads_per_queue=computing + self.spare_threads,
            # One model on all its threads uses each core once.
            intra_op_parallelism=self.intra_op_parallelism or max(1, int(own_cores) // computing),
            # Redis and the clients need a single core. Front doors that are busy themselves do not poll.
            busy_poll_us=self.busy_poll_us if cores >= _CORES_TO_STAY_AWAKE else 0,
            engine_memory_limit_mb=self.engine_memory_limit_mb or memory_bytes() * 4 // 5 // 1_000_000,
            loaded_models_limit_bytes=self.loaded_models_limit_bytes or memory_bytes() // 2,
            near_cache_bytes=_part(self.near_cache_bytes, doors, 1024),
            prediction_cache_bytes=_part(self.prediction_cache_bytes, doors, 1024),
            maxmemory_clients=self.maxmemory_clients or memory_bytes() // 2,
        )

    def to_json(self) -> str:
        """One line for `from_json`. The supervisor passes the settings to the server's process this way."""
        return json.dumps(dataclasses.asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Config:
        """The inverse of `to_json`."""
        values = json.loads(text)
        paths = {s.name: Path(values[s.name]) for s in _SETTINGS if "Path" in s.type and values[s.name] is not None}
        return cls(**{**values, **paths, **words(values)})


def _part(whole: int, doors: int, least: int) -> int:
    return max(least, whole // doors) if whole else 0


def words(values: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Settings with several values, as tuples; `values` may hold lists."""
    return {setting.name: tuple(values[setting.name]) for setting in _SETTINGS if isinstance(setting.default, tuple)}


def _describe() -> Iterator[Setting]:
    for item in dataclasses.fields(Config):
        yield Setting(name=item.name, type=str(item.type), default=item.default, **item.metadata)


_SETTINGS = tuple(_describe())


def settings() -> tuple[Setting, ...]:
    """All settings, in the order of the help page."""
    return _SETTINGS
