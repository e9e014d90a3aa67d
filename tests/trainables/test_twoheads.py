"""Networks with two heads: torchvision's parameters and outputs, first weights, what masks are made from."""

import pytest
import torch
import torchvision
from torch import nn

from trainables import twoheads
from trainables.backbones import BasicBlock
from trainables.classifiers import BottleneckBlock
from trainables.config import ConfigError

every_network = pytest.mark.parametrize("name", twoheads.BODIES)
TORCHVISION = {
    "resnet18": torchvision.models.resnet18,
    "resnet34": torchvision.models.resnet34,
    "resnet50": torchvision.models.resnet50,
    "resnext50": torchvision.models.resnext50_32x4d,
    "resnet18_imagenet": torchvision.models.resnet18,
    "resnet50_imagenet": torchvision.models.resnet50,
}


def small(name, seed=0, **fields):
    random = torch.Generator().manual_seed(seed)
    return twoheads.two_heads(name, 8, 3, 5, random, **{"layer": 3} | fields)


def pictures(side=32, channels=3):
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", TORCHVISION)
def test_resnets_have_torchvisions_parameters_but_for_stem_and_head(name):
    with torch.device("meta"):
        body, theirs = twoheads.BODIES[name](64, 3), TORCHVISION[name]()
    ours = [tuple(w.shape) for stage in body.stages for w in stage.parameters()]
    wanted = [tuple(w.shape) for key, w in theirs.named_parameters() if not key.startswith(("fc.", "conv1."))]
    stem = 7 if name.endswith("_imagenet") else 3
    assert sorted(ours) == sorted([*wanted, (64, 3, stem, stem)])
    assert body.channels[2] == (1024 if "50" in name else 256)


@torch.no_grad()
def test_with_the_stem_of_imagenet_features_are_torchvisions():
    """With one set of weights; the residual branches, which start at 0, opened."""
    network = twoheads.two_heads("resnet18_imagenet", 64, 3, 5, torch.Generator().manual_seed(0), layer=3).eval()
    for part in network.stages.modules():
        if isinstance(part, BasicBlock):
            part.bn2.weight.fill_(0.5)
    theirs = torchvision.models.resnet18(weights=None).eval()
    theirs.fc = nn.Identity()
    own = [value for key, value in network.state_dict().items() if not key.startswith(("one.", "mix."))]
    assert [v.shape for v in own] == [v.shape for v in theirs.state_dict().values()]
    theirs.load_state_dict(dict(zip(theirs.state_dict(), own, strict=True)))
    torch.testing.assert_close(network(pictures(64)).pooled_BD, theirs(pictures(64)))


@torch.no_grad()
@pytest.mark.parametrize(("name", "side", "layer"), [("swin_t", 64, 4), ("convnext_t", 32, 3)])
def test_torchvisions_bodies_give_torchvisions_features(name, side, layer):
    """Stage by stage, with one set of weights, next to torchvision's own forward pass."""
    network = twoheads.two_heads(name, 64, 3, 5, torch.Generator().manual_seed(0), layer=layer).eval()
    with torch.device("meta"):
        theirs = torchvision.models.swin_t() if name == "swin_t" else torchvision.models.convnext_tiny()
    own = {key: value for key, value in network.state_dict().items() if not key.startswith(("one.", "mix."))}
    kept = {key: value for key, value in theirs.state_dict().items() if not key.startswith(("head.", "classifier.2"))}
    assert [tuple(v.shape) for v in own.values()] == [tuple(v.shape) for v in kept.values()]
    theirs = theirs.to_empty(device="cpu").eval()
    theirs.load_state_dict(dict(zip(kept, own.values(), strict=True)), strict=False)
    x = pictures(side)
    if name == "swin_t":
        theirs.head = nn.Identity()
        last = theirs.features(x).permute(0, 3, 1, 2)
    else:
        theirs.classifier[2] = nn.Identity()
        last = theirs.features[:6](x)
    seen = network(x)
    torch.testing.assert_close(seen.pooled_BD, theirs(x))
    torch.testing.assert_close(seen.features_Bchw, last)
    assert network.map_channels == last.shape[1]


@every_network
@pytest.mark.parametrize("layer", [1, 2, 3, 4])
def test_masks_are_made_from_the_stage_that_is_named(name, layer):
    network = small(name, layer=layer).eval()
    x = pictures()
    wanted = x
    for stage in network.stages[:layer]:
        wanted = stage(wanted)
    found = network(x).features_Bchw
    assert torch.equal(found, wanted)
    assert found.shape[1] == network.map_channels
    stem = 4 if name in twoheads.TRANSFORMER_LIKE or name.endswith("_imagenet") else 1
    assert found.shape[2] == 32 // (stem << (layer - 1))


@every_network
def test_a_seed_gives_one_network_and_reads_no_global_generator(name):
    before = torch.get_rng_state()
    one, same, other = small(name), small(name), small(name, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    x = pictures()
    assert torch.equal(one(x).pooled_BD, same(x).pooled_BD)
    assert not torch.equal(one(x).pooled_BD, other(x).pooled_BD)
    again = twoheads.build(one.description)
    again.load_state_dict(one.state_dict())
    assert torch.equal(again.eval()(x).one_BK, one.eval()(x).one_BK)


@every_network
def test_training_reads_no_global_generator(name):
    network = small(name).train()
    before = torch.get_rng_state()
    network(pictures()).one_BK.sum().backward()
    assert torch.equal(torch.get_rng_state(), before)


@every_network
def test_heads_are_drawn_each_on_its_own_or_shared(name):
    two, one = small(name), small(name, shared=True)
    assert not torch.equal(two.one.weight, two.mix.weight)
    assert one.one is one.mix
    assert len(list(two.parameters())) == len(list(one.parameters())) + 2
    seen = one(pictures())
    assert torch.equal(seen.one_BK, seen.mix_BK)


@torch.no_grad()
def test_first_weights_follow_the_released_law():
    network = twoheads.two_heads("resnet18", 64, 3, 100, torch.Generator().manual_seed(0), layer=3)
    blocks = [part for part in network.modules() if isinstance(part, BasicBlock)]
    assert len(blocks) == 8
    assert not any(part.bn2.weight.any() for part in blocks)
    assert float(blocks[0].conv1.weight.std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)
    for head in (network.one, network.mix):
        assert float(head.weight.std()) == pytest.approx(0.01, rel=0.05)
        assert not head.bias.any()
    deep = small("resnext50")
    assert not any(part.bn3.weight.any() for part in deep.modules() if isinstance(part, BottleneckBlock))


def test_grey_images_have_a_stem_of_their_own():
    for name in twoheads.BODIES:
        network = twoheads.two_heads(name, 8, 1, 5, torch.Generator().manual_seed(0), layer=3)
        assert network(pictures(channels=1)).one_BK.shape == (2, 5)


def test_a_network_without_the_stage_says_how_many_it_has():
    stages = [nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)]
    with pytest.raises(ConfigError, match=r"layer=3 is not allowed: the network has 2 stages.*between 1 and 2"):
        twoheads.TwoHeads(twoheads.Body(stages, twoheads.Pool(), (4, 4)), 5, layer=3)


def test_an_unknown_network_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'resnet18'"):
        twoheads.build({"network": "resnet1"})
