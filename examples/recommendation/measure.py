"""Figures of the example: the duration of a click, and clicks while models are published."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import redis
import torch

from examples.recommendation.clicks import Busy, Recommender, connect
from examples.recommendation.follow import publish
from examples.recommendation.network import Network
from examples.recommendation.ratings import Ratings
from examples.recommendation.shapes import Keys
from redisai_py import Client

__all__ = ["Load", "Swaps", "measure_clicks", "measure_swaps"]

_WARM_UP = 50


@dataclass(slots=True)
class Load:
    """Clicks of several viewers at a time, until it is stopped. failures: their texts.   durations_s: of the others."""

    durations_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    stopped: bool = False

    def p_ms(self, share: float) -> float:
        """A percentile of the durations, without the first clicks."""
        return float(np.percentile(self.durations_s[_WARM_UP:], share) * 1e3)

    async def click(self, url: str, keys: Keys, films: int, by_script: bool, viewers: int) -> None:
        """Click, each viewer on a connection of its own, on films that the last recommendation showed or on any."""
        async with connect(url) as client:
            recommender = Recommender(client, keys, by_script)
            await asyncio.gather(*(self._viewer(recommender, f"load-{i}", films, i) for i in range(viewers)))

    async def _viewer(self, recommender: Recommender, viewer: str, films: int, seed: int) -> None:
        chance = random.Random(seed)
        await recommender.begin(viewer)
        film = 1
        while not self.stopped:
            began = time.perf_counter()
            try:
                given = await recommender.click(viewer, film)
            except (redis.RedisError, Busy) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                continue
            self.durations_s.append(time.perf_counter() - began)
            film = chance.choice([*given.films[:3], chance.randrange(1, films)])


def measure_clicks(url: str, keys: Keys, films: int, by_script: bool, seconds: float = 3.0) -> Load:
    """One viewer who clicks again and again."""
    load = Load()

    async def run() -> None:
        asyncio.get_running_loop().call_later(seconds, setattr, load, "stopped", True)
        await load.click(url, keys, films, by_script, viewers=1)

    asyncio.run(run())
    return load


@dataclass(frozen=True, slots=True)
class Swaps:
    """published: models in turn.   publish_ms: export, comparison and AI.MODELSTORE of one, in the median."""

    published: int
    publish_ms: float
    load: Load


def measure_swaps(
    url: str, keys: Keys, ratings: Ratings, network: Network, times: int = 50, viewers: int = 4, by_script: bool = False
) -> Swaps:
    """Publish again and again, each time a model that answers otherwise, while viewers click."""
    load = Load()
    clicking = threading.Thread(
        target=lambda: asyncio.run(load.click(url, keys, len(ratings.titles), by_script, viewers)), name="clicks"
    )
    durations = []
    clicking.start()
    try:
        with Client.from_url(url) as client:
            for number in range(times):
                with torch.no_grad():
                    network.liked += torch.randn(network.liked.shape, generator=torch.Generator().manual_seed(number))
                began = time.perf_counter()
                publish(client, keys, network, ratings, number + 2)
                durations.append(time.perf_counter() - began)
    finally:
        load.stopped = True
        clicking.join()
    return Swaps(times, float(np.median(durations) * 1e3), load)
