"""Sets of images beside a data set's own: auxiliary ones to train against, out-of-distribution ones to be judged on.

Their names say what they are for: 'auxiliary...' is trained on, 'near_...' and 'far_...' are evaluated and averaged
apart. No class and no image may be in two roles; both are checked, the classes when a protocol is declared, the images
when its data are prepared: a few that are evaluated too are left out of the auxiliary set, more are refused.

Which classes overlap with CIFAR-10's was read off WordNet names, once, generously: all cats, dogs, birds and frogs,
cars and vans, boats, and the gazelle beside the deer.

Source: GReg (arXiv 2404.12368), section 4, and o4lc/Greg-OOD for its six test sets.

Deviations:
1. Of Places365 those images count that lie in its folder. The code names a part of 10,000, and reads a folder that is
   named like the whole test set.
"""

import hashlib
import itertools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from trainables import splits
from trainables.imageformats import DataError

log = logging.getLogger(__name__)

ROLES = ("auxiliary", "near", "far")
"""How the names of sets begin."""


@dataclass(frozen=True, kw_only=True)
class Outside:
    """One such set: classes of a data set."""

    source: str
    """Key of `sources.SOURCES`."""
    classes: splits.Table | splits.Names | None = None
    """In each split of the protocol, or in the one there is; None: all."""
    besides: splits.Table | None = None
    """All classes but these, in each split; instead of `classes`."""
    part: Literal["train", "test"] = "test"
    """Of a data set that has both; one without a test part gives all its images."""

    def of(self, split: int) -> splits.Classes | None:
        """Its classes in one split."""
        return None if self.classes is None else self.classes[min(split, len(self.classes) - 1)]

    def left_out(self, split: int) -> splits.Classes:
        """What `of` leaves out of all classes, where it is None."""
        return () if self.besides is None else self.besides[min(split, len(self.besides) - 1)]


def role(name: str) -> str:
    """'auxiliary', 'near' or 'far'; empty for any other set."""
    return next((each for each in ROLES if name == each or name.startswith(f"{each}_")), "")


def check_classes(own: str, known: splits.Table | splits.Names | None, sets: Mapping[str, Outside]) -> None:
    """Raises DataError where a set's name has no role, or a class would play two of them in one split.

    Args:
        own: the data set that is trained on.
        known: its known classes in each split; None: all.
        sets: name -> set.
    """
    everything = {"the known classes": Outside(source=own, classes=known)} | dict(sets)
    length = max(len(each.classes) if each.classes else 1 for each in everything.values())
    for name in sets:
        if not role(name):
            raise DataError(f"the set {name!r} has no role: its name must begin with {', '.join(ROLES)}.")
    for (one, first), (other, second) in itertools.combinations(everything.items(), 2):
        if first.source != second.source or (role(one) == role(other) == "auxiliary"):
            continue
        for split in range(length):
            here, there = first.of(split), second.of(split)
            shared = set(here or there or ()) & set(there or here or ())
            shared -= {*first.left_out(split), *second.left_out(split)}
            if shared or (here is None and there is None):
                which = ", ".join(map(str, sorted(shared, key=str)[:5])) or "all"
                raise DataError(
                    f"the classes of {one} and {other} overlap: {which} of {first.source!r}, split {split}. A class "
                    "may have one role."
                )


MOST_SHARED = 0.01
"""Share of an auxiliary set that may be left out; where more is evaluated too, it is the wrong set."""


def shared_images(pixels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows of each auxiliary set that are, pixel by pixel, also in a set that is evaluated: to be left out.

    TinyImageNet, for one, has an image twice, among its training and its validation images.

    Args:
        pixels: every set of a protocol, (N, H, W, C) uint8.

    Raises:
        DataError: an auxiliary image is also a known one; or more than `MOST_SHARED` of a set is evaluated.
    """
    auxiliary = [name for name in pixels if role(name) == "auxiliary"]
    others = {name: set(_fingerprints(pixels[name])) for name in pixels if name not in auxiliary} if auxiliary else {}
    found: dict[str, np.ndarray] = {}
    for name in auxiliary:
        mine = _fingerprints(pixels[name])
        rows: set[int] = set()
        for other, theirs in others.items():
            here = {row for row, fingerprint in enumerate(mine) if fingerprint in theirs}
            if here and (not role(other) or len(here) > MOST_SHARED * len(mine)):
                raise DataError(
                    f"{len(here)} of the {len(mine)} images of {name!r} are also in {other!r}. An auxiliary image may "
                    "be neither known nor evaluated: give other auxiliary images, or remove these."
                )
            rows |= here
        if rows:
            log.warning("%d of the %d images of %r are evaluated, too: left out.", len(rows), len(mine), name)
            found[name] = np.array(sorted(rows))
    return found


def _fingerprints(pixels: np.ndarray) -> list[bytes]:
    return [hashlib.blake2b(image.tobytes(), digest_size=12).digest() for image in pixels]
