"""Radii: the formula on a case by hand, bounds against the matrices they bound, and nothing certified is broken."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.trainables.test_greg import TINY, detection_data
from trainables import classifiers, densenet, detection, greg, metrics, ood_radius
from trainables.config import ConfigError
from trainables.ood_radius import Config
from trainables.protocol import Needed

NEEDED = Needed("greg", greg.Config())


@pytest.fixture(scope="module")
def data():
    return detection_data()


@pytest.fixture(scope="module")
def state(data):
    config = replace(greg.ENERGY, **TINY, lam_score=0.01, evaluate_every=0)
    *_, last = greg.train(config, data, seed=0, device="cpu")
    return last.state()


def matrix_of(module, channels, side):
    """The linear part of a module as a matrix, by what it does to every unit image."""
    basis = torch.eye(channels * side * side, dtype=torch.float64).view(-1, channels, side, side)
    with torch.no_grad():
        return (module(basis) - module(torch.zeros_like(basis[:1]))).flatten(1).T


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 1, 0), (1, 2, 0), (7, 2, 3)])
def test_a_convolutions_bound_is_above_its_matrixs_norm_and_not_far(kernel, stride, padding):
    torch.manual_seed(0)
    part = nn.Conv2d(2, 3, kernel, stride, padding, bias=False).double()
    norm = float(torch.linalg.matrix_norm(matrix_of(part, 2, 6), ord=2))
    bound, side = ood_radius.bound(part, 6)
    assert norm <= bound * (1 + 1e-9)
    assert side == part(torch.zeros(1, 2, 6, 6, dtype=torch.float64)).shape[2]
    if stride == 1:
        assert bound <= 1.25 * norm
    if kernel == 1 and stride == 1:
        assert bound == pytest.approx(norm)


def steepest(module, channels, side):
    """The largest norm of the Jacobian at a few random points."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(3):
        x = 2 * torch.randn(1, channels, side, side, generator=generator, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(module, x)
        outputs = jacobian.numel() // x.numel()
        found.append(float(torch.linalg.matrix_norm(jacobian.reshape(outputs, -1), ord=2)))
    return max(found)


@pytest.mark.parametrize(
    "part",
    [
        classifiers.PreActBlock(3, 4, 2),
        classifiers.PreActBlock(3, 3, 1),
        classifiers.BasicBlock(3, 4, 2),
        classifiers.WideBlock(3, 4, 2),
        classifiers.BottleneckBlock(3, 4, 8, 2, 2),
        densenet.DenseLayer(3, 2),
        densenet.Transition(4),
        nn.MaxPool2d(3, 2, padding=1),
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
    ],
    ids=lambda part: type(part).__name__,
)
def test_a_blocks_bound_is_above_its_jacobians_norm(part):
    torch.manual_seed(1)
    part = part.double().eval()
    for norm in part.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.weight)
            nn.init.uniform_(norm.running_var, 0.3, 2)
            nn.init.normal_(norm.running_mean)
    channels = 4 if isinstance(part, densenet.Transition) else 3
    bound, side = ood_radius.bound(part, 6)
    assert 0 < steepest(part, channels, 6) <= bound * (1 + 1e-9)
    assert side == part(torch.zeros(1, channels, 6, 6, dtype=torch.float64)).shape[2]


@pytest.mark.parametrize("name", ["wrn10_2", "resnet18", "resnet18_imagenet", "densenet_bc_22_12"])
def test_a_networks_bound_is_above_every_gradient_that_an_attack_meets(name):
    network = classifiers.classifier(name, 8, 1, 4, torch.Generator().manual_seed(0)).eval()
    x = torch.randn(6, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    bound = ood_radius.lipschitz(network, 16)
    own = detection.gradient_norms(lambda x: ood_radius.energy(network, x), x)
    _, met = ood_radius.attack(network, x, 3.0, away=True, steps=10)
    assert (own <= met + 1e-6).all()
    assert float(met.max()) <= bound


def test_the_radius_of_a_linear_score_is_its_distance_to_the_boundary():
    """One hidden layer that is linear where it is looked at: S = -log(e^(a x) + e^0), far from the kink about -a x."""
    S = torch.tensor([-4.0, -1.0, 2.0])
    torch.testing.assert_close(
        ood_radius.radius(S, -1.0, 2.0, 10.0, known=True), torch.tensor([1.5, 0.0, math.nan]), equal_nan=True
    )
    torch.testing.assert_close(
        ood_radius.radius(S, -1.0, torch.tensor([1.0, 1.0, 4.0]), 0.5, known=False),
        torch.tensor([math.nan, math.nan, 0.5]),
        equal_nan=True,
    )


def test_no_point_of_a_grid_within_a_certified_radius_is_judged_otherwise():
    """One hidden layer of ReLUs on two inputs: the nearest point on the other side, found by looking everywhere."""
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(2, 6, 1), nn.ReLU(), nn.Conv2d(6, 3, 1), nn.Flatten()).double()
    product = 1.0
    for layer in (network[0], network[2]):
        product *= float(np.linalg.svd(layer.weight.detach().numpy()[:, :, 0, 0])[1].max())
    L = ood_radius.bound(network[:3], 1)[0]
    assert pytest.approx(product) == L
    axis = torch.linspace(-6, 6, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)[:, :, None, None]
    S = ood_radius.energy(network, grid).detach()
    x = torch.randn(40, 2, 1, 1, dtype=torch.float64)
    here, gamma = ood_radius.energy(network, x).detach(), float(S.median())
    distance = torch.cdist(x.flatten(1), grid.flatten(1))
    for known, other in ((True, gamma < S), (False, gamma >= S)):
        radii = ood_radius.radius(here, gamma, L, math.inf, known=known)
        nearest = distance[:, other].amin(1)
        judged = ~radii.isnan()
        assert judged.any()
        assert (radii[judged] <= nearest[judged]).all()
        assert (radii[judged] > 0.01 * nearest[judged]).any()


def test_an_attack_stays_in_its_ball_and_does_its_worst_on_a_linear_score():
    class Slope(nn.Module):
        def forward(self, x):
            return (x.flatten(1) @ torch.tensor([3.0, 0.0, 0.0, 4.0]))[:, None]

    x = torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    S = ood_radius.energy(Slope(), x)
    for away, change in ((True, 0.7), (False, -0.7)):
        worst, steepest_B = ood_radius.attack(Slope(), x, 0.14, away=away, steps=20)
        torch.testing.assert_close(worst, S + change, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(steepest_B, torch.full((5,), 5.0))


def test_what_is_certified_is_never_broken_and_estimates_claim_at_least_as_much(state, data):
    (epoch,) = ood_radius.train(Config(network=NEEDED, rows=12), data, seed=0, device="cpu", network=state)
    found = epoch.metrics
    assert found["lipschitz_estimated"] <= found["lipschitz_searched"] <= found["lipschitz_certified"]
    assert found["radius_estimated"] >= found["radius_searched"] >= found["radius_certified"] > 0
    for r in metrics.RADII:
        assert found[f"broken_certified_{r:g}"] == 0
        assert found[f"estimated_at_{r:g}"] >= found[f"searched_at_{r:g}"] >= found[f"certified_at_{r:g}"]
        assert found[f"broken_searched_{r:g}"] <= found[f"broken_estimated_{r:g}"] <= found[f"estimated_at_{r:g}"]
    shown = epoch.exhibits()
    images = len(shown["radii_estimated"])
    for place, r in enumerate(shown["attacked_radii"]):
        for kind in ood_radius.KINDS:
            assert sum(shown[f"radii_{kind}"] >= r) / images == pytest.approx(found[f"{kind}_at_{r:g}"])
        assert found[f"certified_at_{r:g}"] <= shown["attacked_right"][place]
    aurocs = [found["auroc"], *(found[f"auroc_attacked_{r:g}"] for r in metrics.RADII)]
    assert aurocs == sorted(aurocs, reverse=True)
    assert aurocs[0] > aurocs[-1]


def test_shares_are_counted_image_by_image_from_energies_slopes_and_attacks(state, data):
    config = Config(network=NEEDED, rows=8, recall=0.7, steps=5)
    (epoch,) = ood_radius.train(config, data, seed=0, device="cpu", network=state)
    network = classifiers.rebuild(state["network"], state["weights"])
    images = {
        name: torch.cat(list(detection.batches(each, data, "cpu"))) for name, each in detection.evaluated(data).items()
    }
    gamma = np.quantile(ood_radius.energy(network, images["test"]).double().numpy(), 0.7)
    for r in metrics.RADII:
        claimed = broken = right = 0
        for name, x in images.items():
            x = x[: 8 if name == "test" else 4]
            S, slope = (
                ood_radius.energy(network, x),
                detection.gradient_norms(lambda x: ood_radius.energy(network, x), x),
            )
            after, _ = ood_radius.attack(network, x, r, away=name == "test", steps=5)
            for before, steepness, worst in zip(S.tolist(), slope.tolist(), after.tolist(), strict=True):
                known = name == "test"
                held = (before <= gamma) == known and abs(gamma - before) / steepness >= r
                claimed, broken = claimed + held, broken + (held and (worst <= gamma) != known)
                right += (worst <= gamma) == known
        assert epoch.metrics[f"estimated_at_{r:g}"] == pytest.approx(claimed / 16)
        assert epoch.metrics[f"broken_estimated_{r:g}"] == pytest.approx(broken / 16)
        place = list(epoch.exhibits()["attacked_radii"]).index(np.float32(r))
        assert epoch.exhibits()["attacked_right"][place] == pytest.approx(right / 16)
    assert 0 < right < 16


def test_the_bound_of_a_network_without_bends_is_its_norm():
    """A 1 x 1 convolution, the mean over pixels and a linear layer: one matrix, whose norm the product is."""
    torch.manual_seed(0)
    network = classifiers.Classifier(nn.Conv2d(2, 5, 1, bias=False), (), nn.Identity(), 5, 3).double()
    with torch.no_grad():
        _, values, right = torch.linalg.svd(network.stem.weight[:, :, 0, 0], full_matrices=False)
        network.linear.weight.copy_(torch.randn(3, 5).double())
        # The layers' largest directions are made to meet, so that nothing is lost between them.
        network.stem.weight.copy_((torch.linalg.svd(network.linear.weight)[2][:2].T * values @ right)[:, :, None, None])
    norm = float(torch.linalg.matrix_norm(matrix_of(network, 2, 6), ord=2))
    assert ood_radius.lipschitz(network, 6) == pytest.approx(norm)


def test_a_certificate_at_its_own_radius_holds_under_attack(state, data):
    """The formula end to end: every image, attacked at the radius certified for it, keeps its side."""
    network = classifiers.rebuild(state["network"], state["weights"])
    x = torch.cat(list(detection.batches(data.test, data, "cpu")))
    S, L = ood_radius.energy(network, x), ood_radius.lipschitz(network, 16)
    gamma = float(S.double().quantile(0.9))
    radii = ood_radius.radius(S, gamma, L, 100.0, known=True)
    for row in np.flatnonzero(~radii.isnan().numpy()):
        worst, _ = ood_radius.attack(network, x[row : row + 1], float(radii[row]), away=True, steps=10)
        assert float(worst) <= gamma + 1e-4


def test_bad_input_is_refused(data):
    with pytest.raises(ConfigError, match="recall must be a share"):
        Config(network=NEEDED, recall=1.0)
    with pytest.raises(ValueError, match="A method that others score must store both"):
        next(ood_radius.train(Config(network=NEEDED), data, seed=0, device="cpu", network={}))
    with pytest.raises(ValueError, match="a GELU has no bound"):
        ood_radius.bound(nn.GELU(), 4)
