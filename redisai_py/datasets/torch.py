"""Data sets in Redis as training data for PyTorch.

    data = RedisDataset("redis://127.0.0.1:6379", "clicks@latest", split="train", batch_size=256, seed=0)
    loader = data.loader()
    for epoch in range(data.epoch, 10):
        for batch in loader:            # {"x": (256 / ranks, ...), "y": ...}
            ...

Every rank and every worker computes the same order and takes its own part of each step (`order`). So all ranks have the
same number of steps, and the number of ranks or workers does not change the rows of a step. The position in the data is
part of a checkpoint: `state_dict()` says which step comes next.

A thread fetches blocks ahead, checks them and puts their rows into order, so a batch is a slice of a block. A loader
without worker processes is the fast one, because each worker would fetch every block.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from redisai_py.artifacts import Invalid, Store
from redisai_py.artifacts.strings import ReceiveBuffer
from redisai_py.datasets.dataset import Dataset
from redisai_py.datasets.follow import follow as _follow
from redisai_py.datasets.follow import followed
from redisai_py.datasets.layout import STRING, row_count
from redisai_py.datasets.order import Block, Epoch, Order, Remainder, Steps
from redisai_py.datasets.prefetch import prefetched
from redisai_py.datasets.smartsim import SmartSimList

__all__ = ["Batch", "RedisDataset", "RedisLoader", "SmartSimDataset"]

Batch = dict[str, torch.Tensor]
"""Column -> array or tensor, (rows of this rank's part, ...)."""


class RedisDataset(IterableDataset[Batch]):
    """Yields one epoch of batches per iteration, starting at the position of `state_dict`.

    Args:   url: of Redis, or of `redisai serve`.   reference: `clicks:3`, `clicks@latest`. The version is looked up
            once; later seals do not change a run.
            split, columns: only these.   batch_size: rows of a step, counting all ranks.
            remainder: rows that do not fill the last step: `pad` (fill it with the epoch's first rows) or `drop`.
            block_shards: number of shards shuffled together.   ahead: number of blocks fetched ahead.
            rank, ranks: by default those of torch.distributed.
            follow: yield rows appended after the version, in order, without end. A step begins once its rows have
            arrived.   idle_s: stop after this many seconds without new rows.
            archive: URL of the source of shards that are missing in Redis; by default the archive the version was
            pushed to.
    Raises: Missing, Corrupt, Invalid: no such version, split or column; a column of strings.   ValueError: batch_size
            is not a multiple of the number of ranks.
    Memory: (ahead + 1) blocks of `block_shards` shards, and the batches that the caller keeps.
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
        follow: bool = False,
        idle_s: float | None = None,
        archive: str | None = None,
        prefix: str = "ai:",
    ) -> None:
        super().__init__()
        self._url = url
        self._prefix = prefix
        self._dataset = self._open(Store(url, prefix), reference, archive, follow, columns)
        self._opened = (os.getpid(), self._dataset)
        self.version = str(self._dataset.version)
        self.digest = self._dataset.version.digest
        self._shards = self._dataset.shards(split)
        self.columns = _numeric(self._dataset, columns)
        self.order = Order(tuple(shard.rows for shard in self._shards), seed, block_shards, shuffle)
        self.steps = Steps(self.order.total, batch_size, remainder)
        self._ahead = ahead
        self._rank, self._ranks = _place(rank, ranks)
        self.steps.slice_of(0, self._rank, self._ranks)  # raises here if the ranks cannot share a batch
        self._follow, self._idle_s = follow, idle_s
        self.epoch = 0
        self.step = 0

    def _open(
        self, store: Store, reference: str, archive: str | None, follow: bool, columns: Sequence[str] | None
    ) -> Dataset:
        return (followed if follow else Dataset.open)(store, reference, archive)

    def __len__(self) -> int:
        """Steps of an epoch, the same on every rank. Raises: TypeError: a followed data set has no end."""
        if self._follow:
            raise TypeError(f"data set {self._dataset.version.name} is followed, and has no number of steps")
        return self.steps.count

    def _connected(self) -> Dataset:
        """The data set on this process's own connection; a forked worker must not share its parent's."""
        if self._opened[0] != os.getpid():
            self._opened = (os.getpid(), self._dataset.on(Store(self._url, self._prefix)))
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": (0, None)}

    # -- position ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The position of the next batch, as numbers and strings."""
        return {
            "digest": self.digest,
            "seed": self.order.seed,
            "batch_size": self.steps.batch,
            "epoch": self.epoch,
            "step": self.step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at that position. Raises: Invalid: it is the state of other data, or of another order."""
        own = self.state_dict()
        for name in ("digest", "seed", "batch_size"):
            if state.get(name) != own[name]:
                raise Invalid(
                    f"this state was saved with {name} {state.get(name)}, and data set {self.version} is read with "
                    f"{own[name]}: rows would be repeated or left out"
                )
        self.epoch, self.step = int(state["epoch"]), int(state["step"])

    def advance(self) -> None:
        """Count a step; after the last one of an epoch the next epoch begins."""
        self.step += 1
        if self.step >= self.steps.count and not self._follow:
            self.epoch, self.step = self.epoch + 1, 0

    def loader(self, num_workers: int = 0, **settings: Any) -> RedisLoader:
        """A DataLoader for this data; `settings` are DataLoader's own, such as pin_memory."""
        return RedisLoader(self, num_workers, settings)

    # -- reading -------------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        if self._follow:
            batches = self._appended(self.step + first, stride)
        else:
            batches = self._read(self.order.epoch(self.epoch), range(self.step + first, self.steps.count, stride))
        if worker is not None:  # the loader counts the steps
            yield from batches
            return
        for batch in batches:
            self.advance()
            yield batch

    def _read(self, epoch: Epoch, steps: range) -> Iterator[Batch]:
        """The batches of some steps of an epoch."""
        places = [self.steps.slice_of(step, self._rank, self._ranks) for step in steps]
        buffer = ReceiveBuffer()
        blocks = _needed(epoch, places)
        with prefetched(lambda block: self._mixed(epoch, block, buffer), blocks, self._ahead) as fetched:
            held, begin, end = Batch(), 0, 0
            for start, stop in places:
                if begin <= start and stop <= end:  # the usual case: the batch lies in one block
                    first, last = start - begin, stop - begin
                    yield {name: values[first:last] for name, values in held.items()}
                    continue
                parts: list[Batch] = []
                for block, offset, length in epoch.cuts(start, stop):
                    while begin != block.start or not held:
                        held.clear()  # free it before the next one is made
                        now, held = next(fetched)
                        begin, end = now.start, now.start + now.rows
                    parts.append({name: values[offset : offset + length] for name, values in held.items()})
                yield _joined(parts)

    def _mixed(self, epoch: Epoch, block: Block, buffer: ReceiveBuffer) -> tuple[Block, Batch]:
        """The rows of a block's shards, in reading order.   buffer: reused for each shard."""
        order = epoch.rows_of(block.number)
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        mixed: dict[str, Any] = {}
        start = 0
        # Put each shard's rows into their final places; joining the shards first would be another copy.
        for part in self._connected().stream([self._shards[n] for n in block.shards], self.columns, buffer):
            stop = start + row_count(part)
            for name, values in part.items():
                if name not in mixed:
                    mixed[name] = np.empty((block.rows, *values.shape[1:]), values.dtype)
                _scatter(mixed[name], places[start:stop], values)
            start = stop
        return block, {name: _tensor(mixed[name]) for name in self.columns}

    def _appended(self, first: int, stride: int) -> Iterator[Batch]:
        """The batches of every stride-th step from `first`, of rows appended after the version."""
        steps = _follow(self._connected(), self.columns, self.steps.batch, first, stride, self._idle_s)
        start, stop = self.steps.slice_of(0, self._rank, self._ranks)
        for rows in steps:
            yield {name: _tensor(values[start:stop]) for name, values in rows.items()}


class SmartSimDataset(RedisDataset):
    """`RedisDataset` for an aggregation list of SmartRedis; each of its datasets is a shard: see `smartsim`.

    The list is read once; open a new object to see later entries.

    Args:   url: of `redisai serve`.   reference: the list's name.   columns: tensors; by default all of the first
            dataset.   prefix: of the keys of the list and the datasets, for a member of an ensemble; by default empty.
            Other arguments as for `RedisDataset`; there are no splits, no archives and no `follow`.
    """

    def __init__(self, url: str, reference: str, *, prefix: str = "", **settings: Any) -> None:
        if settings.get("follow") or settings.get("archive"):
            raise Invalid("an aggregation list can neither be followed nor be in an archive")
        super().__init__(url, reference, prefix=prefix, **settings)

    def _open(
        self, store: Store, reference: str, archive: str | None, follow: bool, columns: Sequence[str] | None
    ) -> Any:
        return SmartSimList.open(store, reference, columns, store.keys.prefix)


class RedisLoader:
    """The batches of an epoch, possibly made in worker processes; advances the data set's position."""

    def __init__(self, dataset: RedisDataset, num_workers: int, settings: dict[str, Any]) -> None:
        self.dataset = dataset
        self._workers = num_workers
        # The data set makes the batches; DataLoader's own batching would collect them into larger ones.
        self._loader: DataLoader[Batch] = DataLoader(dataset, batch_size=None, num_workers=num_workers, **settings)

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            if self._workers:  # without workers the data set has counted it
                self.dataset.advance()
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """See `RedisDataset.state_dict`; batches that workers made ahead do not count."""
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
    unknown = [name for name in columns if name not in dataset.schema.names]
    if unknown:
        raise Invalid(
            f"data set {dataset.version} has no column {unknown[0]}; it has {', '.join(dataset.schema.names)}"
        )
    wrong = [name for name in columns if name in texts]
    if wrong:
        raise Invalid(f"column {wrong[0]} holds strings, which are not tensors: encode them first")
    return list(columns)


def _needed(epoch: Epoch, places: Sequence[tuple[int, int]]) -> Iterator[Block]:
    """The blocks of these positions; consecutive duplicates are skipped."""
    last, begin, end = None, 0, 0
    for start, stop in places:
        if begin <= start and stop <= end:
            continue
        for block, _, _ in epoch.cuts(start, stop):
            if block is not last:
                yield block
            last, begin, end = block, block.start, block.start + block.rows


def _scatter(target: Any, places: Any, values: Any) -> None:
    """target[places] = values. Copies a row as one item, which is faster because NumPy ignores its dimensions."""
    if values.ndim > 1:
        row = np.dtype((np.void, values.dtype.itemsize * math.prod(values.shape[1:])))
        target = target.reshape(len(target), -1).view(row).ravel()
        values = values.reshape(len(values), -1).view(row).ravel()
    target[places] = values


def _tensor(values: Any) -> torch.Tensor:
    return torch.from_numpy(values.view(np.int64) if values.dtype.kind == "M" else values)


def _joined(parts: Sequence[Batch]) -> Batch:
    if len(parts) == 1:
        return parts[0]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
