"""Images as tensors and back, with Pillow, which is optional.

By default, an image's tensor is UINT8 with the axes (height, width, channels), or (height, width) if it is grey.
Normalisation (mean, standard deviation) belongs in a script next to the model.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redisai_py.cli.failures import UsageError

__all__ = ["LAYOUTS", "SUFFIXES", "read_image", "write_image"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
LAYOUTS = ("hwc", "chw", "nhwc", "nchw")

_KEPT_MODES = ("L", "RGB", "RGBA", "I;16")
_CHANNELS = (1, 3, 4)


def _pillow() -> Any:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise UsageError("images need Pillow: pip install pillow") from error
    return Image, ImageOps


def read_image(path: Path, size: str | None, layout: str | None) -> NDArray[Any]:
    """The image, with its orientation applied.

    Args:    size: `WxH` in pixels to scale it to.   layout: one of LAYOUTS.
    Returns: uint8 (uint16 if the file has 16 bits per pixel), (H, W) or (H, W, C), or in the given layout.
    Raises:  UsageError: no Pillow, not an image, or a bad option.   OSError.
    """
    image_module, operations = _pillow()
    scaled = _pixels(size)
    _check_layout(layout)
    try:
        with image_module.open(path) as file:
            image = operations.exif_transpose(file)
            if image.mode not in _KEPT_MODES:
                image = image.convert(_plain_mode(image))
            if scaled is not None:
                image = image.resize(scaled)
            return _arranged(np.array(image), layout)
    except image_module.UnidentifiedImageError as error:
        raise UsageError(f"{path}: Pillow cannot read this image") from error


def _plain_mode(image: Any) -> str:
    if image.mode == "1":
        return "L"
    return "RGBA" if image.mode in ("LA", "PA") or "transparency" in image.info else "RGB"


def _pixels(size: str | None) -> tuple[int, int] | None:
    if size is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", size)
    if match is None:
        raise UsageError(f"--size {size}: give width and height in pixels, as in 224x224")
    return int(match[1]), int(match[2])


def _check_layout(layout: str | None) -> None:
    if layout is not None and layout.lower() not in LAYOUTS:
        raise UsageError(f"--layout {layout}: use one of {', '.join(LAYOUTS)}")


def _arranged(pixels: NDArray[Any], layout: str | None) -> NDArray[Any]:
    if layout is None:
        return pixels
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]
    if "chw" in layout.lower():
        pixels = pixels.transpose(2, 0, 1)
    return pixels[np.newaxis] if layout.lower().startswith("n") else pixels


def write_image(path: Path, array: NDArray[Any], layout: str | None) -> bytes:
    """Encode an image file.

    Args:    path: its suffix selects the format.   array: uint8, (H, W), (H, W, C) or (C, H, W) according to `layout`,
             possibly with leading axes of length 1; C is 1, 3 or 4.
    Raises:  UsageError: no Pillow, or the tensor is not an image.
    """
    image_module, _ = _pillow()
    _check_layout(layout)
    pixels = array
    while pixels.ndim > 3 and pixels.shape[0] == 1:
        pixels = pixels[0]
    if pixels.ndim == 3 and layout is not None and "chw" in layout.lower():
        pixels = pixels.transpose(1, 2, 0)
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or channels not in _CHANNELS:
        raise UsageError(
            f"{path}: no image of a tensor of type {array.dtype} and shape {list(array.shape)}: it must be uint8, "
            "with 1, 3 or 4 channels last, or first with --layout chw"
        )
    image = image_module.fromarray(np.ascontiguousarray(pixels if channels > 1 else pixels.reshape(pixels.shape[:2])))
    kind = image_module.registered_extensions()[path.suffix.lower()]
    if kind == "JPEG" and image.mode == "RGBA":
        raise UsageError(f"{path}: JPEG has no fourth channel; use .png")
    written = io.BytesIO()
    image.save(written, kind)
    return written.getvalue()
