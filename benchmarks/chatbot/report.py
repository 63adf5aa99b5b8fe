"""The results as a table in docs/chatbot.md and as a plot."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["PAGE", "keep_rows", "kept_rows", "page_with", "plot", "table", "write_report"]

_RESULTS = Path(__file__).with_name("results.jsonl")
Row = dict[str, Any]
_DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = _DOCS / "chatbot.md"
_IMAGE = _DOCS / "images" / "chatbot-benchmark.png"
_BEGIN, _END = "<!-- measured: make bench-chatbot -->\n", "<!-- end -->\n"
_TASKS = {"gru": "GRU, 256 floats", "network": "chatbot's network", "chatbot": "whole chatbot"}
_SIDES = {"redisai": "redisai_py", "fastapi": "FastAPI", "flask": "Flask"}
_COLORS = {"redisai": "#0072b2", "fastapi": "#e69f00", "flask": "#999999"}  # told apart by the colour-blind too


def kept_rows() -> list[dict[str, Any]]:
    """The last rows of every task, in the order of the tasks."""
    rows = [json.loads(line) for line in _RESULTS.read_text().splitlines()] if _RESULTS.exists() else []
    return sorted(rows, key=lambda row: (list(_TASKS).index(row["task"]), row["conversations"]))


def keep_rows(rows: Sequence[Row]) -> None:
    """Keep rows instead of earlier ones of their tasks."""
    new = {row["task"] for row in rows}
    kept = [row for row in kept_rows() if row["task"] not in new]
    _RESULTS.write_text("".join(json.dumps(row) + "\n" for row in [*kept, *rows]))


def cpu_us(figures: dict[str, Any]) -> float:
    """CPU time per message in microseconds, of the program and of its Redis."""
    return float(figures["cpu_us"] + figures["redis_cpu_us"])


def table(rows: Sequence[Row]) -> str:
    """Markdown: one line per row and side; ratios are ours to theirs."""
    lines = [
        "| task | conversations | | messages/s | p50 ms | p99 ms | CPU us: program + Redis | ours: speed | ours: CPU |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        ours = row["sides"]["redisai"]
        for side, name in _SIDES.items():
            each = row["sides"][side]
            ratios = f"{ours['per_s'] / each['per_s']:.1f}x | {cpu_us(ours) / cpu_us(each):.2f}x"
            lines.append(
                f"| {_TASKS[row['task']]} | {row['conversations']} | {name} | {each['per_s']:,.0f} "
                f"| {each['p50_ms']:.2f} | {each['p99_ms']:.2f} | {each['cpu_us']:.0f} + {each['redis_cpu_us']:.0f} "
                f"| {ratios if side != 'redisai' else '|'} |"
            )
    return "\n".join(lines) + "\n"


def page_with(page: str, rows: Sequence[Row]) -> str:
    """The page with the table of these rows, and what was measured where, between its two marks."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    machine, versions, pace = rows[-1]["machine"], rows[-1]["versions"], rows[-1]["pace"]
    commits = ", ".join(sorted({f"{row['commit']} ({row['at'][:10]})" for row in rows}))
    others = [cores for row in rows for cores in row["others"]]
    facts = (
        f"\nMedians of {pace['rounds']} measurements of {pace['seconds']:g} s per side, taken in turn. "
        f"{machine['cores']} cores ({machine['cpu']}), which the load shares, and other work: it took "
        f"{max(statistics.median(others), 0.0):.2f} cores in the median and {max(others, default=0):.2f} at most "
        "during a measurement (those with more than 0.25 were repeated, up to five times, and the least disturbed one "
        "kept). "
        f"{rows[-1]['workers']} workers of gunicorn and of uvicorn; Python {versions['python']}, ONNX Runtime "
        f"{versions['onnxruntime']}, redis-py {versions['redis']}, hiredis {versions['hiredis']}; commit {commits}.\n"
    )
    return f"{before}{_BEGIN}{table(rows)}{facts}{_END}{after}"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Bars per task: messages per second, and CPU time per message."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tasks = [task for task in _TASKS if any(row["task"] == task for row in rows)]
    figure, axes = pyplot.subplots(2, len(tasks), figsize=(4 * len(tasks), 6), squeeze=False, layout="constrained")
    for column, task in enumerate(tasks):
        own = [row for row in rows if row["task"] == task]
        top, bottom = axes[0][column], axes[1][column]
        for i, (side, name) in enumerate(_SIDES.items()):
            places = [at + (i - 1) * 0.27 for at in range(len(own))]
            figures = [row["sides"][side] for row in own]
            top.bar(places, [each["per_s"] for each in figures], 0.25, color=_COLORS[side], label=name)
            bottom.bar(places, [each["cpu_us"] for each in figures], 0.25, color=_COLORS[side])
            redis = [each["redis_cpu_us"] for each in figures]
            bottom.bar(
                places,
                redis,
                0.25,
                [each["cpu_us"] for each in figures],
                color="#d55e00",
                label="its Redis" if not i else None,
            )
        top.set_title(_TASKS[task])
        for each in (top, bottom):
            each.set_xticks(range(len(own)), [str(row["conversations"]) for row in own])
            each.spines[["top", "right"]].set_visible(False)
        bottom.set_xlabel("conversations at a time")
    axes[0][0].set_ylabel("messages per second")
    axes[1][0].set_ylabel("CPU time per message, microseconds")
    axes[0][0].legend(loc="upper left", frameon=False)
    axes[1][0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def write_report(rows: Sequence[Row]) -> None:
    """The table into docs/chatbot.md, the plot into docs/images."""
    PAGE.write_text(page_with(PAGE.read_text(), rows))
    plot(rows, _IMAGE)
