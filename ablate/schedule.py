"""Optuna hands out the trials: the enumerated plan of an ablation, in order, or what a sampler and a pruner make of the
results so far. The only file that imports Optuna.

The study in memory is rebuilt from the log at every start, so nothing is pickled and nothing can disagree with the log.
The storage that optuna-dashboard opens is a projection of the log too (`project`); a driver that dies leaves nothing
RUNNING there, because only ended trials are written to it.

No sampler enumerates: GridSampler repeats cells under ask/tell, and BruteForceSampler counts lost ones as visited.
"""

import heapq
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from ablate.home import Home
from ablate.log import Record, launched, ledger
from ablate.masking import redact
from ablate.plan import Plan, Trial
from ablate.plan import plan as make_plan
from search_spaces.study import Study, Tuning

NEEDED = "(needed)"
"""Arm of a trial that no cell of the table asks for, only another trial."""


class StorageError(RuntimeError):
    """An Optuna storage that cannot be reached or written. Says which, why, and how to mend."""


class Scheduler:
    """What to run next: the plan's order (block-major, so that a killed sweep is balanced), needed trials first."""

    def __init__(
        self, plan: Plan, finished: Mapping[str, Record], wanted: Collection[str], handed: Collection[str] = ()
    ) -> None:
        """`finished`: ends that stand, by id. `wanted`: ids of the plan to run now; `handed`: those that run."""
        self.order = {trial.id: position for position, trial in enumerate(plan.trials)}
        self.idents = tuple(self.order)
        self.trials = {trial.id: trial for trial in plan.trials}
        self.metric = plan.study.outcome.metric
        self.places = _places(plan)
        self.distributions: dict[str, BaseDistribution] = _distributions(self.places.values())
        self.study = _in_memory(plan)
        stand = [finished[ident] for ident in self.order if ident in finished and ident not in wanted]
        self.study.add_trials([self._told(record) for record in stand])
        self.numbers: dict[str, int] = {}
        self.ready: list[int] = []
        self.handed: set[str] = set()
        self.paused: frozenset[str] = frozenset()
        self.cancelled: frozenset[str] = frozenset()
        self.aside: set[str] = set()
        """Paused ones that could start."""
        self.off: set[str] = set()
        """Cancelled ones that could start."""
        self.blocked_off = 0
        """Cancelled ones that could not."""
        self.blocked: dict[str, set[str]] = {}
        self.dependants: dict[str, list[str]] = {}
        for ident in self.order:
            if ident in handed:
                self._hand(ident)
            elif ident in wanted:
                self._enter(ident, wanted)

    @property
    def left(self) -> int:
        """Wanted trials that have not ended and are not cancelled."""
        return len(self.ready) + len(self.aside) + len(self.blocked) - self.blocked_off + len(self.handed)

    @property
    def waiting(self) -> int:
        """Those that could start now."""
        return len(self.ready)

    def withhold(self, paused: frozenset[str], cancelled: frozenset[str]) -> None:
        """From now on hands out none of these, but all others again. What is handed out already is not concerned."""
        free = [*(self.idents[place] for place in self.ready), *self.aside, *self.off]
        for places in (self.ready, self.aside, self.off):
            places.clear()
        self.paused, self.cancelled = paused, cancelled
        self.blocked_off = len(self.blocked.keys() & cancelled)
        for ident in free:
            self._free(ident)

    def next(self) -> Trial | None:
        """The next trial whose needs are done; None: nothing can start now (or, with `left` 0, nothing is left)."""
        if not self.ready:
            return None
        return self.trials[self._hand(self.idents[heapq.heappop(self.ready)])]

    def _hand(self, ident: str) -> str:
        """Asks Optuna for the trial; returns the one that it gave."""
        if ident not in self.numbers:
            self.study.enqueue_trial(self.places[ident], user_attrs={"trial": ident})
            asked = self.study.ask(fixed_distributions=self.distributions)
            ident = asked.user_attrs["trial"]
            self.numbers[ident] = asked.number
        self.handed.add(ident)
        return ident

    def _free(self, ident: str) -> None:
        """The trial could start: it may be handed out, unless it is withheld."""
        if ident in self.cancelled:
            self.off.add(ident)
        elif ident in self.paused:
            self.aside.add(ident)
        else:
            heapq.heappush(self.ready, self.order[ident])

    def again(self, ident: str) -> None:
        """Takes a trial back that was handed out and did not end; in Optuna's study it stays the same running trial."""
        self.handed.discard(ident)
        self._free(ident)

    def tell(self, record: Record) -> list[str]:
        """Notes an end. Returns the ids that can never run because of it: tell them too, as failed by need."""
        self.handed.discard(record.trial)
        number = self.numbers.pop(record.trial, None)
        if number is None:
            self.study.add_trial(self._told(record))
        else:
            value = _value(record, self.metric)
            self.study.tell(number, value, state=TrialState.FAIL if value is None else TrialState.COMPLETE)
        hopeless = []
        for ident in self.dependants.pop(record.trial, []):
            if ident not in self.blocked:
                continue
            self.blocked[ident].discard(record.trial)
            if record.state == "failed" or not self.blocked[ident]:
                del self.blocked[ident]
                self.blocked_off -= ident in self.cancelled
                hopeless.append(ident) if record.state == "failed" else self._free(ident)
        return hopeless

    def _enter(self, ident: str, wanted: Collection[str]) -> None:
        needs = {other for other in self.trials[ident].needs.values() if other in wanted}
        for other in needs:
            self.dependants.setdefault(other, []).append(ident)
        if needs:
            self.blocked[ident] = needs
        else:
            self._free(ident)

    def _told(self, record: Record) -> FrozenTrial:
        return _frozen(record, self.places[record.trial], self.distributions, (self.metric,))


Told = tuple[Mapping[str, float], Sequence[float] | None]
"""A configuration, and what it reached by objective; None: it failed."""


def suggest(
    tuning: Tuning, higher_is_better: Sequence[bool], told: Sequence[Told], count: int
) -> list[dict[str, float]]:
    """Configurations to try next, by tuning's sampler told of all results so far; the same for the same arguments.

    Values have six digits, so that they can be read, copied and typed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = _searched(tuning)
    seed = tuning.seed + 1000 * len(told)
    samplers: dict[str, Callable[[], optuna.samplers.BaseSampler]] = {
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
        "tpe": lambda: optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=max(1, tuning.round), multivariate=True, constant_liar=True
        ),
    }
    study = optuna.create_study(directions=_directions(higher_is_better), sampler=samplers[tuning.sampler]())
    for params, values in told:
        state = TrialState.FAIL if values is None else TrialState.COMPLETE
        study.add_trial(create_trial(state=state, values=values, params=dict(params), distributions=space))
    asked = [study.ask(space).params for _ in range(count)]
    return [{name: _readable(value, space[name]) for name, value in params.items()} for params in asked]


def _searched(tuning: Tuning | None) -> dict[str, BaseDistribution]:
    """What a search draws from; nothing where there is none."""
    return {
        parameter.name: FloatDistribution(parameter.low, parameter.high, log=parameter.log)
        for parameter in (tuning.parameters if tuning else ())
    }


def _readable(value: float, distribution: BaseDistribution) -> float:
    assert isinstance(distribution, FloatDistribution)
    return min(max(float(f"{value:.6g}"), distribution.low), distribution.high)


def promising(earlier: Sequence[Sequence[float]], curve: Sequence[float], *, higher_is_better: bool) -> bool:
    """Whether Optuna's median pruner lets a configuration go on, after what it reached by epoch.

    With fewer than two earlier curves nothing is pruned.
    """
    study = optuna.create_study(direction=_directions([higher_is_better])[0])
    for values in earlier:
        reached = dict(enumerate(values, start=1))
        study.add_trial(create_trial(state=TrialState.COMPLETE, value=values[-1], intermediate_values=reached))
    running = create_trial(state=TrialState.RUNNING, intermediate_values=dict(enumerate(curve, start=1)))
    pruner = optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=0)
    return not pruner.prune(study, running)


def _directions(higher_is_better: Iterable[bool]) -> list[StudyDirection]:
    return [StudyDirection.MAXIMIZE if higher else StudyDirection.MINIMIZE for higher in higher_is_better]


def check(url: str) -> None:
    """Opens the storage and makes its tables.

    Raises:
        StorageError: it cannot be reached or written.
    """
    _storage(url)


def project(home: Home, sweep: str, url: str) -> int:
    """Brings the storage's study `sweep` up to date with the logs of the home; returns how many trials it added.

    A trial that is there already, by its id among the user attributes, is left alone; one that failed there and is done
    in the log now is added beside it. Running it again adds nothing.

    Raises:
        StorageError: the storage cannot be reached or written.
    """
    line = launched(home, sweep)
    if line is None:
        return 0
    plan = make_plan(Study.from_plain(line["study"]), line["scale"], arms=line["arms"], blocks=line["blocks"])
    storage = _storage(url)
    try:
        fields = _params(plan)
        distributions = _distributions(fields.values()) | _searched(plan.study.tuning)
        study = _stored(storage, sweep, plan)
        if any(_other(trial.distributions, distributions) for trial in study.get_trials(deepcopy=False)):
            # More blocks or arms: Optuna fixes a parameter's choices with its first trial. A projection is made anew.
            optuna.delete_study(study_name=sweep, storage=storage)
            study = _stored(storage, sweep, plan)
        metrics = [outcome.metric for outcome in plan.study.objectives]
        there = {(trial.user_attrs.get("trial"), trial.state) for trial in study.get_trials(deepcopy=False)}
        added = 0
        for ident, entry in ledger(home).items():
            if entry.record is None or ident not in fields:
                continue
            frozen = _frozen(entry.record, fields[ident], distributions, metrics)
            if (ident, frozen.state) not in there:
                study.add_trial(frozen)
                added += 1
    except Exception as error:  # every driver of SQLAlchemy raises its own
        raise StorageError(f"the Optuna storage {redact(url)} could not be written: {redact(str(error))}") from error
    finally:
        storage.remove_session()
    return added


def _stored(storage: "optuna.storages.RDBStorage", sweep: str, plan: Plan) -> "optuna.Study":
    return optuna.create_study(
        study_name=sweep,
        storage=storage,
        directions=_directions(outcome.higher_is_better for outcome in plan.study.objectives),
        load_if_exists=True,
        sampler=_no_sampler(),
    )


def _other(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a stored trial's parameters are not those that trials have now."""
    return any(wanted.get(name) != distribution for name, distribution in stored.items())


def _storage(url: str) -> "optuna.storages.RDBStorage":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = optuna.storages.RDBStorage(url)
    except Exception as error:  # every driver of SQLAlchemy raises its own
        reason = redact(str(error)).splitlines()[0] if str(error) else type(error).__name__
        raise StorageError(
            f"the Optuna storage {redact(url)} cannot be opened: {reason}. Allowed is a database URL such as "
            f"sqlite:////absolute/path/optuna.db or postgresql://user@host/name that this machine can reach."
        ) from error
    return storage


def _in_memory(plan: Plan) -> "optuna.Study":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        study_name=plan.sweep, directions=_directions([plan.study.outcome.higher_is_better]), sampler=_no_sampler()
    )


def _no_sampler() -> "optuna.samplers.BaseSampler":
    """Every parameter of a handed-out trial is fixed by the plan, so that nothing is left to draw."""
    return optuna.samplers.RandomSampler(seed=0)


def _places(plan: Plan) -> dict[str, dict[str, str]]:
    """Trial id -> arm and block of the first cell that it fills."""
    places: dict[str, dict[str, str]] = {}
    for cell in plan.cells:
        places.setdefault(cell.trial, {"arm": cell.arm, "block": cell.block.name})
    for trial in plan.trials:
        data = trial.data
        block = f"{data.get('protocol')}/t{data.get('split', 0)}/s{trial.seed}"
        places.setdefault(trial.id, {"arm": NEEDED, "block": block})
    return places


def _params(plan: Plan) -> dict[str, dict[str, Any]]:
    """Trial id -> arm, block and the config fields that differ within the plan."""
    values: dict[str, set[str]] = {}
    for trial in plan.trials:
        for name, value in trial.config.items():
            values.setdefault(name, set()).add(json.dumps(value, sort_keys=True))
    differing = [name for name, seen in values.items() if len(seen) > 1]
    places = _places(plan)
    return {
        trial.id: places[trial.id] | {name: _choice(trial.config[name]) for name in differing if name in trial.config}
        for trial in plan.trials
    }


def _choice(value: Any) -> Any:
    """What Optuna takes for a category: plain scalars as they are, the rest as JSON."""
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value, sort_keys=True)


def _distributions(params: Iterable[Mapping[str, Any]]) -> dict[str, BaseDistribution]:
    choices: dict[str, dict[Any, None]] = {}
    for mapping in params:
        for name, value in mapping.items():
            choices.setdefault(name, {})[value] = None
    return {name: CategoricalDistribution(tuple(seen)) for name, seen in choices.items()}


def _frozen(
    record: Record, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution], metrics: Collection[str]
) -> FrozenTrial:
    """An ended trial as Optuna keeps it; its distributions are those of its parameters."""
    values = [value for value in (_value(record, metric) for metric in metrics) if value is not None]
    whole = len(values) == len(metrics)
    return create_trial(
        state=TrialState.COMPLETE if whole else TrialState.FAIL,
        values=values if whole else None,
        params=dict(params),
        distributions={name: distributions[name] for name in params},
        user_attrs={"trial": record.trial, "reason": record.reason},
    )


def _value(record: Record, metric: str) -> float | None:
    """The outcome after the last epoch; None for a failed trial, and for one that does not measure it."""
    if record.state != "done" or not record.epochs:
        return None
    value = record.epochs[-1]["metrics"].get(metric)
    return value if value is not None and math.isfinite(value) else None
