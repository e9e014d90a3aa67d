"""Whether a contrast's blocks are overlapping resamples of one data set, and how large their test part is.

The numbered splits of a protocol draw on the same images: other known classes, or (the digits) another half for
training. Their differences are then correlated, and a t interval over them is too narrow for a statement about new data
of the kind. The Nadeau-Bengio interval beside it allows for that; see `analysis.effects.nadeau_bengio`.
"""

import json
import re
from collections.abc import Mapping, Sequence

from analysis.frame import Frame

TEST_TO_TRAIN: Mapping[str, float] = {
    "digits": 1.0,  # halves, drawn anew for each split
    "mnist": 10_000 / 60_000,
    "svhn": 26_032 / 73_257,
    "cifar10": 10_000 / 50_000,
    "cifar100": 10_000 / 50_000,
    "emnist": 18_800 / 112_800,  # the balanced part
    "tinyimagenet": 10_000 / 100_000,
}
"""Images for testing over those for training, by the data set that a protocol's name begins with."""


def overlap(frame: Frame, blocks: Sequence[str]) -> float | None:
    """The test-to-train ratio where the blocks are two or more splits of one data set, else None.

    None also where the ratio is not known: a data set that is not listed and has no limits on both parts.
    """
    rows = frame.trials[frame.trials["block"].isin(blocks)]
    if rows["dataset"].nunique() != 1 or rows["split"].nunique() < 2:
        return None
    try:
        sizes = json.loads(str(rows["data"].iloc[0]))
    except json.JSONDecodeError:
        sizes = {}
    train, test = sizes.get("per_class"), sizes.get("test_per_class")
    if train and test:
        return float(test) / float(train)
    if train or test:
        return None
    return TEST_TO_TRAIN.get(re.split(r"[-+]", str(rows["dataset"].iloc[0]))[0])
