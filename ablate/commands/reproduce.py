"""`reproduce`: run one recorded trial again from its record, in a scratch home, and compare bit for bit."""

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ablate import options, preflight, request, terminal
from ablate.home import Home
from ablate.log import Record, launched, ledger
from ablate.plan import Plan, Trial
from trainables.config import nearest

LISTED = 10
"""Differing numbers shown before the rest is counted."""


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument(
        "trial", metavar="TRIAL", help="id of a recorded trial, or its first digits (see `show STUDY --json`)"
    )
    options.add_home(parser)
    options.add_data(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    home = request.home_of(args)
    record = recorded(home, args.trial)
    source = request.data_of(args)
    preflight.check_home(home)
    home.scratch.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.scratch, prefix="reproduce-") as folder:
        again = train_again(home, Home(Path(folder)), record, source)
    changed, numbers = provenance_changes(record, again), differences(record, again)
    same = not numbers and again.state == record.state
    if args.json:
        terminal.write_json(
            {"trial": record.trial, "same": same, "state": again.state, "differences": numbers, "changed": changed}
        )
    else:
        _print(record, again, numbers, changed)
    return 0 if same else 1


def recorded(home: Home, wanted: str) -> Record:
    """The record of the one trial that starts with `wanted`.

    Raises:
        UsageError: none does, or several do.
    """
    records = {ident: entry.record for ident, entry in ledger(home).items() if entry.record is not None}
    found = [ident for ident in records if ident.startswith(wanted)]
    if len(found) > 1:
        raise request.UsageError(
            f"{wanted!r} is the start of {len(found)} trials: {', '.join(found[:5])}. Give more digits."
        )
    if not found:
        raise request.UsageError(
            f"{home.name} has no recorded trial {wanted!r}.{nearest(wanted, records)} "
            f"`python -m ablate show STUDY --json` lists the ids of a study's trials."
        )
    return records[found[0]]


def train_again(home: Home, scratch: Home, record: Record, source: Path | None) -> Record:
    """Trains the trial, and first what it needs, in the scratch home, on the device and threads of its record."""
    from ablate.messages import Job
    from ablate.worker import run_trial

    plan = _plan_with(home, record.trial)
    job = Job(
        home=scratch,
        data=source,
        device="cpu" if record.provenance.get("device", "cpu") == "cpu" else "cuda",
        threads=int(record.provenance.get("threads", 1)),
        origin=plan.study.origin,
    )
    trials = {trial.id: trial for trial in plan.trials}
    for trial in _needed_first(trials, record.trial):
        *_, last = run_trial(trial, job)
    assert isinstance(last, Record)
    return last


def _plan_with(home: Home, trial: str) -> Plan:
    """A launched sweep that has the trial."""
    for sweep in request.sweeps_of(home, None):
        line = launched(home, sweep)
        if line is not None:
            plan = request.plan_from_line(line)
            if any(own.id == trial for own in plan.trials):
                return plan
    raise request.UsageError(
        f"Trial {trial} is recorded, but no sweep as it was last launched has it: its study changed since. "
        f"Check out the commit in its record to reproduce it."
    )


def _needed_first(trials: Mapping[str, Trial], ident: str) -> Iterator[Trial]:
    for other in trials[ident].needs.values():
        yield from _needed_first(trials, other)
    yield trials[ident]


def differences(then: Record, now: Record) -> list[dict[str, Any]]:
    """Every metric of every epoch that is not the same number, to the last bit."""
    before = {epoch["epoch"]: epoch["metrics"] for epoch in then.epochs}
    after = {epoch["epoch"]: epoch["metrics"] for epoch in now.epochs}
    found = []
    for epoch in sorted(before.keys() | after.keys()):
        old, new = before.get(epoch, {}), after.get(epoch, {})
        for metric in sorted(old.keys() | new.keys()):
            if old.get(metric) != new.get(metric):
                found.append({"epoch": epoch, "metric": metric, "recorded": old.get(metric), "now": new.get(metric)})
    return found


def provenance_changes(then: Record, now: Record) -> list[str]:
    """What of code, data, versions and device is not as recorded: the likely reasons for a difference."""
    from ablate import provenance

    today = {**provenance.collect(), **now.provenance}
    stale = provenance.stale(then, _digests(then, now), now.provenance.get("data_digest"))
    names = [name for name in then.provenance if not name.startswith(("code", "data_", "diff_", "shared_"))]
    moved = [
        f"{name} is {today.get(name, 'absent')} now, was {then.provenance[name]}"
        for name in names
        if today.get(name) != then.provenance[name]
    ]
    return stale + moved


def _digests(then: Record, now: Record) -> Mapping[str, str]:
    from ablate import provenance

    try:
        return provenance.code_digests(then.method, str(now.provenance.get("origin", "")))
    except provenance.MethodUnknown:
        return {}


def _print(then: Record, now: Record, numbers: list[dict[str, Any]], changed: list[str]) -> None:
    out = terminal.console()
    count = sum(len(epoch["metrics"]) for epoch in then.epochs)
    if not numbers and then.state == now.state:
        out.print(f"Trial {then.trial}: the same, all {terminal.count(count, 'number')} bit for bit.", soft_wrap=True)
    elif now.state != then.state:
        out.print(f"Trial {then.trial}: was {then.state}, is {now.state} now: {terminal.why(now)}", soft_wrap=True)
    else:
        out.print(f"Trial {then.trial}: {len(numbers)} of {count} numbers differ.", soft_wrap=True)
        rows = [[str(item["epoch"]), item["metric"], repr(item["recorded"]), repr(item["now"])] for item in numbers]
        out.print(terminal.grid(["epoch", "metric", "recorded", "now"], rows[:LISTED], numbers=[0, 2, 3]))
    if changed:
        out.print("Not as it was then:")
        out.print(terminal.bullets(changed))
    elif numbers:
        out.print("Code, data, versions and device are as recorded: look for an unseeded draw in the method.")
