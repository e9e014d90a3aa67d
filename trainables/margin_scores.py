"""What a network trained by `margins` says about known and unknown images, measured from stored outputs.

Paper: the thesis cited in `trainables.margins`, section 5.2 and appendix A (logits thresholded in place of softmax).
Repository: TwoDigitsOneNumber/openset-imagenet-comparison@e7faf79.

As a method it trains nothing: the trial that it needs has stored logits and norms of all evaluated images, so any score
can be thresholded afterwards. One epoch, no randomness.

Deviations:
1. `score="norm"`, ||phi|| max p, is ours, and so is `"log_softmax"`: log p in double precision, in which no score is
   saturated, so that the thresholds that float32 cannot tell apart can be.
2. Rates the thesis leaves blank are given at FPR 0 (`oscr.ccr_at(..., completed=True)`), with the floor beside them.

Expected: with score="softmax", exactly what the needed trial reported itself.

Shapes: N images, C classes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from trainables import judged, margin_exhibits, metrics, oscr
from trainables.config import ConfigError, check_types
from trainables.data_protocols import NEGATIVE, UNKNOWN
from trainables.datasets import Data
from trainables.protocol import Epoch, Needed, State

Score = Literal["softmax", "log_softmax", "logit", "norm"]
Outputs = Mapping[str, Mapping[str, Tensor]]
"""Evaluated set -> 'logits' (N, C), 'norms' (N,), 'angles' (N, C), float32, 'labels' (N,), and 'features' (N, 2) of
networks with K = 2."""

RATES = {"1e-4": 1e-4, "1e-3": 1e-3, "1e-2": 1e-2, "1e-1": 1e-1, "1": 1.0}
"""Tolerated false positive rates, by their names in metrics. 1 is the thesis's 'accuracy': the largest FPR below 1."""
SETS = ("test", "negative", "unknown")
"""The sets that are evaluated, where a protocol has them."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which score of which network is thresholded. [T] printed in the thesis."""

    network: Needed
    """The trial that trains the network; its final state holds 'outputs'."""
    score: Score = "softmax"
    """max p [T]; max log p in double precision; max z [T, appendix A]; ||phi|| max p."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.network.method in judged.WITHOUT_NETWORK | judged.ENCODERS | judged.CLASSIFIERS:
            raise ConfigError(
                f"network needs a trial of {self.network.method!r}, which stores no outputs of the evaluated images. "
                "Name 'margins', which does."
            )


def train(
    config: Config, data: Data, *, seed: int, device: str, resume: State | None = None, network: State
) -> Iterator[Epoch]:
    """Measures the outputs of another trial; yields one epoch.

    Args:
        config: the score.
        data: not used: the needed trial evaluated the same.
        seed: not used: nothing here is random.
        device: not used: NumPy measures.
        resume: a state of this method; it was finished then, so nothing is yielded.
        network: final state of the needed trial.

    Raises:
        ValueError: a state without outputs.
    """
    del data, seed, device
    if resume is not None:
        return
    if "outputs" not in network:
        raise ValueError(
            f"the needed trial's final state has no 'outputs', so there is nothing to measure. It has: "
            f"{', '.join(sorted(network))}. The method 'margins' stores them."
        )
    outputs = network["outputs"]
    yield Epoch(1, measure(outputs, config.score), lambda: {"epoch": 1}, lambda: exhibits(outputs, config.score))


def scores(outputs: Mapping[str, Tensor], score: Score) -> tuple[Tensor, Tensor]:
    """The thresholded scores and the softmax probabilities, (N, C) each, in float32 as in the thesis (but log p)."""
    p_NC = torch.softmax(outputs["logits"].float(), dim=1)
    if score == "logit":
        return outputs["logits"].float(), p_NC
    if score == "log_softmax":
        return log_probabilities(outputs["logits"].double()), p_NC
    return (p_NC if score == "softmax" else outputs["norms"].float()[:, None] * p_NC), p_NC


def log_probabilities(z_NC: Tensor) -> Tensor:
    """Log p without cancellation: where p is 1 but for e, the result is -e, however small e is."""
    largest_N1, place_N1 = z_NC.max(dim=1, keepdim=True)
    rest_NC = (z_NC - largest_N1).exp().scatter(1, place_N1, 0.0)
    return z_NC - largest_N1 - torch.log1p(rest_NC.sum(dim=1, keepdim=True))


def measure(outputs: Outputs, score: Score) -> dict[str, float]:
    """All metrics of a network's outputs; those of groups that a protocol lacks are left out.

    Rates on unknowns are 'ccr_<fpr>', on negatives 'ccr_negative_<fpr>'.
    """
    present = {name: outputs[name] for name in SETS if name in outputs}
    score_NC, p_NC, labels_N = _joined(present, score)
    known_N = labels_N >= 0
    found = {"accuracy": oscr.accuracy(score_NC, labels_N), "saturated": oscr.saturated(p_NC)}
    largest_N = score_NC.max(axis=1)
    for group, label in (("unknown", UNKNOWN), ("negative", NEGATIVE)):
        if group not in present:
            continue
        suffix = "" if group == "unknown" else "_negative"
        curve = oscr.curve(score_NC, labels_N, "unknown" if group == "unknown" else "negative")
        found |= {f"ccr{suffix}_{name}": oscr.ccr_at(curve, fpr, completed=True) for name, fpr in RATES.items()}
        found[f"fpr_floor{suffix}"] = oscr.fpr_floor(curve)
        found[f"auroc{suffix}"] = metrics.auroc(largest_N[known_N], largest_N[labels_N == label])
    return found | _confidence(p_NC, labels_N) | _geometry(present)


def exhibits(outputs: Outputs, score: Score) -> dict[str, np.ndarray]:
    """What a network's outputs look like: OSCR curves of the score and histograms of angles."""
    present = {name: outputs[name] for name in SETS if name in outputs}
    score_NC, _, labels_N = _joined(present, score)
    angle_NC = np.concatenate([sample["angles"].numpy() for sample in present.values()])
    return margin_exhibits.curves_and_angles(score_NC, angle_NC, labels_N)


def _joined(present: Outputs, score: Score) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores and probabilities (N, C) and labels of all sets, one beneath the other."""
    labels_N = np.concatenate([sample["labels"].numpy() for sample in present.values()])
    pairs = [scores(sample, score) for sample in present.values()]
    return np.concatenate([pair[0].numpy() for pair in pairs]), np.concatenate([p.numpy() for _, p in pairs]), labels_N


def _confidence(p_NC: np.ndarray, labels_N: np.ndarray) -> dict[str, float]:
    rows = labels_N != UNKNOWN
    known, _, negative, count = oscr.confidence(p_NC[rows], labels_N[rows])
    return {"confidence_known": known} | ({"confidence_negative": negative} if count else {})


def _geometry(outputs: Outputs) -> dict[str, float]:
    """Means and spreads of angles and norms: of known images to their own centre, of others to the nearest one."""
    found: dict[str, float] = {}
    for name, sample in outputs.items():
        group = "known" if name == "test" else name
        groups = oscr.angle_groups(sample["angles"].numpy(), sample["labels"].numpy())
        theta_N = groups["known_true" if name == "test" else f"{name}_smallest"].astype(np.float64)
        norms_N = sample["norms"].numpy().astype(np.float64)
        found |= {f"theta_{group}": theta_N.mean(), f"theta_{group}_std": theta_N.std()}
        found |= {f"norm_{group}": norms_N.mean(), f"norm_{group}_std": norms_N.std()}
        if name == "test":
            found["theta_known_skew"] = _skew(theta_N)
        else:
            found |= {f"theta_{group}_min": theta_N.min(), f"norm_{group}_tail": np.quantile(norms_N, 0.99)}
    return {name: float(value) for name, value in found.items()}


def _skew(values_N: np.ndarray) -> float:
    """Third standardised moment; 0 for a constant."""
    spread = values_N.std()
    return float((((values_N - values_N.mean()) / spread) ** 3).mean()) if spread > 0 else 0.0
