"""Detectors read off a trained network afterwards: train once, score many times, by one function, `detector`.

Papers: maximum softmax probability (arXiv 1610.02136), maximum logit (arXiv 1911.11132), energy (arXiv 2010.03759),
ODIN (arXiv 1706.02690), ReAct (arXiv 2111.12797), DICE (arXiv 2111.09805). More are taken from pytorch-ood
(Apache-2.0), the optional extra `detectors`: GEN, entropy, KNN, ViM, ASH, SCALE, SHE, Mahalanobis, KL matching.

Scores are higher for in-distribution images here. pytorch-ood has it the other way round, with labels below 0 for what
is out of distribution: its scores are negated, and it is only ever shown known images. Its FPR95 is the other one of
`trainables.metrics`.

Deviations:
1. ODIN's step has sign(0) = +1, as its own code has; pytorch-ood's is 0. Both divide the step by each channel's
   standard deviation, so that epsilon is in pixels.
2. ReAct and DICE end in the energy, and their percentiles are of all known training images, not augmented.

Expected: with `energy`, exactly the AUROC that a `greg` trial with base 'energy' reports itself.

Shapes: B images of a batch, N training images, D features, K logits.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables import classifiers, detection, judged, loop, openset
from trainables.config import ConfigError, check_types, require
from trainables.datasets import Data
from trainables.protocol import Epoch, Needed, State, rebuildable

Detector = Literal[
    "msp",
    "max_logit",
    "energy",
    "odin",
    "react",
    "dice",
    "entropy",
    "gen",
    "knn",
    "vim",
    "ash",
    "scale",
    "she",
    "mahalanobis",
    "kl_matching",
]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which detector of which network. Defaults are the papers'."""

    network: Needed
    """The trial that trains the network; its final state holds 'network' (a description) and 'weights'."""
    detector: Detector = "energy"
    """How images are scored; the last nine need pytorch-ood."""
    temperature: float = 1000.0
    """ODIN's. [P] 1000."""
    epsilon: float = 0.0014
    """ODIN's step, in units of a pixel's range. [P] 0.0014."""
    clipped: float = 0.9
    """ReAct: the share of activations that are below the threshold. [P] 0.9."""
    dropped: float = 0.9
    """DICE: the share of weights that are dropped. [P] 0.9."""
    neighbours: int = 50
    """KNN's k. [P] 50 on CIFAR-10; at most the number of training images."""
    principal: int = 32
    """ViM's dimensions that are not residual; pytorch-ood has no default."""

    def __post_init__(self) -> None:
        check_types(self)
        judged.check_plain(self.network, "network")
        require(0 < self.temperature < float("inf"), self, "temperature", "above 0 and finite")
        require(0 <= self.epsilon < float("inf"), self, "epsilon", "at least 0 and finite")
        for field in ("clipped", "dropped"):
            require(0 <= getattr(self, field) < 1, self, field, "a share, at least 0 and below 1")
        for field in ("neighbours", "principal"):
            require(getattr(self, field) >= 1, self, field, "at least 1")


def train(
    config: Config, data: Data, *, seed: int, device: str, resume: State | None = None, network: State
) -> Iterator[Epoch]:
    """Scores the network of another trial on the protocol it was trained on; yields one epoch.

    Args:
        config: which detector.
        data: a protocol with out-of-distribution sets.
        seed: not used: nothing here is random.
        device: where the network runs.
        resume: a state of this method; it was finished then, so nothing is yielded.
        network: final state of the needed trial.

    Raises:
        ConfigError: pytorch-ood is needed and missing.
        ValueError: a state that describes no network.
        Diverged: a score is not finite.
    """
    del seed
    if resume is not None:
        return
    model = rebuilt(network).to(device)
    with openset.evaluation_mode(model), loop.repeatable(device):
        score = detector(config, model, data, device)
        scores = {
            name: torch.cat([score(x_BCHW) for x_BCHW in detection.batches(images, data, device)])
            for name, images in detection.evaluated(data).items()
        }
        found = {"accuracy": accuracy(model, data, device)} | detection.measure(detection.arrays(scores))
    yield Epoch(1, found, lambda: {"epoch": 1})


def rebuilt(state: State) -> classifiers.Classifier:
    """The classifier of another trial's final state.

    Raises:
        ValueError: the state describes none.
    """
    return classifiers.rebuild(*rebuildable(state))


@torch.no_grad()
def accuracy(network: nn.Module, data: Data, device: str) -> float:
    """Share of known test images whose class has the largest logit among the known classes'."""
    logits_NK = torch.cat([network(x_BCHW) for x_BCHW in detection.batches(data.test, data, device)])
    truth_N = torch.from_numpy(np.array(data.test.labels, dtype=np.int64)).to(device)
    return float((logits_NK[:, : len(data.classes)].argmax(1) == truth_N).double().mean())


# Detectors


def detector(config: Config, network: classifiers.Classifier, data: Data, device: str) -> detection.Score:
    """Normalised images (B, C, H, W) -> scores (B,), higher for in-distribution; fitted to the known training images.

    Args:
        config: which one, and its parameters.
        network: in eval mode, on the device.
        data: its known training images, and the normalisation.
        device: where the network is.

    Raises:
        ConfigError: pytorch-ood is needed and missing.
    """
    if config.detector == "odin":
        return lambda x_BCHW: odin(network, x_BCHW, config.temperature, config.epsilon, data.std)
    if config.detector in PLAIN:
        return lambda x_BCHW: PLAIN[config.detector](_without_gradient(network, x_BCHW))
    features_ND = torch.cat([_features(network, x_BCHW) for x_BCHW in detection.batches(data.train, data, device)])
    if config.detector == "react":
        threshold = float(np.quantile(features_ND.cpu().numpy(), config.clipped))
        return lambda x_BCHW: energy(_last(network, _features(network, x_BCHW).clamp(max=threshold)))
    if config.detector == "dice":
        kept_KD = sparsified(network.linear.weight.detach(), features_ND.mean(0), config.dropped)
        return lambda x_BCHW: energy(_features(network, x_BCHW) @ kept_KD.T + network.linear.bias.detach())
    labels_N = torch.from_numpy(np.array(data.train.labels, dtype=np.int64)).to(device)
    return _borrowed(config, network, features_ND, labels_N, device)


def msp(logits_BK: Tensor) -> Tensor:
    """The largest softmax probability."""
    return logits_BK.softmax(1).amax(1)


def energy(logits_BK: Tensor) -> Tensor:
    """Log sum exp: the energy with its sign turned."""
    return logits_BK.logsumexp(1)


PLAIN: Mapping[str, Callable[[Tensor], Tensor]] = {
    "msp": msp,
    "max_logit": lambda logits_BK: logits_BK.amax(1),
    "energy": energy,
}
"""Detectors that read the logits (B, K) alone."""


def odin(network: nn.Module, x_BCHW: Tensor, temperature: float, epsilon: float, std: Sequence[float]) -> Tensor:
    """Largest softmax probability at a temperature, after one step towards the predicted class.

    Args:
        network: in eval mode.
        x_BCHW: normalised images.
        temperature: divides the logits.
        epsilon: length of the step at every pixel, before normalisation.
        std: of the normalisation.
    """
    with torch.enable_grad():
        x_BCHW = x_BCHW.detach().requires_grad_()
        logits_BK = network(x_BCHW) / temperature
        loss = F.cross_entropy(logits_BK, logits_BK.argmax(1), reduction="sum")
        (gradient_BCHW,) = torch.autograd.grad(loss, x_BCHW)
    direction_BCHW = torch.where(gradient_BCHW >= 0, 1.0, -1.0)
    scale_C11 = torch.tensor(std, dtype=x_BCHW.dtype, device=x_BCHW.device).view(-1, 1, 1)
    moved_BCHW = x_BCHW.detach() - epsilon * direction_BCHW / scale_C11
    return msp(_without_gradient(network, moved_BCHW) / temperature)


def sparsified(weight_KD: Tensor, mean_D: Tensor, dropped: float) -> Tensor:
    """DICE: the last layer's weights (K, D) whose mean contribution is above that of the share `dropped`; others 0."""
    contribution_KD = weight_KD * mean_D
    threshold = torch.quantile(contribution_KD.flatten(), dropped)
    return torch.where(contribution_KD > threshold, weight_KD, 0.0)


@torch.no_grad()
def _without_gradient(network: nn.Module, x_BCHW: Tensor) -> Tensor:
    logits_BK: Tensor = network(x_BCHW)
    return logits_BK


@torch.no_grad()
def _features(network: classifiers.Classifier, x_BCHW: Tensor) -> Tensor:
    return network.features(x_BCHW)


@torch.no_grad()
def _last(network: classifiers.Classifier, features_BD: Tensor) -> Tensor:
    logits_BK: Tensor = network.linear(features_BD)
    return logits_BK


def _borrowed(
    config: Config, network: classifiers.Classifier, features_ND: Tensor, labels_N: Tensor, device: str
) -> detection.Score:
    """A detector of pytorch-ood, negated."""
    try:
        import pytorch_ood.detector as theirs  # type: ignore[import-untyped]
    except ImportError:
        raise ConfigError(
            f"detector={config.detector!r} needs pytorch-ood, which is not installed: pip install 'ablate[detectors]'. "
            "Without it there are: msp, max_logit, energy, odin, react, dice."
        ) from None
    weight, bias = network.linear.weight.detach(), network.linear.bias.detach()
    neighbours, principal = min(config.neighbours, len(features_ND)), min(config.principal, features_ND.shape[1] - 1)

    def head(maps_BD11: Tensor) -> Tensor:
        return _last(network, maps_BD11.flatten(1))

    build: Mapping[str, Callable[[], Any]] = {
        "entropy": lambda: theirs.Entropy(None),
        "gen": lambda: theirs.GEN(None),
        "kl_matching": lambda: theirs.KLMatching(None),
        "ash": lambda: theirs.ASH(None, head),
        "scale": lambda: theirs.SCALE(None, head),
        "knn": lambda: theirs.KNN(None, k=neighbours),
        "vim": lambda: theirs.ViM(None, d=principal, w=weight, b=bias),
        "she": lambda: theirs.SHE(None, head),
        "mahalanobis": lambda: theirs.Mahalanobis(None),
    }
    made = build[config.detector]()
    made.to(device)

    def score(x_BCHW: Tensor) -> Tensor:
        features_BD = _features(network, x_BCHW)
        if config.detector in ("entropy", "gen", "kl_matching"):
            outlying = made.predict_logits(_last(network, features_BD))
        elif config.detector in ("ash", "scale"):
            outlying = made.predict_feature_maps(features_BD[:, :, None, None])
        else:
            outlying = made.predict_features(features_BD)
        return -torch.as_tensor(outlying).detach().to(device)

    if config.detector == "kl_matching":
        made.fit_logits(_last(network, features_ND), labels_N)
    elif config.detector not in ("entropy", "gen", "ash", "scale"):
        made.fit_features(features_ND, labels_N)
    return score
