"""The report: one self-contained HTML file, and its plots as PNG files. The same model gives the same bytes."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from redisai_py.pipeline.definition import Definition
from redisai_py.pipeline.drift import MUCH
from redisai_py.pipeline.evaluate import Evaluation

__all__ = ["plots", "report"]

_BARS = 20
_SHOWN_CLASSES = 30
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:.2em .7em;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}img{max-width:100%}pre{background:#f5f5f5;padding:1em;overflow:auto}
.note{background:#fff6dd;padding:.4em .8em}"""


def plots(evaluation: Evaluation) -> dict[str, bytes]:
    """Plots of one model: `confusion` or `residuals`, and `importances`. PNG by name."""
    from matplotlib import style

    with style.context("default"):  # independent of a notebook's style
        found = {"confusion": _confusion(evaluation)} if evaluation.model.classes is not None else {
            "residuals": _residuals(evaluation)
        }  # fmt: skip
        if evaluation.analysis["importances"]:
            found["importances"] = _bars(evaluation.analysis["importances"], "importance")
        if shares := {n: v for n, v in evaluation.analysis.get("drift", {}).items() if v is not None}:
            found["drift"] = _bars(shares, "population stability index")
    return found


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Any) -> bytes:
    packed = io.BytesIO()
    figure.savefig(packed, format="png", metadata={"Software": None})
    return packed.getvalue()


def _confusion(evaluation: Evaluation) -> bytes:
    names = evaluation.analysis["classes"][:_SHOWN_CLASSES]
    matrix = np.array(evaluation.analysis["confusion"])[: len(names), : len(names)]
    figure = _figure(2.5 + 0.45 * len(names), 2 + 0.45 * len(names))
    axes = figure.add_subplot()
    axes.imshow(matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True)), cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(matrix):
        dark = count > matrix[row].sum() / 2
        axes.text(column, row, str(count), ha="center", va="center", color="white" if dark else "black", fontsize=8)
    shown = [_plain(name) for name in names]
    axes.set_xticks(range(len(names)), shown, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), shown)
    axes.set(xlabel="predicted", ylabel="true")
    return _png(figure)


def _residuals(evaluation: Evaluation) -> bytes:
    figure = _figure(8, 3.6)
    left, right = figure.subplots(1, 2)
    truth, found = evaluation.truth, evaluation.found
    left.scatter(truth, found, s=6, alpha=0.5)
    ends = [float(min(truth.min(), found.min())), float(max(truth.max(), found.max()))]
    left.plot(ends, ends, color="grey", linewidth=1)
    left.set(xlabel="true", ylabel="predicted")
    right.hist(found - truth, bins=30)
    right.set(xlabel="predicted - true", ylabel="rows")
    return _png(figure)


def _bars(values: Mapping[str, float], label: str) -> bytes:
    shown = dict(list(values.items())[:_BARS])
    figure = _figure(6, 1 + 0.28 * len(shown))
    axes = figure.add_subplot()
    axes.barh(range(len(shown)), list(shown.values()))
    axes.set_yticks(range(len(shown)), [_plain(name) for name in shown])
    axes.invert_yaxis()
    axes.set(xlabel=label)
    return _png(figure)


def _plain(name: str) -> str:
    """A name without formula markup, in characters that matplotlib's font has."""
    kept = "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in name)
    return (kept if len(kept) <= 30 else f"{kept[:27]}...").replace("$", r"\$")


# -- HTML --------------------------------------------------------------------------------------------------------------


def report(
    definition: Definition, evaluations: Sequence[Evaluation], pictures: Mapping[str, Mapping[str, bytes]]
) -> str:
    """The HTML page.   pictures: PNG by target and name."""
    name = html.escape(definition.artifact.name)
    parts = [f"<!doctype html><html lang=en><meta charset=utf-8><title>{name}</title><style>{_STYLE}</style>"]
    parts.append(
        f"<h1>{name}</h1><p>{html.escape(definition.model.builder)} from {html.escape(definition.dataset.source)}</p>"
    )
    for evaluation in evaluations:
        parts += _section(evaluation, pictures[evaluation.model.target])
    parts.append(f"<h2>Definition</h2><pre>{html.escape(definition.as_toml())}</pre>")
    return "\n".join(parts)


def _section(evaluation: Evaluation, pictures: Mapping[str, bytes]) -> list[str]:
    seen = evaluation.analysis
    rows = seen["rows"]
    parts = [
        f"<h2>{html.escape(evaluation.model.target)}</h2>",
        f"<p>{evaluation.model.task.capitalize()}; {rows['train']} rows for training, {rows['test']} for testing. "
        f"The exported model gave the predictions of the trained one on all {seen['parity']['rows']} rows for testing, "
        f"off by at most {seen['parity']['difference']:.2g}.</p>",
        *[f"<p class=note>{html.escape(note)}</p>" for note in seen["notes"]],
        "<h3>Metrics</h3>",
        _table(("metric", "value"), [(name, f"{value:.6g}") for name, value in evaluation.metrics.items()]),
    ]
    if "balance" in seen:
        balance = [(label, str(n["train"]), str(n["test"])) for label, n in seen["balance"].items()]
        parts += ["<h3>Classes</h3>", _table(("class", "training", "testing"), balance)]
    if "residuals" in seen:
        spread = [(name, f"{value:.6g}") for name, value in seen["residuals"]["quantiles"].items()]
        parts += ["<h3>Residuals</h3>", _table(("share of rows", "predicted - true, up to"), spread)]
    if much := [n for n, v in seen.get("drift", {}).items() if v is None or v >= MUCH]:
        named = html.escape(", ".join(much[:_BARS]))
        parts.append(f"<p class=note>Far from what the model in production learned from: {named}</p>")
    for name, png in pictures.items():
        data = base64.b64encode(png).decode()
        parts += [f"<h3>{name.capitalize()}</h3>", f'<img alt="{name}" src="data:image/png;base64,{data}">']
    return parts


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    body = "".join(
        f"<tr><td>{html.escape(row[0])}</td>" + "".join(f"<td class=n>{html.escape(x)}</td>" for x in row[1:]) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"
