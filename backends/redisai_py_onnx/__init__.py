"""ONNX Runtime as a backend: ONNX models on CPU and CUDA.

From 1.29 on, ONNX Runtime's packages for Linux report to Microsoft what sessions are made of, the names and digests of
models included, and all processes of a user share one SQLite file and its lock for that. A model server must do
neither, so it is off here unless ORT_DISABLE_TELEMETRY is set already.
Source: onnxruntime/core/platform/posix/telemetry_1ds.cc reads the variable when the library is loaded.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from redisai_py_onnx._backend import OnnxBackend  # after the line above

__all__ = ["OnnxBackend"]
