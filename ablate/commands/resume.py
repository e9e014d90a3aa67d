"""`resume`: go on with a sweep as it was last launched in this home, with the study as it was then."""

import argparse

from ablate import options, request
from ablate.commands import run as run_command


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    options.add_study(parser)
    options.add_form(parser, scale="the last one launched")
    options.add_home(parser)
    options.add_execution(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    home = request.home_of(args)
    plan = request.launched_plan(args, home)
    if plan is None:
        raise request.UsageError(
            f"Nothing of {args.study} was launched in {home.name} yet, so there is nothing to resume. "
            f"Start it:  python -m ablate run {args.study}   or name another home with --home."
        )
    return run_command.drive(request.narrowed(plan, args), home, args)
