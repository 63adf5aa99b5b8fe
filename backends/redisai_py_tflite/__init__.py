"""TensorFlow Lite (LiteRT) as a backend: flatbuffer models on the CPU."""

from redisai_py_tflite._backend import TfliteBackend

__all__ = ["TfliteBackend"]
