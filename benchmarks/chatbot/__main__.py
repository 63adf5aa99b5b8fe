"""`python -m benchmarks.chatbot`: measure the three sides in turn, and report. Needs `benchmarks` on PYTHONPATH."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from harness.report import Pace, environment, interleave
from harness.servers import servers

from benchmarks.chatbot.load import converse
from benchmarks.chatbot.models import prepare
from benchmarks.chatbot.programs import WORKERS, programs
from benchmarks.chatbot.quiet import Watch
from benchmarks.chatbot.report import keep_rows, kept_rows, table, write_report
from benchmarks.chatbot.sides import Side, Task, check, our_side, program_side, store_models, tasks

_CONVERSATIONS = (1, 16, 64)
_WARM_UP_S = 0.2


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, and write results, plot and documentation if asked to; 0 on success."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="gru, network, chatbot; default: all")
    parser.add_argument("--smoke", action="store_true", help="once and briefly: shows that all works, not how fast")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement (default: 2)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements per side, interleaved (default: 3)")
    parser.add_argument("--models", type=Path, default=Path("data/chatbot-bench"), help="where the models are kept")
    parser.add_argument("--write", action="store_true", help="keep the results, and write the plot and the docs' table")
    parser.add_argument("--report", action="store_true", help="measure nothing: write plot and table once more")
    args = parser.parse_args(argv)
    rows = [] if args.report else measure(args.tasks, Pace(args.seconds, args.rounds), args.models, smoke=args.smoke)
    if args.write or args.report:
        keep_rows(rows)
        write_report(kept_rows())
    else:
        print(table(rows), end="")
    return 0


def measure(names: Sequence[str], pace: Pace, directory: Path, smoke: bool) -> list[dict[str, Any]]:
    """A row for each task and number of conversations: the figures of every side, and what they depend on."""
    if smoke:
        pace = Pace(0.05, 1, smoke=True)
    models = prepare(directory, training_steps=2 if smoke else None)
    facts = {**environment(pace), "workers": WORKERS, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    with servers() as started:
        ours = started.redisai()
        store_models(ours, models, max(_CONVERSATIONS) + 1)
        with programs(started, models) as others:
            sides = {"redisai": our_side(ours), **{name: program_side(target) for name, target in others.items()}}
            chosen = [task for task in tasks(models) if not names or task.name in names]
            return [{**row, **facts} for task in chosen for row in _rows(sides, task, pace)]


def _rows(sides: dict[str, Side], task: Task, pace: Pace) -> Iterator[dict[str, Any]]:
    check(sides, task, max(_CONVERSATIONS))
    for count in _CONVERSATIONS:
        measures, watch = {}, Watch()
        for name, side in sides.items():
            talk = partial(converse, side.target, side.conversations(task, count), side.replies)
            talk(min(_WARM_UP_S, pace.seconds))
            once = partial(talk, pace.seconds)
            measures[name] = once if pace.smoke else partial(watch.undisturbed, side.target, once)
        figures = interleave(measures, pace)
        print(task.name, count, *(f"{side} {each['per_s']:,.0f}/s" for side, each in figures.items()), file=sys.stderr)
        yield {"task": task.name, "conversations": count, "sides": figures, "others": watch.others}


if __name__ == "__main__":
    raise SystemExit(main())
