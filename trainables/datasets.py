"""Image data, decoded once and shared by all trials of a node. What a spec asks for is in `trainables.data_protocols`.

`open_data` maps ready-made uint8 arrays into memory. What a protocol, split, size and number of images need is
prepared on first use, by one process, under the home's data folder:

    decoded/<data set>-<state of its files>/      all its images, as they are
    prepared/<protocol>-<split>-<key>/            what one spec asks for: selected, relabelled, resized

Both can be deleted at any time that no trial runs. The whole of a set in its own size is not stored a second time. Grey
and colour images are made one kind there, that of the known ones.

Deviations from the GradMix authors' code:
    1. All images of the unknown classes' test part are evaluated, none is left out (that code truncates).
    2. What is held out for validation is drawn by a named stream of the split number. The thesis on margins draws its
       toy protocol's without a seed, its ImageNet protocols' by scikit-learn with seed 42; of these, as here, it takes
       the same share of every class.
"""

import contextlib
import errno
import functools
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from trainables import boxes, corrupted_files, outside, splits
from trainables.arraystore import Stored, Writer, open_stored
from trainables.config import nearest
from trainables.corruption_settings import SEVERITIES
from trainables.data_protocols import (
    NEGATIVE,
    PROTOCOLS,
    UNKNOWN,
    DataSpec,
    Protocol,
    channels,
    class_split,
    protocol_of,
)
from trainables.imageformats import Chunk, DataError
from trainables.seeding import numpy_stream
from trainables.sources import SOURCES, Located, chunks, class_names, find, fingerprint, missing, obtain

VERSION = 1
"""Of what `prepared` folders hold; another version is prepared again beside the old."""

_ROWS = 2048
"""Images copied at a time."""
_UNASKED = (("auxiliary", None), ("boxes", False))
"""Fields and values of a spec that came later, and change nothing of what was prepared before."""

log = logging.getLogger(__name__)


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
    stratified: bool = False
    """Whether validation gets its share of every class."""
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
        "train": _Pick(
            source=own,
            of="train",
            labels=relabel,
            share="kept" if protocol.held_out else "all",
            stratified=protocol.stratified,
        ),
        "test": _Pick(source=own, of="test", labels=relabel),
    }
    if protocol.open_set:
        labels = dict.fromkeys(_numbers(unknown, names[other], other), UNKNOWN)
        wanted["unknown"] = _Pick(source=other, of="test", labels=labels, undivided=negative)
    if protocol.negative is not None:
        labels = dict.fromkeys(_numbers(protocol.negative[spec.split], names[other], other), NEGATIVE)
        wanted["negative_train"] = replace(wanted["train"], source=other, labels=labels, share="kept")
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
        if pick.stratified:
            drawn = _evenly(drawn, original[drawn])
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


def _evenly(rows: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The rows in an order in which any first part holds of every class the same share, to within one image."""
    place = np.empty(len(rows))
    for number in np.unique(classes):
        mine = classes == number
        place[mine] = (np.arange(mine.sum()) + 0.5) / mine.sum()
    ordered: np.ndarray = rows[np.argsort(place, kind="stable")]
    return ordered


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
