"""What a tuning study tries next: its plan grows by rounds, each following from the results of those before it.

A pure function of study and results. A driver that was killed, or another one on another machine, comes to the same
configurations from the same log; nothing of Optuna's is kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ablate.log import Record
from ablate.plan import Plan
from ablate.plan import plan as make_plan
from search_spaces.study import SHORT, Arm, Tuning, config_fields


@dataclass(frozen=True)
class Tried:
    """One configuration and what it reached, means over the blocks."""

    arm: Arm
    curves: tuple[tuple[float, ...], ...] | None
    """An objective's values by epoch; None: a trial failed, or does not measure it."""


def grown(plan: Plan, records: Mapping[str, Record]) -> Plan:
    """The plan with every configuration that the results call for; the very same one where none is missing.

    Args:
        plan: of the study as declared, or as grown before.
        records: ends of trials, by id.
    """
    tuning = plan.study.tuning
    arms = {cell.arm for cell in plan.cells}
    if tuning is None or len(arms) < len(plan.study.arms):  # `--arms`: just those
        return plan
    while all(trial.id in records for trial in plan.trials):
        more = tuple(_next(plan, tuning, records))
        if not more:
            return plan
        blocks = len({cell.block for cell in plan.cells})
        plan = make_plan(replace(plan.study, arms=(*plan.study.arms, *more)), plan.scale.name, blocks=blocks)
    return plan


def to_follow(plan: Plan) -> int:
    """How many configurations of a search are not in its plan yet."""
    if plan.study.tuning is None:
        return 0
    return max(0, plan.study.tuning.configurations[plan.scale.name] - len(_configurations(plan)))


def _configurations(plan: Plan) -> set[str]:
    """Names of the configurations, trained in short, in full or both."""
    return {arm.name.removesuffix(SHORT) for arm in plan.study.arms}


def _next(plan: Plan, tuning: Tuning, records: Mapping[str, Record]) -> Iterator[Arm]:
    """The arms to come after all that are there."""
    from ablate import schedule

    tried = [_tried(plan, tuning, arm, records) for arm in plan.study.arms]
    looked = [one for one in tried if one.arm.name.endswith(SHORT)]
    last = looked[-tuning.round :] if len(looked) % tuning.round == 0 else looked[-(len(looked) % tuning.round) :]
    there = {arm.name for arm in plan.study.arms}
    kept = [one for one in last if _promising(plan, looked[: len(looked) - len(last)], one)]
    missing = [one for one in kept if one.arm.name.removesuffix(SHORT) not in there]
    if missing:
        for one in missing:
            yield _arm(plan, one.arm.name.removesuffix(SHORT), tuning.values(one.arm.config))
        return
    count = min(tuning.round, to_follow(plan))
    if not count:
        return
    told = [
        (tuning.values(one.arm.config), None if one.curves is None else [curve[-1] for curve in one.curves])
        for one in _longest(tried)
    ]
    higher = [outcome.higher_is_better for outcome in plan.study.objectives]
    suggested = schedule.suggest(tuning, higher, told, count)
    for number, values in enumerate(suggested, start=len(_configurations(plan))):
        arm = _arm(plan, f"t{number:02d}", values)
        yield arm if tuning.pruner == "none" else _for_short(plan, tuning, arm)


def _longest(tried: Sequence[Tried]) -> list[Tried]:
    """Each configuration once: as trained in full, where it was."""
    found: dict[str, Tried] = {}
    for one in tried:
        found[one.arm.name.removesuffix(SHORT)] = one
    return list(found.values())


def _promising(plan: Plan, earlier: Sequence[Tried], one: Tried) -> bool:
    from ablate import schedule

    if one.curves is None:
        return False
    curves = [other.curves[0] for other in earlier if other.curves is not None]
    return schedule.promising(curves, one.curves[0], higher_is_better=plan.study.outcome.higher_is_better)


def _tried(plan: Plan, tuning: Tuning, arm: Arm, records: Mapping[str, Record]) -> Tried:
    cells = [records[cell.trial] for cell in plan.cells if cell.arm == arm.name]
    if any(record.state != "done" for record in cells):
        return Tried(arm, None)
    curves = []
    for metric in tuning.objectives:
        rows = [[row["metrics"].get(metric) for row in record.epochs] for record in cells]
        measured = [[value for value in row if value is not None] for row in rows]
        if not all(measured):
            return Tried(arm, None)
        means = zip(*measured, strict=True) if len({len(row) for row in measured}) == 1 else [[r[-1] for r in measured]]
        curves.append(tuple(sum(values) / len(values) for values in means))
    return Tried(arm, tuple(curves))


def _arm(plan: Plan, name: str, values: Mapping[str, float]) -> Arm:
    baseline = plan.study.arm(plan.study.baseline)
    return replace(baseline, name=name, label="", config=dict(config_fields(baseline.config)) | dict(values))


def _for_short(plan: Plan, tuning: Tuning, arm: Arm) -> Arm:
    """The arm trained for a share of the epochs that the scale gives it."""
    per_dataset = {}
    for dataset in plan.scale.datasets:
        settings = plan.scale.settings_for(arm, dataset)
        epochs = settings.get("epochs", config_fields(arm.config)["epochs"])
        per_dataset[dataset] = {**arm.per_dataset.get(dataset, {}), "epochs": max(1, round(tuning.short * epochs))}
    return replace(arm, name=arm.name + SHORT, per_dataset=per_dataset)
