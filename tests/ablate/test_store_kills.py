"""A driver killed at any request to an object store loses nothing that it told of, whoever goes on, and where."""

import json
import os
import shutil
import traceback
from collections import Counter

import pytest

from ablate import lease, segments
from ablate.driver import run
from ablate.execution import Options
from ablate.home import Home
from ablate.log import ledger, read
from ablate.plan import plan
from tests.ablate import stores, walks
from trainables.protocol import Needed

WALK = walks.Walk(epochs=3)
WHOLE = plan(walks.study("kills", {"walk": WALK, "score": walks.Score(network=Needed("walk", WALK))}, 2), "smoke")
KILLED = 9
MOST = 400
"""Requests of an undisturbed run are fewer."""


@pytest.fixture
def quick(monkeypatch, tmp_path_factory):
    stores.impatient(monkeypatch, tmp_path_factory.getbasetemp() / "data")
    monkeypatch.setattr(segments, "MOST_SMALL", 4)
    return stores.installed(monkeypatch)


@pytest.fixture
def undisturbed(tmp_path_factory, quick):
    home = Home(tmp_path_factory.mktemp("undisturbed"))
    run(WHOLE, Options(home=home, local=True))
    return numbers(home)


def numbers(home):
    return {
        ident: (entry.record.state, [epoch["metrics"] for epoch in entry.record.epochs])
        for ident, entry in ledger(home).items()
        if entry.record
    }


def driven(home, faulty, said, number=0, when=""):
    """A driver in a process of its own, killed at that request; returns its exit code, and the requests before it."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        faulty.requests = 0
        faulty.strike = lambda now, moment: os._exit(KILLED) if (now, moment) == (number, when) else None

        def hear(event):
            if event.kind == "ended":
                with said.open("a") as file:
                    file.write(f"{event.trial}\n")

        segments.pull(home)
        result = run(WHOLE, Options(home=home, local=True), hear)
        said.with_suffix(".requests").write_text(str(faulty.requests))
        code = 0 if len(result.done) == len(WHOLE.trials) else 2
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def test_requests_are_as_many_as_the_kills_below_go_through(tmp_path, quick):
    home = Home(tmp_path / "node", f"fake://{tmp_path}/store")
    assert driven(home, quick, tmp_path / "said") == 0
    assert 60 < int((tmp_path / "said.requests").read_text()) < MOST


EVERY = [
    pytest.param(start, 16, elsewhere, id=f"{start}, {'another' if elsewhere else 'same'} node", marks=marks)
    for start in range(16)
    for elsewhere in (False, True)
    for marks in ([] if start == (11 if elsewhere else 4) else [pytest.mark.slow],)
]


@pytest.mark.parametrize(("start", "step", "elsewhere"), EVERY)
def test_killed_at_any_request(tmp_path, quick, undisturbed, start, step, elsewhere):
    """Before and after every 16th request; with the slow ones, every request."""
    for number in range(start + 1, MOST, step):
        for when in ("before", "after"):
            folder = tmp_path / f"{number} {when}"
            folder.mkdir()
            home = Home(folder / "node", f"fake://{folder}/store")
            code = driven(home, quick, folder / "said", number, when)
            if code == 0:
                return
            assert code == KILLED
            recovered(folder, home, quick, undisturbed, elsewhere)
            shutil.rmtree(folder)


def recovered(folder, home, faulty, undisturbed, elsewhere):
    """Another driver goes on; then the log is whole, and nothing that was told of ran again."""
    if elsewhere:
        home = Home(folder / "other", home.remote)
        (folder / "store").mkdir(exist_ok=True)
        stores.aged(folder / "store", lease.EXPIRES_S + 1)
    said = folder / "said"
    told = said.read_text().split() if said.exists() else []
    assert driven(home, faulty, folder / "again") == 0
    reader = Home(folder / "reader", home.remote)
    segments.pull(reader)
    assert numbers(reader) == undisturbed
    lines = [line for _, line in read(reader.log(WHOLE.sweep))]
    ends = Counter(line["trial"] for line in lines if line["kind"] == "ended")
    assert set(ends.values()) == {1}
    last = {trial: max(k for k, line in enumerate(lines) if line.get("trial") == trial) for trial in ends}
    for trial in told:
        assert lines[last[trial]]["kind"] == "ended", "told of, and begun again"
    again = (folder / "again").read_text().split() if (folder / "again").exists() else []
    assert not set(told) & set(again)
    assert not list((folder / "store").rglob("*.lock/*")), json.dumps(lines[-1])
