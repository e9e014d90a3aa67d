"""A small open-set data set made on the spot: classes are a bright square's places, on noise."""

import numpy as np

from trainables.data_protocols import DataSpec
from trainables.datasets import Data, Images

PLACES = ((0, 0), (0, 1), (1, 0), (1, 1))


def images(labels: np.ndarray, side: int, channels: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 pixels (N, side, side, channels)."""
    pixels = rng.integers(0, 120, (len(labels), side, side, channels), dtype=np.uint8)
    half = side // 2
    for image, label in zip(pixels, labels, strict=True):
        row, column = PLACES[label]
        image[row * half : row * half + half, column * half : column * half + half] += 120
    return pixels


def open_set(per_class: int = 8, side: int = 16, channels: int = 3) -> Data:
    """Three known classes, one unknown."""
    rng = np.random.default_rng(0)
    train, test = np.repeat(np.arange(3), per_class), np.repeat(np.arange(3), 4)
    unknown = np.full(6, 3)
    return Data(
        DataSpec(protocol="toys"),
        ("a", "b", "c"),
        Images(images(train, side, channels, rng), train),
        Images(images(test, side, channels, rng), test),
        {"unknown": Images(images(unknown, side, channels, rng), np.full(6, -2))},
        (0.5,) * channels,
        (0.25,) * channels,
    )
