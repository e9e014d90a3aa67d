"""The figures of a report: single runs beside every mean, differences beside their margin, the paper beside us.

Each function gives a `Picture`, or None where there is nothing to show; `pictures` gives all that apply.
"""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import curves, designs, display, drawing, tables
from analysis.drawing import ARM, BAND, INK, MARKER, MUTED, OTHER, RULE, WORD, Picture
from analysis.findings import ArmSummary, ContrastResult, Findings, Interval
from analysis.frame import Frame
from search_spaces.study import Study

LABEL = 20
"""Characters of a row's label before it wraps."""


def pictures(frame: Frame, study: Study, findings: Findings) -> tuple[Picture, ...]:
    """Every figure that these findings can fill."""
    found = (
        designs.found(findings, study),
        arms(findings, study),
        differences(findings, study),
        slopes(findings, study),
        designs.ranks(findings, study),
        designs.factors(findings, study),
        curves.curves(frame, findings, study),
        curves.cost(frame, findings, study),
        paper(findings, study),
    )
    return tuple(picture for picture in found if picture is not None)


def arms(findings: Findings, study: Study) -> Picture | None:
    """Dot plot: every single run, and each arm's mean with its interval."""
    measured = [arm for arm in findings.arms if any(map(math.isfinite, arm.values.values()))]
    if not measured:
        return None
    shown = tables.primary(findings, study)
    labels = [drawing.wrap(arm.label, LABEL) for arm in measured]

    def draw() -> Figure:
        axes = row_axes(labels, shown.name, [arm.arm == study.baseline for arm in measured])
        for row, arm in enumerate(measured):
            colour = MUTED if arm.arm == study.baseline else ARM
            values = [value * shown.unit for value in arm.values.values() if math.isfinite(value)]
            axes.plot(values, [row + 0.17] * len(values), "|", color=colour, alpha=0.75, ms=6, mew=1)
            draw_interval(axes, arm.mean, shown.unit, row - 0.12, colour, "o")
            if arm.arm == study.baseline and math.isfinite(arm.mean.estimate):
                axes.axvline(arm.mean.estimate * shown.unit, color=RULE, lw=0.8, dashes=(3, 2), zorder=0)
        axes.margins(x=0.04)
        return axes.figure  # type: ignore[return-value]

    levels = {arm.mean.level for arm in measured if arm.n > 1}
    level = f" with its {display.percent(levels.pop())} interval" if len(levels) == 1 else ""
    counts = sorted({arm.n for arm in measured})
    runs = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    return Picture(
        "arms",
        f"{shown.name} of every arm",
        f"Each tick is one run ({runs} an arm), the dot their mean{level}; the dashed line is the baseline's mean. "
        f"{shown.direction.capitalize()}. Runs are paired by block, so overlapping intervals here decide nothing.",
        "; ".join(
            f"{arm.label}: mean {shown.value(arm.mean.estimate)}, interval {shown.interval(arm.mean)}, n {arm.n}"
            for arm in measured
        ),
        draw,
    )


def differences(findings: Findings, study: Study) -> Picture | None:
    """Paired differences of every declared contrast with interval, zero and margin."""
    measured = [contrast for contrast in findings.contrasts if math.isfinite(contrast.interval.estimate)]
    if not measured:
        return None
    shown = tables.primary(findings, study)
    labels, reference = _names(measured, study)
    step = f" ({shown.step})" if shown.step else ""
    axis = (
        f"{shown.label}, difference from {drawing.wrap(reference, 30, 1)}{step}"
        if reference
        else f"difference in {shown.label}{step}"
    )

    def draw() -> Figure:
        axes = row_axes(labels, axis, right_in=1.12)
        axes.axvline(0, color=INK, lw=0.8, zorder=1)
        for row, contrast in enumerate(measured):
            _difference(axes, row, contrast, shown.unit)
        axes.margins(x=0.05)
        return axes.figure  # type: ignore[return-value]

    margin = " The shaded band is the declared margin." if any(c.margin is not None for c in measured) else ""
    thick = next((display.percent(c.intervals["tost"].level) for c in measured if "tost" in c.intervals), "")
    inner = f" The thick part is the {thick} interval of an equivalence test by t, not corrected." if thick else ""
    level = display.percent(measured[0].interval.level)
    return Picture(
        "differences",
        f"Differences in {shown.label}, arm minus reference",
        f"Each tick is one block, the marker their mean with its {level} interval.{inner}{margin} "
        f"{shown.direction.capitalize()}.",
        "; ".join(
            f"{_flat(label)}: {shown.difference(contrast.interval.estimate)} "
            f"{shown.interval(contrast.interval, signed=True)}, {contrast.verdict.word}"
            for label, contrast in zip(labels, measured, strict=True)
        ),
        draw,
    )


def _difference(axes: Axes, row: int, contrast: ContrastResult, unit: float) -> None:
    word = contrast.verdict.word
    if contrast.margin is not None:
        wide = contrast.margin * unit
        axes.fill_between([-wide, wide], row - 0.42, row + 0.42, color=BAND, lw=0, zorder=0)
    values = [value * unit for value in contrast.differences]
    axes.plot(values, [row + 0.19] * len(values), "|", color=MUTED, alpha=0.8, ms=6, mew=1)
    draw_interval(axes, contrast.interval, unit, row - 0.12, WORD[word], MARKER[word])
    inner = contrast.intervals.get("tost")
    if inner is not None and math.isfinite(inner.low) and math.isfinite(inner.high):
        axes.plot(
            [inner.low * unit, inner.high * unit],
            [row - 0.12] * 2,
            color=WORD[word],
            lw=3,
            solid_capstyle="butt",
            zorder=2,
        )
    axes.annotate(
        f"{display.SYMBOL[word]} {word}",
        (1, row),
        xycoords=("axes fraction", "data"),
        xytext=(8, 0),
        textcoords="offset points",
        va="center",
        color=WORD[word],
        fontsize=drawing.TEXT,
    )


def slopes(findings: Findings, study: Study) -> Picture | None:
    """Paired slopes: one small panel a contrast, one line a block."""
    by_name = {arm.arm: arm for arm in findings.arms}
    measured = [contrast for contrast in findings.contrasts if contrast.blocks]
    if not measured:
        return None
    shown = tables.primary(findings, study)
    labels, _ = _names(measured, study)

    def draw() -> Figure:
        across = min(3, len(measured))
        lines = 1 + max(label.count("\n") for label in labels)
        down = math.ceil(len(measured) / across)
        left, gap, each_w, each_h, head = 0.55, 0.28, 1.27, 1.35, 0.36 + 0.145 * lines
        figure = drawing.canvas(down * (each_h + head) + 0.08)
        height = figure.get_size_inches()[1]
        values = [by_name[name].values[b] for c in measured for name in (c.reference, c.arm) for b in c.blocks]
        low, high = min(values) * shown.unit, max(values) * shown.unit
        room = 0.05 * (high - low) or abs(high) * 0.01 or 1.0
        for index, contrast in enumerate(measured):
            x = left + (index % across) * (each_w + gap)
            y = height - (index // across + 1) * (each_h + head) + 0.24
            axes = drawing.panel(figure, x, y, each_w, each_h)
            axes.set_xlim(-0.12, 1.12)
            axes.set_ylim(low - room, high + room)
            axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
            if index % across:
                axes.set_yticklabels([])
                axes.tick_params(axis="y", length=0)
            _slope(axes, contrast, by_name, study, shown.unit)
            axes.set_title(labels[index], fontsize=drawing.SMALL, color=INK, loc="left", pad=4, linespacing=1.05)
        return figure

    return Picture(
        "slopes",
        f"{shown.name} block by block",
        "Each line is one block, from the reference (left) to the arm (right): solid where the arm is better, dashed "
        f"where it is worse. The thick line joins the means. {shown.direction.capitalize()}.",
        "; ".join(_wins(label, contrast, study) for label, contrast in zip(labels, measured, strict=True)),
        draw,
    )


def _wins(label: str, contrast: ContrastResult, study: Study) -> str:
    sign = 1 if study.outcome.higher_is_better else -1
    won = sum(sign * value > 0 for value in contrast.differences)
    return f"{_flat(label)}: arm better on {won} of {len(contrast.differences)} blocks"


def _flat(label: str) -> str:
    return label.replace("\n", " ")


def _slope(axes: Axes, contrast: ContrastResult, by_name: dict[str, ArmSummary], study: Study, unit: float) -> None:
    before = [by_name[contrast.reference].values[block] * unit for block in contrast.blocks]
    after = [by_name[contrast.arm].values[block] * unit for block in contrast.blocks]
    for start, end in zip(before, after, strict=True):
        better = (end > start) == study.outcome.higher_is_better and end != start
        style = "-" if better or end == start else (0, (3, 1.6))
        colour = OTHER if end == start else WORD["better"] if better else WORD["worse"]
        axes.plot([0, 1], [start, end], color=colour, lw=0.8, alpha=0.8, linestyle=style)
    means = [math.fsum(values) / len(values) for values in (before, after)]
    axes.plot([0, 1], means, color=INK, lw=1.8, marker="o", ms=3.5)
    axes.set_xticks([0, 1], ["ref.", "arm"])


def paper(findings: Findings, study: Study) -> Picture | None:
    """Each contrast as the paper printed it and as it came out here."""
    agreement = findings.agreement
    found = [(pair, pair.ours) for pair in agreement.contrasts if pair.ours is not None] if agreement else []
    pairs = [pair for pair, _ in found]
    if not pairs:
        return None
    named = tables.labels(study)
    one_reference = len({pair.reference for pair in pairs}) == 1
    one_dataset = len({pair.dataset for pair in pairs}) == 1
    labels = [
        drawing.wrap(
            named[pair.arm]
            + ("" if one_reference else f" {display.MINUS} {named[pair.reference]}")
            + ("" if one_dataset else f", {pair.dataset}"),
            LABEL + 4,
        )
        for pair in pairs
    ]
    axis = f"difference from {drawing.wrap(named[pairs[0].reference], 30, 1)}" if one_reference else "difference"
    elsewhere = dict.fromkeys(pair.ours_on for pair in pairs if pair.ours_on)
    on = f" (on {display.listing(elsewhere)}, not on the paper's data)" if elsewhere else ""

    def draw() -> Figure:
        axes = row_axes(labels, f"{axis}, in the paper's unit", head_in=0.3)
        axes.axvline(0, color=INK, lw=0.8, zorder=1)
        for row, (pair, ours) in enumerate(found):
            colour = MUTED if pair.agree is None else ARM if pair.agree else WORD["worse"]
            axes.plot(
                [pair.published, ours], [row, row], color=colour, lw=1, linestyle=":" if pair.agree is False else "-"
            )
            axes.plot(pair.published, row, "D", mfc="white", mec=colour, ms=5)
            axes.plot(ours, row, "o", color=colour, ms=5)
        axes.legend(
            handles=[
                Line2D([], [], marker="D", mfc="white", mec=MUTED, ls="", ms=5, label="paper"),
                Line2D([], [], marker="o", color=MUTED, ls="", ms=5, label="here"),
            ],
            loc="lower right",
            bbox_to_anchor=(1, 1),
            ncols=2,
            frameon=False,
            fontsize=drawing.SMALL,
            labelcolor=INK,
            handletextpad=0.2,
        )
        axes.margins(x=0.06)
        return axes.figure  # type: ignore[return-value]

    return Picture(
        "paper",
        "The paper's differences and ours",
        f"Open diamonds are printed, dots measured here{on}; a dotted line joins two of opposite sign. Not a "
        "replication: what differs in protocol stands below.",
        "; ".join(
            f"{_flat(label)}: paper {tables.signed(pair.published)}, here {tables.signed(ours)}"
            for label, (pair, ours) in zip(labels, found, strict=True)
        ),
        draw,
    )


def _names(contrasts: Sequence[ContrastResult], study: Study) -> tuple[list[str], str]:
    """A label for each contrast, and the reference's where all have the same: then the labels name the arms only."""
    named = tables.labels(study)
    references = {contrast.reference for contrast in contrasts}
    datasets = {contrast.dataset for contrast in contrasts}
    labels = []
    for contrast in contrasts:
        lines = [drawing.wrap(named[contrast.arm], LABEL, 2)]
        if len(references) > 1:
            lines.append(drawing.wrap(f"{display.MINUS} {named[contrast.reference]}", LABEL, 1))
        if len(datasets) > 1:
            lines.append(drawing.wrap(f"on {contrast.dataset or 'all data'}", LABEL, 1))
        labels.append("\n".join(lines))
    return labels, named[references.pop()] if len(references) == 1 else ""


def row_axes(
    labels: Sequence[str],
    axis: str,
    emphasised: Sequence[bool] = (),
    *,
    right_in: float = 0.15,
    head_in: float = 0.12,
    least_in: float = 0.3,
) -> Axes:
    """Axes with a labelled row each, at least `least_in` high, and a named horizontal axis."""
    left = drawing.label_width_in(labels)
    row = drawing.label_height_in(labels, least_in)
    name = drawing.wrap(axis, int((drawing.WIDTH_IN - right_in) / 0.083))
    low = 0.5 + 0.17 * name.count("\n")
    figure = drawing.canvas(row * len(labels) + low + head_in)
    axes = drawing.panel(figure, left, low, drawing.WIDTH_IN - left - right_in, row * len(labels))
    drawing.row_labels(axes, labels, emphasised)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.set_xlabel(name, color=MUTED, fontsize=drawing.TEXT, loc="right")
    for index in range(1, len(labels)):
        axes.axhline(index - 0.5, color=RULE, lw=0.4, zorder=0)
    return axes


def draw_interval(axes: Axes, interval: Interval, unit: float, y: float, colour: str, marker: str) -> None:
    """The estimate as a marker on its interval, at height `y`; an interval that is not finite is left out."""
    if math.isfinite(interval.low) and math.isfinite(interval.high):
        axes.plot([interval.low * unit, interval.high * unit], [y, y], color=colour, lw=1.3, solid_capstyle="butt")
    axes.plot(interval.estimate * unit, y, marker, color=colour, ms=6, mec="white", mew=0.6, zorder=3)
