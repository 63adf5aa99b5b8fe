"""Every method of the clients as data: arguments in, a Call (the words to send, how to read the reply) out.

Pure: the two clients differ only in how they move bytes. Names, order of arguments, checks and their texts are those of
the `redisai` package, and so is what a reply becomes; where that package is plainly wrong, this one is right
(docs/clients.md).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from redisai_py.client.arrays import array_of, dtype_of, elements_of, must_convert, tensor_of
from redisai_py.plugins import backend_names
from redisai_py.tensor import DType, Tensor

__all__ = [
    "Call",
    "Key",
    "Keys",
    "ModelBytes",
    "Progress",
    "config",
    "infoget",
    "inforeset",
    "is_pure",
    "listify",
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
    "tensor_from",
    "tensorget",
    "tensorset",
    "text",
    "warn_deprecated",
]

Key = str | bytes
Keys = Key | Sequence[Key]
ModelBytes = bytes | bytearray | memoryview | list[bytes]
Progress = Callable[[int, int], object]
"""Called with the bytes sent so far and the bytes in all, again and again while a large command is sent."""

CHUNK_SIZE = 535822336
"""Bytes of a model per word: RedisAI's own MODEL_CHUNK_SIZE, below the 512 MiB that Redis takes as one string."""
_SET_CHUNK_SIZE = 500 * 1024 * 1024

_DEVICES = {"CPU", "GPU"}


T_co = TypeVar("T_co", covariant=True)


@dataclass(slots=True)
class Call(Generic[T_co]):
    """One command, whose result is a T_co.

    argv: its words, not encoded yet; a tuple of buffers is one word.   decode: reply as received (bytes) -> result.
    repeatable: sending it twice does what sending it once does, so it may be sent again after a lost connection.
    progress: told of the bytes sent.   direct: for Redis itself, not for the sidecar.
    """

    argv: list[Any]
    decode: Callable[[Any], T_co]
    repeatable: bool = True
    progress: Progress | None = None
    direct: bool = False


# -- replies --------------------------------------------------------------------------------


def text(value: Any) -> Any:
    """A status or bulk string as str; anything else as it is."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _texts(values: Iterable[Any]) -> list[Any]:
    return [text(value) for value in values]


def pairs(reply: Sequence[Any]) -> dict[str, Any]:
    """Field, value, field, value ... as a dict: names in lower case, strings decoded except `blob`, lists untouched."""
    fields: dict[str, Any] = {}
    for name, value in zip(reply[::2], reply[1::2], strict=True):
        key = text(name).lower()
        fields[key] = value if key == "blob" else text(value)
    return fields


def _scan(reply: Sequence[Sequence[Any]]) -> list[list[Any]]:
    return [_texts(entry) for entry in reply]


def _model(reply: Sequence[Any]) -> dict[str, Any]:
    fields = pairs(reply)
    fields["inputs"] = _texts(fields["inputs"])
    fields["outputs"] = _texts(fields["outputs"])
    return fields


def _meta(reply: Sequence[Any]) -> dict[str, Any]:
    return pairs(reply)


def _array(reply: Sequence[Any]) -> np.ndarray[Any, Any]:
    # dtype, shape and blob by position: the hot path of the clients.
    return array_of(DType[reply[1].decode()], reply[3], reply[5])


def _mutable_array(reply: Sequence[Any]) -> np.ndarray[Any, Any]:
    return _array(reply).copy()


def _values(reply: Sequence[Any]) -> dict[str, Any]:
    fields = pairs(reply)
    convert: Callable[[Any], Any] = int
    if fields["dtype"] == "STRING":
        convert = text
    elif DType[fields["dtype"]].is_float:
        convert = float  # RESP2 sends texts, RESP3 numbers: both are understood
    fields["values"] = [convert(value) for value in fields["values"]]
    return fields


# -- tensors --------------------------------------------------------------------------------


def tensorset(key: Key, tensor: Any, shape: Sequence[int] | None = None, dtype: Any = None) -> Call[str]:
    """AI.TENSORSET.

    Args:    tensor: an array (BLOB), or a list or tuple, flat (VALUES) or nested (BLOB).
             shape, dtype: for lists; an array has its own. Without a shape it is the list's.
    Raises:  TypeError, with the texts of the `redisai` package; numpy's errors for lists that make no array.
    """
    return Call(tensorset_words(key, tensor, shape, dtype), text)


def tensorset_words(key: Key, tensor: Any, shape: Sequence[int] | None, dtype: Any) -> list[Any]:
    """The words of AI.TENSORSET."""
    if isinstance(tensor, (list, tuple)):
        kind = dtype_of(dtype)
        if not must_convert(tensor, kind):
            dims = (len(tensor),) if shape is None else _dims(shape)
            return ["AI.TENSORSET", key, kind.name, *dims, "VALUES", *tensor]
    value = tensor_from(tensor, shape, dtype)
    return ["AI.TENSORSET", key, value.dtype.name, *value.shape, "BLOB", value.data]


def tensor_from(tensor: Any, shape: Sequence[int] | None, dtype: Any) -> Tensor:
    """The tensor that `tensorset` is given, as data."""
    if not isinstance(tensor, (list, tuple)):
        return tensor_of(tensor)
    value = elements_of(tensor, dtype_of(dtype))
    return value if shape is None else Tensor(value.dtype, _dims(shape), value.data)


def _dims(shape: Iterable[Any]) -> tuple[int, ...]:
    """The shape without numpy's integers, which redis-py does not send. Raises: TypeError: it has no sizes."""
    if isinstance(shape, str) or not isinstance(shape, Iterable):
        raise TypeError(f"shape must be a list of sizes such as [2, 3], not {shape!r}")
    return tuple(int(size) if isinstance(size, np.integer) else size for size in shape)


def tensorget(key: Key, as_numpy: bool = True, as_numpy_mutable: bool = False, meta_only: bool = False) -> Call[Any]:
    """AI.TENSORGET.

    Returns: a read-only array that shares memory with the reply; a writable copy if `as_numpy_mutable`; a dict with
             `dtype` and `shape` if `meta_only`, and with `values`, flat, if not `as_numpy`.
    """
    if meta_only:
        return Call(["AI.TENSORGET", key, "META"], _meta)
    if not as_numpy:
        return Call(["AI.TENSORGET", key, "META", "VALUES"], _values)
    return Call(["AI.TENSORGET", key, "META", "BLOB"], _mutable_array if as_numpy_mutable else _array)


# -- models --------------------------------------------------------------------------------


def modelstore(
    key: Key,
    backend: str,
    device: str,
    data: ModelBytes,
    batch: int | None = None,
    minbatch: int | None = None,
    minbatchtimeout: int | None = None,
    tag: Key | None = None,
    inputs: Keys | None = None,
    outputs: Keys | None = None,
    progress: Progress | None = None,
    signature: str | None = None,
) -> Call[str]:
    """AI.MODELSTORE.

    Args:    signature: of a SavedModel, whose inputs and outputs may be left out, or of a TFLITE model.
             progress: told of the bytes sent while a large model is on its way.
    Raises:  ValueError, with the texts of the `redisai` package, in its order.
    """
    if key is None:
        raise ValueError("Model name was not given")
    _check_model(backend, device, batch, minbatch)
    if minbatchtimeout is not None and minbatch is None:
        raise ValueError("Minbatchtimeout is not allowed without minbatch")
    words: list[Any] = ["AI.MODELSTORE", key, backend, device]
    words += _option("TAG", tag) + _option("BATCHSIZE", batch) + _option("MINBATCHSIZE", minbatch)
    words += _option("MINBATCHTIMEOUT", minbatchtimeout)
    if backend.upper() == "TF":
        if (inputs is None) != (outputs is None) or (inputs is None and not _is_archive(data)):
            raise ValueError("Require keyword arguments inputs and outputs for TF models")
        words += _option("SIGNATURE", signature)
        if inputs is not None and outputs is not None:
            words += _counted("INPUTS", inputs) + _counted("OUTPUTS", outputs)
    elif inputs is not None or outputs is not None:
        raise ValueError("Inputs and outputs keywords should not be specified for this backend")
    else:
        words += _option("SIGNATURE", signature)
    return Call([*words, "BLOB", *_chunks(data, CHUNK_SIZE)], text, progress=progress)


_ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")


def _is_archive(data: ModelBytes) -> bool:
    """Whether it is a zip or tar file, as a SavedModel comes in; the server looks closer."""
    first = (data[0] if data else b"") if isinstance(data, list) else data
    head = bytes(memoryview(first)[:512])
    return head.startswith(_ARCHIVES) or head[257:262] == b"ustar"


def modelset(
    key: Key,
    backend: str,
    device: str,
    data: ModelBytes,
    batch: int | None = None,
    minbatch: int | None = None,
    tag: Key | None = None,
    inputs: Keys | None = None,
    outputs: Keys | None = None,
) -> Call[str]:
    """AI.MODELSET, deprecated. Raises: ValueError, with the texts of the `redisai` package."""
    warn_deprecated("modelset", "modelstore")
    _check_model(backend, device, batch, minbatch)
    words: list[Any] = ["AI.MODELSET", key, backend, device]
    words += _option("TAG", tag) + _option("BATCHSIZE", batch) + _option("MINBATCHSIZE", minbatch)
    if backend.upper() == "TF":
        if not (inputs and outputs):
            raise ValueError("Require keyword arguments input and output for TF models")
        words += ["INPUTS", *listify(inputs), "OUTPUTS", *listify(outputs)]
    return Call([*words, "BLOB", *_chunks(data, _SET_CHUNK_SIZE)], text)


def _check_model(backend: str, device: str, batch: int | None, minbatch: int | None) -> None:
    _check_device(device)
    _check_text("backend", backend, "ONNX")
    if backend.upper() not in (allowed := backend_names()):
        raise ValueError(f"Backend not allowed. Use any from {set(allowed)}")
    if minbatch is not None and batch is None:
        raise ValueError("Minbatch is not allowed without batch")


def _check_text(name: str, value: Any, example: str) -> None:
    """Raises: TypeError: it is no str."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str such as {example!r}, not {value!r}")


def _check_device(device: str) -> None:
    _check_text("device", device, "CPU")
    if device.upper().partition(":")[0] not in _DEVICES:
        raise ValueError(f"Device not allowed. Use any from {_DEVICES}")


def _chunks(data: Any, size: int) -> list[Any]:
    """Raises: TypeError: neither bytes nor a list of them, as `modelget` gives of a large model."""
    if isinstance(data, list) and data:
        return [chunk for part in data for chunk in _chunks(part, size)]
    if isinstance(data, str):
        raise TypeError(f"data must be the model's bytes or a path; for a file's name write Path({data[:100]!r})")
    try:
        view = memoryview(data).cast("B")
    except TypeError:
        raise TypeError(f"data must be the model's bytes or a path (pathlib.Path), not {type(data)}") from None
    return [view[start : start + size] for start in range(0, len(view), size)] or [b""]


def modelget(key: Key, meta_only: bool = False) -> Call[dict[str, Any]]:
    """AI.MODELGET: a dict; `blob` is bytes, or a list of bytes if the model is longer than MODEL_CHUNK_SIZE."""
    return Call(["AI.MODELGET", key, "META"] + ([] if meta_only else ["BLOB"]), _model)


def modeldel(key: Key) -> Call[str]:
    """AI.MODELDEL."""
    return Call(["AI.MODELDEL", key], text, repeatable=False)


def modelexecute(key: Key, inputs: Keys, outputs: Keys, timeout: int | None = None) -> Call[str]:
    """AI.MODELEXECUTE. Raises: ValueError if anything but the timeout is None."""
    words = modelexecute_words(key, inputs, outputs) + _option("TIMEOUT", timeout)
    return Call(words, text, repeatable=is_pure(inputs, outputs))


def modelexecute_words(key: Key, inputs: Keys, outputs: Keys) -> list[Any]:
    """The words of AI.MODELEXECUTE without a timeout."""
    if key is None or inputs is None or outputs is None:
        raise ValueError("Missing required arguments for model execute command")
    return ["AI.MODELEXECUTE", key, *_counted("INPUTS", inputs), *_counted("OUTPUTS", outputs)]


def modelrun(key: Key, inputs: Keys, outputs: Keys) -> Call[str]:
    """AI.MODELRUN, deprecated."""
    warn_deprecated("modelrun", "modelexecute")
    return Call(modelrun_words(key, inputs, outputs), text, repeatable=is_pure(inputs, outputs))


def modelrun_words(key: Key, inputs: Keys, outputs: Keys) -> list[Any]:
    """The words of AI.MODELRUN."""
    return ["AI.MODELRUN", key, "INPUTS", *listify(inputs), "OUTPUTS", *listify(outputs)]


def is_pure(inputs: Keys, outputs: Keys) -> bool:
    """Whether a run leaves its own inputs alone: then a second run gives what the first gave."""
    return _as_bytes(inputs).isdisjoint(_as_bytes(outputs))


def _as_bytes(keys: Keys) -> set[bytes]:
    return set(map(_key_as_sent, listify(keys)))


def _key_as_sent(key: Any) -> bytes:
    """What redis-py makes of a key: numbers are keys too."""
    if isinstance(key, str):
        return key.encode("utf-8", "surrogateescape")
    return bytes(key) if isinstance(key, (bytes, bytearray, memoryview)) else repr(key).encode()


def modelscan() -> Call[list[list[str]]]:
    """AI._MODELSCAN: a list of [key, tag]."""
    _warn_experimental("Model")
    return Call(["AI._MODELSCAN"], _scan)


# -- scripts --------------------------------------------------------------------------------


def scriptstore(key: Key, device: str, script: str, entry_points: Keys, tag: Key | None = None) -> Call[str]:
    """AI.SCRIPTSTORE. Raises: ValueError: something is None, or the device is neither a CPU nor a GPU."""
    if key is None or script is None or entry_points is None:
        raise ValueError("Missing required arguments for script store command")
    _check_device(device)
    words: list[Any] = ["AI.SCRIPTSTORE", key, device, *_option("TAG", tag or None)]
    return Call([*words, *_counted("ENTRY_POINTS", entry_points), "SOURCE", script], text)


def scriptset(key: Key, device: str, script: str, tag: Key | None = None) -> Call[str]:
    """AI.SCRIPTSET, deprecated. Raises: ValueError for the device."""
    warn_deprecated("scriptset", "scriptstore")
    _check_device(device)
    return Call(["AI.SCRIPTSET", key, device, *_option("TAG", tag or None), "SOURCE", script], text)


def scriptget(key: Key, meta_only: bool = False) -> Call[dict[str, Any]]:
    """AI.SCRIPTGET: a dict; the elements of `entry points` are bytes, as in the `redisai` package."""
    return Call(["AI.SCRIPTGET", key, "META"] + ([] if meta_only else ["SOURCE"]), pairs)


def scriptdel(key: Key) -> Call[str]:
    """AI.SCRIPTDEL."""
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
    """AI.SCRIPTEXECUTE. Raises: ValueError if key or function is None, or both keys and inputs are."""
    words = scriptexecute_words(key, function, keys, inputs, args, outputs) + _option("TIMEOUT", timeout)
    return Call(words, text, repeatable=False)


def scriptexecute_words(
    key: Key, function: str, keys: Keys | None, inputs: Keys | None, args: Any, outputs: Keys | None
) -> list[Any]:
    """The words of AI.SCRIPTEXECUTE without a timeout."""
    if key is None or function is None or (keys is None and inputs is None):
        raise ValueError("Missing required arguments for script execute command")
    words: list[Any] = ["AI.SCRIPTEXECUTE", key, function]
    for scope, items in (("KEYS", keys), ("INPUTS", inputs), ("ARGS", args), ("OUTPUTS", outputs)):
        if items is not None:
            words += _counted(scope, items)
    return words


def scriptrun(key: Key, function: str, inputs: Keys, outputs: Keys) -> Call[str]:
    """AI.SCRIPTRUN, deprecated. Raises: ValueError if key or function is None."""
    warn_deprecated("scriptrun", "scriptexecute")
    if key is None or function is None:
        raise ValueError("Missing required arguments for script run command")
    words = ["AI.SCRIPTRUN", key, function, "INPUTS", *listify(inputs), "OUTPUTS", *listify(outputs)]
    return Call(words, text, repeatable=False)


def scriptscan() -> Call[list[list[str]]]:
    """AI._SCRIPTSCAN: a list of [key, tag]."""
    _warn_experimental("Script")
    return Call(["AI._SCRIPTSCAN"], _scan)


# -- administration --------------------------------------------------------------------------------


def infoget(key: Key, full: bool = False) -> Call[dict[str, Any]]:
    """AI.INFO: a dict of the run statistics; with FULL also what the server knows of the model and its runs."""
    return Call(["AI.INFO", key, "FULL"] if full else ["AI.INFO", key], pairs)


def inforeset(key: Key) -> Call[str]:
    """AI.INFO RESETSTAT."""
    return Call(["AI.INFO", key, "RESETSTAT"], text)


def config(name: str, value: str | int | None = None) -> Call[str | int | None]:
    """AI.CONFIG GET, or AI.CONFIG with a value to set."""
    return Call(["AI.CONFIG", "GET", name] if value is None else ["AI.CONFIG", name, value], text)


def loadbackend(identifier: Key, path: Key) -> Call[str]:
    """AI.CONFIG LOADBACKEND; an error the second time."""
    return Call(["AI.CONFIG", "LOADBACKEND", identifier, path], text, repeatable=False)


# -- parts of commands --------------------------------------------------------------------------------


def listify(value: Any) -> Sequence[Any]:
    """A list or tuple as it is, anything else as the one element of a tuple."""
    return value if isinstance(value, (list, tuple)) else (value,)


def _counted(keyword: str, values: Any) -> list[Any]:
    items = listify(values)
    return [keyword, len(items), *items]


def _option(keyword: str, value: Any) -> list[Any]:
    return [] if value is None else [keyword, value]


def warn_deprecated(name: str, instead: str, stacklevel: int = 4) -> None:
    """Warn as the `redisai` package does; `stacklevel` leads from here to the caller's own code."""
    message = f"Call to deprecated method {name}. (Use {instead} instead) -- Deprecated since version 1.2.0."
    warnings.warn(message, DeprecationWarning, stacklevel=stacklevel)


def _warn_experimental(what: str) -> None:
    message = f"Experimental: {what} List API is experimental and might change in the future without any notice"
    warnings.warn(message, UserWarning, stacklevel=4)
