"""What a person sees while a sweep runs: a view that updates in place on a terminal, else plain lines.

Both are fed a driver's events by `watch` and keep their own entries, so that they show what `status` would.
"""

import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from ablate import terminal
from ablate.driver import Event
from ablate.log import Entry, Record
from ablate.plan import Plan, Trial
from ablate.progress import Progress, part_done, progress, time_left
from trainables.config import nearest

REDRAWS_PER_SECOND = 2
FAILURES_SHOWN = 3
LINE_EVERY_S = 1.0
"""Plain lines come no faster than this; what falls between is counted on the next one."""


class State:
    """The sweep as the events so far tell it. Written by the driver's thread, read by the one that draws."""

    def __init__(self, plan: Plan, entries: Mapping[str, Entry], clock: Callable[[], float]) -> None:
        self.plan = plan
        self._trials = {trial.id: trial for trial in plan.trials}
        self._entries = dict(entries)
        self.avoided = ""
        """The node that was left out last, and why."""
        self.waiting = ""
        """What the sweep waits for, until something goes on."""
        self.unmeasured = ""
        """The first trial that ended without the study's outcome: its name is misspelt, say, and hours are to come."""
        self._epochs: dict[str, int] = {}
        self._steered: Mapping[str, str] = {}
        self._ended = 0
        self._anchor: tuple[float, float] | None = None
        """Clock and trials finished when the first epoch came in: before that, workers were starting."""
        self._clock = clock
        self._lock = threading.Lock()

    def hear(self, event: Event) -> None:
        """Takes in one event."""
        with self._lock:
            if event.kind == "grown":
                assert event.plan is not None
                self.plan = event.plan
                self._trials = {trial.id: trial for trial in event.plan.trials}
            elif event.kind == "ordered":
                self._steered = event.steered or {}
            elif event.kind == "avoided":
                self.avoided = event.why
            elif event.kind == "waiting":
                self.waiting = f"waiting {event.why}"
            elif event.kind == "started":
                self._epochs[event.trial], self.waiting = 0, ""
            elif event.kind == "epoch":
                self._epochs[event.trial] = event.epoch
            else:
                self._epochs.pop(event.trial, None)
            if event.kind == "ended":
                self._ended += 1
                self.unmeasured = self.unmeasured or self._unmeasured(event.record)
                self._entries[event.trial] = Entry(record=event.record)
            if self._anchor is None and event.kind in ("epoch", "ended"):
                self._anchor = (self._clock(), self._finished())

    def _unmeasured(self, record: Record | None) -> str:
        """What a done trial, needed for itself, lacks and has; nothing where it has the outcome."""
        if record is None or record.state != "done" or record.trial not in {cell.trial for cell in self.plan.cells}:
            return ""
        metric = self.plan.study.outcome.metric
        measured = sorted({name for epoch in record.epochs for name in epoch["metrics"]})
        if metric in measured:
            return ""
        return (
            f"{self.label(record.trial)} is done without {metric!r}, the study's outcome.{nearest(metric, measured)} "
            f"It measured: {', '.join(measured)}."
        )

    def now(self) -> tuple[Progress, float | None]:
        """Progress, and the seconds left at the pace so far; None while nothing tells it."""
        with self._lock:
            found = progress(self.plan, self._entries, self._epochs.keys(), self._steered)
            if self._anchor is None:
                return found, None
            since, before = self._anchor
            finished = self._finished()
            remaining = found.remaining - (finished - self._ended)
            return found, time_left(finished - before, remaining, self._clock() - since)

    def _finished(self) -> float:
        """Trials ended in this run, and the parts of running ones that are over."""
        return self._ended + sum(part_done(self._trials[trial], epoch) for trial, epoch in self._epochs.items())

    def label(self, trial: str) -> str:
        """Arm and block."""
        return self._trials[trial].label


class LiveView:
    """Redraws in place, a few times a second, from a thread of its own; a context manager."""

    def __init__(
        self, plan: Plan, entries: Mapping[str, Entry], out: Console, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._state = State(plan, entries, clock)
        self._out = out
        self._live = Live(
            console=out, get_renderable=self.draw, refresh_per_second=REDRAWS_PER_SECOND, vertical_overflow="crop"
        )

    def __enter__(self) -> "LiveView":
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def watch(self, event: Event) -> None:
        """Goes to `driver.run`."""
        self._state.hear(event)

    def draw(self) -> RenderableType:
        """The view as of now."""
        found, left = self._state.now()
        plan = self._state.plan
        parts: list[RenderableType] = [
            Text.assemble((plan.sweep, "bold"), "  ", terminal.tally(found, left)),
            terminal.bar(found, max(20, min(self._out.width - 2, 100))),
            "",
        ]
        room = self._out.height - 8 - FAILURES_SHOWN
        fits = len(found.arms) <= room
        parts.append(terminal.arm_table(plan, found, self._out.width) if fits else _too_many(found, room))
        if found.failures:
            last = found.failures[-FAILURES_SHOWN:]
            parts += ["", terminal.heading("Failed"), *(_failure(trial, record) for trial, record in last)]
        for notice in filter(None, [self._state.unmeasured, self._state.avoided, self._state.waiting]):
            parts += ["", Text(notice, style="yellow", no_wrap=True, overflow="ellipsis")]
        if found.remaining:
            parts += ["", Text("Ctrl-C stops cleanly; nothing done is lost.", style="dim")]
        return Group(*parts)


class Lines:
    """One line for each ended trial, or for many when they end fast. Failures and lost workers always get theirs."""

    def __init__(
        self, plan: Plan, entries: Mapping[str, Entry], out: Console, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._state = State(plan, entries, clock)
        self._out = out
        self._clock = clock
        self._last: float | None = None
        self._skipped = 0
        self._failures = 0

    def __enter__(self) -> "Lines":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._skipped:
            self._out.print(terminal.tally(*self._state.now()), soft_wrap=True)

    def watch(self, event: Event) -> None:
        """Goes to `driver.run`."""
        known = self._state.unmeasured
        self._state.hear(event)
        if self._state.unmeasured != known:
            self._out.print(Text(f"lacking  {self._state.unmeasured}", style="yellow"), soft_wrap=True)
        if event.kind == "lost":
            self._out.print(
                f"lost     {self._state.label(event.trial)}: {event.why}; it will be tried again", soft_wrap=True
            )
        if event.kind == "avoided":
            self._out.print(f"avoided  {event.why}", soft_wrap=True)
        if event.kind == "waiting":
            self._out.print(f"waiting  {event.why}", soft_wrap=True)
        if event.kind == "ordered":
            self._out.print(f"ordered  {event.why}", soft_wrap=True)
        if event.kind != "ended" or event.record is None:
            return
        failed = event.record.state == "failed"
        now = self._clock()
        if self._last is not None and now - self._last < LINE_EVERY_S and not (failed and self._failures < LISTED):
            self._skipped += 1
            return
        self._failures += failed
        self._out.print(self._line(event), soft_wrap=True)
        self._last, self._skipped = now, 0

    def _line(self, event: Event) -> Text:
        record = event.record
        assert record is not None
        outcome = self._state.plan.study.outcome
        value = terminal.outcome_text(record, outcome)
        end = f"failed   {self._state.label(event.trial)}: {terminal.why(record)}"
        done = f"done     {self._state.label(event.trial)}" + (f": {value}" if value else "")
        more = f" (and {self._skipped} more)" if self._skipped else ""
        text = Text(end if record.state == "failed" else done, style="red" if record.state == "failed" else "")
        return Text.assemble(text, more, "  [", terminal.tally(*self._state.now()), "]")


LISTED = 20
"""Failures that get a line of their own even when trials end fast."""


def _failure(trial: Trial, record: Record) -> Text:
    """One line, cut at the terminal's edge; `status` shows it whole."""
    return Text(f"  {trial.label}: {terminal.why(record)}", style="red", no_wrap=True, overflow="ellipsis")


def _too_many(found: Progress, room: int) -> Text:
    """Arms that do not fit on the screen are summed up; `status` lists them."""
    return Text(
        f"  {len(found.arms)} arms, more than fit here ({max(room, 0)} lines); `status` lists them all.", style="dim"
    )
