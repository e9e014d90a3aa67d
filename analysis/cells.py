"""The study's table as it stands: for every arm and block the outcome, or the reason why there is none.

Nothing is dropped in silence: a trial that failed, has no finite outcome, is pending or was never planned is named.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.frame import Frame, FrameError
from analysis.selection import outcomes
from search_spaces.study import Arm, Contrast, Outcome, Study


@dataclass(frozen=True)
class Cells:
    """Outcomes of one sweep. Every mapping has every arm of the study; blocks are in plan order."""

    scale: str
    blocks: tuple[str, ...]
    """Blocks that any arm has a row for: those of the scale first, in its order."""
    dataset: Mapping[str, str]
    """Block -> its dataset."""
    values: Mapping[str, Mapping[str, float]]
    """Arm -> block -> finite outcome."""
    failed: Mapping[str, Mapping[str, str]]
    """Arm -> block -> why it has no outcome."""
    pending: Mapping[str, tuple[str, ...]]
    """Arm -> blocks not yet run; every block for an arm that is missing from the frame."""
    data_digest: Mapping[str, Mapping[str, str]]
    """Arm -> block -> digest of the arrays it saw, where recorded."""
    left_out: tuple[str, ...]
    """Arms of the study that the frame has no row of: the sweep was launched without them, or they are new."""

    def missing(self, arm: str, block: str) -> str:
        """Why the arm has no outcome on the block; empty if it has one."""
        if block in self.values[arm]:
            return ""
        if block in self.failed[arm]:
            return f"{arm} failed ({self.failed[arm][block]})"
        return f"{arm} is pending"

    def shared(self, arms: Sequence[str]) -> list[str]:
        """Blocks that all these arms finished, on the same data, in plan order."""
        done = [block for block in self.blocks if all(block in self.values[arm] for arm in arms)]
        return [block for block in done if len({self.data_digest[arm].get(block, "") for arm in arms} - {""}) < 2]


def only_scale(frame: Frame, study: Study) -> str:
    """The one scale of a frame of this study.

    Raises:
        FrameError: the frame is empty, of another study, or mixes studies or scales.
    """
    for column in ("study", "scale"):
        found = sorted(frame.trials[column].astype(str).unique())
        if not found:
            raise FrameError(f"the frame of {study.name!r} has no trials. Run the study first.")
        if len(found) > 1:
            raise FrameError(f"the frame mixes {column}s: {', '.join(found)}. Give one at a time.")
        if column == "study" and found[0] != study.name:
            raise FrameError(
                f"the frame is of study {found[0]!r}, not of {study.name!r}. Give the study it was made by."
            )
    return str(frame.trials["scale"].iloc[0])


def read(frame: Frame, study: Study, outcome: Outcome) -> Cells:
    """The cells of `study`'s arms for one outcome. Rows of arms that the study does not have are left out (the audit
    names them).

    Raises:
        FrameError: empty or mixed frame, a cell or an epoch recorded twice, a state that is none, no such metric.
    """
    scale = only_scale(frame, study)
    _refuse_repeats(frame)
    blocks = _block_order(frame, study, scale)
    measured = outcomes(frame, outcome).to_dict()
    rows = {(row.arm, row.block): row for row in frame.trials.itertuples(index=False)}
    values: dict[str, dict[str, float]] = {arm.name: {} for arm in study.arms}
    failed: dict[str, dict[str, str]] = {arm.name: {} for arm in study.arms}
    digests: dict[str, dict[str, str]] = {arm.name: {} for arm in study.arms}
    for arm in values:
        for block in blocks:
            row = rows.get((arm, block))
            if row is None or row.state == "pending":
                continue
            value = measured.get((arm, block), math.nan)
            digests[arm][block] = _text(row.data_digest)
            reason = _reason(row, value, (arm, block) in measured, outcome)
            if reason:
                failed[arm][block] = reason
            else:
                values[arm][block] = float(value)
    pending = {arm: tuple(b for b in blocks if b not in values[arm] and b not in failed[arm]) for arm in values}
    dataset = dict(zip(frame.trials["block"], frame.trials["dataset"], strict=True))
    left_out = tuple(arm for arm in values if not (frame.trials["arm"] == arm).any())
    return Cells(scale, blocks, dataset, values, failed, pending, digests, left_out)


def _reason(row: object, value: float, has_epochs: bool, outcome: Outcome) -> str:
    """Why a started trial has no outcome, or an empty string."""
    state = getattr(row, "state", "")
    if state == "failed":
        reason, error = _text(getattr(row, "reason", "")), _text(getattr(row, "error", ""))
        return ": ".join(part for part in (reason, error) if part) or "no reason recorded"
    if state != "done":
        raise FrameError(f"a trial has state {state!r}; allowed: done, failed, pending. The frame is damaged.")
    if not has_epochs:
        return "done, but no epochs recorded"
    return "" if math.isfinite(value) else f"{outcome.metric} is not a finite number at its last epoch"


def _refuse_repeats(frame: Frame) -> None:
    cells = frame.trials.duplicated(["arm", "block"], keep=False)
    if cells.any():
        row = frame.trials[cells].iloc[0]
        trials = frame.trials.loc[
            (frame.trials["arm"] == row["arm"]) & (frame.trials["block"] == row["block"]), "trial"
        ]
        raise FrameError(
            f"arm {row['arm']!r} has {len(trials)} trials on block {row['block']!r} ({', '.join(map(str, trials))}). "
            "The frame mixes two versions of the study: report one sweep at a time."
        )
    epochs = frame.epochs.duplicated(["arm", "block", "epoch"])
    if epochs.any():
        row = frame.epochs[epochs].iloc[0]
        raise FrameError(
            f"epoch {row['epoch']} of arm {row['arm']!r} on block {row['block']!r} is recorded twice. The frame is "
            "damaged: write it again from the log."
        )


def _block_order(frame: Frame, study: Study, scale: str) -> tuple[str, ...]:
    present = list(dict.fromkeys(frame.trials["block"].astype(str)))
    declared = declared_blocks(study, scale)
    return tuple([b for b in declared if b in present] + [b for b in present if b not in declared])


def declared_blocks(study: Study, scale: str) -> tuple[str, ...]:
    """Names of the scale's blocks; none for a scale that the study no longer has."""
    return tuple(block.name for size in study.scales if size.name == scale for block in size.blocks)


def declared_contrasts(study: Study, scale: str) -> tuple[Contrast, ...]:
    """The scale's contrasts; all of the study's for a scale that it no longer has."""
    known = any(size.name == scale for size in study.scales)
    return study.contrasts_at(scale) if known else study.contrasts


def present(table: Cells, study: Study) -> list[Arm]:
    """The study's arms that belong to the sweep."""
    return [arm for arm in study.arms if arm.name not in table.left_out]


def _text(value: object) -> str:
    return "" if value is None or value is pd.NA or value != value else str(value)
