"""compare(frame, study) -> Findings: every declared contrast over its shared blocks, and what a reader must know.

The only place where a frame meets the statistics. What is tested was declared in the study; everything else here is
description. A contrast is computed over exactly the blocks that both arms finished; the others are named with reasons.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from analysis import agreement, audit, cells, effects, equivalence, factorial, significance, verdict
from analysis.cells import Cells
from analysis.findings import ArmSummary, ContrastResult, Findings, Interval
from analysis.frame import Frame, FrameError
from analysis.multiplicity import CORRECTIONS
from analysis.significance import Floats
from search_spaces.study import Arm, Contrast, Study

SEED = 20_240_229
"""Of the generator that `compare` makes when none is passed, so that a report repeats to the last digit."""
BOOTSTRAP_LEAST = 10
"""Fewest differences for which a bootstrap interval is reported."""


def compare(frame: Frame, study: Study, *, generator: np.random.Generator | None = None) -> Findings:
    """Everything a report says that is computed.

    Args:
        frame: one sweep of the study at one scale; finished or not.
        study: as it was launched.
        generator: of the bootstrap, and of sign-flip tests over very many blocks; by default one with a fixed seed.

    Raises:
        FrameError: a frame that no comparison can be made of: empty, of another study, two scales, a cell twice, no
            such outcome.
    """
    random = generator if generator is not None else np.random.default_rng(SEED)
    table = cells.read(frame, study, study.outcome)
    contrasts = _contrasts(table, study, random)
    secondary, missing = _secondary(frame, study)
    warnings = (*audit.warnings(frame, study, table), *audit.contrast_warnings(contrasts, study), *missing)
    ranks = significance.ranks(_complete(table, study), study.outcome.higher_is_better, study.alpha)
    omnibus: Mapping[str, float] = {}
    if ranks is not None:
        omnibus = {"statistic": ranks.statistic, "p": ranks.p, "n": ranks.n, "k": len(ranks.mean)}
    return Findings(
        study=study.name,
        scale=table.scale,
        outcome=study.outcome.metric,
        arms=tuple(_summary(arm, table, study.alpha) for arm in study.arms),
        contrasts=contrasts,
        secondary=secondary,
        warnings=warnings,
        omnibus=omnibus,
        ranks=ranks,
        factorial=factorial.analyse(table.values, study),
        agreement=agreement.compare_published(frame, table, study),
    )


def _summary(arm: Arm, table: Cells, alpha: float) -> ArmSummary:
    values = table.values[arm.name]
    numbers = np.array(list(values.values()), dtype=float)
    return ArmSummary(
        arm=arm.name,
        label=arm.label or arm.name,
        n=numbers.size,
        mean=effects.mean_t(numbers, 1 - alpha),
        sd=float(numbers.std(ddof=1)) if numbers.size > 1 else math.nan,
        values=values,
        failed=table.failed[arm.name],
        pending=table.pending[arm.name],
    )


def _secondary(frame: Frame, study: Study) -> tuple[dict[str, tuple[ArmSummary, ...]], tuple[str, ...]]:
    """Arm summaries of the further outcomes; one that was not measured is named, not refused."""
    found: dict[str, tuple[ArmSummary, ...]] = {}
    missing = []
    for outcome in study.secondary:
        try:
            table = cells.read(frame, study, outcome)
        except FrameError as error:
            missing.append(f"Secondary outcome left out: {error}")
            continue
        found[outcome.metric] = tuple(_summary(arm, table, study.alpha) for arm in study.arms)
    return found, tuple(missing)


def _complete(table: Cells, study: Study) -> dict[str, Floats]:
    """Arm -> outcomes, over the blocks that every arm finished."""
    blocks = [block for block in table.blocks if all(block in table.values[arm.name] for arm in study.arms)]
    return {arm.name: np.array([table.values[arm.name][block] for block in blocks]) for arm in study.arms}


def _contrasts(table: Cells, study: Study, random: np.random.Generator) -> tuple[ContrastResult, ...]:
    declared = study.contrasts_at(table.scale) if any(s.name == table.scale for s in study.scales) else study.contrasts
    shared = [_shared(contrast, table) for contrast in declared]
    tested = [
        (
            verdict.p_difference(differences, contrast.test, random),
            None
            if contrast.margin is None
            else verdict.p_equivalence(differences, contrast.margin, contrast.test, random),
        )
        for contrast, (_, _, differences) in zip(declared, shared, strict=True)
    ]
    apart = _corrected(declared, [p for p, _ in tested], study.correction)
    same = _corrected(declared, [p for _, p in tested], study.correction)
    return tuple(
        _result(contrast, study, shared[i], tested[i], (apart[i], same[i]), declared, random)
        for i, contrast in enumerate(declared)
    )


def _shared(contrast: Contrast, table: Cells) -> tuple[tuple[str, ...], dict[str, str], Floats]:
    """Blocks of the contrast that both arms finished, why the others are not, and the differences."""
    used: list[str] = []
    dropped: dict[str, str] = {}
    for block in table.blocks:
        if contrast.dataset and table.dataset[block] != contrast.dataset:
            continue
        sides = (contrast.arm, contrast.reference)
        reasons = [reason for side in sides if (reason := table.missing(side, block))]
        seen = {table.data_digest[side].get(block, "") for side in sides} - {""}
        if reasons:
            dropped[block] = "; ".join(reasons)
        elif len(seen) > 1:
            dropped[block] = f"the arms saw different data (digests {' and '.join(sorted(d[:12] for d in seen))})"
        else:
            used.append(block)
    arm, reference = table.values[contrast.arm], table.values[contrast.reference]
    return tuple(used), dropped, np.array([arm[block] - reference[block] for block in used], dtype=float)


def _corrected(declared: Sequence[Contrast], p: Sequence[float | None], correction: str) -> list[float | None]:
    """Corrected within each family. None (not asked) stays out; NaN (not testable) counts as 1 and stays NaN."""
    out: list[float | None] = [None] * len(p)
    for family in dict.fromkeys(contrast.family for contrast in declared):
        members = [i for i, contrast in enumerate(declared) if contrast.family == family and p[i] is not None]
        raw = np.array([p[i] for i in members], dtype=float)
        adjusted = CORRECTIONS[correction](np.where(np.isnan(raw), 1.0, raw))
        for i, one, before in zip(members, adjusted, raw, strict=True):
            out[i] = math.nan if math.isnan(before) else float(one)
    return out


def _result(
    contrast: Contrast,
    study: Study,
    shared: tuple[tuple[str, ...], dict[str, str], Floats],
    raw: tuple[float, float | None],
    corrected: tuple[float | None, float | None],
    declared: Sequence[Contrast],
    random: np.random.Generator,
) -> ContrastResult:
    blocks, dropped, differences = shared
    arm, reference = study.arm(contrast.arm), study.arm(contrast.reference)
    apart, same = corrected
    assert apart is not None
    interval = effects.mean_t(differences, 1 - study.alpha)
    size = sum(other.family == contrast.family for other in declared)
    strictest = study.alpha / (size if study.correction == "holm" else 1)
    evidence = verdict.Evidence(
        arm=arm.label or arm.name,
        reference=reference.label or reference.name,
        n=len(blocks),
        interval=interval,
        p_difference=apart,
        p_equivalence=same,
        margin=contrast.margin,
        alpha=study.alpha,
        outcome=study.outcome,
        needed=verdict.blocks_needed(differences, contrast.margin, contrast.test, strictest),
    )
    claims_equivalence = contrast.claim == "equivalence"
    p, adjusted = (raw[1], same) if claims_equivalence else (raw[0], apart)
    assert p is not None
    assert adjusted is not None
    return ContrastResult(
        arm=contrast.arm,
        reference=contrast.reference,
        claim=contrast.claim,
        margin=contrast.margin,
        family=contrast.family,
        blocks=blocks,
        dropped=dropped,
        differences=tuple(float(d) for d in differences),
        interval=interval,
        test=verdict.test_name(differences, contrast.test, contrast.claim),
        p=p,
        p_adjusted=adjusted,
        p_attainable=significance.sign_flip_attainable(len(blocks)),
        other_p=_other_p(contrast, differences, raw, corrected, random),
        effects=_effects(differences),
        intervals=_intervals(contrast, differences, study.alpha, random),
        verdict=verdict.RULES[contrast.claim](evidence),
        dataset=contrast.dataset,
    )


def _other_p(
    contrast: Contrast,
    differences: Floats,
    raw: tuple[float, float | None],
    corrected: tuple[float | None, float | None],
    random: np.random.Generator,
) -> dict[str, float]:
    """Further p-values for the reader's cross-check; the verdict uses none but those marked corrected."""
    if differences.size < 2:
        return {}
    found = {
        "paired t": significance.paired_t(differences),
        "sign-flip": significance.sign_flip(differences, generator=random),
        "wilcoxon": significance.wilcoxon(differences),
    }
    if contrast.margin is not None and raw[1] is not None:
        found["tost t"] = equivalence.tost_t(differences, contrast.margin)
        found["tost sign-flip"] = equivalence.tost_sign_flip(differences, contrast.margin, generator=random)
        other = corrected[0] if contrast.claim == "equivalence" else corrected[1]
        which = "difference (corrected)" if contrast.claim == "equivalence" else "equivalence (corrected)"
        found[which] = math.nan if other is None else other
    return {name: p for name, p in found.items() if not math.isnan(p)}


def _effects(differences: Floats) -> dict[str, float]:
    if not differences.size:
        return {}
    found = {
        "hedges g": effects.hedges_g(differences),
        "rank-biserial": effects.rank_biserial(differences),
        "superiority": effects.superiority(differences),
    }
    return {name: value for name, value in found.items() if not math.isnan(value)}


def _intervals(
    contrast: Contrast, differences: Floats, alpha: float, random: np.random.Generator
) -> dict[str, Interval]:
    if differences.size < 2:
        return {}
    found = {"sign-flip": effects.sign_flip_interval(differences, 1 - alpha, generator=random)}
    if contrast.margin is not None:
        found["tost"] = effects.mean_t(differences, 1 - 2 * alpha)
    if differences.size >= BOOTSTRAP_LEAST:
        found["bca"] = effects.bca(differences, 1 - alpha, generator=random)
    return found
