"""Figures over time and cost: learning curves with bands, cost beside quality."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from analysis import display, drawing, facts, tables
from analysis.drawing import ARM, INK, MUTED, OTHER, RULE, Picture
from analysis.findings import Findings
from analysis.frame import Frame
from search_spaces.study import Study

POINTS = 100
"""Epochs drawn at most; of more, evenly spaced ones, the first and the last among them."""


def curves(frame: Frame, findings: Findings, study: Study) -> Picture | None:
    """Small multiples: each arm's mean over its blocks by epoch, with the range of its runs, before the baseline's."""
    metric = study.outcome.metric
    if metric not in frame.epochs or frame.epochs.loc[frame.epochs[metric].notna(), "epoch"].nunique() < 2:
        return None
    series = {arm.name: bands(frame, arm.name, metric) for arm in study.arms}
    drawn = [arm for arm in study.arms if series[arm.name][0].size]
    shown = tables.primary(findings, study)

    def draw() -> Figure:
        across = 2 if len(drawn) < 7 else 3
        down = math.ceil(len(drawn) / across)
        left, bottom, gap = 0.5, 0.48, 0.22
        each_w = (drawing.WIDTH_IN - left - 0.12 - gap * (across - 1)) / across
        each_h, head = 0.95, 0.36
        figure = drawing.canvas(bottom + down * (each_h + head))
        low, high = _limits([series[arm.name] for arm in drawn], shown.unit)
        for index, arm in enumerate(drawn):
            place = (index % across, down - 1 - index // across)
            corner = (left + place[0] * (each_w + gap), bottom + place[1] * (each_h + head))
            axes = drawing.panel(figure, *corner, each_w, each_h)
            axes.set_ylim(low, high)
            axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
            if place[0]:
                axes.set_yticklabels([])
            if index + across < len(drawn):
                axes.set_xticklabels([])
            else:
                axes.set_xlabel("epoch", color=MUTED, fontsize=drawing.SMALL)
            if arm.name != study.baseline:
                _curve(axes, series[study.baseline], shown.unit, OTHER, band=False)
            _curve(axes, series[arm.name], shown.unit, INK if arm.name == study.baseline else ARM)
            title = drawing.wrap(arm.label or arm.name, 46 // across, 1)
            axes.set_title(title, fontsize=drawing.TEXT, color=INK, loc="left", pad=3)
        return figure

    longest = int(frame.epochs["epoch"].max())
    grey = "; grey: the baseline's mean" if series[study.baseline][0].size else ""
    thinned = f" {POINTS} of {longest} epochs are drawn." if longest > POINTS else ""
    return Picture(
        "curves",
        f"{shown.name} by epoch",
        f"Line: mean over the blocks that have reached the epoch; band: smallest to largest run{grey}. All runs count "
        f"here, failed and unfinished ones up to where they got.{thinned}",
        "; ".join(f"{arm.label or arm.name}: {_ends(series[arm.name], shown)}" for arm in drawn),
        draw,
    )


def _ends(series: "Bands", shown: display.Quantity) -> str:
    epochs, mean, _, _ = series
    first, last = shown.value(float(mean[0])), shown.value(float(mean[-1]))
    return f"mean {first} at epoch {int(epochs[0])}, {last} at epoch {int(epochs[-1])}"


Bands = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
"""Epochs, and mean, smallest and largest value over the blocks that have a finite one there."""


def bands(frame: Frame, arm: str, metric: str) -> Bands:
    """An arm's curve over its blocks, thinned to `POINTS` epochs."""
    own = frame.epochs.loc[frame.epochs["arm"] == arm, ["epoch", metric]]
    own = own[np.isfinite(own[metric])]
    grouped = own.groupby("epoch")[metric].agg(["mean", "min", "max"])
    if len(grouped) > POINTS:
        grouped = grouped.iloc[np.unique(np.linspace(0, len(grouped) - 1, POINTS).round().astype(int))]
    columns = [grouped[name].to_numpy(dtype=np.float64) for name in ("mean", "min", "max")]
    return grouped.index.to_numpy(dtype=np.float64), columns[0], columns[1], columns[2]


def _limits(series: Sequence[Bands], unit: float) -> tuple[float, float]:
    low = min(float(lows.min()) for _, _, lows, _ in series) * unit
    high = max(float(highs.max()) for _, _, _, highs in series) * unit
    room = 0.05 * (high - low) or abs(high) * 0.01 or 1.0
    return low - room, high + room


def _curve(axes: Axes, series: Bands, unit: float, colour: str, *, band: bool = True) -> None:
    epochs, mean, low, high = series
    if band and epochs.size:
        axes.fill_between(epochs, low * unit, high * unit, color=colour, alpha=0.18, lw=0)
    axes.plot(epochs, mean * unit, color=colour, lw=1.3 if band else 0.9, marker="." if epochs.size == 1 else None)


def cost(frame: Frame, findings: Findings, study: Study) -> Picture | None:
    """Quality and each kind of cost in panels side by side, an arm to a row."""
    found = facts.costs(frame, study)
    kinds = [kind for kind in facts.COSTS if any(entry.kind == kind for entry in found)]
    arms = [arm for arm in findings.arms if math.isfinite(arm.mean.estimate)]
    if not kinds or not arms:
        return None
    shown = tables.primary(findings, study)
    labels = [drawing.wrap(arm.label, 18) for arm in arms]

    def draw() -> Figure:
        left, gap = drawing.label_width_in(labels), 0.3
        high = drawing.label_height_in(labels, 0.26) * len(arms)
        wide = (drawing.WIDTH_IN - left - 0.2 - gap * len(kinds)) / (len(kinds) + 1)
        names = [drawing.wrap(name, int(wide / 0.074)) for name in (shown.name, *(_cost_name(k, found) for k in kinds))]
        low = 0.36 + 0.14 * max(1 + name.count("\n") for name in names)
        figure = drawing.canvas(low + high + 0.22)
        panels = [drawing.panel(figure, left + index * (wide + gap), low, wide, high) for index in range(len(names))]
        baseline = [arm.arm == study.baseline for arm in arms]
        drawing.row_labels(panels[0], labels, baseline)
        for row, arm in enumerate(arms):
            mean = arm.mean
            span = [mean.low * shown.unit, mean.estimate * shown.unit, mean.high * shown.unit]
            _span(panels[0], row, span, MUTED if baseline[row] else ARM)
        for axes, kind in zip(panels[1:], kinds, strict=True):
            _cost_panel(axes, kind, [arm.arm for arm in arms], found)
        for axes, name in zip(panels, names, strict=True):
            axes.set_xlabel(name, color=MUTED, fontsize=drawing.SMALL)
            axes.set_ylim(len(arms) - 0.5, -0.5)
            axes.set_yticks([])
            axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 2.5, 5, 10]))
            for row in range(1, len(arms)):
                axes.axhline(row - 0.5, color=RULE, lw=0.4, zorder=0)
        return figure

    named = tables.labels(study)
    return Picture(
        "cost",
        f"Cost beside {shown.label}",
        "Left: mean with its interval. Right: mean cost of a finished run, from the cheapest to the dearest. "
        "Times depend on the machine and on what else ran there.",
        "; ".join(
            f"{named[entry.arm]}: {facts.COSTS[entry.kind][0]} "
            + (
                display.seconds(entry.mean)
                if entry.kind == "seconds"
                else display.amount(entry.mean, facts.COSTS[entry.kind][1])
            )
            for entry in found
        ),
        draw,
    )


def _cost_name(kind: str, found: Sequence[facts.Cost]) -> str:
    label, unit = facts.COSTS[kind]
    return f"{label} ({_cost_factor(kind, found)[1]}{unit})"


def _cost_factor(kind: str, found: Sequence[facts.Cost]) -> tuple[float, str]:
    """What the values are divided by, and the prefix of the unit for it."""
    largest = max((entry.high for entry in found if entry.kind == kind), default=0.0)
    prefixes = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))
    return next(((size, name) for size, name in prefixes if largest >= size), (1.0, ""))


def _cost_panel(axes: Axes, kind: str, arms: Sequence[str], found: Sequence[facts.Cost]) -> None:
    own = {entry.arm: entry for entry in found if entry.kind == kind}
    largest = max((entry.high for entry in own.values()), default=0.0)
    factor, _ = _cost_factor(kind, found)
    for row, arm in enumerate(arms):
        if arm in own:
            entry = own[arm]
            _span(axes, row, [entry.low / factor, entry.mean / factor, entry.high / factor], MUTED)
    axes.set_xlim(left=0, right=largest / factor * 1.08 or 1.0)


def _span(axes: Axes, row: int, span: Sequence[float], colour: str) -> None:
    if all(map(math.isfinite, span)):
        axes.plot([span[0], span[2]], [row, row], color=colour, lw=1.2)
    axes.plot(span[1], row, "o", color=colour, ms=4.5, mew=0)
