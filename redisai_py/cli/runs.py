"""Runs from files to files: one command to the server, which writes no keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from redisai_py.cli.failures import UsageError
from redisai_py.cli.files.tensors import check_writable, read_tensor, write_tensor
from redisai_py.cli.output import Output, tensor_fields, values_of
from redisai_py.cli.remote import Remote, check_run
from redisai_py.client.sync import Dag
from redisai_py.errors import MissingKey

__all__ = ["execute", "input_arrays", "output_files", "print_outputs"]


def _assigned(given: Sequence[str], known: Sequence[str], option: str) -> dict[int, Path]:
    """The file of each position. Raises: UsageError."""
    files: dict[int, Path] = {}
    for position, word in enumerate(given):
        name, equals, file = word.partition("=")
        if equals and name and name in known:
            place = list(known).index(name)
        elif position < len(known):
            place, file = position, word
        else:
            raise UsageError(f"{option} {word}: it cannot be combined with {_listed(known)}")
        if not file:
            raise UsageError(f"{option} {word}: the file name is missing")
        if place in files:
            raise UsageError(f"{option} {word}: {option} {files[place]} is for the same place")
        files[place] = Path(file)
    return files


def _listed(known: Sequence[str]) -> str:
    return ", ".join(name or "-" for name in known) or "none"


def input_arrays(given: Sequence[str], known: Sequence[str], **options: Any) -> list[NDArray[Any]]:
    """The tensors in the files, in the order of the names.

    Args:    given: `FILE` or `NAME=FILE`.   known: names of all inputs.   options: of `read_tensor`.
    Raises:  UsageError: too few, too many, or unreadable.   OSError.
    """
    files = _assigned(given, known, "--input")
    if len(files) != len(known):
        raise UsageError(
            f"give --input once for each of the inputs ({_listed(known)}); it was given {len(files)} times"
        )
    return [read_tensor(files[place], **options) for place in range(len(known))]


def output_files(given: Sequence[str], known: Sequence[str]) -> dict[int, Path]:
    """Output files, by position. Raises: UsageError: too many, or a file type for which there is no tensor format."""
    files = _assigned(given, known, "--output")
    for path in files.values():
        check_writable(path)
    return files


def execute(
    client: Remote,
    what: str,
    dag: Dag,
    arrays: Sequence[NDArray[Any]],
    outputs: int,
    run: Callable[[list[str], list[str]], object],
) -> list[NDArray[Any] | None]:
    """Run a model or script on arrays, in an empty DAG.

    Args:    outputs: number of its outputs.   run: appends the run to the DAG; takes the names of inputs and outputs.
    Returns: the outputs; None for one that is not a tensor but a sequence or a map, which the server leaves out.
    Raises:  redis.ResponseError: an operation failed, or the time limit passed.
    """
    taken = [f"input {place}" for place in range(len(arrays))]
    made = [f"output {place}" for place in range(outputs)]
    for name, array in zip(taken, arrays, strict=True):
        dag.tensorset(name, array)
    run(taken, made)
    for name in made:
        dag.tensorget(name)
    reply = client.send(dag.call(), f"sending the inputs of {what}", f"running {what}")
    check_run(reply if isinstance(reply, str) else reply[: len(reply) - outputs])
    return [_output_of(result) for result in reply[len(reply) - outputs :]]


def _output_of(result: Any) -> NDArray[Any] | None:
    """The tensor, or None if it is missing: the run succeeded, but that output is no tensor. Raises: ResponseError."""
    if isinstance(result, Exception) and not isinstance(result, MissingKey):
        raise result
    return None if isinstance(result, (str, MissingKey)) else result


def print_outputs(
    arrays: Sequence[NDArray[Any] | None], known: Sequence[str], files: dict[int, Path], output: Output
) -> None:
    """Write outputs to their files; without any file, print all of them.

    Raises: UsageError: a file for an output that is not a tensor; nothing was written.   OSError.
    """
    for place, file in files.items():
        if arrays[place] is None:
            raise UsageError(f"--output {file}: {known[place] or place} is not a tensor but a sequence or a map")
    report = [
        _print_output(name or str(place), name, array, files.get(place), output, printed=not files)
        for place, (name, array) in enumerate(zip(known, arrays, strict=True))
    ]
    if output.as_json:
        output.document({"outputs": report})
    elif files:
        output.table([entry for entry in report if "file" in entry], ("name", "dtype", "shape", "file"), "")


def _print_output(
    title: str, name: str, array: NDArray[Any] | None, path: Path | None, output: Output, printed: bool
) -> dict[str, Any]:
    """Write or print one output. Returns: its entry in the JSON document."""
    if array is None:
        if printed and not output.as_json:
            output.line(f"{title}  no tensor, but a sequence or a map")
        return {"name": name, "dtype": None, "shape": None}
    entry = {"name": name, **tensor_fields(array)}
    if path is not None:
        write_tensor(path, array)
        entry["file"] = str(path)
    elif printed and output.as_json:
        entry["values"] = values_of(array)
    elif printed:
        output.tensor(title, array)
    return entry
