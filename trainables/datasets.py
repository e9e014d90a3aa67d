"""Image data, decoded once and shared.  (body: to be written)"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """What a trial trains and is evaluated on; part of its identity."""

    protocol: str
    """Key of PROTOCOLS."""
    split: int = 0
    """Trial number of the protocol's known/unknown split, or of its train/test resplit."""
    side: int | None = None
    """Resize to so many pixels a side; None: native."""
    per_class: int | None = None
    """At most so many training images a class, the first in a fixed order; None: all."""
    test_per_class: int | None = None
    """The same for each evaluated set."""


@dataclass(frozen=True)
class Images:
    """pixels (N, H, W, C) uint8, possibly memory-mapped; labels (N,) int64."""

    pixels: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Data:
    """A protocol's data, opened. Known classes are relabelled 0..C-1; unknown images carry -2, negatives -1."""

    spec: DataSpec
    classes: tuple[str, ...]
    train: Images
    test: Images
    others: Mapping[str, Images] = field(default_factory=dict)
    """Further evaluated or auxiliary sets by name; 'unknown' in every open-set protocol."""
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    digest: str = ""
    """SHA-256 over the arrays above."""


class DataError(ValueError):
    """Data that is missing, truncated or not what the protocol needs. Says what, where, what is allowed, how to mend."""


def open_data(spec: DataSpec, *, cache: Path, source: Path | None = None, download: bool = True) -> Data:
    raise NotImplementedError
