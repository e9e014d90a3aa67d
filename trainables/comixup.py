"""Co-Mixup: a part of a batch is mixed into as many images, each of which shows salient cells of several, and all of
which together show as many different ones as possible.

Paper: Kim, Choo, Jeong and Song, Co-Mixup (ICLR 2021, arXiv 2102.03065), Eq 3-6 and algorithm 1. Repository:
snu-mllab/Co-Mixup (`match.py`, `mixup.py`), whose settings for CIFAR-100 are the defaults; [C] read there.

Output i of m has a label z_ip for each of its n x n cells p: which of the m images it shows there, as a one-hot vector,
or a mean of two. o_i = sum_p z_ip counts what it shows; c_p are costs of the images, minus their shares of saliency.

    sum_i [ sum_p c_p . z_ip + beta / n^2 sum_{p~q} (1 - z_ip . z_iq) ]         salient, and smooth
      + gamma / n^2 sum_{i != j} max'(o_i^T A o_j)                               different from each other
      - eta / n^2 sum_ip log(lam) . z_ip,  lam ~ Dirichlet(alpha)                a random preference

max'(x) is x above the threshold tau and 0 below; A is the identity, and a little of the distance between the most
salient places of two images. Outputs are labelled one after the other, several times over, given all others: then the
second line is a cost of each image, and what remains is a graph cut. From the second time on, an output of two images
may also show their mean, one of more the three means of its three largest.

Deviations:
1. The cut is `trainables.graphcuts`'s, in floats.
2. The threshold applies to each image's own row of A o. In the code it selects columns, by the order of two operators;
   A is so near the identity that this hardly differs.
3. The parts of a batch are solved one after the other, in this process.
4. Images of any size are mixed with these settings. The repository's path for ImageNet has parts of 16, three rounds
   and windows side by side, and its alpha is 1: the 2 of its configuration is read by nothing.

Shapes: B images, m of a part, H rows, W columns, n cells a side, K classes, L labels of one cut.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables import graphcuts
from trainables.config import ConfigError
from trainables.graphcuts import Floats


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of the mixing. All [C], for CIFAR-100 and PreActResNet-18."""

    grid: int = 4
    """Cells a side, n."""
    part: int = 20
    """Images that are mixed with each other, m; the last part may have fewer."""
    smoothness: float = 0.32
    """Beta."""
    diversity: float = 1.0
    """Gamma."""
    threshold: float = 0.83
    """Tau, as a share of an output's cells."""
    prior: float = 0.05
    """Eta."""
    compatibility: float = 0.001
    """Omega: how much of A is distance."""
    rounds: int = 4
    """Times that every output is labelled."""
    window: int = 8
    """Side of the square whose mean says where an image is most salient, pixels."""
    bonus: float = 5e-4
    """By which a mean of two costs less than the mean of their costs."""


SETTINGS = Settings()


def check_images(settings: Settings, height: int, width: int) -> None:
    """Checks that the grid and the window fit the images.

    Raises:
        ConfigError: they do not.
    """
    if height != width or height % settings.grid or height < settings.window:
        raise ConfigError(
            f"Co-Mixup is not defined for images of {height} x {width} pixels: it needs a square whose side is a "
            f"multiple of {settings.grid} and at least {settings.window}. Set another side of the images."
        )


def comixup(
    x_BCHW: Tensor, phi_BHW: Tensor, alpha: float, random: np.random.Generator, settings: Settings = SETTINGS
) -> tuple[Tensor, Tensor]:
    """Mixed images, and the weight of each image of the batch in each of them (B, B); rows sum to 1.

    Args:
        x_BCHW: images.
        phi_BHW: saliency of their pixels.
        alpha: of the Dirichlet distribution.
        random: on the host, where all is solved.
        settings: see there.
    """
    pooled_Bnn = F.avg_pool2d(phi_BHW.unsqueeze(1), phi_BHW.shape[1] // settings.grid).squeeze(1)
    s_Bnn, apart_BB = pooled_Bnn.double().cpu().numpy(), distances(phi_BHW, settings.window).double().cpu().numpy()
    mixed, weights_BB = [], torch.zeros(len(x_BCHW), len(x_BCHW), dtype=x_BCHW.dtype)
    for start in range(0, len(x_BCHW), settings.part):
        part = slice(start, start + settings.part)
        z_mnnm = labelled(s_Bnn[part], compatible(apart_BB[part, part], settings), alpha, random, settings)
        z = torch.from_numpy(z_mnnm).to(x_BCHW)
        mixed.append(shown(x_BCHW[part], z))
        weights_BB[part, part] = z.mean((1, 2)).cpu()
    return torch.cat(mixed), weights_BB.to(x_BCHW.device)


def shown(x_mCHW: Tensor, z_mnnm: Tensor) -> Tensor:
    """The outputs (m, C, H, W): each cell the weighted mean of the images there."""
    times = x_mCHW.shape[2] // z_mnnm.shape[1]
    z_mHWm = z_mnnm.repeat_interleave(times, 1).repeat_interleave(times, 2)
    return torch.einsum("ohwi,ichw->ochw", z_mHWm, x_mCHW)


def distances(phi_BHW: Tensor, window: int) -> Tensor:
    """Between the most salient windows of all pairs of images (B, B): rows apart plus columns apart."""
    mean_BHW = F.avg_pool2d(phi_BHW.unsqueeze(1), window, stride=1).squeeze(1)
    peak_B, width = mean_BHW.flatten(1).argmax(1), mean_BHW.shape[2]
    rows_B, columns_B = peak_B // width, peak_B % width
    return (rows_B[:, None] - rows_B).abs() + (columns_B[:, None] - columns_B).abs()


def compatible(apart_mm: Floats, settings: Settings) -> Floats:
    """A: (1 - omega) of the identity, and omega of the distances, scaled to the same sum."""
    count, total = len(apart_mm), apart_mm.sum()
    share = apart_mm * (count / total) if total > 0 else np.zeros_like(apart_mm)
    found: Floats = (1 - settings.compatibility) * np.eye(count) + settings.compatibility * share
    return found


def labelled(
    s_mnn: Floats, similar_mm: Floats, alpha: float, random: np.random.Generator, settings: Settings = SETTINGS
) -> Floats:
    """What each output shows in each cell, as weights of the images: z (m, n, n, m).

    Args:
        s_mnn: saliency of cells, not normalised; uniform where an image has none.
        similar_mm: A.
        alpha: of the Dirichlet distribution.
        random: of that, and of the first labels.
        settings: see there.
    """
    m, n = len(s_mnn), s_mnn.shape[1]
    total_m11 = s_mnn.sum((1, 2), keepdims=True)
    share_mnn = np.divide(s_mnn, total_m11, out=np.full_like(s_mnn, 1 / n**2), where=total_m11 > 0)
    cost_nnm = -share_mnn.transpose(1, 2, 0) - settings.prior / n**2 * np.log(random.dirichlet([alpha] * m) + 1e-8)
    z_mnnm = np.eye(m)[random.integers(m, size=(m, n, n))]
    before, extra_mm = objective(z_mnnm, cost_nnm, settings), np.zeros((m, m))
    for round_ in range(settings.rounds):
        for i in range(m):
            others_m = z_mnnm.sum((0, 1, 2)) - z_mnnm[i].sum((0, 1))
            penalty_m = crowding(similar_mm @ others_m, settings) + settings.diversity / n**2 * extra_mm[i]
            z_mnnm[i] = cut(cost_nnm + penalty_m, z_mnnm[i], round_ > 0, settings)
        if round_ == settings.rounds - 2:
            extra_mm = told_apart(z_mnnm.sum((1, 2)) > 0)
        now = objective(z_mnnm, cost_nnm, settings)
        if abs(before - now) < 1e-6 * abs(now):
            break
        before = now
    return z_mnnm


def crowding(shown_m: Floats, settings: Settings) -> Floats:
    """What a cell of each image costs, given how much of it the other outputs show: nothing up to the threshold."""
    cells = settings.grid**2
    found: Floats = 2 * settings.diversity / cells * np.where(shown_m > settings.threshold * cells, shown_m, 0.0)
    return found


def objective(z_mnnm: Floats, cost_nnm: Floats, settings: Settings) -> float:
    """What tells that nothing changes any more: the objective without threshold, and with the identity for A."""
    cells = settings.grid**2
    uneven = sum(np.square(np.diff(z_mnnm, axis=axis)).sum() for axis in (1, 2))
    counts_mm = z_mnnm.sum((1, 2))
    alike = np.square(counts_mm.sum(0)).sum() - np.square(counts_mm).sum()
    return float((cost_nnm * z_mnnm).sum() + (settings.smoothness / 2 * uneven + settings.diversity * alike) / cells)


def cut(cost_nnm: Floats, z_nnm: Floats, means: bool, settings: Settings = SETTINGS) -> Floats:
    """One output's labelling (n, n, m), given what every image costs in every cell.

    Args:
        cost_nnm: costs.
        z_nnm: the labelling before.
        means: whether a mean of two images that it shows may be a label too.
        settings: see there.
    """
    m, n = cost_nnm.shape[2], settings.grid
    counts_m = z_nnm.sum((0, 1))
    largest = np.argsort(-counts_m, kind="stable")[: min(3, np.count_nonzero(counts_m))]
    pairs = list(combinations(sorted(largest.tolist()), 2)) if means else []
    kinds_Lm = np.vstack([np.eye(m), *((np.eye(m)[a] + np.eye(m)[b])[None] / 2 for a, b in pairs)])
    costs_nnL = cost_nnm @ kinds_Lm.T
    costs_nnL[..., m:] -= settings.bonus
    penalty_LL = 1 - np.eye(m + len(pairs))
    for label, pair in enumerate(pairs, m):
        for image in pair:
            penalty_LL[label, image] = penalty_LL[image, label] = 0.25
    beta = settings.smoothness / n**2
    down, right = np.full((1, n - 1, n), beta), np.full((1, n, n - 1), beta)
    found_nn = graphcuts.swap(costs_nnL[None], penalty_LL, down, right)[0]
    chosen: Floats = kinds_Lm[found_nn]
    return chosen


def told_apart(shows_mm: np.ndarray) -> Floats:
    """Extra costs (m, m) for outputs that show the same images: the first shall leave one, the second another.

    Args:
        shows_mm: whether an output shows an image at all.
    """
    extra_mm = np.zeros(shows_mm.shape)
    for one, other in combinations(range(len(shows_mm)), 2):
        images = np.flatnonzero(shows_mm[one])
        if len(images) > 1 and (shows_mm[one] == shows_mm[other]).all():
            extra_mm[one, images[0]] = extra_mm[other, images[1]] = 1.0
    return extra_mm
