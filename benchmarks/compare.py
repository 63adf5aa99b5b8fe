"""Compare two files of results: for each row that both have, what B is of A.

    python benchmarks/compare.py A.jsonl B.jsonl [--side redisai]

Two ratios are shown, both so that more than 1 is better in B: of the row's own ratio, which was measured side by side
with its peer and so survives a busy machine, and of the CPU time per request of one side. Rates of two runs are not
compared: they say as much about the machine as about the code.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["compare", "main"]


def _rows(path: Path) -> dict[str, dict[str, Any]]:
    """By name; of a row measured twice, the last."""
    return {line["row"]: line for line in map(json.loads, path.read_text().splitlines())}


def compare(a: dict[str, dict[str, Any]], b: dict[str, dict[str, Any]], side: str) -> list[tuple[str, float, float]]:
    """(row, B's ratio / A's, A's CPU time per request / B's) of the rows in both; 0 where a figure is missing."""
    return [
        (name, _divide(b[name]["ratio"], a[name]["ratio"]), _divide(_cpu_us(a[name], side), _cpu_us(b[name], side)))
        for name in a
        if name in b
    ]


def _cpu_us(line: dict[str, Any], side: str) -> float:
    return float(line["sides"].get(side, {}).get("cpu_us", 0.0))


def _divide(over: float, under: float) -> float:
    return over / under if under else 0.0


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line per row; 0 if there was any, 1 if the files have none in common."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    parser.add_argument("--side", default="redisai", help="whose CPU time (default: redisai)")
    args = parser.parse_args(argv)
    a, b = _rows(args.a), _rows(args.b)
    found = compare(a, b, args.side)
    print(f"{'row':44} {'ratio B/A':>10} {'CPU A/B':>10}")
    for name, ratio, cpu in found:
        print(f"{name:44} {ratio:10.2f} {cpu:10.2f}")
    return 0 if found else 1


if __name__ == "__main__":
    raise SystemExit(main())
