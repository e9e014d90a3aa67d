"""Whom a failure counts against: how often each trial was tried after which cause, and which nodes are kept off.

A node is avoided where trials failed that others did not: a defect GPU, a full local disk, a broken driver. It is never
the only one left, and a new driver starts without prejudice.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ablate.failures import KEEPING, POLICY, Cause

IN_A_ROW = 3
"""Failures at a node with no end in between, of two trials at least, after which it is avoided."""
ELSEWHERE = 2
"""Trials that failed at a node and were done at another, after which it is avoided."""
UNKEPT: Mapping[Cause, str] = {
    "disk": "its disk is full or cannot be written",
    "store": "it does not reach the object store, or may not write there",
}
"""Why a node is avoided at once: nothing that is trained there can be kept."""
SUSPECT: tuple[Cause, ...] = ("lost", "among_others", "host_memory", "hung", "device", *KEEPING)
"""Causes that a node may have. A node that is gone altogether needs no avoiding; a method's bug is no node's."""


@dataclass(frozen=True)
class Avoided:
    """A node that gets no more trials."""

    node: str
    host: str
    why: str


class Blame:
    """What failed so far in this driver's time. Pure: it is told, and asked."""

    def __init__(self, retries: int) -> None:
        self.retries = retries
        self.counts: Counter[tuple[str, Cause]] = Counter()
        """Failures that count against a trial, by cause."""
        self.avoided: dict[str, Avoided] = {}
        self._hosts: dict[str, str] = {}
        """Nodes where something began and that are not known to be gone -> their hosts."""
        self._at: dict[str, str] = {}
        """Running trial -> its node."""
        self._failed_at: dict[str, set[str]] = {}
        """Trial that has not ended -> nodes where it failed."""
        self._row: dict[str, list[str]] = {}
        """Node -> trials that failed there since the last one that ended there."""
        self._innocent: dict[str, set[str]] = {}
        """Node -> trials that failed there and were done elsewhere."""

    def began(self, trial: str, node: str, host: str = "") -> None:
        """A worker took the trial up at a node; empty: it is not known where."""
        if node:
            self._at[trial] = node
            self._hosts[node] = host or self._hosts.get(node, "")

    def host(self, node: str) -> str:
        """Where the node is; empty where that is not known."""
        return self._hosts.get(node, "")

    def done(self, trial: str) -> list[Avoided]:
        """The trial is done; returns the nodes that this gives away."""
        node = self._at.pop(trial, "")
        self._row.pop(node, None)
        found = []
        for other in self._failed_at.pop(trial, set()) - {node}:
            self._innocent.setdefault(other, set()).add(trial)
            if node and len(self._innocent[other]) >= ELSEWHERE:
                found += self._avoid(other, f"{ELSEWHERE} trials failed there that were done elsewhere")
        return found

    def failed(self, trial: str, cause: Cause) -> tuple[bool, list[Avoided]]:
        """Whether the trial is tried again after this, and the nodes that get no more trials from now on."""
        node = self._at.pop(trial, "")
        avoided: list[Avoided] = []
        if cause == "node":
            self._forget(node)
        elif cause not in SUSPECT:
            self._row.pop(node, None)
        elif node:
            avoided = self._note(node, trial, cause)
        again = node in self.avoided if cause in KEEPING else self._may_again(trial, cause)
        if not again:
            self._failed_at.pop(trial, None)
        return again, avoided

    def _note(self, node: str, trial: str, cause: Cause) -> list[Avoided]:
        self._failed_at.setdefault(trial, set()).add(node)
        row = self._row.setdefault(node, [])
        row.append(trial)
        if cause in KEEPING:
            return self._avoid(node, UNKEPT[cause])
        if len(row) >= IN_A_ROW and len(set(row)) > 1:
            return self._avoid(node, f"{len(row)} failures in a row there, the last one: {cause.replace('_', ' ')}")
        return []

    def avoid(self, trials: tuple[str, ...]) -> tuple[str, ...]:
        """Nodes where a hand of these trials must not run: the avoided ones, and where one of them failed.

        Nothing is avoided when nothing else would be left.
        """
        own = {node for trial in trials for node in self._failed_at.get(trial, ()) if node in self._hosts}
        for unwanted in (own | self.avoided.keys(), self.avoided.keys()):
            if self._hosts.keys() - unwanted:
                return tuple(sorted(unwanted & self._hosts.keys()))
        return ()

    def _may_again(self, trial: str, cause: Cause) -> bool:
        allowed = POLICY[cause].again
        if allowed == "always":
            return True
        self.counts[trial, cause] += 1
        most = {"retries": self.retries, "never": 0}.get(str(allowed), allowed)
        return self.counts[trial, cause] <= int(most)

    def _avoid(self, node: str, why: str) -> list[Avoided]:
        """Nothing where it is avoided already, or is the last one."""
        if node in self.avoided or not self._hosts.keys() - self.avoided.keys() - {node}:
            return []
        self.avoided[node] = Avoided(node, self._hosts.get(node, ""), why)
        return [self.avoided[node]]

    def _forget(self, node: str) -> None:
        """It is gone; should it come back, it is another."""
        for known in (self._hosts, self._row, self._innocent, self.avoided):
            known.pop(node, None)
