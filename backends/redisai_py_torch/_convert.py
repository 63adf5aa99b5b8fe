"""Conversion between numpy arrays and tensors, without a copy if that is safe.

NumPy has no bfloat16, so its bits are passed as integers. PyTorch warns once about read-only arrays. The session makes
sure that no model writes to one (`_session`), so this module triggers that warning at import, and discards it.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
import torch.utils.dlpack
from numpy.typing import NDArray

from redisai_py.backend import Array
from redisai_py.errors import BackendError
from redisai_py_torch._dtypes import BITS, NO_STRINGS, NUMPY_DTYPES, unsupported

__all__ = ["TorchDeviceArray", "to_array", "to_tensor"]

_CARRIED = {NUMPY_DTYPES[kind]: (np.dtype(f"i{bits.itemsize}"), kind) for kind, bits in BITS.items()}
"""Dtypes that torch does not accept from numpy -> integers with the same bits, and the torch dtype."""


def _spend_warning() -> None:
    array = np.zeros(1, np.uint8)
    array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.from_numpy(array)


_spend_warning()


class TorchDeviceArray:
    """An output on its GPU; implements `redisai_py.backend.DeviceArray`."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions."""
        return tuple(self.tensor.shape)

    @property
    def nbytes(self) -> int:
        """Size in bytes on the device."""
        return int(self.tensor.nbytes)

    def numpy(self) -> NDArray[Any]:
        """A C-contiguous copy in host memory."""
        return _host_array(self.tensor.cpu().clone())

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any:
        """A DLPack capsule of the same memory."""
        return self.tensor.__dlpack__(*args, **kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        """DLPack's (device type, device id)."""
        kind, index = self.tensor.__dlpack_device__()
        return int(kind), int(index)


def to_tensor(array: Array, device: torch.device | None, copy: bool) -> torch.Tensor:
    """The tensor for an input array.

    Args:    device: None for the CPU, where the tensor shares the array's memory unless `copy`.
    Raises:  BackendError `Unsupported code 7`: strings.
    """
    if isinstance(array, np.ndarray):
        if array.dtype.hasobject:
            raise BackendError(NO_STRINGS)
        carried = _CARRIED.get(array.dtype)
        if carried is None:
            tensor = torch.from_numpy(array)
        else:
            bits, kind = carried
            tensor = torch.from_numpy(array.view(bits)).view(kind)
    else:
        tensor = array.tensor if isinstance(array, TorchDeviceArray) else torch.utils.dlpack.from_dlpack(array)
    if device is not None:
        return tensor.to(device, copy=copy)
    return tensor.clone() if copy else tensor


def to_array(tensor: torch.Tensor, foreign: set[int]) -> NDArray[Any]:
    """The output as a C-contiguous array in host memory; copied only if its memory is shared.

    Args:    foreign: addresses of storages that do not belong to the result (inputs, weights).
    Raises:  BackendError: no numpy dtype for these elements.
    """
    if tensor.dtype not in NUMPY_DTYPES:
        raise unsupported(tensor.dtype)
    if tensor.layout is not torch.strided:
        kind = str(tensor.layout).removeprefix("torch.")
        raise BackendError(f"ERR an output is a {kind} tensor, which no tensor here is; return its to_dense()")
    host = tensor.cpu().contiguous()
    storage = host.untyped_storage()
    # A slice would keep the whole larger result alive as long as the output.
    if storage.data_ptr() in foreign or storage.nbytes() != host.nbytes:
        host = host.clone(memory_format=torch.contiguous_format)
    return _host_array(host)


def _host_array(host: torch.Tensor) -> NDArray[Any]:
    bits = BITS.get(host.dtype)
    if bits is not None:
        return host.view(bits).numpy().view(NUMPY_DTYPES[host.dtype])
    array: NDArray[Any] = host.resolve_conj().resolve_neg().numpy()
    return array
