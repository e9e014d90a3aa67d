"""A search by the command line: it grows, is interrupted, shown and narrowed."""

import json
from pathlib import Path

import pytest

from tests.ablate import walks
from tests.ablate.console import OFF, Answered, Shell, stopped_after

SEARCH = f"{walks.__file__}:search"
SMOKE = ("--scale", "smoke")


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path / "home", capsys)


def searches(shell: Shell, *words: str) -> Answered:
    return shell("run", SEARCH, *SMOKE, "--local", *OFF, *words)


def test_a_search_stopped_in_a_later_round_goes_on_by_run_and_is_counted_whole(shell: Shell) -> None:
    with stopped_after(5):
        assert searches(shell).code == 130
    with stopped_after(2):
        again = searches(shell)
    assert again.code == 130, again.err
    done = searches(shell)
    assert done.code == 0
    total = sum(word["kind"] == "ended" for word in lines(shell))
    assert f"{total} of {total} done" in done.out
    assert "Of 4 configurations tried" in done.out


def lines(shell: Shell) -> list[dict[str, object]]:
    (path,) = (shell.home / "log").glob("*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_stopped_before_anything_was_launched_it_goes_on_as_it_began(shell: Shell) -> None:
    with stopped_after(0):
        stopped = searches(shell, "--blocks", "1", "--workers", "1")
    assert stopped.code == 130
    hint = stopped.err.partition("To go on:")[2].split()
    assert hint[:4] == ["python", "-m", "ablate", "run"]
    assert not list((shell.home / "log").glob("*.jsonl"))
    assert shell.bare(*hint[3:]).code == 0
    assert {"--scale", "--blocks", "--workers", "--local", "--mlflow", "--optuna"} <= set(hint)
    assert json.loads(shell("status", "--json").out)[0]["trials"]["pending"] == 0


def test_show_counts_what_the_results_call_for_and_what_may_follow(shell: Shell) -> None:
    before = shell("show", SEARCH, *SMOKE)
    assert "then up to 3 more configurations" in " ".join(before.out.split())
    assert "power" not in before.out, "a search compares nothing"
    with stopped_after(4):
        searches(shell)
    found = json.loads(shell("show", SEARCH, *SMOKE, "--json").out)
    assert [arm["arm"] for arm in found["arms"]] == ["paper", "t01-short", "t02-short"]
    assert found["cost"]["trials"] == 2
    searches(shell)
    assert "nothing left to train: `run` shows the answer at once\n" in shell("show", SEARCH, *SMOKE).out


def test_arms_are_chosen_among_those_tried_and_not_beforehand(shell: Shell) -> None:
    refused = searches(shell, "--arms", "paper")
    assert refused.code == 2
    assert "is a search" in refused.err
    searches(shell)
    narrow = shell("report", SEARCH, *SMOKE, "--arms", "paper,t01-short", "--json")
    assert narrow.code == 0
    shown = [arm["arm"] for arm in json.loads(narrow.out)["findings"]["arms"] if arm["n"]]
    assert shown == ["paper", "t01-short"]


def test_a_search_with_other_settings_is_as_large(shell: Shell) -> None:
    shown = shell("show", SEARCH, *SMOKE, "--set", "stop=2")
    assert (shown.code, shown.err) == (0, "")
    assert "4 configurations" in shown.out
