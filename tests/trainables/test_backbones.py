"""The encoders against torchvision's, with its weights in their place."""

import pytest
import torch
import torchvision
from torch import nn

from trainables import backbones


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def torchvisions(name: str) -> nn.Module:
    """torchvision's network with the stem for small images and no classifier."""
    with torch.random.fork_rng(devices=[]):
        network = getattr(torchvision.models, name)(weights=None)
        network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool, network.fc = nn.Identity(), nn.Identity()
    return network


@pytest.mark.parametrize(
    ("name", "parameters"), [("resnet18", 11_168_832), ("resnet34", 21_276_992), ("resnet50", None)]
)
def test_encoders_compute_what_torchvisions_do(name, parameters):
    ours, theirs = backbones.encoder(name, 64, 3, generator()), torchvisions(name)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert parameters is None or sum(p.numel() for p in ours.parameters()) == parameters
    mine, yours = ours.state_dict(), theirs.state_dict()
    assert [value.shape for value in mine.values()] == [value.shape for value in yours.values()]
    theirs.load_state_dict(dict(zip(yours, mine.values(), strict=True)))
    seen = {}
    for stage in (1, 2, 3, 4):
        getattr(theirs, f"layer{stage}")[-1].register_forward_hook(
            lambda _module, _inputs, output, stage=stage: seen.update({f"conv{stage + 1}_2": output})
        )
    x = torch.rand(2, 3, 16, 16, generator=generator(1))
    with torch.no_grad():
        for mode in (True, False):
            features, activations = ours.train(mode)(x)
            torch.testing.assert_close(features, theirs.train(mode)(x), rtol=1e-4, atol=1e-5)
            assert activations.keys() == seen.keys()
            for layer, activation in activations.items():
                torch.testing.assert_close(activation, seen[layer], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "expansion"), [("resnet18", 1), ("resnet50", 4)])
def test_activations_are_positive_and_halve_from_stage_to_stage(name, expansion):
    network = backbones.encoder(name, 4, 1, generator())
    features, activations = network(torch.rand(2, 1, 32, 32, generator=generator(1)))
    assert features.shape == (2, network.features) == (2, 32 * expansion)
    sides = [32, 16, 8, 4]
    for index, (layer, activation) in enumerate(activations.items()):
        assert layer == backbones.LAYERS[index]
        assert activation.shape == (2, (4 << index) * expansion, sides[index], sides[index])
        assert activation.min() == 0
        assert torch.autograd.grad(features.sum(), activation, retain_graph=True)[0].shape == activation.shape


def test_weights_follow_their_laws():
    network = backbones.projected("resnet18", 32, 3, "mlp", generator())
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            fan_out = part.out_channels * part.kernel_size[0] * part.kernel_size[1]
            standard_error = (2 / fan_out) ** 0.5 / (2 * part.weight.numel()) ** 0.5
            assert abs(part.weight.std().item() - (2 / fan_out) ** 0.5) < 5 * standard_error
        elif isinstance(part, nn.BatchNorm2d):
            assert torch.equal(part.weight, torch.ones_like(part.weight))
            assert torch.equal(part.bias, torch.zeros_like(part.bias))
            assert torch.equal(part.running_mean, torch.zeros_like(part.running_mean))
            assert torch.equal(part.running_var, torch.ones_like(part.running_var))
            assert part.num_batches_tracked == 0
        elif isinstance(part, nn.Linear):
            bound = part.in_features**-0.5
            for values in (part.weight, part.bias):
                assert 0.8 * bound < values.abs().max() <= bound


def test_a_generator_gives_one_network_and_no_other_source_is_touched():
    before = torch.get_rng_state()
    first, again, other = (
        backbones.projected("resnet18", 4, 1, "mlp", generator(seed)).state_dict() for seed in (0, 0, 1)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["encoder.stages.conv2_2.0.weight"], other["encoder.stages.conv2_2.0.weight"])


@pytest.mark.parametrize(("head", "parameters"), [("mlp", 32 * 32 + 32 + 32 * 128 + 128), ("linear", 32 * 128 + 128)])
def test_a_network_is_rebuilt_from_its_description_and_weights(head, parameters):
    network = backbones.projected("resnet18", 4, 1, head, generator())
    assert sum(p.numel() for p in network.head.parameters()) == parameters
    x = torch.rand(4, 1, 16, 16, generator=generator(1))
    network(x)  # moves batch norm's statistics away from those of a fresh network
    rebuilt = backbones.rebuild(network.description, network.state_dict())
    with torch.no_grad():
        expected, actual = network.eval().embed(x), rebuilt.embed(x)
    assert torch.equal(expected["head"], actual["head"])
    assert torch.equal(expected["backbone"], actual["backbone"])
    torch.testing.assert_close(actual["head"].norm(dim=1), torch.ones(4))


def test_a_layer_with_unknown_weights_is_refused():
    with torch.device("meta"):
        unknown = nn.Sequential(nn.LayerNorm(3))
    with pytest.raises(TypeError, match="LayerNorm"):
        backbones.initialise(unknown, generator())
