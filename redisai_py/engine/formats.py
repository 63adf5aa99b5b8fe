"""Identifies files that a framework refuses, by their bytes, and says how to convert them to a model. Pure."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

from redisai_py.protobuf import fields

__all__ = ["advice"]

_TORCH_WEIGHTS = "weights are not a program: torch.export.save(torch.export.export(model, inputs), file) writes one"
_KERAS = "convert it: keras.saving.load_model(file).export(directory), and store the directory as TF"
_PICKLED = "a model is written by skl2onnx.to_onnx(model, sample) for scikit-learn, torch.export.save for PyTorch"
_SAVED_MODEL = "a SavedModel is its whole directory: pack it into a zip or tar file (redisai model put DIRECTORY does)"


def advice(blob: bytes, backend: str) -> str:
    """What the bytes are and how to convert them, if they are something other than a model of this backend.

    Returns: a clause to append to the framework's error, empty if they are not recognised.
    """
    for is_it, what, backends, how in _FORMATS:
        if is_it(blob):
            if backend in backends:
                return ""
            return f"these bytes are {what}; {how or 'store them as ' + backends[0]}"
    return ""


def _begins(*starts: bytes) -> Callable[[bytes], bool]:
    return lambda blob: blob.startswith(starts)


def _holds(*names: str) -> Callable[[bytes], bool]:
    """Whether it is a zip file with members that have this suffix."""
    return lambda blob: all(any(member.endswith(name) for member in _members(blob)) for name in names)


def _members(blob: bytes) -> list[str]:
    if not blob.startswith(b"PK"):
        return []
    try:
        with zipfile.ZipFile(io.BytesIO(blob)) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return []


def _is_safetensors(blob: bytes) -> bool:
    size = int.from_bytes(blob[:8], "little")
    return blob[8:9] == b"{" and 2 <= size <= len(blob) - 8 and b'"data_offsets"' in blob[8 : 8 + size]


def _is_onnx(blob: bytes) -> bool:
    fields = _fields(blob) if blob[:1] in (b"\x08", b"\x12", b"\x3a", b"\x42") else set()
    return {1, 7, 8} <= fields <= _ONNX_FIELDS


_MAX_FIELDS = 10_000
_ONNX_FIELDS = {1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26}


def _is_saved_model_pb(blob: bytes) -> bool:
    return blob[:3] == b"\x08\x01\x12" and _fields(blob) == {1, 2}


def _fields(blob: bytes) -> set[int]:
    """Field numbers of a protobuf message; empty if it is not one, or has more top-level fields than any model."""
    numbers: set[int] = set()
    try:
        for count, (_, number, _, _, _) in enumerate(fields(blob)):
            numbers.add(number)
            if count == _MAX_FIELDS or len(numbers) > len(_ONNX_FIELDS):
                return set()
    except ValueError:
        return set()
    return numbers if 0 not in numbers else set()


_PICKLES = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

_FORMATS: tuple[tuple[Callable[[bytes], bool], str, tuple[str, ...], str], ...] = (
    (_begins(b"version https://git-lfs"), "a pointer of Git LFS", (), "fetch the file itself: git lfs pull"),
    (_begins(b"<!DOCTYPE", b"<!doctype", b"<html", b"<HTML"), "a web page", (), "download the file itself"),
    (_begins(b"GGUF"), "a GGUF file of llama.cpp", (), "no backend runs it: export the original model to ONNX"),
    (lambda blob: blob[4:8] == b"TFL3", "a TensorFlow Lite model", ("TFLITE",), ""),
    (lambda blob: blob[4:8] == b"ORTM", "a model in ORT format", (), "store the .onnx file that it was made of"),
    (_is_safetensors, "weights in safetensors", (), _TORCH_WEIGHTS),
    (_begins(_OLD_TORCH), "weights or a pickled module of an old torch.save", (), _TORCH_WEIGHTS),
    (_begins(*_PICKLES), "a pickle", (), _PICKLED),
    (_begins(b"\x89HDF\r\n\x1a\n"), "an HDF5 file, as Keras writes them", (), _KERAS),
    (_holds("model.weights.h5", "config.json"), "a .keras file", (), _KERAS),
    (_holds("saved_model.pb"), "a SavedModel", ("TF",), ""),
    (_holds("archive_format"), "a torch.export archive", ("TORCH",), ""),
    (_holds("constants.pkl"), "TorchScript", ("TORCH",), ""),
    (_holds("data.pkl"), "weights or a pickled module of torch.save", ("TORCH",), _TORCH_WEIGHTS),
    (_is_saved_model_pb, "saved_model.pb alone", (), _SAVED_MODEL),
    (_is_onnx, "an ONNX model", ("ONNX",), ""),
)
"""How to recognise a format, its name, the backends that accept or name it themselves, and how to convert it."""
