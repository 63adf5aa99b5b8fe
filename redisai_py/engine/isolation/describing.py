"""Models and their tensors as JSON, for the rare messages. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from redisai_py.backend import LoadOptions, TensorSpec
from redisai_py.model import Model

__all__ = ["learn", "load_order", "specs_from_json", "specs_to_json"]


def load_order(model: Model, options: LoadOptions) -> dict[str, Any]:
    """The instructions to load a model, without its bytes."""
    device = model.device
    return {
        "backend": model.backend,
        "device": [device.kind, device.index, device.text],
        "inputs": model.inputs,
        "outputs": model.outputs,
        "signature": model.signature,
        "blob_bytes": len(model.blob),
        "options": [
            options.intra_op_threads,
            options.inter_op_threads,
            options.memory_limit_bytes,
            dict(options.extra),
        ],
    }


def specs_to_json(specs: Sequence[TensorSpec]) -> list[list[Any]]:
    """A model's input and output specs."""
    return [
        [spec.name, None if spec.dtype is None else _dtype_text(spec.dtype), spec.shape, spec.says] for spec in specs
    ]


def specs_from_json(values: Sequence[Sequence[Any]]) -> list[TensorSpec]:
    """The inverse of `specs_to_json`. Raises: ValueError, TypeError: invalid."""
    specs = []
    for name, dtype, shape, says in values:
        dims = None if shape is None else tuple(None if dim is None else int(dim) for dim in shape)
        specs.append(TensorSpec(str(name), None if dtype is None else np.dtype(str(dtype)), dims, str(says)))
    return specs


class Described(Protocol):
    """What a session says of its model."""

    inputs: Sequence[TensorSpec]
    outputs: Sequence[str]
    output_specs: Sequence[TensorSpec]
    nbytes: int
    stateful: bool
    loops: bool
    concurrent: bool
    was_there: bool
    draws: str
    branches: str


def learn(session: Described, description: Mapping[str, Any]) -> str:
    """Have the session say what the process has said of its model. Returns: the backend's version.

    Raises: KeyError, TypeError, ValueError: the process sent invalid data.
    """
    session.inputs = specs_from_json(description["inputs"])
    session.outputs = tuple(description["outputs"])
    session.output_specs = specs_from_json(description["output_specs"])
    session.nbytes = int(description["nbytes"])
    session.stateful = bool(description["stateful"])
    session.draws = str(description["draws"])
    session.branches = str(description["branches"])
    session.loops = bool(description["loops"])
    session.concurrent = bool(description["concurrent"])
    session.was_there = bool(description["was_there"])
    return str(description["version"])


def _dtype_text(dtype: np.dtype[Any]) -> str:
    """A name from which numpy makes the same dtype; bfloat16 has no code of its own."""
    return dtype.str if np.dtype(dtype.str) == dtype else dtype.name
