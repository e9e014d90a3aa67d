"""Through Ray Tune: the same bits as in one process, lost workers tried again, nothing left behind."""

import dataclasses
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ablate import executors, processes
from ablate.driver import Refused, run
from ablate.execution import Options
from ablate.home import Home
from ablate.log import ledger
from ablate.plan import plan
from tests.ablate import walks
from trainables.protocol import Needed

MIXED = walks.study(
    "mixed",
    {
        "fine": walks.Walk(),
        "bug": walks.Walk(fail="error"),
        "on fine": walks.Score(network=Needed("walk", walks.Walk())),
        "killer": walks.Walk(fail="kill"),
        "other": walks.Walk(drift=1.0),
    },
    2,
)
WHOLE = plan(MIXED, "smoke")


def ray_processes():
    """Those that descend from this test's process."""
    every = list(processes.every())
    ours, grew = {os.getpid()}, True
    while grew:
        more = {process.pid for process in every if process.parent in ours} - ours
        ours, grew = ours | more, bool(more)
    return [process for process in every if process.pid in ours and process.pid != os.getpid()]


def numbers(home, ident):
    record = ledger(home)[ident].record
    return [(epoch["epoch"], epoch["metrics"]) for epoch in record.epochs]


def test_ray_gives_the_bits_of_one_process_and_outlives_its_workers(tmp_path):
    alone, ray = Home(tmp_path / "alone"), Home(tmp_path / "ray")
    run(plan(MIXED, "smoke", arms=["fine", "on fine", "other"]), Options(home=alone, local=True))
    heard = []
    result = run(WHOLE, Options(home=ray, retries=1), heard.append)
    found = {cell.arm: ledger(ray)[cell.trial].record for cell in WHOLE.cells}
    assert {arm: (record.state, record.reason) for arm, record in found.items()} == {
        "fine": ("done", ""),
        "bug": ("failed", "error"),
        "on fine": ("done", ""),
        "killer": ("failed", "lost"),
        "other": ("done", ""),
    }
    assert found["killer"].attempts >= 2
    assert (len(result.done), len(result.failed), result.pending) == (6, 4, ())
    for ident in result.done:
        assert numbers(ray, ident) == numbers(alone, ident)
    assert {event.kind for event in heard} == {"started", "epoch", "ended", "lost"}
    assert not [process for process in ray_processes() if process.name in ("raylet", "gcs_server", "ray::Crew")]
    assert list(ray.scratch.iterdir()) == []


def test_interrupt_stops_the_workers_and_the_sweep_goes_on(tmp_path):
    home = Home(tmp_path)
    study = walks.study("slow", {"slow": walks.Walk(epochs=500, pause=0.05), "quick": walks.Walk()}, 1)

    def interrupt(event):
        if event.kind == "epoch" and event.epoch > 20:
            raise KeyboardInterrupt

    first = run(plan(study, "smoke"), Options(home=home), interrupt)
    assert first.interrupted
    assert len(first.pending) >= 1
    assert not [process for process in ray_processes() if process.name in ("raylet", "gcs_server", "ray::Crew")]
    # In one process now, where the trial's folder and lock are free and hold its progress.
    epochs = []

    def stop(event):
        if event.kind == "epoch" and event.trial == plan(study, "smoke").trials[0].id:
            epochs.append(event.epoch)
            raise KeyboardInterrupt

    assert run(plan(study, "smoke"), Options(home=home, local=True), stop).interrupted
    assert epochs[0] > 1


def test_a_killed_driver_leaves_no_process_and_the_next_clears_its_folders_away(tmp_path):
    home = Home(tmp_path)
    words = [f"{walks.__file__}:kills", "--scale", "smoke", "--mlflow", "none", "--optuna", "none", "--quiet"]
    driver = subprocess.Popen([sys.executable, "-m", "ablate", "run", *words, "--home", str(tmp_path)])
    while not any((tmp_path / "trials").glob("*/*")):
        assert driver.poll() is None, "it began to train"
        time.sleep(0.1)
    (child,) = (process for process in processes.every() if process.parent == driver.pid)
    (folder,) = home.scratch.iterdir()
    session = Path((folder / "lock").read_text())
    executors.clear_away(home.scratch)
    assert session.is_dir(), "a living driver's"
    driver.kill()
    driver.wait()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and any(process.session == child.session for process in processes.every()):
        time.sleep(0.1)
    assert not [process for process in processes.every() if process.session == child.session]
    executors.clear_away(home.scratch)
    assert list(home.scratch.iterdir()) == []
    assert not session.exists()


@pytest.mark.parametrize("length", [12, 23, 24, 30, 200])
def test_sockets_of_ray_have_short_names_wherever_temporary_files_are(monkeypatch, length):
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as short:
        given = Path(short, "d" * (length - len(short) - 1)) if length > len(short) else Path("/tmp")
        given.mkdir(exist_ok=True)
        monkeypatch.setattr(tempfile, "tempdir", str(given))
        assert (executors.temporary() == str(given)) == (len(str(given)) <= 23)
        with tempfile.TemporaryDirectory(prefix=executors.AWAY, dir=executors.temporary()) as away:
            folder = Path(away, "ray", "session_2026-11-20_18-39-05_883589_4194304", "sockets")
            folder.mkdir(parents=True)
            with socket.socket(socket.AF_UNIX) as ours:
                ours.bind(str(folder / "plasma_store"))  # an OSError where the name is too long


def test_more_gpus_than_exist_are_refused_before_anything_is_written(tmp_path):
    home = Home(tmp_path)
    with pytest.raises(Refused, match="999 GPUs a trial are asked for, and the cluster has"):
        run(WHOLE, Options(home=home, gpus_per_trial=999.0))
    assert list(home.logs.glob("*.jsonl")) == []


@pytest.mark.parametrize(("known", "found"), [({"NodeID": "n1"}, "n1"), ({"NodeID": "f" * 56}, ""), ({}, "")])
def test_where_a_worker_was_that_had_said_nothing_is_looked_up(monkeypatch, known, found):
    """Else the loss of its node would be counted as a try of its trial."""
    from ray._private import state
    from ray.exceptions import ActorUnavailableError

    from ablate import sweep

    asked, error = [], ActorUnavailableError("Socket closed", b"\x01" * 16)
    monkeypatch.setattr(state, "actors", lambda ident: asked.append(ident) or {"Address": known, "State": "DEAD"})
    census = SimpleNamespace(gone=lambda place, preempted: (place, preempted))
    assert sweep._where(SimpleNamespace(last_result={}), error, census) == (found, False)
    assert set(asked) == {"01" * 16}
    assert sweep._where(SimpleNamespace(last_result={"node": "n2"}), error, census) == ("n2", False)


@pytest.mark.parametrize(("states", "cut"), [(["ALIVE"] * 99, True), (["ALIVE", "ALIVE", "DEAD"], False)])
def test_a_worker_that_lives_was_cut_off_with_its_node(monkeypatch, states, cut):
    """The head has not missed the node, which may be back by now; a worker's own death it learns in a moment."""
    from ray._private import state
    from ray.exceptions import ActorUnavailableError

    from ablate import sweep

    said = iter(states)
    monkeypatch.setattr(sweep, "DEATH_S", 0.05)
    monkeypatch.setattr(sweep, "WATCH_S", 0.01)
    monkeypatch.setattr(state, "actors", lambda _ident: {"State": next(said)})
    census = SimpleNamespace(gone=lambda place, preempted: (place, preempted))
    error = ActorUnavailableError("recvmsg:Connection reset by peer", b"\x01" * 16)
    assert sweep._where(SimpleNamespace(last_result={"node": "n1"}), error, census) == ("n1", cut)


def test_nodes_are_asked_of_no_cluster(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(Refused, match="--elastic asks a Ray cluster for nodes, and none is named"):
        run(WHOLE, Options(home=Home(tmp_path), elastic=True))


@pytest.mark.slow
def test_an_existing_cluster_is_joined_and_left_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else it depends on whether there is a token in ~/.ray
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    # Ray's sockets lie under it, and the name of a socket has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    start = [*ray, "start", "--head", "--port=0", "--num-cpus=2", "--include-dashboard=false", f"--temp-dir={folder}"]
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    with (
        (tmp_path / "said").open("wb") as said,
        subprocess.Popen([*start, "--block"], env=environment, stdout=said, start_new_session=True) as cluster,
    ):
        try:
            address = folder / "ray_current_cluster"
            deadline = time.monotonic() + 300
            while b"Ray runtime started" not in (tmp_path / "said").read_bytes() and time.monotonic() < deadline:
                time.sleep(0.2)
            home = Home(tmp_path / "home")
            study = dataclasses.replace(walks.walk, origin=walks.__file__)
            result = run(plan(study, "smoke"), Options(home=home, address=address.read_text().strip()))
            assert len(result.done) == 6
            assert cluster.poll() is None
            assert [process for process in processes.every() if process.name == "raylet"]
        finally:
            processes.end_session(cluster.pid)
            cluster.kill()
            shutil.rmtree(folder, ignore_errors=True)
