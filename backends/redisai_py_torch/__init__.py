"""PyTorch as a backend: TorchScript modules and torch.export archives on CPU and CUDA."""

from redisai_py_torch._backend import TorchBackend

__all__ = ["TorchBackend"]
