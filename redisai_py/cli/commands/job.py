"""`redisai job` and `redisai worker`: follow jobs, and run them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redisai_py.cli.artifact_options import iso_time
from redisai_py.cli.command import on_queue, open_queue
from redisai_py.cli.failures import Exit, exit_codes, fail
from redisai_py.cli.options import DEFAULT_URL, PrefixOption, UrlOption
from redisai_py.cli.output import Output, printable

if TYPE_CHECKING:
    from redisai_py.jobs.queue import Queue

__all__ = ["app", "follow", "worker"]

app = typer.Typer(help="Follow and cancel the jobs that workers run.", no_args_is_help=True)

_Job = Annotated[str, typer.Argument(metavar="ID", show_default=False, help="The id that `pipeline submit` printed.")]


@on_queue(app)
def ls(
    queue: Queue,
    output: Output,
    count: Annotated[int, typer.Option("--count", "-n", metavar="N", min=1, help="Maximum number of jobs.")] = 100,
) -> None:
    """List jobs, newest first."""
    found = queue.jobs(count)
    rows = [{"id": job.id, "state": job.state, **_shown(job.fields)} for job in found]
    output.table(rows, ("id", "state", "progress", "step", "worker", "artifact", "error"), "no jobs")


def _shown(fields: Any) -> dict[str, str]:
    return {name: value for name, value in fields.items() if name not in ("definition", "state", "baseline")}


@on_queue(app)
def show(queue: Queue, output: Output, job: _Job) -> None:
    """Show a job: its definition, progress and result."""
    found = queue.get(job)
    fields = {"id": found.id, "state": found.state, **_shown(found.fields)}
    for name in ("started", "ended"):
        if name in fields and not output.as_json:
            fields[name] = _when(fields[name])
    output.fields({**fields, "definition": found.fields.get("definition", "")})


def _when(text: str) -> str:
    """A time that a worker wrote, or somebody else."""
    try:
        return iso_time(float(text))
    except ValueError:
        return text


@app.command()
def logs(
    job: _Job,
    follow_: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing until the job ends.")] = False,
    url: UrlOption = DEFAULT_URL,
    prefix: PrefixOption = "ai:",
) -> None:
    """Print the log of a job."""
    with open_queue(url, prefix) as queue:
        queue.get(job)
        last = "-"
        for _ in queue.follow(job) if follow_ else [None]:
            for entry, at, line in queue.logs(job, last):
                last = entry
                typer.echo(f"{iso_time(at)} {printable(line)}")


@on_queue(app)
def cancel(queue: Queue, output: Output, job: _Job) -> None:
    """Cancel a job: remove it from the queue, or ask its worker to end it."""
    from redisai_py.jobs.queue import ENDED

    state = queue.cancel(job)
    said = "its worker was asked to end it" if state == "asked" else state
    output.line(f"{job}: {said}", job=job, state="running" if state == "asked" else state)
    if state in ENDED and state != "cancelled":
        raise typer.Exit(1)


def follow(queue: Queue, job: str, output: Output) -> None:
    """Wait for a job to end, printing its steps on stderr. Exit code 1 if it was not successful."""
    last = "-"
    found = queue.get(job)
    for now in queue.follow(job):
        found = now
        for entry, _, line in queue.logs(job, last):
            last = entry
            typer.echo(line, err=True)
    if found.state != "done":
        raise fail(Exit.REFUSED, f"job {job} {found.state}: {found.fields.get('error', '')}".rstrip(": "))
    version, digest = found.fields.get("artifact", ""), found.fields.get("digest", "")
    output.line(f"{version}  {digest}", job=job, version=version, digest=digest)


def worker(
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Default: host and process id.")] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="DIRECTORY", help="The only directory jobs may read files from. Default: none."),
    ] = None,
    claim_after: Annotated[
        float,
        typer.Option("--claim-after", metavar="SECONDS", min=0.5, help="Silence after which a worker loses its job."),
    ] = 30,
    attempts: Annotated[
        int, typer.Option("--attempts", metavar="N", min=1, help="Number of attempts before a job has failed.")
    ] = 3,
    jobs: Annotated[int | None, typer.Option("--jobs", metavar="N", min=1, help="Exit after this many jobs.")] = None,
    url: UrlOption = DEFAULT_URL,
    prefix: PrefixOption = "ai:",
) -> None:
    """Run submitted jobs, one after the other. Start one worker per spare core.

    On SIGTERM or SIGINT a worker finishes its job and exits; a second signal ends it immediately.
    """
    import signal

    with exit_codes(extra="pipeline"):
        from redisai_py.jobs.worker import Worker
    if data is not None and not Path(data).is_dir():
        raise fail(Exit.USAGE, f"--data {data}: there is no such directory")
    with open_queue(url, prefix) as queue:
        queue.redis.ping()
        found = Worker(
            url, prefix, name, data, claim_after, attempts, lambda line: typer.echo(printable(line), err=True)
        )

        def stop(number: int, frame: Any) -> None:
            found.stop()
            signal.signal(number, signal.SIG_DFL)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        typer.echo(f"worker {found.name} is ready")
        sys.stdout.flush()
        found.run(jobs)
