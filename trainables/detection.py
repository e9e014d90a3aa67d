"""How a detector of out-of-distribution images is judged: scores of all evaluated sets, and how steep they are.

Scores are higher for in-distribution images here, as in every test; in GReg's training the energy has the other sign.
Means over sets are unweighted, over all sets and over near and far ones apart.

Source: GReg (arXiv 2404.12368) and o4lc/Greg-OOD for the conventions; `trainables.metrics` for each measure.

Deviations:
1. Gradient norms are measured in eval mode, each image's own; in training batch norm couples the images of a batch.

Shapes: N images, B of a batch, K classes, D features.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables import judged, metrics, outside
from trainables.augment import normalise, to_float
from trainables.config import ConfigError
from trainables.data_protocols import PROTOCOLS, DataSpec, Protocol, protocol_of
from trainables.datasets import Data, Images
from trainables.protocol import Diverged

Score = Callable[[Tensor], Tensor]
"""Normalised images (B, C, H, W) -> scores (B,), higher for in-distribution."""


def check(config: object, data: DataSpec, needed: Mapping[str, DataSpec]) -> None:
    """Refuses, before anything runs, data without out-of-distribution sets, and networks for other images.

    Raises:
        ConfigError: naming the protocol.
    """
    if not _detects(protocol_of(data)):
        raise ConfigError(nothing_to_detect(data))
    judged.check_images(config, data, needed)


def nothing_to_detect(data: DataSpec) -> str:
    """That a protocol has no out-of-distribution sets, and which have."""
    have = [name for name, protocol in PROTOCOLS.items() if _detects(protocol)]
    return (
        f"{data.protocol!r} has no out-of-distribution sets, so there is nothing to detect. Protocols that have them: "
        f"{', '.join(have)}."
    )


def _detects(protocol: Protocol) -> bool:
    return any(outside.role(name) in METERED for name in protocol.outside)


def evaluated(data: Data) -> dict[str, Images]:
    """The known test images, 'test', and every out-of-distribution set."""
    return {"test": data.test} | {name: each for name, each in data.others.items() if outside.role(name) in METERED}


METERED = ("near", "far")
"""Roles of sets that are judged."""


def rows_at_once(device: str) -> int:
    """Images of a pass that only looks: few on a CPU, whose cache then holds the activations (1.6 times as fast)."""
    return 64 if torch.device(device).type == "cpu" else 512


def batches(images: Images, data: Data, device: str) -> Iterator[Tensor]:
    """Normalised images, in order, on the device."""
    batch = rows_at_once(device)
    for start in range(0, len(images.pixels), batch):
        pixels_BHWC = torch.from_numpy(np.array(images.pixels[start : start + batch])).to(device)
        yield normalise(to_float(pixels_BHWC), data.mean, data.std)


def measure(scores: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """Every measure of `metrics.DETECTION`: means over all sets, over near and far ones; AUROC and FPR95 of each set.

    Args:
        scores: 'test' (known images) and sets whose names begin with near_ or far_; higher for in-distribution.
    """
    sets = [name for name in scores if outside.role(name) in METERED]
    of_set = {
        name: {measure: getattr(metrics, measure)(scores["test"], scores[name]) for measure in metrics.DETECTION}
        for name in sets
    }
    found = {f"{measure}_{name}": of_set[name][measure] for name in sets for measure in ("auroc", "fpr95_id_positive")}
    for suffix, names in (
        ("", sets),
        *((f"_{role}", [name for name in sets if outside.role(name) == role]) for role in METERED),
    ):
        for measure in metrics.DETECTION if names else ():
            found[measure + suffix] = float(np.mean([of_set[name][measure] for name in names]))
    return found


def arrays(scores: Mapping[str, Tensor]) -> dict[str, NDArray[np.float64]]:
    """The same on the host, checked.

    Raises:
        Diverged: a score that is not finite.
    """
    found = {name: values_N.detach().double().cpu().numpy() for name, values_N in scores.items()}
    for name, array_N in found.items():
        if not np.isfinite(array_N).all():
            raise Diverged(f"the scores of the {name} images are not finite; a lower learning rate may help.")
    return found


def gradient_norms(score: Score, x_BCHW: Tensor) -> Tensor:
    """|| d score_i / d x_i ||_2 of each image (B,), over all its pixels and channels; the network in eval mode."""
    with torch.enable_grad():
        x_BCHW = x_BCHW.detach().requires_grad_()
        (gradient_BCHW,) = torch.autograd.grad(score(x_BCHW).sum(), x_BCHW)
    norms_B: Tensor = torch.linalg.vector_norm(gradient_BCHW.flatten(1), dim=1)
    return norms_B


def mean_gradient_norms(
    score: Score, groups: Mapping[str, Sequence[Images]], data: Data, device: str, rows: int
) -> dict[str, float]:
    """'grad_norm_<group>': means over the first `rows` images of each group, in equal parts of its sets."""
    found = {}
    for group, sets in groups.items():
        norms = []
        for images in sets:
            some = Images(images.pixels[: max(1, rows // len(sets))], images.labels)
            norms += [gradient_norms(score, x_BCHW) for x_BCHW in batches(some, data, device)]
        found[f"grad_norm_{group}"] = float(torch.cat(norms).double().mean())
    return found
