"""`redisai train`: start a training in several processes, inspect runs, resume one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redisai_py.cli.command import on_artifacts
from redisai_py.cli.failures import Exit, UsageError, exit_codes, fail
from redisai_py.cli.options import DEFAULT_URL, PrefixOption, UrlOption
from redisai_py.cli.output import Output, printable
from redisai_py.urls import masked_url

if TYPE_CHECKING:
    from redisai_py.artifacts import Artifacts
    from redisai_py.training.runs import Run

__all__ = ["app"]

app = typer.Typer(help="Train with torchrun; data, checkpoints and runs are in Redis.", no_args_is_help=True)

_Name = Annotated[str, typer.Argument(metavar="RUN", show_default=False, help="The run's name.")]
_Processes = Annotated[int, typer.Option("--nproc", metavar="N", min=1, help="Processes on this machine.")]
_SPARKS = "▁▂▃▄▅▆▇█"
_WIDTH = 60


@contextmanager
def _failures(url: str) -> Iterator[None]:
    """As `exit_codes`; the block may also raise what a training or a bad URL raises."""
    from redisai_py.artifacts import ArtifactError

    with exit_codes(url):
        try:
            yield
        except (typer.Exit, typer.Abort, ArtifactError):  # RuntimeErrors and ValueErrors, too
            raise
        except RuntimeError as error:
            raise fail(Exit.REFUSED, printable(str(error))) from error
        except ValueError as error:
            raise UsageError(f"--url {masked_url(url)}: {error}") from error


@app.command(context_settings={"ignore_unknown_options": True})
def run(
    script: Annotated[Path, typer.Argument(metavar="SCRIPT", show_default=False, help="The Python file to run.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ARGUMENT]...", help="Arguments of the script: everything that is not an option of this command."
        ),
    ] = None,
    nproc: _Processes = 1,
    name: Annotated[str | None, typer.Option("--name", metavar="RUN", help="Default: from script and time.")] = None,
    max_restarts: Annotated[
        int, typer.Option("--max-restarts", metavar="N", min=0, help="Maximum restarts of all processes if one dies.")
    ] = 3,
    nodes: Annotated[
        int, typer.Option("--nnodes", metavar="N", min=1, help="Number of machines that train together.")
    ] = 1,
    rendezvous: Annotated[
        str,
        typer.Option("--rdzv-endpoint", metavar="HOST:PORT", help="Address of one of the machines, for rendezvous."),
    ] = "",
    url: UrlOption = DEFAULT_URL,
    prefix: PrefixOption = "ai:",
) -> None:
    """Run a training script with REDISAI_URL and REDISAI_RUN in its environment.

    Options may come before or after SCRIPT. Everything after -- goes to the script.
    """
    from redisai_py.cli.passwords import with_password
    from redisai_py.training.launch import Launch, check_script, default_name, launch

    if nodes > 1 and (not rendezvous or name is None):
        raise fail(Exit.USAGE, "--nnodes needs --rdzv-endpoint and --name, the same on every machine")
    chosen = name or default_name(str(script))
    with _failures(url):
        check_script(str(script))
        typer.echo(f"run {chosen}", err=True)
        what = Launch(str(script), tuple(arguments or ()), nproc, max_restarts, nodes, rendezvous)
        launch(with_password(url), chosen, what, prefix)


@app.command()
def resume(
    name: _Name,
    step: Annotated[
        int | None, typer.Option("--step", metavar="N", min=0, help="Resume from the checkpoint of this step.")
    ] = None,
    nproc: Annotated[
        int | None, typer.Option("--nproc", metavar="N", min=1, help="Use another number of processes.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Start without asking for confirmation.")] = False,
    url: UrlOption = DEFAULT_URL,
    prefix: PrefixOption = "ai:",
) -> None:
    """Resume a stopped run from its latest checkpoint."""
    from redisai_py.cli.passwords import with_password
    from redisai_py.training.launch import launch_of, relaunch

    with _failures(url):
        what = launch_of(with_password(url), name, prefix)
        told = printable(" ".join([what.script, *what.arguments]))
        if not yes:
            typer.confirm(f"Start {told}?", abort=True, err=True)
        relaunch(with_password(url), name, prefix, step, nproc)


@on_artifacts(app)
def ls(artifacts: Artifacts, output: Output) -> None:
    """List runs."""
    from redisai_py.training.runs import Run, run_names

    link, prefix = artifacts.store.redis, artifacts.store.keys.prefix
    rows = [_row(Run(link, each, prefix)) for each in run_names(link, prefix)]
    output.table(rows, ("run", "state", "step", "steps", "checkpoint", "metrics", "updated"), "no runs")


@on_artifacts(app)
def show(
    artifacts: Artifacts,
    output: Output,
    name: _Name,
    metric: Annotated[
        str | None, typer.Option("--metric", metavar="NAME", help="Metric to draw. Default: the loss, or the first.")
    ] = None,
) -> None:
    """Show a run: its settings, progress and loss."""
    from redisai_py.training.runs import Run

    record = Run(artifacts.store.redis, name, artifacts.store.keys.prefix)
    summary = record.summary()
    metrics = _under(summary, "metric.")
    drawn = metric or ("loss" if "loss" in metrics else next(iter(metrics), None))
    series = record.series(drawn) if drawn else []
    fields: dict[str, Any] = {
        "run": name,
        "state": _state(summary),
        "progress": _progress(summary),
        "metrics": metrics,
        "parameters": _under(summary, "param."),
        "checkpoints": _checkpoints(artifacts.store, name),
        "error": summary.get("error"),
        "script": summary.get("script"),
        "processes": summary.get("world") or summary.get("nproc"),
        "updated": _ago(summary),
    }
    if output.as_json:
        output.document({**fields, "summary": summary, "series": series})
        return
    output.fields({label: value for label, value in fields.items() if value})
    if drawn and series:
        values = [value for _, value in series]
        typer.echo(f"{drawn}  {sparkline(values)}  {values[0]:.4g} -> {values[-1]:.4g}")


def _checkpoints(store: Any, name: str) -> list[str]:
    from redisai_py.artifacts import Missing

    try:
        versions = store.registry("run").versions(name)
    except Missing:
        return []
    return [str(version.version) + "".join(f" @{alias}" for alias in version.aliases) for version in versions]


def _row(record: Run) -> dict[str, Any]:
    summary = record.summary()
    return {
        "run": record.name,
        "state": _state(summary),
        "step": summary.get("step"),
        "steps": summary.get("steps"),
        "checkpoint": summary.get("checkpoint"),
        "metrics": {name: _short(value) for name, value in _under(summary, "metric.").items()},
        "updated": _ago(summary),
    }


def _under(summary: Mapping[str, str], start: str) -> dict[str, str]:
    return {name.removeprefix(start): value for name, value in sorted(summary.items()) if name.startswith(start)}


def _state(summary: Mapping[str, str]) -> str:
    """The state; for a run on this machine, it says so if the launcher is gone."""
    import socket

    from redisai_py.artifacts.names import version_number

    state = summary.get("state", "")
    host, _, number = summary.get("launcher", "").rpartition(":")
    here = host == socket.gethostname() and version_number(number) is not None and Path("/proc/self").exists()
    return "lost" if state == "running" and here and not Path(f"/proc/{number}").exists() else state


def _progress(summary: Mapping[str, str]) -> str | None:
    from redisai_py.artifacts.names import version_number

    step, steps = (version_number(summary.get(name, "")) for name in ("step", "steps"))
    if step is None:
        return None
    if not steps:
        return f"step {step}"
    share = min(step / steps, 1)
    filled = round(20 * share)
    return f"{'█' * filled}{'░' * (20 - filled)} {share:.0%}, step {step} of {steps}"


def _short(value: str) -> str:
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return value


def _ago(summary: Mapping[str, str]) -> str | None:
    try:
        seconds = max(0, int(time.time() - float(summary["updated"])))
    except (KeyError, ValueError, OverflowError):
        return None
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def sparkline(values: list[float], width: int = _WIDTH) -> str:
    """A line of block characters. With more values than `width`, each block is a mean. NaN is a blank."""
    import math

    groups = [values[i * len(values) // width : (i + 1) * len(values) // width] for i in range(width)]
    means = [sum(group) / len(group) for group in (groups if len(values) > width else [[v] for v in values])]
    finite = [mean for mean in means if math.isfinite(mean)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    span = high / 2 - low / 2  # halves, since the difference of two floats may be no float
    scale = (len(_SPARKS) - 1) / span if span else 0.0
    return "".join(_SPARKS[round((mean / 2 - low / 2) * scale)] if math.isfinite(mean) else " " for mean in means)
