"""Models for the tests of the backends, each built once per run and kept in a temporary directory."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from scripts import make_models

Models = Callable[[str], bytes]

BUILD_REQUIREMENTS = {"onnx": ["onnx"], "torch": ["torch"], "tf": ["tensorflow"], "tflite": ["tensorflow"]}
"""What a builder imports, by the first word of the model's name."""


def as_input(array: Any) -> NDArray[Any]:
    """An array as a run gets it: nobody may write to it, and its data is aligned to 64 bytes as that of stored tensors.

    The alignment matters: TensorFlow, for one, reads aligned arrays in place and copies others.
    """
    array = np.ascontiguousarray(array) if np.ndim(array) else np.asarray(array)
    if not array.dtype.hasobject:
        memory = np.empty(array.nbytes + 64, np.uint8)
        start = -memory.ctypes.data % 64
        aligned = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        aligned[...] = array
        array = aligned
    array.flags.writeable = False
    return array


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Bytes of a model by its file name in `scripts/make_models.py`; skips where what builds it is not installed."""
    directory: Path = tmp_path_factory.mktemp("models")

    def get(name: str) -> bytes:
        path = directory / name
        if not path.exists():
            for module in BUILD_REQUIREMENTS[name.partition("_")[0]]:
                if importlib.util.find_spec(module) is None:
                    pytest.skip(f"{name}: {module} is not installed")
            path.write_bytes(make_models.BUILDERS[name]())
        return path.read_bytes()

    return get
