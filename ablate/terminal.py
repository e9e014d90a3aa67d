"""Text for people: the console, and the pieces that the commands' pages are made of. Drawn with rich."""

import io
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any, cast

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ablate.log import Record
from ablate.masking import redact
from ablate.plan import Plan, Trial
from ablate.progress import ArmProgress, Progress, outcome_of
from analysis import display
from search_spaces.study import Outcome

PIPE_WIDTH = 120
"""Columns when the output is no terminal and COLUMNS says nothing."""


def console(file: IO[str] | None = None) -> Console:
    """Draws as wide as the terminal is; NO_COLOR and TERM=dumb are respected; nothing given is read as markup."""
    stream = file or sys.stdout
    if not stream.isatty():
        stream = cast(IO[str], _WithoutTrail(stream))
    width = None if stream.isatty() or os.environ.get("COLUMNS") else PIPE_WIDTH
    return _Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Rich would leave the program with exit code 1, which says that trials failed."""
        raise BrokenPipeError


def hush() -> None:
    """Nobody reads standard output any more (head, less): what is still written goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def spell() -> None:
    """What the output's encoding lacks (bars, a minus) is written as a question mark: no reason to lose an answer."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


class _WithoutTrail:
    """A file that drops the blanks that tables are filled up with: in a pipe or a log they are noise."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, text: str) -> int:
        self._file.write(re.sub(r" +(?=\n|\Z)", "", text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def write_json(value: Any) -> None:
    """One JSON document on standard output. Numbers that JSON lacks (NaN) become null."""
    json.dump(_finite(value), sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def complain(message: str) -> None:
    """An error for people, on standard error."""
    _say("error: ", "bold red", message)


def warn(message: str) -> None:
    """Something to know, on standard error."""
    _say("note: ", "bold yellow", message)


def _say(mark: str, style: str, message: str) -> None:
    """Wrapped between words on a terminal, never within one: paths and commands can be copied."""
    out = console(sys.stderr)
    out.print(Text.assemble((mark, style), redact(message)), overflow="ignore", soft_wrap=not out.is_terminal)


def heading(text: str) -> Text:
    """The title of a part."""
    return Text(text, style="bold")


def facts(rows: Iterable[tuple[str, str]]) -> Table:
    """Name and text, side by side; the text wraps within its column."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        if text:
            table.add_row(name, text)
    return table


def grid(columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, numbers: Iterable[int] = ()) -> Padding:
    """A table without boxes, indented; columns in `numbers` are set to the right."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    right = set(numbers)
    for index, column in enumerate(columns):
        if index in right:
            table.add_column(column, justify="right", overflow="fold")
        else:
            table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return Padding(table, (0, 0, 0, 2))


def bullets(lines: Iterable[str]) -> Table:
    """Sentences, one below the other."""
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=3, justify="right")
    table.add_column(overflow="fold")
    for line in lines:
        table.add_row("-", line)
    return table


def count(number: int, noun: str) -> str:
    """'1 trial', '2 trials'."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def tally(state: Progress, left: float | None = None) -> Text:
    """'17 of 25 done, 1 failed, 2 running, 5 pending, 1.2 min left'; states without a trial are left out."""
    parts = [(f"{state.done} of {state.total} done", "")]
    parts += [(f"{state.failed} failed", "bold red")] if state.failed else []
    parts += [(f"{state.running} running", "cyan")] if state.running else []
    parts += [(f"{state.pending} pending", "")] if state.pending else []
    parts += [(f"{state.paused} paused", "yellow")] if state.paused else []
    parts += [(f"{state.cancelled} cancelled", "yellow")] if state.cancelled else []
    parts += [(f"about {display.seconds(left)} left", "")] if left is not None and state.remaining else []
    return Text(", ").join(Text(text, style=style) for text, style in parts)


def bar(state: Progress | ArmProgress, width: int = 40) -> Text:
    """Done, failed, running and pending as lengths, told apart by shape as well as by colour."""
    text = Text(no_wrap=True, overflow="crop")
    begin = reached = 0
    for number, shape, style in (
        (state.done, "█", "green"),
        (state.failed, "x", "bold red"),
        (state.running, "▒", "cyan"),
        (state.pending, "░", "dim"),
    ):
        reached += number
        end = round(width * reached / state.total) if state.total else 0
        text.append(shape * (end - begin), style=style)
        begin = end
    return text


def arm_table(plan: Plan, state: Progress, width: int) -> RenderableType:
    """Each arm with its blocks done and the mean of its outcome so far, on a terminal of so many columns."""
    outcome = plan.study.outcome
    unit = " (%)" if outcome.unit == 100 else ""
    failed, running = any(arm.failed for arm in state.arms), any(arm.running for arm in state.arms)
    columns = ["arm", "", "done", *(["failed"] if failed else []), *(["running"] if running else [])]
    columns.append(f"mean {outcome.label}{unit} so far")
    rows: list[list[str | Text]] = []
    for arm in state.arms:
        said = [name for name in ("baseline" if arm.arm == plan.study.baseline else "", arm.steered) if name]
        mark = f" ({', '.join(said)})" if said else ""
        row: list[str | Text] = [arm.label + mark, bar(arm, 12 if width >= 100 else 6), f"{arm.done}/{arm.total}"]
        row += [Text(str(arm.failed or ""), style="bold red")] if failed else []
        row += [Text(str(arm.running or ""), style="cyan")] if running else []
        row.append("" if arm.mean is None else f"{arm.mean * outcome.unit:.2f}")
        rows.append(row)
    return grid(columns, rows, numbers=range(2, len(columns)))


def failures(failed: Sequence[tuple[Trial, Record]], shown: int) -> RenderableType:
    """Trial, reason and the last line of its traceback; the first `shown`, and how many more there are."""
    rows = [[trial.label, trial.id, record.reason, _last_line(record.error)] for trial, record in failed[:shown]]
    if len(failed) > shown:
        rows.append([f"and {len(failed) - shown} more", "", "", ""])
    return grid(["arm and block", "trial", "reason", "error"], rows)


def stale_table(plan: Plan, stale: Mapping[str, Sequence[str]], shown: int) -> RenderableType:
    """What changed, and the trials that were made before it; those with the same reasons in one row."""
    labels = {trial.id: trial.label for trial in plan.trials}
    groups: dict[tuple[str, ...], list[str]] = {}
    for trial, reasons in stale.items():
        groups.setdefault(tuple(reasons), []).append(f"{labels[trial]} ({trial})")
    rows = []
    for reasons, trials in groups.items():
        rows.append([count(len(trials), "trial"), _some(reasons, shown), _some(trials, 3)])
    return grid(["", "what changed", "which"], rows)


def _some(items: Sequence[str], shown: int) -> str:
    rest = len(items) - shown
    return "\n".join([*items[:shown], *([f"and {rest} more"] if rest > 0 else [])])


def outcome_text(record: Record, outcome: Outcome) -> str:
    """'AUROC 95.31', or nothing where it was not measured."""
    value = outcome_of(record, outcome)
    return "" if value is None else f"{outcome.label} {value * outcome.unit:.2f}"


def why(record: Record) -> str:
    """Reason and last line of the traceback."""
    return ": ".join(part for part in (record.reason, _last_line(record.error)) if part)


def _last_line(error: str) -> str:
    lines = error.strip().splitlines()
    return lines[-1] if lines else ""


def _finite(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
