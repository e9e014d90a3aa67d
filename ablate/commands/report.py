"""`report`: the answer to what is there by now: a table here, and a page with figures. Trains nothing."""

import argparse
from dataclasses import asdict
from typing import Any

from ablate import answer, options, request, terminal
from ablate.home import Home
from ablate.log import ledger
from ablate.plan import Plan


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    options.add_study(parser)
    options.add_form(parser, scale="the last one launched")
    options.add_home(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    home = request.home_of(args)
    plan = plan_to_report(args, home)
    found = answer.write(plan, home, command=f"python -m ablate run {args.study}")
    if args.json:
        terminal.write_json(as_plain(found))
    else:
        answer.show(found)
        terminal.console().print()
        answer.where_next(found, home)
    return 1 if any(arm.failed for arm in found.findings.arms) else 0


def plan_to_report(args: argparse.Namespace, home: Home) -> Plan:
    """The sweep as launched, narrowed by --arms and --blocks; the study as it is now where no sweep of it was
    launched but other studies have trained its trials.
    """
    launched = request.launched_plan(args, home)
    if launched is None:
        now = request.plan_of(args)
        entries = ledger(home)
        if not any((entry := entries.get(trial.id)) and entry.record for trial in now.trials):
            raise request.UsageError(
                f"Nothing of {now.sweep} was run in {home.root} yet, so there is nothing to report. "
                f"Run it: python -m ablate run {args.study}, or name another home with --home."
            )
        return now
    return request.narrowed(launched, args)


def as_plain(found: answer.Answer) -> dict[str, Any]:
    """The findings, for a program."""
    return {"report": str(found.report), "sweep": found.plan.sweep, "findings": _plain(asdict(found.findings))}


def _plain(value: Any) -> Any:
    """Keys that JSON cannot have (pairs of levels) joined by ' / '."""
    if isinstance(value, dict):
        return {
            " / ".join(map(str, key)) if isinstance(key, tuple) else str(key): _plain(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
