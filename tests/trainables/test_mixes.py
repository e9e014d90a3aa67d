"""The baselines' mixing: golden numbers of OpenMixup, and what must hold of every mask and box."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

from trainables import mixes, rmix

GOLDEN = Path(__file__).parents[1] / "golden" / "mixing"


@pytest.fixture(scope="module")
def g():
    with np.load(GOLDEN / "B1_baselines.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture
def batch(g):
    return torch.from_numpy(g["x"]), torch.from_numpy(g["perm"])


def close(found, wanted):
    torch.testing.assert_close(found, torch.as_tensor(wanted), atol=1e-5, rtol=0, check_dtype=False)


# Golden numbers


def test_mixup_is_openmixups(g, batch):
    close(mixes.mixup(*batch, float(g["mixup_lam"])), g["mixup_out"])


@pytest.mark.parametrize("case", range(3))
def test_cutmix_is_openmixups(g, batch, case):
    lam, *centre = g[f"cutmix{case}_lam_in_cx_cy"].tolist()
    mixed, own = mixes.cutmix(*batch, mixes.box(lam, tuple(centre), (16, 16)))
    close(mixed, g[f"cutmix{case}_out"])
    assert own == pytest.approx(float(g[f"cutmix{case}_lam_out"]), abs=1e-9)


@pytest.mark.parametrize("case", range(3))
def test_resizemix_is_openmixups(g, batch, case):
    tau, column, row = g[f"resizemix{case}_tau_cx_cy"].tolist()
    mixed, own = mixes.resizemix(*batch, tau, (int(row), int(column)))
    close(mixed, g[f"resizemix{case}_out"])
    assert own == pytest.approx(float(g[f"resizemix{case}_lam_out"]), abs=1e-9)


def test_gridmix_is_openmixups(g, batch):
    drawn = (float(g["gridmix_lam_in"]), int(g["gridmix_n_holes"]), float(g["gridmix_cut_area_ratio"]))
    mask = mixes.grid_mask(*drawn, float(g["gridmix_cut_aspect_ratio"]), tuple(g["gridmix_cx_cy"]), (16, 16))
    close(mixes.masked(*batch, torch.from_numpy(1 - mask)), g["gridmix_out"])
    assert 1 - mask.mean() == pytest.approx(float(g["gridmix_lam_out"]), abs=1e-6)


@pytest.mark.parametrize("rounding", ["ceil", "floor"])
def test_fmix_is_openmixups(g, batch, rounding):
    mask = mixes.fmix_mask(float(g["fmix_lam"]), g["fmix_noise"][0], (16, 16), up=rounding == "ceil")
    np.testing.assert_array_equal(mask, g[f"fmix_{rounding}_mask"])
    close(mixes.masked(*batch, torch.from_numpy(mask)), g[f"fmix_{rounding}_out"])


# torchvision


def drawn_by_torchvision(kind, seed, x, labels):
    """Its images, its soft labels, and lam, column and row of the centre, drawn again from the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        images, soft = kind(alpha=1.0, num_classes=4)(x, labels)
        torch.manual_seed(seed)
        lam = float(torch.distributions.Beta(torch.ones(1), torch.ones(1)).sample())
        return images, soft, lam, (int(torch.randint(x.shape[3], (1,))), int(torch.randint(x.shape[2], (1,))))


@pytest.mark.parametrize("seed", range(12))
def test_mixup_and_cutmix_are_torchvisions_for_its_partners(seed):
    x, labels = torch.rand(4, 3, 15, 12, generator=torch.Generator().manual_seed(seed)), torch.arange(4)
    partner = torch.tensor([3, 0, 1, 2])
    images, soft, lam, _ = drawn_by_torchvision(v2.MixUp, seed, x, labels)
    torch.testing.assert_close(mixes.mixup(x, partner, lam), images)
    torch.testing.assert_close(rmix.mixed_labels(labels, partner, lam, 4), soft)
    images, soft, lam, (column, row) = drawn_by_torchvision(v2.CutMix, seed, x, labels)
    mixed, own = mixes.cutmix(x, partner, mixes.box(lam, (row, column), (15, 12)))
    assert torch.equal(mixed, images)
    torch.testing.assert_close(rmix.mixed_labels(labels, partner, own, 4), soft)


# What must hold


@given(lam=st.floats(0, 1), row=st.integers(0, 15), column=st.integers(0, 11))
@settings(deadline=None)
def test_boxes_lie_inside_and_never_take_more_than_their_share(lam, row, column):
    for cut in (mixes.box(lam, (row, column), (16, 12)), mixes.real_box(lam, (row + 0.5, column + 0.5), (16, 12))):
        top, left, bottom, right = cut
        assert 0 <= top <= bottom <= 16
        assert 0 <= left <= right <= 12
        x = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, 16, 12)
        mixed, own = mixes.cutmix(x, torch.tensor([1, 0]), cut)
        assert float(mixed[1].mean()) == pytest.approx(own, abs=1e-6)
        assert (bottom - top) * (right - left) <= (1 - lam) * 192 + 16 + 12


@given(
    lam=st.floats(0, 1),
    holes=st.integers(2, 6),
    area=st.floats(0.5, 1),
    aspect=st.floats(0.5, 2),
    corner=st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)),
    side=st.sampled_from([4, 8, 16, 32]),
)
@settings(deadline=None)
def test_grids_have_holes_and_something_between_them(lam, holes, area, aspect, corner, side):
    mask = mixes.grid_mask(lam, holes, area, aspect, corner, (side, side))
    assert set(np.unique(mask)) == {0.0, 1.0}


@given(seed=st.integers(0, 100), lam=st.floats(0, 1), up=st.booleans(), side=st.sampled_from([4, 7, 16]))
@settings(deadline=None)
def test_fmix_masks_have_the_share_asked_for(seed, lam, up, side):
    noise = mixes.fmix_noise(np.random.default_rng(seed), (side, side))
    assert abs(mixes.fmix_mask(lam, noise, (side, side), up=up).sum() - lam * side * side) <= 1


def test_fmix_rounds_up_or_down_by_chance():
    x, partner = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 16, 16), torch.tensor([1, 0])
    mixed = [mixes.by_hand("fmix", x, partner, 0.4, 1.0, np.random.default_rng(seed))[0] for seed in range(9)]
    assert {int(images[1].sum()) for images in mixed} == {102, 103}


def test_saliency_is_the_difference_from_surrounds():
    """Against loops: at every pixel the mean of each clipped square around it, without the pixel."""
    x = torch.rand(1, 9, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gray = mixes._gray(x)
    on, off = torch.zeros(9, 7, dtype=torch.float64), torch.zeros(9, 7, dtype=torch.float64)
    for reach in mixes.NEIGHBOURHOODS:
        for i in range(9):
            for j in range(7):
                around = gray[max(i - reach + 1, 0) : i + reach + 1, max(j - reach + 1, 0) : j + reach + 1]
                difference = gray[i, j] - (around.sum() - gray[i, j]) / (around.numel() - 1)
                on[i, j] += max(difference, 0)
                off[i, j] += max(-difference, 0)
    torch.testing.assert_close(mixes.fine_grained_saliency(x), on / on.max() + off / off.max())


def test_grey_is_opencvs_luma_of_blue_green_and_red_smoothed_twice():
    for channel, weight in enumerate((0.114, 0.587, 0.299)):
        x = torch.zeros(3, 9, 9)
        x[channel] = 1.0
        torch.testing.assert_close(mixes._gray(x), torch.full((9, 9), weight))
    point = torch.zeros(1, 9, 9)
    point[0, 4, 4] = 1.0
    line = torch.tensor([0, 0, 1, 4, 6, 4, 1, 0, 0]) / 16
    torch.testing.assert_close(mixes._gray(point), line[:, None] * line)


def test_what_gridmix_and_fmix_draw_covers_its_range(batch, monkeypatch):
    drawn = {"holes": [], "area": [], "aspect": [], "up": []}

    def grid(lam, holes, area, aspect, corner, size):
        for name, value in (("holes", holes), ("area", area), ("aspect", aspect)):
            drawn[name].append(value)
        return np.zeros(size, dtype=np.float32)

    def fmix(lam, noise, size, *, up):
        drawn["up"].append(up)
        return np.zeros(size, dtype=np.float32)

    monkeypatch.setattr(mixes, "grid_mask", grid)
    monkeypatch.setattr(mixes, "fmix_mask", fmix)
    random = np.random.default_rng(0)
    for _ in range(300):
        for mix in ("gridmix", "fmix"):
            mixes.by_hand(mix, *batch, 0.5, 1.0, random)
    assert set(drawn["holes"]) == {2, 3, 4, 5, 6}
    for name, low, high in (("area", 0.5, 1.0), ("aspect", 0.5, 2.0)):
        assert low <= min(drawn[name]) < low + 0.05
        assert high - 0.05 < max(drawn[name]) <= high
    assert 100 < sum(drawn["up"]) < 200


def test_saliencymix_pastes_where_the_first_partner_stands_out():
    x = torch.zeros(3, 3, 16, 16)
    x[2, :, 10:12, 3:5] = 1.0
    partner = torch.tensor([2, 0, 1])
    peak = mixes.fine_grained_saliency(x[2]).argmax()
    centre = (int(peak) // 16, int(peak) % 16)
    assert 9 <= centre[0] <= 12
    assert 2 <= centre[1] <= 5
    x = x + torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 1e-3
    mixed, own = mixes.saliencymix(x, partner, 0.8)
    peak = int(mixes.fine_grained_saliency(x[2]).argmax())
    wanted, share = mixes.cutmix(x, partner, mixes.box(0.8, (peak // 16, peak % 16), (16, 16)))
    assert torch.equal(mixed, wanted)
    assert float(own) == pytest.approx(share, abs=1e-6)
    flat = mixes.fine_grained_saliency(torch.ones(3, 8, 8))
    assert bool(flat.isfinite().all())


def test_resize_ratios_stay_in_their_range():
    random = np.random.default_rng(0)
    ratios = [mixes.resize_ratio(random, 0.2) for _ in range(500)]
    assert min(ratios) >= 0.1
    assert max(ratios) <= 0.8


def test_a_resized_patch_without_pixels_pastes_nothing(batch):
    mixed, own = mixes.resizemix(*batch, 0.1, (0, 0))
    assert torch.equal(mixed, batch[0])
    assert own == 1.0


def test_a_mix_by_its_name_is_its_function_with_what_it_draws(batch):
    x, partner = batch
    size = tuple(x.shape[2:])

    def drawn(mix):
        return mixes.by_hand(mix, x, partner, 0.4, 0.7, np.random.default_rng(3))

    random = np.random.default_rng(3)
    centre = (int(random.integers(size[0])), int(random.integers(size[1])))
    noise = np.random.default_rng(3)
    spectrum = mixes.fmix_noise(noise, size)
    mask = mixes.fmix_mask(0.4, spectrum, size, up=bool(noise.random() > 0.5))
    wanted = {
        "vanilla": (x, 1.0),
        "mixup": (mixes.mixup(x, partner, 0.4), 0.4),
        "cutmix": mixes.cutmix(x, partner, mixes.box(0.4, centre, size)),
        "saliencymix": mixes.saliencymix(x, partner, 0.4),
        "fmix": (mixes.masked(x, partner, torch.from_numpy(mask)), 0.4),
    }
    for mix, (images, own) in wanted.items():
        found = drawn(mix)
        assert torch.equal(found[0], images), mix
        assert float(found[1]) == float(own), mix
    for mix in ("resizemix", "gridmix"):
        images, own = drawn(mix)
        changed = float((images != x).any(1).double().mean())
        assert changed == pytest.approx(1 - own, abs=0.02)


def test_an_unknown_mix_is_refused(batch):
    with pytest.raises(ValueError, match="no mix is named 'mixdown'"):
        mixes.by_hand("mixdown", *batch, 0.4, 1.0, np.random.default_rng(0))
