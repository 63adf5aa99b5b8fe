"""`redisai model`: store, fetch, list, delete and run models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from redisai_py.cli.command import on_server
from redisai_py.cli.failures import UsageError
from redisai_py.cli.options import (
    BatchOption,
    DeviceOption,
    DtypeOption,
    InputFiles,
    LayoutOption,
    MinBatchOption,
    MinBatchTimeoutOption,
    OutputFiles,
    SizeOption,
    TagOption,
    TimeoutOption,
    key_of,
    names,
)
from redisai_py.cli.output import Output, size_text, tensor_text

if TYPE_CHECKING:
    from redisai_py.cli.remote import Remote

__all__ = ["app"]

app = typer.Typer(help="Store, fetch, list, delete and run models.", no_args_is_help=True)

_Key = Annotated[str, typer.Argument(metavar="KEY", show_default=False, help="The model's key.")]
_File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        show_default=False,
        help="A file, a SavedModel's directory, or - for standard input.",
    ),
]
_Backend = Annotated[
    str | None,
    typer.Option("--backend", metavar="WORD", help="ONNX, TORCH, TF or TFLITE. Default: from the file name."),
]
_Inputs = Annotated[list[str] | None, typer.Option("--inputs", metavar="NAME,...", help="The graph's inputs; TF only.")]
_Outputs = Annotated[
    list[str] | None, typer.Option("--outputs", metavar="NAME,...", help="The graph's outputs; TF only.")
]
_Signature = Annotated[
    str | None, typer.Option("--signature", metavar="NAME", help="The signature to run; SavedModels and TFLITE.")
]
_LISTED = ("key", "backend", "device", "tag", "batchsize", "inputs", "outputs")
_TROUBLES = {"not merged": "not_merged", "quarantine": "quarantine"}
"""Column -> item of AI.INFO FULL; shown if any model has a value for it."""


@on_server(app)
def put(
    client: Remote,
    output: Output,
    key: _Key,
    file: _File,
    backend: _Backend = None,
    device: DeviceOption = "CPU",
    tag: TagOption = None,
    batch: BatchOption = None,
    min_batch: MinBatchOption = None,
    min_batch_timeout: MinBatchTimeoutOption = None,
    inputs: _Inputs = None,
    outputs: _Outputs = None,
    signature: _Signature = None,
) -> None:
    """Store a model. The file name determines the framework: .onnx, .pt .pth .pt2 .torchscript (TORCH), .pb .zip .tar
    .tgz or a SavedModel's directory (TF), .tflite.
    """
    from redisai_py.cli.files import models
    from redisai_py.client import calls
    from redisai_py.client.files import open_model

    kind = models.backend_of(file, backend)
    data = open_model(models.read_model(file))
    try:
        call = calls.modelstore(
            key_of(key), kind, device, data, batch, min_batch, min_batch_timeout, tag,
            names(inputs) or None, names(outputs) or None, signature=signature,
        )  # fmt: skip
    except ValueError as error:
        if kind == "TF" and not (names(inputs) and names(outputs)):
            raise UsageError("a frozen TF graph needs --inputs and --outputs, the names of its nodes") from error
        raise UsageError(str(error)) from error
    client.send(call, f"sending {file.name}", f"{kind} loads it")
    fields = {"key": key, "backend": kind, "device": device, "bytes": len(data)}
    output.line(f"{key}: {kind} on {device}, {size_text(len(data))}", **fields)


@on_server(app)
def get(
    client: Remote,
    output: Output,
    key: _Key,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", show_default=False, help="File to write; - for standard output.")
    ],
) -> None:
    """Write a stored model to a file, byte for byte as it was stored."""
    from redisai_py.cli.files.models import STREAM, check_directory, write_file
    from redisai_py.client import calls

    check_directory(file)
    model = client.fetch(calls.modelget(key_of(key)), f"fetching {key}", client.model_size(key_of(key)))
    blob = model["blob"]
    chunks = blob if isinstance(blob, list) else [blob]
    size = sum(map(len, chunks))
    if file == STREAM:
        for chunk in chunks:
            typer.echo(chunk, nl=False)
        return
    write_file(file, *chunks)
    output.line(
        f"{file}: {model['backend']}, {size_text(size)}",
        key=key,
        backend=model["backend"],
        file=str(file),
        bytes=size,
    )


@on_server(app)
def ls(client: Remote, output: Output) -> None:
    """List all models of the database."""
    from redisai_py.client import calls

    models = client.listed(client.modelscan(), calls.modelget)
    infos = client.several([calls.infoget(key_of(model["key"]), full=True) for model in models])
    for model, info in zip(models, infos, strict=True):
        for column, item in _TROUBLES.items():
            model[column] = info.get(item, "") if isinstance(info, dict) else ""
    troubles = [column for column in _TROUBLES if any(model[column] for model in models)]
    output.table(models, (*_LISTED, *troubles), "no models")


@on_server(app)
def show(client: Remote, output: Output, key: _Key) -> None:
    """Show a model: its options, and the names, element types and dimensions of its inputs and outputs."""
    meta = client.modelget(key_of(key), meta_only=True)
    info = client.infoget(key_of(key), full=True)
    fields = {"key": key, **meta}
    for what in ("inputs", "outputs"):
        if info.get(what):  # present once this server has loaded the model
            tensors = [tensor_text(*spec) for spec in info[what]]
            fields[what] = info[what] if output.as_json else tensors
    fields["loaded"] = bool(info.get("loaded"))
    fields["keeps state"] = bool(info.get("stateful"))
    fields |= {column: info[item] for column, item in _TROUBLES.items() if info.get(item)}
    output.fields(fields)


@on_server(app)
def rm(
    client: Remote,
    output: Output,
    keys: Annotated[list[str], typer.Argument(metavar="KEY...", show_default=False, help="The models' keys.")],
) -> None:
    """Delete models."""
    from redisai_py.cli.remote import remove
    from redisai_py.client import calls

    remove(client, output, keys, calls.modeldel)


@on_server(app)
def run(
    client: Remote,
    output: Output,
    key: _Key,
    inputs: InputFiles = None,
    outputs: OutputFiles = None,
    dtype: DtypeOption = None,
    size: SizeOption = None,
    layout: LayoutOption = None,
    timeout: TimeoutOption = None,
) -> None:
    """Run a model on tensors from files (.npy, .safetensors, images). No keys are written."""
    from redisai_py.cli import runs

    meta = client.modelget(key_of(key), meta_only=True)
    files = runs.output_files(outputs or [], meta["outputs"])
    arrays = runs.input_arrays(inputs or [], meta["inputs"], dtype=dtype, size=size, layout=layout)
    dag = client.dag(routing=key_of(key), timeout=timeout, readonly=True)
    results = runs.execute(
        client, key, dag, arrays, len(meta["outputs"]), lambda taken, made: dag.modelexecute(key_of(key), taken, made)
    )
    runs.print_outputs(results, meta["outputs"], files, output)
