"""Synthetic frames of any study, sound and degenerate, for the tests of analysis and of reports.

`sound(study)` is what a finished sweep looks like. `DEGENERATE` has one builder for each kind of bad input that a
report must name and survive, `REFUSED` one for each that it must refuse with a `FrameError`. All draws come from the
seed.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.frame import EPOCH_KEYS, TRIAL_COLUMNS, Frame
from search_spaces.study import Arm, Block, Contrast, Outcome, Scale, Source, Study, config_fields

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def small_study(arms: int = 3, blocks: int = 6, **changes: Any) -> Study:
    """A study of our own: arms a0 (the baseline), a1, ... on so many seeds; `changes` are fields of Study."""
    scale = Scale(name="smoke", blocks=tuple(Block(dataset="digits", seed=seed) for seed in range(blocks)))
    fields: dict[str, Any] = {
        "name": "toy",
        "question": "Does the arm matter?",
        "source": Source(paper="none", where="nowhere"),
        "method": "toy",
        "arms": tuple(Arm(name=f"a{i}", config={"width": 8, "level": i}) for i in range(arms)),
        "baseline": "a0",
        "scales": (scale,),
        "outcome": Outcome(metric="auroc", label="AUROC"),
        "secondary": (Outcome(metric="accuracy", label="Accuracy"),),
        "contrasts": tuple(Contrast(arm=f"a{i}", reference="a0", margin=0.01) for i in range(1, arms)),
    }
    return Study(**(fields | changes))


def sound(
    study: Study,
    scale: str | None = None,
    *,
    blocks: int | None = None,
    epochs: int = 12,
    shifts: Mapping[str, float] | None = None,
    noise: float = 0.01,
    seed: int = 0,
) -> Frame:
    """A finished sweep: every arm on every block, curves that rise to 0.8 + block + shift + noise.

    Args:
        study: any study.
        scale: its first one by default.
        blocks: the scale's first so many; made up with further seeds where the scale has fewer.
        epochs: of every trial.
        shifts: arm -> true difference from the others, in the metric's own unit.
        noise: standard deviation of each trial around its block's and arm's mean.
        seed: of all draws.
    """
    random = np.random.default_rng(seed)
    size = study.scale(scale) if scale else study.scales[0]
    chosen = _blocks(size, blocks)
    metrics = [study.outcome, *study.secondary]
    trials, curves = [], []
    for block in chosen:
        level = random.normal(0, 0.02)
        for arm in study.arms:
            row = _trial(study, size, arm, block, epochs)
            trials.append(row)
            final = 0.8 + level + (shifts or {}).get(arm.name, 0.0) + random.normal(0, noise, size=len(metrics))
            curves.append(_curve(row, metrics, final, epochs, random))
    return Frame(pd.DataFrame(trials, columns=list(TRIAL_COLUMNS)), pd.concat(curves, ignore_index=True))


def _blocks(size: Scale, count: int | None) -> list[Block]:
    found = list(size.blocks[:count])
    while count is not None and len(found) < count:
        found.append(Block(dataset=size.blocks[0].dataset, split=size.blocks[0].split, seed=1000 + len(found)))
    return found


def _trial(study: Study, size: Scale, arm: Arm, block: Block, epochs: int) -> dict[str, Any]:
    settings = size.settings_for(arm, block.dataset)
    config = {name: settings.get(name, value) for name, value in config_fields(arm.config).items()}
    data = {"protocol": block.dataset, "split": block.split} | dict(size.data)
    method = study.method_of(arm)
    return {
        "study": study.name,
        "scale": size.name,
        "arm": arm.name,
        "block": block.name,
        "dataset": block.dataset,
        "split": block.split,
        "seed": block.seed,
        "trial": _digest(arm.name, block.name)[:16],
        "method": method,
        "config": json.dumps(config, sort_keys=True, default=str),
        "data": json.dumps(data, sort_keys=True),
        "state": "done",
        "reason": "",
        "error": "",
        "epochs": epochs,
        "data_digest": _digest(block.dataset, str(block.split)),
        "code_digest": _digest("code", method),
        "commit": COMMIT,
        "dirty": False,
        "device": "cpu",
        "threads": 1,
        "torch": "2.6.0",
        "attempts": 1,
        "seconds": 3.0,
        "started": "2026-01-01T00:00:00Z",
        "ended": "2026-01-01T00:00:03Z",
        "host": "somewhere",
    }


def _digest(*parts: str) -> str:
    return hashlib.sha256("/".join(parts).encode()).hexdigest()


def _curve(
    row: Mapping[str, Any], metrics: list[Outcome], final: np.ndarray, epochs: int, random: np.random.Generator
) -> pd.DataFrame:
    at = np.arange(1, epochs + 1)
    columns: dict[str, Any] = {key: row[key] for key in EPOCH_KEYS if key != "epoch"}
    columns |= {"epoch": at, "seconds": 0.25}
    climb = np.exp(-3 * (at - 1) / epochs) - np.exp(-3 * (epochs - 1) / epochs)
    for outcome, value in zip(metrics, final, strict=True):
        columns[outcome.metric] = value - 0.3 * climb + np.where(at < epochs, random.normal(0, 0.003, epochs), 0.0)
    return pd.DataFrame(columns)


def _edited(frame: Frame, edit: Callable[[pd.DataFrame, pd.DataFrame], None]) -> Frame:
    trials, epochs = frame.trials.copy(), frame.epochs.copy()
    edit(trials, epochs)
    return Frame(trials, epochs)


def _without(frame: Frame, keep: Callable[[pd.DataFrame], pd.Series]) -> Frame:
    trials, epochs = frame.trials[keep(frame.trials)], frame.epochs[keep(frame.epochs)]
    return Frame(trials.reset_index(drop=True), epochs.reset_index(drop=True))


def _set_last(frame: Frame, study: Study, arm: str, value: float, blocks: int = 1) -> Frame:
    """`value` as the outcome at the last epoch of the arm's first `blocks` blocks."""

    def edit(trials: pd.DataFrame, epochs: pd.DataFrame) -> None:
        for block in list(dict.fromkeys(trials["block"]))[:blocks]:
            own = (epochs["arm"] == arm) & (epochs["block"] == block)
            epochs.loc[epochs[own].index[-1:], study.outcome.metric] = value

    return _edited(frame, edit)


def not_a_number(study: Study) -> Frame:
    """The last arm ends with NaN on the first block."""
    return _set_last(sound(study), study, study.arms[-1].name, float("nan"))


def infinite(study: Study) -> Frame:
    """The last arm ends with infinity on the first block."""
    return _set_last(sound(study), study, study.arms[-1].name, float("inf"))


def all_not_a_number(study: Study) -> Frame:
    """No trial of any arm has an outcome."""

    def edit(_: pd.DataFrame, epochs: pd.DataFrame) -> None:
        epochs[study.outcome.metric] = float("nan")

    return _edited(sound(study), edit)


def failed(study: Study) -> Frame:
    """The last arm diverged on the first block, after two epochs."""
    arm, frame = study.arms[-1].name, sound(study)
    block = frame.trials["block"].iloc[0]

    def edit(trials: pd.DataFrame, _: pd.DataFrame) -> None:
        own = (trials["arm"] == arm) & (trials["block"] == block)
        trials.loc[own, ["state", "reason", "error"]] = ["failed", "diverged", "Diverged: loss is nan in step 17"]
        trials.loc[own, "epochs"] = 2

    late = _edited(frame, edit)
    return _without(late, lambda t: ~_cell(t, arm, block) | (t["epoch"] <= 2 if "epoch" in t else True))


def all_failed(study: Study) -> Frame:
    """Every trial failed before its first epoch."""

    def edit(trials: pd.DataFrame, _: pd.DataFrame) -> None:
        trials[["state", "reason", "error"]] = ["failed", "error", "ValueError: width must be above 0"]
        trials["epochs"] = 0

    frame = _edited(sound(study), edit)
    return Frame(frame.trials, frame.epochs.iloc[:0])


def pending(study: Study) -> Frame:
    """The last arm was not yet run on the last block."""
    arm, frame = study.arms[-1].name, sound(study)
    block = frame.trials["block"].iloc[-1]

    def edit(trials: pd.DataFrame, _: pd.DataFrame) -> None:
        own = _cell(trials, arm, block)
        trials.loc[own, "state"] = "pending"
        trials.loc[own, ["epochs", "attempts"]] = 0
        trials.loc[own, "seconds"] = 0.0
        trials.loc[own, ["commit", "data_digest", "code_digest", "device", "torch", "started", "ended", "host"]] = ""

    return _without(_edited(frame, edit), lambda t: ~_cell(t, arm, block) | ("epoch" not in t))


def nothing_run(study: Study) -> Frame:
    """The plan only: every trial is pending."""

    def edit(trials: pd.DataFrame, _: pd.DataFrame) -> None:
        trials["state"] = "pending"
        trials[["epochs", "attempts"]] = 0
        trials[["commit", "data_digest", "code_digest", "device", "torch", "started", "ended", "host"]] = ""

    frame = _edited(sound(study), edit)
    return Frame(frame.trials, frame.epochs.iloc[:0])


def _cell(table: pd.DataFrame, arm: str, block: str) -> pd.Series:
    return (table["arm"] == arm) & (table["block"] == block)


def unequal_blocks(study: Study) -> Frame:
    """The last arm has no row at all on the first block."""
    arm, frame = study.arms[-1].name, sound(study)
    block = frame.trials["block"].iloc[0]
    return _without(frame, lambda t: ~_cell(t, arm, block))


def missing_arm(study: Study) -> Frame:
    """The last arm has no row at all."""
    return _without(sound(study), lambda t: t["arm"] != study.arms[-1].name)


def missing_baseline(study: Study) -> Frame:
    """The baseline has no row at all."""
    return _without(sound(study), lambda t: t["arm"] != study.baseline)


def one_block(study: Study) -> Frame:
    """One block only."""
    return sound(study, blocks=1)


def two_blocks(study: Study) -> Frame:
    """The fewest with which t has an answer."""
    return sound(study, blocks=2)


def zero_variance(study: Study) -> Frame:
    """Every arm gives the same number on every block, each arm its own."""

    def edit(_: pd.DataFrame, epochs: pd.DataFrame) -> None:
        level = {arm.name: 0.75 + i / 64 for i, arm in enumerate(study.arms)}
        for outcome in (study.outcome, *study.secondary):
            epochs[outcome.metric] = epochs["arm"].map(level).astype(float)

    return _edited(sound(study), edit)


def identical_arms(study: Study) -> Frame:
    """All arms give exactly the same numbers."""

    def edit(_: pd.DataFrame, epochs: pd.DataFrame) -> None:
        first = epochs[epochs["arm"] == study.arms[0].name].set_index(["block", "epoch"])
        keys = pd.MultiIndex.from_frame(epochs[["block", "epoch"]])
        for outcome in (study.outcome, *study.secondary):
            epochs[outcome.metric] = first[outcome.metric].reindex(keys).to_numpy()

    return _edited(sound(study), edit)


def ties(study: Study) -> Frame:
    """Outcomes on a coarse grid, so that differences are often zero or equal."""

    def edit(_: pd.DataFrame, epochs: pd.DataFrame) -> None:
        epochs[study.outcome.metric] = (epochs[study.outcome.metric] * 64).round() / 64

    return _edited(sound(study), edit)


def mixed_commits(study: Study) -> Frame:
    """Half of the trials ran at another commit, with other code, torch and device, and a dirty tree."""

    def edit(trials: pd.DataFrame, _: pd.DataFrame) -> None:
        late = trials.index >= len(trials) // 2
        trials.loc[late, "commit"] = COMMIT[::-1]
        trials.loc[late, "code_digest"] = _digest("other code")
        trials.loc[late, "dirty"] = True
        trials.loc[late, "torch"] = "2.7.0"
        trials.loc[late, "device"] = "NVIDIA A100"

    return _edited(sound(study), edit)


def changed_study(study: Study) -> Frame:
    """The run had another value in one config field, an arm that is gone, and a block that is gone."""
    frame = sound(study)

    def edit(trials: pd.DataFrame, epochs: pd.DataFrame) -> None:
        trials["config"] = [json.dumps({**json.loads(text), "gone": 7}, sort_keys=True) for text in trials["config"]]
        last = trials["block"].iloc[-1]
        for table in (trials, epochs):
            table.loc[table["block"] == last, ["block", "seed"]] = ["digits/t77/s77", 77]

    extra = sound(study, seed=1)
    own = extra.trials["arm"] == study.arms[0].name
    arm = extra.trials[own].assign(arm="retired")
    curves = extra.epochs[extra.epochs["arm"] == study.arms[0].name].assign(arm="retired")
    joined = Frame(
        pd.concat([frame.trials, arm], ignore_index=True), pd.concat([frame.epochs, curves], ignore_index=True)
    )
    return _edited(joined, edit)


def other_data(study: Study) -> Frame:
    """The last arm saw other arrays than the rest on the first block."""
    arm = study.arms[-1].name

    def edit(trials: pd.DataFrame, _: pd.DataFrame) -> None:
        trials.loc[_cell(trials, arm, trials["block"].iloc[0]), "data_digest"] = _digest("other arrays")

    return _edited(sound(study), edit)


def unequal_epochs(study: Study) -> Frame:
    """The last arm stopped two epochs earlier than the others."""
    arm, frame = study.arms[-1].name, sound(study)

    def edit(trials: pd.DataFrame, _: pd.DataFrame) -> None:
        trials.loc[trials["arm"] == arm, "epochs"] = 10

    return _without(_edited(frame, edit), lambda t: (t["arm"] != arm) | (t["epoch"] <= 10 if "epoch" in t else True))


def no_epochs(study: Study) -> Frame:
    """The last arm's trial on the first block is done, but none of its epochs is there."""
    arm, frame = study.arms[-1].name, sound(study)
    block = frame.trials["block"].iloc[0]
    return Frame(frame.trials, frame.epochs[~_cell(frame.epochs, arm, block)].reset_index(drop=True))


def no_secondary(study: Study) -> Frame:
    """None of the secondary outcomes was measured."""
    frame = sound(study)
    gone = [outcome.metric for outcome in study.secondary if outcome.metric != study.outcome.metric]
    return Frame(frame.trials, frame.epochs.drop(columns=gone))


DEGENERATE: dict[str, Callable[[Study], Frame]] = {
    build.__name__: build
    for build in (
        not_a_number,
        infinite,
        all_not_a_number,
        failed,
        all_failed,
        pending,
        nothing_run,
        unequal_blocks,
        missing_arm,
        missing_baseline,
        one_block,
        two_blocks,
        zero_variance,
        identical_arms,
        ties,
        mixed_commits,
        changed_study,
        other_data,
        unequal_epochs,
        no_epochs,
        no_secondary,
    )
}
"""Frames that are named in the findings' warnings and handled by a declared rule."""


def empty(study: Study) -> Frame:
    """No rows."""
    frame = sound(study)
    return Frame(frame.trials.iloc[:0], frame.epochs.iloc[:0])


def other_study(study: Study) -> Frame:
    """Rows of a study of another name."""
    frame = sound(study)
    return Frame(frame.trials.assign(study="another"), frame.epochs.assign(study="another"))


def two_scales(study: Study) -> Frame:
    """Rows of two scales."""
    frame = sound(study)
    other = frame.trials.assign(scale="elsewhere")
    return Frame(pd.concat([frame.trials, other], ignore_index=True), frame.epochs)


def repeated_cell(study: Study) -> Frame:
    """Two trials for one arm and block."""
    frame = sound(study)
    again = frame.trials.iloc[:1].assign(trial="f" * 16)
    return Frame(pd.concat([frame.trials, again], ignore_index=True), frame.epochs)


def repeated_epoch(study: Study) -> Frame:
    """One epoch twice."""
    frame = sound(study)
    return Frame(frame.trials, pd.concat([frame.epochs, frame.epochs.iloc[:1]], ignore_index=True))


def no_outcome(study: Study) -> Frame:
    """The outcome's column is missing."""
    frame = sound(study)
    return Frame(frame.trials, frame.epochs.drop(columns=[study.outcome.metric]))


def unknown_state(study: Study) -> Frame:
    """A state that is none."""
    frame = sound(study)
    return Frame(frame.trials.assign(state="finished"), frame.epochs)


REFUSED: dict[str, Callable[[Study], Frame]] = {
    build.__name__: build
    for build in (empty, other_study, two_scales, repeated_cell, repeated_epoch, no_outcome, unknown_state)
}
"""Frames that raise `analysis.frame.FrameError`."""
