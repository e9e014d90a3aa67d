"""Drawings of where a classifier looks: images, their class activation maps, and boxes, those found and the true ones.

The arrays that runs leave, made by `trainables.localisation`; boxes are left, top, right and bottom edges as fractions:

* `box_images` (N, H, W, C), uint8, and their maps `box_maps` (N, H, W), levels of 255;
* `box_found` (N, 4), and `box_true` (N, M, 4), filled up with NaN.
"""

import re
from collections.abc import Iterable
from functools import partial

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from analysis import display, spread_figures
from analysis.drawing import Picture
from analysis.exhibits import Exhibit, Exhibits
from analysis.spread_figures import GAP
from search_spaces.study import Arm, Study

Floats = NDArray[np.floating]

FOUND, TRUE = "#00a0ff", "#ffc800"
"""Edges of boxes: blue and yellow are seen on grey, on the maps' red and on either page."""


def boxes(exhibits: Exhibits, study: Study) -> tuple[Picture, ...]:
    """A picture to an arm, its first run: images with true boxes above, their maps with the boxes found below."""
    found = []
    for arm in study.arms:
        runs = exhibits.of(arm.name, "box_images", "box_maps", "box_found", "box_true")
        if runs:
            found.append(_boxes(arm, runs[0]))
    return tuple(found)


def _boxes(arm: Arm, run: Exhibit) -> Picture:
    label, found_N4, true_NM4 = arm.label or arm.name, run.arrays["box_found"], run.arrays["box_true"]
    covered = float(np.mean(np.prod(found_N4[:, 2:] - found_N4[:, :2], axis=1)))
    truly = float(np.nanmean(np.prod(true_NM4[..., 2:] - true_NM4[..., :2], axis=2)))
    return Picture(
        f"boxes-{re.sub(r'[^A-Za-z0-9_.]+', '-', arm.name)}",
        f"Boxes of {label}",
        "Test images with their true boxes, yellow, and below each the map of the class answered: the redder, the "
        f"nearer to its largest value; the box found around it is blue, dashed. Run {run.block}.",
        f"{label}: on {len(found_N4)} images boxes found cover {display.fixed(100 * covered, 0)}%, true ones "
        f"{display.fixed(100 * truly, 0)}%",
        partial(_drawn, run.arrays["box_images"], run.arrays["box_maps"], found_N4, true_NM4),
    )


def _drawn(images_NHWC: NDArray[np.uint8], maps_NHW: Floats, found_N4: Floats, true_NM4: Floats) -> Figure:
    figure = spread_figures.drawn(spread_figures.mosaic(images_NHWC, maps_NHW.astype(np.float32)))
    (axes,) = figure.axes
    for edges, colour, dashes in outlines(found_N4, true_NM4, images_NHWC.shape[1], images_NHWC.shape[2]):
        left, top, right, bottom = edges
        outline = Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, lw=1.2, ls=dashes)
        axes.add_patch(outline)
    return figure


def outlines(
    found_N4: Floats, true_NM4: Floats, height: int, width: int
) -> Iterable[tuple[tuple[float, float, float, float], str, str]]:
    """(edges on the mosaic, colour, line style) of every box: true ones on both rows of tiles, found ones below.

    Pixel centres are at whole numbers, so the mosaic's edge is at -0.5.
    """
    scale = np.array([width, height, width, height])
    for place, (found_4, true_M4) in enumerate(zip(found_N4, true_NM4, strict=True)):
        left = place * (width + GAP) - 0.5
        for row in (0, 1):
            move = np.array([left, row * (height + GAP) - 0.5] * 2)
            for true_4 in true_M4[~np.isnan(true_M4[:, 0])]:
                yield _edges(true_4 * scale + move), TRUE, "-"
        yield _edges(found_4 * scale + move), FOUND, "--"


def _edges(box_4: Floats) -> tuple[float, float, float, float]:
    left, top, right, bottom = (float(edge) for edge in box_4)
    return left, top, right, bottom
