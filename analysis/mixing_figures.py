"""Drawings of mixes: images mixed together, and the masks by which a generator mixed them, by epoch.

Paper: figures 1 and 12 to 14 of AdAutoMix have the like.

The arrays that runs leave, made by `trainables.mix_exhibits`:

* `mix_sources` (N, sets, H, W, C), uint8, and `mix_ratios` (N): what is mixed, and each image's share;
* `mix_epochs` (E), `mix_images` (E, sets, H, W, C) and, where there are masks, `mix_masks` (E, N, sets, H, W), uint8.
"""

import re
from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis import display, drawing
from analysis.drawing import INK, MUTED, Picture
from analysis.exhibits import Arrays, Exhibit, Exhibits
from search_spaces.study import Arm, Study

Bytes = NDArray[np.uint8]

COLUMNS = 12
"""Tiles beside one another at most."""
GAP = 2
"""Pixels between tiles; twice that between sets."""


def mixes(exhibits: Exhibits, study: Study) -> tuple[Picture, ...]:
    """A picture to an arm, its first run: what is mixed on top, below it a row of mixed images and masks an epoch."""
    found = []
    for arm in study.arms:
        runs = exhibits.of(arm.name, "mix_sources", "mix_images", "mix_epochs", "mix_ratios")
        if runs:
            found.append(_mixes(arm, runs[0]))
    return tuple(found)


def _mixes(arm: Arm, run: Exhibit) -> Picture:
    arrays, label = run.arrays, arm.label or arm.name
    shares = [f"{display.fixed(100 * float(share), 0)}%" for share in arrays["mix_ratios"]]
    epochs = [str(epoch) for epoch in arrays["mix_epochs"]]
    below = f"what the rule makes of them. Run {run.block}."
    if "mix_masks" in arrays:
        after = f"epoch{'s' if len(epochs) > 1 else ''} {display.listing(epochs)}"
        below = (
            f"what becomes of them after {after}. Beside each mixed image its masks, white where that image is taken. "
            f"Run {run.block}."
        )
    return Picture(
        f"mixes-{re.sub(r'[^A-Za-z0-9_.]+', '-', arm.name)}",
        f"Mixed images of {label}",
        f"Top: the images that are mixed, with labels in parts of {display.listing(shares)}. Below: {below}",
        f"{label}: {sets_shown(arrays)} sets of {len(shares)} images{_described(arrays)}",
        partial(_drawn, arrays, [f"epoch {epoch}" for epoch in epochs] if "mix_masks" in arrays else ["mixed"]),
    )


def _described(arrays: Arrays) -> str:
    """How much of the mixed image each mask takes, by epoch."""
    if "mix_masks" not in arrays:
        return ", mixed by a rule"
    areas_EN = arrays["mix_masks"].mean(axis=(2, 3, 4)) / 255
    said = [
        f"{display.listing([display.fixed(100 * area, 0) + '%' for area in row])} after epoch {epoch}"
        for epoch, row in zip(arrays["mix_epochs"], areas_EN, strict=True)
    ]
    return f"; mean areas of their masks: {'; '.join(said)}"


def sets_shown(arrays: Arrays) -> int:
    """As many as fit beside one another."""
    count, sets = arrays["mix_sources"].shape[:2]
    return int(max(1, min(sets, COLUMNS // (1 + count))))


def mosaic(arrays: Arrays) -> Bytes:
    """All tiles as one picture (height, width, 4), rows the sources and the epochs; nothing is between them.

    In each set's columns: the mixed image, then one tile for each image that is mixed, above it the image itself.
    """
    sources_NSHWC, images_ESHWC = _coloured(arrays["mix_sources"]), _coloured(arrays["mix_images"])
    rows = []
    for e in range(-1, len(images_ESHWC)):
        tiles: list[list[Bytes | None]] = []
        for s in range(sets_shown(arrays)):
            if e < 0:
                tiles.append([None, *sources_NSHWC[:, s]])
            elif "mix_masks" in arrays:
                masks_NHW = arrays["mix_masks"][e, :, s]
                tiles.append([images_ESHWC[e, s], *_coloured(masks_NHW[..., None])])
            else:
                tiles.append([images_ESHWC[e, s], *[None] * len(sources_NSHWC)])
        rows.append(_row(tiles, images_ESHWC.shape[2:4]))
    return np.concatenate([part for row in rows for part in (_nothing(GAP, row.shape[1]), row)][1:])


def _row(sets: Sequence[Sequence[Bytes | None]], size: Sequence[int]) -> Bytes:
    height, width = size
    parts: list[Bytes] = []
    for tiles in sets:
        parts += [_nothing(height, 2 * GAP)] if parts else []
        for place, tile in enumerate(tiles):
            parts += [_nothing(height, GAP)] if place else []
            parts.append(_nothing(height, width) if tile is None else tile)
    return np.concatenate(parts, axis=1)


def _nothing(height: int, width: int) -> Bytes:
    return np.zeros((height, width, 4), dtype=np.uint8)


def _coloured(pixels: Bytes) -> Bytes:
    """(..., C) -> (..., 4): red, green, blue, and all of it to be seen."""
    rgb = pixels if pixels.shape[-1] == 3 else np.repeat(pixels[..., :1], 3, axis=-1)
    return np.concatenate([rgb, np.full_like(rgb[..., :1], 255)], axis=-1)


def _drawn(arrays: Arrays, labels: Sequence[str]) -> Figure:
    pixels = mosaic(arrays)
    left, right, rows = 0.8, 0.1, len(labels) + 1
    wide = drawing.WIDTH_IN - left - right
    high = wide * pixels.shape[0] / pixels.shape[1]
    figure = drawing.canvas(high + 0.1)
    axes = drawing.panel(figure, left, 0.05, wide, high)
    axes.imshow(pixels, interpolation="none", aspect="auto")
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])
    for row, label in enumerate(("images", *labels)):
        middle = (row + 0.5) / rows * pixels.shape[0]
        colour = INK if row else MUTED
        axes.text(-0.02, 1 - middle / pixels.shape[0], label, transform=axes.transAxes, color=colour)
        axes.texts[-1].set(ha="right", va="center", fontsize=drawing.SMALL)
    return figure
