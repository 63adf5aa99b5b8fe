"""Every method of the clients as data: from arguments to a Call (words to send, and a decoder of the reply).

The two clients differ only in how they move bytes; their methods have the arguments and docstrings of these functions.
Names, order of arguments, checks, error texts and results are those of the `redisai` package; where that package is
plainly wrong, this one is right (docs/clients.md). Pure, except that a model given as a path is mapped into memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

from numpy.typing import NDArray

from redisai_py.client.arrays import array_of, dims_of, dtype_of, must_convert, tensor_from
from redisai_py.client.call import (
    Call,
    Key,
    Keys,
    Progress,
    counted,
    is_pure,
    listify,
    option,
    pairs,
    text,
    texts,
    warn_deprecated,
    warn_experimental,
)
from redisai_py.client.files import ModelData, chunks_of, is_archive, open_model
from redisai_py.plugins import backend_names
from redisai_py.tensor import DType

__all__ = [
    "config",
    "infoget",
    "inforeset",
    "loadbackend",
    "modeldel",
    "modelexecute",
    "modelget",
    "modelrun",
    "modelscan",
    "modelset",
    "modelstore",
    "scriptdel",
    "scriptexecute",
    "scriptget",
    "scriptrun",
    "scriptscan",
    "scriptset",
    "scriptstore",
    "tensorget",
    "tensorset",
]

CHUNK_SIZE = 535822336
"""Maximum bytes of a model per word: RedisAI's MODEL_CHUNK_SIZE, below Redis's limit of 512 MiB per string."""
_SET_CHUNK_SIZE = 500 * 1024 * 1024

_DEVICES = {"CPU", "GPU"}


# -- replies --------------------------------------------------------------------------------


def _scan(reply: Sequence[Sequence[Any]]) -> list[list[Any]]:
    return [texts(entry) for entry in reply]


def _model(reply: Sequence[Any]) -> dict[str, Any]:
    fields = pairs(reply)
    fields["inputs"] = texts(fields["inputs"])
    fields["outputs"] = texts(fields["outputs"])
    return fields


def _array(reply: Sequence[Any]) -> NDArray[Any]:
    # Index by position: this is the hot path of the clients.
    return array_of(DType[reply[1].decode()], reply[3], reply[5])


def _mutable_array(reply: Sequence[Any]) -> NDArray[Any]:
    return _array(reply).copy()


def _values(reply: Sequence[Any]) -> dict[str, Any]:
    fields = pairs(reply)
    convert: Callable[[Any], Any] = int
    if fields["dtype"] == "STRING":
        convert = text
    elif DType[fields["dtype"]].is_float:
        convert = float  # RESP2 sends strings, RESP3 numbers
    fields["values"] = [convert(value) for value in fields["values"]]
    return fields


# -- tensors --------------------------------------------------------------------------------


def tensorset(key: Key, tensor: Any, shape: Sequence[int] | None = None, dtype: Any = None) -> Call[str]:
    """Store a tensor.

    Args:    tensor: a numpy array, torch tensor, or any object with `__array__` or `__dlpack__`; or a list or tuple.
             shape, dtype: of a list; the shape defaults to the list's own.
    Returns: 'OK'.
    Raises:  TypeError: cannot be converted to a tensor.   WrongType: the key holds something else.
    Copies:  none of a C-contiguous array's data.
    """
    if isinstance(tensor, (list, tuple)):
        kind = dtype_of(dtype)
        if not must_convert(tensor, kind):
            dims = (len(tensor),) if shape is None else dims_of(shape)
            return Call(["AI.TENSORSET", key, kind.name, *dims, "VALUES", *tensor], text)
    value = tensor_from(tensor, shape, dtype)
    return Call(["AI.TENSORSET", key, value.dtype.name, *value.shape, "BLOB", value.data], text)


@overload
def tensorget(
    key: Key,
    as_numpy: Literal[True] = True,
    as_numpy_mutable: bool = False,
    meta_only: Literal[False] = False,
) -> Call[NDArray[Any]]: ...


@overload
def tensorget(
    key: Key, as_numpy: bool = True, as_numpy_mutable: bool = False, *, meta_only: Literal[True]
) -> Call[dict[str, Any]]: ...


@overload
def tensorget(
    key: Key, as_numpy: Literal[False], as_numpy_mutable: bool = False, meta_only: bool = False
) -> Call[dict[str, Any]]: ...


@overload
def tensorget(
    key: Key, as_numpy: bool = True, as_numpy_mutable: bool = False, meta_only: bool = False
) -> Call[NDArray[Any] | dict[str, Any]]: ...


def tensorget(
    key: Key, as_numpy: bool = True, as_numpy_mutable: bool = False, meta_only: bool = False
) -> Call[NDArray[Any] | dict[str, Any]]:
    """Read a tensor.

    Returns: a read-only array that shares memory with the reply; with `as_numpy_mutable` a writable one; with
             `meta_only` a dict with `dtype` and `shape`; without `as_numpy` also `values`, a flat list.
    Raises:  MissingKey, WrongType.
    """
    if meta_only:
        return Call(["AI.TENSORGET", key, "META"], pairs)
    if not as_numpy:
        return Call(["AI.TENSORGET", key, "META", "VALUES"], _values)
    return Call(["AI.TENSORGET", key, "META", "BLOB"], _mutable_array if as_numpy_mutable else _array)


# -- models --------------------------------------------------------------------------------


def modelstore(
    key: Key,
    backend: str,
    device: str,
    data: ModelData,
    batch: int | None = None,
    minbatch: int | None = None,
    minbatchtimeout: int | None = None,
    tag: Key | None = None,
    inputs: Keys | None = None,
    outputs: Keys | None = None,
    progress: Progress | None = None,
    signature: str | None = None,
) -> Call[str]:
    """Store a model, given as bytes or as a path (`os.PathLike`).

    Args:    backend: TF, TFLITE, TORCH or ONNX.   device: CPU, GPU, CPU:n or GPU:n.
             batch, minbatch: rows.   minbatchtimeout: ms.   inputs, outputs: node names, TF only.
             signature: of a SavedModel (default: the one that has the given names; names are optional) or of a TFLITE
             model (default: the main one).
             progress: called repeatedly with the bytes sent and the total.
    Returns: 'OK'.
    Raises:  ValueError: invalid combination of arguments.   redis.ResponseError: the framework refused the model.
    """
    blob = open_model(data)
    if key is None:
        raise ValueError("Model name was not given")
    _check_model(backend, device, batch, minbatch)
    if minbatchtimeout is not None and minbatch is None:
        raise ValueError("Minbatchtimeout is not allowed without minbatch")
    words: list[Any] = ["AI.MODELSTORE", key, backend, device]
    words += option("TAG", tag) + option("BATCHSIZE", batch) + option("MINBATCHSIZE", minbatch)
    words += option("MINBATCHTIMEOUT", minbatchtimeout)
    if backend.upper() == "TF":
        if (inputs is None) != (outputs is None) or (inputs is None and not is_archive(blob)):
            raise ValueError("Require keyword arguments inputs and outputs for TF models")
        words += option("SIGNATURE", signature)
        if inputs is not None and outputs is not None:
            words += counted("INPUTS", inputs) + counted("OUTPUTS", outputs)
    elif inputs is not None or outputs is not None:
        raise ValueError("Inputs and outputs keywords should not be specified for this backend")
    else:
        words += option("SIGNATURE", signature)
    return Call([*words, "BLOB", *chunks_of(blob, CHUNK_SIZE)], text, progress=progress)


def modelset(
    key: Key,
    backend: str,
    device: str,
    data: ModelData,
    batch: int | None = None,
    minbatch: int | None = None,
    tag: Key | None = None,
    inputs: Keys | None = None,
    outputs: Keys | None = None,
) -> Call[str]:
    """Store a model; deprecated, use `modelstore`."""
    blob = open_model(data)
    warn_deprecated("modelset", "modelstore")
    _check_model(backend, device, batch, minbatch)
    words: list[Any] = ["AI.MODELSET", key, backend, device]
    words += option("TAG", tag) + option("BATCHSIZE", batch) + option("MINBATCHSIZE", minbatch)
    if backend.upper() == "TF":
        if not (inputs and outputs):
            raise ValueError("Require keyword arguments input and output for TF models")
        words += ["INPUTS", *listify(inputs), "OUTPUTS", *listify(outputs)]
    return Call([*words, "BLOB", *chunks_of(blob, _SET_CHUNK_SIZE)], text)


def _check_model(backend: str, device: str, batch: int | None, minbatch: int | None) -> None:
    _check_device(device)
    _check_text("backend", backend, "ONNX")
    if backend.upper() not in (allowed := backend_names()):
        raise ValueError(f"Backend not allowed. Use any from {set(allowed)}")
    if minbatch is not None and batch is None:
        raise ValueError("Minbatch is not allowed without batch")


def _check_text(name: str, value: Any, example: str) -> None:
    """Raises: TypeError: not a str."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str such as {example!r}, not {value!r}")


def _check_device(device: str) -> None:
    _check_text("device", device, "CPU")
    if device.upper().partition(":")[0] not in _DEVICES:
        raise ValueError(f"Device not allowed. Use any from {_DEVICES}")


def modelget(key: Key, meta_only: bool = False) -> Call[dict[str, Any]]:
    """Read a model: a dict, with its bytes as `blob` unless `meta_only`; a list of bytes for more than
    MODEL_CHUNK_SIZE bytes. Raises: MissingKey, WrongType.
    """
    return Call(["AI.MODELGET", key, "META"] + ([] if meta_only else ["BLOB"]), _model)


def modeldel(key: Key) -> Call[str]:
    """Delete a model. Raises: MissingKey, WrongType."""
    return Call(["AI.MODELDEL", key], text, repeatable=False)


def modelexecute(
    key: Key, inputs: Keys, outputs: Keys, timeout: int | None = None, cache: str | None = None
) -> Call[str]:
    """Run a model on stored tensors; `timeout` in ms limits the time in the queue. Returns: 'OK' or 'TIMEDOUT'.

    Args:   cache: how to use the prediction cache: 'NO', 'REFRESH' or 'ONLY'.
    Raises: redis.ResponseError `MISS ...`: with ONLY, if no prediction is stored.
    """
    if key is None or inputs is None or outputs is None:
        raise ValueError("Missing required arguments for model execute command")
    words: list[Any] = ["AI.MODELEXECUTE", key, *counted("INPUTS", inputs), *counted("OUTPUTS", outputs)]
    words += option("TIMEOUT", timeout) + option("CACHE", cache)
    return Call(words, text, repeatable=is_pure(inputs, outputs))


def modelrun(key: Key, inputs: Keys, outputs: Keys) -> Call[str]:
    """Run a model; deprecated, use `modelexecute`."""
    warn_deprecated("modelrun", "modelexecute")
    words = ["AI.MODELRUN", key, "INPUTS", *listify(inputs), "OUTPUTS", *listify(outputs)]
    return Call(words, text, repeatable=is_pure(inputs, outputs))


def modelscan() -> Call[list[list[str]]]:
    """All models: a list of [key, tag]."""
    warn_experimental("Model")
    return Call(["AI._MODELSCAN"], _scan)


# -- scripts --------------------------------------------------------------------------------


def scriptstore(key: Key, device: str, script: str, entry_points: Keys, tag: Key | None = None) -> Call[str]:
    """Store a TorchScript source."""
    if key is None or script is None or entry_points is None:
        raise ValueError("Missing required arguments for script store command")
    _check_device(device)
    words: list[Any] = ["AI.SCRIPTSTORE", key, device, *option("TAG", tag or None)]
    return Call([*words, *counted("ENTRY_POINTS", entry_points), "SOURCE", script], text)


def scriptset(key: Key, device: str, script: str, tag: Key | None = None) -> Call[str]:
    """Store a TorchScript source; deprecated, use `scriptstore`."""
    warn_deprecated("scriptset", "scriptstore")
    _check_device(device)
    return Call(["AI.SCRIPTSET", key, device, *option("TAG", tag or None), "SOURCE", script], text)


def scriptget(key: Key, meta_only: bool = False) -> Call[dict[str, Any]]:
    """Read a script: a dict, with its `source` unless `meta_only`; `entry points` are bytes.

    Raises: MissingKey, WrongType.
    """
    return Call(["AI.SCRIPTGET", key, "META"] + ([] if meta_only else ["SOURCE"]), pairs)


def scriptdel(key: Key) -> Call[str]:
    """Delete a script. Raises: MissingKey, WrongType."""
    return Call(["AI.SCRIPTDEL", key], text, repeatable=False)


def scriptexecute(
    key: Key,
    function: str,
    keys: Keys | None = None,
    inputs: Keys | None = None,
    args: Any = None,
    outputs: Keys | None = None,
    timeout: int | None = None,
) -> Call[str]:
    """Call a function of a script; never repeated. Returns: 'OK' or 'TIMEDOUT'."""
    if key is None or function is None or (keys is None and inputs is None):
        raise ValueError("Missing required arguments for script execute command")
    words: list[Any] = ["AI.SCRIPTEXECUTE", key, function]
    for scope, items in (("KEYS", keys), ("INPUTS", inputs), ("ARGS", args), ("OUTPUTS", outputs)):
        if items is not None:
            words += counted(scope, items)
    return Call(words + option("TIMEOUT", timeout), text, repeatable=False)


def scriptrun(key: Key, function: str, inputs: Keys, outputs: Keys) -> Call[str]:
    """Call a function of a script; deprecated, use `scriptexecute`."""
    warn_deprecated("scriptrun", "scriptexecute")
    if key is None or function is None:
        raise ValueError("Missing required arguments for script run command")
    words = ["AI.SCRIPTRUN", key, function, "INPUTS", *listify(inputs), "OUTPUTS", *listify(outputs)]
    return Call(words, text, repeatable=False)


def scriptscan() -> Call[list[list[str]]]:
    """All scripts: a list of [key, tag]."""
    warn_experimental("Script")
    return Call(["AI._SCRIPTSCAN"], _scan)


# -- administration --------------------------------------------------------------------------------


def infoget(key: Key, full: bool = False) -> Call[dict[str, Any]]:
    """Run statistics of a model or script: a dict. Raises: MissingKey.

    Args: full: also times, batches, and name, dtype and dimensions of the model's inputs and outputs.
    """
    return Call(["AI.INFO", key, "FULL"] if full else ["AI.INFO", key], pairs)


def inforeset(key: Key) -> Call[str]:
    """Reset the run statistics of a model or script. Raises: MissingKey."""
    return Call(["AI.INFO", key, "RESETSTAT"], text)


def config(name: str, value: str | int | None = None) -> Call[str | int | None]:
    """Read a setting (None if unknown), or set it if a value is given (returns 'OK')."""
    return Call(["AI.CONFIG", "GET", name] if value is None else ["AI.CONFIG", name, value], text)


def loadbackend(identifier: Key, path: Key) -> Call[str]:
    """Load a framework now. Raises: redis.ResponseError: it was loaded before."""
    return Call(["AI.CONFIG", "LOADBACKEND", identifier, path], text, repeatable=False)
