"""What a reader must know before believing a comparison: each oddity of a frame, in one sentence with its rule."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.cells import Cells, declared_blocks, declared_contrasts, present
from analysis.findings import ContrastResult
from analysis.frame import Frame
from analysis.resampling import overlap
from analysis.significance import constant
from analysis.verdict import coarse
from search_spaces.study import Study, config_fields

SHOWN = 3
"""Examples that a sentence lists before it only counts."""
SKEW_LEAST = 8
"""Fewest differences whose skewness is judged; below, a sample says too little about it."""
SKEW_ERRORS = 2.6
"""Skewness in standard errors from which on a report warns: 1 in 100 normal samples."""


def warnings(frame: Frame, study: Study, table: Cells) -> tuple[str, ...]:
    """Oddities of the sweep as a whole, most serious first.

    Args:
        frame: of one study and scale.
        study: as it is now.
        table: its cells on the primary outcome.
    """
    done = frame.trials[frame.trials["state"] == "done"]
    return (
        *_arms_and_blocks(frame, study, table),
        *_unfinished(study, table),
        *_changed_study(frame, study, table.scale),
        *_mixed(done),
        *_epochs(done, study),
        *_scope(frame, table),
    )


def _arms_and_blocks(frame: Frame, study: Study, table: Cells) -> Iterator[str]:
    seen = dict.fromkeys(frame.trials["arm"].astype(str))
    known = [arm.name for arm in study.arms]
    if table.left_out:
        yield _left_out(study, table)
    strange = [arm for arm in seen if arm not in known]
    if strange:
        yield f"The frame has {_list(strange)}, which the study does not declare (it changed since): left out."
    declared = declared_blocks(study, table.scale)
    if not declared:
        yield f"The study no longer has a scale {table.scale!r}: the frame's own blocks are used."
        return
    extra = [block for block in table.blocks if block not in declared]
    if extra:
        yield f"Blocks that scale {table.scale!r} no longer declares, used all the same: {_list(extra)}."
    run = len(table.blocks) - len(extra)
    if run < len(declared):
        yield f"{run} of the {len(declared)} blocks that scale {table.scale!r} declares are in the frame."


def _left_out(study: Study, table: Cells) -> str:
    arms, declared = table.left_out, declared_contrasts(study, table.scale)
    n = sum(bool({contrast.arm, contrast.reference} & set(arms)) for contrast in declared)
    said = f"Not part of this sweep: {_list(arms)}."
    if n:
        said += f" {n} of {_count(len(declared), 'declared contrast')} {'is' if n == 1 else 'are'} with {_them(arms)}: "
        said += "not shown, counted as p = 1."
    return said


def _unfinished(study: Study, table: Cells) -> Iterator[str]:
    for arm in study.arms:
        failed = table.failed[arm.name]
        if failed:
            reasons = _list([f"{block}: {reason}" for block, reason in failed.items()], "; ")
            where = f"{len(failed)} of {_count(len(table.blocks), 'block')}"
            yield f"{arm.name} failed on {where} ({reasons}): its contrasts leave them out."
    arms = [arm.name for arm in present(table, study)]
    open_cells = {arm: len(table.pending[arm]) for arm in arms if table.pending[arm]}
    some = {arm: n for arm, n in open_cells.items() if n < len(table.blocks)}
    if some:
        places = [arm + " on " + _count(n, "block") for arm, n in some.items()]
        yield f"Pending: {_list(places)}. The answer may change."
    finished = {frozenset(table.values[arm]) for arm in arms}
    if len(finished) > 1:
        yield "Arms finished different blocks: compare them by contrasts (over shared blocks), not by their means."


def _changed_study(frame: Frame, study: Study, scale: str) -> Iterator[str]:
    """Config fields that the trials ran with and the study no longer has so."""
    sizes = [size for size in study.scales if size.name == scale]
    for arm in study.arms:
        rows = frame.trials[frame.trials["arm"] == arm.name]
        fields: dict[str, str] = {}
        for row in rows.drop_duplicates(["config", "dataset"]).itertuples(index=False):
            settings = sizes[0].settings_for(arm, str(row.dataset)) if sizes else {}
            expected = {name: settings.get(name, value) for name, value in config_fields(arm.config).items()}
            fields |= _differing(row.config, expected)
        if fields:
            changes = _list([f"{name} {text}" for name, text in fields.items()])
            yield f"The study changed since the run: {arm.name} ran with {changes}. The numbers are those of the run."


def _differing(ran: object, expected: Mapping[str, Any]) -> dict[str, str]:
    if not isinstance(ran, str) or not ran:
        return {}
    config = json.loads(ran)
    found = {}
    for name in sorted(set(config) | set(expected)):
        if _needs(config.get(name)) or _needs(expected.get(name)):
            continue
        was, is_now = _plain(config.get(name)), _plain(expected.get(name))
        if was != is_now:
            found[name] = f"{json.dumps(was)} (now {json.dumps(is_now)})"
    return found


def _needs(value: object) -> bool:
    return isinstance(value, Mapping) and bool({"needs", "trial"} & set(value))


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _mixed(done: pd.DataFrame) -> Iterator[str]:
    commits = _distinct(done["commit"])
    if len(commits) > 1:
        yield f"Trials of {len(commits)} commits are mixed: {_list([_times(c[:12], n) for c, n in commits.items()])}."
    dirty = sum(bool(value) for value in done["dirty"] if pd.notna(value))
    if dirty:
        yield f"{dirty} of {len(done)} trials ran with uncommitted changes."
    for method, rows in done.groupby("method", sort=False):
        codes = _distinct(rows["code_digest"])
        if len(codes) > 1:
            versions = _list([_times(code[:12], n) for code, n in codes.items()])
            yield f"The code of method {method} changed between trials ({versions}): differences may be due to that."
    for block, rows in done.groupby("block", sort=False):
        if len(_distinct(rows["data_digest"])) > 1:
            yield f"Arms saw different data on block {block}: contrasts between them leave it out."
    for column, noun in (("torch", "versions of torch"), ("device", "devices"), ("threads", "thread counts")):
        kinds = _distinct(done[column])
        if len(kinds) > 1:
            yield f"Trials of different {noun} are mixed: {_list([_times(kind, n) for kind, n in kinds.items()])}."


def _epochs(done: pd.DataFrame, study: Study) -> Iterator[str]:
    if study.outcome.select == "best_oracle":
        yield "The best epoch was chosen by the test metric itself ('best_oracle'): the numbers are optimistic."
    for dataset, rows in done.groupby("dataset", sort=False):
        lengths = sorted({int(n) for n in rows["epochs"]})
        if len(lengths) > 1 and (study.tuning is None or study.tuning.pruner == "none"):
            yield f"Trials on {dataset} ran for different numbers of epochs: {_list([str(n) for n in lengths])}."
    short = int((done["epochs"] < 10).sum())
    if study.outcome.select == "median_last_10" and short:
        yield f"{_count(short, 'trial')} ran for fewer than 10 epochs: the median is over all of them."


def _scope(frame: Frame, table: Cells) -> Iterator[str]:
    if len(table.blocks) < 2:
        return
    datasets = list(dict.fromkeys(table.dataset[block] for block in table.blocks))
    splits = {block.rsplit("/s", 1)[0] for block in table.blocks}
    if len(splits) == 1:
        yield (
            f"All blocks are seeds on one split of {datasets[0]}: intervals and tests speak about seeds, not about "
            "other splits or data."
        )
    elif len(datasets) == 1:
        wider = (
            "the wider Nadeau-Bengio interval is the one to look at."
            if overlap(frame, table.blocks) is not None
            else "they are too narrow; by how much is not known, as the share of images for testing is not."
        )
        yield (
            f"Blocks are {len(splits)} splits of {datasets[0]}, which share images: intervals and tests speak about "
            f"these splits. For new data of the kind, {wider}"
        )
    else:
        yield (
            f"Blocks of {len(datasets)} datasets are pooled with equal weight and treated as independent; blocks of "
            "one dataset resemble each other more than that."
        )


def contrast_warnings(contrasts: Sequence[ContrastResult], study: Study) -> tuple[str, ...]:
    """Oddities of single contrasts: left-out blocks, too few, no variation, ties, tests that cannot reject."""
    waiting = [result for result in contrasts if _waits(result)]
    single = [result for result in contrasts if len(waiting) < 2 or not _waits(result)]
    return (
        *_waiting(waiting),
        *(text for result in single for text in _of_contrast(result)),
        *_attainable(contrasts, study),
    )


def _waits(result: ContrastResult) -> bool:
    """Whether it has no shared block only because runs are still to come."""
    reasons = [reason for dropped in result.dropped.values() for reason in dropped.split("; ")]
    return not result.blocks and bool(reasons) and all(reason.endswith(" is pending") for reason in reasons)


def _waiting(waiting: Sequence[ContrastResult]) -> Iterator[str]:
    """One line for many: before a sweep is done, most contrasts wait."""
    if len(waiting) > 1:
        pairs = _list([_pair(result) for result in waiting])
        yield f"{len(waiting)} contrasts have no shared block yet, as runs are pending: {pairs}. Each counts as p = 1."


def _pair(result: ContrastResult) -> str:
    return f"{result.arm} - {result.reference}" + (f" on {result.dataset}" if result.dataset else "")


def _of_contrast(result: ContrastResult) -> Iterator[str]:
    pair = _pair(result)
    n = len(result.blocks)
    if result.dropped:
        reasons = _list([f"{block}: {reason}" for block, reason in result.dropped.items()], "; ")
        yield f"{pair} is over {n} of {n + len(result.dropped)} blocks. Left out: {reasons}."
    if n < 2:
        yield f"{pair} has {_count(n, 'shared block')}: no interval and no test; it counts as p = 1 in its family."
        return
    zeros = sum(difference == 0 for difference in result.differences)
    if zeros == n:
        yield f"{pair}: all {n} differences are exactly zero. Do the two arms differ in anything that runs?"
    elif bool(constant(result.differences)):
        yield f"{pair}: all {n} differences are equal, so t has no answer and the exact sign-flip test decides."
    elif bool(coarse(np.array(result.differences))):
        yield f"{pair}: the {n} differences take very few values, so the larger p of t and sign-flip decides."
    elif zeros or len(set(result.differences)) < n:
        tied = n - len(set(result.differences))
        yield f"{pair}: ties among the {n} differences ({zeros} exactly zero, {tied} repeated): the outcome is coarse."
    if n >= SKEW_LEAST and abs(skewness(result.differences)) > SKEW_ERRORS:
        yield (
            f"{pair}: the differences lean to one side more than normal ones do. The verdict's error rates are not "
            "promised then; look at the single runs."
        )


def skewness(differences: Sequence[float]) -> float:
    """Sample skewness (g1) over its standard error under normal noise; 0 where the differences do not vary."""
    values = np.asarray(differences, dtype=float)
    n, spread = values.size, values.std()
    if spread <= 1e-12 * np.abs(values).max():
        return 0.0
    g1 = float(np.mean(((values - values.mean()) / spread) ** 3))
    return g1 / math.sqrt(6 * (n - 2) / ((n + 1) * (n + 3)))


def _attainable(contrasts: Sequence[ContrastResult], study: Study) -> Iterator[str]:
    weak = [r for r in contrasts if len(r.blocks) > 1 and r.p_attainable > study.alpha]
    if weak:
        n = min(len(r.blocks) for r in weak)
        yield (
            f"With {n} blocks a two-sided sign-flip or signed-rank test cannot go below p = {2.0 ** (1 - n):.4g}; "
            "where it is shown beside the paired t test it cannot reject."
        )


def _distinct(column: pd.Series) -> dict[str, int]:
    counts: dict[str, int] = {}
    for value in column:
        if value is None or value != value or value == "":
            continue
        counts[str(value)] = counts.get(str(value), 0) + 1
    return counts


def _times(what: str, n: int) -> str:
    return f"{what} ({n})"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _them(items: Sequence[str]) -> str:
    return "it" if len(items) == 1 else "them"


def _list(items: Sequence[str], separator: str = ", ") -> str:
    shown = separator.join(items[:SHOWN])
    return shown if len(items) <= SHOWN else f"{shown}{separator}and {len(items) - SHOWN} more"
