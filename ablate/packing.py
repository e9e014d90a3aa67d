"""How many trials share a GPU (`--pack`): measured on the first of each kind, which has a GPU to itself until then.

Pure: it is told where trials run and what they took, and says what share of a GPU the next ones get. Ray only counts
shares, it confines nobody: a trial that runs out of memory in company is tried again alone, and one fewer of its kind
share from then on. Where GPUs differ, what one of them taught holds for all.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ablate.log import Record
from ablate.plan import Trial

MARGIN = 1.25
"""Over the measured peak: later epochs evaluate more, and allocators cut their memory differently."""
USABLE = 0.95
"""Of a GPU's memory."""
MOST = 8
"""Sharing a GPU: beyond it they wait for its cores rather than for its memory."""
GRAIN = 1e4
"""Ray counts GPUs in steps of a ten-thousandth."""


@dataclass(frozen=True)
class Footprint:
    """What one trial took of a GPU that it had to itself, what the process needs beside its tensors included."""

    peak_bytes: int
    total_bytes: int

    @property
    def share(self) -> int:
        """So many such trials go on one such GPU."""
        fits = int(USABLE * self.total_bytes / (MARGIN * max(self.peak_bytes, 1)))
        return max(1, min(MOST, fits))


@dataclass(frozen=True)
class _Where:
    """A running trial's node and GPUs."""

    host: str
    gpus: frozenset[str]


def kind(trial: Trial, trials: Mapping[str, Trial]) -> str:
    """What shapes the memory of a trial: method, data, and all of its config but seeds and real numbers.

    Learning rates and weights change no array's size; a word, a switch or a count may. A needed trial is as its kind.
    """
    config = {name: _shape(value, trials) for name, value in trial.config.items() if type(value) is not float}
    data = {name: value for name, value in trial.data.items() if name != "split"}
    return json.dumps([trial.method, config, data], sort_keys=True, default=list)


def _shape(value: Any, trials: Mapping[str, Trial]) -> Any:
    if isinstance(value, Mapping) and set(value) == {"trial"} and value["trial"] in trials:
        return kind(trials[value["trial"]], trials)
    return value


class Packing:
    """Who shares a GPU with whom. `on`: else nobody does by our doing, and nothing here has an effect."""

    def __init__(self, *, on: bool) -> None:
        self.on = on
        self._trials: dict[str, Trial] = {}
        self._kinds: dict[str, str] = {}
        self._shares: dict[str, int] = {}
        """Kind -> how many share a GPU; none before one was measured."""
        self._alone: set[str] = set()
        """Trials that ran out of memory in company."""
        self._given: dict[str, float] = {}
        self._running: dict[str, _Where] = {}
        self._company: dict[str, set[str]] = {}
        """Trial that has not ended -> all that shared its GPU at some time."""
        self._places: dict[str, str] = {}

    def know(self, trials: Mapping[str, Trial]) -> None:
        """Of these trials, and of those known before."""
        self._trials |= trials

    def give(self, trials: tuple[str, ...]) -> tuple[float | None, bool]:
        """The share of a GPU that a hand of these trials gets, and whether it is to show what one of their kinds takes.

        As much as the one of them that needs most; None: as every trial.
        """
        if not self.on or not trials:
            return None, False
        share = min(1 if trial in self._alone else self._shares.get(self._kind(trial), 1) for trial in trials)
        gpus = math.floor(GRAIN / share) / GRAIN
        self._given |= dict.fromkeys(trials, gpus)
        return gpus, any(self._kind(trial) not in self._shares for trial in trials)

    def measured(self, trial: str, footprint: Footprint) -> int:
        """Notes what its kind takes; returns how many share a GPU from now on."""
        return self._shares.setdefault(self._kind(trial), footprint.share)

    def began(self, trial: str, host: str, gpus: tuple[str, ...]) -> None:
        """It runs there."""
        if not self.on:
            return
        here = _Where(host, frozenset(gpus))
        for other, there in self._running.items():
            if other != trial and there.host == host and there.gpus & here.gpus:
                self._company.setdefault(trial, set()).add(other)
                self._company.setdefault(other, set()).add(trial)
        self._running[trial] = here
        self._places[trial] = f"{host}:{','.join(sorted(gpus))}"

    def left(self, trial: str) -> None:
        """It runs no more."""
        self._running.pop(trial, None)

    def crowded(self, trial: str) -> bool:
        """Whether it had less than a GPU when its memory ran out; if so it gets one of its own from now on."""
        if self._given.get(trial, 1.0) >= 1.0:
            return False
        self._alone.add(trial)
        now = self._shares.get(self._kind(trial), 1)
        self._shares[self._kind(trial)] = max(1, now - 1)
        return True

    def signed(self, record: Record) -> Record:
        """The record with the GPU it ran on last, who shared it at some time, and whether that went well."""
        if not self.on:
            return record
        trial = record.trial
        company = self._company.pop(trial, set())
        known = {"shared_gpu": self._places.pop(trial, ""), "shared_with": " ".join(sorted(company))}
        notes = record.notes
        if trial in self._alone:
            notes = (*notes, "ran out of memory on a GPU that it shared; then had one to itself")
        return replace(record, provenance={**record.provenance, **known}, notes=notes)

    def _kind(self, trial: str) -> str:
        if trial not in self._kinds:
            self._kinds[trial] = kind(self._trials[trial], self._trials)
        return self._kinds[trial]
