"""PGD against closed forms on a linear model, its bounds on any, and FGSM as its single step."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainables import attacks, classification


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


WEIGHT = random(2, 12, seed=1) - 0.5
X = 0.3 + 0.4 * random(5, 3, 2, 2)
LABELS = torch.tensor([0, 1, 0, 1, 1])


def linear(x):
    return x.flatten(1) @ WEIGHT.T


def network():
    generator = torch.Generator().manual_seed(2)
    layers = nn.Sequential(nn.Conv2d(3, 8, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2))
    for weight in layers.parameters():
        weight.data = 2 * torch.randn(weight.shape, generator=generator)
    return layers


def attack(model, norm, x=X, steps=10, radius=0.1, step=0.03, generator=None):
    return attacks.pgd(model, x, LABELS, norm, radius=radius, step=step, steps=steps, generator=generator)


def uphill() -> torch.Tensor:
    """On the linear model of two classes the gradient always points along the difference of the rows."""
    return torch.stack([WEIGHT[1] - WEIGHT[0] if y == 0 else WEIGHT[0] - WEIGHT[1] for y in LABELS]).view_as(X)


@pytest.mark.parametrize("generator", [None, 3])
def test_on_a_linear_model_it_ends_at_the_worst_point_of_the_ball(generator):
    start = None if generator is None else torch.Generator().manual_seed(generator)
    worst = X + 0.1 * uphill().sign()
    torch.testing.assert_close(attack(linear, "linf", generator=start), worst)


def test_on_a_linear_model_it_ends_at_the_farthest_point_along_the_gradient():
    direction = uphill() / uphill().flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(attack(linear, "l2"), X + 0.1 * direction)
    torch.testing.assert_close(attack(linear, "l2", steps=2), X + 0.06 * direction)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("step", [0.03, 0.5])
def test_it_stays_in_the_ball_and_in_the_range_of_pixels(norm, step):
    x = random(5, 3, 2, 2, seed=4)
    moved = attack(network(), norm, x=x, step=step, generator=torch.Generator().manual_seed(0))
    shift = (moved - x).flatten(1)
    length = shift.abs().amax(1) if norm == "linf" else shift.norm(dim=1)
    assert float(length.max()) <= 0.1 + 1e-6
    assert float(length.max()) > 0.05
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_more_steps_find_a_larger_loss(norm):
    model = network()
    losses = [
        float(F.cross_entropy(model(attack(model, norm, steps=steps)), LABELS).detach()) for steps in (0, 1, 3, 20)
    ]
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]


def test_one_step_of_the_radius_is_fgsm():
    model = network()
    wanted = classification.fgsm(model, X, LABELS, (0.0,), (1.0,), 0.1)
    assert torch.equal(attack(model, "linf", steps=1, step=0.1), wanted)


def test_the_released_step_is_in_normalised_values_pixel_by_pixel():
    """Its code by the letter: on the normalised image, which the network is given without another normalisation."""
    mean, std, body = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5), network()

    def normalised(x):
        return (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    z = normalised(X).requires_grad_()
    F.cross_entropy(body(z), LABELS).backward()
    wanted = torch.empty_like(X)
    for place, value in enumerate(z.detach().flatten().tolist()):
        moved = value + 8 / 255 * float(torch.sign(z.grad.flatten()[place]))
        wanted.view(-1)[place] = min(1.0, max(0.0, moved))
    found = attacks.released_fgsm(lambda x: body(normalised(x)), X, LABELS, mean, std)
    torch.testing.assert_close(normalised(found), wanted, rtol=1e-5, atol=1e-6)
    assert (wanted == 0).any()
    assert (wanted == 1).any()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_starts_fill_the_ball(norm):
    x = torch.full((4000, 1, 1, 2), 0.5)
    labels = torch.zeros(4000, dtype=torch.int64)
    started = attacks.pgd(
        linear, x, labels, norm, radius=0.2, step=0.1, steps=0, generator=torch.Generator().manual_seed(0)
    )
    shift = (started - x).flatten(1) / 0.2
    length = shift.abs().amax(1) if norm == "linf" else shift.norm(dim=1)
    # Of a ball in two dimensions a quarter lies within half the radius.
    assert float((length < 0.5).double().mean()) == pytest.approx(0.25, abs=0.03)
    assert shift.mean(0).abs().max() < 0.03
    assert 0.98 < float(length.max()) <= 1 + 1e-6
