"""`--preload`: models that are loaded before the server counts as ready, so that their first runs are not slow ones.

`all` is every model that database 0 holds at the start, found with the server's own credentials; one that its
framework refuses is logged and left to its first run, unless the framework itself cannot be loaded: then the
installation is wrong. Keys that are named must load. What has not loaded is tried again every few seconds, and the
server is not ready until it has.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from redisai_py.errors import BackendNotInstalled, RedisAIError, UpstreamError
from redisai_py.server.keymap import Place, key_text

if TYPE_CHECKING:
    from redisai_py.server.app import Server
    from redisai_py.store.store import Store

__all__ = ["ALL", "Preload"]

ALL = "all"
RETRY_S = 5.0
_AT_ONCE = 2

logger = structlog.get_logger()


class Preload:
    """What is still to be loaded, and why it is not.

    Args: words: keys, or the word `all`.
    """

    def __init__(self, server: Server, words: tuple[str, ...]) -> None:
        self._server = server
        self._all = ALL in words
        self._scanned = not self._all
        self._missing = {} if self._all else {word.encode(): "not tried yet" for word in words}
        self._trouble = "not tried yet" if self._all else ""

    @property
    def obstacles(self) -> list[str]:
        """Why the server is not ready, one line per model; empty once everything is loaded."""
        lines = [f"preload of {key_text(key)}: {why}" for key, why in self._missing.items()]
        return lines if self._scanned else [f"preload of all models: {self._trouble}", *lines]

    async def attempt(self) -> None:
        """Load what is not loaded yet, as far as that is possible now. Never fails; `obstacles` tells."""
        try:
            store = (await self._server.control.access()).store
            if not self._scanned:
                self._missing |= {key: "not tried yet" async for key, _ in store.scan(b"MODEL")}
                self._scanned = True
        except RedisAIError as error:
            self._trouble = str(error)
            self._missing = dict.fromkeys(self._missing, str(error))
            return
        slots = asyncio.Semaphore(_AT_ONCE)
        await asyncio.gather(*(self._load(store, key, slots) for key in list(self._missing)))

    async def insist(self) -> None:
        """Try until everything is loaded."""
        told: list[str] = []
        while obstacles := self.obstacles:
            if obstacles != told:
                logger.warning("preload incomplete", obstacles=obstacles[:10], retry_s=RETRY_S)
                told = obstacles
            await asyncio.sleep(RETRY_S)
            await self.attempt()
        if self._all:
            logger.info("all models preloaded")

    async def _load(self, store: Store, key: bytes, slots: asyncio.Semaphore) -> None:
        place = Place("MODEL", 0, key)
        loading = self._server.loading
        async with slots:
            try:
                if self._all and not self._fits():
                    logger.warning("no memory left to preload a model", model=place.name)
                else:
                    known = self._server.keys.held(place)
                    await loading.load_read(place, await store.model_with_blob(key), known)
            except RedisAIError as error:
                if not self._all or isinstance(error, BackendNotInstalled | UpstreamError):
                    self._missing[key] = str(error)
                    return
            del self._missing[key]

    def _fits(self) -> bool:
        """Whether loading one more model does not push out others, as far as can be told before."""
        limit = self._server.engine.settings.loaded_models_limit_bytes
        return not limit or self._server.engine.snapshot().loaded_bytes < limit
