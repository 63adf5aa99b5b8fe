"""The command `redisai`. Its subcommands are in `commands`, the files that they read and write in `files`."""

from __future__ import annotations

import typer

from redisai_py import __version__
from redisai_py.cli.commands import artifact, cache, dataset, job, model, pipeline, script, status, tensor, train
from redisai_py.cli.commands.serve import ServeCommand, serve
from redisai_py.cli.masking import mask_command_line

__all__ = ["app", "main"]

app = typer.Typer(
    name="redisai",
    help="Tensors, models, scripts and DAGs for any Redis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("serve", cls=ServeCommand)(serve)
app.add_typer(model.app, name="model")
app.add_typer(tensor.app, name="tensor")
app.add_typer(script.app, name="script")
app.add_typer(cache.app, name="cache")
app.add_typer(artifact.app, name="artifact")
app.add_typer(dataset.app, name="dataset")
app.add_typer(train.app, name="train")
app.add_typer(pipeline.app, name="pipeline")
app.add_typer(job.app, name="job")
app.command("worker")(job.worker)
app.command("info")(status.info)
app.command("ping")(status.ping)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"redisai {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    """Tensors, models, scripts and DAGs for any Redis."""


def main() -> None:
    """Entry point of the console script."""
    mask_command_line()
    app()
