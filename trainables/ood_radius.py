"""How far an image can be moved before a detector changes its mind about it: estimated, searched for, certified, tried.

Paper: GReg (arXiv 2404.12368), section on Lipschitz analysis. With S the energy, low for in-distribution, and an image
called in-distribution where S <= gamma, no image within

    eps* = min(eps, (gamma - S) / L)   of a known one that is accepted,
    eps* = min(eps, (S - gamma) / L)   of another one that is rejected,

is judged otherwise, if L bounds how fast S changes in the ball of radius eps. Three constants, never confused here:

    estimated   || dS/dx || at the image. The paper calls it the local constant of a ReLU network; it is that within one
                linear piece of the logits only, and a lower bound of L: the radius may be too long.
    searched    the largest || dS/dx || that an attack met in the ball. Still a lower bound, a better one.
    certified   a product over layers of bounds on their spectral norms, for the whole space: the radius is sound. On
                deep networks it is so short that it says nothing.

The attack is projected gradient descent in L2 on S, away from the image's side. Distances are in normalised input.

Deviations:
1. Convolutions are bounded by the largest singular value, over all frequencies, of the same kernel on a torus so large
   that nothing wraps around: the padded convolution is a part of it, so its norm is at most that.
2. The ball is not cut to images that exist.

Expected: nothing that is certified at a radius is ever broken by the attack at that radius.

Shapes: B images, C channels, H rows, W columns.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainables import classifiers, densenet, detection, judged, loop, metrics, ood_scores, openset
from trainables.config import check_types, require
from trainables.datasets import Data, Images
from trainables.protocol import Epoch, Needed, State

KINDS = ("estimated", "searched", "certified")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which network, and how hard it is tried. All [D]: the paper has the formula alone."""

    network: Needed
    """The trial that trains the network; its final state holds 'network' (a description) and 'weights'."""
    rows: int = 200
    """Known images, and as many others, in equal parts of all sets."""
    recall: float = 0.95
    """Share of the known test images that gamma accepts."""
    steps: int = 20
    """Of the attack."""

    def __post_init__(self) -> None:
        check_types(self)
        judged.check_plain(self.network, "network")
        for field in ("rows", "steps"):
            require(getattr(self, field) >= 1, self, field, "at least 1")
        require(0 < self.recall < 1, self, "recall", "a share, above 0 and below 1")


def train(
    config: Config, data: Data, *, seed: int, device: str, resume: State | None = None, network: State
) -> Iterator[Epoch]:
    """Measures the radii of another trial's network; yields one epoch.

    Metrics: 'radius_<kind>' (mean of eps* over images judged rightly, eps the largest of `metrics.RADII`),
    '<kind>_at_<r>' (share of all images that are judged rightly with eps* >= r), 'broken_<kind>_<r>' (share of all
    images that are so, and judged wrongly after the attack at r), 'lipschitz_<kind>' (mean constant),
    'auroc_attacked_<r>', and 'auroc', 'accuracy' without attack. The radii themselves are shown:
    `analysis.stress_figures` names the arrays.

    Args:
        config: which network.
        data: a protocol with out-of-distribution sets.
        seed: not used: nothing here is random.
        device: where the network runs.
        resume: a state of this method; it was finished then, so nothing is yielded.
        network: final state of the needed trial.

    Raises:
        ValueError: a state that describes no network, or one with a layer that has no bound here.
    """
    del seed
    if resume is not None:
        return
    model = ood_scores.rebuilt(network).to(device)
    with openset.evaluation_mode(model), loop.repeatable(device):
        found, shown = measure(config, model, data, device)
        found["accuracy"] = ood_scores.accuracy(model, data, device)
    yield Epoch(1, found, lambda: {"epoch": 1}, lambda: shown)


def measure(
    config: Config, network: classifiers.Classifier, data: Data, device: str
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """All metrics of `train` but the accuracy, and the arrays that are shown; the network in eval mode."""
    every = {name: _scores(network, images, data, device) for name, images in detection.evaluated(data).items()}
    gamma = float(every["test"].double().quantile(config.recall))
    images = _some(data, config.rows)
    bound = lipschitz(network, int(data.train.pixels.shape[1]))
    values: dict[str, Tensor] = {}
    attacked: dict[float, dict[str, Tensor]] = {r: {} for r in metrics.RADII}
    constants: dict[str, dict[str, Tensor]] = {}
    for name, part in images.items():
        x_BCHW = torch.cat(list(detection.batches(part, data, device)))
        values[name] = energy(network, x_BCHW)
        estimated_B = detection.gradient_norms(lambda x: energy(network, x), x_BCHW)
        searched_B = estimated_B
        for r in metrics.RADII:
            attacked[r][name], met_B = attack(network, x_BCHW, r, away=name == "test", steps=config.steps)
            searched_B = torch.maximum(searched_B, met_B)
        certified_B = torch.full_like(estimated_B, bound)
        constants[name] = dict(zip(KINDS, (estimated_B, searched_B, certified_B), strict=True))
    found = {"auroc": _auroc(values)} | {f"auroc_attacked_{r:g}": _auroc(attacked[r]) for r in metrics.RADII}
    wrong = {
        r: torch.cat([(after_B > gamma) == (name == "test") for name, after_B in attacked[r].items()])
        for r in metrics.RADII
    }
    reach, radii = max(metrics.RADII), {}
    for kind in KINDS:
        parts = [radius(S_B, gamma, constants[name][kind], reach, known=name == "test") for name, S_B in values.items()]
        radii[kind] = torch.cat(parts)
        found |= _shares(kind, radii[kind], wrong)
        found[f"lipschitz_{kind}"] = float(torch.cat([each[kind] for each in constants.values()]).double().mean())
    return found, _shown(radii, wrong)


def _shares(kind: str, radius_N: Tensor, wrong: Mapping[float, Tensor]) -> dict[str, float]:
    """What one kind of constant says about all images, and where an attack proves it wrong."""
    right_N = ~radius_N.isnan()
    found = {f"radius_{kind}": float(radius_N[right_N].double().mean()) if bool(right_N.any()) else 0.0}
    for r, wrong_N in wrong.items():
        claimed_N = right_N & (radius_N >= r)
        found[f"{kind}_at_{r:g}"] = float(claimed_N.double().mean())
        found[f"broken_{kind}_{r:g}"] = float((claimed_N & wrong_N).double().mean())
    return found


def _shown(radii: Mapping[str, Tensor], wrong: Mapping[float, Tensor]) -> dict[str, np.ndarray]:
    """Every image's radius by each kind, and what share of images is judged rightly after an attack."""
    found = {f"radii_{kind}": radius_N.float().cpu().numpy() for kind, radius_N in radii.items()}
    found["attacked_radii"] = np.array(list(wrong), dtype=np.float32)
    found["attacked_right"] = np.array([1 - float(wrong_N.double().mean()) for wrong_N in wrong.values()])
    return found


def radius(S_B: Tensor, gamma: float, L: Tensor | float, reach: float, *, known: bool) -> Tensor:
    """eps* of each image (B,): min(reach, distance of S to gamma / L); NaN where the image is judged wrongly.

    Args:
        S_B: energies.
        gamma: accepted up to and including this.
        L: constants, (B,) or one for all.
        reach: eps, the radius of the ball that L is about.
        known: whether these should be accepted.
    """
    room_B = gamma - S_B if known else S_B - gamma
    right_B = room_B >= 0 if known else room_B > 0
    return torch.where(right_B, (room_B / L).clamp_max(reach), torch.nan)


def attack(network: nn.Module, x_BCHW: Tensor, r: float, *, away: bool, steps: int) -> tuple[Tensor, Tensor]:
    """The worst energy (B,) met within L2 distance r of each image, and the largest || dS/dx || met (B,).

    Args:
        network: in eval mode.
        x_BCHW: normalised images.
        r: radius of the ball.
        away: whether S is driven up, out of the distribution, or down.
        steps: of length 2.5 r / steps along the gradient's direction, each followed by the projection.
    """
    sign = 1.0 if away else -1.0
    moved_BCHW, worst_B = x_BCHW.clone(), energy(network, x_BCHW)
    steepest_B = torch.zeros_like(worst_B)
    for _ in range(steps):
        with torch.enable_grad():
            moved_BCHW = moved_BCHW.detach().requires_grad_()
            S_B = -network(moved_BCHW).logsumexp(1)
            (gradient_BCHW,) = torch.autograd.grad(S_B.sum(), moved_BCHW)
        norm_B111 = torch.linalg.vector_norm(gradient_BCHW, dim=(1, 2, 3), keepdim=True)
        steepest_B = torch.maximum(steepest_B, norm_B111.flatten())
        worst_B = torch.maximum(worst_B * sign, S_B.detach() * sign) * sign
        step_BCHW = moved_BCHW.detach() + sign * 2.5 * r / steps * gradient_BCHW / norm_B111.clamp_min(1e-12)
        offset_BCHW = step_BCHW - x_BCHW
        length_B111 = torch.linalg.vector_norm(offset_BCHW, dim=(1, 2, 3), keepdim=True)
        moved_BCHW = x_BCHW + offset_BCHW * (r / length_B111.clamp_min(1e-12)).clamp_max(1.0)
    return torch.maximum(worst_B * sign, energy(network, moved_BCHW) * sign) * sign, steepest_B


def energy(network: nn.Module, x_BCHW: Tensor) -> Tensor:
    """S (B,); low is in-distribution."""
    with torch.set_grad_enabled(x_BCHW.requires_grad):
        S_B: Tensor = -network(x_BCHW).logsumexp(1)
    return S_B


@torch.no_grad()
def _scores(network: nn.Module, images: Images, data: Data, device: str) -> Tensor:
    return torch.cat([energy(network, x_BCHW) for x_BCHW in detection.batches(images, data, device)])


def _some(data: Data, rows: int) -> dict[str, Images]:
    """The first `rows` known test images, and as many of the others in equal parts."""
    sets = detection.evaluated(data)
    share = {name: rows if name == "test" else max(1, rows // (len(sets) - 1)) for name in sets}
    return {name: Images(each.pixels[: share[name]], each.labels[: share[name]]) for name, each in sets.items()}


def _auroc(values: Mapping[str, Tensor]) -> float:
    scores = detection.arrays({name: -S_B for name, S_B in values.items()})
    return float(np.mean([metrics.auroc(scores["test"], scores[name]) for name in scores if name != "test"]))


# Bounds on how fast a network's energy changes, anywhere


@torch.no_grad()
def lipschitz(network: classifiers.Classifier, side: int) -> float:
    """A bound on || dS/dx ||_2 for all x: of stem, stages, norm, mean and linear layer, one after the other.

    Log sum exp adds nothing: its gradient is a vector of probabilities, whose length is at most 1.

    Args:
        network: in eval mode.
        side: pixels a side of its images.

    Raises:
        ValueError: a layer without a bound.
    """
    total = 1.0
    for part in (network.stem, *network.stages, network.last):
        own, side = bound(part, side)
        total *= own
    # The mean over h x w pixels shortens a vector by sqrt(h w) at least.
    return total / side * float(torch.linalg.matrix_norm(network.linear.weight.double(), ord=2))


def bound(part: nn.Module, side: int) -> tuple[float, int]:
    """A bound on the Lipschitz constant of one module in eval mode, and the side of its output."""
    if isinstance(part, nn.Identity | nn.ReLU):
        return 1.0, side
    if isinstance(part, nn.Sequential):
        total = 1.0
        for each in part:
            own, side = bound(each, side)
            total *= own
        return total, side
    if isinstance(part, nn.Conv2d):
        return convolution_norm(part, side), _after(side, part.kernel_size[0], part.stride[0], part.padding[0])
    if isinstance(part, nn.BatchNorm2d):
        assert part.running_var is not None, "classifiers keep running statistics"
        return float((part.weight.detach().abs() / (part.running_var + part.eps).sqrt()).max()), side
    if isinstance(part, nn.MaxPool2d):
        # A pixel lies in at most ceil(k / s) windows a way, so its change is counted so often in a sum of squares.
        kernel, stride, padding = part.kernel_size, part.stride, part.padding
        assert isinstance(kernel, int), "square windows"
        assert isinstance(stride, int), "of one stride"
        return float(math.ceil(kernel / stride)), _after(side, kernel, stride, padding)
    return _block_bound(part, side)


def _after(side: int, kernel: int, stride: int, padding: Any) -> int:
    return (side + 2 * int(padding) - kernel) // stride + 1


def _block_bound(part: nn.Module, side: int) -> tuple[float, int]:
    """Of a block: the sum of its branches where they are added, the root of squares where they stand side by side."""
    if isinstance(part, classifiers.PreActBlock):
        before, _ = bound(part.bn1, side)
        branch, after = _chained((part.conv1, part.bn2, part.conv2), side)
        if part.shortcut is None:
            return 1 + before * branch, after
        return before * (branch + bound(part.shortcut, side)[0]), after
    if isinstance(part, classifiers.BasicBlock | classifiers.BottleneckBlock):
        layers = [part.conv1, part.bn1, part.conv2, part.bn2]
        layers += [part.conv3, part.bn3] if isinstance(part, classifiers.BottleneckBlock) else []
        branch, after = _chained(layers, side)
        return branch + bound(part.shortcut, side)[0], after
    if isinstance(part, classifiers.WideBlock):
        branch, after = _chained((part.bn1, part.conv1, part.bn2, part.conv2), side)
        return branch + bound(part.shortcut, side)[0], after
    if isinstance(part, densenet.DenseLayer):
        branch, after = _chained((part.bn1, part.conv1, part.bn2, part.conv2), side)
        return math.hypot(1, branch), after
    if isinstance(part, densenet.Transition):
        own, _ = _chained((part.bn, part.conv), side)
        return own / 2, side // 2  # the mean over 2 x 2 pixels halves a vector at least
    raise ValueError(f"a {type(part).__name__} has no bound on its Lipschitz constant here.")


def _chained(parts: tuple[nn.Module, ...] | list[nn.Module], side: int) -> tuple[float, int]:
    return bound(nn.Sequential(*parts), side)


def convolution_norm(part: nn.Conv2d, side: int) -> float:
    """A bound on the spectral norm of a padded convolution of images of `side` pixels: see the module's deviations."""
    torus = side + part.kernel_size[0] - 1
    kernel_OIHW = part.weight.detach().double().cpu()
    spectrum_OIUV = torch.fft.rfft2(kernel_OIHW, s=(torus, torus))
    if part.groups == 1:
        return float(torch.linalg.matrix_norm(spectrum_OIUV.permute(2, 3, 0, 1), ord=2).max())
    parts = spectrum_OIUV.chunk(part.groups)
    return max(float(torch.linalg.matrix_norm(each.permute(2, 3, 0, 1), ord=2).max()) for each in parts)
