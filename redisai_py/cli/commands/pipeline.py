"""`redisai pipeline`: from a table to an artifact, under one definition; here or on a worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redisai_py.cli.command import on_artifacts, open_artifacts
from redisai_py.cli.failures import Exit, exit_codes, fail
from redisai_py.cli.options import DEFAULT_URL, JsonOption, PrefixOption, UrlOption
from redisai_py.cli.output import Output
from redisai_py.cli.transfers import steps

if TYPE_CHECKING:
    from redisai_py.artifacts import Artifacts
    from redisai_py.pipeline.definition import Definition
    from redisai_py.pipeline.run import Pipeline, Result

__all__ = ["app"]

app = typer.Typer(help="Split, train, test and publish models, from a definition file.", no_args_is_help=True)

_STEPS = ("load", "split", "train", "evaluate")

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", show_default=False, help="The definition, in TOML.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="WORD=VALUE", help="Override, such as model.params.n_estimators=100; repeatable."),
]


def _read(file: Path, settings: list[str] | None) -> Definition:
    from redisai_py.pipeline.definition import Definition

    return Definition.from_file(file, settings or ())


@contextmanager
def _store_for(definition: Definition, url: str, prefix: str) -> Iterator[Artifacts | None]:
    """A connection to the server, if the rows are there."""
    from redisai_py.pipeline.definition import IN_REDIS

    if definition.dataset.scheme not in IN_REDIS:
        yield None
        return
    with open_artifacts(url, prefix) as artifacts:
        yield artifacts


@app.command()
def check(
    file: FileArgument,
    setting: SetOption = None,
    url: UrlOption = DEFAULT_URL,
    prefix: PrefixOption = "ai:",
    as_json: JsonOption = False,
) -> None:
    """Check the definition without training: words, parameters, columns, split, leaks."""
    with exit_codes(extra="pipeline"):
        definition = _read(file, setting)
        from redisai_py.datasets.layout import row_count
        from redisai_py.pipeline.run import check as check_all

        with _store_for(definition, url, prefix) as artifacts:
            sides = check_all(definition, artifacts.store if artifacts is not None else None, file.parent)
    Output(as_json).fields(
        {
            "artifact": definition.artifact.name,
            "builder": definition.model.builder,
            "targets": list(definition.dataset.targets),
            "features": [item.name for item in sides.features.items],
            "rows": {"train": row_count(sides.train), "test": row_count(sides.test)},
            "duplicates": sides.duplicates,
            "notes": list(sides.notes),
        }
    )


@app.command()
def run(
    file: FileArgument,
    setting: SetOption = None,
    step: Annotated[
        str | None, typer.Option("--step", metavar="STEP", help=f"Stop after {', '.join(_STEPS)}; publish nothing.")
    ] = None,
    deploy: Annotated[bool, typer.Option("--deploy/--no-deploy", help="Deploy if the definition says so.")] = True,
    url: UrlOption = DEFAULT_URL,
    prefix: PrefixOption = "ai:",
    as_json: JsonOption = False,
) -> None:
    """Split, train and test; if the gates hold, publish, promote and deploy. Exit code 1 if a gate fails."""
    if step is not None and step not in _STEPS:
        from redisai_py.pipeline.definition import nearest

        raise fail(Exit.USAGE, f"--step {step} is unknown; {nearest(step, _STEPS)}")
    with exit_codes(extra="pipeline"), ExitStack() as stack:
        definition = _read(file, setting)
        from redisai_py.pipeline.run import Pipeline

        store = _store_for(definition, url, prefix) if step else open_artifacts(url, prefix)
        artifacts = stack.enter_context(store)
        client = artifacts.store.redis if artifacts is not None else None
        if step is None and client is not None:
            client.ping()  # fail before minutes of training
        progress = stack.enter_context(steps())
        pipeline = Pipeline(definition, client, file.parent, prefix, progress)
        if step is None:
            result = pipeline.run(deploy)
        else:
            _stop_after(pipeline, step, as_json)
            return
    _print_result(result, as_json)


def _stop_after(pipeline: Pipeline, step: str, as_json: bool) -> None:
    from redisai_py.datasets.layout import row_count

    if step == "load":
        found: dict[str, Any] = {"rows": pipeline.table.rows, "columns": list(pipeline.table.columns)}
    elif step == "split":
        sides = pipeline.sides
        found = {"train": row_count(sides.train), "test": row_count(sides.test), "notes": list(sides.notes)}
    elif step == "train":
        found = {model.target: f"{model.builder}, {model.rows} rows" for model in pipeline.models}
    else:
        found = {each.model.target: {n: round(v, 6) for n, v in each.metrics.items()} for each in pipeline.evaluations}
    Output(as_json).fields(found)


def _print_result(result: Result, as_json: bool) -> None:
    version = result.version
    output = Output(as_json)
    fields: dict[str, Any] = {
        "version": str(version),
        "digest": version.digest,
        "metrics": dict(result.metrics),
        "gates": [str(gate) for gate in result.gates],
        "deployed": {done.key: str(done.version) for done in result.deployed},
    }
    if as_json:
        output.document(fields)
        return
    fields["metrics"] = {name: f"{value:.6g}" for name, value in result.metrics.items()}
    output.fields({name: value for name, value in fields.items() if value})


@on_artifacts(app)
def submit(
    artifacts: Artifacts,
    output: Output,
    file: FileArgument,
    setting: SetOption = None,
    deploy: Annotated[bool, typer.Option("--deploy/--no-deploy", help="Deploy if the definition says so.")] = True,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the job to end; exit code 1 if it failed.")] = False,
) -> None:
    """Submit the pipeline as a job: store the rows as a data set, and put the definition into the queue."""
    with exit_codes(extra="pipeline"):
        definition = _read(file, setting)
        from redisai_py.cli.commands.job import follow
        from redisai_py.jobs.queue import Queue
        from redisai_py.pipeline.run import check_words
        from redisai_py.pipeline.source import upload

        check_words(definition)
        placed = upload(definition, artifacts.store, file.parent)
        queue = Queue(artifacts.store.redis, artifacts.store.keys.prefix)
        job = queue.submit(placed.as_value(), deploy=deploy)
        if wait:
            follow(queue, job, output)
        else:
            output.line(job, job=job)
