"""What all clients of a server share: created once, when the server starts, and never replaced."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass

import structlog

from redisai_py.ai.prediction_cache.predictions import Predictions
from redisai_py.config import Config
from redisai_py.engine.engine import Engine
from redisai_py.engine.stats import StatsTable
from redisai_py.engine.torchscript.engine import ScriptEngine
from redisai_py.errors import RedisAIError
from redisai_py.model import Kind
from redisai_py.ops.event_log import EventLog
from redisai_py.ops.keymap import KeyMap
from redisai_py.ops.programs import Programs
from redisai_py.ops.siblings import Siblings
from redisai_py.resp.templates import Frames
from redisai_py.upstream.access import AccessTable
from redisai_py.upstream.busy_poll import BusyPoll
from redisai_py.upstream.control import Control
from redisai_py.upstream.dialing import Dialer

__all__ = ["Counters", "Services", "Settings"]

logger = structlog.get_logger()


@dataclass(slots=True)
class Counters:
    """Counters for the operator. Thread: the event loop's.

    accepted: connections, including those refused because of the limit.   refused: those.
    """

    commands: int = 0
    accepted: int = 0
    refused: int = 0
    internal_errors: int = 0


@dataclass(slots=True)
class Settings:
    """Settings that AI.CONFIG changes while the server runs."""

    model_chunk_size: int
    backends_path: str


@dataclass(frozen=True, slots=True)
class Services:
    """One server's.

    frames: commands seen before.   engine: runs models.   predictions: answer without a run if possible.
    keys, programs: what Redis's keys held when they were last read, and what was loaded from them.
    script_stats: counters of scripts; those of models are the engine's.
    control: the server's own connections to Redis.   accesses: those of clients, by identity.   dialer: opens all of
    them.   siblings: the other front-door processes of this server.
    """

    config: Config
    loop: asyncio.AbstractEventLoop
    settings: Settings
    counters: Counters
    event_log: EventLog
    frames: Frames
    engine: Engine
    predictions: Predictions
    scripts: ScriptEngine
    script_stats: StatsTable
    keys: KeyMap
    programs: Programs
    dialer: Dialer
    accesses: AccessTable
    control: Control
    busy_poll: BusyPoll
    siblings: Siblings

    def stats(self, kind: Kind) -> StatsTable:
        """The counters of models or scripts, by identity."""
        return self.engine.stats if kind is Kind.MODEL else self.script_stats

    def internal_error(self, error: BaseException) -> RedisAIError:
        """Log a bug of ours under an id. Returns: the reply that contains the id."""
        error_id = uuid.uuid4().hex[:8]
        self.counters.internal_errors += 1
        logger.error("internal error", id=error_id, exc_info=error)
        return RedisAIError(f"ERR internal error {error_id}")
