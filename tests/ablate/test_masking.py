"""Passwords in URLs reach nobody: however they are written, and wherever a URL is said, logged, tagged or reported."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ablate import masking, processes
from ablate.masking import redact
from tests.ablate.console import TOY, Shell

ROOT = Path(__file__).resolve().parents[2]
SECRET = "plantedword"


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path / "home", capsys)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://user:{SECRET}@host/name",
        f"postgresql+psycopg://user:{SECRET}@host:5432/name",
        f"https://{SECRET}@host/path",
        f"https://user:a@{SECRET}@host",
        f"https://user:a/{SECRET}?x#y@host/path",
        f"https://user:'{SECRET}\"@host",
        f"s3://key:{SECRET}@bucket/prefix?region=x",
        f"s3://bucket/prefix?access_key=a&secret_key={SECRET}&region=x",
        f"s3://bucket/prefix?X-Amz-Signature={SECRET}",
        f"https://host/?api-key={SECRET}",
        f"postgresql://host/name?user=me&password={SECRET}",
        f"https://host/data?TOKEN={SECRET}",
    ],
)
def test_no_way_of_writing_a_password_into_a_url_shows_it(url: str) -> None:
    assert SECRET not in redact(url)
    assert SECRET not in redact(f"cannot reach '{url}': refused. See {url}, and others.")
    assert SECRET not in masking.typed(["run", "toy", f"--mlflow={url}"])


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5000",
        "postgresql://host:5432/name",
        "sqlite:////home/me@work/mlflow.db",
        "s3://bucket/prefix?region=eu-1&endpoint_override=http://minio:9000",
        "me@host ran ablate, see https://host/path for more",
        "--set author=me",
    ],
)
def test_what_holds_no_secret_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


def test_a_typed_command_can_be_typed_again_but_for_its_secrets() -> None:
    words = ["run", "toy", "--set", "name=a b", "--optuna", f"postgresql://me:it's {SECRET}@host/x"]
    assert masking.typed(words) == "run toy --set 'name=a b' --optuna 'postgresql://***@host/x'"


def planted(path: Path) -> str:
    """The home's Optuna storage with a password in its URL, which SQLite takes and does not look at."""
    return f"sqlite:///file:{path}/optuna.db?uri=true&password={SECRET}"


LEAK = f"""
import dataclasses
from tests.ablate import toy

def train(config, data, *, seed, device, resume=None):
    if seed == 1:
        raise OSError("no answer from https://me:{SECRET}@mirror/set?token={SECRET}")
    yield from toy.train(config, data, seed=seed, device=device, resume=resume)

METHODS = {{"toy": toy.Method(train, toy.Config)}}
leak = dataclasses.replace(toy.toy, name="leak")
"""


def holding(folder: Path, word: str) -> list[str]:
    """Files below the folder that have the word in them, as bytes."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [str(path) for path in files if word.encode() in path.read_bytes()]


def test_a_password_is_in_no_file_of_the_home_and_in_no_output(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """MLflow's and Optuna's own files among them; a method's traceback holds one too."""
    study = tmp_path / "leak.py"
    study.write_text(LEAK)
    shell.home.mkdir()
    words = ["run", f"{study}:leak", "--local", "--optuna", planted(shell.home)]
    monkeypatch.setattr("sys.argv", ["ablate", *words])
    ran = shell(*words)
    assert ran.code == 1, ran.err
    log = next((shell.home / "log").glob("*.jsonl")).read_text()
    assert "password=***" in log
    assert "https://***@mirror/set?token=***" in log
    assert holding(shell.home, "mirror/set")  # the traceback is there, in the log and in the page
    said = [ran, shell("status"), shell("report", f"{study}:leak"), shell("sync", "--optuna", planted(shell.home))]
    assert holding(shell.home, SECRET) == []
    assert not [answer for answer in said if SECRET in answer.out + answer.err]


@pytest.mark.parametrize(
    "words",
    [
        ["--mlflow", f"http://me:{SECRET}@127.0.0.1:9", "--optuna", "none"],
        ["--mlflow", f"postgresql://me:{SECRET}@127.0.0.1:9/x", "--optuna", "none"],
        ["--mlflow", f"ftp://me:{SECRET}@host", "--optuna", "none"],
        ["--mlflow", "none", "--optuna", f"postgresql://me:{SECRET}@127.0.0.1:9/x"],
        ["--mlflow", "none", "--optuna", f"nonsense://me:{SECRET}@127.0.0.1:9/x"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_reached_is_said_without_its_password(shell: Shell, words: list[str]) -> None:
    for command in (["run", f"{TOY}:toy", "--local"], ["doctor"]):
        answer = shell(*command, *words)
        assert answer.code == 2
        assert "***" in answer.out + answer.err
        assert SECRET not in answer.out + answer.err


def below(pid: int) -> list[processes.Process]:
    """The process and its descendants."""
    every = list(processes.every())
    ours = {pid}
    while more := {process.pid for process in every if process.parent in ours} - ours:
        ours |= more
    return [process for process in every if process.pid in ours]


def listening(pids: set[int]) -> set[str]:
    """Addresses, as the kernel writes them, on which those processes take TCP connections."""
    inodes = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes |= set(re.findall(r"socket:\[(\d+)\]", str(descriptor.readlink())))
            except OSError:
                continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(fields[1].partition(":")[0])
    return found


def open_to_all(folder: Path) -> list[str]:
    """What everybody may write below the folder; links and sockets have no say of their own."""
    found = []
    for path in [folder, *folder.rglob("*")]:
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            continue
        if mode & 0o002 and not path.is_symlink() and not path.is_socket():
            found.append(str(path))
    return found


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="asks Linux's /proc what is listened on")
def test_with_ray_and_mlflow_only_this_machine_is_listened_to_and_nobody_else_may_write(tmp_path: Path) -> None:
    """Under the laxest umask, and while it runs too."""
    home = tmp_path / "home"
    command = [sys.executable, "-m", "ablate", "run", f"{TOY}:slow", "--scale", "smoke", "--home", str(home)]
    seen: set[str] = set()
    open_files: set[str] = set()
    with subprocess.Popen(
        [*command, "--quiet"], cwd=ROOT, umask=0, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as run:
        while run.poll() is None:
            time.sleep(0.1)
            seen |= listening({process.pid for process in below(run.pid)})
            if home.exists():
                open_files |= set(open_to_all(home))
        assert run.stderr is not None
        assert run.returncode == 0, run.stderr.read()
    assert seen, "Ray listens somewhere"
    assert seen <= {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
    assert open_files == set()
    assert json.loads((home / "reports" / "slow@smoke" / "findings.json").read_text())
