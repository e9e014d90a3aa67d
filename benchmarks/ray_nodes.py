"""A Ray cluster of several nodes on this machine: processes with addresses of their own, to be killed, cut off, joined.

As root on Linux each node has its own network namespace and process namespace, all on one bridge, so that a node's
cable can be pulled. Elsewhere nodes differ in their loopback address only, and cannot be cut off.

A node is started in an empty folder, without PYTHONPATH and, where it has namespaces, without this repository: what it
knows of the program under test came by Ray. Who talks to the cluster needs its token: `Cluster.credentials`, as
environment variables.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ablate import processes

ROOT = Path(__file__).resolve().parent.parent
PORT = 6379
UP_S = 400.0
"""A node is up after about 5 s; where many processes share two cores it was seen to take a minute."""
STORE_BYTES = 80 * 2**20
PATIENT = {"RAY_raylet_start_wait_time_s": "300", "RAY_agent_register_timeout_ms": "300000"}
"""Ray gives its own helpers 15 to 30 s to start, too little on a machine whose cores others hold."""
SLOW = "timed out during startup"
"""So Ray says that a node was not up in that time."""
AGENTS = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port")
"""Ports that a raylet else waits 15 s for."""


@dataclass
class Node:
    """One node, running or not."""

    name: str
    address: str
    options: Sequence[str]
    """Of `ray start`: the same again when it is started again."""
    namespace: str = ""
    process: "subprocess.Popen[bytes] | None" = None


def isolating() -> bool:
    """Whether nodes may have network namespaces here."""
    if not sys.platform.startswith("linux") or os.getuid() != 0 or not all(map(shutil.which, ("ip", "unshare"))):
        return False
    trial = f"ab{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", trial], capture_output=True)
    if made.returncode == 0:
        subprocess.run(["ip", "netns", "delete", trial], capture_output=True)
    return made.returncode == 0


class Cluster:
    """Starts nodes and takes them away. A context manager: nothing of it is left afterwards."""

    def __init__(self, *, isolated: bool | None = None, environment: Mapping[str, str] | None = None) -> None:
        """Args: `isolated`: with namespaces (default: where they are allowed); `environment`: of every node."""
        self.isolated = isolating() if isolated is None else isolated
        self.mark = f"ab{secrets.token_hex(2)}"
        self.environment = PATIENT | dict(environment or {})
        self.nodes: dict[str, Node] = {}
        self.subnet = ""
        self.folder: Path
        self.credentials: dict[str, str]
        self.held = contextlib.ExitStack()

    def __enter__(self) -> "Cluster":
        # Short: Ray's sockets lie under it, and the name of a socket has at most 107 characters.
        self.folder = Path(self.held.enter_context(tempfile.TemporaryDirectory(prefix=f"{self.mark}-", dir="/tmp")))
        token = self.folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        self.credentials = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        try:
            if self.isolated:
                self.subnet = self._bridge()
        except BaseException:
            self.held.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.held.close()

    @property
    def gateway(self) -> str:
        """Where nodes reach what listens on this machine."""
        return f"{self.subnet}.1" if self.isolated else "127.0.0.1"

    @property
    def address(self) -> str:
        """For --address."""
        return f"{self.nodes['head'].address}:{PORT}"

    def head(self, *, cpus: int = 0, dashboard: bool = False, **more: object) -> Node:
        """Starts the head, by default one that trains nothing; returns when it is up.

        `more`: gpus, resources, labels; autoscaling: the file that says which nodes it may start.
        """
        where = ["--head", f"--port={PORT}", f"--include-dashboard={str(dashboard).lower()}", "--dashboard-port=8265"]
        return self._new("head", [*where, *_asked(cpus, **more)], wait=True)

    def join(self, name: str, *, cpus: int = 1, wait: bool = True, **more: object) -> Node:
        """Starts one more node; `wait`: until it is up, else see `await_up`; `more`: gpus, resources, labels."""
        return self._new(name, [f"--address={self.address}", *_asked(cpus, **more)], wait=wait)

    def await_up(self, *names: str) -> None:
        """Returns when nodes that were started without waiting are up.

        Raises:
            RuntimeError: one is not, with what it said last.
        """
        for name in names:
            self._await(self.nodes[name])

    def kill(self, name: str) -> None:
        """Ends all processes of a node at once, as when its power goes."""
        process, self.nodes[name].process = self.nodes[name].process, None
        if process is None:
            return
        if not self.isolated:
            processes.end_session(process.pid)
        process.kill()  # with --kill-child all of its namespace
        process.wait()

    def kill_process(self, name: str, process_name: str) -> None:
        """Ends the node's processes of one name, for example gcs_server or raylet."""
        node = self.nodes[name]
        assert node.process is not None
        for process in _descendants(node.process.pid):
            if process.name == process_name:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)

    def restart(self, name: str, *, wait: bool = True) -> None:
        """Starts a killed node, or one that gave up, again: same address, same options; `wait`: as for `join`."""
        self.kill(name)
        self._start(self.nodes[name])
        if wait:
            self.await_up(name)

    def gone(self, name: str) -> bool:
        """Whether the node was killed, or gave up by itself."""
        process = self.nodes[name].process
        return process is None or process.poll() is not None

    def cut(self, name: str) -> None:
        """Pulls the node's cable: nothing comes in or goes out, and nobody is told."""
        self._link(name, "down")

    def mend(self, name: str) -> None:
        """Plugs it in again."""
        self._link(name, "up")

    def inside(self, name: str) -> list[str]:
        """Words to put before a command so that it runs on the node."""
        node = self.nodes[name]
        assert node.process is not None
        if not self.isolated:
            return []
        (first,) = (each for each in processes.every() if each.parent == node.process.pid)
        return ["nsenter", f"--target={first.pid}", "--net", "--pid", "--mount"]

    def _link(self, name: str, state: str) -> None:
        assert self.isolated, "only a node with a network of its own can be cut off"
        _ip("link", "set", f"{self.mark}{list(self.nodes).index(name)}", state)

    def _new(self, name: str, options: Sequence[str], *, wait: bool) -> Node:
        number = len(self.nodes)
        host = f"{self.subnet}.{number + 2}" if self.isolated else f"127.0.0.{number + 2}"
        node = Node(name, host, options, f"{self.mark}-{name}" if self.isolated else "")
        self.nodes[name] = node
        if self.isolated:
            self._wire(node, number)
        self.held.callback(self.kill, name)
        self._start(node)
        if wait:
            self.await_up(name)
        return node

    def _start(self, node: Node) -> None:
        folder = self.folder / node.name
        folder.mkdir(exist_ok=True)
        # Else a head that comes back is refused where nodes that knew it are processes of this machine.
        (folder / "ray_current_cluster").unlink(missing_ok=True)
        words = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--node-ip-address={node.address}"]
        words += [f"--temp-dir={folder}", f"--object-store-memory={STORE_BYTES}", "--disable-usage-stats", "--block"]
        words += [f"--{agent}={port}" for agent, port in zip(AGENTS, _free(node.address, len(AGENTS)), strict=True)]
        words += node.options
        if node.namespace:
            alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
            if not Path(sys.executable).is_relative_to(ROOT):
                alone += ["sh", "-c", f'mount -t tmpfs none "{ROOT}" && exec "$@"', "sh"]
            words = ["ip", "netns", "exec", node.namespace, *alone, *words]
        gone = ("PYTHONPATH", "RAY_ADDRESS")
        environment = {name: value for name, value in os.environ.items() if name not in gone}
        with (folder / "output").open("wb") as output:
            node.process = subprocess.Popen(
                words,
                cwd=folder,
                env=environment | self.environment | self.credentials,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _await(self, node: Node) -> None:
        """Until it is up; where others hold the cores Ray may give up on a start, which is then tried again."""
        output, deadline = self.folder / node.name / "output", time.monotonic() + UP_S
        while "Ray runtime started" not in (said := output.read_text(errors="replace")):
            if self.gone(node.name) and SLOW in said and time.monotonic() < deadline:
                self.kill(node.name)
                self._start(node)
            elif self.gone(node.name) or time.monotonic() > deadline:
                raise RuntimeError(f"node {node.name} did not start: {said[-2000:]}")
            time.sleep(0.1)

    def _bridge(self) -> str:
        """A bridge of its own; returns its network's first three numbers."""
        _ip("link", "add", self.mark, "type", "bridge")
        self.held.callback(_ip, "link", "delete", self.mark)
        while True:
            subnet = f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(256)}"
            if f" {subnet}." not in subprocess.run(["ip", "address"], capture_output=True, text=True).stdout:
                break
        _ip("address", "add", f"{subnet}.1/24", "dev", self.mark)
        _ip("link", "set", self.mark, "up")
        return subnet

    def _wire(self, node: Node, number: int) -> None:
        """A namespace, and a cable from it to the bridge."""
        cable, space = f"{self.mark}{number}", node.namespace
        _ip("netns", "add", space)
        self.held.callback(_ip, "netns", "delete", space)
        _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
        self.held.callback(_ip, "link", "delete", cable)  # it would stay while a socket waits for one who is gone
        _ip("link", "set", cable, "master", self.mark, "up")
        _ip("-n", space, "address", "add", f"{node.address}/24", "dev", "eth0")
        for name in ("eth0", "lo"):
            _ip("-n", space, "link", "set", name, "up")
        _ip("-n", space, "route", "add", "default", "via", self.gateway)


def _asked(
    cpus: int, *, gpus: int = 0, resources: str = "", labels: str = "", autoscaling: Path | None = None
) -> list[str]:
    words = [f"--num-cpus={cpus}", f"--num-gpus={gpus}"]
    words += [f"--autoscaling-config={autoscaling}"] if autoscaling else []
    words += [f"--resources={resources}"] if resources else []
    return words + ([f"--labels={labels}"] if labels else [])


def _free(host: str, count: int) -> list[int]:
    """Ports that nobody listens on; in a namespace of its own that is any."""
    with contextlib.ExitStack() as held:
        taken = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in taken:
            each.bind(("127.0.0.1" if not host.startswith("127.") else host, 0))
        return [each.getsockname()[1] for each in taken]


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def _descendants(pid: int) -> Iterator[processes.Process]:
    every = list(processes.every())
    ours, grew = {pid}, True
    while grew:
        more = {each.pid for each in every if each.parent in ours} - ours
        ours, grew = ours | more, bool(more)
    return (each for each in every if each.pid in ours and each.pid != pid)


def answers(address: str, timeout_s: float = 1.0) -> bool:
    """Whether somebody listens at host:port."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=timeout_s).close()
    except OSError:
        return False
    return True
