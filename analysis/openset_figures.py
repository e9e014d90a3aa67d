"""Drawings of open-set classifiers: OSCR curves, angles to class centres with probability curves, deep features.

Paper: the figures of the thesis cited in `trainables.margins`: 6.1 (OSCR), 6.6 (angles) and 3.2 to 4.2 (features).

The arrays that runs leave, made by `trainables.margin_exhibits`; <group> is known, negative or unknown:

* `oscr_<group>_fpr`, `oscr_<group>_ccr`: points of the curve against negatives or unknowns, both rates falling;
* `angles_edges` (bins + 1), `angles_<group>` (bins): counts of angles, of known images to their own class's centre, of
  others to the nearest;
* `probability_theta`, `probability_test`, `probability_training`: softmax score of the own class by angle;
* `features_<group>` (n, 2), `features_known_labels` (n), `centres` (2, C): deep features of two dimensions.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from analysis import display, drawing
from analysis.drawing import ARM, CLASSES, INK, MUTED, OTHER, OUTSIDE, RULE, Picture
from analysis.exhibits import Arrays, Exhibit, Exhibits
from search_spaces.study import Arm, Study

Floats = NDArray[np.floating]

PANELS = 12
"""Arms in one picture at most; of more, further pictures follow."""
RATES = 81
"""False positive rates at which runs are averaged, evenly spaced on the logarithmic axis."""
LOWEST = 1e-4
"""The left end of that axis at most, as in the thesis; the curves' own end where they end before."""
DOTS = 500
"""Points of one group in one panel at most."""


def oscr(exhibits: Exhibits, study: Study) -> tuple[Picture, ...]:
    """OSCR curves of every dataset, an arm to a panel: against unknowns and negatives, mean and range of its runs."""
    return tuple(picture for dataset, part in _datasets(exhibits) for picture in _oscr(part, study, dataset))


def angles(exhibits: Exhibits, study: Study) -> tuple[Picture, ...]:
    """Histograms of angles to class centres on every dataset, an arm to a panel, its first run; with the softmax scores
    they give.
    """
    return tuple(picture for dataset, part in _datasets(exhibits) for picture in _angles(part, study, dataset))


def _datasets(exhibits: Exhibits) -> list[tuple[str, Exhibits]]:
    """What is shown of each dataset; with no name where there is one alone."""
    parts: dict[str, list[Exhibit]] = {}
    for each in exhibits.shown:
        parts.setdefault(each.block.partition("/")[0], []).append(each)
    if len(parts) < 2:
        return [("", exhibits)]
    return [(dataset, replace(exhibits, shown=tuple(shown))) for dataset, shown in parts.items()]


def _oscr(exhibits: Exhibits, study: Study, dataset: str) -> tuple[Picture, ...]:
    runs = {arm.name: exhibits.of(arm.name, "oscr_unknown_fpr") for arm in study.arms}
    arms = [arm for arm in study.arms if runs[arm.name]]
    ends = [float(run.arrays["oscr_unknown_fpr"][-1]) for arm in arms for run in runs[arm.name]]
    if not ends:
        return ()
    rates = np.geomspace(max(LOWEST, min(ends)) if min(ends) < 1 else LOWEST, 1, RATES)

    def panel(axes: Axes, arm: Arm) -> None:
        if arm.name != study.baseline and runs.get(study.baseline):
            axes.plot(rates, pooled(runs[study.baseline], "unknown", rates)[0], color=OTHER, lw=0.9)
        for group, colour, dash in (("negative", OUTSIDE, (3, 1.5)), ("unknown", ARM, ())):
            mean, low, high = pooled(runs[arm.name], group, rates)
            axes.fill_between(rates, low, high, color=colour, alpha=0.18, lw=0)
            axes.plot(rates, mean, color=colour, lw=1.3, dashes=dash)
        axes.set_xscale("log")
        axes.set_xlim(rates[0], 1)
        axes.set_ylim(0, 1.02)
        axes.set_yticks([0, 0.5, 1])
        axes.set_xticks([10.0**power for power in range(math.ceil(math.log10(rates[0])), 1)])
        axes.minorticks_off()
        axes.set_xticklabels([_power(tick) for tick in axes.get_xticks()])

    def said(arm: Arm) -> str:
        rated = {rate: float(pooled(runs[arm.name], "unknown", np.array([rate]))[0][0]) for rate in (0.1, 0.01)}
        reached = [f"{display.fixed(100 * value, 1)}% at FPR {rate}" for rate, value in rated.items()]
        return f"{arm.label or arm.name}: CCR on unknowns {display.listing(reached)}"

    legend = [
        Line2D([], [], color=ARM, lw=1.3, label="unknown"),
        Line2D([], [], color=OUTSIDE, lw=1.3, dashes=(3, 1.5), label="negative"),
    ]
    if runs.get(study.baseline):
        legend.append(Line2D([], [], color=OTHER, lw=0.9, label="baseline, unknown"))
    counts = sorted({len(runs[arm.name]) for arm in arms})
    several = f"{counts[0]} to {counts[-1]} runs" if len(counts) > 1 else f"{counts[0]} runs" if counts[0] > 1 else ""
    shape = f"Line: mean of {several}; band: lowest to highest. " if several else "One run an arm. "
    return _sheets(
        _named("oscr", dataset),
        "Open-set classification rate" + (f" on {dataset}" if dataset else ""),
        "Share of known images classified correctly (CCR) by the share of outsiders let through (FPR), as the "
        f"threshold moves. {shape}A line ends where a run's scores can no longer be told apart.",
        arms,
        panel,
        said,
        legend,
        ("FPR", "CCR"),
    )


def pooled(runs: Sequence[Exhibit], group: str, rates: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean, lowest and highest CCR at each rate over the runs; NaN from where a run's curve has ended."""
    held = [run.arrays for run in runs if f"oscr_{group}_fpr" in run.arrays]
    values_RT = np.stack([ccr(arrays, group, rates) for arrays in held]) if held else np.full((1, len(rates)), np.nan)
    return values_RT.mean(axis=0), values_RT.min(axis=0), values_RT.max(axis=0)


def ccr(arrays: Arrays, group: str, rates: Floats) -> Floats:
    """CCR at the largest FPR on the curve that is no larger than each rate; NaN where there is none."""
    rising = np.asarray(arrays[f"oscr_{group}_fpr"], dtype=np.float64)[::-1]
    values = np.append(np.asarray(arrays[f"oscr_{group}_ccr"], dtype=np.float64)[::-1], np.nan)
    # A rate of 0.01 must find the point at 0.01, which was stored in single precision.
    return values[np.searchsorted(rising, rates * (1 + 1e-6), side="right") - 1]


def _power(value: float) -> str:
    raised = str(round(math.log10(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return "1" if value == 1 else f"10{raised}"


def _angles(exhibits: Exhibits, study: Study, dataset: str) -> tuple[Picture, ...]:
    runs = {arm.name: exhibits.of(arm.name, "angles_edges", "angles_known") for arm in study.arms}
    arms = [arm for arm in study.arms if runs[arm.name]]

    def panel(axes: Axes, arm: Arm) -> None:
        _histograms(axes, runs[arm.name][0].arrays)

    def said(arm: Arm) -> str:
        arrays = runs[arm.name][0].arrays
        middles = [
            f"{group} {display.fixed(_median(arrays['angles_edges'], arrays[f'angles_{group}']), 2)}"
            for group in ("known", "negative", "unknown")
            if f"angles_{group}" in arrays
        ]
        return f"{arm.label or arm.name}: median angle {display.listing(middles)} radians"

    legend: list[Artist] = [
        Patch(color=ARM, alpha=0.45, lw=0, label="known"),
        Line2D([], [], color=OUTSIDE, lw=1.2, dashes=(3, 1.5), label="negative"),
        Line2D([], [], color=INK, lw=1.1, label="unknown"),
        Line2D([], [], color=MUTED, lw=1, label="score"),
        Line2D([], [], color=MUTED, lw=1, dashes=(1, 1), label="with margin"),
    ]
    return _sheets(
        _named("angles", dataset),
        "Angles to class centres" + (f" on {dataset}" if dataset else ""),
        "Histograms of test images, each panel's to one height: known ones by the angle to their own class's centre, "
        "others by that to the nearest. Grey: the softmax score of the own class at that angle, all other centres at "
        "right angles, as tested and, dotted, as trained with the margin; where length matters, at length s. "
        f"{_first(runs, arms)}",
        arms,
        panel,
        said,
        legend,
        ("angle in radians", "softmax score"),
    )


def _histograms(axes: Axes, arrays: Arrays) -> None:
    edges = arrays["angles_edges"].astype(np.float64)
    held = {g: arrays[f"angles_{g}"] for g in ("known", "negative", "unknown") if f"angles_{g}" in arrays}
    density = {group: counts / max(1, counts.sum()) for group, counts in held.items()}
    highest = max(float(values.max()) for values in density.values()) or 1.0
    for group, values in density.items():
        if group == "known":
            axes.stairs(values / highest, edges, fill=True, color=ARM, alpha=0.45, lw=0)
        else:
            dash = (3, 1.5) if group == "negative" else ()
            colour = OUTSIDE if group == "negative" else INK
            axes.plot(np.repeat(edges, 2)[1:-1], np.repeat(values / highest, 2), color=colour, lw=0.9, dashes=dash)
    for kind, dash in (("test", ()), ("training", (1, 1))):
        if f"probability_{kind}" in arrays:
            axes.plot(arrays["probability_theta"], arrays[f"probability_{kind}"], color=MUTED, lw=1, dashes=dash)
    axes.set_xlim(0, math.pi)
    axes.set_ylim(0, 1.04)
    axes.set_yticks([0, 0.5, 1])
    axes.set_xticks([0, math.pi / 4, math.pi / 2, 3 * math.pi / 4, math.pi], ["0", "π/4", "π/2", "3π/4", "π"])


def _median(edges: Floats, counts: NDArray[np.integer]) -> float:
    """The middle of the bin that the median lies in."""
    middles: Floats = (edges[1:] + edges[:-1]) / 2
    if counts.sum() == 0:
        return math.nan
    return float(middles[np.searchsorted(np.cumsum(counts), counts.sum() / 2)])


def features(exhibits: Exhibits, study: Study) -> tuple[Picture, ...]:
    """Deep features of two dimensions, a picture to an arm, its first run, in the thesis's four panels."""
    found: dict[str, Picture] = {}
    for index, arm in enumerate(study.arms):
        runs = exhibits.of(arm.name, "features_known", "features_known_labels", "centres")
        name = _named("features", arm.name)
        name += f"-{index}" if name in found else ""
        if runs:
            found[name] = _features(name, arm, runs[0])
    return tuple(found.values())


def _features(name: str, arm: Arm, run: Exhibit) -> Picture:
    arrays, label = run.arrays, arm.label or arm.name
    classes = arrays["centres"].shape[1]
    groups = [g for g in ("negative", "unknown") if f"features_{g}" in arrays]

    def draw() -> Figure:
        each, gap, head = 2.3, 0.2, 0.3
        panels: list[tuple[str, Callable[[Axes], None]]] = [
            ("known", partial(_scatter, arrays=arrays)),
            *((f"known and {group}", partial(_scatter, arrays=arrays, group=group)) for group in groups),
            ("known, as directions", partial(_directions, arrays=arrays)),
        ]
        down = math.ceil(len(panels) / 2)
        figure = drawing.canvas(down * (each + head) + 0.1)
        for index, (title, paint) in enumerate(panels):
            left, row = 0.1 + (index % 2) * (each + gap), down - 1 - index // 2
            axes = drawing.panel(figure, left, 0.05 + row * (each + head), each, each)
            axes.spines["bottom"].set_visible(False)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(title, fontsize=drawing.TEXT, color=INK, loc="left", pad=3)
            paint(axes)
        return figure

    lengths = {
        group: float(np.median(np.linalg.norm(arrays[f"features_{group}"], axis=1))) for group in ("known", *groups)
    }
    said = [f"{group} {display.fixed(length, 1)}" for group, length in lengths.items()]
    return Picture(
        name,
        f"Deep features of {label}",
        f"Test images in the {classes} classes' colours; negatives are grey, unknowns black or, on a dark page, white. "
        "The cross is the origin. Last panel: features brought to one length; each line is a class's centre, its "
        f"number at the end. Run {run.block}, epoch {run.epoch}.",
        f"{label}: median length of features {display.listing(said)}; {classes} centres",
        draw,
    )


def _scatter(axes: Axes, arrays: Arrays, group: str = "") -> None:
    """Known features by class, and those of one group of outsiders before them."""
    everything = np.concatenate([arrays[name] for name in arrays if name in _FEATURES])
    middle, reach = (
        np.median(everything, axis=0),
        np.quantile(np.abs(everything - np.median(everything, axis=0)), 0.995),
    )
    wide = 1.15 * float(reach) or 1.0
    axes.set_xlim(middle[0] - wide, middle[0] + wide)
    axes.set_ylim(middle[1] - wide, middle[1] + wide)
    axes.plot(0, 0, "+", color=MUTED, ms=7, mew=0.8)
    _by_class(axes, arrays["features_known"], arrays["features_known_labels"])
    if group:
        colour = OTHER if group == "negative" else INK
        drawing.dots(axes, _thin(arrays[f"features_{group}"]), colour, 1.5)


_FEATURES = ("features_known", "features_negative", "features_unknown")


def _directions(axes: Axes, arrays: Arrays) -> None:
    """Known features on a circle, and the centres' directions."""
    phi_N2 = arrays["features_known"].astype(np.float64)
    axes.set_xlim(-1.3, 1.3)
    axes.set_ylim(-1.3, 1.3)
    unit_C2 = _unit(arrays["centres"].astype(np.float64).T)
    for c, (x, y) in enumerate(unit_C2):
        axes.plot([0, x], [0, y], color=CLASSES[c % len(CLASSES)], lw=1)
        if len(unit_C2) <= 2 * len(CLASSES):
            axes.text(1.16 * x, 1.16 * y, str(c), color=INK, fontsize=drawing.SMALL, ha="center", va="center")
    _by_class(axes, _unit(phi_N2), arrays["features_known_labels"])


def _by_class(axes: Axes, phi_N2: Floats, labels_N: NDArray[np.integer]) -> None:
    phi_N2, labels_N = _thin(phi_N2), _thin(labels_N)
    for index, colour in enumerate(CLASSES):
        own = labels_N % len(CLASSES) == index
        if own.any():
            drawing.dots(axes, phi_N2[own], colour, 1.9)


def _unit(phi_N2: Floats) -> Floats:
    unit_N2: Floats = phi_N2 / np.maximum(np.linalg.norm(phi_N2, axis=1, keepdims=True), 1e-12)
    return unit_N2


def _thin(values: NDArray[Any]) -> NDArray[Any]:
    """Evenly spaced rows, `DOTS` at most."""
    rows = np.linspace(0, len(values) - 1, min(DOTS, len(values))).round().astype(int)
    found: NDArray[Any] = values[rows]
    return found


def _named(name: str, of: str) -> str:
    """The name of a picture, which is a file's and an anchor's too."""
    return name + (f"-{re.sub(r'[^A-Za-z0-9_.]+', '-', of)}" if of else "")


def _first(runs: dict[str, list[Exhibit]], arms: Sequence[Arm]) -> str:
    """Which runs a picture of first runs shows."""
    blocks = list(dict.fromkeys(runs[arm.name][0].block for arm in arms))
    return f"Run{'s' if len(blocks) > 1 else ''} {display.listing(blocks)}."


def _sheets(
    name: str,
    title: str,
    caption: str,
    arms: Sequence[Arm],
    panel: Callable[[Axes, Arm], None],
    said: Callable[[Arm], str],
    legend: Sequence[Artist],
    axis: tuple[str, str],
) -> tuple[Picture, ...]:
    """Small multiples of all arms, `PANELS` to a picture."""
    sheets = [arms[start : start + PANELS] for start in range(0, len(arms), PANELS)]
    return tuple(
        Picture(
            name if number == 1 else f"{name}-{number}",
            title if len(sheets) == 1 else f"{title} ({number} of {len(sheets)})",
            caption,
            "; ".join(said(arm) for arm in sheet),
            _multiples(sheet, panel, legend, axis),
        )
        for number, sheet in enumerate(sheets, 1)
    )


def _multiples(
    arms: Sequence[Arm], panel: Callable[[Axes, Arm], None], legend: Sequence[Artist], axis: tuple[str, str]
) -> Callable[[], Figure]:
    """Draws a panel for each arm, two or three beside one another, beneath one legend."""

    def draw() -> Figure:
        across = 2 if len(arms) < 7 else 3
        down = math.ceil(len(arms) / across)
        left, bottom, gap, top = 0.54, 0.5, 0.2, 0.06
        each_w = (drawing.WIDTH_IN - left - 0.15 - gap * (across - 1)) / across
        each_h, head = 1.0, 0.36
        figure = drawing.canvas(bottom + down * (each_h + head) + top)
        for index, arm in enumerate(arms):
            place = (index % across, down - 1 - index // across)
            corner = (left + place[0] * (each_w + gap), bottom + place[1] * (each_h + head))
            axes = drawing.panel(figure, *corner, each_w, each_h)
            panel(axes, arm)
            axes.set_axisbelow(True)
            axes.grid(axis="y", color=RULE, lw=0.4)
            axes.tick_params(axis="y", length=0)
            if place[0]:
                axes.set_yticklabels([])
            else:
                axes.set_ylabel(axis[1], color=MUTED, fontsize=drawing.SMALL)
            if index + across < len(arms):
                axes.set_xticklabels([])
            else:
                axes.set_xlabel(axis[0], color=MUTED, fontsize=drawing.SMALL)
            axes.set_title(
                drawing.wrap(arm.label or arm.name, 46 // across, 1),
                fontsize=drawing.TEXT,
                color=INK,
                loc="left",
                pad=3,
            )
        figure.legend(
            handles=list(legend),
            loc="upper left",
            bbox_to_anchor=(0, 1),
            ncols=len(legend),
            frameon=False,
            fontsize=drawing.SMALL,
            labelcolor=INK,
            handlelength=1.4,
            handletextpad=0.5,
            columnspacing=1.0,
            borderaxespad=0.1,
        )
        return figure

    return draw
