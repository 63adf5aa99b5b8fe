"""The result as a table in docs/training-data.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["PAGE", "page_with", "table", "write_report"]

_RESULTS = Path(__file__).with_name("results.jsonl")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "training-data.md"
_BEGIN, _END = "<!-- measured: make bench-training-data -->\n", "<!-- end -->\n"


def table(result: dict[str, Any]) -> str:
    """Markdown: samples per second and cores of every side; then the ratios, and sizes."""
    lines = [
        "| samples of 64 floats and a label, shuffled, 256 a batch | samples/s | cores | samples per CPU second |",
        "|---|---:|---:|---:|",
    ]
    for name, side in result["sides"].items():
        step = f", {side['step_ms']:.2f} ms a step" if "step_ms" in side else ""
        lines.append(f"| {name}{step} | {side['per_s']:,} | {side['cores']:.2f} | {side['per_cpu_s']:,} |")
    lines += ["", "| ratio | by the clock | by CPU time |", "|---|---:|---:|"]
    lines += [f"| {name} | {clock:.2f} | {cpu:.2f} |" for name, (clock, cpu) in result["ratios"].items()]
    sizes = result["sizes"]
    lines += ["", "| bytes | | of the samples |", "|---|---:|---:|"]
    lines += [f"| {name} | {size:,} | {size / sizes['samples']:.0%} |" for name, size in sizes.items()]
    return "\n".join(lines) + "\n"


def page_with(page: str, result: dict[str, Any]) -> str:
    """The page with the table of this result, and what was measured where, between its two marks."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    machine, versions = result["machine"], result["versions"]
    facts = (
        f"\nMedians of {result['pace']['rounds']} rounds, in each of which all sides were measured in turn; "
        f"{result['rows']:,} samples an epoch. `cores`: CPU time of the program and of Redis by the clock. "
        f"{machine['cores']} cores ({machine['cpu']}), which other work shared: load {machine['load_1_min']} at the "
        f"beginning. Torch {versions['torch']} with {result['threads']} threads, Python {versions['python']}, redis-py "
        f"{versions['redis']}; Redis by its Unix socket; commit {result['commit']} ({result['at'][:10]}).\n"
    )
    return f"{before}{_BEGIN}{table(result)}{facts}{_END}{after}"


def write_report(result: dict[str, Any]) -> None:
    """Keep the result, and write the page."""
    _RESULTS.write_text(json.dumps(result) + "\n")
    PAGE.write_text(page_with(PAGE.read_text(), result))
