"""`redisai script`: store, fetch, list, delete and run scripts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from redisai_py.cli.command import on_server
from redisai_py.cli.failures import UsageError
from redisai_py.cli.options import (
    DeviceOption,
    DtypeOption,
    FileToRead,
    InputFiles,
    LayoutOption,
    OutputFiles,
    SizeOption,
    TagOption,
    TimeoutOption,
    key_of,
    names,
)
from redisai_py.cli.output import Output

if TYPE_CHECKING:
    from redisai_py.cli.remote import Remote

__all__ = ["app"]

app = typer.Typer(help="Store, fetch, list, delete and run TorchScript sources.", no_args_is_help=True)

_Key = Annotated[str, typer.Argument(metavar="KEY", show_default=False, help="The script's key.")]
_Arguments = Annotated[
    list[str] | None, typer.Option("--arg", metavar="TEXT", help="An element of the function's args; repeatable.")
]
_Keys = Annotated[
    list[str] | None, typer.Option("--key", metavar="KEY", help="An element of the function's keys; repeatable.")
]
_Count = Annotated[
    int | None,
    typer.Option("--outputs", metavar="N", min=0, help="Number of tensors the function returns. Default: 1."),
]
_LISTED = ("key", "device", "tag", "entry points")


@on_server(app)
def put(
    client: Remote,
    output: Output,
    key: _Key,
    file: FileToRead,
    entry_points: Annotated[
        list[str] | None,
        typer.Option(
            "--entry-point",
            metavar="NAME,...",
            help="Entry points. Default: all that take (tensors: List[Tensor], keys: List[str], args: List[str]).",
        ),
    ] = None,
    device: DeviceOption = "CPU",
    tag: TagOption = None,
) -> None:
    """Store a TorchScript source."""
    from redisai_py.cli.files.scripts import entry_points_of, read_source

    source = read_source(file)
    functions = names(entry_points) or entry_points_of(source, str(file))
    try:
        client.scriptstore(key_of(key), device, source, functions, tag)
    except ValueError as error:
        raise UsageError(str(error)) from error
    output.line(
        f"{key}: {', '.join(functions)} on {device}", **{"key": key, "device": device, "entry points": functions}
    )


@on_server(app)
def get(
    client: Remote,
    output: Output,
    key: _Key,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", show_default=False, help="File to write. By default the source is printed."),
    ] = None,
) -> None:
    """Write a script's source to a file, or print it."""
    from redisai_py.cli.files.models import check_directory, write_file

    if file is not None:
        check_directory(file)
    script = client.scriptget(key_of(key))
    source = script["source"]
    if file is not None:
        write_file(file, source.encode())
        output.line(f"{file}: {len(source.splitlines())} lines", key=key, file=str(file), bytes=len(source.encode()))
    elif output.as_json:
        output.document({"key": key, **script})
    else:
        typer.echo(source, nl=not source.endswith("\n"))


@on_server(app)
def ls(client: Remote, output: Output) -> None:
    """List all scripts of the database."""
    from redisai_py.client import calls

    output.table(client.listed(client.scriptscan(), calls.scriptget), _LISTED, "no scripts")


@on_server(app)
def rm(
    client: Remote,
    output: Output,
    keys: Annotated[list[str], typer.Argument(metavar="KEY...", show_default=False, help="The scripts' keys.")],
) -> None:
    """Delete scripts."""
    from redisai_py.cli.remote import remove
    from redisai_py.client import calls

    remove(client, output, keys, calls.scriptdel)


@on_server(app)
def run(
    client: Remote,
    output: Output,
    key: _Key,
    function: Annotated[str, typer.Argument(metavar="FUNCTION", show_default=False, help="The function to call.")],
    inputs: InputFiles = None,
    arguments: _Arguments = None,
    keys: _Keys = None,
    outputs: OutputFiles = None,
    count: _Count = None,
    dtype: DtypeOption = None,
    size: SizeOption = None,
    layout: LayoutOption = None,
    timeout: TimeoutOption = None,
) -> None:
    """Call a function of a script on tensors from files. The command itself writes no keys."""
    from redisai_py.cli import runs

    places = [""] * (count if count is not None else max(1, len(outputs or [])))
    given = [""] * len(inputs or [])
    files = runs.output_files(outputs or [], places)
    arrays = runs.input_arrays(inputs or [], given, dtype=dtype, size=size, layout=layout)
    dag = client.dag(routing=key_of(key), timeout=timeout)
    named = [key_of(name) for name in keys] if keys else None

    def call(taken: list[str], made: list[str]) -> None:
        dag.scriptexecute(key_of(key), function, named, taken, arguments or None, made)

    runs.print_outputs(runs.execute(client, key, dag, arrays, len(places), call), places, files, output)
