"""Data protocols: which data sets a trial is given, and which classes are known, negative and unknown in each split.

What a spec names here is decoded, selected and opened in `trainables.datasets`; the classes themselves are listed in
`trainables.splits` and `trainables.imagenet_classes`.

scikit-learn's digits have no official test part: for each split number, half of each class's images (drawn once, by a
named stream) are for training and half for testing; Omniglot's characters likewise. Their split numbers 0 to 4
have MNIST's known classes, further ones are drawn the same way, so that a study can have as many blocks as it needs.

Protocols with negatives (classes that are seen in training, but not as classes) have four sets more: 'negative_train',
'negative' (of the test part), and what is held out of both training sets, 'validation' and 'negative_validation'.

Protocols for out-of-distribution detection have auxiliary sets and ones to be judged on: `trainables.outside`.

Sources: splits, see `trainables.splits`; normalisation constants of the GradMix authors' code (R1 and R2 of the
specification): none for MNIST, and so none for the digits.

Deviations:
    1. CIFAR-100's closed protocol uses CIFAR-10's constants, as that code does.
    2. Omniglot's dark strokes are inverted where they stand beside MNIST's bright ones.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainables import imagenet_classes as imagenet
from trainables import outside, splits
from trainables.config import check_types, nearest, require
from trainables.imageformats import DataError
from trainables.outside import Outside
from trainables.seeding import numpy_stream
from trainables.sources import SOURCES

NEGATIVE = -1
"""Label of images of negative classes: seen in training, but of none of the known classes."""
UNKNOWN = -2
"""Label of images of unknown classes: not seen in training."""


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """What a trial trains and is evaluated on; part of its identity."""

    protocol: str
    """Key of PROTOCOLS."""
    split: int = 0
    """Trial number of the protocol's known/unknown split, or of its train/test resplit."""
    side: int | None = None
    """Resize to so many pixels a side; None: native."""
    per_class: int | None = None
    """At most so many training images a class, the first in a fixed order; None: all."""
    test_per_class: int | None = None
    """The same for each evaluated set."""
    auxiliary: int | None = None
    """At most so many images of each auxiliary set, whatever their classes; None: all."""
    boxes: bool = False
    """Whether every test image must have boxes; data without is refused."""

    def __post_init__(self) -> None:
        check_types(self)
        for name, least in (("side", 4), ("per_class", 1), ("test_per_class", 1), ("auxiliary", 1)):
            value = getattr(self, name)
            require(value is None or value >= least, self, name, f"none, or at least {least}")
        require(self.split >= 0, self, "split", "at least 0")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Which data set's classes are known and unknown, in each numbered split."""

    source: str
    """Key of `sources.SOURCES`: training images and known test images."""
    known: splits.Table | splits.Names | None = None
    """Known classes of each split; None: all classes (a closed set)."""
    unknown_source: str | None = None
    """Where unknown images come from; None: the other classes of `source`."""
    unknown: splits.Table | splits.Names | None = None
    """Unknown classes of each split, if they are not simply all others."""
    negative: splits.Table | splits.Names | None = None
    """Negative classes of each split, of `unknown_source` where there is one; needs `unknown`."""
    outside: Mapping[str, Outside] = field(default_factory=dict)
    """Auxiliary and out-of-distribution sets by name, see `trainables.outside`; then there is no set 'unknown'."""
    corrupted: str = ""
    """Published corrupted copies of the test images, a key of `sources.SOURCES`; each corruption is a set, see
    `trainables.corrupted_files`."""
    held_out: float = 0.0
    """Share of the training images, known and negative, that validation gets."""
    stratified: bool = False
    """Whether it gets that share of every class, rather than of all images together."""
    side: int | None = None
    """Pixels a side where the spec leaves it open; None: the data set's own."""
    inverted: bool = False
    """Whether the images of `unknown_source` show dark strokes on white and are to show bright ones on black."""
    closed: bool = False
    """Whether there are only the known classes: the others are left out, rather than unknown."""
    endless: bool = False
    """Whether any split number is allowed (the digits' are drawn)."""
    colour: tuple[tuple[float, ...], tuple[float, ...]] = ((0.0,), (1.0,))
    """Mean and standard deviation of each channel, for normalisation; (0, 1): none."""

    def __post_init__(self) -> None:
        _check_disjoint(self)
        if self.outside:
            outside.check_classes(self.source, self.known, self.outside)

    @property
    def open_set(self) -> bool:
        """Whether there are unknown images."""
        return self.known is not None and not self.outside and not self.closed

    @property
    def sources(self) -> tuple[str, ...]:
        """The data sets it needs."""
        others = [name for name in (self.unknown_source, self.corrupted) if name]
        return tuple(dict.fromkeys((self.source, *others, *(each.source for each in self.outside.values()))))


def _check_disjoint(protocol: Protocol) -> None:
    """Raises DataError where a class plays two roles in one split."""
    roles = {"known": protocol.known, "negative": protocol.negative, "unknown": protocol.unknown}
    tables = {role: table for role, table in roles.items() if table is not None}
    if protocol.negative is not None and not {"known", "unknown"} <= set(tables):
        raise DataError("a protocol with negative classes must list its known and its unknown classes too.")
    if len({len(table) for table in tables.values()}) > 1:
        told = ", ".join(f"{role} {len(table)}" for role, table in tables.items())
        raise DataError(f"a protocol's tables must have as many splits each: {told}.")
    for one, other in itertools.combinations(tables, 2):
        if protocol.unknown_source is not None and "known" in (one, other):
            continue  # Other classes, whatever their numbers.
        for split, (first, second) in enumerate(zip(tables[one], tables[other], strict=True)):
            shared = set(first) & set(second)
            if shared:
                which = ", ".join(map(str, sorted(shared, key=str)[:5]))
                raise DataError(
                    f"the classes of a protocol overlap: {which} of {protocol.source!r}, split {split}, "
                    f"{'are' if len(shared) > 1 else 'is'} {one} and {other}. A class may have one role."
                )


_CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_CIFAR10_OOD = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
_CIFAR100_OOD = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
_SVHN = ((0.4376821, 0.4437697, 0.47280442), (0.19803012, 0.20101562, 0.19703614))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

_LETTERS: Mapping[str, Any] = {
    "known": splits.TEN,
    "negative": splits.LETTERS_NEGATIVE,
    "unknown": splits.LETTERS_UNKNOWN,
    "held_out": 0.2,
}

_FAR: Mapping[str, Outside] = {
    "far_textures": Outside(source="textures"),
    "far_svhn": Outside(source="svhn"),
    "far_places365": Outside(source="places365"),
    "far_lsun_c": Outside(source="lsun-c"),
    "far_lsun_r": Outside(source="lsun-r"),
    "far_isun": Outside(source="isun"),
}
"""The six test sets of the literature on CIFAR."""
_FAR_OF_IMAGENET: Mapping[str, Outside] = {
    "far_textures": Outside(source="textures-224"),
    "far_places": Outside(source="places-224"),
    "far_inaturalist": Outside(source="inaturalist-224"),
    "far_sun": Outside(source="sun-224"),
}
"""The four of the literature on ImageNet."""
_GIVEN: Mapping[str, Outside] = {
    "far_mnist": Outside(source="mnist"),
    "far_omniglot": Outside(source="omniglot"),
    "far_noise": Outside(source="noise-32"),
}

PROTOCOLS: dict[str, Protocol] = {
    "digits": Protocol(source="digits", known=splits.MNIST, endless=True),
    "mnist": Protocol(source="mnist", known=splits.MNIST),
    "svhn": Protocol(source="svhn", known=splits.SVHN, colour=_SVHN),
    "cifar10": Protocol(source="cifar10", known=splits.CIFAR10, colour=_CIFAR),
    "cifar+10": Protocol(
        source="cifar10",
        known=splits.CIFAR_PLUS,
        unknown_source="cifar100",
        unknown=splits.CIFAR_PLUS_10_UNKNOWN,
        colour=_CIFAR,
    ),
    "cifar+50": Protocol(
        source="cifar10",
        known=splits.CIFAR_PLUS,
        unknown_source="cifar100",
        unknown=splits.CIFAR_PLUS_50_UNKNOWN,
        colour=_CIFAR,
    ),
    "tinyimagenet": Protocol(source="tinyimagenet", known=splits.TINYIMAGENET, colour=_IMAGENET),
    "digits-toy": Protocol(
        source="digits",
        known=splits.MNIST,
        negative=splits.DIGITS_NEGATIVE,
        unknown=splits.DIGITS_UNKNOWN,
        held_out=0.2,
    ),
    "toy": Protocol(source="emnist-mnist", unknown_source="emnist-letters", **_LETTERS),
    "toy-mnist": Protocol(source="mnist", unknown_source="emnist-letters", **_LETTERS),
    "mnist-omniglot": Protocol(
        source="mnist",
        known=splits.TEN,
        unknown_source="omniglot",
        negative=splits.OMNIGLOT_NEGATIVE,
        unknown=splits.OMNIGLOT_UNKNOWN,
        held_out=0.2,
        side=28,
        inverted=True,
    ),
    "tinyimagenet-p2": Protocol(
        source="tinyimagenet",
        known=splits.TINY_P2_KNOWN,
        negative=splits.TINY_P2_NEGATIVE,
        unknown=splits.TINY_P2_UNKNOWN,
        held_out=0.2,
        stratified=True,
    ),
    "tinyimagenet-p3": Protocol(
        source="tinyimagenet",
        known=splits.TINY_P3_KNOWN,
        negative=splits.TINY_P3_NEGATIVE,
        unknown=splits.TINY_P3_UNKNOWN,
        held_out=0.2,
        stratified=True,
    ),
    "imagenet-p1": Protocol(
        source="imagenet-p1",
        known=imagenet.P1_KNOWN,
        negative=imagenet.P1_NEGATIVE,
        unknown=imagenet.P1_UNKNOWN,
        held_out=0.2,
        stratified=True,
    ),
    "imagenet-p2": Protocol(
        source="imagenet-p2",
        known=imagenet.P2_KNOWN,
        negative=imagenet.P2_NEGATIVE,
        unknown=imagenet.P2_UNKNOWN,
        held_out=0.2,
        stratified=True,
    ),
    "imagenet-p3": Protocol(
        source="imagenet-p3",
        known=imagenet.P3_KNOWN,
        negative=imagenet.P3_NEGATIVE,
        unknown=imagenet.P3_UNKNOWN,
        held_out=0.2,
        stratified=True,
    ),
    "digits-ood": Protocol(
        source="digits",
        known=splits.MNIST,
        outside={
            "auxiliary_digits": Outside(source="digits", classes=splits.DIGITS_NEGATIVE),
            "auxiliary_photos": Outside(source="photos", classes=(("china",),)),
            "near_digits": Outside(source="digits", classes=splits.DIGITS_UNKNOWN),
            "far_photos": Outside(source="photos", classes=(("flower",),)),
            "far_noise": Outside(source="noise-8"),
        },
    ),
    "cifar10-ood": Protocol(
        source="cifar10",
        outside={
            "auxiliary": Outside(source="tinyimagenet", classes=splits.TINY_AUXILIARY, part="train"),
            "near_tinyimagenet": Outside(source="tinyimagenet", classes=splits.TINY_NEAR),
            **_GIVEN,
        },
        side=32,
        colour=_CIFAR10_OOD,
    ),
    "cifar10-cifar100-svhn": Protocol(
        source="cifar10",
        outside={"near_cifar100": Outside(source="cifar100"), "far_svhn": Outside(source="svhn")},
        colour=_CIFAR,
    ),
    "cifar10-auxiliary": Protocol(
        source="cifar10", outside={"auxiliary": Outside(source="auxiliary"), **_GIVEN}, side=32, colour=_CIFAR10_OOD
    ),
    "cifar10-random300k": Protocol(
        source="cifar10", outside={"auxiliary": Outside(source="random300k"), **_FAR}, colour=_CIFAR10_OOD
    ),
    "cifar100-random300k": Protocol(
        source="cifar100", outside={"auxiliary": Outside(source="random300k"), **_FAR}, colour=_CIFAR100_OOD
    ),
    "imagenet10": Protocol(
        source="imagenet",
        known=imagenet.TEN,
        outside={
            "auxiliary": Outside(source="imagenet", besides=imagenet.TEN, part="train"),
            **_FAR_OF_IMAGENET,
        },
        side=224,
        colour=_IMAGENET,
    ),
    "imagenet10-64": Protocol(
        source="imagenet64",
        known=imagenet.TEN,
        outside={
            "auxiliary": Outside(source="imagenet64", besides=imagenet.TEN, part="train"),
            **_FAR_OF_IMAGENET,
        },
        side=64,
        colour=_IMAGENET,
    ),
    "digits-closed": Protocol(source="digits", endless=True),
    "digits-known": Protocol(source="digits", known=splits.MNIST, closed=True),
    "digits-others": Protocol(source="digits", known=splits.DIGITS_OTHERS, closed=True),
    "digits-boxes": Protocol(source="digits-boxes", endless=True),
    "mnist-closed": Protocol(source="mnist"),
    "svhn-closed": Protocol(source="svhn", colour=_SVHN),
    "cifar10-closed": Protocol(source="cifar10", colour=_CIFAR),
    "cifar100-closed": Protocol(source="cifar100", colour=_CIFAR),
    "tinyimagenet-closed": Protocol(source="tinyimagenet", colour=_IMAGENET),
    "tinyimagenet100-closed": Protocol(
        source="tinyimagenet", known=(tuple(range(100)),), closed=True, colour=_IMAGENET
    ),
    "imagenet-closed": Protocol(source="imagenet", colour=_IMAGENET),
    "imagenet128-closed": Protocol(source="imagenet128", colour=_IMAGENET),
    "imagenet64-closed": Protocol(source="imagenet64", colour=_IMAGENET),
    "cifar10-c": Protocol(source="cifar10", corrupted="cifar10-c", colour=_CIFAR),
    "cifar100-c": Protocol(source="cifar100", corrupted="cifar100-c", colour=_CIFAR),
    "tinyimagenet-c": Protocol(source="tinyimagenet", corrupted="tinyimagenet-c", colour=_IMAGENET),
    "cub200-closed": Protocol(source="cub200", colour=_IMAGENET),
    "aircraft-closed": Protocol(source="aircraft", colour=_IMAGENET),
    "cars-closed": Protocol(source="cars", colour=_IMAGENET),
    "emnist-letters-closed": Protocol(source="emnist-letters"),
    "emnist-balanced-closed": Protocol(source="emnist-balanced"),
    "emnist-digits-closed": Protocol(source="emnist-digits"),
}
"""Every protocol by name; `<data set>-closed` are plain classification, of the first 100 classes in sorted order in
'tinyimagenet100-closed'. 'digits-known' and 'digits-others' share out the digits, to train on some and go on with the
others."""


def protocol_of(spec: DataSpec) -> Protocol:
    """The spec's protocol.

    Raises:
        DataError: no such protocol, or no such split of it.
    """
    protocol = PROTOCOLS.get(spec.protocol)
    if protocol is None:
        raise DataError(
            f"{spec.protocol!r} is no data protocol.{nearest(spec.protocol, PROTOCOLS)} "
            f"The protocols are: {', '.join(PROTOCOLS)}."
        )
    last = (len(protocol.known) if protocol.known else 1) - 1
    if spec.split > last and not protocol.endless:
        allowed = f"0 to {last}" if last else "0 only"
        raise DataError(f"split={spec.split} is not allowed: the splits of {spec.protocol} are {allowed}.")
    return protocol


def channels(spec: DataSpec) -> int:
    """Of the images that a spec means: 1, grey, or 3.

    Raises:
        DataError: no such protocol or split.
    """
    return 1 if SOURCES[protocol_of(spec).source].mode == "L" else 3


def class_split(spec: DataSpec) -> tuple[splits.Classes, splits.Classes]:
    """Known and unknown classes by the data sets' own numbers (or the beginnings of their names, where a protocol goes
    by names). The known ones become 0..C-1 in the order given here.

    Raises:
        DataError: no such protocol or split.
    """
    protocol = protocol_of(spec)
    every = range(SOURCES[protocol.source].expected or 0)
    if protocol.known is None:
        return tuple(every), ()
    if spec.split < len(protocol.known):
        known = protocol.known[spec.split]
    else:
        drawn = numpy_stream(spec.split, f"{spec.protocol}/known").permutation(len(every))
        known = tuple(int(number) for number in drawn[: len(protocol.known[0])])
    if protocol.unknown is not None:
        return known, protocol.unknown[spec.split]
    return known, tuple(number for number in every if number not in known)
