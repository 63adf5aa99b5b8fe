"""Drift: how far today's rows differ from the training rows of the model in production, feature by feature.

The measure is the population stability index: the sum over bins of (p - q) * ln(p / q). The bins are tenths of the
older rows for numbers and dates, and values for strings. By convention, less than 0.1 is no drift, and 0.25 or more is
much.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redisai_py.datasets.layout import Columns
from redisai_py.pipeline.features import Feature, Features

__all__ = ["MUCH", "drift"]

MUCH = 0.25
_LEAST = 1e-4
_TENTHS = np.linspace(0.1, 0.9, 9)
_VALUES = 50


def drift(features: Features, before: Columns, now: Columns) -> dict[str, float | None]:
    """The index of each feature, largest first; None for a feature that is new or has changed its kind."""
    found: dict[str, float | None] = {}
    for item in features.items:
        comparable = item.name in before and Feature.of(item.name, before[item.name]) == item
        found[item.name] = float(f"{_index(item, before[item.name], now[item.name]):.4g}") if comparable else None
    return dict(sorted(found.items(), key=lambda pair: (-(pair[1] if pair[1] is not None else np.inf), pair[0])))


def _index(item: Feature, before: NDArray[Any], now: NDArray[Any]) -> float:
    if item.kind == "text":
        return _distance(*_text_shares(item.texts(before).tolist(), item.texts(now).tolist()))
    old, new = item.numbers(before), item.numbers(now)
    return max(_distance(*_number_shares(old[:, k], new[:, k])) for k in range(item.width))


def _text_shares(old: list[str], new: list[str]) -> tuple[NDArray[Any], NDArray[Any]]:
    counts, others = Counter(old), Counter(new)
    common = [value for value, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:_VALUES]]
    pairs = [(counts[value], others[value]) for value in common]
    rest = (len(old) - sum(a for a, _ in pairs), len(new) - sum(b for _, b in pairs))
    a, b = np.array([*pairs, rest], np.float64).T
    return a / max(1, len(old)), b / max(1, len(new))


def _number_shares(old: NDArray[Any], new: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    known = old[~np.isnan(old)]
    edges = np.unique(np.quantile(known, _TENTHS)) if len(known) else np.empty(0)

    def shares(values: NDArray[Any]) -> NDArray[Any]:
        lacking = np.isnan(values)
        places = np.searchsorted(edges, values[~lacking], "left")
        counts = np.bincount(places, minlength=len(edges) + 1)
        return np.append(counts, lacking.sum()) / max(1, len(values))

    return shares(old), shares(new)


def _distance(old: NDArray[Any], new: NDArray[Any]) -> float:
    a, b = np.maximum(old, _LEAST), np.maximum(new, _LEAST)
    return float(((b - a) * np.log(b / a)).sum())
