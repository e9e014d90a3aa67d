"""Drawings of tests of trained networks: accuracy lost to corruptions, accuracy under occlusion, reliability, and how
far images can be moved before a detector changes its mind.

Papers: GradMix (arXiv 2505.12803), Figure 4, for corruptions; Guo et al. (arXiv 1706.04599), Figure 1, for reliability.

The arrays that runs leave, made by `trainables.stress`, the last ones by `trainables.ood_radius`; shares are of 1:

* `clean` (1) and `corrupted_<corruption>` (5): accuracies, of clean images and at severities 1 to 5;
* `occluded_shares` (S), `occluded_accuracy` (S): accuracy by the share of an image that is covered;
* `reliability_edges` (bins + 1), and of each bin of confidence `reliability_share`, `reliability_confidence` and
  `reliability_accuracy` (bins): its share of the images and means in it, NaN where it is empty;
* `radii_estimated`, `radii_searched`, `radii_certified` (N): the radius eps* of each image, NaN where it is judged
  wrongly; `attacked_radii`, `attacked_right` (R): share of the images judged rightly after an attack within a radius.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from analysis import display, drawing
from analysis.drawing import ARM, BAND, CLASSES, INK, MUTED, RULE, Picture
from analysis.exhibits import Exhibit, Exhibits
from search_spaces.study import Arm, Study

Floats = NDArray[np.floating]
Runs = dict[str, list[Exhibit]]
"""Arm -> its runs on one dataset."""

CORRUPTED = "corrupted_"
ACROSS = 3
"""Reliability diagrams beside one another."""
DECADES = 4
"""Powers of ten named on an axis, at most."""


def corruptions(exhibits: Exhibits, study: Study) -> tuple[Picture, ...]:
    """A picture to a dataset: what each corruption takes from the accuracy, a bar to an arm."""
    return _each(exhibits, study, ("clean", f"{CORRUPTED}fog"), _corruptions)


def occlusion(exhibits: Exhibits, study: Study) -> tuple[Picture, ...]:
    """A picture to a dataset: accuracy by the share of the image that is covered, a line to an arm."""
    return _each(exhibits, study, ("occluded_shares", "occluded_accuracy"), _occlusion)


def reliability(exhibits: Exhibits, study: Study) -> tuple[Picture, ...]:
    """A picture to a dataset: accuracy by confidence, a panel to an arm, all its runs together."""
    return _each(exhibits, study, ("reliability_edges", "reliability_share"), _reliability)


def radii(exhibits: Exhibits, study: Study) -> tuple[Picture, ...]:
    """A picture to a dataset: share of images that are right with eps* >= r, estimated and certified apart."""
    return _each(exhibits, study, ("radii_estimated", "radii_searched", "radii_certified", "attacked_right"), _radii)


def _each(
    exhibits: Exhibits, study: Study, having: Sequence[str], picture: Callable[[Runs, Study, str], Picture]
) -> tuple[Picture, ...]:
    """One picture to each dataset that any arm's runs show the arrays of."""
    found: dict[str, Runs] = {}
    for arm in study.arms:
        for run in exhibits.of(arm.name, *having):
            found.setdefault(run.block.partition("/")[0], {}).setdefault(arm.name, []).append(run)
    return tuple(picture(runs, study, dataset) for dataset, runs in found.items())


def _arms(runs: Runs, study: Study) -> list[Arm]:
    return [arm for arm in study.arms if arm.name in runs]


def _colour(place: int) -> str:
    return CLASSES[place % len(CLASSES)]


def _legend_columns(labels: Sequence[str]) -> int:
    """As many as there is room for beside one another."""
    return max(1, min(len(labels), 66 // (max(map(len, labels)) + 6)))


def _legend_in(labels: Sequence[str]) -> float:
    """Height of the legend in inches."""
    return 0.1 + 0.19 * math.ceil(len(labels) / _legend_columns(labels))


def _legend(figure: Figure, axes: Axes, marks: Sequence[Line2D | Patch]) -> None:
    """Beneath the figure's top edge."""
    axes.legend(
        handles=list(marks),
        loc="upper left",
        bbox_to_anchor=(0.02, 1 - 0.02 / figure.get_size_inches()[1]),
        bbox_transform=figure.transFigure,
        ncols=_legend_columns([str(mark.get_label()) for mark in marks]),
        frameon=False,
        fontsize=drawing.SMALL,
        labelcolor=INK,
        handlelength=1.2,
        borderaxespad=0.1,
    )


# Corruptions


def lost(runs: Sequence[Exhibit], name: str) -> Floats:
    """(runs,): accuracy on clean images less that on corrupted ones, the mean over severities."""
    return np.array([float(run.arrays["clean"][0] - run.arrays[f"{CORRUPTED}{name}"].mean()) for run in runs])


def _corruptions(runs: Runs, study: Study, dataset: str) -> Picture:
    arms = _arms(runs, study)
    first = runs[arms[0].name][0].arrays
    names = [key.removeprefix(CORRUPTED) for key in first if key.startswith(CORRUPTED)]
    lost_AKR = [np.stack([lost(runs[arm.name], name) for name in names]) for arm in arms]
    said = [
        f"{arm.label or arm.name} loses {display.fixed(100 * float(part.mean()), 1)} points in the mean, "
        f"most to {names[int(part.mean(1).argmax())].replace('_', ' ')}"
        for arm, part in zip(arms, lost_AKR, strict=True)
    ]
    return Picture(
        f"corruptions-{dataset}",
        f"Accuracy lost to corruptions on {dataset}",
        "Accuracy on clean images less that on corrupted ones, in points: the mean over five severities and all runs; "
        "thin lines reach from the lowest run to the highest.",
        "; ".join(said),
        partial(_drawn_corruptions, [arm.label or arm.name for arm in arms], names, lost_AKR),
    )


def _drawn_corruptions(labels: Sequence[str], names: Sequence[str], lost_AKR: Sequence[Floats]) -> Figure:
    thick, legend_in, foot_in = 0.09, _legend_in(labels), 0.45
    row_in = thick * len(labels) + 0.08
    high = row_in * len(names)
    left = drawing.label_width_in([name.replace("_", " ") for name in names])
    figure = drawing.canvas(foot_in + high + legend_in + 0.1)
    axes = drawing.panel(figure, left, foot_in, drawing.WIDTH_IN - left - 0.15, high)
    for place, lost_KR in enumerate(lost_AKR):
        at = np.arange(len(names)) + (place - (len(labels) - 1) / 2) * thick / row_in
        points_KR = 100 * lost_KR
        axes.barh(at, points_KR.mean(1), height=0.9 * thick / row_in, color=_colour(place), lw=0)
        if points_KR.shape[1] > 1:
            axes.hlines(at, points_KR.min(1), points_KR.max(1), color=MUTED, lw=0.6)
    axes.axvline(0, color=RULE, lw=0.8)
    drawing.row_labels(axes, [name.replace("_", " ") for name in names])
    axes.set_xlabel("points of accuracy", color=MUTED, fontsize=drawing.SMALL)
    marks = [Patch(color=_colour(place), label=label) for place, label in enumerate(labels)]
    _legend(figure, axes, marks)
    return figure


# Occlusion


def _occlusion(runs: Runs, study: Study, dataset: str) -> Picture:
    arms = _arms(runs, study)
    shares_S = runs[arms[0].name][0].arrays["occluded_shares"]
    curves_ARS = [np.stack([run.arrays["occluded_accuracy"] for run in runs[arm.name]]) for arm in arms]
    half = int(np.abs(shares_S - 0.5).argmin())
    said = [
        f"{arm.label or arm.name}: {display.fixed(100 * float(part[:, half].mean()), 1)}% with "
        f"{display.fixed(100 * float(shares_S[half]), 0)}% covered"
        for arm, part in zip(arms, curves_ARS, strict=True)
    ]
    return Picture(
        f"occlusion-{dataset}",
        f"Accuracy under occlusion on {dataset}",
        "Accuracy on test images by the share of their patches that is covered, at random. Line: mean of all runs; "
        "band: lowest to highest.",
        "; ".join(said),
        partial(_drawn_occlusion, [arm.label or arm.name for arm in arms], shares_S, curves_ARS),
    )


def _drawn_occlusion(labels: Sequence[str], shares_S: Floats, curves_ARS: Sequence[Floats]) -> Figure:
    legend_in, foot_in, high = _legend_in(labels), 0.45, 2.4
    figure = drawing.canvas(foot_in + high + legend_in + 0.1)
    axes = drawing.panel(figure, 0.55, foot_in, drawing.WIDTH_IN - 0.7, high)
    for place, curves_RS in enumerate(curves_ARS):
        if len(curves_RS) > 1:
            low, top = 100 * curves_RS.min(0), 100 * curves_RS.max(0)
            axes.fill_between(100 * shares_S, low, top, color=_colour(place), alpha=0.15, lw=0)
        axes.plot(100 * shares_S, 100 * curves_RS.mean(0), color=_colour(place), lw=1.4)
    axes.set_ylim(0, 101)
    axes.grid(axis="y", color=RULE, lw=0.4)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("% of patches covered", color=MUTED, fontsize=drawing.SMALL)
    axes.set_ylabel("% correct", color=MUTED, fontsize=drawing.SMALL)
    marks = [Line2D([], [], color=_colour(place), lw=1.4, label=label) for place, label in enumerate(labels)]
    _legend(figure, axes, marks)
    return figure


# Reliability


def joined(runs: Sequence[Exhibit]) -> tuple[Floats, Floats, Floats]:
    """Of each bin its share of all runs' images, and mean confidence and accuracy in it; NaN where it is empty."""
    share_RK = np.stack([run.arrays["reliability_share"] for run in runs])
    total_K = share_RK.sum(0)

    def mean(name: str) -> Floats:
        weighted_K = np.nansum(share_RK * np.stack([run.arrays[name] for run in runs]), axis=0)
        return np.where(total_K > 0, weighted_K / np.where(total_K > 0, total_K, 1), np.nan)

    return total_K / len(runs), mean("reliability_confidence"), mean("reliability_accuracy")


def error(share_K: Floats, confidence_K: Floats, accuracy_K: Floats) -> float:
    """Expected calibration error of the bins."""
    return float(np.nansum(share_K * np.abs(confidence_K - accuracy_K)))


def _reliability(runs: Runs, study: Study, dataset: str) -> Picture:
    arms = _arms(runs, study)
    edges = runs[arms[0].name][0].arrays["reliability_edges"]
    bins = [joined(runs[arm.name]) for arm in arms]
    said = [
        f"{arm.label or arm.name}: calibration error {display.fixed(100 * error(*each), 1)} points, mean confidence "
        f"{display.fixed(100 * float(np.nansum(each[0] * each[1])), 1)}%"
        for arm, each in zip(arms, bins, strict=True)
    ]
    return Picture(
        f"reliability-{dataset}",
        f"Reliability on {dataset}",
        "Bars: share of correct answers among those of like confidence, all runs together. On the diagonal confidence "
        "is what it says; below it the network is overconfident. Grey, beneath: how the confidences are distributed.",
        "; ".join(said),
        partial(_drawn_reliability, [arm.label or arm.name for arm in arms], edges, bins),
    )


def _drawn_reliability(labels: Sequence[str], edges: Floats, bins: Sequence[tuple[Floats, Floats, Floats]]) -> Figure:
    left, foot_in, gap, head = 0.55, 0.45, 0.2, 0.4
    down = math.ceil(len(labels) / ACROSS)
    side = (drawing.WIDTH_IN - left - 0.15 - gap * (ACROSS - 1)) / ACROSS
    figure = drawing.canvas(foot_in + down * (side + head))
    for place, (label, (share_K, _, accuracy_K)) in enumerate(zip(labels, bins, strict=True)):
        column, row = place % ACROSS, down - 1 - place // ACROSS
        axes = drawing.panel(figure, left + column * (side + gap), foot_in + row * (side + head), side, side)
        axes.stairs(share_K, edges, fill=True, color=BAND, lw=0)
        axes.bar(edges[:-1], np.nan_to_num(accuracy_K), np.diff(edges), align="edge", color=ARM, alpha=0.75, lw=0)
        axes.plot([0, 1], [0, 1], color=INK, lw=0.8, dashes=(3, 1.5))
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        for ticks, shown in ((axes.set_xticks, place + ACROSS >= len(labels)), (axes.set_yticks, not column)):
            ticks([0, 0.5, 1], ["0", "0.5", "1"] if shown else [])
        axes.set_title(drawing.wrap(label, 24, lines=1), loc="left", fontsize=drawing.SMALL, color=INK, pad=3)
        if row == 0 and column == 0:
            axes.set_xlabel("confidence", color=MUTED, fontsize=drawing.SMALL)
        if not column:
            axes.set_ylabel("correct", color=MUTED, fontsize=drawing.SMALL)
    return figure


# Radii


def beyond(runs: Sequence[Exhibit], kind: str, radii_R: Floats) -> Floats:
    """(R,): share of images that are judged rightly with eps* of at least each radius, the mean of the runs."""
    shares = [(run.arrays[f"radii_{kind}"][:, None] >= radii_R).mean(0) for run in runs]  # NaN is never beyond
    return np.asarray(np.mean(shares, axis=0))


def _radii(runs: Runs, study: Study, dataset: str) -> Picture:
    arms = _arms(runs, study)
    half = np.array([0.25])
    said = [
        f"{arm.label or arm.name}: estimated for {display.fixed(100 * float(beyond(own, 'estimated', half)[0]), 1)}% "
        f"at 0.25, and certified {_farthest(own)}"
        for arm, own in ((arm, runs[arm.name]) for arm in arms)
    ]
    return Picture(
        f"radii-{dataset}",
        f"How far images can be moved on {dataset}",
        "Share of images that are judged rightly with a radius of at least r, the mean of all runs. Left: estimates, "
        "by the slope at the image (solid) and by the largest slope that an attack met (dashed); dots: share that is "
        "still right after an attack within r. A line above its dots claims too much. Right: certified radii, which "
        "nothing breaks, on a logarithmic scale.",
        "; ".join(said),
        partial(_drawn_radii, [arm.label or arm.name for arm in arms], [runs[arm.name] for arm in arms]),
    )


def _certified(runs: Sequence[Exhibit]) -> Floats:
    """All certified radii above 0 of the runs, ascending; some tiny one if there are none."""
    every = np.concatenate([run.arrays["radii_certified"] for run in runs])
    return np.sort(every[every > 0]) if (every > 0).any() else np.array([1e-12])


def _farthest(runs: Sequence[Exhibit]) -> str:
    """How far the best certificate of the runs reaches, in words."""
    every = np.concatenate([run.arrays["radii_certified"] for run in runs])
    return f"to {every[every > 0].max():.1e} at most" if (every > 0).any() else "for none"


def _drawn_radii(labels: Sequence[str], runs: Sequence[Sequence[Exhibit]]) -> Figure:
    legend_in, foot_in, high, gap = _legend_in(labels), 0.45, 2.3, 0.25
    wide = (drawing.WIDTH_IN - 0.7 - gap) / 2
    figure = drawing.canvas(foot_in + high + legend_in + 0.3)
    guessed = drawing.panel(figure, 0.55, foot_in, wide, high)
    sound = drawing.panel(figure, 0.55 + wide + gap, foot_in, wide, high)
    reach = float(runs[0][0].arrays["attacked_radii"].max())
    linear_R = np.linspace(0, reach, 101)
    smallest = min(float(_certified(own)[0]) for own in runs)
    largest = max(float(_certified(own)[-1]) for own in runs)
    spread_R = np.geomspace(0.5 * smallest, 2 * largest, 101)
    for place, own in enumerate(runs):
        colour = _colour(place)
        for kind, dashes in (("estimated", (1, 0)), ("searched", (4, 1.5))):
            guessed.plot(linear_R, 100 * beyond(own, kind, linear_R), color=colour, lw=1.2, dashes=dashes)
        attacked_R = np.mean([run.arrays["attacked_right"] for run in own], axis=0)
        guessed.plot(own[0].arrays["attacked_radii"], 100 * attacked_R, "o", color=colour, ms=3.2)
        sound.plot(spread_R, 100 * beyond(own, "certified", spread_R), color=colour, lw=1.2)
    sound.set_xscale("log")
    sound.minorticks_off()
    first, last = math.ceil(math.log10(spread_R[0])), math.floor(math.log10(spread_R[-1]))
    powers = range(last, first - 1, -max(1, math.ceil((last - first + 1) / DECADES)))
    sound.set_xticks([10.0**power for power in powers], [f"1e{power}" for power in powers])
    sound.set_yticklabels([])
    for axes, title in ((guessed, "estimated"), (sound, "certified")):
        axes.set_ylim(0, 101)
        axes.grid(axis="y", color=RULE, lw=0.4)
        axes.tick_params(axis="y", length=0)
        axes.set_title(title, loc="left", fontsize=drawing.SMALL, color=INK, pad=3)
        axes.set_xlabel("r, normalised input", color=MUTED, fontsize=drawing.SMALL)
    guessed.set_ylabel("% of images", color=MUTED, fontsize=drawing.SMALL)
    _legend(figure, guessed, [Line2D([], [], color=_colour(k), lw=1.4, label=label) for k, label in enumerate(labels)])
    return figure
