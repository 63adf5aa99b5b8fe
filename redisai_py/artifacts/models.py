"""Model files: detect the framework and check the format. Pickles are refused.

A pickle runs code when it is read, and depends on the library versions that wrote it. PyTorch reads TorchScript and
torch.export archives without running Python code from them, so these are accepted.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from redisai_py.artifacts.digest import Buffer
from redisai_py.artifacts.errors import Invalid
from redisai_py.client.files import backend_of_name, pack_saved_model

__all__ = ["BACKENDS", "ModelFile", "check_no_pickle", "head_of", "model_file"]

BACKENDS = ("ONNX", "TORCH", "TF", "TFLITE")
_DEFAULT_SUFFIX = {"ONNX": ".onnx", "TORCH": ".pt", "TF": ".pb", "TFLITE": ".tflite"}
_FORMATS = {"ONNX": "onnx", "TORCH": "pytorch", "TF": "tensorflow", "TFLITE": "tflite"}

_PICKLES = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
_PICKLE_NAMES = (".pkl", ".pickle", ".joblib", ".dill")
_ONNX_TAGS = b"\x08\x12\x1a\x22\x28\x32\x3a\x42\x72"  # the fields of a ModelProto
_GRAPH_TAGS = b"\x0a\x12\x1a\x22"  # of a GraphDef
_HEAD = 512
_ZIP, _GZIP = b"PK\x03\x04", b"\x1f\x8b"


@dataclass(frozen=True)
class ModelFile:
    """A model to publish.   inputs, outputs: node names, for TF graphs, which do not contain them."""

    source: Buffer | Path
    backend: str
    title: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    @property
    def format(self) -> str:
        """ModelPack's name of the format."""
        return _FORMATS[self.backend]


def model_file(
    source: Buffer | str | os.PathLike[str],
    backend: str | None = None,
    title: str | None = None,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
) -> ModelFile:
    """A checked model file.

    Args:    source: its bytes, its file, or the directory of a SavedModel.   backend: ONNX, TORCH, TF or TFLITE; by
             default from the file name.   title: its name in the artifact; by default the file name.
    Raises:  Invalid: unknown backend, a pickle, another format, or a frozen graph without names.   OSError.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        if backend is None:
            raise Invalid(f"the model's backend is needed with bytes: one of {', '.join(BACKENDS)}")
        kind = _checked_backend(backend)
        found = ModelFile(source, kind, title or f"model{_DEFAULT_SUFFIX[kind]}", tuple(inputs), tuple(outputs))
    else:
        path = Path(source)
        kind = _checked_backend(backend) if backend else _backend_of(path)
        given: Buffer | Path = _packed(path) if path.is_dir() else path
        name = title or (f"{path.name}.tar" if path.is_dir() else path.name)
        found = ModelFile(given, kind, name, tuple(inputs), tuple(outputs))
    _check(found)
    return found


def _checked_backend(backend: str) -> str:
    if backend.upper() not in BACKENDS:
        raise Invalid(f"{backend!r} is not a backend: use one of {', '.join(BACKENDS)}")
    return backend.upper()


def _backend_of(path: Path) -> str:
    if path.is_dir():
        return "TF"
    name = path.name.lower()
    if name.endswith(_PICKLE_NAMES):
        raise Invalid(f"{path} is a pickle; export the model to ONNX, TorchScript or another format without code")
    if backend := backend_of_name(name):
        return backend
    raise Invalid(f"{path}: cannot tell the framework from the name; give a backend, one of {', '.join(BACKENDS)}")


def _packed(path: Path) -> bytes:
    try:
        return pack_saved_model(path)
    except ValueError as error:
        raise Invalid(str(error)) from None


def head_of(source: Buffer | Path) -> bytes:
    """The first bytes of a source. Raises: OSError."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            return file.read(_HEAD)
    return bytes(source[:_HEAD])


def check_no_pickle(title: str, head: bytes) -> None:
    """Refuse pickles, recognised by name and first bytes. Raises: Invalid."""
    if title.lower().endswith(_PICKLE_NAMES) or head.startswith(_PICKLES):
        raise Invalid(
            f"{title} is a pickle, which runs code wherever it is read: "
            "keep data as Parquet, safetensors or JSON, a model as ONNX or TorchScript"
        )


def _check(model: ModelFile) -> None:
    head = head_of(model.source)
    if not head:
        raise Invalid(f"{model.title} is empty")
    check_no_pickle(model.title, head)
    fits = {
        "ONNX": lambda: head[0] in _ONNX_TAGS,
        "TFLITE": lambda: head[4:8] == b"TFL3",
        "TORCH": lambda: head.startswith(_ZIP) and _is_torch(model),
        "TF": lambda: head[0] in _GRAPH_TAGS or head.startswith((_ZIP, _GZIP)) or head[257:262] == b"ustar",
    }
    if not fits[model.backend]():
        raise Invalid(f"{model.title} is not a model for {model.backend}")
    # A SavedModel's signatures contain the names.
    if model.backend == "TF" and head[0] in _GRAPH_TAGS and not (model.inputs and model.outputs):
        raise Invalid(f"{model.title} is a frozen graph: the names of its inputs and outputs are needed")


def _is_torch(model: ModelFile) -> bool:
    """Whether it is TorchScript or a torch.export archive. `torch.save` writes a pickle in a zip file."""
    file = model.source if isinstance(model.source, Path) else io.BytesIO(model.source)
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise Invalid(f"{model.title} is a damaged archive: {error}") from None
    inner = [name.partition("/")[2] for name in names]
    if any(name.startswith("code/") or name == "archive_format" for name in inner) or any(
        name.endswith("serialized_exported_program.json") for name in names
    ):
        return True
    if any(name.endswith("data.pkl") for name in names):
        raise Invalid(
            f"{model.title} was written by torch.save, which is a pickle; use torch.jit.save or torch.export.save"
        )
    return False
