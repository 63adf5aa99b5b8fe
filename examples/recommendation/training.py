"""Trains the network on ratings, measures it on each person's last one, and goes on from clicks.

Everything is drawn from one seed. PyTorch sums in another order on another machine; the network may then differ in its
last digits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from examples.recommendation.network import Network, Recommending
from examples.recommendation.ratings import Ratings, kept
from examples.recommendation.shapes import TOP, WINDOW

__all__ = ["Examples", "Progress", "Trained", "examples_of", "learn", "recall", "recall_of_popularity", "train"]

_SEED = 20
_EPOCHS = 4
_BATCH = 256
_RATE = 1e-2
_RATE_OF_CLICKS = 1e-3

Progress = Callable[[int, int, float], None]
"""Called with the steps done, the steps in all, and the loss."""


@dataclass(frozen=True, slots=True)
class Examples:
    """before: the films that were seen, INT64 (n, WINDOW).   then: the film that came next, INT64 (n,)."""

    before: Tensor
    then: Tensor

    def __len__(self) -> int:
        return len(self.then)


@dataclass(frozen=True, slots=True)
class Trained:
    """recall: share of people whose last film is among TOP.   popular: the same for the TOP most popular films."""

    network: Network
    recall: float
    popular: float
    duration_s: float


def examples_of(histories: Sequence[NDArray[np.int64]]) -> Examples:
    """One example per film of each history, from the very first, before which nothing is known."""
    before = []
    for films in histories:
        padded = np.concatenate([np.zeros(WINDOW, np.int64), films])
        before.append(np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[:-1])
    return Examples(torch.from_numpy(np.concatenate(before)), torch.from_numpy(np.concatenate(histories)))


def train(ratings: Ratings, progress: Progress = lambda done, steps, loss: None, steps: int | None = None) -> Trained:
    """Train a network from nothing, about ten seconds of one core, on all ratings but each person's last.

    Args: steps: batches of ratings; fewer give a worse network sooner.
    """
    began = time.monotonic()
    known = ratings.without_last
    examples = examples_of(known.histories)
    steps = steps or _EPOCHS * (len(examples) // _BATCH)
    with _one_core(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        network = Network(len(ratings.titles), torch.from_numpy(known.popularity()))
        optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps + 1, pct_start=0.1)
        batches = _batches(examples)
        for step in range(steps):
            loss = _step(network, optimizer, next(batches))
            schedule.step()
            progress(step + 1, steps, loss)
        duration_s = time.monotonic() - began
        return Trained(network, recall(network, ratings), recall_of_popularity(ratings), duration_s)


def learn(network: Network, clicks: Examples, replayed: Examples, generator: torch.Generator) -> float:
    """Go on from clicks, with as many batches of older ratings among them as keep these from being forgotten.

    Returns: the loss of the clicks before they were learnt: falls as the network comes to know its viewers.
    """
    with _one_core():
        network.eval()
        with torch.inference_mode():
            loss = nn.functional.cross_entropy(network(clicks.before), clicks.then).item()
        optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE_OF_CLICKS, weight_decay=0)
        for _ in range(4):
            old = torch.randint(len(replayed), (_BATCH,), generator=generator)
            before = torch.cat([clicks.before, replayed.before[old]])
            _step(network, optimizer, Examples(before, torch.cat([clicks.then, replayed.then[old]])))
        network.eval()
    return loss


def _step(network: Network, optimizer: torch.optim.Optimizer, batch: Examples) -> float:
    network.train()
    loss = nn.functional.cross_entropy(network(batch.before), batch.then)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def _batches(examples: Examples) -> Iterator[Examples]:
    """Without end: every example once in each round."""
    while True:
        order = torch.randperm(len(examples))
        for at in order[: len(order) // _BATCH * _BATCH].view(-1, _BATCH):
            yield Examples(examples.before[at], examples.then[at])


def recall(network: Network, ratings: Ratings) -> float:
    """Share of people whose last film is among the TOP that are served for the films before it."""
    served = Recommending(network).eval()
    histories = np.concatenate([kept(films) for films in ratings.without_last.histories])
    with torch.inference_mode():
        films = served(torch.from_numpy(histories))[0].numpy()
    return _hits(films, ratings)


def recall_of_popularity(ratings: Ratings) -> float:
    """The same, if everybody is shown the most popular films that they have not rated."""
    known = ratings.without_last
    best = np.argsort(-known.popularity(), kind="stable")
    shown = [best[~np.isin(best, films)][:TOP] for films in known.histories]
    return _hits(np.stack(shown), ratings)


def _hits(shown: NDArray[np.int64], ratings: Ratings) -> float:
    last = np.array([films[-1] for films in ratings.histories])
    return float((shown == last[:, None]).any(1).mean())


@contextmanager
def _one_core() -> Iterator[None]:
    """These tensors are too small to share out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
