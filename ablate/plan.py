"""Study x scale -> trials, with ids and an order. Pure: nothing is read, written or imported beyond the study's types.

A trial's id hashes exactly what determines its numbers: method, full config (needed trials by their ids), data
specification, seed, and the version of this schema. No path, device, worker count or study name enters, so a trial
wanted by three studies is one trial.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from search_spaces.study import Block, Scale, Study, config_fields

SCHEMA_VERSION = 1
"""Raised when the meaning of stored results changes; then every id changes."""


@dataclass(frozen=True)
class Trial:
    """One training run or evaluation. `config` is plain; a needed trial stands in it as {"trial": id}."""

    id: str
    method: str
    config: Mapping[str, Any]
    data: Mapping[str, Any]
    seed: int
    needs: Mapping[str, str]
    """Config field -> id of the trial whose final state goes there."""
    label: str = ""
    """For people and logs: arm and block of the first cell that wants it, or 'needed by ...'."""


@dataclass(frozen=True)
class Cell:
    """One arm on one block: a place in the study's table, filled by a trial."""

    arm: str
    block: Block
    trial: str


@dataclass(frozen=True)
class Plan:
    """All cells of a sweep, and the distinct trials that fill them, block-major, needed trials first."""

    study: Study
    scale: Scale
    cells: tuple[Cell, ...]
    trials: tuple[Trial, ...]

    @property
    def sweep(self) -> str:
        """Name of the sweep in the home: study@scale."""
        return f"{self.study.name}@{self.scale.name}"


def plan(study: Study, scale: str, *, arms: Iterable[str] | None = None, blocks: int | None = None) -> Plan:
    """The plan of `study` at `scale`, of the named `arms` only and the first `blocks` blocks only, where given.

    Raises:
        StudyError: unknown arm or scale, with the nearest name.
    """
    size = study.scale(scale)
    wanted = [study.arm(name) for name in arms] if arms is not None else list(study.arms)
    trials: dict[str, Trial] = {}
    cells: list[Cell] = []
    for block in size.blocks[:blocks]:
        data = {"protocol": block.dataset, "split": block.split} | dict(size.data)
        elsewhere = {name: {"split": block.split} | dict(fields) for name, fields in size.needed_data.items()}
        for arm in wanted:
            label = f"{arm.name} {block.name}"
            settings = size.settings_for(arm, block.dataset)
            want = _Wanted(settings, elsewhere, block.seed, label)
            ident = _add(trials, study.method_of(arm), config_fields(arm.config), data, want)
            cells.append(Cell(arm.name, block, ident))
    return Plan(study, size, tuple(cells), tuple(trials.values()))


@dataclass(frozen=True)
class _Wanted:
    """What a cell's trial and those that it needs have in common."""

    settings: Mapping[str, Any]
    elsewhere: Mapping[str, Mapping[str, Any]]
    """Name -> data of needed trials that are trained on other data."""
    seed: int
    label: str


def _add(
    trials: dict[str, Trial], method: str, config: Mapping[str, Any], data: Mapping[str, Any], want: _Wanted
) -> str:
    """Adds the trial and, before it, those it needs; returns its id."""
    full: dict[str, Any] = {}
    needs: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and "needs" in value:
            other = value["needs"]
            own = want.elsewhere[other["data"]] if other.get("data") else data
            before = replace(want, label=f"needed by {want.label}")
            needs[name] = _add(trials, other["method"], other["config"], own, before)
            full[name] = {"trial": needs[name]}
        else:
            full[name] = want.settings.get(name, value)
    ident = trial_id(method, full, data, want.seed)
    trials.setdefault(ident, Trial(ident, method, full, dict(data), want.seed, needs, want.label))
    return ident


def trial_id(method: str, config: Mapping[str, Any], data: Mapping[str, Any], seed: int) -> str:
    """Sixteen hex digits of SHA-256 over the canonical JSON of what determines the numbers."""
    identity = {
        "schema": SCHEMA_VERSION,
        "method": method,
        "config": _canonical(config),
        "data": _canonical(data),
        "seed": seed,
    }
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _canonical(value: Any) -> Any:
    """Tuples and lists alike; 1.0 and 1 stay apart only where the field's type does (configs are typed)."""
    if isinstance(value, Mapping):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return value
