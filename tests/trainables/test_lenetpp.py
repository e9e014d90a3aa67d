"""ResNets with a bottleneck against torchvision's own and against the encoders they stand on.

LeNet++ is tested with the losses, in `test_margins`.
"""

import math

import pytest
import torch
import torchvision

from trainables import backbones, lenetpp


def network(name, stem="small", width=64, side=32, bias=True, features=7, seed=0):
    return lenetpp.network(
        name,
        width=width,
        stem=stem,
        channels=3,
        side=side,
        features=features,
        classes=5,
        activation="none",
        bias=bias,
        generator=torch.Generator().manual_seed(seed),
    )


@pytest.mark.parametrize(("name", "inputs"), [("resnet18", 512), ("resnet50", 2048)])
def test_with_imagenets_stem_a_resnet_is_torchvisions_with_k_outputs_and_no_weights_of_its(name, inputs):
    ours = network(name, stem="imagenet", side=224)
    theirs = getattr(torchvision.models, name)(num_classes=7)
    weights = {key.removeprefix("body."): value for key, value in ours.state_dict().items() if key != "centres"}
    theirs.load_state_dict(weights)  # the same names and shapes, or it refuses
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=0, atol=0)
    assert ours.centres.shape == (7, 5)
    first, last = weights["conv1.weight"], weights["fc.weight"]
    assert float(first.std()) == pytest.approx(math.sqrt(2 / (64 * 49)), rel=0.03)
    assert float(last.abs().max()) == pytest.approx(inputs**-0.5, rel=0.01)
    assert "fc.bias" not in network(name, stem="imagenet", side=224, bias=False).body.state_dict()


@pytest.mark.parametrize(("name", "inputs"), [("resnet18", 64), ("resnet50", 256)])
def test_with_the_small_stem_it_is_an_encoder_and_a_linear_layer(name, inputs):
    ours = network(name, width=8).eval()
    encoder = backbones.encoder(name, 8, 3, torch.Generator().manual_seed(0)).eval()
    assert all(torch.equal(value, ours.body.encoder.state_dict()[key]) for key, value in encoder.state_dict().items())
    x = torch.rand(2, 3, 32, 32)
    linear = ours.body.bottleneck
    assert linear.weight.shape == (7, inputs)
    torch.testing.assert_close(ours(x), encoder(x)[0] @ linear.weight.T + linear.bias)
    assert network(name, width=8, bias=False).body.bottleneck.bias is None


@pytest.mark.parametrize(("stem", "bias"), [("small", True), ("imagenet", False)])
def test_a_resnet_is_rebuilt_from_its_description(stem, bias):
    ours = network("resnet18", stem=stem, bias=bias)
    rebuilt = lenetpp.rebuild(ours.description, ours.state_dict())
    x = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(rebuilt(x), ours.eval()(x), rtol=0, atol=0)
    assert not torch.equal(network("resnet18", stem=stem, seed=1).centres, ours.centres)


def test_images_too_small_for_lenetpp_are_refused():
    with pytest.raises(ValueError, match="images of 7 pixels are too small"):
        network("lenetpp", side=7)
