"""`status`: what is done, failed, running, pending and stale. Reads the home's files only, never the driver."""

import argparse
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from ablate import options, request, staleness, terminal
from ablate.home import Home
from ablate.log import Entry
from ablate.plan import Plan
from ablate.progress import Progress, part_done, progress, time_left
from ablate.running import holder
from ablate.steering import Order, Steered, given
from ablate.store import StoreError
from ablate.summary import Standing, load, merged

SHOWN = 10
"""Failures and stale trials listed in full before the rest is counted."""


@dataclass(frozen=True)
class Driver:
    """The driver of a sweep, if one is alive, and what it did since it started."""

    alive: bool
    who: str = ""
    """What its lock says: process, host, start, command."""
    since: float | None = None
    """When it was launched, seconds since the epoch."""
    running: Mapping[str, int] = field(default_factory=dict)
    """Trials started and not ended, with the epochs that they came to; empty unless alive."""
    ended: int = 0
    """Trials that ended since it was launched."""


@dataclass(frozen=True)
class Sweep:
    """One sweep of the home, as its files say."""

    plan: Plan
    driver: Driver
    progress: Progress
    left: float | None
    """Seconds until done at the pace of the running driver; None when none runs or nothing tells the pace."""
    stale: Mapping[str, list[str]]
    """Trial -> files or data changed since."""
    superseded: Mapping[str, list[str]]
    """Trial -> fields that the study has otherwise now."""
    steered: Steered
    waiting: tuple[Order, ...]
    """Orders that no driver has taken up yet."""
    latest: bool
    """Whether no sweep of its study was launched later: `resume` and `report` mean it where they are told no more."""


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    options.add_study(parser, optional=True)
    parser.add_argument("--scale", metavar="NAME", help="only this scale (default: every sweep of the study)")
    options.add_home(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    home = request.home_of(args)
    found = sweeps(home, args.study, args.scale)
    if args.json:
        terminal.write_json([as_plain(sweep) for sweep in found])
        return 0
    out = terminal.console()
    if not found:
        what = f"of {args.study} " if args.study else ""
        out.print(f"No sweep {what}was launched in {home.name} yet. See `python -m ablate list`, then `run STUDY`.")
        return 0
    for index, sweep in enumerate(found):
        if index:
            out.print()
        _print(out, sweep, home)
    return 0


def sweeps(home: Home, study: str | None, scale: str | None) -> list[Sweep]:
    """Every sweep of the home, or of one study, or of one of its scales; the last launched one first."""
    every = {name: load(home, name) for name in request.sweeps_of(home, None)}
    launches = {name: summary.launch for name, summary in every.items() if summary.launch}
    names = request.sweeps_of(home, study, launches)
    if study and not names:
        request.study_of(study)
    wanted = [name for name in names if name in launches and scale in (None, launches[name]["scale"])]
    entries = merged(every.values())
    ordered = sorted(wanted, key=lambda name: -launches[name]["time"])
    last = {name.partition("@")[0]: name for name in sorted(launches, key=lambda name: launches[name]["time"])}
    return [
        sweep_of(home, request.plan_from_line(launches[name]), every[name].standing, entries, name in last.values())
        for name in ordered
    ]


def sweep_of(home: Home, plan: Plan, standing: Standing, entries: Mapping[str, Entry], latest: bool) -> Sweep:
    """Everything that the files say of one sweep."""
    driver = driver_of(home, plan.sweep, standing)
    state = progress(plan, entries, driver.running, standing.steered.arms)
    left = _left(plan, driver, state)
    waiting: tuple[Order, ...] = ()
    with suppress(StoreError):  # an object store that is away: what was fetched of it is shown
        waiting = tuple(given(home, plan.sweep, standing.steered.taken))
    stale, superseded = staleness.stale(plan, entries), staleness.superseded(plan)
    return Sweep(plan, driver, state, left, stale, superseded, standing.steered, waiting, latest)


def driver_of(home: Home, sweep: str, standing: Standing) -> Driver:
    """Who drives the sweep, by its lock, and at what, by its log."""
    who = holder(home, sweep)
    return Driver(who is not None, who or "", standing.since, standing.running if who else {}, standing.ended)


def _left(plan: Plan, driver: Driver, state: Progress) -> float | None:
    if not driver.alive or driver.since is None:
        return None
    parts = sum(part_done(trial, driver.running[trial.id]) for trial in plan.trials if trial.id in driver.running)
    return time_left(driver.ended + parts, state.remaining - parts, time.time() - driver.since)


def _print(out: Any, sweep: Sweep, home: Home) -> None:
    from rich.text import Text

    state = sweep.progress
    out.print(Text.assemble((sweep.plan.sweep, "bold"), "  ", terminal.tally(state, sweep.left)))
    out.print(terminal.bar(state))
    out.print(_driver_text(sweep, home), soft_wrap=True)
    for order in sweep.waiting:
        when = "within a second" if sweep.driver.alive else "when the sweep is run on"
        out.print(f"To be taken up {when}: {order.text}", soft_wrap=True)
    if state.failures:
        out.print()
        out.print(terminal.heading("Failed"))
        out.print(terminal.failures(state.failures, SHOWN))
        whole = request.command("status", home, sweep.plan, formed=False)
        out.print(f"With their tracebacks:  {whole} --json", soft_wrap=True)
        out.print(f"Once that is mended:    {_again(sweep, home)} --retry-failed", soft_wrap=True)
    out.print()
    out.print(terminal.arm_table(sweep.plan, state, out.width))
    if sweep.stale:
        out.print()
        out.print(terminal.heading("Stale: made by other code or data than there is now"))
        out.print(terminal.stale_table(sweep.plan, sweep.stale, SHOWN))
        out.print(f"To train them again:  {_again(sweep, home)} --fresh", soft_wrap=True)
    if sweep.superseded:
        out.print()
        out.print(terminal.heading("The study is another by now: this sweep stands as it was launched"))
        out.print(terminal.stale_table(sweep.plan, sweep.superseded, SHOWN))
        out.print(f"To train the study as it is:  {_again(sweep, home, 'run')}", soft_wrap=True)


def _driver_text(sweep: Sweep, home: Home) -> str:
    if sweep.driver.alive:
        return f"Running: {sweep.driver.who}"
    if sweep.progress.remaining:
        return f"Not running. To go on:  {_again(sweep, home)}"
    return f"Finished. For the answer:  {_again(sweep, home, 'report')}"


def _again(sweep: Sweep, home: Home, command: str = "resume") -> str:
    return request.command(command, home, sweep.plan, formed=command == "run" or not sweep.latest)


def as_plain(sweep: Sweep) -> dict[str, Any]:
    """The same for a program."""
    state = sweep.progress
    return {
        "sweep": sweep.plan.sweep,
        "study": sweep.plan.study.name,
        "scale": sweep.plan.scale.name,
        "driver": asdict(sweep.driver) | {"running": sorted(sweep.driver.running)},
        "trials": {
            "total": state.total,
            "done": state.done,
            "failed": state.failed,
            "running": state.running,
            "pending": state.pending,
            "paused": state.paused,
            "cancelled": state.cancelled,
        },
        "seconds_left": sweep.left,
        "arms": [asdict(arm) | {"pending": arm.pending} for arm in state.arms],
        "failures": [
            {
                "trial": trial.id,
                "label": trial.label,
                "reason": record.reason,
                "error": record.error,
                "attempts": record.attempts,
            }
            for trial, record in state.failures
        ],
        "stale": dict(sweep.stale),
        "superseded": dict(sweep.superseded),
        "orders": [asdict(order) for order in sweep.waiting],
    }
