"""compare(frame, study) -> Findings: every declared contrast over its shared blocks, and what a reader must know.

The only place where a frame meets the statistics. What is tested was declared in the study; everything else here is
description. A contrast is computed over exactly the blocks that both arms finished; the others are named with reasons.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis import agreement, audit, cells, effects, equivalence, factorial, significance, verdict
from analysis.cells import Cells
from analysis.findings import ArmSummary, ContrastResult, Factorial, Findings, Interval
from analysis.frame import Frame, FrameError
from analysis.multiplicity import CORRECTIONS
from analysis.resampling import overlap
from analysis.significance import Floats
from search_spaces.study import Arm, Contrast, Study

SEED = 20_240_229
"""Of the generator that `compare` makes when none is passed, so that a report repeats to the last digit."""
BOOTSTRAP_LEAST = 10
"""Fewest differences for which a bootstrap interval is reported."""
POSTERIOR_DRAWS = 5_000
DIGITS = 12
"""Decimal places to which outcomes near 1 are believed, fewer for larger ones: what differs by less is rounding."""


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
    contrasts = _contrasts(frame, table, study, random)
    secondary, missing = _secondary(frame, study)
    warnings = (*audit.warnings(frame, study, table), *audit.contrast_warnings(contrasts, study), *missing)
    ranks = None
    if study.tuning is None:  # what a search tries depends on what it saw: its configurations are no sample
        ranks = significance.ranks(_complete(table, study), study.outcome.higher_is_better, study.alpha)
    omnibus: Mapping[str, float] = {}
    if ranks is not None:
        omnibus = {"statistic": ranks.statistic, "p": ranks.p, "n": ranks.n, "k": len(ranks.mean)}
    return Findings(
        study=study.name,
        scale=table.scale,
        outcome=study.outcome.metric,
        arms=_summaries(table, study),
        contrasts=contrasts,
        secondary=secondary,
        warnings=warnings,
        omnibus=omnibus,
        ranks=ranks,
        factorial=_factorial(table, study),
        interquartile=_interquartile(table, study, random),
        agreement=agreement.compare_published(frame, table, study),
        left_out=table.left_out,
    )


def _summaries(table: Cells, study: Study) -> tuple[ArmSummary, ...]:
    return tuple(_summary(arm, table, study.alpha) for arm in cells.present(table, study))


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
        found[outcome.metric] = _summaries(table, study)
    return found, tuple(missing)


def _interquartile(table: Cells, study: Study, random: np.random.Generator) -> dict[str, Interval]:
    """Arm -> interquartile mean over several datasets of equally many blocks that every arm finished."""
    arms = cells.present(table, study)
    by_dataset: dict[str, list[str]] = {}
    for block in table.shared([arm.name for arm in arms]):
        by_dataset.setdefault(table.dataset[block], []).append(block)
    if len(by_dataset) < 2 or len({len(blocks) for blocks in by_dataset.values()}) > 1:
        return {}
    found = {}
    for arm in arms:
        scores = np.array([[table.values[arm.name][block] for block in blocks] for blocks in by_dataset.values()]).T
        found[arm.name] = effects.interquartile_mean(scores, 1 - study.alpha, generator=random)
    return found


def _complete(table: Cells, study: Study) -> dict[str, Floats]:
    """Arm -> outcomes, over the blocks that every arm finished."""
    arms = [arm.name for arm in cells.present(table, study)]
    blocks = table.shared(arms)
    return {arm: np.array([table.values[arm][block] for block in blocks]) for arm in arms}


def _factorial(table: Cells, study: Study) -> Factorial | None:
    arms = [arm.name for arm in study.arms if len(arm.factors) == 2]
    blocks = table.shared(arms)
    return factorial.analyse({arm: {block: table.values[arm][block] for block in blocks} for arm in arms}, study)


@dataclass(frozen=True)
class _Tested:
    """A declared contrast on its shared blocks, with its p-values before correction."""

    contrast: Contrast
    blocks: tuple[str, ...]
    dropped: Mapping[str, str]
    differences: Floats
    overlap: float | None
    """Test-to-train ratio, where the blocks are splits of one data set."""
    apart: float
    """p of 'no difference'; NaN below two blocks."""
    same: float | None
    """p of 'at least a margin apart'; None without a margin."""


def _contrasts(frame: Frame, table: Cells, study: Study, random: np.random.Generator) -> tuple[ContrastResult, ...]:
    """Of the arms in the sweep; corrected for all that were declared, so that leaving arms out gains nothing."""
    declared = cells.declared_contrasts(study, table.scale)
    tested = [_tested(contrast, frame, table, random) for contrast in declared]
    apart = _corrected(declared, [one.apart for one in tested], study.correction)
    same = _corrected(declared, [one.same for one in tested], study.correction)
    sizes = Counter(contrast.family for contrast in declared)
    return tuple(
        _result(one, _number(apart[i]), same[i], sizes[one.contrast.family], study, random)
        for i, one in enumerate(tested)
        if not {one.contrast.arm, one.contrast.reference} & set(table.left_out)
    )


def _tested(contrast: Contrast, frame: Frame, table: Cells, random: np.random.Generator) -> _Tested:
    """The contrast's blocks that both arms finished, why the others are not, the differences and their p-values."""
    used: list[str] = []
    dropped: dict[str, str] = {}
    sides = (contrast.arm, contrast.reference)
    for block in table.blocks:
        if contrast.dataset and table.dataset[block] != contrast.dataset:
            continue
        reasons = [reason for side in sides if (reason := table.missing(side, block))]
        seen = {table.data_digest[side].get(block, "") for side in sides} - {""}
        if reasons:
            dropped[block] = "; ".join(reasons)
        elif len(seen) > 1:
            dropped[block] = f"the arms saw different data (digests {' and '.join(sorted(d[:12] for d in seen))})"
        else:
            used.append(block)
    outcomes_2B = np.array([[table.values[side][block] for block in used] for side in sides], dtype=float)
    differences = _believed(outcomes_2B[0] - outcomes_2B[1], outcomes_2B)
    apart = verdict.p_difference(differences, contrast.test, random)
    margin, same = contrast.margin, None
    if margin is not None:
        same = verdict.p_equivalence(differences, margin, contrast.test, random)
    return _Tested(contrast, tuple(used), dropped, differences, overlap(frame, used), apart, same)


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


def _believed(differences: Floats, outcomes: Floats) -> Floats:
    """Differences of the outcomes without the digits that rounding made: 0.81 - 0.80 is 0.01, as 0.57 - 0.56 is, and
    arms that differ in the last bits are equal.
    """
    largest = float(np.abs(outcomes).max(initial=0.0))
    if not largest:
        return differences
    return np.asarray(np.round(differences, min(DIGITS - math.floor(math.log10(largest)), 300)) + 0.0)


def _result(
    one: _Tested, apart: float, same: float | None, family: int, study: Study, random: np.random.Generator
) -> ContrastResult:
    """`apart` and `same`: the corrected p-values; `family`: how many contrasts were corrected together."""
    contrast, differences = one.contrast, one.differences
    evidence = _evidence(one, apart, same, family, study)
    asks_same = contrast.claim == "equivalence"
    return ContrastResult(
        arm=contrast.arm,
        reference=contrast.reference,
        claim=contrast.claim,
        margin=contrast.margin,
        family=contrast.family,
        blocks=one.blocks,
        dropped=one.dropped,
        differences=tuple(float(difference) for difference in differences),
        interval=evidence.interval,
        test=verdict.test_name(differences, contrast.test, contrast.claim),
        p=_number(one.same if asks_same else one.apart),
        p_adjusted=_number(same if asks_same else apart),
        p_attainable=significance.sign_flip_attainable(len(one.blocks)),
        other_p=_other_p(one, apart if asks_same else same, random),
        effects=_effects(differences, contrast.margin, study.outcome.higher_is_better, random),
        intervals=_intervals(one, study.alpha, random),
        verdict=verdict.RULES[contrast.claim](evidence),
        dataset=contrast.dataset,
        family_size=family,
    )


def _evidence(one: _Tested, apart: float, same: float | None, family: int, study: Study) -> verdict.Evidence:
    contrast = one.contrast
    arm, reference = study.arm(contrast.arm), study.arm(contrast.reference)
    strictest = study.alpha / (1 if study.correction == "none" else family)
    return verdict.Evidence(
        arm=arm.label or arm.name,
        reference=reference.label or reference.name,
        n=len(one.blocks),
        interval=effects.mean_t(one.differences, 1 - study.alpha),
        p_difference=apart,
        p_equivalence=same,
        margin=contrast.margin,
        alpha=study.alpha,
        outcome=study.outcome,
        needed=verdict.blocks_needed(one.differences, contrast.margin, contrast.test, strictest),
        corrected=study.correction != "none",
    )


def _number(p: float | None) -> float:
    return math.nan if p is None else p


def _other_p(one: _Tested, other_question: float | None, random: np.random.Generator) -> dict[str, float]:
    """Further p-values for the reader's cross-check, uncorrected; and the corrected one of the question that the claim
    does not ask first, which the verdict rule looks at second.
    """
    differences, margin = one.differences, one.contrast.margin
    if differences.size < 2:
        return {}
    found = {
        "paired t": significance.paired_t(differences),
        "sign-flip": significance.sign_flip(differences, generator=random),
        "wilcoxon": significance.wilcoxon(differences),
    }
    if margin is not None:
        found["tost t"] = equivalence.tost_t(differences, margin)
        found["tost sign-flip"] = equivalence.tost_sign_flip(differences, margin, generator=random)
        name = "difference" if one.contrast.claim == "equivalence" else "equivalence"
        found[f"{name} (corrected)"] = _number(other_question)
    if one.overlap is not None:
        found["nadeau-bengio"] = effects.nadeau_bengio(differences, one.overlap)[1]
    return {name: p for name, p in found.items() if not math.isnan(p)}


def _effects(
    differences: Floats, margin: float | None, higher_is_better: bool, random: np.random.Generator
) -> dict[str, float]:
    """Effect sizes without a unit; with a margin also the Bayesian signed-rank chances around it. Superiority is
    the share of blocks on which the arm is better; the others have the sign of the difference.
    """
    if not differences.size:
        return {}
    found = {
        "hedges g": effects.hedges_g(differences),
        "rank-biserial": effects.rank_biserial(differences),
        "superiority": effects.superiority(differences if higher_is_better else -differences),
    }
    if margin is not None:
        posterior = significance.bayesian_signed_rank(differences, margin, generator=random, draws=POSTERIOR_DRAWS)
        found |= {f"posterior {region}": getattr(posterior, region) for region in ("below", "within", "above")}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def _intervals(one: _Tested, alpha: float, random: np.random.Generator) -> dict[str, Interval]:
    differences = one.differences
    if differences.size < 2:
        return {}
    found = {"sign-flip": effects.sign_flip_interval(differences, 1 - alpha, generator=random)}
    if one.contrast.margin is not None:
        found["tost"] = effects.mean_t(differences, 1 - 2 * alpha)
    if differences.size >= BOOTSTRAP_LEAST:
        found["bca"] = effects.bca(differences, 1 - alpha, generator=random)
    if one.overlap is not None:
        found["nadeau-bengio"] = effects.nadeau_bengio(differences, one.overlap, 1 - alpha)[0]
    return found
