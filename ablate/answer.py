"""From what the logs of a home hold to the answer: Parquet frame, findings, report, table in the terminal."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ablate import masking, mirror, preflight, request, staleness, terminal
from ablate.home import Home
from ablate.log import ledger, read
from ablate.plan import Plan
from ablate.summary import load

if TYPE_CHECKING:
    from analysis.findings import Findings
    from analysis.frame import Frame

REASONS = 3
"""Why trials are stale, named before the rest is counted."""


@dataclass(frozen=True)
class Answer:
    """What a sweep says so far, and where it was written."""

    plan: Plan
    frame: "Frame"
    findings: "Findings"
    report: Path
    """The report's page."""


def write(plan: Plan, home: Home) -> Answer:
    """Writes the frame and the report of the plan from the logs of the home. Trains nothing, needs no framework.

    Raises:
        UsageError: what was run cannot answer the study's question: nothing measured its outcome, or a method's metric
            has the name of a column.
    """
    from ablate import exhibits, provenance, records
    from analysis import contrasts, report
    from analysis.frame import FrameError

    preflight.check_folder(home)
    try:
        frame = records.frame(home, plan)
        records.write(frame, home.frames(plan.sweep))
        findings = contrasts.compare(frame, plan.study)
    except (FrameError, records.FrameError) as error:
        raise request.UsageError(f"{plan.sweep} has no answer: {error} What was trained is kept.") from error
    steered = load(home, plan.sweep).standing.steered
    if steered.arms:
        said = f"By order, {steered.text}: what is missing of them was left out on purpose."
        findings = replace(findings, warnings=(said, *findings.warnings))
    page = report.write(
        frame,
        plan.study,
        home.report(plan.sweep),
        command=_command(plan, home),
        provenance=provenance.collect(),
        findings=findings,
        exhibits=exhibits.gather(home, plan, frame) if plan.study.figures else None,
    )
    mirror.send_or_warn(home, home.frames(plan.sweep), home.report(plan.sweep))
    return Answer(plan, frame, findings, page)


def _command(plan: Plan, home: Home) -> str:
    """What started the sweep, as it was typed; where only `resume` or a program did, what would start it again."""
    path = home.log(plan.sweep)
    typed = [line.get("command", "") for _, line in read(path) if line["kind"] == "sweep"] if path.exists() else []
    runs = [command for command in typed if command.startswith("python -m ablate run ")]
    return (
        runs[-1]
        if runs
        else masking.typed(["python", "-m", "ablate", "run", request.reference_of(plan.study), *request.form_of(plan)])
    )


def show(answer: Answer) -> None:
    """The verdict for a terminal."""
    from analysis import tables

    out = terminal.console()
    sys.stdout.write(tables.terminal(answer.findings, answer.plan.study, width=min(out.width, 120)).rstrip() + "\n")


def mind_stale(answer: Answer, home: Home) -> None:
    """Says, on standard error, that numbers shown are of other code or data: of a method that was edited since, say."""
    found = staleness.stale(answer.plan, ledger(home))
    if found:
        reasons = list(dict.fromkeys(reason for each in found.values() for reason in each))
        more = f" and {len(reasons) - REASONS} more" if len(reasons) > REASONS else ""
        terminal.warn(
            f"{len(found)} of {terminal.count(len(answer.plan.trials), 'trial')} shown here "
            f"{'was' if len(found) == 1 else 'were'} made by other code or data than there is now: "
            f"{'; '.join(reasons[:REASONS])}{more}.\n"
            f"To train again what is stale:  {request.command('resume', home, answer.plan)} --fresh"
        )


def attach(answer: Answer, home: Home, uri: str) -> str:
    """Puts table, figures and report on the sweep's parent run in MLflow; returns what went wrong, else nothing.

    The answer is on disk by now: a server that fails here costs a `sync` later, never the run.
    """
    from ablate import tracking

    try:
        tracking.attach(home, answer.plan.sweep, uri, answer.report.parent)
    except tracking.TrackingError as error:
        return str(error)
    return ""


def where_next(answer: Answer, home: Home) -> None:
    """Where to look now."""
    out = terminal.console()
    rows = [
        ("Report", str(answer.report)),
        ("Frame", str(home.frames(answer.plan.sweep))),
        ("Every run", request.command("ui", home)),
    ]
    for name, text in rows:
        out.print(f"{name:<10} {text}", soft_wrap=True)
