"""`run`: train what is missing of a study, then answer its question. A finished study is answered at once."""

import argparse
import math
import sys
from typing import TYPE_CHECKING, Any

from ablate import masking, options, preflight, request, terminal
from ablate.home import Home
from ablate.log import launched, ledger
from ablate.plan import Plan

if TYPE_CHECKING:
    from ablate.driver import Result
    from ablate.execution import Options

HELD = 3
INTERRUPTED = 130
HOW = (
    *("home", "data", "workers", "address", "cpus_per_trial", "gpus_per_trial", "patience", "hang_after"),
    *("mlflow", "optuna"),
)
PAIRS = ("resource", "label")
FLAGS = ("local", "elastic", "pack", "fresh", "retry_failed", "quiet")
"""Options that say how to run, with a value, with several and without; whoever goes on wants them again."""


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    options.add_study(parser)
    options.add_form(parser, scale=request.DEFAULT_SCALE)
    options.add_home(parser)
    options.add_execution(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    return drive(request.plan_of(args), request.home_of(args), args)


def drive(plan: Plan, home: Home, args: argparse.Namespace) -> int:
    """Checks, trains, answers; returns the exit code. `resume` comes here too."""
    from ablate import driver, tracking
    from ablate.executors import Refused

    chosen = driver_options(home, args)
    preflight.check_home(home)
    notes: list[tuple[str, str]] = []
    try:
        result = _watched(plan, chosen, notes, quiet=args.quiet)
    except driver.Held as error:
        terminal.complain(str(error))
        return HELD
    except (Refused, tracking.TrackingError) as error:
        raise request.UsageError(str(error)) from error
    plan = result.plan or plan
    labels = {trial.id: trial.label for trial in plan.trials}
    for trial, note in notes:
        terminal.warn(f"{labels[trial]}: {note}")
    return _conclude(plan, home, args, result)


def driver_options(home: Home, args: argparse.Namespace) -> "Options":
    """How to run, from the command line. The home's own stores are the default."""
    from ablate.execution import Options
    from ablate.executors import AWAY_S

    return Options(
        home=home,
        data=request.data_of(args),
        local=args.local,
        address=args.address,
        slots=args.workers,
        cpus_per_trial=args.cpus_per_trial,
        gpus_per_trial=args.gpus_per_trial,
        resources=dict(args.resource),
        labels=dict(args.label),
        patience=AWAY_S if args.patience is None else args.patience,
        elastic=args.elastic,
        mlflow=options.sink(args.mlflow, home.mlflow),
        optuna=options.sink(args.optuna, home.optuna),
        hang_after=math.inf if args.hang_after == 0 else args.hang_after,
        pack=args.pack,
        retry_failed=args.retry_failed,
        fresh=args.fresh,
        command=typed_command(),
    )


def typed_command() -> str:
    """The command as typed, for the log, the lock and the report; without passwords."""
    return "python -m ablate " + masking.typed(sys.argv[1:])


def _watched(plan: Plan, chosen: "Options", notes: list[tuple[str, str]], *, quiet: bool) -> "Result":
    """Runs, and shows it; what the records note (a corrupt checkpoint, say) is kept for after the view."""
    from ablate import driver, live

    def check() -> None:
        preflight.check_methods(plan)
        preflight.check_data(plan, chosen.home, chosen.data)

    def keep(event: driver.Event) -> None:
        if event.record is not None:
            notes.extend((event.trial, note) for note in event.record.notes)

    if quiet:
        return driver.run(plan, chosen, keep, check)
    out = terminal.console()
    view = live.LiveView if out.is_terminal and not out.is_dumb_terminal else live.Lines
    with view(plan, ledger(chosen.home), out) as shown:

        def both(event: driver.Event) -> None:
            keep(event)
            try:
                shown.watch(event)
            except BrokenPipeError:
                terminal.hush()
                raise KeyboardInterrupt from None  # `run ... | head`: it stops, and says how to go on

        return driver.run(plan, chosen, both, check)


def _conclude(plan: Plan, home: Home, args: argparse.Namespace, result: "Result") -> int:
    """The answer, or how to go on."""
    from ablate import answer

    if result.interrupted:
        terminal.warn(
            f"{result.message or 'Interrupted.'} {len(result.done)} of {len(plan.trials)} trials are done and kept.\n"
            f"To go on:  {going_on(args, launched=launched(home, plan.sweep) is not None)}"
        )
        return INTERRUPTED
    found = answer.write(plan, home)
    if result.trained and not args.quiet:
        terminal.console().print()
    answer.show(found)
    late = _late(result)
    uri = options.sink(args.mlflow, home.mlflow)
    if uri is not None and result.trained and not late:
        late = answer.attach(found, home, uri)
    terminal.console().print()
    answer.where_next(found, home)
    answer.mind_stale(found, home)
    if result.message:
        terminal.warn(result.message)
    if result.failed:
        failed = terminal.count(len(result.failed), "trial")
        terminal.warn(
            f"{failed} failed. With the tracebacks:  {request.command('status', home, plan, formed=False)} --json\n"
            f"Once that is mended:  {request.command('resume', home, plan)} --retry-failed"
        )
    if late:
        terminal.warn(f"MLflow lacks some of it: {late}. Deliver it later:  {request.command('sync', home)}")
    return 1 if result.failed else 0


def _late(result: "Result") -> str:
    """What MLflow has not got, and why."""
    delivered = result.delivered
    if delivered is None or not (delivered.pending or delivered.error):
        return ""
    return f"{terminal.count(delivered.pending, 'trial')} undelivered ({delivered.error or 'it took too long'})"


def going_on(args: argparse.Namespace, *, launched: bool) -> str:
    """What to type to go on: as before where nothing was launched yet, as launched after that."""
    given: list[tuple[str, Any]] = [("--scale", args.scale), ("--dataset", args.dataset)]
    given += [("--arms", ",".join(args.arms or ())), ("--blocks", args.blocks), *(("--set", text) for text in args.set)]
    given = [] if launched else given
    given += [(f"--{name.replace('_', '-')}", getattr(args, name)) for name in HOW]
    given += [(f"--{name}", f"{key}={value}") for name in PAIRS for key, value in getattr(args, name)]
    words = [word for option, value in given if value is not None and value != "" for word in (option, str(value))]
    flags = [f"--{name.replace('_', '-')}" for name in FLAGS if getattr(args, name)]
    return masking.typed(["python", "-m", "ablate", "resume" if launched else "run", args.study, *words, *flags])
