"""Models that a client is given as a path: mapped, not read into memory."""

from __future__ import annotations

import mmap
import os

__all__ = ["ModelBytes", "ModelData", "open_model"]

ModelBytes = bytes | bytearray | memoryview | list[bytes]
ModelData = ModelBytes | os.PathLike[str]


def open_model(data: ModelData) -> ModelBytes:
    """The model's bytes: of the file if `data` is a path, else `data` itself.

    Raises: OSError; ValueError: the file is empty.
    """
    if not isinstance(data, os.PathLike):
        return data
    with open(data, "rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
