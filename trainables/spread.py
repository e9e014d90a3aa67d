"""How much of an image a trained encoder's maps cover: the activation spread S_M(t). One epoch.

Paper: Informed Mixing (GradMix), arXiv 2505.12803, section 5 and Figure 6.
Official repository: gawainxu/comprehensive_osr@d18b920.

S_M(t) is the share of a raw LayerCAM's pixels above t, at the layer's own resolution. Maps are of the loss L_supcon +
L_simclr on two augmented views of training images, in eval mode. A mean over 2N samples makes gradients, and so maps,
smaller by 1 / 2N, and the losses' scale enters likewise: both are fixed here, N is `together`. Shares of each map's own
maximum depend on neither.

Deviations:
1. The nine thresholds, evenly spaced on a logarithmic axis from 1e-5 to 1e-3, are ours; the figure's are not printed.
2. Where fewer images are there than `together`, all are taken at once, and thresholds mean less.
3. Maps of both views are counted; the authors' script (gawainxu/GradMix `activation_map_stats.py`) counts the first's.

Shapes: N images, B = 2N views, K channels of a layer with rows h and columns w, T thresholds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables import attribution, augment, backbones, contrastive, gradmix, judged, loop, seeding
from trainables.config import check_types, require
from trainables.datasets import Data
from trainables.protocol import Epoch, Needed, State

THRESHOLDS = tuple(float(t) for t in np.geomspace(1e-5, 1e-3, 9))
NAMES = tuple(f"spread_{t:.1e}" for t in THRESHOLDS)
"""Metrics, one to a threshold."""
SHARES = (0.1, 0.2, 0.5)
"""Of each map's maximum."""
SHOWN = 6
"""Images whose maps are shown."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which encoder's maps of which loss. [P] printed in the paper, [C] read in its code, [D] ours."""

    network: Needed
    """The trial that trains the encoder; its final state holds 'network' (a description) and 'weights', and its
    config says how images are augmented."""
    layer: gradmix.Layer = "conv4_2"
    """[C] conv4_2."""
    sign: int = 1
    """Of the gradient. [C] +1."""
    tau: float = 0.05
    """Temperature of both losses. [C] 0.05."""
    base_tau: float = 0.07
    """Both losses are multiplied by tau over this. [C] 0.07."""
    together: int = 256
    """Images of one loss. [C] 256."""
    images: int = 2048
    """At most so many training images are looked at, drawn by the seed [D]."""
    k: int = 10
    """Neighbours per class, for the accuracy."""

    def __post_init__(self) -> None:
        check_types(self)
        judged.check_encoder(
            self.network,
            "network",
            "Maps of contrastive losses need an encoder with a head: name 'gradmix'.",
        )
        require(self.sign in (1, -1), self, "sign", "1 or -1")
        for field in ("tau", "base_tau"):
            require(0 < getattr(self, field) < float("inf"), self, field, "above 0 and finite")
        require(self.together >= 2, self, "together", "at least 2: an image alone has no negatives")
        require(self.images >= self.together, self, "images", "at least as many as are taken together")
        require(self.k >= 1, self, "k", "at least 1")


def train(
    config: Config, data: Data, *, seed: int, device: str, resume: State | None = None, network: State
) -> Iterator[Epoch]:
    """Measures the maps of another trial's encoder on its training images; yields one epoch.

    Args:
        config: which maps.
        data: what the encoder was trained on.
        seed: of the images that are looked at, and of their augmentation.
        device: where the network runs.
        resume: a state of this method; it was finished then, so nothing is yielded.
        network: final state of the needed trial.

    Raises:
        ValueError: a state that describes no encoder, or one of other data.
        Diverged: its features are not finite.
    """
    if resume is not None:
        return
    model = judged.encoder(config.network, network, data, device)
    with loop.repeatable(device):
        accuracy = judged.accuracy(judged.neighbours(model, data, device, config.k), data.test, device)
        pixels_NHWC, maps_Bhw = look(config, model, data, seed, device)
    metrics = {"accuracy": accuracy} | spreads(maps_Bhw)
    arrays = {
        "spread_thresholds": np.array(THRESHOLDS),
        "spread_shares": np.array([metrics[name] for name in NAMES]),
        "map_images": pixels_NHWC[:SHOWN].cpu().numpy(),
        "map_values": maps_Bhw[:SHOWN].cpu().numpy(),
    }
    yield Epoch(1, metrics, lambda: {"epoch": 1}, lambda: arrays)


def look(config: Config, model: backbones.Projected, data: Data, seed: int, device: str) -> tuple[Tensor, Tensor]:
    """The first views, uint8 (N, H, W, C), and their maps (N, h, w); then both of second views. All as (B, ...)."""
    settings = views(config.network)
    count = len(data.train.labels)
    order_N = torch.randperm(count, generator=seeding.torch_stream(seed, "spread/images")).numpy()
    together = min(config.together, count)
    random = seeding.torch_stream(seed, "spread/views", device)
    images, found = [], []
    for start in range(0, min(config.images, count) - together + 1, together):
        places_N = np.sort(order_N[start : start + together])
        pixels_NHWC = torch.from_numpy(np.array(data.train.pixels[places_N])).to(device)
        labels_N = torch.from_numpy(np.array(data.train.labels[places_N], dtype=np.int64)).to(device)
        x_BCHW = augment.two_views(pixels_NHWC, settings, random)
        found.append(maps(config, model, augment.normalise(x_BCHW, data.mean, data.std), labels_N))
        images.append(x_BCHW.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1))
    return torch.cat(images), torch.cat(found)


def maps(config: Config, model: backbones.Projected, x_BCHW: Tensor, labels_N: Tensor) -> Tensor:
    """Raw LayerCAMs (B, h, w) of both losses together.

    Args:
        config: layer, sign and losses.
        model: in eval mode.
        x_BCHW: normalised views: the first of all images, then the second.
        labels_N: classes.
    """
    with torch.enable_grad():
        out_BD, _, activations = model(x_BCHW.detach().requires_grad_())
        z_BD = F.normalize(out_BD.float(), dim=1)
        loss = contrastive.supcon(z_BD, labels_N, config.tau) + contrastive.simclr(z_BD, config.tau)
        A_BKhw = activations[config.layer]
        (G_BKhw,) = torch.autograd.grad(config.tau / config.base_tau * loss, A_BKhw)
    return attribution.layercam(A_BKhw.detach(), G_BKhw, config.sign)


def spreads(maps_Bhw: Tensor) -> dict[str, float]:
    """'spread_<t>' at each threshold, their mean 'spread', and 'spread_of_max_<share>'."""
    by_threshold = {name: share_above(maps_Bhw, t) for name, t in zip(NAMES, THRESHOLDS, strict=True)}
    highest_B11 = maps_Bhw.amax((1, 2), keepdim=True)
    relative = {f"spread_of_max_{share}": share_above(maps_Bhw, share * highest_B11) for share in SHARES}
    return {"spread": float(np.mean(list(by_threshold.values())))} | by_threshold | relative


def share_above(maps_Bhw: Tensor, threshold: float | Tensor) -> float:
    """S_M(t): the share of all pixels above t."""
    return float((maps_Bhw > threshold).double().mean())


def views(needed: Needed) -> augment.Settings:
    """How the needed trial augments its images."""
    usual = gradmix.Config()
    named = [field.name for field in fields(augment.Settings) if hasattr(usual, field.name)]
    return augment.Settings(**{name: judged.field(needed, name, getattr(usual, name)) for name in named})
