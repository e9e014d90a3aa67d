"""The command line as whole processes: what it imports, how it ends, and that it can be stopped."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.ablate.console import OFF, TOY

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "ray", "optuna", "mlflow", "sklearn", "matplotlib"}
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("ABLATE_")}


def ablate(*words: str, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ablate", *words]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False, **more)


def imported_by(words: Sequence[str]) -> set[str]:
    """Top-level packages that the command had imported when it was done."""
    code = (
        "import json, sys\nfrom ablate.__main__ import main\n"
        f"try:\n    main({list(words)!r})\nexcept SystemExit:\n    pass\n"
        "print('\\n' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("finished") / "home"
    done = ablate("run", f"{TOY}:toy", "--local", *OFF, "--home", str(home))
    assert done.returncode == 0, done.stderr
    return home


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["list"]], ids=" ".join)
def test_help_and_list_import_nothing_heavy(words: list[str]) -> None:
    assert not imported_by(words) & (HEAVY | {"pandas", "numpy", "scipy", "pyarrow"})


@pytest.mark.parametrize("words", [["show", "gradmix_layers"], ["status"], ["report", "gradmix_layers"]], ids=" ".join)
def test_looking_imports_no_framework(words: list[str], tmp_path: Path) -> None:
    assert not imported_by([*words, "--home", str(tmp_path)]) & HEAVY


def test_a_user_s_own_finished_study_is_shown_without_torch(finished: Path) -> None:
    home = ["--home", str(finished)]
    assert not imported_by(["status", f"{TOY}:toy", *home]) & HEAVY
    assert not imported_by(["report", f"{TOY}:toy", *home]) & (HEAVY - {"matplotlib"})


def test_an_error_goes_to_standard_error_alone() -> None:
    done = ablate("show", "gradmix_layer")
    assert (done.returncode, done.stdout) == (2, "")
    assert "gradmix_layers" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m ablate list --json | head -1; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["[", "0"]
    assert done.stderr == ""


def test_a_sweep_whose_reader_goes_away_stops_like_one_that_is_interrupted(tmp_path: Path) -> None:
    run = f"{sys.executable} -m ablate run {TOY}:slow --local {' '.join(OFF)} --home {tmp_path}"
    done = subprocess.run(
        f"{run} | head -1; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        cwd=ROOT,
        env=ENVIRONMENT | {"PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1] == "130", done.stdout
    assert "of 12 trials are done and kept" in done.stderr
    assert "To go on:  python -m ablate resume" in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_output_that_lacks_letters_gets_the_answer_all_the_same(finished: Path, encoding: str) -> None:
    command = [sys.executable, "-m", "ablate", "report", f"{TOY}:toy", "--home", str(finished)]
    environment = ENVIRONMENT | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"Does gain matter?" in done.stdout


@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_ctrl_c_and_a_closed_terminal_stop_a_sweep_cleanly_and_resume_finishes_it(tmp_path: Path, sent: str) -> None:
    run = ["run", f"{TOY}:slow", "--local", *OFF, "--home", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "ablate", *run],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests themselves run in the background of a script, signals are ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(getattr(signal, sent), signal.SIG_DFL),
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    assert first.startswith("done"), first
    process.send_signal(getattr(signal, sent))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "To go on:  python -m ablate resume" in errors
    assert "Traceback" not in errors
    assert ablate("resume", f"{TOY}:slow", "--local", *OFF, "--home", str(tmp_path)).returncode == 0
    lines = [json.loads(line) for line in (tmp_path / "log" / "slow@laptop.jsonl").read_text().splitlines()]
    ended = [line["trial"] for line in lines if line["kind"] == "ended"]
    assert len(ended) == len(set(ended)) == 12


def test_nohup_keeps_a_sweep_from_its_terminal_end(tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-m", "ablate", "run", f"{TOY}:slow", "--local", *OFF, "--home", str(tmp_path)]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("done")
    process.send_signal(signal.SIGHUP)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
