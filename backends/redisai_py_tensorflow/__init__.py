"""TensorFlow as a backend: frozen graphs and SavedModels on CPU and CUDA."""

from redisai_py_tensorflow._backend import TensorflowBackend

__all__ = ["TensorflowBackend"]
