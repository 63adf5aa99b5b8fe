"""The values of model and script keys: the store reads them, the engine runs them."""

from __future__ import annotations

import enum
import hashlib
import json
from dataclasses import dataclass, field, replace

from redisai_py.blobs import Blob, opened
from redisai_py.tensor import Device

__all__ = ["Kind", "Model", "Script", "described", "identified", "named"]


class Kind(enum.Enum):
    """Kinds of keys other than tensors. The value is stored in the key's hash and appears in replies."""

    MODEL = b"MODEL"
    SCRIPT = b"SCRIPT"

    # Enum members are hashed in Python code by default; these are in keys of hot dictionaries.
    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Model:
    """A stored model.

    id: new at every store, so that a replaced model is never mistaken for its predecessor. Anybody may write it into
    their own hash: it says whether a key has changed, never what is loaded.
    backend: wire name, upper case.   device: as typed.   inputs, outputs: names, one per tensor (TORCH outputs are "").
    batchsize, minbatchsize: rows, 0 is off.   minbatchtimeout_ms: 0 waits without limit.
    blob: the model's bytes; empty if only the description was read (AI.MODELGET META, or a run of a loaded id).
    signature: the name of a SavedModel's signature, or empty.
    sha256: of the blob, in hex.   identity: digest of everything that determines its behaviour; the key of loaded
    models. `identified` computes both here; they are never read from a key (docs/adr/0018).
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
    blob: Blob = b""
    sha256: str = ""
    identity: str = ""
    signature: str = ""


@dataclass(frozen=True, slots=True)
class Script:
    """A stored TorchScript source.

    entry_points: names of functions with the three-list signature; empty for AI.SCRIPTSET.
    identity: as for a model.
    """

    id: str
    device: Device
    tag: bytes
    entry_points: tuple[str, ...]
    source: str
    identity: str = field(init=False)

    def __post_init__(self) -> None:
        digest = _digest(Kind.SCRIPT.name, self.id, self.device.text, self.entry_points, self.source)
        object.__setattr__(self, "identity", digest)


def identified(model: Model) -> Model:
    """The model with its identity. Takes a SHA-256 over the blob, without the GIL."""
    with opened(model.blob) as file:
        return _with_identity(replace(model, sha256=hashlib.file_digest(file, "sha256").hexdigest()))


def described(model: Model, sha256: str) -> Model:
    """The model with the identity that it has if this is the digest of its blob."""
    return _with_identity(replace(model, sha256=sha256))


def named(model: Model, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Model:
    """An identified model with other names, and therefore another identity."""
    return _with_identity(replace(model, inputs=inputs, outputs=outputs))


def _with_identity(model: Model) -> Model:
    device, batching = model.device.text, (model.batchsize, model.minbatchsize, model.minbatchtimeout_ms)
    parts = (model.id, model.backend, device, batching, model.inputs, model.outputs, model.sha256, model.signature)
    return replace(model, identity=_digest(Kind.MODEL.name, *parts))


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
