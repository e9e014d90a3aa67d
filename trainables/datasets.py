"""Image data, decoded once and shared by all trials of a node; and the protocols that say which classes are known.

`open_data` maps ready-made uint8 arrays into memory. What a protocol, split, size and number of images need is
prepared on first use, by one process, under the home's data folder:

    decoded/<data set>-<state of its files>/      all its images, as they are
    prepared/<protocol>-<split>-<key>/            what one spec asks for: selected, relabelled, resized

Both can be deleted at any time that no trial runs. The whole of a set in its own size is not stored a second time.

scikit-learn's digits have no official test part: for each split number, half of each class's images (drawn once, by a
named stream) are for training and half for testing; Omniglot's characters likewise. Their split numbers 0 to 4
have MNIST's known classes, further ones are drawn the same way, so that a study can have as many blocks as it needs.

Protocols with negatives (classes that are seen in training, but not as classes) have four sets more: 'negative_train',
'negative' (of the test part), and what is held out of both training sets, 'validation' and 'negative_validation'.

Protocols for out-of-distribution detection have auxiliary sets and ones to be judged on: `trainables.outside`. Grey and
colour images are made one kind there, that of the known ones.

Sources: splits, see `trainables.splits`; normalisation constants of the GradMix authors' code (R1 and R2 of the
specification): none for MNIST, and so none for the digits.

Deviations:
    1. CIFAR-100's closed protocol uses CIFAR-10's constants, as that code does.
    2. All images of the unknown classes' test part are evaluated, none is left out (that code truncates).
    3. What is held out for validation is drawn by a named stream of the split number, over all classes together.
    4. Omniglot's dark strokes are inverted where they stand beside MNIST's bright ones.
"""

import contextlib
import errno
import functools
import hashlib
import itertools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trainables import boxes, corrupted_files, outside, splits
from trainables import imagenet_classes as imagenet
from trainables.arraystore import Stored, Writer, open_stored
from trainables.config import check_types, nearest, require
from trainables.corruption_settings import SEVERITIES
from trainables.imageformats import Chunk, DataError
from trainables.outside import Outside
from trainables.seeding import numpy_stream
from trainables.sources import SOURCES, Located, chunks, class_names, find, fingerprint, missing, obtain

__all__ = [
    "PROTOCOLS",
    "SOURCES",
    "Data",
    "DataError",
    "DataSpec",
    "Images",
    "Protocol",
    "check",
    "class_split",
    "open_data",
    "open_source",
]

NEGATIVE = -1
"""Label of images of negative classes: seen in training, but of none of the known classes."""
UNKNOWN = -2
"""Label of images of unknown classes: not seen in training."""
VERSION = 1
"""Of what `prepared` folders hold; another version is prepared again beside the old."""

_ROWS = 2048
"""Images copied at a time."""
_UNASKED = (("auxiliary", None), ("boxes", False))
"""Fields and values of a spec that came later, and change nothing of what was prepared before."""

log = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class Images:
    """pixels (N, H, W, C) uint8, possibly memory-mapped; labels (N,) int64; original (N,) int64, the data set's own.

    boxes (N, M, 4): see `trainables.boxes`; None unless the spec asks for them, or where a training part has none.
    """

    pixels: np.ndarray
    labels: np.ndarray
    original: np.ndarray | None = None
    boxes: np.ndarray | None = None


@dataclass(frozen=True)
class Data:
    """A protocol's data, opened. Known classes are relabelled 0..C-1; unknown images carry -2, negatives -1."""

    spec: DataSpec
    classes: tuple[str, ...]
    train: Images
    test: Images
    others: Mapping[str, Images] = field(default_factory=dict)
    """Further evaluated or auxiliary sets by name; 'unknown' in every open-set protocol."""
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    digest: str = ""
    """SHA-256 over the arrays above."""


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
    ),
    "tinyimagenet-p3": Protocol(
        source="tinyimagenet",
        known=splits.TINY_P3_KNOWN,
        negative=splits.TINY_P3_NEGATIVE,
        unknown=splits.TINY_P3_UNKNOWN,
        held_out=0.2,
    ),
    "imagenet-p1": Protocol(
        source="imagenet-p1",
        known=imagenet.P1_KNOWN,
        negative=imagenet.P1_NEGATIVE,
        unknown=imagenet.P1_UNKNOWN,
        held_out=0.2,
    ),
    "imagenet-p2": Protocol(
        source="imagenet-p2",
        known=imagenet.P2_KNOWN,
        negative=imagenet.P2_NEGATIVE,
        unknown=imagenet.P2_UNKNOWN,
        held_out=0.2,
    ),
    "imagenet-p3": Protocol(
        source="imagenet-p3",
        known=imagenet.P3_KNOWN,
        negative=imagenet.P3_NEGATIVE,
        unknown=imagenet.P3_UNKNOWN,
        held_out=0.2,
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


def open_data(spec: DataSpec, *, cache: Path, source: Path | None = None, download: bool = True) -> Data:
    """The arrays a spec asks for, mapped into memory. Prepares them on first use; later costs a few `stat` calls.

    Args:
        spec: what is wanted.
        cache: the folder for decoded arrays, shared by all trials of a node.
        source: where data sets are looked for first (`--data`, `ABLATE_DATA`): Parquet, then torchvision's layouts.
        download: whether torchvision may download what is not there.

    Raises:
        DataError: unknown protocol or split; data that is missing, truncated or not what the protocol needs.
    """
    protocol = protocol_of(spec)
    with _explained(cache):
        located = {name: obtain(name, cache, source, download) for name in protocol.sources}
        states = {name: fingerprint(found) for name, found in located.items()}
        if spec.boxes:
            boxes.check(located[protocol.source].source, located[protocol.source].kind)
        asked = {name: value for name, value in asdict(spec).items() if (name, value) not in _UNASKED}
        key = hashlib.sha256(json.dumps([VERSION, asked, states, repr(protocol)]).encode()).hexdigest()[:12]
        folder = cache / "prepared" / f"{spec.protocol}-{spec.split}-{key}"
        stored = open_stored(folder, functools.partial(_prepare, spec, located, states, cache))
    sets = {part: _images(stored, part) for part in stored.notes["parts"]}
    train, test = sets.pop("train"), sets.pop("test")
    classes = tuple(stored.notes["classes"])
    return Data(spec, classes, train, test, sets, *protocol.colour, _digest(stored))


def _images(stored: Stored, part: str) -> Images:
    pixels, labels, original = (stored.arrays[f"{part}.{kind}"] for kind in ("pixels", "labels", "original"))
    return Images(pixels, labels, original, stored.arrays.get(f"{part}.boxes"))


def open_source(name: str, *, cache: Path, source: Path | None = None, download: bool = True) -> Mapping[str, Images]:
    """All images of a data set as they are, by part: 'train', and 'test' where it has one. Labels are its own.

    Args:
        name: key of `trainables.sources.SOURCES`.
        cache: as for `open_data`.
        source: the same.
        download: the same.

    Raises:
        DataError: an unknown name; data that is missing or damaged.
    """
    if name not in SOURCES:
        raise DataError(f"{name!r} is no data set.{nearest(name, SOURCES)} The data sets are: {', '.join(SOURCES)}.")
    with _explained(cache):
        located = obtain(name, cache, source, download)
        stored = _decoded(name, located, fingerprint(located), cache)
    parts = located.source.parts
    return {part: Images(stored.arrays[f"{part}.pixels"], stored.arrays[f"{part}.labels"]) for part in parts}


def check(spec: DataSpec, *, cache: Path, source: Path | None = None, download: bool = True) -> None:
    """Finds, without decoding an image or downloading anything, what would keep `open_data` from working.

    Sees an unknown protocol or split, a folder that is missing or empty, missing parts, truncated Parquet files and
    other classes. What only decoding shows is seen by `open_data`, which a driver calls once before its trials start.

    Raises:
        DataError: what is wrong.
    """
    protocol = protocol_of(spec)
    with _explained(cache):
        for name in protocol.sources:
            found = find(name, cache, source)
            if found is not None:
                if spec.boxes and name == protocol.source:
                    boxes.check(found.source, found.kind)
                class_names(found)
            elif not download or SOURCES[name].download is None:
                raise DataError(missing(name, source))


@contextlib.contextmanager
def _explained(cache: Path) -> Iterator[None]:
    """What the system refuses, in words: either the cache cannot be written or the given files cannot be read."""
    try:
        yield
    except OSError as error:
        place, reason = Path(error.filename or cache), error.strerror or str(error)
        ours = cache in (place, *place.parents) or place in cache.parents
        if error.errno != errno.ENOSPC and not ours:
            raise DataError(
                f"{place} cannot be read: {reason}. Make the data readable, or give another folder."
            ) from None
        raise DataError(
            f"Decoded data cannot be kept in {cache}: {place.name}: {reason}. Give a home that can be written, with "
            "room for the arrays, by --home or ABLATE_HOME."
        ) from None


# Preparing


def _decoded(name: str, located: Located, state: str, cache: Path) -> Stored:
    return open_stored(cache / "decoded" / f"{name}-{state}", functools.partial(_decode, located))


def _decode(located: Located, writer: Writer) -> None:
    """Reads every image of a data set once, straight into the arrays' files."""
    log.info("Decoding %s.", located.source.title)
    writer.notes["classes"] = list(class_names(located))
    for part in located.source.parts:
        labels: list[np.ndarray] = []
        writer.stream(f"{part}.pixels", _pixels(chunks(located, part), labels))
        if not sum(map(len, labels)):
            raise DataError(f"{located.source.title}: the {part} part has no images. Get the files again.")
        writer.put(f"{part}.labels", np.concatenate(labels))


def _pixels(read: Iterator[Chunk], labels: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Passes the images on and keeps the class numbers."""
    for pixels, numbers in read:
        labels.append(numbers)
        yield pixels


def _prepare(
    spec: DataSpec, located: Mapping[str, Located], states: Mapping[str, str], cache: Path, writer: Writer
) -> None:
    """Selects, relabels and resizes what the spec asks for."""
    protocol = PROTOCOLS[spec.protocol]
    stored = {name: _decoded(name, located[name], states[name], cache) for name in located}
    if protocol.corrupted:
        _check_corrupted(protocol, stored)
    side = protocol.side if spec.side is None else spec.side
    wanted, sides = _wanted(protocol, spec, {name: stored[name].notes["classes"] for name in stored}), set()
    for part, pick in wanted.items():
        array = pick.of if f"{pick.of}.labels" in stored[pick.source].arrays else "train"
        original = stored[pick.source].arrays[f"{array}.labels"]
        rows = _rows(pick, original, spec, protocol.held_out)
        invert = protocol.inverted and pick.source == protocol.unknown_source
        sides.add(_copy(writer, part, stored[pick.source], array, rows, side, invert, channels(spec)))
        writer.put(f"{part}.original", original[rows])
        writer.put(f"{part}.labels", np.array([pick.labels[int(number)] for number in original[rows]], dtype=np.int64))
        if spec.boxes and part in ("train", "test"):
            found = boxes.of(located[pick.source].source, located[pick.source].files.get(array, ()), rows, part)
            if found is not None:
                writer.put(f"{part}.boxes", found)
    if len(sides) > 1:
        raise DataError(
            f"{spec.protocol} would mix images of {' and '.join(map(str, sorted(sides)))}: set `side` in the data spec "
            "to resize them to one size."
        )
    if protocol.outside:
        pixels = {part: np.load(writer.path(f"{part}.pixels"), mmap_mode="r") for part in wanted}
        for part, shared in outside.shared_images(pixels).items():
            _leave_out(writer, part, shared)
    writer.notes["parts"] = list(wanted)
    writer.notes["classes"] = [stored[protocol.source].notes["classes"][number] for number in wanted["train"].labels]


def _check_corrupted(protocol: Protocol, stored: Mapping[str, Stored]) -> None:
    """Raises DataError where the published corrupted images are not those of the test images."""
    of, clean, corrupted = SOURCES[protocol.corrupted], stored[protocol.source], stored[protocol.corrupted]
    corrupted_files.check_names(of, clean.notes["classes"], corrupted.notes["classes"])
    labels = clean.arrays["test.labels"]
    for name in of.parts:
        once = len(corrupted.arrays[f"{name}.labels"]) // len(SEVERITIES)
        corrupted_files.check_same(of, labels, corrupted.arrays[f"{name}.labels"][:once])


@dataclass(frozen=True, kw_only=True)
class _Pick:
    """Which images one set of a protocol is made of."""

    source: str
    of: str
    """Part of the data set, 'train' or 'test'."""
    labels: Mapping[int, int]
    """The data set's class number -> label."""
    share: Literal["all", "kept", "held out"] = "all"
    """All images, or those of training that validation does not get, or gets."""
    undivided: bool = False
    """Whether a class without a test part gives all its images, since none is trained on as known."""
    limited: bool = True
    """Whether the spec's limits on the images of a class hold."""
    most: int | None = None
    """At most so many images in all; None: no limit."""
    of_clean: str = ""
    """The data set whose test images these are, corrupted, severity after severity: the same are chosen of each."""


def _wanted(protocol: Protocol, spec: DataSpec, names: Mapping[str, Sequence[str]]) -> dict[str, _Pick]:
    """The sets of a protocol, by name."""
    own, other = protocol.source, protocol.unknown_source or protocol.source
    known, unknown = class_split(spec)
    relabel = {number: label for label, number in enumerate(_numbers(known, names[own], own))}
    negative = protocol.negative is not None
    wanted = {
        "train": _Pick(source=own, of="train", labels=relabel, share="kept" if protocol.held_out else "all"),
        "test": _Pick(source=own, of="test", labels=relabel),
    }
    if protocol.open_set:
        labels = dict.fromkeys(_numbers(unknown, names[other], other), UNKNOWN)
        wanted["unknown"] = _Pick(source=other, of="test", labels=labels, undivided=negative)
    if protocol.negative is not None:
        labels = dict.fromkeys(_numbers(protocol.negative[spec.split], names[other], other), NEGATIVE)
        wanted["negative_train"] = _Pick(source=other, of="train", labels=labels, share="kept")
        wanted["negative"] = _Pick(source=other, of="test", labels=labels)
        if protocol.held_out:
            wanted["validation"] = replace(wanted["train"], share="held out")
            wanted["negative_validation"] = replace(wanted["negative_train"], share="held out")
    if protocol.corrupted:
        for name in SOURCES[protocol.corrupted].parts:
            pick = replace(wanted["test"], source=protocol.corrupted, of=name, of_clean=own)
            wanted[corrupted_files.SET.format(name)] = pick
    return wanted | {name: _pick_outside(protocol, spec, name, names) for name in protocol.outside}


def _pick_outside(protocol: Protocol, spec: DataSpec, name: str, names: Mapping[str, Sequence[str]]) -> _Pick:
    """An auxiliary or out-of-distribution set."""
    beside, auxiliary = protocol.outside[name], outside.role(name) == "auxiliary"
    classes = beside.of(spec.split)
    every = [number for number in range(len(names[beside.source])) if number not in beside.left_out(spec.split)]
    numbers = every if classes is None else _numbers(classes, names[beside.source], beside.source)
    return _Pick(
        source=beside.source,
        of=beside.part,
        labels=dict.fromkeys(numbers, NEGATIVE if auxiliary else UNKNOWN),
        undivided=True,
        most=spec.auxiliary if auxiliary else None,
        limited=not auxiliary,
    )


def _numbers(classes: splits.Classes, names: Sequence[str], source: str) -> list[int]:
    """Class numbers of what a protocol lists: numbers, or the beginnings of names."""
    found = []
    for entry in classes:
        if isinstance(entry, int):
            found.append(entry)
            continue
        matching = [number for number, name in enumerate(names) if name.startswith(entry)]
        if not matching:
            raise DataError(f"{SOURCES[source].title} has no class {entry!r}, which the protocol needs.")
        found.extend(matching)
    return found


def _rows(pick: _Pick, original: np.ndarray, spec: DataSpec, held_out: float) -> np.ndarray:
    """Rows of the wanted classes, see `_chosen`; of corrupted images those of each severity."""
    if not pick.of_clean:
        return _chosen(pick, original, spec, held_out)
    once = len(original) // len(SEVERITIES)
    rows = _chosen(replace(pick, source=pick.of_clean, of="test"), original[:once], spec, held_out)
    return np.concatenate([place * once + rows for place in range(len(SEVERITIES))])


def _chosen(pick: _Pick, original: np.ndarray, spec: DataSpec, held_out: float) -> np.ndarray:
    """Rows of the wanted classes, at most so many of each as the spec allows, in the order of the data set."""
    name, part = pick.source, pick.of
    by_class = {number: np.flatnonzero(original == number) for number in pick.labels}
    for number, of_class in by_class.items():
        if "test" not in SOURCES[name].parts and not pick.undivided:
            drawn = numpy_stream(spec.split, f"{name}/parts/{number}").permutation(of_class)
            by_class[number] = np.sort(drawn[: len(drawn) // 2] if part == "train" else drawn[len(drawn) // 2 :])
        if not len(by_class[number]):
            raise DataError(
                f"{SOURCES[name].title}: the {part} part has no image of class {number}, which {spec.protocol}, split "
                f"{spec.split}, needs. Give the whole data set."
            )
    if pick.share != "all":
        every = np.sort(np.concatenate(list(by_class.values())))
        drawn = numpy_stream(spec.split, f"{spec.protocol}/{min(pick.labels.values())}/held out").permutation(every)
        kept = round(len(drawn) * (1 - held_out))
        mine = drawn[:kept] if pick.share == "kept" else drawn[kept:]
        by_class = {number: np.intersect1d(of_class, mine) for number, of_class in by_class.items()}
    most = (spec.per_class if part == "train" else spec.test_per_class) if pick.limited else None
    rows = []
    for number, of_class in by_class.items():
        if most is not None and most < len(of_class):
            of_class = numpy_stream(0, f"{name}/{part}/{number}").permutation(of_class)[:most]
        rows.append(of_class)
    every = np.sort(np.concatenate(rows))
    if pick.most is not None and pick.most < len(every):
        every = np.sort(numpy_stream(0, f"{name}/{part}/all").permutation(every)[: pick.most])
    return every


def _copy(
    writer: Writer,
    part: str,
    stored: Stored,
    array: str,
    rows: np.ndarray,
    side: int | None,
    invert: bool,
    channels: int,
) -> int:
    """Writes the chosen images and returns their side; the whole set as it is costs no second copy."""
    pixels = stored.arrays[f"{array}.pixels"]
    native = int(pixels.shape[1])
    if side in (None, native) and len(rows) == len(pixels) and not invert and pixels.shape[3] == channels:
        writer.link(f"{part}.pixels", stored.folder / f"{array}.pixels.npy")
        return native
    selected = (pixels[rows[start : start + _ROWS]] for start in range(0, len(rows), _ROWS))
    if side not in (None, native):
        selected = (_resized(some, side) for some in selected)
    if invert:
        selected = (255 - some for some in selected)
    if pixels.shape[3] != channels:
        selected = (_recoloured(some) for some in selected)
    writer.stream(f"{part}.pixels", selected)
    return side or native


def _resized(pixels: np.ndarray, side: int) -> np.ndarray:
    """Antialiased bilinear, on 8 bits."""
    from PIL import Image

    grey = pixels.shape[3] == 1
    images = [Image.fromarray(image[..., 0] if grey else image) for image in pixels]
    out = np.stack([np.asarray(image.resize((side, side), Image.Resampling.BILINEAR)) for image in images])
    return out[..., None] if grey else out


def _leave_out(writer: Writer, part: str, rows: np.ndarray) -> None:
    """Writes a set again without some of its rows."""
    for kind in ("pixels", "labels", "original"):
        path = writer.path(f"{part}.{kind}")
        kept = np.delete(np.load(path), rows, axis=0)
        path.unlink()  # it may be one file with the decoded array
        writer.put(f"{part}.{kind}", kept)


def _recoloured(pixels: np.ndarray) -> np.ndarray:
    """Grey images in three equal channels; colour images in grey (ITU-R 601, as PIL has it)."""
    if pixels.shape[3] == 1:
        return np.repeat(pixels, 3, axis=3)
    from PIL import Image

    return np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in pixels])[..., None]


def _digest(stored: Stored) -> str:
    """SHA-256 over the arrays a trial is given: of their names and each one's own checksum, which is on record."""
    sums = {name: digest for name, digest in sorted(stored.digests.items()) if not name.endswith(".original")}
    return hashlib.sha256(json.dumps(sums).encode()).hexdigest()
