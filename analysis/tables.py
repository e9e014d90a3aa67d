"""Findings as tables, each number as it is shown; and the whole answer for a terminal, in Markdown and in LaTeX."""

import dataclasses
import math
import textwrap
from collections.abc import Sequence
from typing import TypeVar

from analysis import display, facts, search, typeset, wording
from analysis.display import Quantity
from analysis.findings import ArmSummary, ContrastResult, Findings
from analysis.typeset import Column, Row, Table
from search_spaces.study import Study

T = TypeVar("T")
NOT_DECLARED = "Described; the verdicts rest on the declared contrasts."
"""Said of every test that the study did not declare."""


def primary(findings: Findings, study: Study) -> Quantity:
    """How the primary outcome is shown."""
    return display.quantity(study.outcome, findings.arms, findings.contrasts)


def labels(study: Study) -> dict[str, str]:
    """Arm name -> label."""
    return {arm.name: arm.label or arm.name for arm in study.arms}


def arms(findings: Findings, study: Study) -> Table:
    """Every arm: blocks finished, mean with its interval, standard deviation."""
    shown = primary(findings, study)
    return _arms(findings.arms, shown, study, "arms", f"{shown.name} of every arm; {shown.direction}.")


def secondary(findings: Findings, study: Study) -> tuple[Table, ...]:
    """Every secondary outcome that was measured; described, never tested."""
    tables = []
    for outcome in study.secondary:
        summaries = findings.secondary.get(outcome.metric, ())
        if any(arm.n for arm in summaries):
            shown = display.quantity(outcome, summaries)
            caption = f"{shown.name} of every arm; {shown.direction}. Described, not tested."
            tables.append(dataclasses.replace(_arms(summaries, shown, study, outcome.metric, caption), notes=()))
    return tuple(tables)


def _arms(summaries: Sequence[ArmSummary], shown: Quantity, study: Study, name: str, caption: str) -> Table:
    level = next((display.percent(arm.mean.level) for arm in summaries if arm.n > 1), "95%")
    columns = (
        Column("arm", "left"),
        Column("n"),
        Column(shown.name),
        Column(f"{level} interval"),
        Column("SD"),
    )
    rows = tuple(
        Row(
            (
                arm.label,
                str(arm.n),
                shown.value(arm.mean.estimate),
                shown.interval(arm.mean),
                shown.value(arm.sd),
            ),
            baseline=arm.arm == study.baseline,
        )
        for arm in summaries
    )
    return Table(name, caption, columns, rows, wording.missing(summaries))


def interquartile(findings: Findings, study: Study) -> Table | None:
    """Every arm's interquartile mean over several datasets; None where it was not computed."""
    if not findings.interquartile:
        return None
    shown = primary(findings, study)
    named = labels(study)
    level = display.percent(next(iter(findings.interquartile.values())).level)
    columns = (Column("arm", "left"), Column(f"{shown.name}, middle half"), Column(f"{level} interval"))
    rows = tuple(
        Row((named[arm], shown.value(mean.estimate), shown.interval(mean)), baseline=arm == study.baseline)
        for arm, mean in findings.interquartile.items()
    )
    caption = (
        f"Interquartile mean of {shown.label} over all datasets together; {shown.direction}. Described, not tested."
    )
    note = (
        "The mean of the middle half of all runs: single runs far off move it less than the mean. Intervals: runs are "
        "resampled within each dataset, so they speak about seeds on these datasets."
    )
    return Table("interquartile", caption, columns, rows, (note,))


def contrasts(findings: Findings, study: Study) -> Table:
    """Every declared contrast: difference, interval, the corrected p its verdict rests on, verdict."""
    shown = primary(findings, study)
    named = labels(study)
    level = display.percent(findings.contrasts[0].interval.level) if findings.contrasts else "95%"
    step = f" ({shown.step})" if shown.step else ""
    references = {contrast.reference for contrast in findings.contrasts}
    datasets = any(contrast.dataset for contrast in findings.contrasts)
    margins = any(contrast.margin is not None for contrast in findings.contrasts)

    kept = {"against": len(references) > 1, "data": datasets, "margin": margins, "p, equivalence": margins}

    def chosen(every: dict[str, T]) -> tuple[T, ...]:
        return tuple(value for head, value in every.items() if kept.get(head, True))

    words = ("arm", "against", "data", "verdict", "claim")
    heads = (
        *words[:4],
        f"difference{step}",
        f"{level} interval",
        "p, difference",
        "p, equivalence",
        "n",
        "claim",
        "margin",
    )
    columns = {head: Column(head, "left" if head in words else "right") for head in heads}

    def cells(contrast: ContrastResult) -> dict[str, str]:
        p_difference, p_equivalence = deciding(contrast)
        texts = (
            named[contrast.arm],
            named[contrast.reference],
            contrast.dataset or "all",
            f"{display.SYMBOL[contrast.verdict.word]} {contrast.verdict.word}",
            shown.difference(contrast.interval.estimate),
            shown.interval(contrast.interval, signed=True),
            display.p_value(p_difference),
            display.p_value(p_equivalence),
            str(len(contrast.blocks)),
            contrast.claim,
            display.MISSING if contrast.margin is None else f"±{shown.margin(contrast.margin)}",
        )
        return dict(zip(columns, texts, strict=True))

    found = tuple(Row(chosen(cells(contrast)), contrast.verdict.word) for contrast in findings.contrasts)
    reference = f"arm minus {named[references.pop()]}" if len(references) == 1 else "arm minus reference"
    corrected = "" if study.correction == "none" else "; p corrected, intervals not"
    caption = f"Paired differences in {shown.label}, {reference}, over shared blocks{corrected}; {shown.direction}."
    return Table("contrasts", caption, chosen(columns), found)


def deciding(contrast: ContrastResult) -> tuple[float, float]:
    """The corrected p of difference and of equivalence that the verdict rests on; NaN where one was not asked for."""
    other = contrast.other_p
    if contrast.claim == "equivalence":
        return other.get("difference (corrected)", math.nan), contrast.p_adjusted
    return contrast.p_adjusted, other.get("equivalence (corrected)", math.nan)


def blocks(findings: Findings, study: Study) -> Table:
    """The outcome of every single run: a row for each block, a column for each arm."""
    shown = primary(findings, study)
    every = list(dict.fromkeys(b for arm in findings.arms for b in [*arm.values, *arm.failed, *arm.pending]))

    def cell(arm: ArmSummary, block: str) -> str:
        if block in arm.values:
            return shown.value(arm.values[block])
        return "failed" if block in arm.failed else "pending" if block in arm.pending else display.MISSING

    scale = facts.size(study, findings.scale)
    planned = {block.name: order for order, block in enumerate(scale.blocks if scale else ())}
    every.sort(key=lambda block: planned.get(block, len(planned)))
    columns = (Column("block", "left"), *(Column(arm.label) for arm in findings.arms))
    found = tuple(Row((block, *(cell(arm, block) for arm in findings.arms))) for block in every)
    return Table("blocks", f"{shown.name} of every run at its selected epoch.", columns, found)


def settings(study: Study) -> Table:
    """The config fields in which the arms differ."""
    varied, values = facts.differing(study)
    columns = (Column("arm", "left"), *(Column(name, "left") for name in varied))
    named = labels(study)
    found = tuple(Row((named[arm], *values[arm]), baseline=arm == study.baseline) for arm in values)
    return Table("settings", "What differs between the arms; all other fields are equal.", columns, found)


def further(findings: Findings, study: Study) -> Table:
    """Cross-checks of every contrast: other tests (uncorrected), effect sizes, other intervals, blocks left out."""
    shown = primary(findings, study)
    named = labels(study)
    found = []
    for contrast in findings.contrasts:
        pair = f"{named[contrast.arm]} \N{MINUS SIGN} {named[contrast.reference]}"
        lines = [("test declared: " + contrast.test, display.p_value(contrast.p))]
        lines += [(f"p, {name}", display.p_value(p)) for name, p in contrast.other_p.items()]
        lines += [(name, display.fixed(value, 2)) for name, value in contrast.effects.items()]
        lines += [
            (f"{display.percent(interval.level)} interval, {name}", shown.interval(interval, signed=True))
            for name, interval in contrast.intervals.items()
        ]
        lines.append(("smallest p of an exact two-sided sign-flip test", display.p_value(contrast.p_attainable)))
        if contrast.verdict.blocks_needed is not None:
            lines.append(("blocks that would likely decide (power 0.8)", str(contrast.verdict.blocks_needed)))
        lines += [(f"left out: {block}", why) for block, why in contrast.dropped.items()]
        found += [Row((pair if not index else "", *line)) for index, line in enumerate(lines)]
    columns = (Column("contrast", "left"), Column("measure", "left"), Column("value", "left"))
    return Table(
        "further",
        "Cross-checks, p not corrected unless said; the verdicts rest on the declared test.",
        columns,
        tuple(found),
    )


def ranks(findings: Findings, study: Study) -> Table | None:
    """Mean ranks, and every pair's corrected p."""
    if findings.ranks is None:
        return None
    named = labels(study)
    columns = (
        Column("arm", "left"),
        Column("against", "left"),
        Column("mean ranks"),
        Column("p, Conover (Holm)"),
        Column("p, Nemenyi"),
    )
    mean = findings.ranks.mean
    found = tuple(
        Row(
            (
                named[pair.arm],
                named[pair.other],
                f"{display.fixed(mean[pair.arm], 2)} and {display.fixed(mean[pair.other], 2)}",
                display.p_value(pair.conover),
                display.p_value(pair.nemenyi),
            )
        )
        for pair in findings.ranks.pairs
    )
    return Table(
        "ranks",
        "All pairs of arms by their ranks; rank 1 is the best. Described; the verdicts rest on the declared contrasts.",
        columns,
        found,
    )


def factors(findings: Findings) -> Table | None:
    """Main effects and interaction of a two-factor design."""
    if findings.factorial is None:
        return None
    columns = (Column("effect", "left"), Column("p"), Column("share of variance"), Column("test", "left"))
    found = tuple(
        Row(
            (
                effect.name.replace(":", " × "),
                display.p_value(effect.p),
                f"{display.fixed(effect.share * 100, 0)}%" if effect.share == effect.share else display.MISSING,
                effect.test,
            )
        )
        for effect in findings.factorial.effects
    )
    caption = f"Effects of the two factors, n = {findings.factorial.n} blocks; p not corrected. {NOT_DECLARED}"
    return Table("factors", caption, columns, found)


def marginal(findings: Findings, study: Study) -> Table | None:
    """Marginal mean of every level of a two-factor design."""
    found = findings.factorial
    if found is None:
        return None
    shown = primary(findings, study)
    levels = [(factor, level, mean) for factor, means in found.marginal.items() for level, mean in means.items()]
    interval = f"{display.percent(levels[0][2].level)} interval"
    columns = (Column("factor", "left"), Column("level", "left"), Column(shown.name), Column(interval))
    rows = tuple(
        Row((factor, level, shown.value(mean.estimate), shown.interval(mean))) for factor, level, mean in levels
    )
    caption = f"Marginal means of {shown.label}, over all levels of the other factor; {shown.direction}."
    return Table("marginal", caption, columns, rows)


def published(findings: Findings, study: Study) -> Table | None:
    """The paper's numbers beside ours, both in the unit of the paper's table."""
    if findings.agreement is None:
        return None
    named = labels(study)
    columns = (
        Column("arm", "left"),
        Column("data", "left"),
        Column("metric", "left"),
        Column("paper"),
        Column("here"),
        Column("n"),
        Column("printed in", "left"),
    )
    decimals = {
        metric: max(_decimals(row.published) for row in findings.agreement.rows if row.metric == metric)
        for metric in {row.metric for row in findings.agreement.rows}
    }
    found = tuple(
        Row(
            (
                named.get(row.arm, row.arm),
                row.dataset,
                row.metric,
                f"{row.published:.{decimals[row.metric]}f}",
                "not run" if row.ours is None else display.fixed(row.ours, 2),
                str(row.n),
                row.where,
            )
        )
        for row in findings.agreement.rows
    )
    return Table("published", "The paper's numbers beside ours, in the paper's unit.", columns, found)


def _decimals(printed: float) -> int:
    """Decimals that a printed number has, at most 6."""
    return len(f"{printed:.6f}".rstrip("0").partition(".")[2])


def published_contrasts(findings: Findings, study: Study) -> Table | None:
    """Each declared contrast as printed and as measured here; ours on other data than the paper's names it."""
    if findings.agreement is None or not findings.agreement.contrasts:
        return None
    named = labels(study)
    columns = (
        Column("arm", "left"),
        Column("against", "left"),
        Column("data", "left"),
        Column("paper"),
        Column("here"),
        Column("sign", "left"),
    )
    sign = {True: "same", False: "opposite", None: display.MISSING}
    found = tuple(
        Row(
            (
                named[pair.arm],
                named[pair.reference],
                pair.dataset + (f" (here: {pair.ours_on})" if pair.ours_on and pair.ours is not None else ""),
                signed(pair.published),
                "not run" if pair.ours is None else signed(pair.ours),
                sign[pair.agree],
            )
        )
        for pair in findings.agreement.contrasts
    )
    return Table("published_contrasts", "The declared contrasts, as printed and here.", columns, found)


def signed(number: float) -> str:
    """A printed difference with its sign, two decimals."""
    return Quantity("", 1.0, 2).difference(number)


def costs(found: Sequence[facts.Cost], study: Study) -> Table:
    """What a run of every arm that has one cost, and how many times the baseline's that is."""
    named = labels(study)
    kinds = [kind for kind in facts.COSTS if any(cost.kind == kind for cost in found)]
    known = {(cost.arm, cost.kind): cost for cost in found}
    against = any(cost.arm == study.baseline for cost in found)
    both = 2 if against else 1

    def cells(arm: str, kind: str) -> tuple[str, ...]:
        cost = known.get((arm, kind))
        if cost is None:
            return (display.MISSING, display.MISSING)[:both]
        show = display.seconds if kind == "seconds" else lambda value: display.amount(value, facts.COSTS[kind][1])
        return (f"{show(cost.mean)} ({show(cost.low)} to {show(cost.high)})", display.fixed(cost.times, 2))[:both]

    heads = [head for kind in kinds for head in (facts.COSTS[kind][0], "× baseline")[:both]]
    arms = [arm.name for arm in study.arms if any(cost.arm == arm.name for cost in found)]
    rows = {arm: [cell for kind in kinds for cell in cells(arm, kind)] for arm in arms}
    body = tuple(Row((named[arm], *row), baseline=arm == study.baseline) for arm, row in rows.items())
    caption = "Cost of a finished run: mean (smallest to largest)"
    caption += ", and over the baseline's on the blocks of both." if against else "."
    return Table("costs", caption, (Column("arm", "left"), *map(Column, heads)), body)


def departures(found: Sequence[facts.Departure]) -> Table | None:
    """What this scale does otherwise than the paper's."""
    if not found:
        return None
    columns = (Column("what", "left"), Column("paper", "left"), Column("here", "left"))
    body = tuple(Row((entry.what, entry.paper, entry.here)) for entry in found)
    return Table("departures", "What differs from the paper's protocol.", columns, body)


def failures(found: Sequence[facts.Failure]) -> Table:
    """Every run without a value, and why."""
    columns = (
        Column("arm", "left"),
        Column("block", "left"),
        Column("reason", "left"),
        Column("error", "left"),
        Column("epochs"),
        Column("attempts"),
        Column("trial", "left"),
    )
    body = tuple(
        Row((lost.arm, lost.block, lost.reason, lost.error, str(lost.epochs), str(lost.attempts), lost.trial))
        for lost in found
    )
    caption = "Runs that failed or gave no value. A comparison leaves out a block that one of its arms failed on."
    return Table("failures", caption, columns, body)


def terminal(findings: Findings, study: Study, *, width: int = 100) -> str:
    """The whole answer for a terminal: verdict, arms, contrasts with their sentences, warnings. No control codes."""

    def wrapped(sentence: str, first: str = "", rest: str | None = None) -> str:
        indent = " " * len(first) if rest is None else rest
        clean = typeset.one_line(sentence)
        return textwrap.fill(clean, width, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)

    parts = [
        wrapped(study.question),
        wrapped(wording.headline(findings, study)),
        typeset.text(search.table(findings, study) or arms(findings, study), width),
    ]
    if findings.contrasts:
        sentences = [
            wrapped(contrast.verdict.sentence, f"{display.SYMBOL[contrast.verdict.word]} ")
            for contrast in findings.contrasts
            if contrast.verdict.sentence
        ]
        parts += [
            typeset.text(contrasts(findings, study), width),
            "\n".join(sentences),
            wrapped(wording.tests(findings, study)),
        ]
    if findings.warnings:
        parts.append("\n".join(wrapped(warning, "! ") for warning in findings.warnings))
    parts.append(wrapped(wording.scale_note(findings, study)))
    return "\n\n".join(part for part in parts if part)


def markdown(findings: Findings, study: Study) -> str:
    """Arms and contrasts as GitHub tables, with the question, the verdict, the warnings and the scale around them."""
    parts = [
        f"### {typeset.escape_markdown(study.question)}",
        f"**{typeset.escape_markdown(wording.headline(findings, study))}**",
        *(typeset.markdown(found) for found in [search.table(findings, study)] if found is not None),
        typeset.markdown(arms(findings, study)),
    ]
    middle = interquartile(findings, study)
    if middle is not None:
        parts.append(typeset.markdown(middle))
    if findings.contrasts:
        parts += [typeset.markdown(contrasts(findings, study)), typeset.escape_markdown(wording.tests(findings, study))]
    if findings.warnings:
        parts.append("\n".join(f"- {typeset.escape_markdown(warning)}" for warning in findings.warnings))
    parts.append(typeset.escape_markdown(wording.scale_note(findings, study)))
    return "\n\n".join(parts) + "\n"


def latex(findings: Findings, study: Study) -> str:
    r"""Arms and contrasts as booktabs tables, to be read in with \input."""
    header = "% Needs \\usepackage{booktabs} and LaTeX's default UTF-8 input; \\input this file.\n"
    tables = [arms(findings, study)]
    if findings.contrasts:
        tables.append(contrasts(findings, study))
    notes = {"contrasts": wording.tests(findings, study)}
    body = [
        typeset.latex(table, study.name, notes.get(table.name, wording.headline(findings, study))) for table in tables
    ]
    return header + "\n".join(body)
