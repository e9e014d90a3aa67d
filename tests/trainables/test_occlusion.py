"""Occlusion: exactly so many patches, each whole, the smaller share's among them."""

from itertools import pairwise

import pytest
import torch

from trainables.occlusion import SHARES, occlude


def covered(share, grid=8, side=32, count=6):
    x = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    found = occlude(x, share, grid, (-1.0, -2.0, -3.0), torch.Generator().manual_seed(1))
    hidden = found[:, 0] == -1
    for channel, colour in enumerate((-1, -2, -3)):
        assert torch.equal(found[:, channel], torch.where(hidden, colour, x[:, channel]))
    return hidden


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize(("grid", "side"), [(8, 32), (14, 224)])
def test_so_many_patches_are_covered_and_whole(share, grid, side):
    tiles = (
        covered(share, grid, side, count=2).unfold(1, side // grid, side // grid).unfold(2, side // grid, side // grid)
    )
    whole, any_ = tiles.all(-1).all(-1), tiles.any(-1).any(-1)
    assert torch.equal(whole, any_)
    assert whole.sum((1, 2)).tolist() == [round(share * grid * grid)] * 2


def test_images_have_patches_of_their_own_and_a_larger_share_covers_them_too():
    hidden = [covered(share) for share in SHARES]
    assert len({each.flatten().numpy().tobytes() for each in hidden[3]}) == 6
    for before, after in pairwise(hidden):
        assert torch.equal(before & after, before)


def test_a_grid_that_does_not_divide_covers_about_its_share():
    assert covered(0.5, grid=14, count=200).double().mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("share", "grid"), [(1.1, 8), (-0.1, 8), (0.5, 0)])
def test_what_means_nothing_is_refused(share, grid):
    with pytest.raises(ValueError, match="is not allowed"):
        covered(share, grid)
