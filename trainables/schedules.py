"""Learning rates as pure functions of the epoch. Epochs count from 0 here: the rate of the epoch about to be trained.

Source: SupContrast's adjust_learning_rate (HobbitLong/SupContrast@66a8fe5, util.py). Deviations: none known.
"""

import math
from collections.abc import Sequence


def cosine(epoch: int, epochs: int, peak: float, floor: float = 0.0) -> float:
    """Returns floor + (peak - floor) (1 + cos(pi epoch / epochs)) / 2: from `peak` to just above `floor`."""
    return floor + (peak - floor) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def steps(epoch: int, peak: float, milestones: Sequence[int], factor: float = 0.1) -> float:
    """`peak` times `factor` for every milestone that lies strictly before `epoch`."""
    return peak * factor ** sum(epoch > milestone for milestone in milestones)
