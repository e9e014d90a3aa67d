"""A log in short says what the log says, whatever happened to either file."""

import dataclasses
import json
import math
import random
import statistics

import pytest

from ablate import summary
from ablate.home import Home
from ablate.log import Log, Record, ledger
from ablate.plan import plan
from ablate.progress import progress
from ablate.summary import Keeper, Summary, load, merged
from search_spaces.study import Outcome
from tests.ablate import walks

WHOLE = plan(walks.study("many", {f"d{k}": walks.Walk(drift=float(k)) for k in range(4)}, 5), "smoke")


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def record(trial, number):
    """Six to sixteen epochs of numbers that no rule selects alike; every seventh trial failed."""
    draw = random.Random(number)
    epochs = []
    for epoch in range(1, 7 + number % 11):
        metrics = {"auroc": draw.random(), "loss": draw.random()}
        if epoch % 3:
            metrics["now and then"] = draw.random()
        epochs.append({"epoch": epoch, "seconds": 0.5, "metrics": metrics})
    how = {"state": "failed", "reason": "error", "error": "Traceback\nboom"} if number % 7 == 3 else {"state": "done"}
    code = {"commit": "a" if number < 10 else "b", "code/walks.py": "1"}
    fields = {"epochs": tuple(epochs), "seconds": 1.5 * number, "attempts": 1 + number % 2, "notes": ("n",)}
    return Record(trial.id, trial.method, trial.config, trial.data, trial.seed, provenance=code, **fields, **how)


def write(home, trials=WHOLE.trials, *, keep=True, launch=True):
    """A sweep's log as its driver leaves it; two trials run, of which one has come to epoch 7."""
    keeper = Keeper(home, WHOLE.sweep)
    log = Log(home.log(WHOLE.sweep), heard=keeper.hear if keep else lambda *_line: None)
    if launch:
        form = {"study": WHOLE.study.to_plain(), "scale": "smoke", "arms": None, "blocks": None}
        log.append("sweep", **form, command="", provenance={})
    for number, trial in enumerate(trials):
        log.append("started", durable=False, trial=trial.id, attempt=1, where="here")
        if number == len(trials) - 1:
            break
        if number == len(trials) - 2:
            epochs = [{"epoch": epoch, "seconds": 0.1, "metrics": {"loss": 1.0}} for epoch in (5, 6, 7)]
            log.append("epochs", durable=False, trial=trial.id, epochs=epochs)
        else:
            log.append("ended", durable=False, trial=trial.id, record=record(trial, number))
    log.close()
    keeper.close()


def says_what_the_log_says(home, found: Summary):
    entries, short = ledger(home), merged([found])
    ended = {ident for ident, entry in entries.items() if entry.record}
    assert short.keys() == ended
    for ident in ended:
        whole, brief = entries[ident].record, short[ident].record
        same = {name: getattr(whole, name) for name in (*summary.KEPT, "provenance", "notes")}
        assert {name: getattr(brief, name) for name in same} == same
        assert short[ident].logged == entries[ident].logged
    for metric in ("auroc", "loss", "now and then"):
        for rule, higher in summary.RULES:
            outcome = Outcome(metric=metric, label=metric, select=rule, higher_is_better=higher)
            whole = dataclasses.replace(WHOLE, study=dataclasses.replace(WHOLE.study, outcome=outcome))
            by_log, by_summary = progress(whole, entries), progress(whole, short)
            assert by_summary.arms == by_log.arms
            assert [trial for trial, _ in by_summary.failures] == [trial for trial, _ in by_log.failures]
    assert found.standing.running == {WHOLE.trials[-2].id: 7, WHOLE.trials[-1].id: 0}
    assert found.standing.ended == len(WHOLE.trials) - 2
    assert found.launch["study"]["name"] == "many"


def test_the_summary_that_the_driver_keeps(home):
    write(home)
    says_what_the_log_says(home, load(home, WHOLE.sweep))


def test_a_log_without_a_summary(home):
    write(home, keep=False)
    says_what_the_log_says(home, load(home, WHOLE.sweep))
    assert not home.summary(WHOLE.sweep).exists()


def test_only_what_is_newer_is_read_of_the_log(home, monkeypatch):
    monkeypatch.setattr(summary, "MARK_BYTES", 2000)
    write(home)
    path = home.log(WHOLE.sweep)
    marks = [json.loads(line) for line in home.summary(WHOLE.sweep).read_text().splitlines() if '"at"' in line]
    known = [mark["at"] for mark in marks]
    assert len(known) > 3
    # Unreadable before the last mark but for the launch: whoever looked there would fail.
    raw = bytearray(path.read_bytes())
    first = raw.index(b"\n") + 1
    last = known[-1] - summary.TAIL_BYTES
    raw[first:last] = b"?" * (last - first)
    path.write_bytes(raw)
    found = load(home, WHOLE.sweep)
    assert len(found.entries) == len(WHOLE.trials) - 2
    assert found.standing.running == {WHOLE.trials[-2].id: 7, WHOLE.trials[-1].id: 0}


@pytest.mark.parametrize("cut", [1, 30, 300, 3000])
def test_a_summary_that_was_cut_short(home, monkeypatch, cut):
    monkeypatch.setattr(summary, "MARK_BYTES", 1000)
    write(home)
    path = home.summary(WHOLE.sweep)
    path.write_bytes(path.read_bytes()[:-cut])
    says_what_the_log_says(home, load(home, WHOLE.sweep))


def test_a_summary_that_lacks_an_end(home, monkeypatch):
    monkeypatch.setattr(summary, "MARK_BYTES", 1000)
    write(home)
    path = home.summary(WHOLE.sweep)
    lines = path.read_text().splitlines(keepends=True)
    del lines[next(index for index, line in enumerate(lines) if line.startswith('{"end"'))]
    path.write_text("".join(lines))
    says_what_the_log_says(home, load(home, WHOLE.sweep))


@pytest.mark.parametrize("content", ["", "?", "{}\n", '{"summary":99,"log":"x"}\n', "[1]\n", '"text"\n'])
def test_a_summary_that_is_none(home, content):
    write(home, keep=False)
    home.summary(WHOLE.sweep).write_text(content)
    says_what_the_log_says(home, load(home, WHOLE.sweep))


def test_the_summary_of_a_log_that_was_there_before(home):
    write(home)
    kept = home.summary(WHOLE.sweep).read_bytes()
    home.log(WHOLE.sweep).unlink()
    write(home, keep=False)
    home.summary(WHOLE.sweep).write_bytes(kept)
    says_what_the_log_says(home, load(home, WHOLE.sweep))


def test_a_log_that_went_on_otherwise_after_its_summary(home, monkeypatch):
    """Same first line, same length, other ends: as a log in an object store that another driver continued."""
    monkeypatch.setattr(summary, "MARK_BYTES", 1)
    write(home)
    path = home.log(WHOLE.sweep)
    last = ledger(home)[WHOLE.trials[-3].id].record.epochs[-1]["metrics"]["loss"]
    path.write_text(path.read_text().replace(repr(last), "0." + "7" * (len(repr(last)) - 2)))
    text = path.read_text().splitlines(keepends=True)
    path.write_text("".join(text[:-3] + [line.replace('"time":1', '"time":2', 1) for line in text[-3:]]))
    found = load(home, WHOLE.sweep).entries[WHOLE.trials[-3].id]
    assert found.reached["loss"][0] == ledger(home)[WHOLE.trials[-3].id].record.epochs[-1]["metrics"]["loss"] != last


def test_a_log_that_was_cut_after_its_summary(home, monkeypatch):
    monkeypatch.setattr(summary, "MARK_BYTES", 1)
    write(home)
    path = home.log(WHOLE.sweep)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-8]))
    found = load(home, WHOLE.sweep)
    assert found.entries.keys() == {ident for ident, entry in ledger(home).items() if entry.record}


def test_another_driver_goes_on_with_the_summary(home, monkeypatch):
    monkeypatch.setattr(summary, "MARK_BYTES", 1000)
    write(home, WHOLE.trials[:9])
    before = home.summary(WHOLE.sweep).read_bytes()
    home.summary(WHOLE.sweep).write_bytes(before + b'{"end":{"torn')
    write(home, WHOLE.trials[:3], keep=False)  # one that kept none: an older release
    write(home)
    assert home.summary(WHOLE.sweep).read_bytes().startswith(before)
    says_what_the_log_says(home, load(home, WHOLE.sweep))


def test_a_long_log_without_a_summary_is_read_once(home, monkeypatch):
    monkeypatch.setattr(summary, "REMAKE_BYTES", 1)
    write(home, keep=False)
    says_what_the_log_says(home, load(home, WHOLE.sweep))
    assert home.summary(WHOLE.sweep).exists()
    says_what_the_log_says(home, load(home, WHOLE.sweep))


def test_a_disk_that_takes_no_summary_disturbs_no_driver(home, monkeypatch):
    home.summary(WHOLE.sweep).mkdir(parents=True)
    write(home)
    assert len(ledger(home)) == len(WHOLE.trials)


@pytest.mark.parametrize("seed", range(5))
def test_what_metrics_came_to_by_loops(seed):
    draw = random.Random(seed)
    curve = [draw.choice([draw.random(), math.nan]) for _ in range(draw.randrange(1, 30))] + [draw.random()]
    values = summary.reached([{"metrics": {"m": value}} for value in curve])["m"]
    measured = [value for value in curve if value == value]
    ten = [value for value in curve[-10:] if value == value]
    assert summary.chosen(values, "last", True) == curve[-1]
    assert summary.chosen(values, "median_last_10", True) == pytest.approx(statistics.median(ten), abs=1e-15)
    assert summary.chosen(values, "best_oracle", True) == max(measured)
    assert summary.chosen(values, "best_oracle", False) == min(measured)
