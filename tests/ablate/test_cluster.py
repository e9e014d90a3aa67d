"""On a cluster of several nodes: processes of one machine, each node with its own address (`benchmarks.ray_nodes`).

The slow ones take nodes, cables and the head away; benchmarks/cluster_day.py does all of it in one day.
"""

import argparse
import dataclasses
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ablate import doctor, executors
from ablate.driver import Refused, run
from ablate.events import Event
from ablate.execution import Options
from ablate.executors import Lost, Said
from ablate.home import Home
from ablate.log import Record, ledger, read
from ablate.messages import Began, Hand, Job
from ablate.nodes import Resources
from ablate.plan import Plan, plan
from benchmarks import ray_nodes
from tests.ablate import walks

ARMS = {f"d{k}": walks.Walk(drift=0.1 * k, epochs=80, pause=0.25) for k in range(2)}
LONG = walks.study("long", ARMS, 2)
SAME = walks.study("same", {name: dataclasses.replace(walk, pause=0.0) for name, walk in ARMS.items()}, 2)
"""The numbers of LONG in no time."""
QUICK_TO_GIVE_UP = {"RAY_gcs_rpc_server_reconnect_timeout_s": "10"}
"""Nodes that have lost their head give up after a minute by default."""


@pytest.fixture(scope="module")
def credentials() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def two(credentials: pytest.MonkeyPatch) -> Iterator[ray_nodes.Cluster]:
    """A head that trains nothing, and two nodes: one with two GPUs (said, not seen) and a disk, in zone x."""
    with ray_nodes.Cluster() as cluster:
        for name, value in cluster.credentials.items():
            credentials.setenv(name, value)
        cluster.head()
        cluster.join("a", cpus=2, gpus=2, resources='{"disk": 1}', labels="zone=x")
        cluster.join("b", cpus=1, labels="zone=y")
        yield cluster


def hands(whole: Plan, **more: Any) -> list[Hand]:
    """One for each trial of the plan."""
    return [Hand(number, ((trial, 1),), **more) for number, trial in enumerate(whole.trials, 1)]


def said(cluster: ray_nodes.Cluster, home: Home, waiting: list[Hand], resources: Resources) -> list[Said]:
    """All that comes of those hands."""
    heard: list[Said] = []
    left = len(waiting)
    job = Job(home=dataclasses.replace(home, root=home.root.resolve()), origin=walks.__file__)

    def take() -> Hand | None:
        if waiting:
            return waiting.pop(0)
        return Hand(0, ()) if sum(isinstance(each, Record | Lost) for each in heard) < left else None

    with executors.Cluster(job, resources, cluster.address) as executor:
        executor.slots()
        for messages in executor.messages(take):
            heard += messages
    return heard


def places(heard: list[Said]) -> set[tuple[str, tuple[str, ...]]]:
    return {(each.node, each.gpus) for each in heard if isinstance(each, Began)}


def test_a_submitted_job_sends_its_code_along_and_gets_the_bits_of_one_process(
    two: ray_nodes.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ray job submit` starts its command with these two variables; the nodes have none of our code."""
    monkeypatch.setenv("RAY_ADDRESS", two.address)
    submitted = {"runtime_env": {"env_vars": {"MINE": "1"}}, "metadata": {"job_submission_id": "raysubmit_1"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(submitted))
    alone, there = Home(tmp_path / "alone"), Home(tmp_path / "there")
    whole = plan(walks.walk, "smoke")
    run(whole, Options(home=alone, local=True))
    result = run(whole, Options(home=there, address="auto"))
    assert len(result.done) == len(whole.trials)
    for ident in result.done:
        ours, theirs = ledger(alone)[ident].record, ledger(there)[ident].record
        assert ours is not None
        assert theirs is not None
        assert [each["metrics"] for each in ours.epochs] == [each["metrics"] for each in theirs.epochs]
        assert ours.provenance["code_digest"] == theirs.provenance["code_digest"]
    assert list(there.scratch.iterdir()) == []


def test_hands_go_where_labels_resources_gpus_and_bad_nodes_let_them(two: ray_nodes.Cluster, tmp_path: Path) -> None:
    home, whole = Home(tmp_path), plan(walks.kills, "smoke", blocks=1)
    waiting = hands(dataclasses.replace(whole, trials=whole.trials[:2]), gpus=0.5)
    asked = Resources(0.5, 1.0, custom={"disk": 0.5}, labels={"zone": "!y"})
    on_a = places(said(two, home, waiting, asked))
    assert {gpus for _, gpus in on_a} <= {("0",), ("1",)}
    (a,) = {node for node, _ in on_a}
    avoiding = hands(dataclasses.replace(whole, trials=whole.trials[2:4]), avoid=(a,))
    (on_b,) = places(said(two, home, avoiding, Resources(1.0, 0.0)))
    assert on_b[0] not in ("", a)


def test_what_no_node_has_is_refused_before_anything_is_written(two: ray_nodes.Cluster, tmp_path: Path) -> None:
    home, whole = Home(tmp_path), plan(walks.walk, "smoke")
    with pytest.raises(Refused, match="2 of disk a trial are asked for, and its largest node has 1"):
        run(whole, Options(home=home, address=two.address, resources={"disk": 2.0}))
    assert list(home.logs.glob("*.jsonl")) == []


@pytest.mark.slow
def test_who_has_not_the_token_is_refused(
    two: ray_nodes.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    (tmp_path / "token").write_text("f" * 64)
    with pytest.raises(Refused, match=r"(?s)cannot be joined.*RAY_AUTH_TOKEN") as refused:
        run(plan(walks.walk, "smoke"), Options(home=Home(tmp_path / "home"), address=two.address))
    assert "f" * 64 not in str(refused.value)


def test_doctor_asks_every_node(two: ray_nodes.Cluster, tmp_path: Path) -> None:
    server = "postgresql://user:secret@127.0.0.1:1/none"
    options = argparse.Namespace(data=None, mlflow=server, optuna="none")
    found = list(doctor.cluster(options, Home(tmp_path), two.address))
    assert [each.found for each in found if each.name == "cluster"] == [f"{two.address}: 3 nodes"]
    nodes = [each for each in found if each.name.startswith("node ")]
    assert sorted(each.state for each in nodes) == ["ok"] * 3 + ["warn"] * 3
    assert {each.found for each in nodes if each.state == "warn"} == {"does not reach MLflow"}
    assert all("clock within 0." in each.found for each in nodes if each.state == "ok")
    assert "secret" not in str(found)


@pytest.mark.slow
@pytest.mark.skipif(not ray_nodes.isolating(), reason="needs mount namespaces: root on Linux")
def test_a_home_that_nodes_do_not_see_is_refused(two: ray_nodes.Cluster) -> None:
    """Of this repository a node sees nothing: a home in it is another folder there."""
    with tempfile.TemporaryDirectory(prefix=f".{two.mark}", dir=ray_nodes.ROOT) as folder:
        home = Home(Path(folder))
        options = argparse.Namespace(data=None, mlflow="none", optuna="none")
        lacking = [each for each in doctor.cluster(options, home, two.address) if each.state == "fail"]
        assert len(lacking) == 3
        assert "is not the folder there that it is here" in lacking[0].found
        with pytest.raises(Refused, match="no node can take part"):
            run(plan(walks.walk, "smoke"), Options(home=home, address=two.address))


class Day:
    """A sweep under way on a cluster, and what it says."""

    def __init__(self, cluster: ray_nodes.Cluster, whole: Plan, home: Home, **more: Any) -> None:
        self.whole, self.home, self.heard = whole, home, list[Event]()
        options = Options(home=home, address=cluster.address, **more)
        self.result: Any = None

        def drive() -> None:
            self.result = run(whole, options, self.heard.append)

        self.thread = threading.Thread(target=drive)
        self.thread.start()

    def until(self, condition: Callable[[], bool], limit_s: float = 240.0) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, [event.why for event in self.heard if event.why]
            assert self.thread.is_alive() or condition()
            time.sleep(0.1)

    def epochs(self, least: int) -> Callable[[], bool]:
        return lambda: any(event.kind == "epoch" and event.epoch >= least for event in self.heard)

    def lost(self, times: int = 1) -> Callable[[], bool]:
        return lambda: sum(event.kind == "lost" for event in self.heard) >= times

    def over(self, alone: Home) -> None:
        """Ends well, with the numbers of an undisturbed sweep, each trial once, and on from checkpoints."""
        self.thread.join(600)
        assert not self.thread.is_alive()
        assert len(self.result.done) == len(self.whole.trials), self.result.message
        same = plan(SAME, "smoke")
        run(same, Options(home=alone, local=True))
        ended = [line["trial"] for _, line in read(self.home.log(self.whole.sweep)) if line["kind"] == "ended"]
        assert sorted(ended) == sorted(trial.id for trial in self.whole.trials)
        for quick, slow in zip(same.trials, self.whole.trials, strict=True):
            ours, theirs = ledger(alone)[quick.id].record, ledger(self.home)[slow.id].record
            assert ours is not None
            assert theirs is not None
            assert [each["metrics"] for each in ours.epochs] == [each["metrics"] for each in theirs.epochs]


def days(credentials: pytest.MonkeyPatch, cluster: ray_nodes.Cluster) -> None:
    for name, value in (cluster.credentials | QUICK_TO_GIVE_UP).items():
        credentials.setenv(name, value)


@pytest.mark.slow
def test_a_node_killed_is_no_blame_and_one_that_joins_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ray_nodes.Cluster(environment=QUICK_TO_GIVE_UP) as cluster:
        days(monkeypatch, cluster)
        cluster.head()
        cluster.join("a")
        day = Day(cluster, plan(LONG, "smoke"), Home(tmp_path / "home"), retries=0)
        day.until(day.epochs(8))
        cluster.join("b")
        cluster.kill("a")
        day.until(day.lost())
        day.over(Home(tmp_path / "alone"))
        slots = [line for _, line in read(day.home.log(day.whole.sweep)) if line["kind"] == "slots"]
        assert {line["count"] for line in slots} >= {1}


def autoscaling(folder: Path) -> Path:
    """For a head that may start three nodes on its own machine, of one CPU each, and has none at first."""
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    }
    kinds = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "small": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 3},
    }
    config = {"cluster_name": "elastic", "max_workers": 3, "upscaling_speed": 9, "idle_timeout_minutes": 1}
    config |= {"provider": provider, "available_node_types": kinds, "head_node_type": "ray.head.default"}
    config |= {"auth": {}, "file_mounts": {}, "cluster_synced_files": [], "file_mounts_sync_continuously": False}
    for moment in ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray"):
        config[f"{moment}_commands"] = []
    (folder / "autoscaling.json").write_text(json.dumps(config))
    return folder / "autoscaling.json"


@pytest.mark.slow
@pytest.mark.skipif(not ray_nodes.isolating(), reason="needs process namespaces: root on Linux")
def test_an_elastic_cluster_starts_nodes_for_trials_that_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From none to as many as it may, by Ray's own autoscaler; without being told so the sweep is refused."""
    asking = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    with ray_nodes.Cluster(environment=asking) as cluster:
        days(monkeypatch, cluster)
        cluster.head(autoscaling=autoscaling(tmp_path))
        with pytest.raises(Refused, match="and the cluster has 0"):
            run(plan(LONG, "smoke"), Options(home=Home(tmp_path / "refused"), address=cluster.address))
        day = Day(cluster, plan(LONG, "smoke"), Home(tmp_path / "home"), elastic=True)
        day.over(Home(tmp_path / "alone"))
        assert next(event.why for event in day.heard if event.kind == "waiting").startswith("for a node")
        counts = [line["count"] for _, line in read(day.home.log(day.whole.sweep)) if line["kind"] == "slots"]
        assert (counts[0], max(counts)) == (0, 3)


@pytest.mark.slow
@pytest.mark.skipif(not ray_nodes.isolating(), reason="needs process namespaces: root on Linux")
def test_an_elastic_cluster_that_starts_none_is_the_end_once_patience_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ray_nodes.Cluster() as cluster:
        days(monkeypatch, cluster)
        cluster.head()
        result = run(
            plan(LONG, "smoke"), Options(home=Home(tmp_path), address=cluster.address, elastic=True, patience=3.0)
        )
        assert result.interrupted
        assert "had no node for a trial for 3 s, see --patience" in result.message
        assert len(result.pending) == 4


@pytest.mark.slow
def test_a_head_killed_and_restarted_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ray_nodes.Cluster(environment=QUICK_TO_GIVE_UP) as cluster:
        days(monkeypatch, cluster)
        cluster.head()
        cluster.join("a")
        day = Day(cluster, plan(LONG, "smoke"), Home(tmp_path / "home"), retries=0)
        day.until(day.epochs(8))
        cluster.kill("head")
        day.until(day.lost())
        day.until(lambda: cluster.gone("a"))
        cluster.restart("head")
        cluster.restart("a")
        day.over(Home(tmp_path / "alone"))


@pytest.mark.slow
def test_a_head_that_stays_away_is_the_end_once_patience_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ray_nodes.Cluster(environment=QUICK_TO_GIVE_UP) as cluster:
        days(monkeypatch, cluster)
        cluster.head(cpus=1)
        day = Day(cluster, plan(LONG, "smoke"), Home(tmp_path / "home"), patience=5.0)
        day.until(day.epochs(2))
        cluster.kill("head")
        day.thread.join(240)
        assert day.result.interrupted
        assert "has been away for 5 s" in day.result.message
        assert len(day.result.pending) >= 1


@pytest.mark.slow
@pytest.mark.skipif(not ray_nodes.isolating(), reason="needs network namespaces: root on Linux")
def test_a_node_cut_off_for_half_a_minute_goes_on_or_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ray_nodes.Cluster() as cluster:
        days(monkeypatch, cluster)
        cluster.head()
        cluster.join("a")
        cluster.join("b")
        day = Day(cluster, plan(LONG, "smoke"), Home(tmp_path / "home"), retries=0)
        day.until(day.epochs(8))
        cluster.cut("a")
        time.sleep(30)
        cluster.mend("a")
        day.over(Home(tmp_path / "alone"))
