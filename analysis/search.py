"""What a search found: every configuration with its objectives, and those that none beats in both.

Described, never tested: the best of many is best by luck too. What is chosen here is compared in a study of its own, on
seeds that the search has not seen.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis import display
from analysis.display import Quantity
from analysis.findings import Findings
from analysis.typeset import Column, Row, Table
from search_spaces.study import SHORT, Study


@dataclass(frozen=True)
class Candidate:
    """One configuration, as it was trained longest."""

    arm: str
    values: Mapping[str, float]
    objectives: tuple[float, ...]
    """Means over the blocks; NaN where one was not measured."""
    pruned: bool
    best: bool = False
    """No other is better in one objective and as good in the rest."""


def candidates(findings: Findings, study: Study) -> tuple[Candidate, ...]:
    """Every configuration in the order in which it was tried; none where the study tunes nothing."""
    if study.tuning is None:
        return ()
    reached = {metric: _means(findings, study, metric) for metric in study.tuning.objectives}
    there = {arm.name for arm in study.arms}
    found = []
    order = {
        name: place for place, name in enumerate(dict.fromkeys(arm.name.removesuffix(SHORT) for arm in study.arms))
    }
    for arm in sorted(study.arms, key=lambda arm: order[arm.name.removesuffix(SHORT)]):
        name = arm.name.removesuffix(SHORT)
        if arm.name != name and name in there:
            continue
        values = study.tuning.values(arm.config)
        objectives = tuple(reached[metric].get(arm.name, math.nan) for metric in study.tuning.objectives)
        found.append(Candidate(name, values, objectives, pruned=arm.name != name))
    whole = [one for one in found if not one.pruned and all(map(math.isfinite, one.objectives))]
    higher = [outcome.higher_is_better for outcome in study.objectives]
    best = {one.arm for one, on in zip(whole, front([one.objectives for one in whole], higher), strict=True) if on}
    return tuple(replace(one, best=one.arm in best) for one in found)


def front(points: Sequence[Sequence[float]], higher_is_better: Sequence[bool]) -> list[bool]:
    """Whether each point (objectives,) is on the Pareto front: none is as good in all objectives and better in one."""
    signs = np.where(np.asarray(higher_is_better, dtype=bool), 1.0, -1.0)
    x_NO = np.asarray(points, dtype=float).reshape(len(points), len(signs)) * signs
    return [not bool(((x_NO >= x_O).all(1) & (x_NO > x_O).any(1)).any()) for x_O in x_NO]


def _means(findings: Findings, study: Study, metric: str) -> dict[str, float]:
    arms = findings.arms if metric == study.outcome.metric else findings.secondary.get(metric, ())
    return {arm.arm: arm.mean.estimate for arm in arms}


def quantities(findings: Findings, study: Study) -> list[Quantity]:
    """How each objective is shown."""
    shown = []
    for outcome in study.objectives:
        primary = outcome.metric == study.outcome.metric
        shown.append(
            display.quantity(outcome, findings.arms if primary else findings.secondary.get(outcome.metric, ()))
        )
    return shown


def tops(found: Sequence[Candidate], shown: Sequence[Quantity]) -> list[Candidate]:
    """The best configuration by each objective, of those that none beats; none where there are none."""
    best = [one for one in found if one.best]
    signs = [1 if quantity.higher_is_better else -1 for quantity in shown]
    return [max(best, key=lambda one: sign * one.objectives[index]) for index, sign in enumerate(signs) if best]


def headline(findings: Findings, study: Study) -> str:
    """What the search found, in one sentence."""
    assert study.tuning is not None
    found = candidates(findings, study)
    shown = quantities(findings, study)
    best = [one for one in found if one.best]
    if not best:
        return f"Of {len(found)} configurations none was trained to its end, so nothing is found yet."
    reached: dict[str, list[str]] = {}
    for index, (top, quantity) in enumerate(zip(tops(found, shown), shown, strict=True)):
        value = quantity.value(top.objectives[index])
        reached.setdefault(top.arm, []).append(f"the best {quantity.label} ({value})")
    named = " and ".join(f"{arm} has {' and '.join(what)}" for arm, what in reached.items())
    tried = f"Of {len(found)} configurations tried, {named}"
    several = f"; {len(best)} {'is' if len(best) == 1 else 'are'} beaten by none in both" if len(shown) > 1 else ""
    return f"{tried}{several}. Chosen after looking: compare it on fresh seeds before believing it."


def table(findings: Findings, study: Study) -> Table | None:
    """All configurations; None where the study tunes nothing."""
    if study.tuning is None:
        return None
    shown = quantities(findings, study)
    names = [parameter.name for parameter in study.tuning.parameters]
    columns = (
        Column("configuration", "left"),
        *map(Column, names),
        *(Column(one.name) for one in shown),
        Column("standing", "left"),
    )
    rows = []
    for one in candidates(findings, study):
        reached = [quantity.value(value) for quantity, value in zip(shown, one.objectives, strict=True)]
        word = "pruned: short run" if one.pruned else "beaten by none" if one.best else ""
        rows.append(Row((one.arm, *(f"{one.values[name]:.6g}" for name in names), *reached, word)))
    return Table("search", "Every configuration, in the order tried. Described, not tested.", columns, tuple(rows))
