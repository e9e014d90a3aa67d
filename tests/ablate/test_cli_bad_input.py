"""Every wrong input: one message with what is allowed and how to mend it; exit code 2; nothing written."""

import errno
import json
import os
import socket
import sys
from pathlib import Path

import pytest

from ablate.__main__ import COMMANDS
from ablate.commands import status, ui
from tests.ablate.console import OFF, TOY, Answered, Shell, files

STUDY = f"{TOY}:toy"


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path / "home", capsys)


def refused(answer: Answered, *says: str) -> None:
    assert answer.code == 2
    assert answer.err.startswith("error: ")
    assert answer.err.count("error: ") == 1
    assert "Traceback" not in answer.out + answer.err
    assert answer.out == ""
    for words in says:
        assert words in answer.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["show", "gradmix_layer"], ["gradmix_layer", "Did you mean 'gradmix_layers'?"]),
        (["show", f"{TOY}:tox"], ["'tox'", "Did you mean 'toy'?"]),
        (["show", "./no_such_file.py:x"], ["no_such_file.py"]),
        (["show", STUDY, "--arms", "base,mor"], ["'mor'", "Did you mean 'more'?", "base, more, less"]),
        (["show", STUDY, "--scale", "lapto"], ["'lapto'", "Did you mean 'laptop'?", "smoke, laptop"]),
        (["show", STUDY, "--set", "epoch=5"], ["'epoch'", "Did you mean 'epochs'?", "epochs, gain"]),
        (["show", STUDY, "--set", "epochs"], ["'epochs'", "field=value"]),
        (["show", STUDY, "--set", "epochs=many"], ["epochs=many", "an integer"]),
        (["show", STUDY, "--set", "epochs=2.5"], ["epochs=2.5", "an integer"]),
        (["show", STUDY, "--set", "epochs=true"], ["epochs=true", "an integer"]),
        (["show", STUDY, "--set", "epochs=0"], ["epochs=0", "at least 1"]),
        (["show", STUDY, "--set", "epochs=4", "--set", "epochs=5"], ["epochs twice"]),
        (["show", STUDY, "--set", "gain=0.3"], ["gain is what they differ in"]),
        (["show", STUDY, "--blocks", "9"], ["--blocks 9", "1 to 4"]),
        (["show", STUDY, "--blocks", "0"], ["--blocks", "'0'", "1 or more"]),
        (["show", STUDY, "--blocks", "two"], ["--blocks", "'two'"]),
        (["show", STUDY, "--dataset", "digit"], ["'digit'", "Did you mean 'digits'?"]),
        (["show", STUDY, "--arms", ","], ["--arms"]),
        (["show"], ["STUDY"]),
        (["show", STUDY, "--block", "3"], ["--block", "Did you mean '--blocks'?"]),
        (["shwo", STUDY], ["'shwo'", "Did you mean 'show'?"]),
        (["run", STUDY, "--gpus-per-trial", "-1"], ["--gpus-per-trial", "'-1'"]),
        (["run", STUDY, "--cpus-per-trial", "0"], ["--cpus-per-trial", "'0'"]),
        (["run", STUDY, "--workers", "1.5"], ["--workers", "'1.5'"]),
        (["run", STUDY, "--data", "/no/such/folder"], ["/no/such/folder", "--data", "does not exist"]),
        (["resume", STUDY], ["nothing to resume", "ablate run"]),
        (["report", STUDY], ["nothing to report", "ablate run"]),
        (["report", "gradmix_layrs"], ["Did you mean 'gradmix_layers'?"]),
        (["status", "gradmix_layrs"], ["Did you mean 'gradmix_layers'?"]),
        (["sync", STUDY], ["nothing to sync"]),
        (["reproduce", "00ff"], ["'00ff'", "no recorded trial"]),
        (["ui"], ["no MLflow store"]),
    ],
    ids=lambda value: "_".join(Path(word).name for word in value[:4]) if isinstance(value, list) else None,
)
def test_refused_with_what_is_allowed_and_nothing_written(shell: Shell, words: list[str], says: list[str]) -> None:
    refused(shell(*words), *says)
    assert not shell.home.exists()


def test_no_command_at_all(shell: Shell) -> None:
    refused(shell.bare(), "COMMAND")


def test_every_command_has_help(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        with pytest.raises(SystemExit) as left:
            shell.bare(command, "--help")
        assert left.value.code == 0
        assert "import" not in capsys.readouterr().out  # for who types it, not for who writes it


def test_an_outcome_that_nothing_measures_is_mended_without_training(shell: Shell, tmp_path: Path) -> None:
    study = tmp_path / "misspelt.py"
    text = Path(TOY).read_text(encoding="utf-8")
    study.write_text(text.replace('metric="accuracy"', 'metric="acuracy"'), encoding="utf-8")
    words = ("run", f"{study}:toy", "--local", "--scale", "smoke", "--quiet", *OFF)
    refused(shell(*words), "toy@smoke", "'acuracy'", "Did you mean 'accuracy'?")
    study.write_text(text, encoding="utf-8")
    sys.modules.pop(next(name for name in sys.modules if name.startswith("ablate_origin_misspelt_")))
    assert json.loads(shell("show", f"{study}:toy", "--scale", "smoke", "--json").out)["trials"]["pending"] == 0
    assert shell(*words).code == 0


def test_a_metric_that_has_the_name_of_a_column_is_the_method_s_to_mend(shell: Shell, tmp_path: Path) -> None:
    study = tmp_path / "columns.py"
    text = Path(TOY).read_text(encoding="utf-8")
    study.write_text(text.replace('"loss": 1 / epoch', '"seed": 1 / epoch'), encoding="utf-8")
    refused(shell("run", f"{study}:toy", "--local", "--scale", "smoke", "--quiet", *OFF), "'seed'", "Rename the metric")


def test_what_may_not_be_read_is_the_surroundings_to_mend(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    (shell.home / "log").mkdir(parents=True)
    with monkeypatch.context() as patch:  # root may read everything
        patch.setattr(os, "access", lambda path, _how: path != shell.home / "log")
        refused(shell("status"), f"{shell.home}/log", "Permission denied")

    def denied(_args: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", "/somewhere/trials.jsonl")

    monkeypatch.setattr(status, "run", denied)
    refused(shell("status"), "/somewhere/trials.jsonl", "Permission denied", "permissions")


def test_a_port_where_nobody_can_listen(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ui, "serve", lambda *served: pytest.fail(f"served {served}"))
    shell.home.mkdir()
    (shell.home / "mlflow.db").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(shell("ui", "--port", str(port)), f"port {port}", "--port")
    refused(shell("ui", "--port", "99999"), "99999", "65535")


@pytest.mark.parametrize("home", ["file/home", "file"])
def test_a_home_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str], home: str) -> None:
    (tmp_path / "file").write_text("mine")
    shell = Shell(tmp_path / home, capsys)
    refused(shell.trains(), str(tmp_path / home), "--home")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_home_on_a_read_only_file_system(capsys: pytest.CaptureFixture[str]) -> None:
    refused(Shell(Path("/proc/ablate-home"), capsys).trains(), "/proc/ablate-home", "cannot be written")


@pytest.mark.parametrize(
    ("option", "url", "says"),
    [
        ("--mlflow", "http://127.0.0.1:{port}", "127.0.0.1:{port}"),
        ("--mlflow", "sqlite:////proc", "/proc is a folder"),
        ("--mlflow", "ftp://127.0.0.1/x", "ftp"),
        ("--optuna", "sqlite:////proc/nowhere/optuna.db", "/proc/nowhere"),
        ("--optuna", "nonsense", "nonsense"),
    ],
)
def test_a_store_that_cannot_be_reached_is_found_before_any_training(
    shell: Shell, option: str, url: str, says: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: whoever calls is turned away
        port = taken.getsockname()[1]
        answer = shell("run", STUDY, "--local", *OFF, option, url.format(port=port))
    refused(answer, says.format(port=port))
    assert not [name for name in files(shell.home) if name.startswith("trials")]
    assert not [name for name in files(shell.home) if name.endswith(".jsonl")]


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nonsense", "head:port", "ray://nowhere.invalid:10001"])
def test_a_cluster_that_is_not_there_is_said_at_once(shell: Shell, address: str) -> None:
    refused = shell("run", f"{TOY}:toy", "--address", address, *OFF)
    assert refused.code == 2
    assert address in refused.err
    assert "host:port" in refused.err
    assert not files(shell.home)


def test_more_gpus_than_there_are(shell: Shell) -> None:
    refused(shell("run", STUDY, "--local", *OFF, "--gpus-per-trial", "64"), "64 GPUs", "--gpus-per-trial")
    assert not [name for name in files(shell.home) if name.startswith("trials")]


@pytest.mark.parametrize("content", ["empty", "other", "truncated"])
def test_a_data_folder_that_has_not_what_the_study_needs(shell: Shell, tmp_path: Path, content: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    if content == "other":
        (folder / "holiday").mkdir()
        (folder / "holiday" / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    if content == "truncated":
        (folder / "cifar10").mkdir()
        for part in ("train", "test"):
            (folder / "cifar10" / f"{part}-00000-of-00001.parquet").write_bytes(b"PAR1 cut short")
    run = ("run", "gradmix_layers", "--dataset", "cifar10", "--local", *OFF, "--data", str(folder))
    refused(shell(*run), "cifar10")
    assert not [name for name in files(shell.home) if name.startswith(("trials", "log"))]


def test_a_study_file_that_does_not_import(shell: Shell, tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text("import no_such_module\n")
    refused(shell("show", f"{own}:x"), "own.py", "no_such_module")


def test_a_study_whose_method_is_nowhere(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "lost.py"
    file.write_text(
        f"from dataclasses import replace\nfrom tests.ablate import walks\n"
        f"lost = replace(walks.walk, name='lost', method='wlak', origin={str(file)!r})\n"
        f"lost = replace(lost, arms=tuple(replace(arm, method='') for arm in lost.arms))\n"
        f"METHODS = dict(walks.METHODS)\n"
    )
    refused = shell("run", f"{file}:lost", "--scale", "smoke", "--local", *OFF)
    assert refused.code == 2
    assert "Did you mean 'walk'" in refused.err
    assert not list((shell.home / "log").glob("*.jsonl"))


def test_a_corrupt_log_is_named_and_kept(shell: Shell) -> None:
    shell.trains("toy", "--blocks", "1")
    log = shell.home / "log" / "toy@laptop.jsonl"
    damaged = log.read_bytes().replace(b'"kind"', b'"k\xffnd"', 1)
    log.write_bytes(damaged)
    for command in ("status", "report", "run", "show"):
        words = () if command == "status" else (STUDY,)
        refused(shell(command, *words, *(("--local", *OFF) if command == "run" else ())), str(log), "byte 0")
    assert log.read_bytes() == damaged


def test_a_corrupt_frame_is_written_anew(shell: Shell) -> None:
    shell.trains("toy", "--blocks", "2")
    frame = shell.home / "frames" / "toy@laptop" / "trials.parquet"
    whole = frame.read_bytes()
    frame.write_bytes(b"PAR1" + whole[4:200])
    assert shell("report", STUDY).code == 0
    assert frame.read_bytes() == whole


def test_a_corrupt_checkpoint_is_said_and_trained_again(shell: Shell) -> None:
    shell.trains("toy", "--blocks", "1", "--arms", "base")
    log = shell.home / "log" / "toy@laptop.jsonl"
    log.write_text("".join(line + "\n" for line in log.read_text().splitlines() if '"ended"' not in line))
    (trial,) = (shell.home / "trials").glob("*/*")
    (trial / "end.json").unlink()
    for state in trial.glob("state*"):
        state.write_bytes(state.read_bytes()[:-3] + b"???")
    again = shell.trains("toy", "--blocks", "1", "--arms", "base")
    assert again.code == 0
    assert "base digits-closed/t0/s0" in again.err
    assert "corrupt" in again.err.lower() or "not whole" in again.err


def test_an_unexpected_error_says_how_to_see_it_whole(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(args: object) -> int:
        raise ZeroDivisionError("seven by nought")

    monkeypatch.setattr("ablate.commands.status.run", fault)
    answer = shell("status")
    assert answer.code == 70
    assert "ZeroDivisionError: seven by nought" in answer.err
    assert "ABLATE_DEBUG=1" in answer.err
    assert "Traceback" not in answer.err
    monkeypatch.setenv("ABLATE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError, match="seven by nought"):
        shell("status")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["adautomix_transfer", "--dataset", "cifar10-closed"],
            ["'digits-known', whose images are grey", "'cifar10-closed', whose images are in colour"],
        ),
        (
            ["gradmix_corruptions", "--set", "tests=published"],
            ["'digits-closed' has no published files", "cifar10-c, cifar100-c, tinyimagenet-c", "'corruptions'"],
        ),
    ],
    ids=["images_of_another_kind", "files_that_are_not_there"],
)
def test_what_an_evaluation_cannot_do_is_said_before_its_networks_are_trained(
    shell: Shell, words: list[str], says: list[str]
) -> None:
    refused(shell("run", *words, "--scale", "smoke", "--local", *OFF), *says)
    assert not [path for path in files(shell.home) if "trials" in str(path)]
