"""Parity: on the server that will run it, a model must reproduce the predictions stored with it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import redis
from numpy.typing import NDArray

from redisai_py.artifacts.errors import Invalid, NotParity
from redisai_py.artifacts.predictions import Predictions
from redisai_py.artifacts.store import Store
from redisai_py.client import Client

__all__ = ["Parity", "Tolerance", "check_parity", "compare", "serving"]

_ROWS = 256
_CHECK_TTL_S = 600


@dataclass(frozen=True)
class Tolerance:
    """Allowed difference of floating-point results: `absolute + relative * |expected|`. Others must be equal."""

    absolute: float = 1e-5
    relative: float = 1e-4

    def __str__(self) -> str:
        return f"{self.absolute:g} + {self.relative:g} x |expected|"


@dataclass(frozen=True)
class Parity:
    """rows: number compared.   difference: largest of all floating-point results.   tolerance: the allowed one."""

    rows: int
    difference: float
    tolerance: Tolerance

    def __str__(self) -> str:
        return f"{self.rows} predictions recomputed, off by at most {self.difference:.2g} (allowed: {self.tolerance})"


def serving(link: redis.Redis) -> Client:
    """A client with AI commands that shares another client's connections."""
    return Client(connection_pool=link.connection_pool)


def check_parity(
    store: Store,
    title: str,
    blob: list[bytes],
    settings: dict[str, Any],
    predictions: Predictions,
    tolerance: Tolerance | None = None,
) -> Parity:
    """Run a model under a temporary key and compare its outputs.

    Args:    settings: `backend`, `device`, and for TF `inputs` and `outputs`, as for `Client.modelstore`.
    Raises:  NotParity.   Invalid: the model has other inputs or outputs.   redis.ResponseError.
    """
    client = serving(store.redis)
    key = f"{store.keys.prefix}check:{secrets.token_hex(8)}"
    client.modelstore(key, data=blob, **settings)
    try:
        client.expire(key, _CHECK_TTL_S)
        meta = client.modelget(key, meta_only=True)
        inputs, outputs = list(predictions.inputs), list(predictions.outputs)
        if len(meta["inputs"]) != len(inputs) or len(meta["outputs"]) < len(outputs):
            raise Invalid(
                f"{title} has inputs {', '.join(meta['inputs'])} and outputs {', '.join(meta['outputs'])}; "
                f"the predictions have {', '.join(inputs)} and {', '.join(outputs)}"
            )
        ordered = [_placed(name, place, meta["inputs"], inputs) for place, name in enumerate(meta["inputs"])]
        found = _run(
            client, key, [predictions.inputs[name] for name in ordered], len(meta["outputs"]), predictions.rows
        )
        pairs = {}
        for place, name in enumerate(outputs):
            at = meta["outputs"].index(name) if name in meta["outputs"] else place
            pairs[name] = (predictions.outputs[name], found[at])
        return compare(title, pairs, tolerance or Tolerance())
    finally:
        client.delete(key)


def _placed(name: str, place: int, names: Sequence[str], given: Sequence[str]) -> str:
    """The predictions' name of a model's input: the same name, else the name at the same position."""
    return name if name in given and set(names) == set(given) else given[place]


def _run(client: Client, key: str, inputs: list[NDArray[Any]], count: int, rows: int) -> list[NDArray[Any]]:
    batches: list[list[NDArray[Any]]] = []
    for start in range(0, rows, _ROWS):
        dag = client.dag(routing=key, readonly=True)
        for place, array in enumerate(inputs):
            dag.tensorset(f"in {place}", array[start : start + _ROWS])
        results = [f"out {place}" for place in range(count)]
        dag.modelexecute(key, [f"in {place}" for place in range(len(inputs))], results)
        for name in results:
            dag.tensorget(name)
        replies: Any = dag.execute()
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        batches.append(replies[-count:])
    return [np.concatenate([batch[place] for batch in batches]) for place in range(count)]


def compare(title: str, pairs: dict[str, tuple[NDArray[Any], NDArray[Any]]], tolerance: Tolerance) -> Parity:
    """Compare expected with actual outputs. Raises: NotParity, naming output, difference and rows."""
    worst, rows = 0.0, 0
    for name, (expected, found) in pairs.items():
        rows = len(expected)
        if expected.size != found.size or rows != len(found):
            raise NotParity(
                f"{title}: output {name} has the shape {found.shape}; the stored prediction has {expected.shape}"
            )
        wrong, largest = _differing(expected, found.reshape(expected.shape), tolerance)
        worst = max(worst, largest)
        bad = wrong.reshape(rows, -1).any(axis=1)
        if bad.any():
            text = "is another"
            if expected.dtype.kind == "f":
                text = f"is off by up to {largest:.3g} (allowed: {tolerance})"
            where = f"{int(bad.sum())} of {rows} rows, the first is row {int(np.argmax(bad))}"
            raise NotParity(f"{title}: output {name} {text} in {where}")
    return Parity(rows, worst, tolerance)


def _differing(expected: NDArray[Any], found: NDArray[Any], tolerance: Tolerance) -> tuple[NDArray[np.bool_], float]:
    """Elements that differ by more than the tolerance, and the largest finite difference."""
    if expected.dtype.kind != "f":
        return np.asarray(expected.astype(str) != found.astype(str)), 0.0
    wide, now = expected.astype(np.float64), found.astype(np.float64)
    same = (wide == now) | (np.isnan(wide) & np.isnan(now))
    finite = np.isfinite(wide) & np.isfinite(now)
    off = np.zeros_like(wide)
    np.subtract(now, wide, out=off, where=finite)
    np.abs(off, out=off)
    within = finite & (off <= tolerance.absolute + tolerance.relative * np.abs(np.where(finite, wide, 0)))
    return ~(same | within), float(off.max(initial=0))
