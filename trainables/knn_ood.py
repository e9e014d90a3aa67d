"""Out-of-distribution detection by nearest neighbours in an embedding that another trial trained. One epoch.

Paper: Informed Mixing (GradMix), arXiv 2505.12803, section 4.3, Table 4, scored by Algorithm 1.
Official repository: gawainxu/comprehensive_osr@d18b920.

Of each set outside the distribution: TNR at 95% TPR, AUROC, DTACC (`detection_accuracy`), AUIN and AUOUT (`aupr_in`,
`aupr_out`), as `trainables.metrics` defines them; and their unweighted means over sets. Known images are positive, and
their scores higher.

Deviations:
1. The released routine for TNR and DTACC adds up counts over thresholds: its numbers are wrong, and the paper's pair a
   DTACC of 99.81 with an AUROC of 98.7, which no curve allows. It stands in `trainables.metrics.legacy_gradmix_ood` for
   documentation alone.
2. All images are judged; the released code takes every tenth.

Shapes: Q images of a set, N training images, C classes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainables import backbones, detection, judged, loop, metrics, openset
from trainables.config import ConfigError, check_types, require
from trainables.datasets import Data
from trainables.protocol import Epoch, Needed, State

MEASURES = metrics.GRADMIX_OOD


@dataclass(frozen=True, kw_only=True)
class Config:
    """How a trained encoder is scored. [P] printed in the paper, [C] the authors' code."""

    network: Needed
    """The trial that trains the encoder; its final state holds 'network' (a description) and 'weights'."""
    k: int = 10
    """Neighbours per class. [P] 10 in the ablations; [C] 10 here."""
    score: openset.Score = "raw"
    """max_c G_c [P, Algorithm 1], or max_c G_c / sum_c' G_c' [C]."""
    feature: openset.Feature = "head"
    """128-d head output [C], or the encoder's pooled features."""

    def __post_init__(self) -> None:
        check_types(self)
        judged.check_encoder(
            self.network, "network", "Name 'gradmix', or score classifiers with the method 'ood_scores'."
        )
        require(self.k >= 1, self, "k", "at least 1")


def train(
    config: Config, data: Data, *, seed: int, device: str, resume: State | None = None, network: State
) -> Iterator[Epoch]:
    """Scores another trial's encoder on images outside the distribution; yields one epoch.

    Args:
        config: how to score.
        data: a protocol with out-of-distribution sets, on whose known classes the encoder was trained.
        seed: not used: nothing here is random.
        device: where the network runs.
        resume: a state of this method; it was finished then, so nothing is yielded.
        network: final state of the needed trial.

    Raises:
        ConfigError: data without out-of-distribution sets.
        ValueError: a state that describes no encoder, or one of other data.
        Diverged: its features are not finite.
    """
    del seed
    if resume is not None:
        return
    if detection.evaluated(data).keys() == {"test"}:
        raise ConfigError(detection.nothing_to_detect(data.spec))
    model = judged.encoder(config.network, network, data, device)
    with loop.repeatable(device):
        found = evaluate(config, model, data, device)
    yield Epoch(1, found, lambda: {"epoch": 1})


def evaluate(config: Config, model: backbones.Projected, data: Data, device: str) -> dict[str, float]:
    """'accuracy', '<measure>_<set>' and the means over sets."""
    exemplars_ND = openset.embed_images(model.embed, data.train, data, device, judged.BATCH)[config.feature]
    labels_N = torch.from_numpy(np.array(data.train.labels, dtype=np.int64)).to(device)
    scores: dict[str, Tensor] = {}
    for name, images in detection.evaluated(data).items():
        queries_QD = openset.embed_images(model.embed, images, data, device, judged.BATCH)[config.feature]
        scores[name] = openset.class_scores(queries_QD, exemplars_ND, labels_N, len(data.classes), config.k)
    predicted_Q = scores["test"].argmax(1).cpu().numpy()
    known = {name: openset.known_score(each, config.score).cpu().numpy() for name, each in scores.items()}
    return {"accuracy": float(np.mean(predicted_Q == data.test.labels))} | measure(known)


def measure(known: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Every measure of every set, and its mean.

    Args:
        known: 'test' and the sets outside the distribution -> how known each image is (Q,).
    """
    sets = [name for name in known if name != "test"]
    found = {
        f"{measure}_{name}": getattr(metrics, measure)(known["test"], known[name])
        for measure in MEASURES
        for name in sets
    }
    return found | {name: float(np.mean([found[f"{name}_{each}"] for each in sets])) for name in MEASURES}
