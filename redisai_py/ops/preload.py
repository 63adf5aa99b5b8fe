"""`--preload`: load models before the server counts as ready, so that their first runs are not slow.

`all` means every model in database 0 at the start, found with the server's own credentials. A model that its framework
refuses is logged and left to its first run, unless the framework itself cannot be loaded: then the installation is
broken. Named keys must load. Failed loads are retried every few seconds, and `/readyz` fails until all have succeeded.
A load that takes long, or forever, blocks neither the others nor the start, which waits at most 10 s. A load that ended
or hung a server's process is not tried by the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from dataclasses import dataclass

import structlog

from redisai_py.errors import BackendNotInstalled, RedisAIError, UpstreamError
from redisai_py.frontdoor.services import Services
from redisai_py.model import Kind
from redisai_py.ops.keymap import ProgramKey, key_text
from redisai_py.serve.heartbeat import LOADED, LOADING
from redisai_py.store.store import Store

__all__ = ["ALL", "NO_SUPERVISOR", "Preload", "SupervisorLink"]

ALL = "all"
RETRY_S = 5.0
PATIENCE_S = 10.0
_AT_ONCE = 2
_UNDER_WAY = "still loading"

logger = structlog.get_logger()


@dataclass
class SupervisorLink:
    """The connection to the supervisor; this one has nobody at its end.

    suspects, careful: see `redisai_py.serve.heartbeat.Orders`.   replaced: another process serves in place of this one,
    which is about to stop.
    """

    suspects: frozenset[bytes] = frozenset()
    careful: bool = False
    replaced: bool = False

    def notify(self, word: bytes, key: bytes | None = None) -> None:
        """Send one of the words of `redisai_py.serve.heartbeat`. Must neither block nor fail."""


NO_SUPERVISOR = SupervisorLink()


class Preload:
    """The models still to load, and why they are not loaded.

    Args: preload: keys, or the word `all`.
    """

    def __init__(self, services: Services, preload: tuple[str, ...], supervisor: SupervisorLink) -> None:
        self._services = services
        self._supervisor = supervisor
        self._all = ALL in preload
        self._scanned = not self._all
        self._missing = {} if self._all else {word.encode(): "not tried yet" for word in preload}
        self._trouble = "not tried yet" if self._all else ""
        self._slots = asyncio.Semaphore(1 if supervisor.careful else _AT_ONCE)
        self._loads: dict[bytes, asyncio.Task[None]] = {}

    @property
    def obstacles(self) -> list[str]:
        """Why the server is not ready, one line per model; empty once everything is loaded."""
        lines = [f"preload of {key_text(key)}: {why}" for key, why in self._missing.items()]
        return lines if self._scanned else [f"preload of all models: {self._trouble}", *lines]

    async def attempt(self) -> None:
        """Load what is not loaded yet, as far as possible now. Never fails; see `obstacles`.

        Returns after at most 10 s. Longer loads continue.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await self._attempt()

    async def _attempt(self) -> None:
        try:
            store = (await self._services.control.access()).store
            if not self._scanned:
                self._missing |= {key: "not tried yet" async for key, _ in store.scan(Kind.MODEL)}
                self._scanned = True
        except RedisAIError as error:
            self._trouble = str(error)
            self._missing = {key: why if key in self._loads else str(error) for key, why in self._missing.items()}
            return
        for key in list(self._missing):
            if key not in self._loads and not self._is_suspect(key):
                task = self._loads[key] = asyncio.create_task(self._load_in_turn(store, key))
                task.add_done_callback(functools.partial(self._load_ended, key))
        if self._loads:
            await asyncio.wait(list(self._loads.values()))

    async def retry(self) -> None:
        """Retry until everything is loaded."""
        told: list[str] = []
        while obstacles := self.obstacles:
            if obstacles != told:
                logger.warning("preload incomplete", obstacles=obstacles[:10], retry_s=RETRY_S)
                told = obstacles
            await asyncio.sleep(RETRY_S)
            await self.attempt()
        if self._all:
            logger.info("all models preloaded")

    async def close(self) -> None:
        """Cancel running loads."""
        for task in self._loads.values():
            task.cancel()
        await asyncio.gather(*self._loads.values(), return_exceptions=True)

    def _is_suspect(self, key: bytes) -> bool:
        if key not in self._supervisor.suspects:
            return False
        if self._all:  # like a model that its framework refuses
            del self._missing[key]
        else:
            self._missing[key] = "left to its first run, since the server's process ended or hung while it loaded this"
        return True

    async def _load_in_turn(self, store: Store, key: bytes) -> None:
        """Load, at most two at a time; a load that takes long lets the next one start."""
        async with self._slots:
            load = asyncio.ensure_future(self._load(store, key))
            try:
                await asyncio.wait([load], timeout=PATIENCE_S)
            except asyncio.CancelledError:
                load.cancel()
                raise
        try:
            await load
        finally:
            load.cancel()

    def _load_ended(self, key: bytes, task: asyncio.Task[None]) -> None:
        del self._loads[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("preload failed", model=key_text(key), exc_info=error)

    async def _load(self, store: Store, key: bytes) -> None:
        program_key = ProgramKey(Kind.MODEL, 0, key)
        loading = self._services.programs
        self._missing[key] = _UNDER_WAY
        self._supervisor.notify(LOADING, key)
        try:
            if self._all and not self._fits():
                logger.warning("no memory left to preload a model", model=program_key.name)
            else:
                await loading.load_stored(program_key, (await store.model(key)).id, store)
        except RedisAIError as error:
            if not self._all or isinstance(error, BackendNotInstalled | UpstreamError):
                self._missing[key] = str(error)
                return
        finally:
            self._supervisor.notify(LOADED, key)
        del self._missing[key]

    def _fits(self) -> bool:
        """Whether loading one more model evicts no others, as far as can be estimated."""
        services = self._services
        settings = services.engine.settings
        copies = settings.processes if services.config.isolation == "none" else 1  # each front door loads the same
        limit = settings.loaded_models_limit_bytes
        return not limit or services.engine.snapshot().loaded_bytes * copies < limit
