"""The generators: golden numbers of the released blocks, their equations pixel by pixel, properties."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables import mixblock

GOLDEN = Path(__file__).parents[1] / "golden" / "mixing"


def golden(name: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(np.array(file[key])) for key in file.files}


def close(found, wanted) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def loaded(block, weights: dict[str, torch.Tensor]):
    """The block with weights by our names: query, key, value."""
    block.load_state_dict({f"{part}.{kind}": weights[part, kind] for part, kind in weights})
    return block


def a_block(embed=False, *, channels=6, scale=4, seed=0, **fields):
    """A block with weights large enough that its masks are far from even."""
    block = mixblock.MixBlock(channels, embed=embed, scale=scale, **fields)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in block.parameters():
            weight.normal_(0, 1, generator=random)
    return block


# Golden numbers


@pytest.mark.parametrize("upsampling", ["bilinear", "nearest"])
@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("embed", [False, True])
def test_masks_are_those_of_the_released_block(embed, count, upsampling):
    g = golden("A1_adaptive_mask")
    prefix = f"lamcat{int(embed)}"
    names = {"query": "conv_q_conv", "key": "conv_k_conv", "value": "conv_v"}
    weights = {(mine, k): g[f"{prefix}_{theirs}_{k}"] for mine, theirs in names.items() for k in ("weight", "bias")}
    block = loaded(mixblock.MixBlock(6, embed=embed, scale=4, upsampling=upsampling), weights)
    features, index = g["features"][:count].flatten(0, 1), torch.arange(3 * count).view(count, 3)
    lam = torch.stack([g["lam_n2"], 1 - g["lam_n2"]]) if count == 2 else g[f"lam_n{count}"]
    close(block(features, index, lam), g[f"{prefix}_mask_n{count}_{upsampling}"])
    if count < 4:
        close(block.scores(features, index, lam), g[f"{prefix}_lowres_n{count}"])


def test_automix_masks_and_their_loss_are_those_of_the_released_block():
    g = golden("A4_automix_pixelmixblock")
    names = {"query": "query_conv", "value": "value"}
    weights = {(mine, k): g[f"{theirs}_{k}"] for mine, theirs in names.items() for k in ("weight", "bias")}
    block = loaded(mixblock.PairBlock(6, scale=4), weights)
    masks = block(g["x"], torch.stack([torch.arange(3), g["index"]]), g["lam"])
    close(masks, g["mask"])
    close(mixblock.area_loss(masks, g["lam"]), g["mask_loss_L1_margin01_lam07"])
    close(mixblock.area_loss(masks, torch.tensor(0.05)), g["mask_loss_lam005"])


# The equations, pixel by pixel


def slow_scores(block, features, index, lam):
    """Eq 5 with a loop over everything."""
    places, count = index.shape
    _, channels, height, width = features.shape
    out = torch.zeros(count, places, height, width)
    for b in range(count):
        maps = []
        for n in range(places):
            z = features[index[n, b]].flatten(1)
            if block.embed:
                z = torch.cat([z, torch.full((1, z.shape[1]), float(lam[n]))])
            q, k, v = (
                conv.weight.flatten(1) @ z + conv.bias[:, None] for conv in (block.query, block.key, block.value)
            )
            maps.append((q, k, v) if block.linear else (q.relu(), k.relu(), v))
        for n in range(places):
            q, _, v = maps[n]
            attention = sum(q.T @ maps[i][1] for i in range(places) if i != n) / (channels // 2) ** 0.5
            out[b, n] = (attention.softmax(1) @ v[0]).view(height, width)
    return out


@torch.no_grad()
@given(
    seed=st.integers(0, 1000), places=st.integers(2, 5), embed=st.booleans(), linear=st.booleans(), first=st.booleans()
)
@settings(max_examples=20, deadline=None)
def test_masks_are_equations_5_and_6(seed, places, embed, linear, first):
    random = torch.Generator().manual_seed(seed)
    block = a_block(embed, linear=linear, softmax_first=first, seed=seed)
    features = torch.randn(4, 6, 3, 2, generator=random)
    index = torch.rand(places, 4, generator=random).argsort(1)
    lam = torch.rand(places, generator=random)
    lam = lam / lam.sum()
    scores = slow_scores(block, features, index, lam)
    torch.testing.assert_close(block.scores(features, index, lam), scores, atol=1e-5, rtol=1e-4)

    def grown(maps):
        return F.interpolate(maps, scale_factor=4, mode="bilinear", align_corners=False)

    masks = block(features, index, lam)
    wanted = grown(scores.softmax(1)) if first else grown(scores).softmax(1)
    torch.testing.assert_close(masks, wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(masks.sum(1), torch.ones(4, 12, 8))


@torch.no_grad()
def test_automix_masks_are_its_equation():
    random = torch.Generator().manual_seed(0)
    block = mixblock.PairBlock(6, scale=2)
    for weight in block.parameters():
        weight.normal_(0, 1, generator=random)
    features, partner = torch.randn(3, 6, 4, 4, generator=random), torch.tensor([1, 2, 0])
    masks = block(features, torch.stack([torch.arange(3), partner]), torch.tensor([0.5, 0.5]))
    for b, other in enumerate(partner.tolist()):
        q, k = (block.query.weight.flatten(1) @ features[i].flatten(1) + block.query.bias[:, None] for i in (b, other))
        v = block.value.weight.flatten(1) @ features[other].flatten(1) + block.value.bias[:, None]
        low = ((q.T @ k / 3**0.5).softmax(1) @ v[0]).view(1, 1, 4, 4)
        torch.testing.assert_close(masks[b, 1], F.interpolate(low, scale_factor=2)[0, 0].sigmoid())
    torch.testing.assert_close(masks.sum(1), torch.ones(3, 8, 8))


@pytest.mark.parametrize("how", ["bilinear", "nearest"])
def test_upsampling_and_its_gradient_are_torchs(how):
    random = torch.Generator().manual_seed(0)
    mine = torch.randn(2, 3, 4, 5, generator=random, dtype=torch.double, requires_grad=True)
    theirs = mine.detach().clone().requires_grad_()
    align = {"align_corners": False} if how == "bilinear" else {}
    wanted = F.interpolate(theirs, scale_factor=3, mode=how, **align)
    found = mixblock.upsampled(mine, 3, how)
    torch.testing.assert_close(found, wanted)
    weight = torch.randn(found.shape, generator=random, dtype=torch.double)
    (found * weight).sum().backward()
    (wanted * weight).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


# Properties


@torch.no_grad()
def test_the_order_of_the_images_orders_the_masks():
    random = torch.Generator().manual_seed(1)
    block = a_block(embed=True)
    features, index = torch.randn(5, 6, 4, 4, generator=random), torch.rand(3, 5, generator=random).argsort(1)
    lam, order = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([2, 0, 1])
    masks = block(features, index, lam)
    torch.testing.assert_close(block(features, index[order], lam[order]), masks[:, order])


@torch.no_grad()
def test_masks_depend_on_the_ratios_where_they_are_embedded_only():
    features = torch.randn(4, 6, 4, 4, generator=torch.Generator().manual_seed(3))
    index = torch.stack([torch.arange(4), torch.arange(4).flip(0)])
    lams = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    told, untold = a_block(embed=True), a_block(embed=False)
    assert not torch.allclose(told(features, index, lams[0]), told(features, index, lams[1]))
    assert torch.equal(untold(features, index, lams[0]), untold(features, index, lams[1]))


@torch.no_grad()
def test_an_untrained_generator_mixes_nearly_evenly():
    random = torch.Generator().manual_seed(4)
    features, index = torch.randn(4, 64, 8, 8, generator=random).relu(), torch.rand(3, 4, generator=random).argsort(1)
    for description, even in (
        ({"kind": "any", "embed": False, "scale": 4}, 1 / 3),
        ({"kind": "pair", "scale": 4}, 1 / 2),
    ):
        block = mixblock.build(description, 64)
        mixblock.initialise(block, torch.Generator().manual_seed(0))
        masks = block(features, index[: round(1 / even)], torch.tensor([0.5, 0.3, 0.2]))
        assert float((masks - even).abs().max()) < 0.1
        assert float(block.query.weight.std()) == pytest.approx(0.01, rel=0.1)
        assert not block.query.bias.any()


def test_mixing_takes_each_pixel_from_each_image_as_its_mask_says():
    random = torch.Generator().manual_seed(2)
    x, index = torch.randn(4, 3, 2, 2, generator=random), torch.rand(3, 4, generator=random).argsort(1)
    masks = torch.rand(4, 3, 2, 2, generator=random).softmax(1)
    mixed = mixblock.mixed(x, index, masks)
    for b in range(4):
        wanted = sum(masks[b, n] * x[index[n, b]] for n in range(3))
        torch.testing.assert_close(mixed[b], wanted)
    lam = torch.tensor([0.5, 0.3, 0.2])
    even = lam.view(1, 3, 1, 1).expand(4, 3, 2, 2)
    torch.testing.assert_close(mixblock.linear(x, index, lam), mixblock.mixed(x, index, even))


@given(area=st.floats(0, 1), lam=st.floats(0, 1))
@settings(deadline=None)
def test_the_loss_of_the_area_is_free_within_its_margin(area, lam):
    masks = torch.tensor([area, 1 - area], dtype=torch.double).view(1, 2, 1, 1).expand(2, 2, 4, 4)
    found = float(mixblock.area_loss(masks, torch.tensor(lam, dtype=torch.double)))
    assert found == pytest.approx(max(abs(area - lam) - 0.1, 0), abs=1e-9)


def test_building_a_generator_reads_no_global_generator():
    before = torch.get_rng_state()
    block = mixblock.build({"kind": "any", "embed": True, "scale": 4}, 8)
    mixblock.initialise(block, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)
    assert block.query.weight.shape == (4, 9, 1, 1)
