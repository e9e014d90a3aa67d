"""Learning rates as pure functions of the epoch or step, both counted from 0: the rate of what is about to be trained.

Sources: SupContrast's adjust_learning_rate (HobbitLong/SupContrast@66a8fe5, util.py) for `cosine` and `steps`; torch's
OneCycleLR and MultiStepLR for `one_cycle` and `multi_step`; snu-mllab/Co-Mixup for `imagenet_fast`.

Deviations:
1. `one_cycle` of at most 1 / rise steps has no rise and starts at the peak; torch starts lower, or divides by zero.
"""

import math
from collections.abc import Sequence
from itertools import pairwise


def cosine(epoch: int, epochs: int, peak: float, floor: float = 0.0) -> float:
    """Returns floor + (peak - floor) (1 + cos(pi epoch / epochs)) / 2: from `peak` to just above `floor`."""
    return floor + (peak - floor) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def steps(epoch: int, peak: float, milestones: Sequence[int], factor: float = 0.1) -> float:
    """`peak` times `factor` for every milestone that lies strictly before `epoch`."""
    return peak * factor ** sum(epoch > milestone for milestone in milestones)


def multi_step(epoch: int, peak: float, milestones: Sequence[int], factor: float = 0.1) -> float:
    """`peak` times `factor` for every milestone reached: from the epoch of the milestone on, as torch counts."""
    return peak * factor ** sum(epoch >= milestone for milestone in milestones)


def one_cycle(
    step: int, total: int, peak: float, *, rise: float = 0.3, start_divisor: float = 100.0, end_divisor: float = 1e4
) -> float:
    """One cycle of cosine ramps: up from peak / start_divisor, down to peak / start_divisor / end_divisor.

    Args:
        step: the one about to be trained, from 0 to total - 1.
        total: steps of the whole run.
        peak: largest learning rate.
        rise: share of the steps on which it rises.
        start_divisor: peak over the first rate.
        end_divisor: first rate over the last.
    """
    start = peak / start_divisor
    return _cycle(step, total, rise, start, peak, start / end_divisor)


def one_cycle_momentum(step: int, total: int, *, rise: float = 0.3, low: float = 0.85, high: float = 0.95) -> float:
    """The momentum that belongs to `one_cycle`: `low` where the learning rate peaks, `high` at both ends."""
    return _cycle(step, total, rise, high, low, high)


def _cycle(step: int, total: int, rise: float, start: float, middle: float, end: float) -> float:
    turn, last = rise * total - 1, total - 1
    if turn > 0 and step <= turn:
        return cosine_between(start, middle, step / turn)
    return cosine_between(middle, end, (step - max(turn, 0)) / (last - max(turn, 0)) if last > max(turn, 0) else 1.0)


def cosine_between(first: float, second: float, share: float) -> float:
    """From `first` at share 0 to `second` at share 1, along half a cosine."""
    return second + (first - second) * (1 + math.cos(math.pi * share)) / 2


IMAGENET_FAST: Sequence[Sequence[tuple[float, float]]] = (
    ((0, 0.5), (8, 1.0), (15, 0.125)),
    ((15, 0.2), (40, 0.02)),
    ((40, 0.02), (65, 0.002), (90, 0.0002), (100, 0.00002)),
)
"""Knots (epoch, learning rate) of three phases; within each, straight lines."""


def imagenet_fast(epoch: float) -> float:
    """Co-Mixup's fast schedule over 100 epochs. `epoch` counts parts of epochs too: the rate changes at every step."""
    phase = next((knots for knots in IMAGENET_FAST if epoch < knots[-1][0]), IMAGENET_FAST[-1])
    for (left, before), (right, after) in pairwise(phase):
        if epoch <= right:
            return before + (after - before) * (epoch - left) / (right - left)
    return phase[-1][1]
