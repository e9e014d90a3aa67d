"""Named random streams. Each stream depends on (seed, name) alone, so adding a draw to one changes no other.

Source of the idea: DomainBed's `seed_hash` (facebookresearch/DomainBed @b93c22a). Deviations: none known.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def stream_seed(seed: int, name: str) -> int:
    """The 63-bit seed of the stream `name`: SHA-256 of "seed/name"."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 1


def torch_stream(seed: int, name: str, device: str = "cpu") -> torch.Generator:
    """A generator on `device`. Streams on the CPU and on an accelerator differ; within one device type they repeat."""
    import torch  # here, so that data can be prepared and studies listed without it

    return torch.Generator(device=device).manual_seed(stream_seed(seed, name))


def numpy_stream(seed: int, name: str) -> np.random.Generator:
    """The same for NumPy (PCG64)."""
    return np.random.default_rng(stream_seed(seed, name))
