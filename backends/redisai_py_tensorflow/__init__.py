"""TensorFlow as a backend: frozen graphs and SavedModels on CPU and CUDA."""

import contextlib
import importlib

# PyTorch's CUDA packages bring Triton. A process that imports it after TensorFlow crashes; in this order it does not.
with contextlib.suppress(ImportError):
    importlib.import_module("triton")

from redisai_py_tensorflow._backend import TensorflowBackend

__all__ = ["TensorflowBackend"]
