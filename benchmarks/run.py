"""Run benchmarks: one JSON line per row, on standard output or into a file; progress on standard error.

    python benchmarks/run.py [NAME...] [--smoke] [--seconds S] [--rounds N] [--out FILE]

NAME is a benchmark (`--list` shows them); without one all are run. What the lines mean: docs/benchmarking.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.report import Pace, environment
from harness.servers import Servers, servers
from macro.dags import fraud_detection, one_trip, wide_dag
from macro.front_doors import front_doors
from macro.isolation import engine_processes, slow_neighbour
from macro.large import large_neighbour, large_tensors
from macro.model_run import batching, model_run
from macro.scripts import script_call
from macro.tensor_io import pass_through, tensor_io
from macro.web_service import web_service, web_service_modes
from micro.functions import codec_functions, parser_functions

Benchmark = Callable[[Servers, Pace], Iterator[dict[str, Any]]]

BENCHMARKS: dict[str, Benchmark] = {
    "tensor-io": tensor_io,
    "pass-through": pass_through,
    "model-run": model_run,
    "batching": batching,
    "one-trip": one_trip,
    "web-service": web_service,
    "web-service-modes": web_service_modes,
    "wide-dag": wide_dag,
    "fraud-detection": fraud_detection,
    "large": large_tensors,
    "large-neighbour": large_neighbour,
    "slow-neighbour": slow_neighbour,
    "engine-processes": engine_processes,
    "front-doors": front_doors,
    "script-call": script_call,
    "parser": parser_functions,
    "codec": codec_functions,
}
_SMOKE = Pace(seconds=0.02, rounds=1, smoke=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for; 0 on success."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run; default: all")
    parser.add_argument("--smoke", action="store_true", help="once and briefly: shows that all works, not how fast")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one measurement (default: 1)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements per side, interleaved (default: 3)")
    parser.add_argument("--out", type=Path, help="append the lines to this file")
    parser.add_argument("--before", type=Path, metavar="DIR", help="measure the server of another checkout as well")
    parser.add_argument("--list", action="store_true", help="show the names and end")
    args = parser.parse_args(argv)
    if args.list:
        print("\n".join(BENCHMARKS))
        return 0
    unknown = [name for name in args.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    pace = _SMOKE if args.smoke else Pace(args.seconds, args.rounds)
    facts = environment(pace)
    with servers(args.before) as started:
        for name in args.names or BENCHMARKS:
            begun = time.monotonic()
            for result in BENCHMARKS[name](started, pace):
                _write({**result, **facts, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}, args.out)
            print(f"{name}: {time.monotonic() - begun:.1f} s", file=sys.stderr)
    return 0


def _write(result: dict[str, Any], out: Path | None) -> None:
    line = json.dumps(result)
    if out is None:
        print(line, flush=True)
        return
    with out.open("a") as file:
        file.write(line + "\n")
    rates = "  ".join(
        f"{side} {figures['per_s']:,.0f}/s {figures['cpu_us'] + figures['redis_cpu_us']:.1f} us"
        for side, figures in result["sides"].items()
    )
    print(f"{result['row']:42} {result['ratio']:7.3f}  {rates}", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
