"""The result as a table in docs/prediction-cache.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["PAGE", "page_with", "table", "write_report"]

_RESULTS = Path(__file__).with_name("results.jsonl")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "prediction-cache.md"
_BEGIN, _END = "<!-- measured: make bench-prediction-cache -->\n", "<!-- end -->\n"


def table(result: dict[str, Any]) -> str:
    """Markdown: requests per second and latencies of every side; then the ratios."""
    lines = ["| | requests/s | p50 ms | p99 ms |", "|---|---:|---:|---:|"]
    for name, side in result["sides"].items():
        lines.append(f"| {name} | {side['per_s']:,} | {side['p50_ms']:.2f} | {side['p99_ms']:.1f} |")
    lines += ["", "| ratio of the second side to the first | |", "|---|---:|"]
    lines += [f"| {name} | {ratio:.2f} |" for name, ratio in result["ratios"].items()]
    return "\n".join(lines) + "\n"


def page_with(page: str, result: dict[str, Any]) -> str:
    """The page with the table of this result, and what was measured where, between its two marks."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    machine, versions = result["machine"], result["versions"]
    facts = (
        f"\nMedians of {result['pace']['rounds']} rounds, in each of which all sides were measured in turn. "
        f"{machine['cores']} cores ({machine['cpu']}), which other work shared: load {machine['load_1_min']} at the "
        f"beginning. Python {versions['python']}; commit {result['commit']} ({result['at'][:10]}).\n"
    )
    return f"{before}{_BEGIN}{table(result)}{facts}{_END}{after}"


def write_report(result: dict[str, Any]) -> None:
    """Keep the result, and write the page."""
    _RESULTS.write_text(json.dumps(result) + "\n")
    PAGE.write_text(page_with(PAGE.read_text(), result))
