"""How far a sweep is: counts, failures, running means, from a plan and what the logs say. Pure; reads no file.

`status` feeds it from the home, the live view from a driver's events: both show the same thing.
"""

import math
import statistics
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ablate.log import Entry, Record
from ablate.plan import Plan, Trial
from ablate.steering import withheld
from ablate.summary import chosen
from search_spaces.study import Outcome


@dataclass(frozen=True)
class ArmProgress:
    """One arm over its blocks. A trial that several arms want counts in each of them."""

    arm: str
    label: str
    total: int
    done: int
    failed: int
    running: int
    steered: str
    """paused | cancelled, by an order; else empty."""
    mean: float | None
    """Mean of the primary outcome over the blocks done, in the metric's own unit; None before the first."""
    measured: int
    """Blocks in that mean."""

    @property
    def pending(self) -> int:
        """Blocks not begun."""
        return self.total - self.done - self.failed - self.running


@dataclass(frozen=True)
class Progress:
    """Distinct trials of the plan, those that others need among them, by state; and each arm."""

    total: int
    done: int
    failed: int
    running: int
    paused: int
    """Of the trials that have not ended, those that an order holds back."""
    cancelled: int
    """And those that will not be run."""
    arms: tuple[ArmProgress, ...]
    failures: tuple[tuple[Trial, Record], ...]

    @property
    def pending(self) -> int:
        """Trials not begun, that will be."""
        return self.total - self.done - self.failed - self.running - self.paused - self.cancelled

    @property
    def remaining(self) -> int:
        """Trials that are to run on or to begin."""
        return self.pending + self.running


def progress(
    plan: Plan,
    entries: Mapping[str, Entry],
    running: Collection[str] = (),
    steered: Mapping[str, str] | None = None,
) -> Progress:
    """The state of every trial of the plan.

    Args:
        plan: the sweep.
        entries: what the logs say of its trials.
        running: ids that a live driver works on.
        steered: arms that are paused or cancelled.
    """
    steered = steered or {}
    states = {trial.id: _state(entries.get(trial.id), trial.id in running) for trial in plan.trials}
    counts = Counter(states.values())
    failures = tuple(
        (trial, record)
        for trial in plan.trials
        if (record := record_of(entries, trial.id)) is not None and states[trial.id] == "failed"
    )
    order = [arm for arm in plan.study.arms if any(cell.arm == arm.name for cell in plan.cells)]
    arms = []
    for arm in order:
        trials = [cell.trial for cell in plan.cells if cell.arm == arm.name]
        own = [states[trial] for trial in trials]
        values = [
            value
            for trial in trials
            if states[trial] == "done" and (value := _outcome(entries[trial], plan.study.outcome)) is not None
        ]
        arms.append(
            ArmProgress(
                arm=arm.name,
                label=arm.label or arm.name,
                total=len(trials),
                done=own.count("done"),
                failed=own.count("failed"),
                running=own.count("running"),
                steered=steered.get(arm.name, ""),
                mean=statistics.fmean(values) if values else None,
                measured=len(values),
            )
        )
    paused, cancelled = (sum(states[i] == "pending" for i in off) for off in withheld(plan, steered))
    return Progress(
        total=len(states),
        done=counts["done"],
        failed=counts["failed"],
        running=counts["running"],
        paused=paused,
        cancelled=cancelled,
        arms=tuple(arms),
        failures=failures,
    )


def record_of(entries: Mapping[str, Entry], trial: str) -> Record | None:
    """How the trial ended, if it did."""
    entry = entries.get(trial)
    return entry.record if entry else None


def outcome_of(record: Record | None, outcome: Outcome) -> float | None:
    """The outcome at the epoch that the study selects, in the metric's own unit; None where there is none."""
    from analysis import selection

    curve = [epoch["metrics"].get(outcome.metric, math.nan) for epoch in record.epochs] if record else []
    value = selection.select(curve, outcome.select, outcome.higher_is_better)
    return value if math.isfinite(value) else None


def _outcome(entry: Entry, outcome: Outcome) -> float | None:
    """The same of a trial's entry, which may be in short."""
    if entry.reached is None:
        return outcome_of(entry.record, outcome)
    values = entry.reached.get(outcome.metric)
    return None if values is None else chosen(values, outcome.select, outcome.higher_is_better)


def time_left(finished: float, remaining: float, elapsed: float) -> float | None:
    """Seconds that `remaining` trials take at the pace so far: `finished` trials, parts of running ones among them, in
    `elapsed` seconds. None while there is no pace.
    """
    if finished <= 0 or elapsed <= 0:
        return None
    return remaining * elapsed / finished


def part_done(trial: Trial, epoch: int) -> float:
    """Share of a running trial that is over, from its epochs; 0 where its config has none."""
    epochs = trial.config.get("epochs")
    return min(epoch / epochs, 1.0) if isinstance(epochs, int) and epochs > 0 else 0.0


def expected_seconds(plan: Plan, entries: Mapping[str, Entry]) -> dict[str, float]:
    """Method -> seconds of one trial: the mean of this plan's trials that are done, else what the scale declares."""
    known: dict[str, list[float]] = {}
    for trial in plan.trials:
        record = record_of(entries, trial.id)
        if record is not None and record.state == "done":
            known.setdefault(trial.method, []).append(record.seconds)
    expected = {method: statistics.fmean(seconds) for method, seconds in known.items()}
    if plan.scale.seconds is not None:
        for trial in plan.trials:
            expected.setdefault(trial.method, plan.scale.seconds)
    return expected


def _state(entry: Entry | None, running: bool) -> str:
    if running:
        return "running"
    if entry is None or entry.record is None:
        return "pending"
    return entry.record.state
