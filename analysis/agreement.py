"""The paper's numbers beside ours: row by row, in the sign of each declared contrast, and in the ranking of arms.

A printed mean has no blocks, so nothing is tested here. Where we ran none of the paper's datasets, our contrast over
the datasets that we did run stands in and is marked: signs and ranks may be compared across datasets, values may not.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from analysis.cells import Cells, read
from analysis.findings import Agreement, Interval, PublishedContrast, PublishedRow
from analysis.frame import Frame, FrameError
from analysis.significance import Floats
from search_spaces.study import Outcome, Published, Study

RESAMPLES = 2_000
SEED = 1_938
"""Of the generator used when none is passed."""


def compare_published(
    frame: Frame, table: Cells, study: Study, *, generator: np.random.Generator | None = None
) -> Agreement | None:
    """Published numbers of the study beside those of the frame; None where the study has none.

    Args:
        frame: one sweep.
        table: its cells on the primary outcome.
        study: with published numbers.
        generator: of the bootstrap behind tau's interval.
    """
    if not study.published:
        return None
    random = generator if generator is not None else np.random.default_rng(SEED)
    tables = _tables(frame, table, study)
    contrasts = _signs(table, study)
    known = [contrast for contrast in contrasts if contrast.agree is not None]
    return Agreement(
        rows=tuple(_row(printed, tables) for printed in study.published),
        contrasts=contrasts,
        agreed=sum(bool(contrast.agree) for contrast in known),
        comparable=len(known),
        tau=_tau(table, study, random),
    )


def _tables(frame: Frame, table: Cells, study: Study) -> dict[str, tuple[Outcome, Cells]]:
    """Metric -> its outcome and cells, for every metric that the paper printed and the frame measured.

    A printed metric that is none of the study's outcomes, such as the AUROC of one of several sets, is read at the last
    epoch, and shown in points.
    """
    found = {study.outcome.metric: (study.outcome, table)}
    named = {outcome.metric: outcome for outcome in reversed(study.secondary)}
    for metric in dict.fromkeys(published.metric for published in study.published):
        if metric not in found:
            outcome = named.get(metric, Outcome(metric=metric, label=metric))
            try:
                found[metric] = (outcome, read(frame, study, outcome))
            except FrameError:  # not measured: compare() names it among its warnings, if it is an outcome
                continue
    return found


def _row(printed: Published, tables: Mapping[str, tuple[Outcome, Cells]]) -> PublishedRow:
    ours, n = None, 0
    if printed.metric in tables:
        outcome, table = tables[printed.metric]
        numbers = _on(table, printed.arm, {printed.dataset})
        n = len(numbers)
        ours = float(np.mean(numbers)) * outcome.unit if n else None
    return PublishedRow(printed.arm, printed.dataset, printed.metric, printed.where, printed.value, ours, n)


def _on(table: Cells, arm: str, datasets: set[str]) -> list[float]:
    return [value for block, value in table.values.get(arm, {}).items() if table.dataset[block] in datasets]


def _printed(study: Study) -> dict[str, dict[str, float]]:
    """Dataset -> arm -> printed value of the primary outcome (the last one, where an arm is printed twice)."""
    found: dict[str, dict[str, float]] = {}
    for published in study.published:
        if published.metric == study.outcome.metric:
            found.setdefault(published.dataset, {})[published.arm] = published.value
    return found


def _signs(table: Cells, study: Study) -> tuple[PublishedContrast, ...]:
    found = []
    for dataset, printed in _printed(study).items():
        ran = dataset in table.dataset.values()
        datasets = {dataset} if ran else set(table.dataset.values())
        for contrast in study.contrasts:
            pair = (contrast.arm, contrast.reference)
            if contrast.dataset not in ("", dataset) or not set(pair) <= set(printed):
                continue
            theirs = printed[contrast.arm] - printed[contrast.reference]
            ours = _mean_difference(table, pair, datasets)
            agree = None if ours is None or ours == 0 or theirs == 0 else (ours > 0) == (theirs > 0)
            shown = None if ours is None else ours * study.outcome.unit
            stand_in = "" if ran else ", ".join(sorted(datasets))
            found.append(PublishedContrast(*pair, dataset, theirs, shown, agree, stand_in))
    return tuple(found)


def _mean_difference(table: Cells, pair: tuple[str, str], datasets: set[str]) -> float | None:
    arm, reference = (table.values[name] for name in pair)
    differences = [arm[b] - reference[b] for b in table.shared(pair) if table.dataset[b] in datasets]
    return float(np.mean(differences)) if differences else None


def _tau(table: Cells, study: Study, random: np.random.Generator) -> Interval | None:
    """Mean over the paper's datasets of tau-b between printed values and our means over blocks that all finished."""
    pairs = []
    for dataset, printed in _printed(study).items():
        arms = [arm.name for arm in study.arms if arm.name in printed]
        datasets = {dataset} if dataset in table.dataset.values() else set(table.dataset.values())
        blocks = [block for block in table.shared(arms) if table.dataset[block] in datasets]
        if len(arms) >= 3 and blocks:
            ours = np.array([[table.values[arm][block] for arm in arms] for block in blocks])
            pairs.append((np.array([printed[arm] for arm in arms]), ours))
    if not pairs:
        return None
    return mean_tau(pairs, 1 - study.alpha, generator=random)


def mean_tau(
    pairs: Sequence[tuple[Floats, Floats]], level: float = 0.95, *, generator: np.random.Generator
) -> Interval:
    """Kendall's tau-b between printed and measured values, averaged over datasets.

    The interval resamples our blocks (percentile bootstrap, the same blocks for all arms): it carries our noise, not
    the paper's, and is rough below about 10 blocks. Its bounds are NaN where a dataset has one block only.

    Args:
        pairs: for each dataset the printed values (arms,) and our outcomes (blocks, arms).
        level: two-sided.
        generator: of the resampling.
    """
    estimate = float(np.mean([kendall(printed, ours.mean(axis=0)[None, :])[0] for printed, ours in pairs]))
    if min(len(ours) for _, ours in pairs) < 2:
        return Interval(estimate, math.nan, math.nan, level, "Kendall's tau-b")
    draws = []
    for printed, ours in pairs:
        rows = generator.integers(0, len(ours), size=(RESAMPLES, len(ours)))
        draws.append(kendall(printed, ours[rows].mean(axis=1)))
    low, high = np.quantile(np.mean(draws, axis=0), [(1 - level) / 2, (1 + level) / 2])
    return Interval(
        estimate, float(low), float(high), level, f"Kendall's tau-b, bootstrap over our blocks ({RESAMPLES})"
    )


def kendall(printed_A: Floats, ours_RA: Floats) -> Floats:
    """Tau-b of one ranking with each of R others: (R,). 0 where either side is one tie."""
    first, second = np.triu_indices(printed_A.size, 1)
    theirs = np.sign(printed_A[first] - printed_A[second])
    ours = np.sign(ours_RA[:, first] - ours_RA[:, second])
    scale = np.sqrt((theirs != 0).sum() * (ours != 0).sum(axis=1))
    return np.asarray((ours @ theirs) / np.where(scale > 0, scale, 1.0))
