"""Figures of a design: the critical-difference diagram of ranks, the heat map of two factors, what a search found."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from analysis import display, drawing, search, tables
from analysis.drawing import ARM, INK, MUTED, OTHER, RULE, Picture
from analysis.findings import Factorial, Findings, Ranks
from search_spaces.study import Study

HEAT = LinearSegmentedColormap.from_list("heat", ["#f2f4f8", "#a9c3e2", "#4a80bd", "#123c6e"])
LIGHT, DARK = "#fdfdfe", "#15161a"


def ranks(findings: Findings, study: Study) -> Picture | None:
    """Critical-difference diagram: arms on the line of mean ranks, bars join those that Nemenyi's test can't part."""
    found = findings.ranks
    if found is None:
        return None
    named = tables.labels(study)
    order = sorted(found.mean, key=lambda arm: found.mean[arm])
    bars = groups([found.mean[arm] for arm in order], found.critical_difference)

    def draw() -> Figure:
        half = math.ceil(len(order) / 2)
        names = [drawing.wrap(f"{named[arm]} {display.fixed(found.mean[arm], 2)}", 21, 2) for arm in order]
        row = 0.36 if any("\n" in name for name in names) else 0.25
        height = 0.75 + 0.12 * len(bars) + row * half + 0.1
        figure = drawing.canvas(height)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, drawing.WIDTH_IN)
        axes.set_ylim(height, 0)
        _rank_line(axes, found, len(order))
        places = [_place(found.mean[arm], len(order)) for arm in order]
        _rank_names(axes, list(zip(names, places, strict=True)), 0.62 + 0.12 * len(bars), row)
        for index, (first, last) in enumerate(bars):
            y = 0.66 + 0.12 * index
            axes.plot([places[first] - 0.04, places[last] + 0.04], [y, y], color=INK, lw=3, solid_capstyle="butt")
        return figure

    return Picture(
        "ranks",
        f"Mean ranks over {found.n} blocks",
        "Rank 1 is the best. A bar joins arms whose mean ranks differ by less than Nemenyi's critical difference "
        f"({display.fixed(found.critical_difference, 2)}); Friedman's test over all arms: {display.p_equals(found.p)}. "
        "Described; the verdicts rest on the declared contrasts.",
        "; ".join(f"{named[arm]}: mean rank {display.fixed(found.mean[arm], 2)}" for arm in order),
        draw,
    )


def groups(means: list[float], critical: float) -> list[tuple[int, int]]:
    """First and last index of every longest run of sorted mean ranks that spans less than the critical difference."""
    found: list[tuple[int, int]] = []
    for first in range(len(means)):
        last = max(i for i in range(first, len(means)) if i == first or means[i] - means[first] < critical)
        if last > first and not (found and found[-1][1] >= last):
            found.append((first, last))
    return found


def _place(rank: float, count: int) -> float:
    """Inches from the left of a rank: 1 at the left end of the line."""
    left, right = 1.7, drawing.WIDTH_IN - 1.7
    return left + (right - left) * (rank - 1) / max(count - 1, 1)


def _rank_line(axes: Axes, found: Ranks, count: int) -> None:
    start, end = _place(1, count), _place(count, count)
    axes.plot([start, end], [0.5, 0.5], color=INK, lw=0.9)
    step = max(1, math.ceil(count / 8))
    for rank in range(1, count + 1, step):
        x = _place(rank, count)
        axes.plot([x, x], [0.44, 0.5], color=INK, lw=0.8)
        axes.text(x, 0.4, str(rank), ha="center", va="bottom", fontsize=drawing.SMALL, color=MUTED)
    wide = _place(1 + found.critical_difference, count) - start
    if math.isfinite(wide):
        stop = min(start + wide, drawing.WIDTH_IN - 0.1)
        axes.plot([start, stop], [0.14, 0.14], color=MUTED, lw=1.2, marker="|", ms=5)
        text = f"critical difference {display.fixed(found.critical_difference, 2)}"
        axes.text(start - 0.08, 0.14, text, ha="right", va="center", fontsize=drawing.SMALL, color=MUTED)


def _rank_names(axes: Axes, arms: list[tuple[str, float]], top: float, row: float) -> None:
    """Names and places of the arms: the better half at the left from the top, the other at the right from below."""
    half = math.ceil(len(arms) / 2)
    for index, (name, x) in enumerate(arms):
        left = index < half
        y = top + row * ((index if left else len(arms) - 1 - index) + 0.5)
        edge = 1.6 if left else drawing.WIDTH_IN - 1.6
        axes.plot([x, x, edge], [0.5, y, y], color=RULE, lw=0.8, zorder=0)
        axes.plot([x], [0.5], "o", color=INK, ms=3)
        axes.text(
            edge - 0.05 if left else edge + 0.05,
            y,
            name,
            ha="right" if left else "left",
            va="center",
            color=INK,
            fontsize=drawing.SMALL,
            linespacing=1.05,
        )


def factors(findings: Findings, study: Study) -> Picture | None:
    """Heat map of two factors: mean outcome in every cell, marginal means at the edges."""
    found = findings.factorial
    if found is None or not any(map(math.isfinite, found.means.values())):
        return None
    shown = tables.primary(findings, study)
    rows, columns = found.levels

    def draw() -> Figure:
        left = max(0.8, drawing.label_width_in([drawing.wrap(level, 14, 1) for level in rows]) + 0.25)
        cell_w = min(0.85, (drawing.WIDTH_IN - left - 0.1) / (len(columns) + 1.15))
        cell_h = 0.36
        figure = drawing.canvas(0.75 + cell_h * (len(rows) + 1.15))
        height = figure.get_size_inches()[1]
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, drawing.WIDTH_IN)
        axes.set_ylim(height, 0)
        _heat(axes, found, (left, 0.62, cell_w, cell_h), shown)
        return figure

    best = max if shown.higher_is_better else min
    top = best((value, cell) for cell, value in found.means.items() if math.isfinite(value))
    names = " and ".join(f"{factor} = {level}" for factor, level in zip(found.factors, top[1], strict=True))
    return Picture(
        "factors",
        f"{shown.name} by {found.factors[0]} and {found.factors[1]}",
        f"Means over {found.n} blocks; darker is higher, and {shown.direction}. The edges hold the marginal means.",
        f"Best mean {shown.value(top[0])} at {names}. "
        + "; ".join(f"{a}, {b}: {shown.value(value)}" for (a, b), value in found.means.items()),
        draw,
    )


def _heat(axes: Axes, found: Factorial, place: tuple[float, float, float, float], shown: display.Quantity) -> None:
    left, top, wide, high = place
    rows, columns = found.levels
    known = [value for value in found.means.values() if math.isfinite(value)]
    low, span = min(known), (max(known) - min(known)) or 1.0

    def write(x: float, y: float, value: float, colour: str = INK) -> None:
        axes.text(x, y, shown.value(value), ha="center", va="center", fontsize=drawing.TEXT, color=colour)

    axes.text(left, 0.16, found.factors[1], fontsize=drawing.TEXT, color=MUTED, va="center")
    axes.text(left - 0.12, top - 0.2, found.factors[0], fontsize=drawing.TEXT, color=MUTED, va="center", ha="right")
    edge_x, edge_y = left + wide * (len(columns) + 0.65), top + high * (len(rows) + 0.65)
    axes.text(edge_x, top - 0.16, "mean", ha="center", color=MUTED)
    axes.text(left - 0.12, edge_y, "mean", ha="right", va="center", color=MUTED)
    for j, column in enumerate(columns):
        x = left + wide * (j + 0.5)
        axes.text(x, top - 0.16, drawing.wrap(column, max(4, int(wide * 12)), 1), ha="center", color=INK)
        write(x, edge_y, found.marginal[found.factors[1]][column].estimate)
    for i, row in enumerate(rows):
        y = top + high * (i + 0.5)
        axes.text(left - 0.12, y, drawing.wrap(row, 14, 1), ha="right", va="center", color=INK)
        write(edge_x, y, found.marginal[found.factors[0]][row].estimate)
        for j, column in enumerate(columns):
            value = found.means.get((row, column), math.nan)
            share = (value - low) / span if math.isfinite(value) else 0.0
            face = HEAT(share) if math.isfinite(value) else "none"
            corner = (left + wide * j + 0.01, top + high * i + 0.01)
            axes.add_patch(Rectangle(corner, wide - 0.02, high - 0.02, facecolor=face, edgecolor="none"))
            write(left + wide * (j + 0.5), y, value, LIGHT if share > 0.55 else DARK)


def found(findings: Findings, study: Study) -> Picture | None:
    """Both objectives of every configuration; with one, its value in the order tried."""
    if study.tuning is None:
        return None
    tried = [one for one in search.candidates(findings, study) if all(map(math.isfinite, one.objectives))]
    if not tried:
        return None
    shown = search.quantities(findings, study)
    tops = {top.arm for top in search.tops(tried, shown)}

    def draw() -> Figure:
        figure = drawing.canvas(3.1)
        axes = drawing.panel(figure, 0.62, 0.5, drawing.WIDTH_IN - 0.9, 2.45)
        axes.spines["left"].set_visible(True)
        axes.spines["left"].set_color(RULE)
        for order, one in enumerate(tried):
            _point(axes, one, [quantity.unit for quantity in shown], order, named=one.arm in tops | {study.baseline})
        axes.set_xlabel(shown[0].name if len(shown) > 1 else "configuration", color=MUTED, fontsize=drawing.SMALL)
        axes.set_ylabel(shown[-1].name, color=MUTED, fontsize=drawing.SMALL)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.margins(0.08)
        return figure

    directions = ", ".join(f"{quantity.label}: {quantity.direction}" for quantity in shown)
    return Picture(
        "search",
        "What the search found",
        f"Filled: beaten by none; ring: trained in full; small: pruned after a short run. {directions}.",
        "; ".join(
            f"{one.arm}: " + ", ".join(q.value(value) for q, value in zip(shown, one.objectives, strict=True))
            for one in tried
        ),
        draw,
    )


def _point(axes: Axes, one: search.Candidate, units: Sequence[float], order: int, *, named: bool) -> None:
    values = [value * unit for value, unit in zip(one.objectives, units, strict=True)]
    x, y = values if len(values) > 1 else (order, values[0])
    if one.pruned:
        axes.plot(x, y, "o", color=OTHER, ms=2.5)
        return
    axes.plot(x, y, "o", color=ARM, ms=6, mfc=ARM if one.best else "none", mew=1.1)
    if named:
        axes.annotate(one.arm, (x, y), xytext=(5, 4), textcoords="offset points", color=INK, fontsize=drawing.SMALL)
