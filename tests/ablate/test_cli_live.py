"""What is drawn while a sweep runs: the numbers in it are right, it fits the terminal, and lines do not flood a log."""

import io
import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from ablate import live, terminal
from ablate.driver import Event
from ablate.log import Entry, Record
from ablate.plan import Plan, Trial, plan
from ablate.progress import progress, time_left
from tests.ablate import toy


@pytest.fixture
def wanted() -> Plan:
    return plan(toy.broken, "laptop")


def record(trial: Trial, state: str = "done", value: float = 0.9) -> Record:
    epochs = ({"epoch": 1, "seconds": 1.0, "metrics": {"accuracy": 0.1}}, {"epoch": 2, "seconds": 1.0, "metrics": {}})
    last = {"epoch": 3, "seconds": 1.0, "metrics": {"accuracy": value}}
    error = "" if state == "done" else "Traceback ...\nDiverged: loss is nan [in epoch 1]"
    reason = "" if state == "done" else "diverged"
    return Record(trial.id, trial.method, trial.config, trial.data, trial.seed, state, reason, error, (*epochs, last))


def ends(trial: Trial, state: str = "done", value: float = 0.9) -> Event:
    return Event("ended", trial.id, record=record(trial, state, value))


def ticking(step: float) -> Callable[[], float]:
    return itertools.count(0.0, step).__next__


def screen(width: int, height: int = 40) -> Console:
    return Console(file=io.StringIO(), width=width, height=height, markup=False, highlight=False, emoji=False)


def drawn(view: live.LiveView, out: Console) -> str:
    with out.capture() as captured:
        out.print(view.draw())
    return captured.get()


def test_a_node_that_is_left_out_is_seen(wanted: Plan) -> None:
    out, why = screen(100), "host-a gets no more trials: 3 failures in a row there"
    view = live.LiveView(wanted, {}, out)
    assert why not in drawn(view, out)
    view.watch(Event("avoided", why=why))
    assert why in drawn(view, out)
    lines = live.Lines(wanted, {}, out)
    with out.capture() as captured:
        lines.watch(Event("avoided", why=why))
    assert why in captured.get()


def test_an_outcome_that_nothing_measures_is_said_at_the_first_end() -> None:
    misspelt = plan(replace(toy.toy, outcome=replace(toy.toy.outcome, metric="acuracy")), "laptop")
    for sweep, seen in ((misspelt, 1), (plan(toy.toy, "laptop"), 0)):
        out = screen(150)
        view, lines = live.LiveView(sweep, {}, out), live.Lines(sweep, {}, out)
        with out.capture() as captured:
            for trial in sweep.trials[:3]:
                view.watch(ends(trial))
                lines.watch(ends(trial))
        says = f"{sweep.trials[0].label} is done without 'acuracy', the study's outcome. Did you mean 'accuracy'?"
        assert (captured.get().count(says), drawn(view, out).count(says)) == (seen, seen)


def test_what_is_waited_for_stands_there_until_a_trial_begins(wanted: Plan) -> None:
    out, why = screen(100), "for a node that can take a trial"
    view, lines = live.LiveView(wanted, {}, out), live.Lines(wanted, {}, out)
    view.watch(Event("waiting", why=why))
    assert f"waiting {why}" in drawn(view, out)
    view.watch(Event("started", wanted.trials[0].id))
    assert why not in drawn(view, out)
    with out.capture() as captured:
        lines.watch(Event("waiting", why=why))
    assert captured.get() == f"waiting  {why}\n"


def test_progress_counts_each_state_and_means_over_done_blocks_only(wanted: Plan) -> None:
    ids = {(cell.arm, cell.block.seed): cell.trial for cell in wanted.cells}
    trials = {trial.id: trial for trial in wanted.trials}
    entries = {
        ids["base", 0]: Entry(record=record(trials[ids["base", 0]], value=0.5)),
        ids["base", 1]: Entry(record=record(trials[ids["base", 1]], value=0.7)),
        ids["unstable", 1]: Entry(record=record(trials[ids["unstable", 1]], "failed")),
    }
    found = progress(wanted, entries, {ids["more", 0], ids["base", 2]})
    assert (found.total, found.done, found.failed, found.running, found.pending) == (16, 2, 1, 2, 11)
    arms = {arm.arm: arm for arm in found.arms}
    assert (arms["base"].done, arms["base"].running, arms["base"].pending) == (2, 1, 1)
    assert arms["base"].mean == pytest.approx(0.6)
    assert arms["more"].mean is None
    assert [trial.id for trial, _ in found.failures] == [ids["unstable", 1]]


def test_time_left_is_the_pace_so_far() -> None:
    assert time_left(finished=4, remaining=6, elapsed=20) == 30
    assert time_left(finished=0, remaining=6, elapsed=20) is None


def test_the_pace_leaves_start_up_out_and_counts_parts_of_trials(wanted: Plan) -> None:
    now = 0.0
    state = live.State(wanted, {}, lambda: now)
    first, second = wanted.trials[:2]
    state.hear(Event("started", first.id))
    now = 100.0  # workers start: nobody's pace
    assert state.now()[1] is None
    state.hear(Event("epoch", first.id, epoch=1))
    now = 110.0
    state.hear(ends(first))
    state.hear(Event("started", second.id))
    state.hear(Event("epoch", second.id, epoch=1))
    # 1 + 1/3 trials are over, 1/3 of them before the clock began: one in 10 s, and 15 - 1/3 remain.
    left = state.now()[1]
    assert left == pytest.approx(10 * (15 - 1 / 3))


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_view_fits_the_terminal_and_says_what_status_would(wanted: Plan, width: int) -> None:
    out = screen(width)
    view = live.LiveView(wanted, {}, out, ticking(1.0))
    for trial in wanted.trials[:3]:
        view.watch(Event("started", trial.id))
        view.watch(ends(trial, value=0.9123))
    view.watch(ends(wanted.trials[3], "failed"))
    view.watch(Event("started", wanted.trials[4].id))
    text = drawn(view, out)
    assert max(map(len, text.splitlines())) <= width
    flat = " ".join(text.split())
    assert "3 of 16 done, 1 failed, 1 running, 11 pending" in flat
    assert flat.count("91.23") == 3
    assert "unstable digits-closed/t0/s0: diverge" in flat
    assert ("[in epoch 1]" in flat) == (width > 40)


def test_more_arms_than_lines_are_summed_up(wanted: Plan) -> None:
    out = screen(80, height=12)
    text = drawn(live.LiveView(wanted, {}, out, ticking(1.0)), out)
    assert "4 arms, more than fit" in " ".join(text.split())
    assert len(text.splitlines()) <= 12


def test_a_lost_worker_is_running_no_more(wanted: Plan) -> None:
    state = live.State(wanted, {}, ticking(1.0))
    state.hear(Event("started", wanted.trials[0].id))
    assert state.now()[0].running == 1
    state.hear(Event("lost", wanted.trials[0].id, why="killed"))
    assert (state.now()[0].running, state.now()[0].pending) == (0, 16)


def test_lines_one_a_trial_when_trials_are_slow(wanted: Plan) -> None:
    out = screen(120)
    with live.Lines(wanted, {}, out, ticking(5.0)) as lines:
        for trial in wanted.trials:
            lines.watch(ends(trial))
    assert isinstance(out.file, io.StringIO)
    text = out.file.getvalue().splitlines()
    assert len(text) == 16
    assert [line.split(":")[0].split()[1] for line in text[:4]] == ["base", "more", "less", "unstable"]


def test_lines_are_throttled_when_trials_are_fast_but_count_all(wanted: Plan) -> None:
    out = screen(120)
    with live.Lines(wanted, {}, out, ticking(0.01)) as lines:
        for trial in wanted.trials[:-1]:
            lines.watch(ends(trial))
        lines.watch(ends(wanted.trials[-1], "failed"))
    assert isinstance(out.file, io.StringIO)
    text = out.file.getvalue().splitlines()
    assert len(text) == 2
    assert "(and 14 more)" in text[-1]
    assert text[-1].startswith("failed")
    assert "diverged: Diverged: loss is nan [in epoch 1]" in text[-1]
    assert "15 of 16 done, 1 failed" in text[-1]


def test_the_bar_shows_every_state_and_is_as_long_as_asked(wanted: Plan) -> None:
    trials = wanted.trials
    entries = {trial.id: Entry(record=record(trial)) for trial in trials[:8]}
    entries |= {trial.id: Entry(record=record(trial, "failed")) for trial in trials[8:12]}
    found = progress(wanted, entries, {trials[12].id, trials[13].id})
    assert terminal.bar(found, 16).plain == "████████xxxx▒▒░░"


def test_color_is_left_out_where_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch, wanted: Plan) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = Console(file=io.StringIO(), width=80, force_terminal=True)
    with out.capture() as captured:
        out.print(terminal.tally(progress(wanted, {})))
        out.print(terminal.arm_table(wanted, progress(wanted, {}), 80))
    assert "\x1b[3" not in captured.get()


def test_output_in_a_pipe_has_no_trailing_blanks(capsys: pytest.CaptureFixture[str], wanted: Plan) -> None:
    terminal.console().print(terminal.arm_table(wanted, progress(wanted, {}), 80))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert all(line == line.rstrip() for line in lines)
