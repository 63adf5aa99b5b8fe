"""Definitions and files for tests."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from redisai_py.pipeline.definition import Definition

__all__ = ["FAST", "define", "patients", "write_csv"]

FAST: dict[str, dict[str, Any]] = {
    "sklearn.random_forest_classifier": {"n_estimators": 10},
    "sklearn.random_forest_regressor": {"n_estimators": 10},
    "sklearn.gradient_boosting_classifier": {"n_estimators": 10},
    "sklearn.gradient_boosting_regressor": {"n_estimators": 10},
    "xgboost.classifier": {"n_estimators": 10},
    "xgboost.regressor": {"n_estimators": 10},
    "lightgbm.classifier": {"n_estimators": 10},
    "lightgbm.regressor": {"n_estimators": 10},
    "torch.mlp_classifier": {"epochs": 5},
    "torch.mlp_regressor": {"epochs": 5},
}


def write_csv(path: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def patients(rows: int = 240) -> dict[str, list[Any]]:
    """Numbers with gaps, texts, dates; a class and a number to predict."""
    chance = np.random.default_rng(5)
    age = chance.integers(18, 90, rows)
    city = chance.choice(["Oslo", "Rome", "Lima"], rows)
    weight = chance.normal(70, 12, rows).round(1)
    score = age + 20 * (city == "Rome") + chance.normal(0, 6, rows)
    return {
        "id": list(range(rows)),
        "age": age.tolist(),
        "city": city.tolist(),
        "since": [f"20{10 + k % 14}-0{1 + k % 9}-1{k % 10}" for k in range(rows)],
        "weight": ["" if k % 17 == 0 else w for k, w in enumerate(weight.tolist())],
        "ill": ["yes" if s > 62 else "no" for s in score.tolist()],
        "price": (2 * age + weight + chance.normal(0, 1, rows)).round(2).tolist(),
    }


def define(source: str, target: str | Sequence[str], builder: str, **parts: Mapping[str, Any]) -> Definition:
    targets = [target] if isinstance(target, str) else list(target)
    value: dict[str, Any] = {
        "artifact": {"name": "made"},
        "dataset": {"source": source, "targets": targets},
        "model": {"builder": builder, "params": FAST.get(builder, {})},
    }
    for name, words in parts.items():
        value[name] = {**value.get(name, {}), **words}
    return Definition.from_value(value)
