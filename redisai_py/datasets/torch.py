"""Data sets in Redis as training data for PyTorch.

    data = RedisDataset("redis://127.0.0.1:6379", "clicks@latest", split="train", batch_size=256, seed=0)
    loader = data.loader(num_workers=2)
    for epoch in range(data.epoch, 10):
        for batch in loader:            # {"x": (256 / ranks, ...), "y": ...}
            ...

Every rank and every worker computes the same order and takes its own part of each step (`order`), so ranks have equal
numbers of steps, and neither ranks nor workers change which rows a step consists of. The position in the data is part
of a checkpoint: `state_dict()` says which step comes next.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from redisai_py.artifacts import Invalid, Store
from redisai_py.datasets.dataset import Dataset
from redisai_py.datasets.layout import STRING, Columns
from redisai_py.datasets.order import Block, Epoch, Order, Remainder, Steps
from redisai_py.datasets.prefetch import Prefetch

__all__ = ["Batch", "RedisDataset", "RedisLoader"]

Batch = dict[str, torch.Tensor]
"""Column -> (rows of this rank's part, ...)."""


class RedisDataset(IterableDataset[Batch]):
    """One epoch of batches each time it is iterated over, from where `state_dict` says.

    Args:   url: of Redis, or of `redisai serve` in front of it.   reference: `clicks:3`, `clicks@latest`. The version
            is looked up once: what is sealed later does not change a run.
            split, columns: only these.   batch_size: rows of a step, of all ranks together.
            remainder: what becomes of rows that do not fill the last step: `pad` (repeat the epoch's first) or `drop`.
            block_shards: how many shards are mixed at a time.   ahead: blocks that are fetched ahead.
            rank, ranks: torch.distributed's unless given.
    Raises: Missing, Corrupt, Invalid: there is no such version, split or column; the ranks cannot share a batch; a
            column of texts.
    """

    def __init__(
        self,
        url: str,
        reference: str,
        *,
        split: str | None = None,
        columns: Sequence[str] | None = None,
        batch_size: int = 256,
        seed: int = 0,
        shuffle: bool = True,
        remainder: Remainder = "pad",
        block_shards: int = 8,
        ahead: int = 1,
        rank: int | None = None,
        ranks: int | None = None,
        prefix: str = "ai:",
    ) -> None:
        super().__init__()
        self._url = url
        self._prefix = prefix
        self._connected: tuple[int, Store] | None = None
        self._dataset = Dataset.open(self._store(), reference)
        self.version = str(self._dataset.version)
        self.digest = self._dataset.version.digest
        self._shards = self._dataset.shards(split)
        self.columns = _numeric(self._dataset, columns)
        self.order = Order(tuple(shard.rows for shard in self._shards), seed, block_shards, shuffle)
        self.steps = Steps(self.order.total, batch_size, remainder)
        self._ahead = ahead
        self._rank, self._ranks = _place(rank, ranks)
        self.steps.slice_of(0, self._rank, self._ranks)  # a batch that the ranks cannot share is an error here
        self.epoch = 0
        self.step = 0

    def __len__(self) -> int:
        """Steps of an epoch, the same on every rank."""
        return self.steps.count

    def _store(self) -> Store:
        """This process's own connection: a forked worker must not share its parent's."""
        if self._connected is None or self._connected[0] != os.getpid():
            self._connected = (os.getpid(), Store(self._url, self._prefix))
        return self._connected[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_connected": None}

    # -- position ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch comes from. It holds numbers and texts only."""
        return {
            "digest": self.digest,
            "seed": self.order.seed,
            "batch_size": self.steps.batch,
            "epoch": self.epoch,
            "step": self.step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there. Raises: Invalid: it is the state of other data, or of another order of them."""
        own = self.state_dict()
        for name in ("digest", "seed", "batch_size"):
            if state.get(name) != own[name]:
                raise Invalid(
                    f"this state was saved with {name} {state.get(name)}, and data set {self.version} is read with "
                    f"{own[name]}: rows would be repeated or left out"
                )
        self.epoch, self.step = int(state["epoch"]), int(state["step"])

    def advance(self) -> None:
        """A step of this epoch was taken; after the last one comes the next epoch."""
        self.step += 1
        if self.step >= self.steps.count:
            self.epoch, self.step = self.epoch + 1, 0

    def loader(self, num_workers: int = 0, **settings: Any) -> RedisLoader:
        """A DataLoader of this data; `settings` are its own, such as pin_memory."""
        return RedisLoader(self, num_workers, settings)

    # -- reading -------------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        epoch = self.order.epoch(self.epoch)
        for batch in self._read(epoch, range(self.step + first, self.steps.count, stride)):
            if worker is None:
                self.advance()
            yield batch

    def _read(self, epoch: Epoch, steps: range) -> Iterator[Batch]:
        """The batches of these steps of an epoch."""
        places = [self.steps.slice_of(step, self._rank, self._ranks) for step in steps]
        with Prefetch(self._fetch, _needed(epoch, places), self._ahead) as fetched:
            held: tuple[int, Columns] | None = None
            for start, stop in places:
                parts: list[Columns] = []
                for piece in epoch.pieces(start, stop):
                    while held is None or held[0] != piece.block.number:
                        held = next(fetched)
                    parts.append({name: values[piece.rows] for name, values in held[1].items()})
                yield {name: _tensor([part[name] for part in parts]) for name in self.columns}

    def _fetch(self, block: Block) -> tuple[int, Columns]:
        """The rows of a block's shards, joined."""
        dataset = self._dataset.on(self._store())
        parts = dataset.fetch([self._shards[number] for number in block.shards], self.columns)
        return block.number, {name: np.concatenate([part[name] for part in parts]) for name in self.columns}


class RedisLoader:
    """The batches of an epoch, made in worker processes if there are any; it moves the data set's position on."""

    def __init__(self, dataset: RedisDataset, num_workers: int, settings: dict[str, Any]) -> None:
        self.dataset = dataset
        self._workers = num_workers
        # Batches are made by the data set; a DataLoader's own batching would collect them into larger ones.
        self._loader: DataLoader[Batch] = DataLoader(dataset, batch_size=None, num_workers=num_workers, **settings)

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            if self._workers:  # else the data set has counted it
                self.dataset.advance()
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """See `RedisDataset.state_dict`: batches that workers made ahead do not count."""
        return self.dataset.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `RedisDataset.load_state_dict`."""
        self.dataset.load_state_dict(state)


def _place(rank: int | None, ranks: int | None) -> tuple[int, int]:
    if rank is not None and ranks is not None:
        return rank, ranks
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _numeric(dataset: Dataset, columns: Sequence[str] | None) -> list[str]:
    texts = [column.name for column in dataset.schema.columns if column.type == STRING]
    if columns is None:
        return [name for name in dataset.schema.names if name not in texts]
    wrong = [name for name in columns if name in texts]
    if wrong:
        raise Invalid(f"column {wrong[0]} holds texts, which are no tensors: encode them before")
    return list(columns)


def _needed(epoch: Epoch, places: Sequence[tuple[int, int]]) -> Iterator[Block]:
    """The blocks that these places lie in, each once in a row."""
    last = None
    for start, stop in places:
        for block in epoch.blocks_of(start, stop):
            if block is not last:
                yield block
            last = block


def _tensor(parts: list[NDArray[Any]]) -> torch.Tensor:
    values = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return torch.from_numpy(values.view(np.int64) if values.dtype.kind == "M" else values)
