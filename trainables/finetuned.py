"""A trained network's body under a new last layer: what `trainables.transfer` trains, and others judge.

A body is what makes features (B, D) of images: a classifier without its linear layer, one of two heads without both, an
encoder without its projection.

Source: none; there is no paper here. Deviations: none known.

Shapes: B images, C channels, H rows, W columns, D features, K classes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainables import backbones, classifiers, twoheads


class Finetuned(nn.Module):
    """A body and a linear layer.

    Attributes:
        description: of the body's network, as it was first made, and of the images and classes; with the weights, what
            `rebuild` needs.
    """

    def __init__(self, network: "Trained", classes: int) -> None:
        super().__init__()
        self.body = body(network)
        self.head = nn.utils.skip_init(nn.Linear, self.body.size, classes)  # torch's own draws globally
        whole = dict(network.description)
        self.description: dict[str, Any] = {"body": whole, "channels": whole["channels"], "classes": classes}

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalised images -> logits (B, K)."""
        logits_BK: Tensor = self.head(self.body(x_BCHW))
        return logits_BK


Trained = classifiers.Classifier | twoheads.TwoHeads | backbones.Projected | Finetuned
"""Networks that methods of the catalogue train."""


class Body(nn.Module):
    """Normalised images -> features (B, D); `size` is D."""

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network, self.size = network, size

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D)."""
        seen = self.network(x_BCHW)
        features_BD: Tensor = seen[0] if isinstance(seen, tuple) else seen  # an encoder gives its activations too
        return features_BD


def body(network: Trained) -> Body:
    """What makes features of images, in the network's own memory; the network itself is of no use afterwards."""
    if isinstance(network, backbones.Projected):
        return Body(network.encoder, network.encoder.features)
    if isinstance(network, twoheads.TwoHeads):
        return Body(nn.Sequential(*network.stages, network.last), network.one.in_features)
    if isinstance(network, Finetuned):
        return network.body
    size = network.linear.in_features
    network.linear = nn.Identity()  # type: ignore[assignment]
    return Body(network, size)


def new(description: Mapping[str, Any], generator: torch.Generator) -> Trained:
    """A network of that description with weights drawn from `generator`."""
    if "body" in description:
        return on(new(description["body"], generator), description["classes"], generator)
    name, width, channels = (description[field] for field in ("network", "width", "channels"))
    if "head" in description:
        return backbones.projected(name, width, channels, description["head"], generator)
    classes = description["classes"]
    if "layer" in description:
        layer, shared = description["layer"], description["shared"]
        return twoheads.two_heads(name, width, channels, classes, generator, layer=layer, shared=shared)
    return classifiers.classifier(name, width, channels, classes, generator)


@torch.no_grad()
def on(network: Trained, classes: int, generator: torch.Generator) -> Finetuned:
    """The network's body under a new layer for so many classes: uniform within 1 / sqrt(D) as in torch, biases 0."""
    made = Finetuned(network, classes)
    bound = made.body.size**-0.5
    made.head.weight.uniform_(-bound, bound, generator=generator)
    made.head.bias.zero_()
    return made


def rebuild(description: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Finetuned:
    """The network of a final state: `rebuild(state["network"], state["weights"])`, in eval mode, on the CPU."""
    made = Finetuned(new(description["body"], torch.Generator()), description["classes"])
    made.load_state_dict(dict(weights))
    return made.eval()
