"""`--loaded-models-limit-bytes` of a server with several front doors, which keep it together (docs/adr/0053).

A front door that has loaded a model asks the others what they hold, and tells all of them what to unload: the models
that none of them has used for the longest time. If what is left still exceeds the limit because it is in use, all know
(`Engine.crowded`), and ask again when a model of theirs has no runs left, at most once a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import structlog

from redisai_py.engine.engine import Engine
from redisai_py.engine.settings import ModelSnapshot
from redisai_py.errors import RedisAIError
from redisai_py.ops.eviction import to_unload
from redisai_py.ops.siblings import Siblings

__all__ = ["SharedLimit", "apply_limit"]

_INTERVAL_S = 1.0
_ROUNDS = 3
"""How often to look for others, if a model was used while it was about to be unloaded."""

logger = structlog.get_logger()


class SharedLimit:
    """Args: engine: of this front door. Thread: the event loop's."""

    def __init__(self, engine: Engine, siblings: Siblings, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._siblings = siblings
        self._loop = loop
        self._new: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._asked_at = -_INTERVAL_S

    def keep(self, new: str | None = None) -> None:
        """Unload models, here and at the other front doors, until all keep the limit. new: identity of one that was
        just loaded, which stays.
        """
        if not self._engine.settings.loaded_models_limit_bytes:
            return
        if new is not None:
            self._new.add(new)
        if self._task is not None or self._timer is not None:
            return
        wait_s = 0.0 if new is not None else max(0.0, self._asked_at + _INTERVAL_S - self._loop.time())
        self._timer = self._loop.call_later(wait_s, self._begin)

    def _begin(self) -> None:
        self._timer = None
        self._asked_at = self._loop.time()
        self._task = self._loop.create_task(self._keep())
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("the limit of loaded models is not kept", exc_info=error)
        if self._new:  # loaded meanwhile
            self._begin()

    async def _keep(self) -> None:
        engine = self._engine
        new, self._new = self._new, set()
        try:
            models = await self._tell({}, None)
            for _ in range(_ROUNDS):
                unloaded, left = to_unload(models, engine.settings.loaded_models_limit_bytes, new)
                crowded = left > engine.settings.loaded_models_limit_bytes
                if not unloaded and crowded == engine.crowded:
                    return
                models = await self._tell(unloaded, crowded)
        except RedisAIError as error:
            logger.warning("the limit of loaded models is not kept", error=str(error))

    async def _tell(self, unload: Mapping[str, float], crowded: bool | None) -> list[ModelSnapshot]:
        """Have all front doors unload models. Returns: what they hold then."""
        what = {"kind": "limit", "unload": unload, "crowded": crowded, "changes": crowded is not None}
        asked = self._siblings.ask(what, {})
        models = apply_limit(self._engine, what)
        for reply in (await asked).replies:
            models += [ModelSnapshot(*each) for each in reply or ()]
        return models


def apply_limit(engine: Engine, what: Mapping[str, Any]) -> list[ModelSnapshot]:
    """Do as a front door says, see `SharedLimit`. Returns: what this one holds then."""
    if what["crowded"] is not None:
        engine.crowded = what["crowded"]
    engine.unload_unused(what["unload"])
    return list(engine.snapshot().models)
