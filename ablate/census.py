"""The nodes of the cluster that this process has joined: who is there, who can take part, how many trials fit.

Asks Ray; what follows from the answers is in `nodes`.
"""

import time
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import ray

from ablate import nodes
from ablate.executors import Shut, Slots
from ablate.nodes import Node, Question, Resources, Seen

LOOK_S = 1.0
"""Between looks at the cluster's nodes."""
PROBE_S, HASTE_S = 120.0, 15.0
"""A node answers within seconds of its first worker's start; after HASTE_S a sweep does not wait for who has not, and
takes it when it does. `doctor`, which asks once, waits.
"""
FORGOTTEN_S = 15.0
MOST = 32
"""Places that a cluster is asked for at a time; it starts no more nodes than it may."""


class Census:
    """The nodes of the cluster as they come and go, and how many trials they carry.

    On a cluster of others' each node is asked first whether it sees the home; until it did it counts for nothing.
    """

    def __init__(self, resources: Resources, question: Question | None, haste_s: float = HASTE_S) -> None:
        self.resources, self.question = resources, question
        self.there: tuple[Node, ...] = ()
        self.seen: dict[str, Seen] = {}
        self.slots = 0
        self.told: tuple[str, ...] = ()
        self.news: list[Slots | Shut] = []
        self.dead: set[str] = set()
        """Ids of nodes that are gone although Ray still takes them for living: it finds out half a minute later."""
        self._asked: dict[Any, Node] = {}
        self._look()
        begun = time.monotonic()
        while self._asked and (waited_s := time.monotonic() - begun) < PROBE_S:
            if self.usable() and waited_s > haste_s:  # one that is cut off takes a minute to be found out
                break
            self._hear(timeout_s=0.5)
        self.news.clear()
        self._count()
        if not (self.slots or self.news):
            self.news.append(Slots(0, (), self.too_little()))

    def watch(self) -> None:
        """Looks again and again, until the cluster has had no use for this process for some time."""
        me = ray.get_runtime_context().get_node_id()
        idle_since = time.monotonic()
        while True:
            time.sleep(LOOK_S)
            self._look()
            self._hear(timeout_s=0.0)
            self._count()
            if (self.slots or self.resources.elastic) and any(node.id == me for node in self.there):
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > FORGOTTEN_S:
                return

    def room(self, running: Collection[float | None]) -> bool:
        """Whether one more hand finds a place beside those with so many GPUs each (None: as every trial)."""
        if all(gpus is None for gpus in running):
            return len(running) < self.slots
        return nodes.room(self.usable(), self.resources, running)

    def too_little(self) -> str:
        """Why no node carries a trial, and how to mend it."""
        usable = self.usable()
        if self.there and not usable:
            lacks = [f"{node.host}: {self.seen[node.id].lack}" for node in self.there if node.id in self.seen]
            return "no node can take part. " + ("; ".join(lacks) or f"None answered within {PROBE_S:g} s.")
        return nodes.too_little(usable, self.resources)

    def usable(self) -> list[Node]:
        """Those that may be given trials."""
        if self.question is None:
            return list(self.there)
        found = [node for node in self.there if node.id in self.seen and not self.seen[node.id].lack]
        return [node for node in found if node.id not in self.dead]

    def shut(self, avoid: tuple[str, ...]) -> list[str]:
        """Ids of living nodes that a hand must not go to; those of `avoid` only while another can take it.

        A node that has not answered yet is none of them: by the time there is room it may be the only one.
        """
        living = {node.id for node in self.there}
        lacking = {ident for ident, seen in self.seen.items() if seen.lack} | self.dead
        others = [node for node in self.usable() if node.id not in avoid]
        able = any(node.has(self.resources.labels) and node.fits(self.resources.bundle()) for node in others)
        return sorted(living & (lacking | (set(avoid) if able else set())))

    def gone(self, place: str, preempted: bool) -> tuple[str, bool]:
        """Id of the node with that id or address, and whether it went."""
        for node in self.there:
            if place in (node.id, node.address):
                # One that was cut off may answer again by now, and is out of the cluster all the same.
                living = {row["NodeID"] for row in _rows() if row["Alive"]}
                gone = preempted or node.id not in living or not nodes.reachable(node)
                self.dead |= {node.id} if gone else set()
                return node.id, gone
        return place, preempted or bool(place)

    def _look(self) -> None:
        self.there = tuple(nodes.from_ray(row) for row in _rows() if row["Alive"])
        if self.question is None:
            return
        asked = {node.id for node in self._asked.values()}
        for node in self.there:
            if node.id not in self.seen and node.id not in asked:
                self._asked[_ask(node, self.question)] = node

    def _hear(self, timeout_s: float) -> None:
        if not self._asked:
            return
        ready, _ = ray.wait(list(self._asked), timeout=timeout_s)
        for answer in ready:
            node = self._asked.pop(answer)
            seen = self.seen[node.id] = _checked(_answer(answer, node), self.question)
            if seen.lack:
                self.news.append(Shut(node.id, node.host, seen.lack))

    def _count(self) -> None:
        usable = self.usable()
        self.slots = nodes.slots(usable, self.resources)
        now = tuple(sorted(node.id for node in usable))
        if now != self.told:
            self.told = now
            why = "" if self.slots else self.too_little()
            self.news.append(Slots(self.slots, tuple(sorted(node.host for node in usable)), why))


class Demand:
    """Trials that wait, as an elastic cluster's autoscaler sees them: placement groups that nobody uses.

    They are the driver's, and go with it however it ends; a standing order for nodes would outlive it.
    """

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.groups: list[Any] = []
        self.looked = -LOOK_S

    def want(self, count: int) -> None:
        """So many places more than there are. One that has come about is given up for the trial that waits for it."""
        if not self.resources.elastic or time.monotonic() - self.looked < LOOK_S:
            return
        from ray.util import placement_group, remove_placement_group

        self.looked, count = time.monotonic(), min(count, MOST)
        there = [group for group in self.groups if group.wait(timeout_seconds=0.01)]
        self.groups = [group for group in self.groups if group not in there]
        for group in [*there, *self.groups[count:]]:
            remove_placement_group(group)
        self.groups = self.groups[:count]
        labels = [nodes.selector(self.resources.labels, ())] if self.resources.labels else None
        while len(self.groups) < count:
            self.groups.append(placement_group([self.resources.bundle()], bundle_label_selector=labels))


def _rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return rows


def _ask(node: Node, question: Question) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node.id, soft=False)
    asked = ray.remote(nodes.look).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
    return asked.remote(node.id, question)


def _answer(answer: Any, node: Node) -> Seen:
    try:
        found: Seen = ray.get(answer)
    except Exception as error:  # whatever goes wrong there
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Seen(node.id, node.host, why=f"cannot run our code: {lines[-1][:300]}")
    return found


def _checked(seen: Seen, question: Question | None) -> Seen:
    """With what only this side can tell: whether the node's file is in our folder."""
    if question is None or question.folder is None or seen.lack or nodes.ours(question.folder, seen.node):
        return seen
    return replace(seen, home="the home there is another folder of the same name")


def survey(question: Question) -> list[Seen]:
    """All nodes' answers, with their clocks compared over a worker that is up already."""
    census = Census(Resources(cpus=0.0, gpus=0.0), question, haste_s=PROBE_S)
    found = [census.seen.get(node.id) or Seen(node.id, node.host, why="did not answer") for node in census.there]
    return [each if each.why else replace(each, clock=_clock(each.node)) for each in found]


def _clock(node: str) -> float | None:
    """How far its clock is ahead of ours: of several askings the quickest counts."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node, soft=False)
    asked = ray.remote(nodes.now).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
    found = []
    for _ in range(5):
        before = time.time()
        try:
            theirs = ray.get(asked.remote(), timeout=PROBE_S)
        except ray.exceptions.RayError:
            return None
        after = time.time()
        found.append((after - before, theirs - (before + after) / 2))
    return float(min(found)[1])
