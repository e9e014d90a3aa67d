"""Several sweeps side by side: two commits, two machines, two scales. Described, never pooled and never tested.

Arms and contrasts are matched by name. What was measured on other blocks, at another scale or by other code stands
beside the numbers, so that a difference between columns is not read as an effect of the one thing a person had in mind.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import display, drawing, facts, figures, tables, tidy, typeset, wording
from analysis.drawing import Picture, Rendered
from analysis.findings import Findings, Interval
from analysis.frame import Frame
from analysis.report import environment, replace
from analysis.typeset import Column, Row, Table
from search_spaces.study import Study

FILE = "comparison.html"
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")


class ComparisonError(ValueError):
    """Sweeps that can't stand side by side. The message says which, and what is allowed."""


@dataclass(frozen=True)
class Side:
    """One sweep of a comparison."""

    name: str
    """For its column, for example 'main' or 'laptop'; each once."""
    frame: Frame
    study: Study
    findings: Findings


def write(sides: Sequence[Side], folder: Path) -> Path:
    """Writes comparison.html, its figure (SVG, PNG), comparison.md and comparison.csv to `folder`; returns the page.

    Raises:
        ComparisonError: fewer than two sides, a name twice, different outcomes, no arm in common.
    """
    check(sides)
    found = [arms(sides), contrasts(sides), differing(sides)]
    shown = [table for table in found if table.rows]
    picture = figure(sides)
    rendered = drawing.render(picture) if picture else None
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if rendered:
        replace(folder / "comparison.svg", rendered.svg)
        replace(folder / "comparison.png", rendered.png)
    replace(folder / "comparison.md", "\n\n".join(typeset.markdown(table) for table in shown) + "\n")
    records = [{"side": side.name} | row for side in sides for row in tidy.records(side.findings, side.study)]
    replace(folder / "comparison.csv", tidy.as_csv(records, ("side", *tidy.RECORD)))
    replace(folder / FILE, _page(sides, shown, rendered))
    return folder / FILE


def check(sides: Sequence[Side]) -> None:
    """Raises ComparisonError unless the sides can stand side by side."""
    names = [side.name for side in sides]
    if len(sides) < 2:
        raise ComparisonError(f"A comparison needs at least two sweeps; got {len(sides)}.")
    if len(set(names)) < len(names):
        raise ComparisonError(f"Sweeps to compare need names of their own; got {', '.join(names)}.")
    outcomes = {side.study.outcome.metric for side in sides}
    if len(outcomes) > 1:
        raise ComparisonError(
            f"Only sweeps of one outcome stand side by side; these have {', '.join(sorted(outcomes))}."
        )
    if not _shared([[arm.name for arm in side.study.arms] for side in sides]):
        raise ComparisonError(f"No two of {', '.join(names)} have an arm in common, so there is nothing to compare.")


def _shared(lists: Sequence[Sequence[str]]) -> list[str]:
    """Names that at least two of the lists have, in order of appearance."""
    every = [name for names in lists for name in dict.fromkeys(names)]
    return [name for name in dict.fromkeys(every) if every.count(name) > 1]


def _all(lists: Sequence[Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(name for names in lists for name in names))


def quantity(sides: Sequence[Side]) -> display.Quantity:
    """How the outcome is shown: with the most decimals that one of the sides deserves."""
    return max((tables.primary(side.findings, side.study) for side in sides), key=lambda shown: shown.decimals)


def arms(sides: Sequence[Side]) -> Table:
    """Each arm's mean, interval and n, a column for each side."""
    shown = quantity(sides)
    labels = {name: label for side in reversed(sides) for name, label in tables.labels(side.study).items()}
    baselines = {side.study.baseline for side in sides}

    def cell(side: Side, name: str) -> str:
        arm = next((arm for arm in side.findings.arms if arm.arm == name), None)
        if arm is None or not arm.n:
            return "not in it" if arm is None else "not run"
        return f"{shown.value(arm.mean.estimate)} {shown.interval(arm.mean)}, n = {arm.n}"

    names = _all([[arm.arm for arm in side.findings.arms] for side in sides])
    columns = (Column("arm", "left"), *(Column(side.name) for side in sides))
    found = tuple(
        Row((labels[name], *(cell(side, name) for side in sides)), baseline=name in baselines) for name in names
    )
    caption = f"{shown.name} of every arm: mean, interval, blocks; {shown.direction}."
    return Table("arms", caption, columns, found)


def contrasts(sides: Sequence[Side]) -> Table:
    """Each declared contrast's difference, interval and verdict, a column for each side."""
    shown = quantity(sides)
    labels = {name: label for side in reversed(sides) for name, label in tables.labels(side.study).items()}
    keys = list(dict.fromkeys((c.arm, c.reference, c.dataset) for side in sides for c in side.findings.contrasts))

    def cell(side: Side, key: tuple[str, str, str]) -> str:
        found = next((c for c in side.findings.contrasts if (c.arm, c.reference, c.dataset) == key), None)
        if found is None:
            declared = {(contrast.arm, contrast.reference, contrast.dataset) for contrast in side.study.contrasts}
            return "not run" if key in declared else "not declared"
        word = found.verdict.word
        values = f"{shown.difference(found.interval.estimate)} {shown.interval(found.interval, signed=True)}"
        return f"{display.SYMBOL[word]} {word}: {values}, n = {len(found.blocks)}"

    columns = (Column("contrast", "left"), *(Column(side.name, "left") for side in sides))
    rows = []
    for key in keys:
        name = f"{labels[key[0]]} {display.MINUS} {labels[key[1]]}" + (f", {key[2]}" if key[2] else "")
        rows.append(Row((name, *(cell(side, key) for side in sides))))
    step = f" ({shown.step})" if shown.step else ""
    caption = (
        f"Paired differences in {shown.label}{step}, interval and verdict; each verdict is of its own sweep alone."
    )
    return Table("contrasts", caption, columns, tuple(rows))


def differing(sides: Sequence[Side]) -> Table:
    """What differs between the sweeps besides their numbers: scale, blocks, settings, code, data, machine."""

    def said(side: Side) -> dict[str, str]:
        scale = facts.size(side.study, side.findings.scale)
        finished, wanted = wording.progress(side.findings)
        blocks = list(dict.fromkeys(side.frame.trials["block"]))
        about = {
            "study": side.study.name,
            "scale": side.findings.scale,
            "blocks": f"{len(blocks)}: {', '.join(blocks)}",
            "runs done": f"{finished} of {wanted}",
            "outcome": f"{side.study.outcome.label}, {wording.SELECTION[side.study.outcome.select]}",
        }
        return about | facts.settings(scale) | facts.made(side.frame)

    every = [said(side) for side in sides]
    names = _all([list(about) for about in every])
    rows = tuple(
        Row((name, *(about.get(name, display.MISSING) for about in every)))
        for name in names
        if len({about.get(name) for about in every}) > 1
    )
    columns = (Column("what", "left"), *(Column(side.name, "left") for side in sides))
    return Table("differing", "What differs between the sweeps besides their numbers.", columns, rows)


def figure(sides: Sequence[Side]) -> Picture | None:
    """The shared contrasts (or, without any, the shared arms), one marker for each side."""
    shown = quantity(sides)
    labels = {name: label for side in reversed(sides) for name, label in tables.labels(side.study).items()}
    pairs = [[f"{c.arm}\0{c.reference}\0{c.dataset}" for c in side.findings.contrasts] for side in sides]
    of_contrasts = bool(_shared(pairs))
    names = _shared(pairs if of_contrasts else [[arm.arm for arm in side.findings.arms] for side in sides])

    def interval(side: Side, name: str) -> Interval | None:
        if of_contrasts:
            key = tuple(name.split("\0"))
            return next((c.interval for c in side.findings.contrasts if (c.arm, c.reference, c.dataset) == key), None)
        return next((arm.mean for arm in side.findings.arms if arm.arm == name), None)

    def label(name: str) -> str:
        arm, *rest = name.split("\0")
        parts = [labels[arm], *([f"{display.MINUS} {labels[rest[0]]}"] if rest else []), *filter(None, rest[1:])]
        return "\n".join(drawing.wrap(part, figures.LABEL, 1) for part in parts)

    rows = [(label(name), [interval(side, name) for side in sides]) for name in names]
    rows = [row for row in rows if any(found is not None and math.isfinite(found.estimate) for found in row[1])]
    if not rows:
        return None
    axis = f"difference in {shown.label}" + (f" ({shown.step})" if shown.step else "") if of_contrasts else shown.name

    def draw() -> Figure:
        return _draw(rows, [side.name for side in sides], axis, shown, zero=of_contrasts)

    show: Callable[[float], str] = shown.difference if of_contrasts else shown.value
    return Picture(
        "comparison",
        f"{'Differences in ' if of_contrasts else ''}{shown.label} side by side",
        f"Means with their intervals, one marker for each sweep: {display.listing(side.name for side in sides)}.",
        "; ".join(
            f"{name}: "
            + ", ".join(f"{side.name} {show(i.estimate)}" for side, i in zip(sides, found, strict=True) if i)
            for name, found in ((text.replace("\n", " "), found) for text, found in rows)
        ),
        draw,
    )


def _draw(
    rows: Sequence[tuple[str, Sequence[Interval | None]]],
    names: Sequence[str],
    axis: str,
    shown: display.Quantity,
    *,
    zero: bool,
) -> Figure:
    labels = [label for label, _ in rows]
    axes = figures.row_axes(labels, axis, least_in=0.14 + 0.13 * len(names), head_in=0.3)
    if zero:
        axes.axvline(0, color=drawing.INK, lw=0.8, zorder=1)
    colours = (drawing.ARM, drawing.WORD["worse"], drawing.WORD["better"], drawing.WORD["equivalent"], drawing.MUTED)
    styles = [(colours[index % len(colours)], MARKERS[index % len(MARKERS)]) for index in range(len(names))]
    for row, (_, found) in enumerate(rows):
        for index, (interval, style) in enumerate(zip(found, styles, strict=True)):
            if interval is not None:
                y = row + (index - (len(names) - 1) / 2) * 0.7 / len(names)
                figures.draw_interval(axes, interval, shown.unit, y, *style)
    handles = [
        Line2D([], [], marker=marker, color=colour, ls="", ms=5, label=drawing.wrap(name, 24, 1))
        for name, (colour, marker) in zip(names, styles, strict=True)
    ]
    axes.legend(
        handles=handles,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=min(3, len(handles)),
        frameon=False,
        fontsize=drawing.SMALL,
        labelcolor=drawing.INK,
        handletextpad=0.2,
    )
    axes.margins(x=0.05)
    return axes.figure  # type: ignore[return-value]


def _page(sides: Sequence[Side], shown: Sequence[Table], rendered: Rendered | None) -> str:
    return (
        environment()
        .get_template("comparison.html.j2")
        .render(
            names=[side.name for side in sides],
            questions=_all([[side.study.question] for side in sides]),
            headlines=[(side.name, wording.headline(side.findings, side.study)) for side in sides],
            tables={table.name: table for table in shown},
            pictures={"comparison": rendered} if rendered else {},
            warnings=[(side.name, warning) for side in sides for warning in side.findings.warnings],
        )
    )
