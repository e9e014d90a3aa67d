"""What trials left for people to look at: small named arrays, beside the frame and never mixed with it.

A method yields them (`trainables.protocol.Epoch.exhibits`), `ablate.exhibits` keeps them and `analysis.gallery` draws
them. No number of a report comes from here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Exhibit:
    """What one run showed in the last epoch that showed anything."""

    arm: str
    block: str
    epoch: int
    arrays: Arrays


@dataclass(frozen=True)
class Exhibits:
    """All that a sweep shows, its arms in the study's order and its blocks in the plan's."""

    shown: tuple[Exhibit, ...] = ()
    done: int = 0
    """Runs that are done, whether they show anything or not."""
    unreadable: tuple[str, ...] = ()
    """Files that were left out, each with what is wrong with it."""

    def of(self, arm: str, *having: str) -> list[Exhibit]:
        """What the arm's runs show, of those that hold all the arrays named."""
        return [each for each in self.shown if each.arm == arm and all(name in each.arrays for name in having)]
