"""What of a plan is still to be trained, as the logs of its home and the orders given to it say. Trains nothing."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ablate import mirror, provenance, steering
from ablate.execution import Options
from ablate.failures import PASSING
from ablate.home import Home
from ablate.log import Entry, Record, ledger
from ablate.plan import Plan, Trial
from ablate.steering import Steered, withheld
from ablate.summary import Summary, load


@dataclass(frozen=True)
class Wanted:
    """What a driver that starts now has before it."""

    plan: Plan
    """With what the results so far call for, and what was ordered."""
    trials: tuple[str, ...]
    """Ids of those `pending`."""
    summary: Summary
    """Of the sweep's log."""
    steered: Steered
    """What stands once all orders that were given are taken up."""

    @property
    def due(self) -> bool:
        """Whether any of the trials is not cancelled."""
        return not withheld(self.plan, self.steered.arms)[1].issuperset(self.trials)


def look(plan: Plan, options: Options) -> Wanted:
    """What is wanted by the logs and orders of the home as they are now."""
    summary = load(options.home, plan.sweep)
    plan, steered = steering.foreseen(options.home, grown(plan, options), summary.standing.steered)
    return Wanted(plan, pending(plan, options), summary, steered)


def pending(plan: Plan, options: Options) -> tuple[str, ...]:
    """Ids of the plan's trials that `driver.run` would train or adopt now, in order."""
    entries = ledger(options.home)
    digests: dict[str, Mapping[str, str]] = {}
    wanted: set[str] = set()
    for trial in plan.trials:  # those that others need come before them
        record = entries.get(trial.id, Entry()).record
        if (
            record is None
            or _again(record, trial, wanted, options.retry_failed)
            or (options.fresh and _stale(record, plan, digests))
        ):
            wanted.add(trial.id)
    for trial in reversed(plan.trials):
        if trial.id in wanted:
            wanted |= {ident for ident in trial.needs.values() if _state_is_gone(options.home, ident)}
    return tuple(trial.id for trial in plan.trials if trial.id in wanted)


def grown(plan: Plan, options: Options, over: Collection[str] = ()) -> Plan:
    """With what the results so far call for, where the study is one of tuning. `over`: trials that ended in this call.

    What will be tried again calls for nothing yet: its next end may be another, and the search would have gone astray.
    """
    if plan.study.tuning is None:
        return plan
    from ablate import tuning

    digests: dict[str, Mapping[str, str]] = {}
    methods = {trial.method for trial in plan.trials}

    def stands(record: Record) -> bool:
        if record.trial in over:
            return True
        if record.state == "failed" and (options.retry_failed or record.reason in PASSING):
            return False
        return not (options.fresh and record.method in methods and _stale(record, plan, digests))

    records = [entry.record for entry in ledger(options.home).values() if entry.record is not None]
    return tuning.grown(plan, {record.trial: record for record in records if stands(record)})


def _again(record: Record, trial: Trial, wanted: set[str], retry_failed: bool) -> bool:
    """Whether an end does not stand: its cause may have passed, or what it needed will be tried again."""
    if record.state == "done":
        return any(ident in wanted for ident in trial.needs.values())
    if record.reason == "need":
        return retry_failed or any(ident in wanted for ident in trial.needs.values())
    return retry_failed or record.reason in PASSING


def _stale(record: Record, plan: Plan, digests: dict[str, Mapping[str, str]]) -> bool:
    if record.method not in digests:
        digests[record.method] = provenance.code_digests(record.method, plan.study.origin)
    return bool(provenance.stale(record, digests[record.method]))


def _state_is_gone(home: Home, ident: str) -> bool:
    """Whether a needed trial's final state was removed from the home; it is trained again then, to the same bits."""
    return not mirror.Folder(home, ident).is_kept()
