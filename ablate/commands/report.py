"""`report`: the answer to what is there by now: a table here, and a page with figures. Trains nothing.

Without a study, or with --all: the reports of every sweep of the home, and a page that leads to them.
"""

import argparse
from dataclasses import asdict
from typing import Any

from ablate import answer, mirror, options, request, terminal
from ablate.home import Home
from ablate.log import launched, ledger
from ablate.plan import Plan
from search_spaces.study import StudyError


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    options.add_study(parser, optional=True)
    parser.add_argument("--all", action="store_true", help="every sweep of the home, and an index page")
    options.add_form(parser, scale="the last one launched")
    options.add_home(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    home = request.home_of(args)
    if args.all or args.study is None:
        return every(args, home)
    plan = plan_to_report(args, home)
    found = answer.write(plan, home)
    if args.json:
        terminal.write_json(as_plain(found))
    else:
        answer.show(found)
        terminal.console().print()
        answer.where_next(found, home)
    answer.mind_stale(found, home)
    return 1 if any(arm.failed for arm in found.findings.arms) else 0


def every(args: argparse.Namespace, home: Home) -> int:
    """Writes the report of every sweep of the home, or of one study, and the index of them."""
    from analysis import index_page, wording

    if args.arms or args.blocks or request.forms_own_sweep(args):
        raise request.UsageError("--all takes every sweep as it was launched: leave out --scale, --arms and the like.")
    sweeps = request.sweeps_of(home, args.study)
    if not sweeps:
        raise request.UsageError(f"No sweep of {args.study or 'any study'} was launched in {home.name} yet.")
    entries, broken = [], []
    for sweep in sweeps:
        line = launched(home, sweep)
        if line is None:
            broken.append(index_page.Broken(sweep, "its log has no launch: nothing was handed out before it ended"))
            continue
        try:
            plan = request.plan_from_line(line)
            found = answer.write(plan, home)
        except (StudyError, ValueError) as error:
            broken.append(index_page.Broken(sweep, str(error)))
            continue
        entries.append(index_page.Entry(sweep, found.report, plan.study, found.findings))
    page = index_page.write(entries, home.root / "reports", broken=broken)
    mirror.send_or_warn(home, page)
    if args.json:
        reports = {entry.sweep: str(entry.report) for entry in entries}
        terminal.write_json({"index": str(page), "reports": reports, "broken": {bad.sweep: bad.why for bad in broken}})
    else:
        out = terminal.console()
        for entry in entries:
            out.print(f"{entry.sweep}: {wording.headline(entry.findings, entry.study)}", soft_wrap=True)
        for bad in broken:
            terminal.warn(f"{bad.sweep}: {bad.why}")
        out.print(f"\nIndex      {page}", soft_wrap=True)
    failed = any(arm.failed for entry in entries for arm in entry.findings.arms)
    return 1 if failed or broken else 0


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
                f"Nothing of {now.sweep} was run in {home.name} yet, so there is nothing to report. "
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
