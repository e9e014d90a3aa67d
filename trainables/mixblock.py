"""The generators of AdAutoMix and AutoMix: masks by which N images, or two, are mixed, from the features of each.

Papers: Adversarial AutoMixup (AdAutoMix), ICLR 2024, section 3.2, Eq 5-8; AutoMix (arXiv 2103.13027). Repositories:
JinXins/Adversarial-AutoMixup, Westlake-AI/openmixup. AdAutoMix, for image n of N:

    q_n, k_n = relu(conv(z_n)), two convolutions of 1 x 1;  v_n = conv(z_n), one channel
    P_n = softmax(sum_{i != n} q_n^T k_i / sqrt(d)) v_n                                                          (Eq 5)
    mask_n = softmax over n of the upsampled P_n;  x_mix = sum_n mask_n x_n                                   (Eq 6, 7)

z_n is the feature map, with a channel of the constant lam_n where lam is embedded; d is half the map's channels.

Deviations:
1. ReLU after q and k, softmax after the upsampling, and a mask that is one channel (the paper writes w h of them) are
   as in the code. The paper shows no activation and a softmax before the upsampling: `linear` and `softmax_first`.
2. Convolutions of 1 x 1 commute with permutations of the batch, so they are computed once for a batch, of which the
   mixed images are picked by index; the channel of lam is the addition of its weights. The numbers are the same.
3. Bilinear upsampling is two matrix products, whose gradient on a GPU adds up in a fixed order. The numbers are the
   same.
4. AutoMix's block knows no lam, as in the code on CIFAR and Tiny-ImageNet. On ImageNet and with Swin-T it has a channel
   of it there, and its loss of the area fades to nothing.

Shapes: B images, N mixed together, c channels and h x w pixels of a feature map, H x W of an image, d channels of q and
k. An index (N, B) says which image of the batch stands in place n of the mixed image b.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Upsampling = Literal["bilinear", "nearest"]


class MixBlock(nn.Module):
    """AdAutoMix's generator, for any number of images.

    Attributes:
        embed: whether lam is embedded; otherwise masks do not depend on it.
    """

    def __init__(
        self,
        channels: int,
        *,
        embed: bool,
        scale: int,
        upsampling: Upsampling = "bilinear",
        linear: bool = False,
        softmax_first: bool = False,
    ) -> None:
        super().__init__()
        inputs, inner = channels + int(embed), max(1, channels // 2)
        self.query, self.key = nn.Conv2d(inputs, inner, 1), nn.Conv2d(inputs, inner, 1)
        self.value = nn.Conv2d(inputs, 1, 1)
        self.embed, self.scale, self.upsampling = embed, scale, upsampling
        self.linear, self.softmax_first = linear, softmax_first

    def scores(self, features_Bchw: Tensor, index_NB: Tensor, lam_N: Tensor) -> Tensor:
        """P of Eq 5 for each place: (B, N, h, w)."""
        q_NBdh, k_NBdh, v_NB1h = (
            _placed(conv, features_Bchw, index_NB, lam_N if self.embed else None)
            for conv in (self.query, self.key, self.value)
        )
        if not self.linear:
            q_NBdh, k_NBdh = F.relu(q_NBdh), F.relu(k_NBdh)
        others_NBdh = k_NBdh.sum(0) - k_NBdh
        attention_NBhh = (q_NBdh.mT @ others_NBdh / q_NBdh.shape[2] ** 0.5).softmax(-1)
        p_NBh1 = attention_NBhh @ v_NB1h.mT
        p_BNhw: Tensor = p_NBh1.view(*index_NB.shape, *features_Bchw.shape[2:]).transpose(0, 1)
        return p_BNhw

    def forward(self, features_Bchw: Tensor, index_NB: Tensor, lam_N: Tensor) -> Tensor:
        """Masks (B, N, H, W), which sum to 1 over N at every pixel.

        Args:
            features_Bchw: of the batch.
            index_NB: which image of the batch stands at each place.
            lam_N: ratios, which sum to 1.
        """
        with torch.autocast(features_Bchw.device.type, enabled=False):
            p_BNhw = self.scores(features_Bchw.float(), index_NB, lam_N)
            if self.softmax_first:
                return upsampled(p_BNhw.softmax(1), self.scale, self.upsampling)
            return upsampled(p_BNhw, self.scale, self.upsampling).softmax(1)


class PairBlock(nn.Module):
    """AutoMix's generator, for two images: q and k of both are one convolution, and only the partner has a value."""

    def __init__(self, channels: int, *, scale: int, upsampling: Upsampling = "nearest") -> None:
        super().__init__()
        self.query, self.value = nn.Conv2d(channels, max(1, channels // 2), 1), nn.Conv2d(channels, 1, 1)
        self.scale, self.upsampling = scale, upsampling

    def forward(self, features_Bchw: Tensor, index_NB: Tensor, lam_N: Tensor) -> Tensor:  # noqa: ARG002 (as MixBlock)
        """Masks (B, 2, H, W): 1 - s and the partner's s; see `MixBlock.forward`. lam is not read."""
        with torch.autocast(features_Bchw.device.type, enabled=False):
            own_B, partner_B = index_NB
            features_Bchw = features_Bchw.float()
            q_Bdh, v_B1h = self.query(features_Bchw).flatten(2), self.value(features_Bchw).flatten(2)
            attention_Bhh = (q_Bdh[own_B].mT @ q_Bdh[partner_B] / q_Bdh.shape[1] ** 0.5).softmax(-1)
            p_Bh1 = attention_Bhh @ v_B1h[partner_B].mT
            p_B1hw = p_Bh1.view(len(own_B), 1, *features_Bchw.shape[2:])
            s_B1HW = upsampled(p_B1hw, self.scale, self.upsampling).sigmoid()
            return torch.cat([1 - s_B1HW, s_B1HW], 1)


def _placed(conv: nn.Conv2d, features_Bchw: Tensor, index_NB: Tensor, lam_N: Tensor | None) -> Tensor:
    """The convolution of every place's features, pixels in one axis: (N, B, outputs, h w)."""
    channels = features_Bchw.shape[1]
    out_Boh = F.conv2d(features_Bchw, conv.weight[:, :channels], conv.bias).flatten(2)
    placed_NBoh = out_Boh[index_NB]
    if lam_N is None:
        return placed_NBoh
    return placed_NBoh + lam_N.view(-1, 1, 1, 1) * conv.weight[:, channels].view(1, 1, -1, 1)


def upsampled(maps_BNhw: Tensor, scale: int, how: Upsampling) -> Tensor:
    """(B, N, h, w) -> (B, N, h scale, w scale), as `F.interpolate` with `align_corners=False`."""
    if how == "nearest":
        b, n, h, w = maps_BNhw.shape
        return maps_BNhw.reshape(b, n, h, 1, w, 1).expand(b, n, h, scale, w, scale).reshape(b, n, h * scale, w * scale)
    rows, columns = (_ramps(side, scale, maps_BNhw) for side in maps_BNhw.shape[2:])
    return rows @ maps_BNhw @ columns.mT


def _ramps(side: int, scale: int, like: Tensor) -> Tensor:
    """How much each of `side` pixels weighs in each of side * scale: (side * scale, side)."""
    eye = torch.eye(side, dtype=like.dtype, device=like.device).unsqueeze(0)
    return F.interpolate(eye, scale_factor=scale, mode="linear", align_corners=False)[0].mT


def mixed(x_BCHW: Tensor, index_NB: Tensor, masks_BNHW: Tensor) -> Tensor:
    """x_mix = sum_n mask_n x_n (Eq 7): (B, C, H, W), one image for each column of the index."""
    total_BCHW = x_BCHW[index_NB[0]] * masks_BNHW[:, :1]
    for n in range(1, len(index_NB)):
        total_BCHW = torch.addcmul(total_BCHW, x_BCHW[index_NB[n]], masks_BNHW[:, n : n + 1])
    return total_BCHW


def linear(x_BCHW: Tensor, index_NB: Tensor, lam_N: Tensor) -> Tensor:
    """sum_n lam_n x_n: Mixup of N images, (B, C, H, W)."""
    total_BCHW = x_BCHW[index_NB[0]] * lam_N[0]
    for n in range(1, len(index_NB)):
        total_BCHW = torch.addcmul(total_BCHW, x_BCHW[index_NB[n]], lam_N[n])
    return total_BCHW


def area_loss(masks_B2HW: Tensor, lam: Tensor, margin: float = 0.1) -> Tensor:
    """AutoMix's: how far the own mask's area (of the whole batch) is from lam, beyond a margin.

    Args:
        masks_B2HW: own and partner's.
        lam: the own image's share, a tensor without dimensions.
        margin: of the area, free of charge.
    """
    return ((masks_B2HW[:, 0].mean() - lam).abs() - margin).clamp(min=0)


def build(description: Mapping[str, Any], channels: int) -> nn.Module:
    """A generator whose weights are not yet drawn.

    Args:
        description: 'kind', which is 'any' for a `MixBlock` and 'pair' for a `PairBlock`, and its arguments.
        channels: c.
    """
    kind: type[nn.Module] = {"any": MixBlock, "pair": PairBlock}[description["kind"]]
    with torch.device("meta"):  # on a real one the layers would draw from the global generator
        generator = kind(channels, **{name: value for name, value in description.items() if name != "kind"})
    return generator.to_empty(device="cpu")


@torch.no_grad()
def initialise(block: nn.Module, generator: torch.Generator, std: float = 0.01) -> None:
    """Weights normal with that standard deviation, biases 0. Small: masks start at about 1 / N, AutoMix's at a half."""
    for part in block.modules():
        if isinstance(part, nn.Conv2d):
            part.weight.normal_(0.0, std, generator=generator)
            if part.bias is not None:
                part.bias.zero_()
