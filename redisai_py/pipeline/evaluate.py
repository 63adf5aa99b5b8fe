"""Evaluation: metrics by task and their details, computed on the test rows only."""

from __future__ import annotations

import html
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sklearn.metrics
from numpy.typing import NDArray

from redisai_py.artifacts import Invalid
from redisai_py.datasets.layout import Columns, row_count
from redisai_py.datasets.order import permutation
from redisai_py.pipeline.definition import Definition, nearest
from redisai_py.pipeline.source import Sides, missing
from redisai_py.pipeline.trained import LABEL, PROBABILITIES, VALUE, Tested, Trained, as_labels, try_out

__all__ = ["CLASSIFICATION", "REGRESSION", "Evaluation", "check_metrics", "evaluate"]

_SAMPLE = 500
_MEASURED = 100


@dataclass(frozen=True)
class _Outcome:
    """truth, label: class codes, -1 for a class that training did not have; or values."""

    truth: NDArray[Any]
    label: NDArray[Any]
    probabilities: NDArray[Any] | None = None


def _averaged(measure: Callable[..., Any]) -> Callable[[_Outcome], float]:
    return lambda seen: float(measure(seen.truth, seen.label, average="macro", zero_division=0))


def _known(seen: _Outcome, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    if seen.probabilities is None or (seen.truth < 0).any():
        raise Invalid(f"{name} needs classes that the rows for training have, too")
    return seen.truth, seen.probabilities.astype(np.float64)


def _roc_auc(seen: _Outcome) -> float:
    truth, probabilities = _known(seen, "roc_auc")
    if len(np.unique(truth)) < probabilities.shape[1]:
        raise Invalid("roc_auc needs rows of every class for testing")
    if probabilities.shape[1] == 2:
        return float(sklearn.metrics.roc_auc_score(truth, probabilities[:, 1]))
    scaled = probabilities / probabilities.sum(axis=1, keepdims=True)
    return float(sklearn.metrics.roc_auc_score(truth, scaled, multi_class="ovr"))


def _log_loss(seen: _Outcome) -> float:
    truth, probabilities = _known(seen, "log_loss")
    scaled = probabilities / probabilities.sum(axis=1, keepdims=True)
    return float(sklearn.metrics.log_loss(truth, scaled, labels=np.arange(scaled.shape[1])))


def _r2(seen: _Outcome) -> float:
    if len(seen.truth) < 2:
        raise Invalid("r2 needs at least two rows for testing")
    return float(sklearn.metrics.r2_score(seen.truth, seen.label))


CLASSIFICATION: dict[str, Callable[[_Outcome], float]] = {
    "accuracy": lambda seen: float((seen.truth == seen.label).mean()),
    "balanced_accuracy": lambda seen: float(sklearn.metrics.balanced_accuracy_score(seen.truth, seen.label)),
    "f1": _averaged(sklearn.metrics.f1_score),
    "precision": _averaged(sklearn.metrics.precision_score),
    "recall": _averaged(sklearn.metrics.recall_score),
    "roc_auc": _roc_auc,
    "log_loss": _log_loss,
}
REGRESSION: dict[str, Callable[[_Outcome], float]] = {
    "rmse": lambda seen: float(np.sqrt(np.mean((seen.truth - seen.label) ** 2))),
    "mae": lambda seen: float(np.mean(np.abs(seen.truth - seen.label))),
    "median_error": lambda seen: float(np.median(np.abs(seen.truth - seen.label))),
    "max_error": lambda seen: float(np.max(np.abs(seen.truth - seen.label))),
    "r2": _r2,
}
_TASKS = {"classification": CLASSIFICATION, "regression": REGRESSION}


def check_metrics(definition: Definition, task: str) -> None:
    """Raises: Invalid: a metric or a gate that the task does not have."""
    known = _TASKS[task]
    for name in definition.evaluate.metrics:
        if name not in known:
            raise Invalid(f"evaluate.metrics: {name} is not a metric of {task}; {nearest(name, known)}")
    for gate in definition.evaluate.gate:
        target, _, name = gate.metric.rpartition(".")
        if target and target not in definition.dataset.targets:
            raise Invalid(f"evaluate.gate.{gate.metric}: there is no target {target}")
        if name not in known:
            raise Invalid(f"evaluate.gate: {name} is not a metric of {task}; {nearest(name, known)}")


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a model on the test rows.

    tested: the exported model, which predicts the same.   analysis: JSON: confusion matrix or residuals, ...
    truth, found: class codes or values, (test rows,).
    """

    model: Trained
    tested: Tested
    metrics: Mapping[str, float]
    analysis: Mapping[str, Any]
    truth: NDArray[Any] = field(repr=False)
    found: NDArray[Any] = field(repr=False)

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{html.escape(n)}</td><td>{v:.6g}</td></tr>" for n, v in self.metrics.items())
        return f"<table><caption>{html.escape(self.model.target)}</caption>{rows}</table>"


def evaluate(definition: Definition, model: Trained, sides: Sides, production: Columns | None = None) -> Evaluation:
    """Export a model, check that the export predicts the same, and measure it.

    Args:   production: training rows of the model in production, to measure drift.
    Raises: NotParity, ExportRefused: the exported model differs from the trained one.   Invalid: a metric is undefined.
    """
    check_metrics(definition, model.task)
    lacking = missing(np.asarray(sides.test[model.target]))
    columns = {name: values[~lacking] for name, values in sides.test.items()}
    if not row_count(columns):
        raise Invalid(f"no row for testing has a value of {model.target}")
    tested = try_out(model, columns, definition.evaluate.tolerance)
    seen = _outcome(model, np.asarray(columns[model.target]), tested.predictions.outputs)
    notes = list(model.notes)
    metrics = _measured(definition, model, seen, notes)
    analysis: dict[str, Any] = {
        "task": model.task,
        "rows": {"train": model.rows, "test": len(seen.truth)},
        "duplicates": sides.duplicates,
        "parity": {"difference": float(f"{tested.difference:.3g}"), "rows": len(seen.truth)},
        "importances": _importances(model, columns, seen),
    }
    analysis |= _classes(model, seen, sides) if model.classes is not None else _residuals(seen)
    if production is not None:
        from redisai_py.pipeline.drift import drift

        analysis["drift"] = drift(sides.features, production, sides.train)
    analysis["notes"] = [*sides.notes, *notes]
    return Evaluation(model, tested, metrics, analysis, seen.truth, seen.label)


def _outcome(model: Trained, truth: NDArray[Any], outputs: Mapping[str, NDArray[Any]]) -> _Outcome:
    if model.classes is None:
        return _Outcome(truth.astype(np.float64), outputs[VALUE].astype(np.float64))
    codes = {label: code for code, label in enumerate(model.classes.tolist())}
    labels = as_labels(model.target, truth).tolist()
    return _Outcome(
        np.array([codes.get(label, -1) for label in labels]),
        np.array([codes[label] for label in outputs[LABEL].tolist()]),
        outputs[PROBABILITIES],
    )


def _measured(definition: Definition, model: Trained, seen: _Outcome, notes: list[str]) -> dict[str, float]:
    known = _TASKS[model.task]
    gated = [gate.metric.rpartition(".")[2] for gate in definition.evaluate.gate]
    wanted = definition.evaluate.metrics
    found = {}
    for name in dict.fromkeys([*(wanted or known), *gated]):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # scikit-learn warns about classes that were never predicted
                value = known[name](seen)
        except Invalid as error:
            if name in wanted or name in gated:
                raise
            notes.append(f"not measured: {error}")
            continue
        if not np.isfinite(value):
            raise Invalid(f"{name} of {model.target} is {value}")
        found[name] = value
    return found


def _classes(model: Trained, seen: _Outcome, sides: Sides) -> dict[str, Any]:
    assert model.classes is not None
    names = [str(name) for name in model.classes.tolist()]
    count = len(names)
    matrix = np.zeros((count + 1, count), np.int64)
    np.add.at(matrix, (np.where(seen.truth < 0, count, seen.truth), seen.label), 1)
    trained = np.asarray(sides.train[model.target])
    learned = as_labels(model.target, trained[~missing(trained)]).tolist()
    balance = {
        name: {"train": learned.count(label), "test": int((seen.truth == code).sum())}
        for code, (name, label) in enumerate(zip(names, model.classes.tolist(), strict=True))
    }
    found: dict[str, Any] = {"classes": names, "confusion": matrix[:count].tolist(), "balance": balance}
    if matrix[count].any():
        found["unknown_classes"] = int(matrix[count].sum())
    return found


def _residuals(seen: _Outcome) -> dict[str, Any]:
    off = seen.label - seen.truth
    shares = (0, 5, 25, 50, 75, 95, 100)
    quantiles = {f"{share}%": float(value) for share, value in zip(shares, np.percentile(off, shares), strict=True)}
    return {"residuals": {"mean": float(off.mean()), "deviation": float(off.std()), "quantiles": quantiles}}


def _importances(model: Trained, columns: Columns, seen: _Outcome) -> dict[str, float]:
    """Importance by feature, largest first, at most 100, with sum 1: the model's own, or by permutation."""
    given = model.fitted.importances()
    names = [item.name for item in model.preparation.features.items]
    if given is not None:
        shares = dict.fromkeys(names, 0.0)
        for name, value in zip(model.preparation.sources, given.tolist(), strict=True):
            shares[name] += abs(float(value))
    elif len(names) <= _MEASURED:
        shares = _permuted(model, columns, seen, names)
    else:
        return {}
    total = sum(shares.values())
    ordered = sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))[:_MEASURED]
    return {name: float(f"{value / total:.6g}") if total else 0.0 for name, value in ordered}


def _permuted(model: Trained, columns: Columns, seen: _Outcome, names: Sequence[str]) -> dict[str, float]:
    rows = permutation(row_count(columns), "sample")[:_SAMPLE]
    sample = {name: columns[name][rows] for name in names}
    truth = seen.truth[rows]

    def loss(part: Columns) -> float:
        outputs = model.predict(part)
        if model.classes is None:
            return float(np.mean((outputs[VALUE] - truth) ** 2))
        chosen = outputs[PROBABILITIES][np.arange(len(truth)), np.maximum(truth, 0)]
        return float(-np.log(np.maximum(chosen.astype(np.float64), 1e-12)).mean())

    before = loss(sample)
    mixed = permutation(len(rows), "importance")
    return {name: max(0.0, loss({**sample, name: sample[name][mixed]}) - before) for name in names}
