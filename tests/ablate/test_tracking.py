"""MLflow as a projection of the log: what it shows, exactly once, whatever dies or goes away meanwhile.

Stores are real ones (SQLite); only the outage has a server of its own making.
"""

import http.server
import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ablate import projection, tracking
from ablate.home import Home
from ablate.log import Log, Record
from ablate.plan import Trial, plan
from search_spaces.study import Arm, Block, Contrast, Outcome, Scale, Source, Study

# MLflow and what it imports warn of their own future; nothing of ours could change it.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Its engines keep SQLite connections open in a pool.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

STUDY = Study(
    name="layers",
    question="Which layer?",
    source=Source(paper="A paper", where="Table 4"),
    method="plain",
    arms=(
        Arm(name="a", config={"layer": 1, "steps": [1, 2], "mix": True, "long": "x" * 7000}),
        Arm(name="b", config={"layer": 2, "steps": [1, 2], "mix": False, "long": ""}),
        Arm(name="a_too", config={"layer": 1, "steps": [1, 2], "mix": True, "long": "x" * 7000}),
    ),
    baseline="a",
    scales=(Scale(name="smoke", blocks=(Block(dataset="digits"), Block(dataset="digits", seed=1)), data={"side": 8}),),
    outcome=Outcome(metric="auroc", label="AUROC"),
    contrasts=(Contrast(arm="b", reference="a"),),
)
PLAN = plan(STUDY, "smoke")
START = 1.8e9


class Clock:
    """Log lines at times of our choosing."""

    def __init__(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self.now = home, START
        monkeypatch.setattr("ablate.log.time.time", lambda: self.now)
        self.log = Log(home.log(PLAN.sweep))

    def launch(self, **changes: Any) -> None:
        line = {"scale": "smoke", "arms": None, "blocks": None, "command": "ablate run layers", "provenance": {}}
        self.log.append("sweep", study=STUDY.to_plain(), **(line | changes))

    def begin(self, trial: Trial) -> None:
        self.log.append("started", trial=trial.id, attempt=1, where="here")

    def progress(self, trial: Trial, *epochs: int) -> None:
        self.log.append("epochs", trial=trial.id, epochs=[row(trial, epoch) for epoch in epochs])

    def end(self, trial: Trial, epochs: int = 2, **fields: Any) -> None:
        known = {"commit": "abc", "dirty": True, "data_digest": "d" * 64, "device": "cpu"}
        whole = {"state": "done", "attempts": 1, "started": START, "ended": self.now, "provenance": known} | fields
        rows = tuple(row(trial, epoch) for epoch in range(1, epochs + 1))
        record = Record(trial.id, trial.method, trial.config, trial.data, trial.seed, epochs=rows, **whole)
        self.log.append("ended", trial=trial.id, record=asdict(record))


def row(trial: Trial, epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "seconds": 2.0, "metrics": {"auroc": 0.5 + epoch / 7 + trial.seed, "fpr@95": 0.1 / epoch}}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def clock(home: Home, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(home, monkeypatch)


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that MLflow has just made, to be copied: making one takes a second."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    tracking._prepare(f"sqlite:///{path}")
    return path


@pytest.fixture
def uri(home: Home, blank: Path) -> str:
    home.root.mkdir(parents=True, exist_ok=True)
    (home.root / "mlflow.db").write_bytes(blank.read_bytes())
    return home.mlflow


def project(home: Home, uri: str, now: float = START, *, leaving: bool = True) -> tracking.Projector:
    """One pass over the log, in this process."""
    projector = tracking.Projector(home, PLAN.sweep, uri)
    projector.advance(now, budget=math.inf)
    projector.close(now, leaving=leaving)
    assert not projector.error
    return projector


def runs(uri: str) -> dict[str, Any]:
    """All active runs by trial, the parent by ''; none twice."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiments = [e.experiment_id for e in client.search_experiments() if e.name.startswith("ablate/")]
    found = client.search_runs(experiments, max_results=1000)
    by_trial = {run.data.tags.get("trial", ""): run for run in found}
    assert len(by_trial) == len(found)
    return by_trial


def content(uri: str) -> dict[str, Any]:
    """Everything of all active runs but their random ids."""
    from mlflow import MlflowClient

    client, whole = MlflowClient(uri), {}
    for trial, run in runs(uri).items():
        history = {
            name: [(m.step, m.timestamp, m.value) for m in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        tags = {key: value for key, value in run.data.tags.items() if key != "mlflow.parentRunId"}
        info = (run.info.run_name, run.info.status, run.info.start_time, run.info.end_time)
        data = [(d.dataset.name, d.dataset.digest, d.dataset.profile) for d in run.inputs.dataset_inputs]
        whole[trial] = (info, tags, dict(run.data.params), history, data)
    return whole


FIRST, SECOND, THIRD, FOURTH = PLAN.trials


def test_a_child_holds_all_that_its_record_holds(clock: Clock, home: Home, uri: str) -> None:
    clock.launch()
    clock.begin(FIRST)
    clock.now += 5.0
    clock.end(FIRST)
    project(home, uri)
    (_, status, start, end), tags, params, history, data = content(uri)[FIRST.id]
    assert (status, start, end) == ("FINISHED", int(START * 1000), int(START * 1000) + 5000)
    assert history["auroc"] == [(1, 1800000002000, 0.5 + 1 / 7), (2, 1800000004000, 0.5 + 2 / 7)]
    assert history["fpr_at_95"] == [(1, 1800000002000, 0.1), (2, 1800000004000, 0.05)]
    assert (params["layer"], params["steps"], params["mix"], params["data.side"]) == ("1", "[1, 2]", "true", "8")
    assert len(params["long"]) == projection.LONGEST["param"]
    assert "sha256:" in params["long"]
    wanted = {"study": "layers", "scale": "smoke", "arm": "a", "block": "digits/t0/s0", "dataset": "digits"} | {
        "split": "0",
        "seed": "0",
        "trial": FIRST.id,
        "state": "done",
        "commit": "abc",
        "dirty": "true",
    }
    assert wanted.items() <= tags.items()
    assert tags["also"] == "a_too digits/t0/s0"
    assert data == [("digits/t0", "d" * 36, json.dumps(FIRST.data, sort_keys=True))]


def test_one_parent_a_child_a_trial_and_a_classic_table(clock: Clock, home: Home, uri: str) -> None:
    from mlflow import MlflowClient

    clock.launch()
    for trial in PLAN.trials:
        clock.end(trial)
    project(home, uri)
    found = runs(uri)
    assert set(found) == {"", *(trial.id for trial in PLAN.trials)}
    parent = found.pop("")
    assert {run.data.tags["mlflow.parentRunId"] for run in found.values()} == {parent.info.run_id}
    assert (parent.info.run_name, parent.info.status) == ("smoke sweep", "FINISHED")
    assert "3 arms on 2 blocks: 6 cells, 4 distinct trials" in parent.data.tags["mlflow.note.content"]
    experiment = MlflowClient(uri).get_experiment_by_name("ablate/layers")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert "Which layer?" in experiment.tags["mlflow.note.content"]
    assert experiment.artifact_location.startswith(home.mlflow_artifacts.resolve().as_uri())


def test_a_failure_is_shown_with_its_traceback(clock: Clock, home: Home, uri: str) -> None:
    from mlflow.artifacts import load_text

    clock.launch()
    clock.end(FIRST, epochs=1, state="failed", reason="error", error="Traceback\nValueError: no layer\n")
    projector = project(home, uri)
    run = runs(uri)[FIRST.id]
    assert (run.info.status, run.data.tags["reason"]) == ("FAILED", "error")
    assert run.data.tags["error"] == "ValueError: no layer"
    assert "ValueError: no layer" in run.data.tags["mlflow.note.content"]
    assert load_text(f"{run.info.artifact_uri}/traceback.txt") == "Traceback\nValueError: no layer\n"
    assert projector.delivered == tracking.Delivered(runs=1, pending=0)
    assert runs(uri)[""].info.status == "KILLED"  # Three trials were never run.


def test_projecting_again_changes_nothing_and_a_deleted_store_is_rebuilt_as_it_was(
    clock: Clock, home: Home, uri: str, blank: Path
) -> None:
    clock.launch()
    for number, trial in enumerate(PLAN.trials):
        clock.begin(trial)
        clock.now += 3.25
        state = {"state": "failed", "reason": "diverged", "error": "Diverged: loss"} if number == 2 else {}
        clock.end(trial, epochs=3, **state)
    project(home, uri)
    first, ids = content(uri), {trial: run.info.run_id for trial, run in runs(uri).items()}
    project(home, uri)
    assert content(uri) == first
    assert {trial: run.info.run_id for trial, run in runs(uri).items()} == ids
    other = home.root / "again.db"
    other.write_bytes(blank.read_bytes())
    project(home, f"sqlite:///{other}")
    assert content(f"sqlite:///{other}") == first


def test_a_long_trial_is_seen_while_it_runs_and_ends_as_the_same_run(clock: Clock, home: Home, uri: str) -> None:
    clock.launch()
    clock.begin(FIRST)
    clock.progress(FIRST, 1)
    projector = tracking.Projector(home, PLAN.sweep, uri)
    projector.advance(START + 10)
    assert set(runs(uri)) == {""}
    projector.advance(START + tracking.LIVE_AFTER)
    live = runs(uri)[FIRST.id]
    assert (live.info.status, live.data.tags["state"], live.data.metrics["fpr_at_95"]) == ("RUNNING", "running", 0.1)
    clock.progress(FIRST, 2)
    projector.advance(START + 40)
    assert runs(uri)[FIRST.id].data.metrics["fpr_at_95"] == 0.05
    clock.now += 60
    clock.end(FIRST, epochs=3)
    projector.advance(START + 60)
    done = runs(uri)[FIRST.id]
    assert (done.info.run_id, done.info.status, done.data.tags["state"]) == (live.info.run_id, "FINISHED", "done")
    history = content(uri)[FIRST.id][3]["auroc"]
    assert [step for step, _, _ in history] == [1, 2, 3]


def test_what_a_dead_driver_left_open_is_closed_and_taken_up_again(
    clock: Clock, home: Home, uri: str, blank: Path
) -> None:
    clock.launch()
    clock.begin(FIRST)
    clock.progress(FIRST, 1, 2)
    tracking.Projector(home, PLAN.sweep, uri).advance(START + 30)  # ... and is killed.
    assert Counter(run.info.status for run in runs(uri).values()) == {"RUNNING": 2}
    project(home, uri)
    assert Counter(run.info.status for run in runs(uri).values()) == {"KILLED": 2}
    clock.now += 100
    clock.launch()
    clock.begin(FIRST)
    for trial in PLAN.trials:
        clock.end(trial, epochs=4)
    project(home, uri)
    found = runs(uri)
    assert Counter(run.info.status for run in found.values()) == {"FINISHED": 5}
    other = home.root / "again.db"
    other.write_bytes(blank.read_bytes())
    project(home, f"sqlite:///{other}")
    assert content(f"sqlite:///{other}") == content(uri)


def test_a_run_that_holds_what_the_record_does_not_is_replaced(clock: Clock, home: Home, uri: str) -> None:
    from mlflow import MlflowClient

    clock.launch()
    clock.end(FIRST)
    project(home, uri)
    before = content(uri)
    client, run_id = MlflowClient(uri), runs(uri)[FIRST.id].info.run_id
    client.log_metric(run_id, "auroc", 0.99, timestamp=1, step=9)
    client.set_tag(run_id, "ablate.digest", "of something else")
    project(home, uri)
    assert content(uri) == before
    assert runs(uri)[FIRST.id].info.run_id != run_id


def test_a_request_sent_twice_or_a_run_deleted_by_hand_still_gives_one_child(
    clock: Clock, home: Home, uri: str
) -> None:
    from mlflow import MlflowClient

    clock.launch()
    clock.end(FIRST)
    clock.end(SECOND)
    project(home, uri)
    before, found, client = content(uri), runs(uri), MlflowClient(uri)
    client.create_run(found[""].info.experiment_id, tags=found[FIRST.id].data.tags)
    client.create_run(found[""].info.experiment_id, tags=found[""].data.tags)
    client.delete_run(found[SECOND.id].info.run_id)
    project(home, uri)
    assert content(uri) == before


def test_what_another_sweep_finished_is_shown_here_too(
    clock: Clock, home: Home, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.end(FIRST)
    home.log(PLAN.sweep).replace(home.log("other@smoke"))
    later = Clock(home, monkeypatch)
    later.launch()
    later.end(SECOND)
    project(home, uri)
    assert set(runs(uri)) == {"", FIRST.id, SECOND.id}
    assert runs(uri)[FIRST.id].data.tags["arm"] == "a"


def test_a_failed_trial_that_is_done_on_another_try_is_one_finished_run(clock: Clock, home: Home, uri: str) -> None:
    clock.launch()
    clock.begin(FIRST)
    clock.end(FIRST, state="failed", reason="out_of_memory", error="OutOfMemoryError")
    project(home, uri)
    clock.now += 50
    clock.begin(FIRST)
    clock.now += 5
    clock.end(FIRST)
    project(home, uri)
    run = runs(uri)[FIRST.id]
    assert (run.info.status, run.info.start_time) == ("FINISHED", int(START * 1000) + 50_000)
    assert "reason" not in run.data.tags


def test_later_launches_rename_what_they_share(clock: Clock, home: Home, uri: str) -> None:
    clock.launch(arms=["a_too"], blocks=1)
    clock.end(FIRST)
    project(home, uri)
    assert runs(uri)[FIRST.id].data.tags["arm"] == "a_too"
    run_id = runs(uri)[FIRST.id].info.run_id
    clock.launch()
    project(home, uri)
    run = runs(uri)[FIRST.id]
    assert (run.info.run_id, run.data.tags["arm"], run.data.tags["also"]) == (run_id, "a_too", "a digits/t0/s0")


def test_hundreds_of_params_and_thousands_of_metrics_go_in_batches(
    home: Home, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(home, monkeypatch)
    clock.launch()
    rows = tuple({"epoch": k, "seconds": 0.1, "metrics": {f"m{j}": k / 7 + j for j in range(5)}} for k in range(1, 501))
    config = {f"field_{k:03}": k for k in range(230)}
    record = Record(FIRST.id, "plain", config, FIRST.data, 0, "done", epochs=rows, started=START, ended=START + 50)
    clock.log.append("ended", trial=FIRST.id, record=asdict(record))
    project(home, uri)
    _, _, params, history, _ = content(uri)[FIRST.id]
    assert params == {"data.side": "8"} | {name: str(value) for name, value in config.items()}
    assert [value for _, _, value in history["m3"]] == [k / 7 + 3 for k in range(1, 501)]


def test_nan_is_kept_and_infinity_is_named_instead(clock: Clock, home: Home, uri: str) -> None:
    clock.launch()
    rows = ({"epoch": 1, "seconds": 1.0, "metrics": {"loss": math.inf, "auroc": math.nan}},)
    record = Record(FIRST.id, "plain", FIRST.config, FIRST.data, 0, "failed", epochs=rows, ended=START)
    clock.log.append("ended", trial=FIRST.id, record=asdict(record))
    project(home, uri)
    _, tags, _, history, _ = content(uri)[FIRST.id]
    assert tags["infinite"] == "loss at 1"
    assert list(history) == ["auroc"]
    assert math.isnan(history["auroc"][0][2])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("auroc", "auroc"),
        ("fpr@95", "fpr_at_95"),
        ("acc%", "acc_percent"),
        ("val/loss", "val/loss"),
        ("/loss", "_loss"),
        ("../loss", "__loss"),
        ("a//b", "a__b"),
        ("größe", "gr__e"),
    ],
)
def test_names_are_rewritten_by_one_rule(text: str, name: str) -> None:
    assert projection.name(text) == name


def test_two_names_never_become_one() -> None:
    made = projection.names(["fpr@95", "fpr_at_95", "ö", "ü", "m" * 300, "m" * 301])
    assert len(set(made.values())) == 6
    assert made["fpr_at_95"] == "fpr_at_95"
    assert max(map(len, made.values())) <= projection.LONGEST["name"]


def test_a_reports_files_and_means_go_to_the_parent(clock: Clock, home: Home, uri: str) -> None:
    from mlflow import MlflowClient

    clock.launch()
    for trial in PLAN.trials:
        clock.end(trial)
    folder = home.report(PLAN.sweep)
    (folder / "figures").mkdir(parents=True)
    (folder / "report.html").write_text("<p>b is better</p>")
    (folder / "table.md").write_text("| arm | mean |\n|---|---|\n| b | 97 |\n")
    (folder / "figures" / "means.png").write_bytes(b"png")
    mean = {"estimate": 0.97, "low": 0.96, "high": 0.98}
    arms = [{"arm": "b", "n": 2, "mean": mean}, {"arm": "a", "n": 1, "mean": mean | {"low": None, "high": None}}]
    (folder / "findings.json").write_text(json.dumps({"outcome": "auroc", "arms": arms}))
    project(home, uri).attach(folder, START)
    parent = runs(uri)[""]
    assert parent.data.tags["auroc of b"] == "0.9700 [0.9600, 0.9800], n = 2"
    assert parent.data.tags["auroc of a"] == "0.9700 [?, ?], n = 1"
    assert "| b | 97 |" in parent.data.tags["mlflow.note.content"]
    assert parent.info.status == "FINISHED"
    listed = MlflowClient(uri).list_artifacts(parent.info.run_id)
    assert {entry.path for entry in listed} == {"report.html", "table.md", "findings.json", "figures"}
    project(home, uri)
    assert "| b | 97 |" in runs(uri)[""].data.tags["mlflow.note.content"]


# ------------------------------------------------------------------------------------------------ the process


def test_the_process_delivers_while_the_sweep_runs_and_ends_when_told(home: Home) -> None:
    log = Log(home.log(PLAN.sweep))
    tracking.check(home.mlflow)
    follower = tracking.start(home, PLAN.sweep, home.mlflow)
    clock = Clock.__new__(Clock)
    clock.home, clock.now, clock.log = home, START, log
    clock.launch()
    for trial in PLAN.trials:
        clock.end(trial)
    assert follower.finish(60.0) == tracking.Delivered(runs=4, pending=0)
    assert follower.process.returncode == 0
    assert Counter(run.info.status for run in runs(home.mlflow).values()) == {"FINISHED": 5}
    assert tracking.sync(home, PLAN.sweep, home.mlflow) == tracking.Delivered(runs=4, pending=0)
    log.close()
    folder = home.report(PLAN.sweep)
    folder.mkdir(parents=True)
    (folder / "table.md").write_text("| arm |\n|---|\n")
    tracking.attach(home, PLAN.sweep, home.mlflow, folder)
    assert Counter(run.info.status for run in runs(home.mlflow).values()) == {"FINISHED": 5}


def test_a_tracker_that_was_killed_is_made_up_for(clock: Clock, home: Home, uri: str) -> None:
    clock.launch()
    clock.end(FIRST)
    follower = tracking.start(home, PLAN.sweep, uri)
    follower.process.send_signal(signal.SIGKILL)
    assert follower.finish(60.0) == tracking.Delivered(runs=1, pending=0)


def test_the_process_closes_what_is_open_when_its_driver_is_killed(clock: Clock, home: Home, uri: str) -> None:
    clock.launch()
    clock.begin(FIRST)
    clock.end(SECOND)
    program = (
        "import sys, time; from pathlib import Path; from ablate import tracking; from ablate.home import Home\n"
        "f = tracking.start(Home(Path(sys.argv[1])), sys.argv[2], sys.argv[3])\n"
        "print(f.process.pid, flush=True); time.sleep(600)"
    )
    arguments = [sys.executable, "-c", program, str(home.root), PLAN.sweep, uri]
    root = Path(tracking.__file__).resolve().parent.parent
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, cwd=root) as driver:
        assert driver.stdout is not None
        tracker = int(driver.stdout.readline())
        _until(lambda: SECOND.id in runs_or_none(uri))
        driver.kill()
    _until(lambda: not _alive(tracker))
    found = runs(uri)
    assert found[FIRST.id].info.status == "KILLED"
    assert found[SECOND.id].info.status == "FINISHED"
    assert found[""].info.status == "KILLED"


def runs_or_none(uri: str) -> dict[str, Any]:
    try:
        return runs(uri)
    except AssertionError:
        return {}


def _alive(process: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def _until(condition: Callable[[], bool], patience: int = 3600) -> None:
    for _ in range(patience):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it did not happen within three minutes")


class Outage(http.server.BaseHTTPRequestHandler):
    """A front of an MLflow server that can be away: answers 503 to all while `away`."""

    away = threading.Event()
    behind = ""

    def do_POST(self) -> None:
        self._pass()

    def do_GET(self) -> None:
        self._pass()

    def _pass(self) -> None:
        import requests

        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.away.is_set():
            self.send_response(503)
            self.end_headers()
            return
        headers = {"content-type": self.headers.get("content-type") or "application/json"}
        answer = requests.request(self.command, self.behind + self.path, data=body, headers=headers, timeout=30)
        self.send_response(answer.status_code)
        self.send_header("content-type", answer.headers.get("content-type", ""))
        self.send_header("content-length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def front(uri: str, tmp_path: Path) -> Iterator[tuple[str, threading.Event]]:
    """An MLflow server on the store, behind a front that can go away."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        uri,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += ["--artifacts-destination", str(tmp_path / "artifacts"), "--host", "127.0.0.1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    with subprocess.Popen(command, env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}, **quiet) as server:
        try:
            _until(lambda: _answers(f"http://127.0.0.1:{port}"))
            Outage.behind = f"http://127.0.0.1:{port}"
            Outage.away.clear()
            proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Outage)
            threading.Thread(target=proxy.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{proxy.server_port}", Outage.away
            proxy.shutdown()
            proxy.server_close()
        finally:
            os.killpg(server.pid, signal.SIGTERM)


def _answers(uri: str) -> bool:
    try:
        tracking.check(uri)
    except tracking.TrackingError:
        return False
    return True


@pytest.mark.slow
def test_an_outage_is_waited_out_and_nothing_is_lost_or_doubled(
    clock: Clock, home: Home, uri: str, front: tuple[str, threading.Event]
) -> None:
    server, away = front
    clock.launch()
    clock.end(FIRST)
    follower = tracking.start(home, PLAN.sweep, server)
    _until(lambda: FIRST.id in runs_or_none(uri))
    away.set()
    clock.end(SECOND)
    _until(lambda: "503" in follower.poll().error)
    assert follower.poll().pending == 1
    away.clear()
    clock.end(THIRD)
    clock.end(FOURTH)
    assert follower.finish(90.0) == tracking.Delivered(runs=4, pending=0)
    assert Counter(run.info.status for run in runs(uri).values()) == {"FINISHED": 5}


class Away(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_response(503)
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def gone() -> Iterator[str]:
    """A server that answers 503 to everything."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Away)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://who:secret@127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_server_that_stays_away_costs_no_record(clock: Clock, home: Home, uri: str, gone: str) -> None:
    clock.launch()
    clock.end(FIRST)
    follower = tracking.start(home, PLAN.sweep, gone)
    _until(lambda: "503" in follower.poll().error)
    delivered = follower.finish(2.0)
    assert (delivered.runs, delivered.pending) == (0, 1)
    assert "503" in delivered.error
    assert "secret" not in delivered.error
    with pytest.raises(tracking.TrackingError, match="503") as caught:
        tracking.sync(home, PLAN.sweep, gone)
    assert "secret" not in str(caught.value)
    assert tracking.sync(home, PLAN.sweep, uri) == tracking.Delivered(runs=1, pending=0)


def test_sync_of_a_sweep_that_never_ran_says_so(home: Home, uri: str) -> None:
    with pytest.raises(tracking.TrackingError, match="never ran"):
        tracking.sync(home, "layers@paper", uri)


# ------------------------------------------------------------------------------------------------ check


def test_check_accepts_what_can_be_made_or_used(tmp_path: Path, blank: Path) -> None:
    tracking.check(f"sqlite:///{tmp_path / 'new' / 'deep' / 'mlflow.db'}")
    assert not (tmp_path / "new").exists()
    tracking.check(f"sqlite:///{blank}")


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("./mlruns", "not a tracking URI that ablate knows"),
        ("file:/tmp/x", "not a tracking URI that ablate knows"),
        ("databricks", "not a tracking URI that ablate knows"),
        ("sqlite://", "names no file"),
        ("http://me:secret@127.0.0.1:9", "no answer"),
        ("http://127.0.0.1:notaport", "no answer"),
        ("postgresql://me:secret@127.0.0.1:9/db", "can't connect"),
    ],
)
def test_check_says_what_is_wrong_and_how_to_mend_it(uri: str, says: str) -> None:
    with pytest.raises(tracking.TrackingError, match=says) as caught:
        tracking.check(uri)
    assert "secret" not in str(caught.value)
    assert "--mlflow" in str(caught.value)


def test_check_refuses_folders_other_files_and_other_databases(tmp_path: Path) -> None:
    with pytest.raises(tracking.TrackingError, match="is a folder"):
        tracking.check(f"sqlite:///{tmp_path}")
    text = tmp_path / "text.db"
    text.write_text("no database at all, but long enough to be looked at " * 20)
    with pytest.raises(tracking.TrackingError, match="no usable SQLite database"):
        tracking.check(f"sqlite:///{text}")
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE birds (name TEXT)")
    connection.close()
    with pytest.raises(tracking.TrackingError, match="database of something else"):
        tracking.check(f"sqlite:///{other}")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc, where even root makes no file")
def test_check_tries_where_permissions_promise_too_much() -> None:
    with pytest.raises(tracking.TrackingError, match=r"can't be (made|written)"):
        tracking.check("sqlite:////proc/nowhere/mlflow.db")


def test_check_knows_a_server_that_is_no_mlflow(gone: str) -> None:
    with pytest.raises(tracking.TrackingError, match=r"HTTP 503.*no MLflow server"):
        tracking.check(gone)
