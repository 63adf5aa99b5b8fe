"""One click of one viewer: a single command, sent together with the entry that the trainer learns from.

The program holds a connection and the films' titles. Histories, script and model are keys in Redis; any number of such
programs may serve the same viewers, and each may be restarted at any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import redis
from numpy.typing import NDArray
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from safetensors.numpy import save

from examples.recommendation.shapes import HISTORY, Keys
from examples.recommendation.shift import ENTRY_POINT
from redisai_py.client import AsyncClient, AsyncDag
from redisai_py.client.failures import failure_of, failures_among
from redisai_py.errors import TENSOR_KEY_EMPTY, Conflict, MissingKey

__all__ = ["Busy", "Recommendation", "Recommender", "connect"]

_ATTEMPTS = 16
_CLICKS_KEPT = 100_000


class Busy(Exception):
    """Other clicks of the same viewer kept coming first."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """films: numbers, the best first.   scores: of each; a difference of 1 is a factor of e in likelihood."""

    films: list[int]
    scores: list[float]


def connect(url: str) -> AsyncClient:
    """A client that sends nothing twice on its own: a click that is repeated would be in the history twice."""
    return AsyncClient.from_url(url, retry=Retry(NoBackoff(), 0))


@dataclass(frozen=True, slots=True)
class Recommender:
    """Recommends films, to viewers that are known by a name.

    by_script: the history is shifted by the script, otherwise by the model that does the same.
    ttl_s: seconds after the last click that a history is forgotten.
    """

    client: AsyncClient
    keys: Keys
    by_script: bool = False
    ttl_s: int = 24 * 3600

    def dag(self, viewer: str, film: int) -> AsyncDag:
        """All that a click needs, as one command: the film goes into the history, and the model reads that.

        The new history replaces the old one, with its expiry, unless another click of the same viewer has done so in
        the meantime (IFUNCHANGED).
        """
        history = self.keys.history(viewer)
        dag = self.client.dag(load=history, persist=history, ex=self.ttl_s, ifunchanged=True)
        dag.tensorset("film", np.array([[film]], np.int64))
        if self.by_script:
            dag.scriptexecute(self.keys.shift, ENTRY_POINT, inputs=[history, "film"], outputs=history)
        else:
            dag.modelexecute(self.keys.shift_model, [history, "film"], history)
        dag.modelexecute(self.keys.model, history, ["films", "scores"])
        return dag.tensorget("films").tensorget("scores")

    async def click(self, viewer: str, film: int) -> Recommendation:
        """Take a click in, and recommend what to see next.

        Raises: Busy.   redis.ConnectionError: the server was lost; the click may or may not have been taken in.
                redis.ResponseError: anything that is wrong with the model or script.
        """
        dag = self.dag(viewer, film)
        call = dag.call()
        pipeline = self.client.pipeline(transaction=False)
        pipeline.execute_command(*call.argv)
        pipeline.xadd(self.keys.clicks, {"viewer": viewer, "film": film}, maxlen=_CLICKS_KEPT, approximate=True)
        reply, logged = await pipeline.execute(raise_on_error=False)
        if isinstance(logged, Exception):
            raise logged
        for _ in range(_ATTEMPTS):
            try:
                if isinstance(reply, redis.ResponseError):
                    raise failure_of(reply)
                return _recommendation(failures_among(call.decode(reply)))
            except MissingKey as error:
                if not TENSOR_KEY_EMPTY.endswith(str(error)):
                    raise  # a model or the script is not there
                await self.begin(viewer)
            except Conflict:
                pass
            reply = await self._again(call.argv)
        raise Busy(viewer)

    async def _again(self, words: list[Any]) -> Any:
        try:
            return await self.client.execute_command(*words)
        except redis.ResponseError as error:
            return error

    async def recommend(self, viewer: str) -> Recommendation:
        """What to see next, as things are; to somebody who is not known: what most people see first."""
        history = self.keys.history(viewer)
        dag = self.client.dag(load=history).modelexecute(self.keys.model, history, ["films", "scores"])
        dag.tensorget("films").tensorget("scores")
        for _ in range(_ATTEMPTS):
            try:
                return _recommendation(await dag.execute())
            except MissingKey as error:
                if not TENSOR_KEY_EMPTY.endswith(str(error)):
                    raise
                await self.begin(viewer)
        raise Busy(viewer)

    async def begin(self, viewer: str) -> None:
        """A history without films, unless there is one.

        A tensor is an ordinary Redis string that holds a safetensors file, so SET with NX does it in one step.
        """
        nothing = save({"tensor": np.zeros((1, HISTORY), np.int64)})
        await self.client.set(self.keys.history(viewer), nothing, nx=True, ex=self.ttl_s)

    async def become(self, viewer: str, history: NDArray[np.int64]) -> None:
        """Give a viewer another history, INT64 (1, HISTORY)."""
        await self.client.set(self.keys.history(viewer), save({"tensor": history}), ex=self.ttl_s)

    async def seen(self, viewer: str) -> list[int]:
        """The films of the viewer's history, the oldest first."""
        try:
            history = await self.client.tensorget(self.keys.history(viewer))
        except MissingKey:
            return []
        return [int(film) for film in history[0] if film]

    async def forget(self, viewer: str) -> None:
        """Begin anew."""
        await self.client.delete(self.keys.history(viewer))

    async def published(self) -> tuple[int, int]:
        """How often the model was published, and how many clicks were learnt by then."""
        number, clicks = await self.client.hmget(self.keys.progress, ["published", "clicks"])
        return int(number or 0), int(clicks or 0)


def _recommendation(results: Any) -> Recommendation:
    if isinstance(results, str):
        raise redis.ResponseError(results)  # TIMEDOUT
    for result in results:
        if isinstance(result, Exception):
            raise result
    return Recommendation(results[-2][0].tolist(), results[-1][0].tolist())
