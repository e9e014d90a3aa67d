"""The network that another trial trained, as a classifier: pixels in, a score of each class out, whatever trained it.

A classifier gives logits. An encoder gives GradMix's k-NN scores (`trainables.openset`, Algorithm 1) with the training
images as exemplars. Of a student and its teacher, the one is judged that the needed trial's own `scored` names, with
its one-hot head.

Source: none; there is no paper here. Deviations: none known.

Shapes: B images, C channels, H rows, W columns, K classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables import augment, backbones, classifiers, finetuned, openset, rmix, teachers, twoheads
from trainables.config import ConfigError
from trainables.data_protocols import DataSpec, channels, class_split
from trainables.datasets import Data, Images
from trainables.protocol import Needed, State

Scores = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) in [0, 1], not normalised -> scores (B, K), in eval mode."""

WITHOUT_NETWORK = frozenset(
    {
        "dimension",
        "knn_ood",
        "knn_osr",
        "localisation",
        "margin_scores",
        "ood_radius",
        "ood_scores",
        "probes",
        "spread",
        "stress",
    }
)
"""Methods of the catalogue that only read what others trained."""
UNREADABLE = frozenset({"margins"})
"""Methods of the catalogue whose networks only their own evaluations read: neither classifiers nor encoders here."""
ENCODERS = frozenset({"gradmix"})
"""Methods of the catalogue that train an encoder, which has no logits."""
CLASSIFIERS = frozenset({"adautomix", "greg", "pretraining", "rlmix", "rmix", "transfer"})
"""Methods of the catalogue that train a classifier, which has no projection head."""
OF_TWO_PARTS = frozenset({"adautomix", "transfer"})
"""Those of them that train no plain classifier: a student and its teacher, or a body under a new head."""
BATCH = 500
"""Images at a time. What is random depends on it, so it is no choice."""


@dataclass(frozen=True)
class Judged:
    """A trained network, ready to be tested.

    Attributes:
        scores: of the classes.
        logits: whether the scores are logits, from which gradients and probabilities follow.
    """

    scores: Scores
    logits: bool


def check_needed(needed: Needed, field: str) -> None:
    """Refuses, before anything runs, what trains no network, or none that can be read here.

    Raises:
        ConfigError: naming the field.
    """
    if needed.method in UNREADABLE:
        raise ConfigError(
            f"{field} needs a trial of {needed.method!r}, whose network is neither a classifier nor an encoder that "
            "is known here. Name a method that trains one, such as 'gradmix', 'rmix' or 'adautomix'."
        )
    if needed.method in WITHOUT_NETWORK:
        raise ConfigError(
            f"{field} needs a trial of {needed.method!r}, which trains no network. "
            "Name a method that does, such as 'gradmix', 'rmix' or 'adautomix'."
        )


def check_encoder(needed: Needed, field: str, purpose: str) -> None:
    """Refuses, before anything runs, what trains no network or a classifier.

    Args:
        needed: the trial asked for.
        field: of the config that asks.
        purpose: one sentence to a person whose trial trains a classifier: why not, or what else to do.

    Raises:
        ConfigError: naming the field.
    """
    check_needed(needed, field)
    if needed.method in CLASSIFIERS:
        raise ConfigError(f"{field} needs a trial of {needed.method!r}, which trains a classifier. {purpose}")


def check_plain(needed: Needed, field: str) -> None:
    """Refuses, before anything runs, what trains no network, or one that is no plain `classifiers.Classifier`.

    Raises:
        ConfigError: naming the field.
    """
    check_needed(needed, field)
    if needed.method in ENCODERS | OF_TWO_PARTS:
        names = ", ".join(map(repr, sorted(CLASSIFIERS - OF_TWO_PARTS)))
        raise ConfigError(
            f"{field} needs a trial of {needed.method!r}, which trains no plain classifier, and one network with one "
            f"linear layer at its end is read here. Name a method that trains one: {names}."
        )


def check_feature(needed: Needed, field: str, feature: openset.Feature) -> None:
    """Refuses, before anything runs, what trains no network, and the head's features of a classifier.

    Raises:
        ConfigError: naming the field.
    """
    check_needed(needed, field)
    if feature == "head":
        check_encoder(needed, field, "Its features are feature='backbone'; only an encoder has a head.")


def check_images(config: object, data: DataSpec, needed: Mapping[str, DataSpec]) -> None:
    """Refuses, before anything runs, images that a needed trial's network cannot see; a `Method.check`.

    Raises:
        ConfigError: they have another number of channels than those it is trained on.
    """
    del config
    kinds = {1: "grey", 3: "in colour"}
    for field, before in needed.items():
        if channels(before) != channels(data):
            raise ConfigError(
                f"{field} is trained on {before.protocol!r}, whose images are {kinds[channels(before)]}, and cannot be "
                f"used on {data.protocol!r}, whose images are {kinds[channels(data)]}. Name data of one kind."
            )


def check_classes(data: DataSpec, needed: Mapping[str, DataSpec]) -> None:
    """Refuses, before anything runs, images of other channels or another number of classes than a network is made for.

    Raises:
        ConfigError: naming the field.
    """
    for field, before in needed.items():
        if (channels(before), len(class_split(before)[0])) != (channels(data), len(class_split(data)[0])):
            raise ConfigError(
                f"{field} is trained on {before.protocol!r}, whose images have other channels or classes than those of "
                f"{data.protocol!r}, on which it is tested. Name data with the same classes."
            )


def judged(needed: Needed, state: State, data: Data, device: str, k: int = 10) -> Judged:
    """The classifier of another trial's final state.

    Args:
        needed: that trial.
        state: holds 'network' (a description) and 'weights'.
        data: what it was trained on.
        device: where the network shall run.
        k: neighbours per class, of an encoder.

    Raises:
        ValueError: a state that describes no network, or one of another number of classes or channels.
        Diverged: an encoder's features are not finite.
    """
    network = trained(needed, state)
    check_fits(network.description, data)
    network.to(device)
    if isinstance(network, backbones.Projected):
        return Judged(neighbours(network, data, device, k), logits=False)
    mean, std = colours(needed, data)

    def scores(x_BCHW: Tensor) -> Tensor:
        seen = network(augment.normalise(x_BCHW, mean, std))
        logits_BK: Tensor = seen.one_BK if isinstance(seen, twoheads.Seen) else seen
        return logits_BK

    return Judged(scores, logits=True)


def trained(needed: Needed, state: State) -> finetuned.Trained:
    """The network of another trial's final state, in eval mode, on the CPU; of student and teacher the one `scored`.

    Raises:
        ValueError: a state that describes no network, or whose weights are another's.
    """
    description, weights = described(state)
    try:
        if "student" in description:
            return scored(needed, teachers.rebuild(description, weights))
        if "body" in description:
            return finetuned.rebuild(description, weights)
        if "classes" in description:
            return classifiers.rebuild(description, weights)
        return backbones.rebuild(description, weights)
    except RuntimeError as error:  # torch names the weights
        raise ValueError(
            f"the needed trial's weights are not those of the network that its final state describes: {error}. Remove "
            "the trial from the home, so that it is trained again."
        ) from None


def scored(needed: Needed, trio: teachers.Trio) -> twoheads.TwoHeads:
    """The one of student and teacher that the needed trial's own `scored` names."""
    return trio.student if field(needed, "scored", "teacher") == "student" else trio.teacher


def described(state: State) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    """A final state's description of its network, and its weights.

    Raises:
        ValueError: it describes none that is known here.
    """
    known = {*backbones.ENCODERS, *classifiers.CLASSIFIERS}
    description = state.get("network")
    if isinstance(description, Mapping) and "weights" in state:
        if "student" in description or "body" in description:
            return description, state["weights"]
        if description.get("network") in known and ("head" in description or "classes" in description):
            return description, state["weights"]
    raise ValueError(
        "the needed trial's final state holds no classifier and no encoder: 'network' and 'weights' must describe one "
        f"of trainables.classifiers, trainables.backbones or trainables.teachers. It has: {', '.join(sorted(state))}."
    )


def encoder(needed: Needed, state: State, data: Data, device: str) -> backbones.Projected:
    """The encoder of another trial's final state, in eval mode, on the device.

    Raises:
        ValueError: a state that describes no encoder, or one for images of other channels.
    """
    network = trained(needed, state)
    if not isinstance(network, backbones.Projected):
        raise ValueError("the needed trial's final state holds a classifier and no encoder with a head.")
    check_channels(network.description, data)
    return network.to(device)


def embedding(needed: Needed, state: State, data: Data, device: str, feature: openset.Feature) -> openset.Embed:
    """The features of another trial's network: 'backbone', what its last layer is given; of an encoder also its 'head'.

    Args:
        needed: that trial.
        state: holds 'network' (a description) and 'weights'.
        data: whose images will be embedded.
        device: where the network shall run.
        feature: the one that must be among them.

    Raises:
        ValueError: a state that describes no network, one for images of other channels, or a classifier where the
            feature is a head.
    """
    network = trained(needed, state)
    check_channels(network.description, data)
    network.to(device).requires_grad_(False)
    if isinstance(network, backbones.Projected):
        return network.embed
    if feature == "head":
        raise ValueError("feature='head': the needed trial trained a classifier, and only an encoder has a head.")
    body = finetuned.body(network)
    return lambda x_BCHW: {"backbone": body(x_BCHW)}


def check_fits(description: Mapping[str, Any], data: Data) -> None:
    """Raises ValueError where a network was made for another number of channels or classes."""
    check_channels(description, data)
    _check_count("classes", description.get("classes"), len(data.classes), data)


def check_channels(description: Mapping[str, Any], data: Data) -> None:
    """Raises ValueError where a network was made for another number of channels."""
    _check_count("channels", description["channels"], data.test.pixels.shape[3], data)


def _check_count(name: str, made_for: int | None, found: int, data: Data) -> None:
    if made_for not in (None, found):
        raise ValueError(
            f"the needed trial's network has {made_for} {name}, and the images of {data.spec.protocol!r} have {found}: "
            "it was trained on other data."
        )


def field(needed: Needed, name: str, default: Any) -> Any:
    """A field of the needed trial's config, typed or plain."""
    if isinstance(needed.config, Mapping):
        return needed.config.get(name, default)
    return getattr(needed.config, name, default)


def colours(needed: Needed, data: Data) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of each channel that the needed trial normalises with."""
    if field(needed, "colour", "protocol") == "released":
        return rmix.RELEASED_MEAN, rmix.RELEASED_STD
    return data.mean, data.std


def neighbours(network: backbones.Projected, data: Data, device: str, k: int) -> Scores:
    """Algorithm 1's class scores with the training images as exemplars, on the head's features."""
    exemplars_ND = openset.embed_images(network.embed, data.train, data, device, BATCH)["head"]
    labels_N = torch.from_numpy(np.array(data.train.labels, dtype=np.int64)).to(device)

    def scores(x_BCHW: Tensor) -> Tensor:
        queries_BD = network.embed(augment.normalise(x_BCHW, data.mean, data.std))["head"].float()
        return openset.class_scores(queries_BD, exemplars_ND, labels_N, len(data.classes), k)

    return scores


@torch.no_grad()
def accuracy(scores: Scores, images: Images, device: str, change: Callable[[Tensor], Tensor] | None = None) -> float:
    """Share of images classified correctly.

    Args:
        scores: of the classes.
        images: in order, `BATCH` at a time.
        device: where the network is.
        change: uint8 (B, H, W, C) -> images in [0, 1] (B, C, H, W); none: as they are.
    """
    right = torch.zeros((), dtype=torch.int64, device=device)
    for start in range(0, len(images.labels), BATCH):
        pixels_BHWC = torch.from_numpy(np.array(images.pixels[start : start + BATCH])).to(device)
        labels_B = torch.from_numpy(np.array(images.labels[start : start + BATCH], dtype=np.int64)).to(device)
        x_BCHW = augment.to_float(pixels_BHWC) if change is None else change(pixels_BHWC)
        right += (scores(x_BCHW).argmax(1) == labels_B).sum()
    return float(right) / len(images.labels)
