"""ONNX Runtime as a backend: ONNX models on CPU and CUDA."""

from redisai_py_onnx._backend import OnnxBackend

__all__ = ["OnnxBackend"]
