"""Models for the tests of the backends, each built once per run and kept in a temporary directory."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts import make_models

Models = Callable[[str], bytes]

BUILD_REQUIREMENTS = {"onnx": ["onnx"], "torch": ["torch"], "tf": ["tensorflow"], "tflite": ["tensorflow"]}
"""What a builder imports, by the first word of the model's name."""


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Bytes of a model by its file name in `scripts/make_models.py`; skips where the framework to build it is absent."""
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
