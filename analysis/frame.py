"""The frame: what a sweep measured, as two tables. The one thing that analysis reads.

trials: one row per trial and arm that wants it.  epochs: one row per trial and epoch, one column per metric.
Columns are documented here and nowhere else; `ablate.records` writes them to Parquet, with SCHEMA_VERSION beside.
"""

from dataclasses import dataclass

import pandas as pd

SCHEMA_VERSION = 1


class FrameError(ValueError):
    """A frame that no analysis can be made of. The message says what, where, what is allowed, how to mend."""


TRIAL_COLUMNS: dict[str, str] = {
    "study": "name of the study",
    "scale": "scale it ran at",
    "arm": "arm of the study",
    "block": "block name, dataset/t<split>/s<seed>",
    "dataset": "dataset protocol",
    "split": "trial number of the protocol",
    "seed": "seed of every random stream",
    "trial": "trial id: a hash of all that determines the numbers",
    "method": "catalogue name of the method",
    "config": "all config fields, as JSON with sorted keys",
    "data": "data specification, as JSON with sorted keys",
    "state": "done | failed | pending",
    "reason": "why it failed: diverged | out_of_memory | error | lost | need | hung | device, else empty",
    "error": "last line of the traceback, else empty",
    "epochs": "epochs completed",
    "data_digest": "SHA-256 of the arrays trained and evaluated on",
    "code_digest": "digest of the method's syntax tree and of what it imports from trainables",
    "commit": "git commit the trial ran at, or empty",
    "dirty": "whether the working tree differed from that commit",
    "device": "cpu, or the accelerator's name",
    "threads": "torch's intra-op threads",
    "torch": "torch's version",
    # Volatile: differ between two sweeps of equal results.
    "attempts": "how often it was started",
    "seconds": "training time summed over attempts, seconds",
    "started": "first start, UTC, ISO 8601",
    "ended": "end, UTC, ISO 8601",
    "host": "machine it ended on",
}
EPOCH_KEYS = ("study", "scale", "arm", "block", "dataset", "split", "seed", "trial", "epoch")
VOLATILE = ("attempts", "seconds", "started", "ended", "host", "peak_memory_bytes")
"""Columns that two sweeps of equal results may differ in. `seconds` is in both tables, the memory in epochs."""


@dataclass(frozen=True)
class Frame:
    """trials: TRIAL_COLUMNS.  epochs: EPOCH_KEYS, `seconds`, then one float64 column per metric (NaN: not measured)."""

    trials: pd.DataFrame
    epochs: pd.DataFrame
