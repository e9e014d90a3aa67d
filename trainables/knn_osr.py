"""Open-set scoring of a network that another trial trained: train once, score many times.

Paper: Informed Mixing (GradMix), arXiv 2505.12803, Algorithm 1.
Official repository: gawainxu/comprehensive_osr@d18b920.

The method for questions about the score alone (how many neighbours, which features): its trials share one trained
network and differ only in how they read it. One epoch, no randomness.

Deviations: those of `trainables.openset`.

Expected: with k = 10, raw and head, exactly the AUROC and accuracy that the needed trial reported itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from trainables import judged, openset
from trainables.config import check_types, require
from trainables.datasets import Data
from trainables.protocol import Epoch, Needed, State


@dataclass(frozen=True, kw_only=True)
class Config:
    """How a trained network is scored. [P] printed in the paper, [C] the authors' code."""

    network: Needed
    """The trial that trains the network; its final state holds 'network' (a description) and 'weights'."""
    k: int = 10
    """Neighbours per class. [P] 10 in the ablations; [C] mostly 3."""
    score: Literal["raw", "normalised"] = "raw"
    """max_c G_c [P, Algorithm 1], or max_c G_c / sum_c' G_c' [C]."""
    feature: Literal["head", "backbone"] = "head"
    """128-d head output [C], or the encoder's pooled features."""
    linear_probe: bool = False
    """Also report a linear classifier's accuracy on the backbone features: the second column of a closed set [D]."""

    def __post_init__(self) -> None:
        check_types(self)
        judged.check_encoder(self.network, "network", "An encoder's features are compared here: name 'gradmix'.")
        require(self.k >= 1, self, "k", "at least 1")


def train(
    config: Config, data: Data, *, seed: int, device: str, resume: State | None = None, network: State
) -> Iterator[Epoch]:
    """Scores the network of another trial on the data it was trained on; yields one epoch.

    Args:
        config: how to score.
        data: the protocol's data.
        seed: not used: nothing here is random.
        device: where the network runs.
        resume: a state of this method; it was finished then, so nothing is yielded.
        network: final state of the needed trial.

    Raises:
        ValueError: a state that describes no encoder, or one for images of other channels.
        Diverged: the network's features are not finite.
    """
    del seed
    if resume is not None:
        return
    model = judged.encoder(config.network, network, data, device)
    metrics = openset.evaluate(
        model.embed,
        data,
        k=config.k,
        score=config.score,
        feature=config.feature,
        device=device,
        linear_probe=config.linear_probe,
    )
    yield Epoch(1, metrics, lambda: {"epoch": 1})
