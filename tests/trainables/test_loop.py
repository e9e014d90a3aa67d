"""trainables.loop: FLOPs against a count by hand, states that stay as they were, losses that are no number."""

import math

import pytest
import torch
from torch import nn

from trainables import loop
from trainables.protocol import Diverged


def linear(inputs: int = 3, outputs: int = 5) -> nn.Linear:
    network = nn.Linear(inputs, outputs, bias=False)
    network.description = {"inputs": inputs, "outputs": outputs}
    return network


def steps(network: nn.Linear, count: int, *, compiled: bool = False) -> loop.Totals:
    """Steps of batches of 7; the input asks for no gradient."""
    totals = loop.Totals()
    for _ in range(count):
        with totals.step("cpu", compiled=compiled):
            loss = network(torch.ones(7, 3)).square().mean()
            loss.backward()
        totals.add({"loss": loss})
    return totals


def test_flops_of_an_epoch_are_its_products_counted_by_hand():
    network = linear()
    # Forward (7 x 3)(3 x 5) and the weights' gradient (5 x 7)(7 x 3): each 2 * 7 * 3 * 5.
    assert steps(network, 4).means(network, 1)["flops"] == 4 * 2 * (2 * 7 * 3 * 5)


def test_counting_changes_no_bit():
    counted, plain = linear(), linear()
    plain.load_state_dict(counted.state_dict())
    steps(counted, 1)
    plain(torch.ones(7, 3)).square().mean().backward()
    assert torch.equal(counted.weight.grad, plain.weight.grad)


def test_compiled_steps_are_not_counted():
    network = linear()
    assert "flops" not in steps(network, 2, compiled=True).means(network, 1)


def test_a_captured_state_holds_copies_of_all_it_was_given():
    network, extra = linear(), torch.ones(2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    before = network.weight.detach().clone()
    state = loop.captured(3, network, optimizer, best={"accuracy": 0.5}, queue=extra)()
    network.weight.data.zero_()
    extra.zero_()
    assert state["epoch"] == 3
    assert state["network"] == {"inputs": 3, "outputs": 5}
    assert torch.equal(state["weights"]["weight"], before)
    assert torch.equal(state["queue"], torch.ones(2))
    assert state["best"] == {"accuracy": 0.5}


@pytest.mark.parametrize("broken", ["loss", "norm of the weights"])
def test_what_is_not_finite_is_named(broken):
    network, totals = linear(), loop.Totals()
    totals.add({"loss": torch.tensor(math.nan if broken == "loss" else 1.0)})
    if broken != "loss":
        network.weight.data[0, 0] = math.inf
    with pytest.raises(Diverged, match=f"In epoch 2 the {broken} became"):
        totals.means(network, 2)
