"""`sync`: rebuild MLflow and Optuna from the log. Both are projections: delete them, and this brings them back."""

import argparse

from ablate import options, preflight, request, segments, store, terminal
from ablate.home import Home
from ablate.masking import redact


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    options.add_study(parser, optional=True)
    options.add_home(parser)
    options.add_sinks(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    home = request.home_of(args)
    sweeps = request.sweeps_of(home, args.study)
    if not sweeps:
        raise request.UsageError(
            f"No sweep of {args.study or 'any study'} was launched in {home.name}: nothing to sync."
        )
    preflight.check_home(home)
    mlflow, optuna = options.sink(args.mlflow, home.mlflow), options.sink(args.optuna, home.optuna)
    out = terminal.console()
    for sweep in sweeps:
        late = segments.deliver(home, sweep, store.ANSWER_S)
        if late:
            terminal.warn(late)
        for line in project(home, sweep, mlflow, optuna):
            out.print(line, soft_wrap=True)
    return 0


def project(home: Home, sweep: str, mlflow: str | None, optuna: str | None) -> list[str]:
    """Brings both up to the log; says what was delivered where.

    Raises:
        UsageError: one cannot be reached.
    """
    said = []
    if mlflow is not None:
        from ablate import tracking

        try:
            tracking.check(mlflow)
            delivered = tracking.sync(home, sweep, mlflow)
            if (home.report(sweep) / "report.html").is_file():
                tracking.attach(home, sweep, mlflow, home.report(sweep))
        except tracking.TrackingError as error:
            raise request.UsageError(str(error)) from error
        late = f", {delivered.pending} undelivered: {delivered.error}" if delivered.pending else ""
        runs = terminal.count(delivered.runs, "run")
        said.append(f"{sweep}: {runs} in MLflow at {redact(mlflow)}{late}")
    if optuna is not None:
        from ablate import schedule

        try:
            added = schedule.project(home, sweep, optuna)
        except schedule.StorageError as error:
            raise request.UsageError(str(error)) from error
        said.append(f"{sweep}: {terminal.count(added, 'trial')} added to Optuna at {redact(optuna)}")
    return said
