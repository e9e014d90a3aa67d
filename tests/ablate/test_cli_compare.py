"""compare, and report for all sweeps of a home."""

import json
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from ablate.home import Home
from ablate.log import Log, Record, launched, ledger
from tests.ablate import toy
from tests.ablate.console import Shell


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path / "home", capsys)


def test_two_sweeps_stand_side_by_side_with_the_means_the_equation_gives(shell: Shell, tmp_path: Path) -> None:
    shell.trains("toy", "--blocks", "2")
    shell.trains("toy", "--blocks", "2", "--set", "epochs=5")
    found = shell("compare", "short=toy@laptop", "toy@laptop+epochs=5", "--out", str(tmp_path / "page"))
    assert found.code == 0, found.err
    assert "short" in found.out
    assert "toy@laptop+epochs=5" in found.out
    for epochs in (3, 5):
        mean = sum(toy.accuracy(0.0, seed, epochs) for seed in range(2)) / 2
        assert f"{100 * mean:.1f}" in found.out
    assert (tmp_path / "page" / "comparison.html").is_file()


def test_another_home_is_named_before_the_sweep(shell: Shell) -> None:
    shell.trains("toy", "--blocks", "2")
    found = shell("compare", "toy@laptop", f"there={shell.home}:toy@laptop", "--json")
    assert found.code == 0, found.err
    assert json.loads(found.out)["sides"] == ["toy@laptop", "there"]


@pytest.mark.parametrize(
    ("sides", "said"),
    [
        (("toy@laptop", "toy@labtop"), "Did you mean 'toy@laptop'?"),
        (("toy@laptop",), "at least two sweeps"),
        (("toy@laptop", "toy@laptop"), "names of their own"),
        (("toy@laptop", "nowhere/at/all:toy@laptop"), "It has: none"),
    ],
)
def test_sides_that_are_not_there_are_refused(shell: Shell, sides: tuple[str, ...], said: str) -> None:
    shell.trains("toy", "--blocks", "2")
    found = shell("compare", *sides)
    assert found.code == 2
    assert said in found.err
    assert not (shell.home / "reports" / "comparison").exists()


def test_report_of_all_sweeps_leads_to_each(shell: Shell) -> None:
    shell.trains("toy", "--blocks", "2")
    shell.trains("broken", "--blocks", "2")
    found = shell("report", "--all")
    page = (shell.home / "reports" / "index.html").read_text()
    assert found.code == 1, "a trial of `broken` fails"
    for sweep in ("toy@laptop", "broken@laptop"):
        assert f"{quote(sweep)}/report.html" in page
        assert (shell.home / "reports" / sweep / "report.html").is_file()
        assert sweep in found.out


def test_report_of_all_takes_sweeps_as_launched(shell: Shell) -> None:
    shell.trains("toy", "--blocks", "2")
    assert shell("report", "--all", "--blocks", "1").code == 2
    assert shell.bare("report", "--all", "--home", str(shell.home / "empty")).code == 2


def test_a_sweep_that_others_trained_is_on_record_all_the_same(shell: Shell) -> None:
    shell.trains("toy", "--blocks", "2")
    home = Home(shell.home)
    home.log("toy@laptop").rename(home.log("other@laptop"))
    assert launched(home, "toy@laptop") is None
    shell.trains("toy", "--blocks", "2")
    line = launched(home, "toy@laptop")
    assert line is not None
    assert line["blocks"] == 2
    before = home.log("toy@laptop").read_bytes()
    shell.trains("toy", "--blocks", "2")
    assert home.log("toy@laptop").read_bytes() == before


def test_the_newest_end_counts_whatever_the_names_of_the_logs(shell: Shell) -> None:
    home = Home(shell.home)
    record = Record(trial="t", method="toy", config={}, data={}, seed=0, state="done")
    for sweep, state in (("z@laptop", "failed"), ("a@laptop", "done")):  # in this order in time
        log = Log(home.log(sweep))
        log.append("ended", trial="t", record=replace(record, state=state))
        log.close()
    found = ledger(home)["t"].record
    assert found is not None
    assert found.state == "done"
