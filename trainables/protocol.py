"""The whole contract of a method: a generator of epochs over immutable data.

A method is one file with a frozen `Config` and a generator::

    train(config, data, *, seed, device, resume=None) -> Iterator[Epoch]

The caller pulls. The method knows nothing of sweeps, loggers or checkpoints, and reads and writes no global random
generator: every draw comes from a named stream of `trainables.seeding`. A run resumed from the state of epoch k yields
bit for bit what the uninterrupted run yields, on one device type and thread count.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

State = dict[str, Any]
"""Tensors, numbers, strings, bytes, and lists, tuples and dicts of them: what loads without executing code."""


@dataclass(frozen=True)
class Epoch:
    """What a method yields after each epoch.

    index: epochs completed so far, from 1.
    metrics: one number each, named as in `trainables.metrics.DIRECTION`; fractions lie in [0, 1].
    state: captures all that a continued run needs; called at most once, before the generator is advanced.
    exhibits: small named arrays of numbers for people to look at, drawn in the report; never read for a number. Called
        at most once, before the generator is advanced; None where there is nothing to show.
    """

    index: int
    metrics: Mapping[str, float]
    state: Callable[[], State]
    exhibits: Callable[[], Mapping[str, "np.ndarray"]] | None = None


@dataclass(frozen=True)
class Needed:
    """A config field's value that asks for the final state of another trial on the same seed.

    The plan runs that trial first, once for all that want it, and `train` receives its final state as
    `needs[<field name>]`.

    data: what that trial is trained on, where it is not the data of the trial that asks: a name that the study's scale
        explains (`Scale.needed_data`), so that each size of a study has its own.
    """

    method: str
    config: Any
    data: str = ""


Train = Callable[..., Iterator[Epoch]]
"""train(config, data, *, seed, device, resume=None, **needs): `needs` only where the config has a `Needed` field."""


@dataclass(frozen=True)
class Method:
    """One entry of the catalogue: the generator and the type of its config."""

    train: Train
    config: type
    check: Callable[[Any, Any, Mapping[str, Any]], None] | None = None
    """check(config, data specification, {field: that of the needed trial}) refuses, before any trial runs, what can be
    known to fail: it raises ConfigError. None: nothing can, beyond what the config checks itself."""


def rebuildable(state: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What rebuilds the network of another trial's final state: its description and its weights.

    Raises:
        ValueError: the state has not both.
    """
    missing = [key for key in ("network", "weights") if key not in state]
    if missing:
        raise ValueError(
            f"the needed trial's final state has no {' and no '.join(map(repr, missing))}, so no network can be "
            f"rebuilt. It has: {', '.join(sorted(state))}. A method that others score must store both."
        )
    return state["network"], state["weights"]


class Diverged(RuntimeError):
    """The loss or a weight is no longer finite. The trial has failed, and trying again would not help."""
