"""Checkpoints in Redis: model, optimizer and the position in the data, as one version of a run.

    checkpoints = Checkpointer("redis://127.0.0.1:6379", "clicks-1", keep=3, best="loss")
    found = checkpoints.load(model, optimizer, loader)
    step = found.step if found else 0
    ...
    checkpoints.save(step, model, optimizer, loader, metrics={"loss": loss})

A checkpoint is a manifest over blobs of about 4 MiB; an unchanged blob costs only its digest. `save` copies the state,
and a thread writes it: blobs first, the pointer last, so a killed run finds the previous checkpoint. Position and
parameters are one version, so they always match.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import redis
import torch

from redisai_py.artifacts import Corrupt, Descriptor, Invalid, Malformed, Manifest, Missing, Store, Version
from redisai_py.artifacts.connection import AnyClient
from redisai_py.artifacts.names import LATEST, Reference, check_name
from redisai_py.artifacts.strings import ReceiveBuffer
from redisai_py.training.link import open_store
from redisai_py.training.packing import Buffers, describe, pack, unpack
from redisai_py.training.ranks import rank, ranks
from redisai_py.training.retention import Retention, Superseded
from redisai_py.training.state import give, take
from redisai_py.training.writing import FORMAT, KIND, STATE, Snapshot, write

__all__ = ["Checkpoint", "Checkpointer"]

BEST = "best"
_RNG = "rng"
_MAX_STATE = 256 * 1024 * 1024
_READ_BLOBS = 4
_RESERVED = frozenset({_RNG, "step", "metrics"})
_logger = logging.getLogger("redisai_py.training")


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint.   state: by name, the parts that no argument of `load` took back."""

    step: int
    version: Version
    metrics: Mapping[str, float]
    state: Mapping[str, Any] = field(default_factory=dict)


class Checkpointer:
    """Saves and loads the checkpoints of a run. Every rank creates one; rank 0 writes.

    client: a redis-py client, or a URL; with a URL it waits about 30 s for an unreachable Redis.
    keep:   number of newest checkpoints to keep, besides those with an alias; None keeps all.
    best:   a metric; the alias `best` points to the checkpoint with its lowest value, or the highest with mode `max`.
    Raises: Invalid: not a valid name of a run, or nothing would be kept.
    """

    def __init__(
        self,
        client: AnyClient,
        run: str,
        *,
        keep: int | None = 3,
        best: str | None = None,
        mode: Literal["min", "max"] = "min",
        prefix: str = "ai:",
    ) -> None:
        if keep is not None and keep < 1:
            raise Invalid(f"keep={keep} would keep no checkpoint: use at least 1, or None to keep all")
        if mode not in ("min", "max"):
            raise Invalid(f"mode must be 'min' or 'max', not {mode!r}")
        self.run = check_name(run)
        self._store: Store = open_store(client, prefix)
        self._best, self._sign = best, 1 if mode == "min" else -1
        self._retention = Retention(self._store, run, keep)
        self._thread = ThreadPoolExecutor(1, f"checkpoint {run}")
        self._buffers = Buffers()
        self._flight: Future[Version | None] | None = None

    # -- saving --------------------------------------------------------------------------------------------------------

    def save(
        self,
        step: int,
        model: Any = None,
        optimizer: Any = None,
        loader: Any = None,
        metrics: Mapping[str, float] | None = None,
        **more: Any,
    ) -> Future[Version | None]:
        """Copy the state and write it in the background. Only one write runs at a time; a second save waits for it.

        Args:    step: number of steps done; the version's number.   more: objects with `state_dict()`, or dicts of
                 numbers, strings and tensors, such as a scheduler.
        Returns: the future version, None on ranks that do not write. A failed write is also logged; training goes on,
                 and the previous checkpoint stays.
        Raises:  Invalid: part of the state would need pickle; names it.
                 Superseded: another process continues this run, so this one must end.
        """
        named = {"model": model, "optimizer": optimizer, "loader": loader, **more}
        unusable = sorted(_RESERVED & more.keys())
        if unusable:
            raise Invalid(f"{unusable[0]!r} is reserved in checkpoints: choose another name")
        if rank():
            nothing: Future[Version | None] = Future()
            nothing.set_result(None)
            return nothing
        self.wait()
        state = {name: _state_of(name, part) for name, part in named.items() if part is not None}
        if ranks() == 1:
            state[_RNG] = _rng_state()
        structure, tensors = take(state)
        numbers = {name: float(value) for name, value in (metrics or {}).items()}
        described = describe(tensors)
        snapshot = Snapshot(step, numbers, structure, described, pack(tensors, self.run, self._buffers), self._buffers)
        self._flight = self._thread.submit(self._write, snapshot)
        return self._flight

    def wait(self) -> None:
        """Wait until the last save is written. Raises: Superseded: another process continues this run."""
        flight, self._flight = self._flight, None
        if flight is not None and isinstance(error := flight.exception(), Superseded):
            raise error

    def _write(self, snapshot: Snapshot) -> Version:
        try:
            aliases = [LATEST, *([BEST] if self._is_best(snapshot.metrics) else [])]
            return write(self._store, self.run, snapshot, aliases, self._retention)
        except Exception as error:
            self._tell(snapshot, error)
            raise

    def _is_best(self, metrics: Mapping[str, float]) -> bool:
        if self._best is None:
            return False
        value = metrics.get(self._best)
        if value is None or math.isnan(value):
            return False
        try:
            _, manifest = self._store.open(KIND, Reference(self.run, alias=BEST))
            known = float(self._store.config(manifest)["metrics"][self._best])
        except (Missing, LookupError, TypeError, ValueError, OverflowError):  # it is damaged: not the best any more
            return True
        return self._sign * value < self._sign * known

    def _tell(self, snapshot: Snapshot, error: Exception) -> None:
        """Report a failed save: the reason, the missing bytes, and the checkpoint that stays."""
        why = str(error)
        if isinstance(error, redis.OutOfMemoryError):
            missing = snapshot.size if snapshot.missing is None else snapshot.missing
            why = f"Redis is full{self._memory()}, and {missing:,} bytes more are needed"
        try:
            there = f"the checkpoint of step {self._store.registry(KIND).resolve(Reference(self.run)).version} stays"
        except (Missing, redis.RedisError):
            there = "there is none before it"
        _logger.warning(
            "run %s: the checkpoint of step %d, %s bytes, was not saved: %s. Training goes on; %s",
            self.run, snapshot.step, f"{snapshot.size:,}", why, there,
        )  # fmt: skip

    def _memory(self) -> str:
        try:
            info: Any = self._store.redis.info("memory")
        except redis.RedisError:
            return ""
        return f" ({info['used_memory']:,} of {info['maxmemory']:,} bytes)"

    # -- loading -------------------------------------------------------------------------------------------------------

    def load(
        self, model: Any = None, optimizer: Any = None, loader: Any = None, *, at: int | str = LATEST, **more: Any
    ) -> Checkpoint | None:
        """Restore a checkpoint into the given objects.

        Args:    at: a step, or an alias such as `best`.   more: as for `save`.
        Returns: the checkpoint, with the parts that were not restored; None if the run has no checkpoint yet.
        Raises:  Missing: no such checkpoint.   Corrupt: a blob is damaged; names it.   Invalid: a requested part is not
                 in the checkpoint, or does not fit.
        """
        self.wait()
        reference = Reference(self.run, version=at) if isinstance(at, int) else Reference(self.run, alias=at)
        try:
            self._store.registry(KIND).versions(self.run)
        except Missing:
            return None
        version, config, state = self._read(reference)
        wanted = {"model": model, "optimizer": optimizer, "loader": loader, **more}
        parts = {name: part for name, part in wanted.items() if part is not None}
        missing = [name for name in parts if name not in state]
        if missing:
            raise Invalid(f"checkpoint {version} holds no {missing[0]}; it holds {', '.join(state)}")
        for name, part in parts.items():
            _give_back(str(version), name, part, state.pop(name))
        if ranks() == 1:
            _restore_rng(str(version), state.pop(_RNG, None))
        state.pop(_RNG, None)
        return Checkpoint(version.version, version, _numbers(config["metrics"]) or {}, state)

    def _read(self, reference: Reference) -> tuple[Version, dict[str, Any], dict[str, Any]]:
        version, manifest = self._store.open(KIND, reference)
        config = self._store.config(manifest)
        if not isinstance(config, dict) or config.get("format") != FORMAT or _numbers(config.get("metrics")) is None:
            raise Malformed(f"{version} is not a checkpoint that this release reads")
        by_title = {layer.title: layer for layer in manifest.layers}
        if STATE not in by_title:
            raise Malformed(f"{version} is a checkpoint without {STATE}")
        document = _parsed(version, self._store.read(by_title.pop(STATE), _MAX_STATE))
        try:
            tensors = unpack(document.get("tensors"), self._blobs(version, manifest))
            state = give(document.get("state"), tensors)
        except Invalid as error:
            raise Malformed(f"{version}: {error}") from None
        if not isinstance(state, dict):
            raise Malformed(f"{version}: this is not a state of a training")
        return version, config, state

    def _blobs(self, version: Version, manifest: Manifest) -> Any:
        layers = [layer for layer in manifest.layers if layer.title != STATE]
        buffer = ReceiveBuffer()
        for start in range(0, len(layers), _READ_BLOBS):
            group = layers[start : start + _READ_BLOBS]
            try:
                yield from self._store.blobs.get_many([(layer.digest, layer.size) for layer in group], buffer)
            except Missing:
                raise Missing(f"{version}: {self._lost(group)} is not in Redis") from None
            except Corrupt as error:
                title = next((layer.title for layer in group if layer.digest == error.expected), "a layer")
                raise Corrupt(f"{version}: layer {title}", error.expected, error.found, "Redis") from None

    def _lost(self, group: list[Descriptor]) -> str:
        sizes = self._store.blobs.sizes([layer.digest for layer in group])
        lost = [layer for layer in group if sizes[layer.digest] is None] or group
        return f"layer {lost[0].title}, {lost[0].digest},"

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Wait for the last save, and end the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _bare(part: Any) -> Any:
    """The model inside DistributedDataParallel and torch.compile, which fits any number of ranks."""
    if isinstance(part, (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)):
        return _bare(part.module)
    return _bare(part._orig_mod) if hasattr(part, "_orig_mod") else part


def _state_of(name: str, part: Any) -> Any:
    bare = _bare(part)
    if hasattr(bare, "state_dict"):
        return bare.state_dict()
    if isinstance(bare, Mapping):
        return bare
    raise Invalid(f"{name} is a {type(part).__name__}, which has no state_dict() and is not a dict")


def _give_back(version: str, name: str, part: Any, state: Any) -> None:
    bare = _bare(part)
    if not hasattr(bare, "load_state_dict"):
        raise Invalid(f"{name} is a {type(part).__name__} without load_state_dict(); take it from what load() returns")
    try:
        bare.load_state_dict(state)
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise Invalid(f"{name} does not fit the checkpoint {version}: {' '.join(str(error).split())}") from error


def _rng_state() -> dict[str, torch.Tensor]:
    """The state of PyTorch's random generators, as part of a state."""
    found = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found |= {f"cuda.{place}": state for place, state in enumerate(torch.cuda.get_rng_state_all())}
    return found


def _restore_rng(version: str, state: Any) -> None:
    if not isinstance(state, dict) or "cpu" not in state:
        return
    devices = [state[f"cuda.{place}"] for place in range(len(state) - 1) if f"cuda.{place}" in state]
    try:
        torch.set_rng_state(state["cpu"])
        if devices and torch.cuda.is_available() and len(devices) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(devices)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise Malformed(f"{version}: the state of a random generator is none: {' '.join(str(error).split())}") from None


def _numbers(metrics: Any) -> dict[str, float] | None:
    """The metrics of a config, None if they are none. NaN and the like are texts in JSON."""
    try:
        return {name: float(value) for name, value in metrics.items()}
    except (AttributeError, TypeError, ValueError, OverflowError):
        return None


def _parsed(version: Version, data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{version}: {STATE} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise Malformed(f"{version}: {STATE} is not a state of a training")
    return document
