"""The values behind model and script keys, as the store reads them and the engine runs them."""

from __future__ import annotations

from dataclasses import dataclass

from redisai_py.tensor import Device

__all__ = ["Model", "Script"]


@dataclass(frozen=True, slots=True)
class Model:
    """A stored model.

    id: new at every store, so that a replaced model is never mistaken for its predecessor.
    backend: wire name, upper case.   device: as typed.   inputs, outputs: names, one per tensor (TORCH outputs are "").
    batchsize, minbatchsize: rows, 0 is off.   minbatchtimeout_ms: 0 waits without limit.
    blob: the model's bytes; empty where only the description was read (AI.MODELGET META, or a run of a loaded id).
    """

    id: str
    backend: str
    device: Device
    tag: bytes
    batchsize: int
    minbatchsize: int
    minbatchtimeout_ms: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    blob: bytes = b""


@dataclass(frozen=True, slots=True)
class Script:
    """A stored TorchScript source.

    entry_points: names of functions with the three-list signature; empty for AI.SCRIPTSET.
    """

    id: str
    device: Device
    tag: bytes
    entry_points: tuple[str, ...]
    source: str
