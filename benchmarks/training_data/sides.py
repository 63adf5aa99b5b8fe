"""The places where samples are kept, each read as its users would, or better."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import redis
import torch
from harness.servers import Target
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from redisai_py.artifacts import Store
from redisai_py.datasets.dataset import Dataset
from redisai_py.datasets.order import permutation
from redisai_py.datasets.prefetch import prefetched
from redisai_py.datasets.torch import RedisDataset
from redisai_py.datasets.writer import put

BATCH = 256
_GROUP = 4096  # rows of a Parquet row group: 1 MiB, as a shard
_SIZES = (("16KiB", False, 16), ("128KiB", False, 128), ("4MiB", False, 4096))  # other sizes of shards
_LEAST_S = 0.5
_BLOCK = 8  # row groups that are mixed at a time, as shards are


@dataclass(frozen=True)
class Figures:
    """One measurement.   cores: of this process and Redis together, on average."""

    rows: int
    seconds: float
    cores: float

    @property
    def per_s(self) -> float:
        return self.rows / self.seconds


def samples(count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Digits of 8 x 8 values from 0 to 16, each with noise of its own. x: (count, 64), y: (count,)."""
    random = np.random.default_rng(0)
    images, labels = load_digits(return_X_y=True)
    chosen = random.integers(0, len(images), count)
    noise = random.integers(-1, 2, (count, 64)) * (images[chosen] > 0)
    return np.clip(images[chosen] + noise, 0, 16).astype(np.float32), labels[chosen].astype(np.int64)


class Places:
    """The same samples in all places.   url: of Redis."""

    def __init__(self, url: str, directory: Path, rows: int) -> None:
        self.url, self.rows, self._directory = url, rows, directory
        self.x, self.y = samples(rows)
        store = Store(url)
        self.sizes = {}
        for name, compress, size in (("raw", False, 1024), ("zstd", True, 1024), *_SIZES):
            put(store, name, {"x": self.x, "y": self.y}, compress=compress, shard_bytes=size * 1024)
        for name in ("raw", "zstd"):
            self.sizes[f"Redis, {name}"] = sum(shard.layer.size for shard in Dataset.open(store, name).shards())
        table = pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(self.x.reshape(-1)), 64), "y": self.y})
        for codec in ("none", "zstd"):
            path = directory / f"{codec}.parquet"
            pq.write_table(table, path, row_group_size=_GROUP, compression=codec, use_dictionary=False)
            self.sizes[f"Parquet, {codec}"] = path.stat().st_size
        self.single = min(rows, 16_384)
        link = redis.Redis.from_url(url)
        for at in range(0, self.single, 1024):
            link.mset({f"row:{i}": self.x[i].tobytes() + self.y[i].tobytes() for i in range(at, at + 1024)})
        self._link = link

    def redis_shards(self, name: str) -> Iterator[Any]:
        return iter(RedisDataset(self.url, name, batch_size=BATCH))

    def data_loader(self) -> Iterator[Any]:
        data = TensorDataset(torch.from_numpy(self.x), torch.from_numpy(self.y))
        return iter(DataLoader(data, BATCH, shuffle=True))

    def slicing(self) -> Iterator[Any]:
        x, y = torch.from_numpy(self.x), torch.from_numpy(self.y)
        order = torch.randperm(self.rows)
        for at in range(0, self.rows, BATCH):
            chosen = order[at : at + BATCH]
            yield {"x": x[chosen], "y": y[chosen]}

    def parquet(self, codec: str) -> Iterator[Any]:
        """Row groups in any order, rows mixed in blocks of eight, read ahead by a thread: as ours are."""
        with pq.ParquetFile(self._directory / f"{codec}.parquet", memory_map=True) as file:
            groups = permutation(file.num_row_groups, "groups")

            def block(at: int) -> tuple[torch.Tensor, torch.Tensor]:
                table = file.read_row_groups(groups[at : at + _BLOCK].tolist(), use_threads=False)
                x = table.column("x").combine_chunks().flatten().to_numpy().reshape(-1, 64)
                order = permutation(len(x), "rows", at)
                return torch.from_numpy(x[order]), torch.from_numpy(table.column("y").to_numpy()[order])

            with prefetched(block, range(0, len(groups), _BLOCK), 1) as blocks:
                for x, y in blocks:
                    for at in range(0, len(x), BATCH):
                        yield {"x": x[at : at + BATCH], "y": y[at : at + BATCH]}

    def one_key_per_row(self, together: bool) -> Iterator[Any]:
        """Keys row:N, 256 in one MGET, or a GET for each."""
        order = np.random.default_rng(1).permutation(self.single)[: None if together else self.single // 4]
        for at in range(0, len(order), BATCH):
            keys = [f"row:{row}" for row in order[at : at + BATCH]]
            values: Any = self._link.mget(keys) if together else [self._link.get(key) for key in keys]
            whole = np.frombuffer(b"".join(values), np.uint8).reshape(len(values), -1)
            x = whole[:, :256].copy().view(np.float32)
            yield {"x": torch.from_numpy(x), "y": torch.from_numpy(whole[:, 256:].copy().view(np.int64).ravel())}

    def all(self) -> dict[str, Callable[[], Iterator[Any]]]:
        """Each by its name in the table."""
        return {
            "Redis shards": lambda: self.redis_shards("raw"),
            "Redis shards, zstd": lambda: self.redis_shards("zstd"),
            **{f"Redis shards of {name}": partial(self.redis_shards, name) for name, *_ in _SIZES},
            "DataLoader(TensorDataset)": self.data_loader,
            "tensors in memory, sliced": self.slicing,
            "Parquet, uncompressed": lambda: self.parquet("none"),
            "Parquet, zstd": lambda: self.parquet("zstd"),
            "one key per row, MGET of 256": lambda: self.one_key_per_row(True),
            "one key per row, a GET each": lambda: self.one_key_per_row(False),
        }


def measured(upstream: Target, batches: Callable[[], Iterator[Any]], steps: int | None = None) -> Figures:
    """Take batches: so many, or whole epochs until half a second has passed, since CPU time is counted in 10 ms."""
    cpu = upstream.cpu_seconds() + time.process_time()
    began, rows, seconds = time.perf_counter(), 0, 0.0
    while seconds < _LEAST_S:
        for step, batch in enumerate(batches()):
            rows += len(batch["y"] if isinstance(batch, dict) else batch[1])
            if step + 1 == steps:
                break
        seconds = time.perf_counter() - began
        if steps is not None:
            break
    return Figures(rows, seconds, (time.process_time() + upstream.cpu_seconds() - cpu) / seconds)
