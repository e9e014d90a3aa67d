"""Which epoch counts: one number a trial, by the rule that the study declared before the run.

Declared for all rules: a trial whose metric is not a finite number at its last epoch has no outcome. A run that ends
without a number is a failure, even if it looked good before.
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from search_spaces.study import Outcome
from trainables.config import nearest

if TYPE_CHECKING:
    import pandas as pd

    from analysis.frame import Frame

LAST_EPOCHS = 10
"""How many epochs `median_last_10` looks at, or all of them when a run has fewer."""


def select(curve: npt.ArrayLike, rule: str, higher_is_better: bool = True) -> float:
    """The outcome of one trial.

    Args:
        curve: (epochs,) the metric in epoch order; NaN where it was not measured.
        rule: 'last', 'best_oracle' (the best epoch by this very metric: it has seen the test set, and is labelled so)
            or 'median_last_10' (the median over the measured ones of the last ten epochs).
        higher_is_better: direction of the metric, used by 'best_oracle' only.

    Returns:
        The outcome, or NaN if the metric at the last epoch is not finite.

    Raises:
        ValueError: unknown rule.
    """
    values = np.asarray(curve, dtype=float)
    if rule not in RULES:
        raise ValueError(f"epoch selection {rule!r} is unknown; allowed: {', '.join(RULES)}.")
    if values.size == 0 or not np.isfinite(values[-1]):
        return float("nan")
    if rule == "last":
        return float(values[-1])
    if rule == "median_last_10":
        tail = values[-LAST_EPOCHS:]
        return float(np.median(tail[np.isfinite(tail)]))
    measured = values[np.isfinite(values)]
    return float(measured.max() if higher_is_better else measured.min())


RULES = ("last", "best_oracle", "median_last_10")


def outcomes(frame: "Frame", outcome: Outcome) -> "pd.Series":
    """Every recorded (arm, block) with its outcome; NaN where the trial has none.

    Args:
        frame: of one study at one scale.
        outcome: the metric and its rule.

    Returns:
        float64 series indexed by (arm, block); empty where no trial is done yet.

    Raises:
        FrameError: trials are done, but the frame has no such metric.
    """
    import pandas as pd

    from analysis.frame import FrameError

    if outcome.metric not in frame.epochs.columns and not (frame.trials["state"] == "done").any():
        return pd.Series(dtype=float, index=pd.MultiIndex.from_arrays([[], []], names=["arm", "block"]))
    if outcome.metric not in frame.epochs.columns:
        metrics = [str(name) for name in frame.epochs.columns]
        raise FrameError(
            f"the frame has no metric {outcome.metric!r}.{nearest(outcome.metric, metrics)} Its columns: "
            f"{', '.join(metrics)}. Name one of these as the study's outcome, and `run` it: nothing is trained twice."
        )
    ordered = frame.epochs.sort_values("epoch", kind="stable")
    found = {
        key: select(curve.to_numpy(dtype=float), outcome.select, outcome.higher_is_better)
        for key, curve in ordered.groupby(["arm", "block"], sort=False)[outcome.metric]
    }
    index = pd.MultiIndex.from_tuples(list(found), names=["arm", "block"])
    return pd.Series(list(found.values()), index=index, dtype=float)
