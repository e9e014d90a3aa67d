"""Drawings of an encoder's maps: how much of the image lies above a threshold, and maps on images.

Paper: GradMix (arXiv 2505.12803), Figure 6, has both.

The arrays that runs leave, made by `trainables.spread`:

* `spread_thresholds` (T), `spread_shares` (T): share of the maps' pixels above each threshold;
* `map_images` (N, H, W, C), uint8, and their raw maps `map_values` (N, h, w).
"""

import re
from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from analysis import display, drawing
from analysis.drawing import CLASSES, INK, MUTED, RULE, Picture
from analysis.exhibits import Exhibit, Exhibits
from search_spaces.study import Arm, Study

Floats = NDArray[np.floating]
Bytes = NDArray[np.uint8]

GAP = 2
"""Pixels between tiles."""
HEAT = np.array([220.0, 60.0, 20.0])
"""What a map's largest value is tinted with."""


def spread(exhibits: Exhibits, study: Study) -> tuple[Picture, ...]:
    """A picture to a dataset: the share of maps above a threshold, a line to an arm."""
    found: dict[str, dict[str, list[Exhibit]]] = {}
    for arm in study.arms:
        for run in exhibits.of(arm.name, "spread_thresholds", "spread_shares"):
            found.setdefault(run.block.partition("/")[0], {}).setdefault(arm.name, []).append(run)
    return tuple(_spread(runs, study, dataset) for dataset, runs in found.items())


def _spread(runs: dict[str, list[Exhibit]], study: Study, dataset: str) -> Picture:
    arms = [arm for arm in study.arms if arm.name in runs]
    thresholds_T = runs[arms[0].name][0].arrays["spread_thresholds"]
    curves_ART = [np.stack([run.arrays["spread_shares"] for run in runs[arm.name]]) for arm in arms]
    middle = len(thresholds_T) // 2
    said = [
        f"{arm.label or arm.name}: {display.fixed(100 * float(part[:, middle].mean()), 1)}% above "
        f"{float(thresholds_T[middle]):.0e}"
        for arm, part in zip(arms, curves_ART, strict=True)
    ]
    return Picture(
        f"spread-{dataset}",
        f"Activation spread on {dataset}",
        "Share of the pixels of raw maps that lie above a threshold. Line: mean of all runs; band: lowest to highest.",
        "; ".join(said),
        partial(_drawn_spread, [arm.label or arm.name for arm in arms], thresholds_T, curves_ART),
    )


def _drawn_spread(labels: Sequence[str], thresholds_T: Floats, curves_ART: Sequence[Floats]) -> Figure:
    foot_in, high, head_in = 0.45, 2.2, 0.3
    figure = drawing.canvas(foot_in + high + head_in)
    axes = drawing.panel(figure, 0.55, foot_in, drawing.WIDTH_IN - 0.75, high)
    marks = []
    for place, (label, curves_RT) in enumerate(zip(labels, curves_ART, strict=True)):
        colour = CLASSES[place % len(CLASSES)]
        if len(curves_RT) > 1:
            axes.fill_between(thresholds_T, 100 * curves_RT.min(0), 100 * curves_RT.max(0), color=colour, alpha=0.15)
        axes.plot(thresholds_T, 100 * curves_RT.mean(0), color=colour, lw=1.4)
        marks.append(Line2D([], [], color=colour, lw=1.4, label=label))
    axes.set_xscale("log")
    axes.minorticks_off()
    powers = range(round(np.log10(thresholds_T[0])), round(np.log10(thresholds_T[-1])) + 1)
    axes.set_xticks([10.0**power for power in powers], [f"1e{power}" for power in powers])
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color=RULE, lw=0.4)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("threshold t", color=MUTED, fontsize=drawing.SMALL)
    axes.set_ylabel("% of pixels", color=MUTED, fontsize=drawing.SMALL)
    axes.legend(
        handles=marks,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=2,
        frameon=False,
        fontsize=drawing.SMALL,
        labelcolor=INK,
        borderaxespad=0.1,
    )
    return figure


def maps(exhibits: Exhibits, study: Study) -> tuple[Picture, ...]:
    """A picture to an arm, its first run: images above, the same in grey and tinted by their maps below."""
    found = []
    for arm in study.arms:
        runs = exhibits.of(arm.name, "map_images", "map_values")
        if runs:
            found.append(_maps(arm, runs[0]))
    return tuple(found)


def _maps(arm: Arm, run: Exhibit) -> Picture:
    label, values_Nhw = arm.label or arm.name, run.arrays["map_values"]
    above = float(np.mean(values_Nhw > 0.5 * values_Nhw.max((1, 2), keepdims=True)))
    return Picture(
        f"maps-{re.sub(r'[^A-Za-z0-9_.]+', '-', arm.name)}",
        f"Maps of {label}",
        f"Training images as augmented, and below each its map: the redder, the nearer to the map's largest value. "
        f"Run {run.block}.",
        f"{label}: {len(values_Nhw)} images; {display.fixed(100 * above, 0)}% of their pixels are above half of their "
        "map's largest value",
        partial(drawn, mosaic(run.arrays["map_images"], values_Nhw)),
    )


def mosaic(images_NHWC: Bytes, values_Nhw: Floats) -> Bytes:
    """Two rows of tiles (height, width, 4): images, and the same in grey, tinted by their maps; nothing is between."""
    count, height, width, channels = images_NHWC.shape
    rgb_NHW3 = images_NHWC if channels == 3 else np.repeat(images_NHWC[..., :1], 3, axis=-1)
    rows, columns = (np.arange(side) * values_Nhw.shape[axis] // side for axis, side in ((1, height), (2, width)))
    largest_N11 = np.maximum(values_Nhw.max((1, 2), keepdims=True), np.finfo(np.float32).tiny)
    share_NHW1 = (values_Nhw / largest_N11)[:, rows][:, :, columns][..., None]
    grey_NHW1 = rgb_NHW3.mean(-1, keepdims=True)
    tinted_NHW3 = ((1 - 0.75 * share_NHW1) * grey_NHW1 + 0.75 * share_NHW1 * HEAT).round().astype(np.uint8)
    out = np.zeros((2 * height + GAP, count * (width + GAP) - GAP, 4), dtype=np.uint8)
    for row, tiles_NHW3 in enumerate((rgb_NHW3, tinted_NHW3)):
        for place, tile_HW3 in enumerate(tiles_NHW3):
            top, left = row * (height + GAP), place * (width + GAP)
            out[top : top + height, left : left + width, :3] = tile_HW3
            out[top : top + height, left : left + width, 3] = 255
    return out


def drawn(pixels: Bytes) -> Figure:
    """A mosaic as wide as the page."""
    wide = drawing.WIDTH_IN - 0.2
    high = wide * pixels.shape[0] / pixels.shape[1]
    figure = drawing.canvas(high + 0.1)
    axes = drawing.panel(figure, 0.1, 0.05, wide, high)
    axes.imshow(pixels, interpolation="none", aspect="auto")
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])
    return figure
