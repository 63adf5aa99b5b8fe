"""`redisai tensor`: store tensors from files, and write tensors to files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from redisai_py.cli.command import on_server
from redisai_py.cli.options import DtypeOption, FileToRead, LayoutOption, SizeOption, key_of
from redisai_py.cli.output import Output, size_text, tensor_fields, values_of

if TYPE_CHECKING:
    from redisai_py.cli.remote import Remote

__all__ = ["app"]

app = typer.Typer(help="Store and fetch tensors: .npy, .safetensors, images.", no_args_is_help=True)

_Key = Annotated[str, typer.Argument(metavar="KEY", show_default=False, help="The tensor's key.")]


@on_server(app)
def put(
    client: Remote,
    output: Output,
    key: _Key,
    file: FileToRead,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Tensor to use from a .safetensors file with several.")
    ] = None,
    dtype: DtypeOption = None,
    size: SizeOption = None,
    layout: LayoutOption = None,
) -> None:
    """Store a tensor. An image becomes UINT8 with shape (height, width, channels)."""
    from redisai_py.cli.files.tensors import read_tensor
    from redisai_py.client import calls

    array = read_tensor(file, name=name, dtype=dtype, size=size, layout=layout)
    call = calls.tensorset(key_of(key), array)
    client.send(call, f"sending {file.name}", "storing it")
    fields = tensor_fields(array)
    output.line(
        f"{key}: {fields['dtype']} {fields['shape']}, {size_text(array.nbytes)}", key=key, **fields, bytes=array.nbytes
    )


@on_server(app)
def get(
    client: Remote,
    output: Output,
    key: _Key,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", show_default=False, help="File to write. By default the tensor is printed."),
    ] = None,
    dtype: DtypeOption = None,
    layout: LayoutOption = None,
) -> None:
    """Write a tensor to a file, or print it."""
    from redisai_py.cli.files import tensors
    from redisai_py.client import calls

    tensors.check_target(file, layout)
    array = client.fetch(calls.tensorget(key_of(key)), f"fetching {key}", client.tensor_size(key_of(key)))
    if dtype is not None:
        array = tensors.converted(array, dtype, key)
    fields = tensor_fields(array)
    if file is not None:
        tensors.write_tensor(file, array, layout)
        output.line(
            f"{file}: {fields['dtype']} {fields['shape']}, {size_text(array.nbytes)}",
            key=key,
            **fields,
            file=str(file),
            bytes=array.nbytes,
        )
    elif output.as_json:
        output.document({"key": key, **fields, "values": values_of(array)})
    else:
        output.tensor("", array)
