"""The trainer: follows the stream of clicks, learns from them, and publishes the model while it is in use.

It keeps nothing that cannot be lost: the parameters and its place in the stream are in Redis and change in one step.
Killed at any point, the next one goes on from there; clicks since then are learnt again, from the older parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnxruntime
import redis
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save

from examples.recommendation.network import Network, Recommending, export_onnx
from examples.recommendation.ratings import Ratings, kept
from examples.recommendation.shapes import HISTORY, WINDOW, Keys
from examples.recommendation.shift import ENTRY_POINT, SCRIPT, shift_model
from examples.recommendation.training import Examples, examples_of, learn
from redisai_py import Client
from redisai_py.errors import MissingKey, WrongType

__all__ = ["Differs", "Follower", "Publication", "publish", "store"]

_MOST_ROWS = 16
_TOLERANCE = 1e-3
_PROBES = 16
_FIRST = "0-0"


class Differs(Exception):
    """The exported model answers otherwise than the network; it was not published."""


@dataclass(frozen=True, slots=True)
class Publication:
    """A model that is served now.

    number: counted from 1.   clicks: learnt up to it, in all.   loss: of the new clicks before they were learnt.
    """

    number: int
    clicks: int
    loss: float


def store(client: Client, keys: Keys, network: Network, ratings: Ratings) -> None:
    """Give the server all that clicks need: the network, the script, and the model that does the same as the script."""
    client.scriptstore(keys.shift, "CPU", SCRIPT, ENTRY_POINT)
    client.modelstore(keys.shift_model, "ONNX", "CPU", shift_model(), batch=_MOST_ROWS)
    client.set(keys.weights, save(network.state_dict()))
    publish(client, keys, network, ratings, number=1)
    client.hset(keys.progress, mapping={"published": 1, "clicks": 0, "place": _FIRST})


def publish(client: Client, keys: Keys, network: Network, ratings: Ratings, number: int) -> None:
    """Replace the model that is served, without a request failing; runs that have begun end with the old one.

    Raises: Differs.   redis.ResponseError: the server refused it, and goes on with the old one.
    """
    model = export_onnx(network)
    probes = [np.zeros(0, np.int64), *(films[: len(films) // 2] for films in ratings.histories[: _PROBES - 1])]
    _compare(network, model, np.concatenate([kept(films) for films in probes]))
    client.modelstore(keys.model, "ONNX", "CPU", model, batch=_MOST_ROWS, tag=f"{keys.version}:{number}")


def _compare(network: Network, model: bytes, histories: NDArray[np.int64]) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    scores = onnxruntime.InferenceSession(model, options).run(["scores"], {"history": histories})[0]
    with torch.inference_mode():
        expected = Recommending(network).eval()(torch.from_numpy(histories))[1].numpy()
    difference = float(np.abs(scores - expected).max())
    if not difference <= _TOLERANCE:  # also if it is not a number
        raise Differs(f"scores differ by {difference:.2g}, which is more than {_TOLERANCE:.0e}")


@dataclass
class Follower:
    """every: clicks that make a new model."""

    client: Client
    keys: Keys
    ratings: Ratings
    every: int = 20
    _pending: list[tuple[str, str, int]] = field(default_factory=list)  # id, viewer, film
    _place: str = _FIRST

    def __post_init__(self) -> None:
        self._generator = torch.Generator().manual_seed(1)
        self._replayed = examples_of(self.ratings.without_last.histories)
        self._network = Network(len(self.ratings.titles))
        self._restore()

    def _restore(self) -> None:
        """Go back to what Redis has: parameters, and the place in the stream up to which they were learnt."""
        weights, place = self.client.get(self.keys.weights), self.client.hget(self.keys.progress, "place")
        if weights is None or place is None:
            raise MissingKey(f"{self.keys.weights}: the network is not stored")
        self._network.load_state_dict(load(weights))
        self._place, self._pending = place.decode(), []

    def step(self, wait_ms: int = 1000) -> Publication | None:
        """Wait for clicks; learn and publish if there are enough of them.

        Raises: redis.RedisError: Redis was lost or refused; go on later, nothing is lost.   Differs.
        """
        self._read(wait_ms)
        return self._advance() if len(self._pending) >= self.every else None

    def _read(self, wait_ms: int) -> None:
        after = self._pending[-1][0] if self._pending else self._place
        missing = max(self.every - len(self._pending), 1)
        for _, entries in self.client.xread({self.keys.clicks: after}, missing, wait_ms) or ():
            for name, fields in entries:
                self._pending.append((name.decode(), *_click(fields, len(self.ratings.titles))))

    def _advance(self) -> Publication | None:
        """Publish what the pending clicks teach. Returns: None if another trainer was faster; its work counts then."""
        examples = self._examples()
        loss = learn(self._network, examples, self._replayed, self._generator) if len(examples) else float("nan")
        with self.client.pipeline() as pipeline:
            pipeline.watch(self.keys.progress)
            place, published, clicks = pipeline.hmget(self.keys.progress, ["place", "published", "clicks"])
            if place is None or place.decode() != self._place:
                self._restore()
                return None
            result = Publication(int(published) + 1, int(clicks) + len(self._pending), loss)
            publish(self.client, self.keys, self._network, self.ratings, result.number)
            place = self._pending[-1][0]
            pipeline.multi()
            pipeline.set(self.keys.weights, save(self._network.state_dict()))
            progress = {"place": place, "published": result.number, "clicks": result.clicks, "loss": loss}
            pipeline.hset(self.keys.progress, mapping=progress)
            try:
                pipeline.execute()
            except redis.WatchError:
                self._restore()
                return None
        self._place, self._pending = place, []
        return result

    def _examples(self) -> Examples:
        """What each pending click chose, and what was seen before it; without those whose history is forgotten."""
        histories = {viewer: self._history(viewer) for viewer in {viewer for _, viewer, _ in self._pending}}
        parts = []
        for _, viewer, film in self._pending:
            found = np.flatnonzero(histories[viewer] == film)
            if film and len(found):
                parts.append(_last_example(histories[viewer][: found[-1] + 1]))
        return _joined(parts)

    def _history(self, viewer: str) -> NDArray[np.int64]:
        """INT64 (HISTORY,); zeros if it is forgotten, or if somebody has put something else there."""
        films, none = len(self.ratings.titles), np.zeros(HISTORY, np.int64)
        try:
            history = self.client.tensorget(self.keys.history(viewer))
        except (MissingKey, WrongType):
            return none
        if history.dtype != np.int64 or history.shape != (1, HISTORY) or history.min() < 0 or history.max() >= films:
            return none
        return history[0]


def _click(fields: dict[bytes, bytes], films: int) -> tuple[str, int]:
    """(viewer, film); film 0 if the entry is none of ours: anybody may write to a stream."""
    film = fields.get(b"film", b"")
    number = int(film) if film.isdigit() and len(film) < 10 else 0
    return fields.get(b"viewer", b"").decode("utf-8", "replace"), number if number < films else 0


def _last_example(films: NDArray[np.int64]) -> Examples:
    examples = examples_of([films])
    return Examples(examples.before[-1:], examples.then[-1:])


def _joined(parts: Sequence[Examples]) -> Examples:
    if not parts:
        return Examples(torch.zeros(0, WINDOW, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    return Examples(torch.cat([part.before for part in parts]), torch.cat([part.then for part in parts]))
