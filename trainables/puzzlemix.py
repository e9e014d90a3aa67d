"""PuzzleMix: each cell of a grid shows one of two images, or both, by a graph cut that keeps what is salient; and the
patches of each image are moved to where they are shown.

Paper: Kim, Choo and Song, Puzzle Mix (ICML 2020, arXiv 2009.06962), Eq 4-9. Repository: snu-mllab/PuzzleMix, whose
settings for CIFAR-100 are the defaults; [C] read there.

    s            saliency of the image's cells, summing to 1; s' of its partner's
    z in L       an image's own weight in a cell: 1, 1/2 or 0
    d_ab(p, q)   mean difference of pixels along the border of neighbours p and q, a's on p's side and b's on q's;
                 1 is the image itself, 0 its partner
    E(z) = const + sum_p [ (1 - z_p) s_p + z_p s'_p - eta / n^2 log Binomial(2 z_p; 2, lam) ]
         + sum_{p~q} beta / (16 n) [ (z_p - z_q)^2 + gamma d_{z_p z_q}(p, q) ]

The last term is written for z in {0, 1} as a part of each cell's cost and a penalty for unequal neighbours, and carried
over to 1/2 by that. Then each image's cells are moved, by an auction, to where their saliency is shown, at a cost that
grows with the squared distance.

Deviations:
1. The cut is `trainables.graphcuts`'s, in floats.
2. No adversarial noise, which the repository has for another experiment.
3. Images of any size are mixed with these settings, and a grid whose cells hold no whole number of patches is not
   drawn: 16 cells a side on 224 pixels. The repository's path for ImageNet moves whole cells and compares squares of 2
   pixels, so that 16 fit there; its beta is 1.5; and from epoch 40 of 100 on it looks at the clean images in eval mode
   and leaves out their gradient.

As released, and not obvious: the auction ends after as many rounds as cells a side, settled or not. A patch can win a
cell only where its saliency is worth more than the way, so cells that are not shown mostly stay empty; they are left at
0. Labels have the weights of the mask, wherever patches have gone.

Shapes: B images, C channels, H rows, W columns, n cells a side of the mask, t cells a side of the transport.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables import graphcuts
from trainables.config import ConfigError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of the mixing. All [C], for CIFAR-100 and PreActResNet-18."""

    grids: tuple[int, ...] = (2, 4, 8, 16)
    """Cells a side, one of these for each batch, of those that fit the images."""
    smoothness: float = 1.2
    """Beta."""
    data_smoothness: float = 0.5
    """Gamma."""
    prior: float = 0.2
    """Eta."""
    border: int = 4
    """Pixels are averaged over squares of this side before borders are compared, or over a cell if that is smaller."""
    transport: bool = True
    """Whether patches move."""
    patch: int = 4
    """Side of what moves, pixels, or a cell if that is smaller."""
    transport_cost: float = 0.8
    """Of moving from corner to corner along one side, in units of all of an image's saliency."""


SETTINGS = Settings()


def check_images(settings: Settings, height: int, width: int) -> None:
    """Checks that a grid fits the images.

    Raises:
        ConfigError: images that are not square, or that none of the grids fits.
    """
    if height != width or not fitting(settings, height):
        raise ConfigError(
            f"PuzzleMix is not defined for images of {height} x {width} pixels: it needs a square of "
            f"{' or '.join(map(str, settings.grids))} cells a side, each of at most {settings.patch} pixels or of a "
            f"multiple of {settings.patch}. Set another side of the images, such as 16 or 32."
        )


def fitting(settings: Settings, side: int) -> tuple[int, ...]:
    """The grids that divide images of that side into cells of whole squares and whole patches."""
    sizes = (settings.border, settings.patch)
    return tuple(
        n for n in settings.grids if side % n == 0 and all(side // n % min(size, side // n) == 0 for size in sizes)
    )


def puzzlemix(
    x_BCHW: Tensor,
    phi_BHW: Tensor,
    partner_B: Tensor,
    lam: float,
    n: int,
    std: Sequence[float],
    settings: Settings = SETTINGS,
) -> tuple[Tensor, Tensor]:
    """Mixed images, and the weight of each image's own label (B, 1). The cut is made on the host.

    Args:
        x_BCHW: normalised images.
        phi_BHW: saliency of their pixels.
        partner_B: index of each image's partner.
        lam: share of the image that the prior asks for.
        n: cells a side; divides the images' side.
        std: of the normalisation, a number or one for each channel: differences are of pixels.
        settings: see there.
    """
    side = x_BCHW.shape[2]
    mask_Bnn = masks(x_BCHW, phi_BHW, partner_B, lam, n, std, settings)
    own_BCHW, other_BCHW = x_BCHW, x_BCHW[partner_B]
    if settings.transport:
        t = side // min(settings.patch, side // n)
        shown_Btt = enlarged(mask_Bnn, t)
        s_Btt = salient(phi_BHW, t)
        own_BCHW = moved(own_BCHW, transport(shown_Btt, s_Btt, settings.transport_cost))
        other_BCHW = moved(other_BCHW, transport(1 - shown_Btt, s_Btt[partner_B], settings.transport_cost))
    own_BHW = enlarged(mask_Bnn, side)
    return torch.lerp(other_BCHW, own_BCHW, own_BHW.unsqueeze(1)), mask_Bnn.mean((1, 2)).unsqueeze(1)


def salient(phi_BHW: Tensor, n: int) -> Tensor:
    """Shares (B, n, n) of each image's saliency; uniform where there is none."""
    s_Bnn = F.avg_pool2d(phi_BHW.unsqueeze(1), phi_BHW.shape[1] // n).squeeze(1)
    total_B11 = s_Bnn.sum((1, 2), keepdim=True)
    return torch.where(total_B11 > 0, s_Bnn / total_B11, torch.full_like(s_Bnn, n**-2))


def enlarged(mask_Bnn: Tensor, side: int) -> Tensor:
    """Each cell repeated, to that side; a multiple of the mask's."""
    times = side // mask_Bnn.shape[1]
    return mask_Bnn.repeat_interleave(times, 1).repeat_interleave(times, 2)


# The mask


def masks(
    x_BCHW: Tensor,
    phi_BHW: Tensor,
    partner_B: Tensor,
    lam: float,
    n: int,
    std: Sequence[float],
    settings: Settings = SETTINGS,
) -> Tensor:
    """Own weights z (B, n, n) that minimise E up to swaps of two of their values."""
    s_Bnn = salient(phi_BHW, n)
    small_BChw = _small(x_BCHW, n, std, settings)
    costs, down, right = terms(s_Bnn, small_BChw, partner_B, lam, settings)
    labels_Bnn = graphcuts.swap(costs, PENALTY, down, right)
    return (1 - torch.from_numpy(labels_Bnn) / 2).to(phi_BHW)


PENALTY = np.subtract.outer([1, 0.5, 0], [1, 0.5, 0]) ** 2
"""(z_p - z_q)^2 for labels 0, 1, 2, which stand for z = 1, 1/2, 0."""


def _small(x_BCHW: Tensor, n: int, std: Sequence[float], settings: Settings) -> Tensor:
    """Pixels up to a constant, averaged over squares as `Settings.border` says."""
    pixels_BCHW = x_BCHW * torch.tensor(std, dtype=x_BCHW.dtype, device=x_BCHW.device).view(1, -1, 1, 1)
    return F.avg_pool2d(pixels_BCHW, min(settings.border, x_BCHW.shape[2] // n))


def terms(
    s_Bnn: Tensor, small_BChw: Tensor, partner_B: Tensor, lam: float, settings: Settings = SETTINGS
) -> tuple[graphcuts.Floats, graphcuts.Floats, graphcuts.Floats]:
    """E in the solver's form: costs of the three labels (B, n, n, 3), and weights of PENALTY down and to the right.

    Args:
        s_Bnn: shares of saliency.
        small_BChw: pixels, averaged; each cell has a whole number of them a side.
        partner_B: index of each image's partner.
        lam: see `puzzlemix`.
        settings: see there.
    """
    n = s_Bnn.shape[1]
    beta = settings.smoothness / n / 16
    lost = {1: s_Bnn[partner_B].clone(), 0: s_Bnn.clone()}  # cost of z = 1 and of z = 0
    shown = {1: small_BChw, 0: small_BChw[partner_B]}
    weights = []
    for axis in (1, 2):
        d = {(a, b): differences(shown[a], shown[b], n, axis) for a in (0, 1) for b in (0, 1)}
        share = beta * settings.data_smoothness / 2
        first, second = (slice(None),) * axis + (slice(-1),), (slice(None),) * axis + (slice(1, None),)
        for z in (0, 1):
            lost[z][first] += share * (d[z, 0] + d[z, 1])
            lost[z][second] += share * (d[0, z] + d[1, z])
        weights.append(beta + share * (d[1, 0] + d[0, 1] - d[1, 1] - d[0, 0]))
    binomial = torch.tensor([lam**2, 2 * lam * (1 - lam), (1 - lam) ** 2], dtype=torch.float64)
    prior = -settings.prior / n**2 * (binomial + 1e-8).log()
    own, other = lost[1].double().cpu(), lost[0].double().cpu()
    costs = torch.stack([own, (own + other) / 2, other], dim=3) + prior
    down, right = (weight.double().cpu().numpy() for weight in weights)
    return costs.numpy(), down, right


def differences(one_BChw: Tensor, other_BChw: Tensor, n: int, axis: int) -> Tensor:
    """Mean |one - other| along the borders of neighbouring cells: `one` before the border, `other` behind it.

    Args:
        one_BChw: averaged pixels.
        other_BChw: likewise.
        n: cells a side.
        axis: 1 for borders between rows, (B, n - 1, n); 2 for those between columns, (B, n, n - 1).
    """
    if axis == 2:
        return differences(one_BChw.mT, other_BChw.mT, n, 1).mT
    each = one_BChw.shape[2] // n
    before_BCbw, behind_BCbw = one_BChw[:, :, each - 1 : -1 : each], other_BChw[:, :, each::each]
    apart_Bbw = (before_BCbw - behind_BCbw).abs().mean(1)
    return F.avg_pool2d(apart_Bbw.unsqueeze(1), (1, each)).squeeze(1)


# The transport


def transport(shown_Btt: Tensor, s_Btt: Tensor, price: float) -> Tensor:
    """Where each cell's pixels come from: sources (B, t^2), or -1 for a cell that nothing was moved to.

    Every patch bids for the cell that suits it best; of several, the one whom it costs least wins, and for the others
    that cell is dearer by 1 from then on. What costs 0 or more wins nothing: in the code, who does not bid offers 0.

    Args:
        shown_Btt: own weights; saliency counts where they are above 0.
        s_Btt: shares of saliency.
        price: see `Settings.transport_cost`.
    """
    t = s_Btt.shape[1]
    place = torch.arange(t, device=s_Btt.device)
    apart_tt = (place.unsqueeze(0) - place.unsqueeze(1)).square()
    distance = (apart_tt[:, None, :, None] + apart_tt[None, :, None, :]).reshape(t * t, t * t) / max(t - 1, 1) ** 2
    cost = price * distance - s_Btt.flatten(1).unsqueeze(2) * (shown_Btt > 0).flatten(1).unsqueeze(1)
    for _ in range(t):
        offer_BN, bid_BN = cost.min(2)
        least_BN = torch.zeros_like(offer_BN).scatter_reduce(1, bid_BN, offer_BN, "amin")
        won_BN = (offer_BN < 0) & (offer_BN == least_BN.gather(1, bid_BN))
        cost.scatter_add_(2, bid_BN.unsqueeze(2), (~won_BN).to(cost.dtype).unsqueeze(2))
    nowhere, patch_BN = t * t, torch.arange(t * t, device=s_Btt.device).expand_as(bid_BN)
    cells = torch.full((len(cost), t * t + 1), nowhere, device=s_Btt.device)
    source_BN = cells.scatter_reduce(1, torch.where(won_BN, bid_BN, nowhere), patch_BN, "amin")[:, :-1]
    return torch.where(source_BN == nowhere, -1, source_BN)


def moved(x_BCHW: Tensor, source_BN: Tensor) -> Tensor:
    """The images with their patches where `transport` has put them."""
    count, channels, side, _ = x_BCHW.shape
    t = round(source_BN.shape[1] ** 0.5)
    each = side // t
    patches = x_BCHW.reshape(count, channels, t, each, t, each).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    rows = torch.arange(count, device=x_BCHW.device).unsqueeze(1)
    found = patches[rows, source_BN.clamp(min=0)] * (source_BN >= 0)[:, :, None, None, None]
    return found.view(count, t, t, channels, each, each).permute(0, 3, 1, 4, 2, 5).reshape(x_BCHW.shape)
