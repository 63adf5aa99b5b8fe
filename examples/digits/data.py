"""scikit-learn's handwritten digits: 1797 images of 8 x 8 pixels, three quarters to learn from, the rest held out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

__all__ = ["PIXELS", "Digits", "digits"]

PIXELS = 64


@dataclass(frozen=True)
class Digits:
    """Images float32 (n, 64), brightness 0 to 1, row by row; labels int64 (n,), 0 to 9."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]


def digits() -> tuple[Digits, Digits]:
    """(to learn from, held out): 1347 and 450 images, the same at every call."""
    images, labels = load_digits(return_X_y=True)
    learn_images, test_images, learn_labels, test_labels = train_test_split(
        (images / 16).astype(np.float32), labels.astype(np.int64), test_size=450, random_state=0, stratify=labels
    )
    return Digits(learn_images, learn_labels), Digits(test_images, test_labels)
