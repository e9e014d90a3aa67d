"""run, resume, status, report and show on a study whose numbers are known."""

import json
import shlex
from pathlib import Path

import pytest

from ablate.home import Home
from ablate.lock import hold
from ablate.log import Log, ledger
from tests.ablate import toy
from tests.ablate.console import OFF, TOY, Shell, stopped_after


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path / "home", capsys)


def lines_of(home: Path, kind: str) -> list[dict[str, object]]:
    lines = [
        json.loads(line) for path in sorted((home / "log").glob("*.jsonl")) for line in path.read_text().splitlines()
    ]
    return [line for line in lines if line["kind"] == kind]


def test_a_study_is_trained_once_and_answered_twice(shell: Shell) -> None:
    first = shell.trains()
    assert (first.code, first.err) == (0, "")
    assert len(lines_of(shell.home, "ended")) == 12
    again = shell.trains()
    assert again.code == 0
    assert len(lines_of(shell.home, "ended")) == 12
    for answer in (first, again):
        assert "Does gain matter?" in answer.out
        assert "report.html" in answer.out
    assert (shell.home / "reports" / "toy@laptop" / "report.html").is_file()
    assert (shell.home / "frames" / "toy@laptop" / "trials.parquet").is_file()


def test_the_last_plain_line_counts_every_trial(shell: Shell) -> None:
    assert "[1 of 12 done" in shell.trains().out
    assert "of 12 done" not in shell.trains("toy", "--quiet").out


def test_more_blocks_and_arms_train_only_what_is_new(shell: Shell) -> None:
    shell.trains("toy", "--arms", "base,more", "--blocks", "2")
    assert len(lines_of(shell.home, "ended")) == 4
    shell.trains("toy", "--arms", "base,more", "--blocks", "3")
    assert len(lines_of(shell.home, "ended")) == 6
    shell.trains("broken", "--arms", "base,unstable")
    trained = [line["trial"] for line in lines_of(shell.home, "ended")]
    assert len(trained) == len(set(trained)) == 6 + 1 + 4


def test_report_prints_the_means_that_the_equation_gives(shell: Shell) -> None:
    shell.trains()
    found = json.loads(shell("report", f"{TOY}:toy", "--json").out)
    means = {arm["arm"]: arm["mean"]["estimate"] for arm in found["findings"]["arms"]}
    for name, gain in (("base", 0.0), ("more", 0.05), ("less", -0.05)):
        expected = sum(toy.accuracy(gain, seed, 3) for seed in range(4)) / 4
        assert means[name] == pytest.approx(expected, abs=1e-12)
    words = {contrast["arm"]: contrast["verdict"]["word"] for contrast in found["findings"]["contrasts"]}
    assert words == {"more": "better", "less": "worse"}


def test_failed_trials_give_exit_code_1_and_come_first_in_status(shell: Shell) -> None:
    done = shell.trains("broken")
    assert done.code == 1
    tried = done.err.partition("Once that is mended:")[2].split()[3:]
    assert tried[-1] == "--retry-failed"
    assert json.loads(shell.bare(*done.err.partition("tracebacks:")[2].split()[3:8]).out)[0]["failures"]
    assert shell.bare(*tried, "--local", *OFF).code == 1
    assert [line["trial"] for line in lines_of(shell.home, "ended")].count(
        lines_of(shell.home, "ended")[-1]["trial"]
    ) == 2
    status = shell("status", f"{TOY}:broken")
    assert status.code == 0
    assert status.out.index("diverged") < status.out.index("mean accuracy")
    plain = json.loads(shell("status", f"{TOY}:broken", "--json").out)[0]
    counts = {"total": 16, "done": 15, "failed": 1, "running": 0, "pending": 0, "paused": 0, "cancelled": 0}
    assert plain["trials"] == counts
    assert [failure["reason"] for failure in plain["failures"]] == ["diverged"]
    assert "Traceback" in plain["failures"][0]["error"]
    assert shell("report", f"{TOY}:broken").code == 1


def test_set_makes_other_trials_in_a_sweep_of_their_own(shell: Shell) -> None:
    shell.trains()
    before = set(ledger(Home(shell.home)))
    assert shell.trains("toy", "--set", "epochs=5").code == 0
    after = set(ledger(Home(shell.home)))
    assert len(after - before) == 12
    sweeps = {sweep["sweep"]: sweep["arms"] for sweep in json.loads(shell("status", "--json").out)}
    assert set(sweeps) == {"toy@laptop", "toy@laptop+epochs=5"}
    for sweep, epochs in (("toy@laptop", 3), ("toy@laptop+epochs=5", 5)):
        expected = sum(toy.accuracy(0.0, seed, epochs) for seed in range(4)) / 4
        assert sweeps[sweep][0]["mean"] == pytest.approx(expected, abs=1e-12)


def test_report_and_resume_follow_the_last_launch(shell: Shell) -> None:
    shell.trains()
    shell.trains("toy", "--set", "epochs=5", "--blocks", "2")
    assert json.loads(shell("report", f"{TOY}:toy", "--json").out)["sweep"] == "toy@laptop+epochs=5"
    assert json.loads(shell("report", f"{TOY}:toy", "--scale", "laptop", "--json").out)["sweep"] == "toy@laptop"
    ended = len(lines_of(shell.home, "ended"))
    assert shell("resume", f"{TOY}:toy", "--local", *OFF).code == 0
    assert len(lines_of(shell.home, "ended")) == ended


def test_what_status_says_to_type_means_that_sweep_wherever_it_lies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = Shell(tmp_path / "my home", capsys)
    shell.trains("toy", "--dataset", "digits", "--set", "epochs=5", "--blocks", "1")
    shell.trains("toy", "--blocks", "1")
    hints = [line.partition("answer:")[2] for line in shell("status").out.splitlines() if "For the answer:" in line]
    meant = [json.loads(shell.bare(*shlex.split(hint)[3:], "--json").out)["sweep"] for hint in hints]
    assert meant == ["toy@laptop", "toy@laptop+digits+epochs=5"]


def test_arms_are_chosen_by_names_that_hold_commas(shell: Shell) -> None:
    shown = shell("show", "gradmix_patch", "--scale", "smoke", "--arms", "g=0.1-0.5,w=1, g=0.1-0.5,w=g2", "--json")
    assert {cell["arm"] for cell in json.loads(shown.out)["cells"]} == {"g=0.1-0.5,w=1", "g=0.1-0.5,w=g2"}


def test_an_interrupted_sweep_says_how_to_go_on_and_resume_finishes_it(shell: Shell) -> None:
    with stopped_after(5):
        stopped = shell.trains()
    assert stopped.code == 130
    assert "5 of 12 trials are done" in stopped.err
    assert f"python -m ablate resume {TOY}:toy --home {shell.home}" in stopped.err
    assert "To go on" in shell("status").out
    assert shell("resume", f"{TOY}:toy", "--local", *OFF).code == 0
    trained = [line["trial"] for line in lines_of(shell.home, "ended")]
    assert len(trained) == len(set(trained)) == 12


def test_a_held_sweep_gives_exit_code_3_and_names_the_holder(shell: Shell) -> None:
    home = Home(shell.home)
    with hold(home.lock("toy@laptop"), "process 4242 on elsewhere"):
        held = shell.trains()
    assert held.code == 3
    assert "4242" in held.err
    assert shell.trains().code == 0


def test_status_of_a_running_sweep_needs_no_driver_memory(shell: Shell) -> None:
    shell.trains("toy", "--blocks", "1")
    home = Home(shell.home)
    with hold(home.lock("toy@laptop"), "process 4242 on elsewhere"):
        log = Log(home.log("toy@laptop"))
        launch = lines_of(shell.home, "sweep")[0]
        log.append(
            "sweep", **{key: launch[key] for key in ("study", "scale", "arms", "command", "provenance")}, blocks=2
        )
        pending = [cell["trial"] for cell in json.loads(shell("show", f"{TOY}:toy", "--json").out)["cells"]][3:5]
        for trial in pending:
            log.append("started", trial=trial, attempt=1, where="elsewhere/cpu")
        log.append("lost", trial=pending[1], attempt=1, why="killed")
        log.close()
        plain = json.loads(shell("status", f"{TOY}:toy", "--json").out)[0]
        text = shell("status").out
    assert plain["driver"]["alive"]
    assert plain["driver"]["running"] == [pending[0]]
    counts = {"total": 6, "done": 3, "failed": 0, "running": 1, "pending": 2, "paused": 0, "cancelled": 0}
    assert plain["trials"] == counts
    assert "4242" in text
    assert json.loads(shell("status", "--json").out)[0]["trials"]["running"] == 0


def test_show_counts_what_is_done_and_estimates_the_rest(shell: Shell) -> None:
    before = json.loads(shell("show", f"{TOY}:toy", "--json").out)
    assert before["trials"] == {"total": 12, "done": 0, "failed": 0, "pending": 12, "stale": {}}
    assert before["cost"]["seconds"] == 24.0
    assert before["design"]["attainable"]["sign-flip"] == 2 / 2**4
    shell.trains("toy", "--blocks", "1")
    after = json.loads(shell("show", f"{TOY}:toy", "--json").out)
    assert after["cost"]["trials"] == 9
    assert after["cost"]["from"] == "recorded trials"
    assert [arm["differences"] for arm in after["arms"]] == [[], ["gain=0.05"], ["gain=-0.05"]]
    text = shell("show", f"{TOY}:toy").out
    assert "Does gain matter?" in text
    assert "gain=0.05" in text
    assert not shell("show", f"{TOY}:toy", "--scale", "smoke").err


def test_show_says_on_what_needed_networks_are_trained(shell: Shell) -> None:
    text = shell("show", "adautomix_transfer", "--scale", "smoke").out
    assert "networks trained on protocol=digits-known, side=16, per_class=4" in text
    assert "Needed" not in shell("show", "adautomix_methods", "--scale", "smoke").out


def test_show_says_on_which_data_a_contrast_is_and_leaves_out_those_of_other_scales(shell: Shell) -> None:
    for scale, there in (("laptop", ["digits"]), ("gpu", ["svhn", "cifar10", "cifar+10", "cifar+50"])):
        lines = shell("show", "gradmix_protocols", "--scale", scale).out.splitlines()
        found = [line.split() for line in lines if line.strip().startswith("gradmix - none")]
        assert [words[4] for words in found] == there


def test_show_writes_nothing(shell: Shell) -> None:
    assert shell("show", f"{TOY}:toy").code == 0
    assert not shell.home.exists()


def test_changed_code_makes_trials_stale_and_fresh_trains_them_again(shell: Shell, tmp_path: Path) -> None:
    own = tmp_path / "own_study.py"
    text = Path(TOY).read_text()
    own.write_text(text)
    run = ("run", f"{own}:toy", "--local", *OFF)
    shell(*run)
    own.write_text(text.replace("Nothing is trained", "Nothing at all is trained"))
    assert json.loads(shell("status", "--json").out)[0]["stale"] == {}
    own.write_text(text.replace("0.8 + gain", "0.7 + gain"))
    stale = json.loads(shell("status", "--json").out)[0]["stale"]
    assert len(stale) == 12
    assert set(map(tuple, stale.values())) == {("own_study.py changed",)}
    assert "--fresh" in shell("status").out
    for words in (run, ("report", f"{own}:toy"), ("report", f"{own}:toy", "--json")):
        answered = shell(*words)
        assert answered.code == 0
        assert "12 of 12 trials shown here were made by other code" in answered.err
        assert "own_study.py changed" in answered.err
        assert "--fresh" in answered.err
    assert len(lines_of(shell.home, "ended")) == 12
    fresh = shell(*run, "--fresh")
    assert (fresh.code, "shown here" in fresh.err) == (0, False)
    assert len(lines_of(shell.home, "ended")) == 24
    assert json.loads(shell("status", "--json").out)[0]["stale"] == {}


def test_reproduce_trains_a_recorded_trial_again_and_compares_each_number(shell: Shell) -> None:
    shell.trains("toy", "--blocks", "1")
    trial = lines_of(shell.home, "ended")[0]["trial"]
    same = shell("reproduce", str(trial))
    assert same.code == 0, same.err
    assert "all 6 numbers bit for bit" in same.out
    log = shell.home / "log" / "toy@laptop.jsonl"
    log.write_text(log.read_text().replace('"loss":1.0', '"loss":1.0000000001', 1))
    other = json.loads(shell("reproduce", str(trial)[:8], "--json").out)
    assert not other["same"]
    assert [(item["epoch"], item["metric"], item["now"]) for item in other["differences"]] == [(1, "loss", 1.0)]
    assert not list((shell.home / "scratch").iterdir())


def test_a_report_names_the_command_that_ran_it_whoever_writes_it(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = ["ablate", "run", f"{TOY}:toy", "--set", "epochs=5"]
    monkeypatch.setattr("sys.argv", typed)
    shell.trains("toy", "--set", "epochs=5")
    monkeypatch.setattr("sys.argv", ["ablate", "resume", f"{TOY}:toy"])
    assert shell("resume", f"{TOY}:toy", "--local", *OFF).code == 0
    page = shell.home / "reports" / "toy@laptop+epochs=5" / "report.html"
    assert "python -m ablate " + " ".join(typed[1:]) in page.read_text()
    page.unlink()
    assert shell("report", f"{TOY}:toy").code == 0
    assert "python -m ablate " + " ".join(typed[1:]) in page.read_text()
