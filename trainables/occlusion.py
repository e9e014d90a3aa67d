"""Random patches of images covered, at any share.

Paper: Naseer et al., Intriguing Properties of Vision Transformers (arXiv 2105.10497), as AdAutoMix (ICLR 2024), Table
7, uses it. Repository: JinXins/Adversarial-AutoMixup: 14 x 14 patches of images at 224 pixels, 0 after normalisation.

Deviations:
1. Each image has patches of its own; in the code all of a batch have the same.
2. Where the grid does not divide the image, patches differ by a pixel.

Shapes: B images, C channels, H rows, W columns, P patches.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

SHARES = tuple(percent / 100 for percent in range(0, 100, 10))


def occlude(x_BCHW: Tensor, share: float, grid: int, fill: Sequence[float], generator: Generator) -> Tensor:
    """Images with round(share x grid x grid) patches covered.

    The same generator covers the more patches the larger the share, those of a smaller one among them.

    Args:
        x_BCHW: images.
        share: of the patches, 0 to 1.
        grid: patches a side.
        fill: the colour that covers, a number a channel or one for all.
        generator: on the images' device.

    Raises:
        ValueError: a share outside 0 to 1, or no patch.
    """
    if not 0 <= share <= 1 or grid < 1:
        raise ValueError(f"share={share} of a grid of {grid} is not allowed: 0 to 1, of at least one patch.")
    count, _, height, width = x_BCHW.shape
    draw_BP = torch.rand(count, grid * grid, generator=generator, device=x_BCHW.device)
    rank_BP = draw_BP.argsort(1).argsort(1)
    covered_Bgg = (rank_BP < round(share * grid * grid)).view(count, grid, grid)
    rows, columns = (torch.arange(side, device=x_BCHW.device) * grid // side for side in (height, width))
    covered_B1HW = covered_Bgg[:, rows[:, None], columns][:, None]
    colour = torch.tensor(fill, dtype=x_BCHW.dtype, device=x_BCHW.device).view(1, -1, 1, 1)
    return torch.where(covered_B1HW, colour, x_BCHW)
