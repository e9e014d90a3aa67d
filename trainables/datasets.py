"""Image data, decoded once and shared by all trials of a node; and the protocols that say which classes are known.

`open_data` maps ready-made uint8 arrays into memory. What a protocol, split, size and number of images need is
prepared on first use, by one process, under the home's data folder:

    decoded/<data set>-<state of its files>/      all its images, as they are
    prepared/<protocol>-<split>-<key>/            what one spec asks for: selected, relabelled, resized

scikit-learn's digits have no official test part: for each split number, half of each class's images (drawn once, by a
named stream) are for training and half for testing. Their split numbers 0 to 4 have MNIST's known classes, further ones
are drawn the same way, so that a study can have as many blocks as it needs.

Sources: splits, see `trainables.splits`; normalisation constants of the GradMix authors' code (R1 and R2 of the
specification): none for MNIST, and so none for the digits.

Deviations:
    1. CIFAR-100's closed protocol uses CIFAR-10's constants, as that code does.
    2. All images of the unknown classes' test part are evaluated, none is left out (that code truncates).
"""

import contextlib
import functools
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from trainables import splits
from trainables.arraystore import Stored, Writer, locked, open_stored
from trainables.config import check_types, nearest, require
from trainables.seeding import numpy_stream
from trainables.sources import SOURCES, DataError, Located, chunks, class_names, count_images, fingerprint, locate

__all__ = ["PROTOCOLS", "Data", "DataError", "DataSpec", "Images", "Protocol", "check", "class_split", "open_data"]

UNKNOWN = -2
"""Label of images of unknown classes."""
VERSION = 1
"""Of what `prepared` folders hold; another version is prepared again beside the old."""

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

    def __post_init__(self) -> None:
        check_types(self)
        for name, least in (("side", 4), ("per_class", 1), ("test_per_class", 1)):
            value = getattr(self, name)
            require(value is None or value >= least, self, name, f"none, or at least {least}")
        require(self.split >= 0, self, "split", "at least 0")


@dataclass(frozen=True)
class Images:
    """pixels (N, H, W, C) uint8, possibly memory-mapped; labels (N,) int64; original (N,) int64, the data set's own."""

    pixels: np.ndarray
    labels: np.ndarray
    original: np.ndarray | None = None


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
    known: splits.Table | None = None
    """Known classes of each split; None: all classes (a closed set)."""
    unknown_source: str | None = None
    """Where unknown images come from; None: the other classes of `source`."""
    unknown: splits.Table | None = None
    """Unknown classes of each split, if they are not simply all others."""
    endless: bool = False
    """Whether any split number is allowed (the digits' are drawn)."""
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @property
    def open_set(self) -> bool:
        """Whether there are unknown images."""
        return self.known is not None

    @property
    def sources(self) -> tuple[str, ...]:
        """The data sets it needs."""
        return (self.source, *([self.unknown_source] if self.unknown_source else []))


_CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}
_SVHN = {"mean": (0.4376821, 0.4437697, 0.47280442), "std": (0.19803012, 0.20101562, 0.19703614)}
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

PROTOCOLS: dict[str, Protocol] = {
    "digits": Protocol(source="digits", known=splits.MNIST, endless=True),
    "mnist": Protocol(source="mnist", known=splits.MNIST),
    "svhn": Protocol(source="svhn", known=splits.SVHN, **_SVHN),
    "cifar10": Protocol(source="cifar10", known=splits.CIFAR10, **_CIFAR),
    "cifar+10": Protocol(
        source="cifar10",
        known=splits.CIFAR_PLUS,
        unknown_source="cifar100",
        unknown=splits.CIFAR_PLUS_10_UNKNOWN,
        **_CIFAR,
    ),
    "cifar+50": Protocol(
        source="cifar10",
        known=splits.CIFAR_PLUS,
        unknown_source="cifar100",
        unknown=splits.CIFAR_PLUS_50_UNKNOWN,
        **_CIFAR,
    ),
    "tinyimagenet": Protocol(source="tinyimagenet", known=splits.TINYIMAGENET, **_IMAGENET),
    "digits-closed": Protocol(source="digits", endless=True),
    "mnist-closed": Protocol(source="mnist"),
    "svhn-closed": Protocol(source="svhn", **_SVHN),
    "cifar10-closed": Protocol(source="cifar10", **_CIFAR),
    "cifar100-closed": Protocol(source="cifar100", **_CIFAR),
    "tinyimagenet-closed": Protocol(source="tinyimagenet", **_IMAGENET),
    "emnist-letters-closed": Protocol(source="emnist-letters"),
    "emnist-balanced-closed": Protocol(source="emnist-balanced"),
    "emnist-digits-closed": Protocol(source="emnist-digits"),
}
"""Every protocol by name; `<data set>-closed` are plain classification."""


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


def class_split(spec: DataSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Known and unknown classes by the data sets' own numbers. The known ones become 0..C-1 in the order given here.

    Raises:
        DataError: no such protocol or split.
    """
    protocol = protocol_of(spec)
    every = range(SOURCES[protocol.source].count)
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
    with _writing(cache):
        located = {name: _locate(name, cache, source, download) for name in protocol.sources}
        states = {name: fingerprint(found) for name, found in located.items()}
        key = hashlib.sha256(json.dumps([VERSION, asdict(spec), states]).encode()).hexdigest()[:12]
        folder = cache / "prepared" / f"{spec.protocol}-{spec.split}-{key}"
        stored = open_stored(folder, functools.partial(_prepare, spec, located, states, cache))
    sets = {
        part: Images(*(stored.arrays[f"{part}.{kind}"] for kind in ("pixels", "labels", "original")))
        for part in stored.notes["parts"]
    }
    train, test = sets.pop("train"), sets.pop("test")
    classes = tuple(stored.notes["classes"])
    return Data(spec, classes, train, test, sets, protocol.mean, protocol.std, _digest(stored))


def check(spec: DataSpec, *, cache: Path, source: Path | None = None, download: bool = True) -> None:
    """Finds, without decoding an image or downloading anything, what would keep `open_data` from working.

    Sees an unknown protocol or split, a folder that is missing or empty, missing parts, truncated Parquet files and
    other classes. What only decoding shows is seen by `open_data`, which a driver calls once before its trials start.

    Raises:
        DataError: what is wrong.
    """
    protocol = protocol_of(spec)
    class_split(spec)
    for name in protocol.sources:
        found = _find(name, cache, source)
        if found is None:
            if not download or SOURCES[name].download is None:
                raise DataError(_missing(name, source))
            continue
        class_names(found)
        for part in found.files:
            if count_images(found, part) == 0:
                raise DataError(f"{SOURCES[name].title}: the {part} part in {found.files[part][0]} has no images.")


# Finding


def _find(name: str, cache: Path, source: Path | None) -> Located | None:
    if name == "digits":
        return Located(SOURCES[name], "embedded", {})
    if source is not None:
        if not source.is_dir():
            what = "is a file, not a folder" if source.exists() else "does not exist"
            raise DataError(f"The data folder {source} {what}. Give an existing one by --data DIR or ABLATE_DATA.")
        if next(source.iterdir(), None) is None:
            raise DataError(f"The data folder {source} is empty. {_wanted(name)}")
        found = locate(SOURCES[name], source)
        if found is not None:
            return found
    return locate(SOURCES[name], cache / "downloads" / name)


def _locate(name: str, cache: Path, source: Path | None, download: bool) -> Located:
    found = _find(name, cache, source)
    if found is None and download and SOURCES[name].download is not None:
        folder = cache / "downloads" / name
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_name(name + ".lock")):
            found = locate(SOURCES[name], folder)
            if found is None:
                _download(name, folder, source)
                found = locate(SOURCES[name], folder)
    if found is None:
        raise DataError(_missing(name, source))
    return found


def _download(name: str, folder: Path, source: Path | None) -> None:
    import torchvision.datasets

    entry = SOURCES[name].download
    assert entry is not None
    log.info("Downloading %s to %s.", SOURCES[name].title, folder)
    try:
        for arguments in entry[1]:
            getattr(torchvision.datasets, entry[0])(folder, download=True, **arguments)
    except (OSError, RuntimeError, ValueError) as error:  # URLError is an OSError; a bad archive a RuntimeError
        raise DataError(f"{_missing(name, source)} The download failed: {error}.") from None


def _missing(name: str, source: Path | None) -> str:
    where = f"not found under {source}" if source is not None else "not here, and no data folder was given"
    return f"{SOURCES[name].title} is {where}. {_wanted(name)}"


def _wanted(name: str) -> str:
    folder = SOURCES[name].folders[0]
    parts = ", ".join(f"{starts[0]}-*.parquet" for starts in SOURCES[name].parts.values())
    return (
        f"Give a folder by --data DIR or ABLATE_DATA that holds DIR/{folder}/ with {parts} (image and label columns, "
        "as on the Hugging Face Hub)" + (" or the files as torchvision keeps them." if SOURCES[name].layout else ".")
    )


@contextlib.contextmanager
def _writing(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = error.filename or cache
        raise DataError(
            f"The decoded data cannot be kept in {cache}: {place}: {error.strerror or error}. Give a home that can be "
            "written, with room for the arrays, by --home or ABLATE_HOME."
        ) from error


# Preparing


def _decoded(name: str, located: Located, state: str, cache: Path) -> Stored:
    return open_stored(cache / "decoded" / f"{name}-{state}", functools.partial(_decode, located))


def _decode(located: Located, writer: Writer) -> None:
    """Reads every image of a data set once, straight into the arrays' files where their number is known."""
    log.info("Decoding %s.", located.source.title)
    writer.notes["classes"] = list(class_names(located))
    for part in located.source.parts:
        count = count_images(located, part)
        pixels, labels = _gathered(located, part) if count is None else _filled(located, part, count, writer)
        if not len(labels):
            raise DataError(f"{located.source.title}: the {part} part has no images. Get the files again.")
        if count is None:
            writer.put(f"{part}.pixels", np.ascontiguousarray(pixels))
        writer.put(f"{part}.labels", labels)


def _gathered(located: Located, part: str) -> tuple[np.ndarray, np.ndarray]:
    read = list(chunks(located, part))
    if not read:
        return np.empty((0, 1, 1, 1), np.uint8), np.empty(0, np.int64)
    _same_size(located, {pixels.shape[1:3] for pixels, _ in read})
    return np.concatenate([pixels for pixels, _ in read]), np.concatenate([labels for _, labels in read])


def _filled(located: Located, part: str, count: int, writer: Writer) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels, row = np.empty((0, 1, 1, 1), np.uint8), np.empty(count, np.int64), 0
    for chunk, numbers in chunks(located, part):
        if not row:
            pixels = writer.allocate(f"{part}.pixels", (count, *chunk.shape[1:]), np.uint8)
        _same_size(located, {pixels.shape[1:3], chunk.shape[1:3]})
        pixels[row : row + len(chunk)] = chunk
        labels[row : row + len(chunk)] = numbers
        row += len(chunk)
    if isinstance(pixels, np.memmap):
        pixels.flush()
    return pixels, labels


def _same_size(located: Located, shapes: set[tuple[int, ...]]) -> None:
    if len(shapes) > 1:
        told = " and ".join(f"{height}x{width}" for height, width in sorted(shapes))
        raise DataError(
            f"{located.source.title} has images of {told} pixels. All must have one size: resize them, or leave out "
            "those that differ."
        )


def _prepare(
    spec: DataSpec, located: Mapping[str, Located], states: Mapping[str, str], cache: Path, writer: Writer
) -> None:
    """Selects, relabels and resizes what the spec asks for."""
    protocol = PROTOCOLS[spec.protocol]
    stored = {name: _decoded(name, located[name], states[name], cache) for name in located}
    known, unknown = class_split(spec)
    relabel = {number: label for label, number in enumerate(known)}
    wanted = {"train": (protocol.source, "train", relabel), "test": (protocol.source, "test", relabel)}
    if protocol.open_set:
        wanted["unknown"] = (protocol.unknown_source or protocol.source, "test", dict.fromkeys(unknown, UNKNOWN))
    sides = set()
    for part, (name, of, labels) in wanted.items():
        most = spec.per_class if part == "train" else spec.test_per_class
        array = of if f"{of}.labels" in stored[name].arrays else "train"
        original = stored[name].arrays[f"{array}.labels"]
        rows = _chosen(name, of, original, labels, most, spec)
        sides.add(_copy(writer, part, stored[name], array, rows, spec.side))
        writer.put(f"{part}.original", original[rows])
        writer.put(f"{part}.labels", np.array([labels[int(number)] for number in original[rows]], dtype=np.int64))
    if len(sides) > 1:
        raise DataError(
            f"{spec.protocol} would mix images of {' and '.join(map(str, sorted(sides)))}: set `side` in the data spec "
            "to resize them to one size."
        )
    writer.notes["parts"] = list(wanted)
    writer.notes["classes"] = [stored[protocol.source].notes["classes"][number] for number in known]


def _chosen(
    name: str, part: str, original: np.ndarray, labels: Mapping[int, int], most: int | None, spec: DataSpec
) -> np.ndarray:
    """Rows of the wanted classes, at most `most` of each, in the order of the data set."""
    rows = []
    for number in labels:
        of_class = np.flatnonzero(original == number)
        if name == "digits":
            drawn = numpy_stream(spec.split, f"digits/parts/{number}").permutation(of_class)
            of_class = np.sort(drawn[: len(drawn) // 2] if part == "train" else drawn[len(drawn) // 2 :])
        if not len(of_class):
            raise DataError(
                f"{SOURCES[name].title}: the {part} part has no image of class {number}, which {spec.protocol}, split "
                f"{spec.split}, needs. Give the whole data set."
            )
        if most is not None and most < len(of_class):
            of_class = numpy_stream(0, f"{name}/{part}/{number}").permutation(of_class)[:most]
        rows.append(of_class)
    return np.sort(np.concatenate(rows))


def _copy(writer: Writer, part: str, stored: Stored, array: str, rows: np.ndarray, side: int | None) -> tuple[int, ...]:
    """Writes the chosen images and returns their shape; the whole set as it is costs no second copy."""
    pixels = stored.arrays[f"{array}.pixels"]
    shape = pixels.shape[1:] if side is None else (side, side, pixels.shape[3])
    if shape == pixels.shape[1:] and len(rows) == len(pixels):
        writer.link(f"{part}.pixels", stored.folder / f"{array}.pixels.npy")
        return shape
    out = writer.allocate(f"{part}.pixels", (len(rows), *shape), np.uint8)
    for start in range(0, len(rows), 1024):
        chosen = pixels[rows[start : start + 1024]]
        out[start : start + 1024] = chosen if shape == pixels.shape[1:] else _resized(chosen, shape[0])
    out.flush()
    return shape


def _resized(pixels: np.ndarray, side: int) -> np.ndarray:
    """Antialiased bilinear, on 8 bits."""
    from PIL import Image

    grey = pixels.shape[3] == 1
    images = [Image.fromarray(image[..., 0] if grey else image) for image in pixels]
    out = np.stack([np.asarray(image.resize((side, side), Image.Resampling.BILINEAR)) for image in images])
    return out[..., None] if grey else out


def _digest(stored: Stored) -> str:
    """SHA-256 over the arrays a trial is given: of their names and each one's own checksum, which is on record."""
    sums = {name: digest for name, digest in sorted(stored.digests.items()) if not name.endswith(".original")}
    return hashlib.sha256(json.dumps(sums).encode()).hexdigest()
