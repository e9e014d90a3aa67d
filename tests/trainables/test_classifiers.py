"""Classifiers: parameter counts of the released code, mixing between stages, weights from a generator alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainables import classifiers

GOLDEN = Path(__file__).parents[1] / "golden" / "mixing"
COUNTED = {
    "preactresnet18": "parn18",
    "wrn16_8": "wrn16_8",
    "wrn28_10": "wrn28_10",
    "resnext29_4x24": "rnx29_4_24",
}
every_network = pytest.mark.parametrize("name", classifiers.CLASSIFIERS)


def small(name, seed=0):
    return classifiers.classifier(name, 8, 3, 5, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("name", "key"), COUNTED.items())
def test_parameters_are_as_many_as_in_the_released_networks(name, key):
    with torch.device("meta"):
        network = classifiers.CLASSIFIERS[name][0](64, 3, 100)
    with np.load(GOLDEN / "R8_param_counts.npz") as g:
        assert sum(weight.numel() for weight in network.parameters()) == int(g[key])


def norm(x, bn):
    return F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias)


def released_preact(network, x):
    x = F.conv2d(x, network.stem.weight, padding=1)
    for i, stage in enumerate(network.stages):
        for j, block in enumerate(stage):
            stride, a = 2 if i and not j else 1, F.relu(norm(x, block.bn1))
            short = x if i == 0 or j else F.conv2d(a, block.shortcut.weight, stride=stride)
            h = F.relu(norm(F.conv2d(a, block.conv1.weight, stride=stride, padding=1), block.bn2))
            x = F.conv2d(h, block.conv2.weight, padding=1) + short
    return network.linear(F.avg_pool2d(x, 4).flatten(1))


def released_wide(network, x):
    x = F.conv2d(x, network.stem.weight, network.stem.bias, padding=1)
    for i, stage in enumerate(network.stages):
        for j, block in enumerate(stage):
            stride, a = 2 if i and not j else 1, F.relu(norm(x, block.bn1))
            short = x if j else F.conv2d(x, block.shortcut.weight, block.shortcut.bias, stride=stride)
            h = F.relu(norm(F.conv2d(a, block.conv1.weight, block.conv1.bias, padding=1), block.bn2))
            x = F.conv2d(h, block.conv2.weight, block.conv2.bias, stride=stride, padding=1) + short
    return network.linear(F.avg_pool2d(F.relu(norm(x, network.last[0])), 8).flatten(1))


def released_resnext(network, x):
    x = F.relu(norm(F.conv2d(x, network.stem[0].weight, padding=1), network.stem[1]))
    for i, stage in enumerate(network.stages):
        for j, block in enumerate(stage):
            stride = 2 if i and not j else 1
            short = x if j else norm(F.conv2d(x, block.shortcut[0].weight, stride=stride), block.shortcut[1])
            h = F.relu(norm(F.conv2d(x, block.conv1.weight), block.bn1))
            h = F.relu(norm(F.conv2d(h, block.conv2.weight, stride=stride, padding=1, groups=4), block.bn2))
            x = F.relu(norm(F.conv2d(h, block.conv3.weight), block.bn3) + short)
    return network.linear(F.avg_pool2d(x, 8).flatten(1))


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "released"),
    [("preactresnet18", released_preact), ("wrn16_8", released_wide), ("resnext29_4x24", released_resnext)],
)
def test_logits_are_those_of_the_released_networks(name, released):
    """Block by block as minhlong94/Random-Mixup has them, with scales, biases and running statistics of their own."""
    network, random = small(name).eval(), torch.Generator().manual_seed(1)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            for value in (part.weight, part.bias, part.running_mean, part.running_var):
                value.uniform_(0.5, 1.0, generator=random)
    x = torch.randn(2, 3, 32, 32, generator=random)
    torch.testing.assert_close(network(x), released(network, x), rtol=1e-4, atol=1e-4)


def test_resnet50_has_torchvisions_parameters():
    from torchvision.models import resnet50

    with torch.device("meta"):
        ours, theirs = classifiers.CLASSIFIERS["resnet50"][0](64, 3, 1000), resnet50()
    assert sorted(tuple(w.shape) for w in ours.parameters()) == sorted(tuple(w.shape) for w in theirs.parameters())


@pytest.mark.parametrize(
    ("name", "classes", "count"),
    [
        ("wrn40_2", 10, 2_243_546),  # hendrycks/outlier-exposure
        ("densenet_bc_100_12", 10, 769_162),  # "0.8M" in the paper's table
        ("resnet18", 10, 11_173_962),  # kuangliu/pytorch-cifar
    ],
)
def test_networks_of_out_of_distribution_detection_have_their_known_sizes(name, classes, count):
    with torch.device("meta"):
        network = classifiers.CLASSIFIERS[name][0](64, 3, classes)
    assert sum(weight.numel() for weight in network.parameters()) == count


@pytest.mark.parametrize(("name", "theirs"), [("resnet18_imagenet", "resnet18"), ("densenet121", "densenet121")])
def test_a_network_with_torchvisions_weights_gives_torchvisions_logits(name, theirs):
    """Parameters lie in one order in both; shortcuts, which come last in torchvision's blocks, here too."""
    import torchvision.models

    torch.manual_seed(0)
    reference = getattr(torchvision.models, theirs)(num_classes=7).eval()
    ours = classifiers.classifier(name, 64, 3, 7, torch.Generator().manual_seed(1)).eval()
    pairs = list(zip(ours.state_dict().values(), reference.state_dict().values(), strict=True))
    assert all(one.shape == other.shape for one, other in pairs)
    with torch.no_grad():
        for one, other in pairs:
            one.copy_(other)
        x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(ours(x), reference(x), rtol=1e-4, atol=1e-4)


def test_logits_are_the_linear_layer_of_the_features():
    network = small("densenet_bc_22_12").eval()
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    features = network.features(x)
    assert features.shape == (2, network.linear.in_features)
    torch.testing.assert_close(network.linear(features), network(x), rtol=0, atol=0)


@every_network
def test_a_seed_gives_one_network_and_reads_no_global_generator(name):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, same, other = small(name), small(name), small(name, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(one(x), same(x))
    assert not torch.equal(one(x), other(x))
    again = classifiers.rebuild(one.description, one.state_dict())
    assert torch.equal(again(x), one.eval()(x))


@every_network
def test_mixing_happens_after_the_stage_that_is_named(name):
    network = small(name).eval()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    seen = []

    def mixing(a):
        seen.append(tuple(a.shape))
        return a.flip(0)

    for after in range(len(network.stages) + 1):
        torch.testing.assert_close(network(x, mixing, after), network(x).flip(0))
    assert seen[0] == (2, 3, 32, 32)
    assert len({shape[1:] for shape in seen}) == len(network.stages) + 1


@torch.no_grad()
def test_first_weights_follow_each_papers_law():
    plain = classifiers.classifier("preactresnet18", 64, 3, 10, torch.Generator().manual_seed(0))
    weight = plain.stages[0][0].conv1.weight
    assert float(weight.abs().max()) == pytest.approx((64 * 9) ** -0.5, rel=1e-3)
    resnext = classifiers.classifier("resnext29_4x24", 64, 3, 10, torch.Generator().manual_seed(0))
    block = resnext.stages[0][0]
    assert float(block.conv2.weight.std()) == pytest.approx((2 / (9 * 96)) ** 0.5, rel=0.05)
    assert float(resnext.linear.weight.std()) == pytest.approx((2 / 1024) ** 0.5, rel=0.05)
    imagenet = classifiers.classifier("resnet50", 16, 3, 10, torch.Generator().manual_seed(0))
    assert float(imagenet.linear.weight.std()) == pytest.approx(0.01, rel=0.05)
    blocks = [part for part in imagenet.modules() if isinstance(part, classifiers.BottleneckBlock)]
    assert all(float(block.bn3.weight.abs().sum()) == 0 for block in blocks)


def test_the_wide_resnets_last_norm_forgets_fast():
    norms = [part.momentum for part in small("wrn16_8").modules() if isinstance(part, nn.BatchNorm2d)]
    assert norms[-1] == 0.9
    assert set(norms[:-1]) == {0.1}
