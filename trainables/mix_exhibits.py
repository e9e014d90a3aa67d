"""What a mix shows: some mixed images and the masks that they are mixed by, at a few epochs of a run.

Sources: none; there is no paper here, but for figures 1 and 12 to 14 of AdAutoMix that have the like. Deviations: none
known.

The arrays, which `analysis.mixing_figures` draws; every set of N training images is mixed with the same ratios, the
first has most:

* `mix_sources` (N, sets, H, W, C), uint8, and `mix_ratios` (N);
* `mix_epochs` (E), `mix_images` (E, sets, H, W, C) and, where there are masks, `mix_masks` (E, N, sets, H, W), uint8.

Shapes: E epochs, N images mixed together, H rows, W columns, C channels.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables import augment, mixblock, mixes, openset, seeding
from trainables.datasets import Data
from trainables.teachers import Trio

SETS = 3
"""Mixed images that are shown."""
Arrays = dict[str, np.ndarray]
Shown = dict[str, list[Any]]
"""'epochs', 'images' and 'masks' so far: part of a run's state."""


def nothing() -> Shown:
    """Before the first epoch."""
    return {"epochs": [], "images": [], "masks": []}


def look(
    shown: Shown, trio: Trio, mix: str, sources_NSHWC: Tensor, data: Data, seed: int, epoch: int, last: int
) -> Callable[[], Arrays] | None:
    """Adds what there is to see after an epoch; what `Epoch.exhibits` calls, or None.

    Args:
        shown: so far; grows at `epochs(last)`.
        trio: the networks.
        mix: what mixes where there is no generator, which is shown once, after the last epoch.
        sources_NSHWC: see `sources`.
        data: constants of the normalisation.
        seed: of what a mix by hand draws.
        epoch: from 1.
        last: number of epochs.
    """
    if epoch not in epochs(last) or mix == "vanilla" or (trio.generator is None and epoch < last):
        return None
    shown["epochs"].append(epoch)
    if trio.generator is None:
        shown["images"].append(by_hand(mix, sources_NSHWC, seed))
    else:
        images, masks = by_masks(trio, sources_NSHWC, data)
        shown["images"].append(images)
        shown["masks"].append(masks)
    return partial(arrays, shown, sources_NSHWC)


def epochs(count: int) -> tuple[int, ...]:
    """Which of `count` epochs are shown, from 1: the first, a quarter, half, all."""
    return tuple(sorted({1, math.ceil(count / 4), math.ceil(count / 2), count}))


def sources(pixels_NHWC: Tensor, count: int, seed: int) -> Tensor:
    """Training images to show, (count, SETS, H, W, C) uint8; the same for all arms of one seed."""
    order = torch.randperm(len(pixels_NHWC), generator=seeding.torch_stream(seed, "shown"))
    rows = order.repeat(-(-count * SETS // len(order)))[: count * SETS].view(count, SETS)
    return pixels_NHWC[rows.to(pixels_NHWC.device)]


def ratios(count: int) -> Tensor:
    """count, count - 1, ..., 1 over their sum."""
    weights = torch.arange(count, 0, -1, dtype=torch.float32)
    return weights / weights.sum()


@torch.no_grad()
def by_masks(trio: Trio, sources_NSHWC: Tensor, data: Data) -> tuple[Tensor, Tensor]:
    """The sets mixed by the generator as it is, (S, H, W, C), and the masks (N, S, H, W), both uint8 on the CPU."""
    assert trio.generator is not None
    count = len(sources_NSHWC)
    x_BCHW = augment.to_float(sources_NSHWC.flatten(0, 1))
    index_NS = torch.arange(len(x_BCHW), device=x_BCHW.device).view(count, -1)
    with openset.evaluation_mode(trio):
        seen = trio.teacher(augment.normalise(x_BCHW, data.mean, data.std))
        masks_SNHW = trio.generator(seen.features_Bchw, index_NS, ratios(count).to(x_BCHW.device))
    return _pixels(mixblock.mixed(x_BCHW, index_NS, masks_SNHW)), _bytes(masks_SNHW.transpose(0, 1))


def by_hand(mix: str, sources_2SHWC: Tensor, seed: int) -> Tensor:
    """The pairs mixed by a rule, (S, H, W, C) uint8 on the CPU; see `mixes.by_hand`."""
    x_BCHW = augment.to_float(sources_2SHWC.flatten(0, 1))
    partner_B = torch.arange(len(x_BCHW), device=x_BCHW.device).roll(len(x_BCHW) // 2)
    random = seeding.numpy_stream(seed, "shown")
    mixed_BCHW, _ = mixes.by_hand(mix, x_BCHW, partner_B, float(ratios(2)[0]), 1.0, random)
    return _pixels(mixed_BCHW)[: sources_2SHWC.shape[1]]


def arrays(shown: Shown, sources_NSHWC: Tensor) -> Arrays:
    """Everything shown so far, as named above."""
    found = {
        "mix_sources": sources_NSHWC.cpu().numpy(),
        "mix_ratios": ratios(len(sources_NSHWC)).numpy(),
        "mix_epochs": np.array(shown["epochs"]),
        "mix_images": torch.stack(shown["images"]).numpy(),
    }
    return found | ({"mix_masks": torch.stack(shown["masks"]).numpy()} if shown["masks"] else {})


def _pixels(x_BCHW: Tensor) -> Tensor:
    return _bytes(x_BCHW.permute(0, 2, 3, 1))


def _bytes(values: Tensor) -> Tensor:
    """From [0, 1] to uint8 on the CPU, rounded."""
    return (255 * values).round().clamp(0, 255).to(torch.uint8).cpu().contiguous()
