"""The image data sets there are, and where each is found: under `--data`, or downloaded by torchvision."""

import contextlib
import hashlib
import json
import logging
import shutil
import string
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trainables import boxes, corrupted_files, finegrained, unlabelled
from trainables import imageformats as formats
from trainables import imagenet_classes as imagenet
from trainables.arraystore import locked
from trainables.imageformats import Chunk, DataError, Files, Source

log = logging.getLogger(__name__)

Wnids = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Located:
    """A data set's files, found but not yet opened."""

    source: Source
    kind: Literal["parquet", "torchvision", "embedded"]
    files: Files


def find(name: str, cache: Path, folder: Path | None) -> Located | None:
    """The files of a data set: embedded, under `folder` if one is given, or downloaded before. Opens none of them.

    Raises:
        DataError: the folder is missing or empty, or a part of the data set is missing in it.
    """
    if folder is not None and not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataError(f"The data folder {folder} {what}. Give an existing one by --data DIR or ABLATE_DATA.")
    if not SOURCES[name].folders:
        return Located(SOURCES[name], "embedded", {})
    if folder is not None:
        if next(folder.iterdir(), None) is None:
            raise DataError(f"The data folder {folder} is empty. {_wanted(name)}")
        found = _located(SOURCES[name], folder)
        if found is not None:
            return found
    return _located(SOURCES[name], cache / "downloads" / name)


def obtain(name: str, cache: Path, folder: Path | None, download: bool) -> Located:
    """The same, and what is not there is downloaded by torchvision, once however many processes ask.

    Raises:
        DataError: as `find`; or the data set is nowhere, or its download failed.
    """
    found = find(name, cache, folder)
    if found is None and download and SOURCES[name].download is not None:
        (cache / "downloads").mkdir(parents=True, exist_ok=True)
        with locked(cache / "downloads" / f"{name}.lock"):
            if _located(SOURCES[name], cache / "downloads" / name) is None:
                _download(name, cache / "downloads" / name, folder)
        found = find(name, cache, folder)
    if found is None:
        raise DataError(missing(name, folder))
    return found


def fingerprint(located: Located) -> str:
    """Tells one state of the files from another without reading them: their names, sizes and times."""
    entries = []
    for part, paths in sorted(located.files.items()):
        for path in paths:
            folders = [*path.glob("*"), *path.glob("*/images")] if path.is_dir() else []
            for item in [path, *sorted(folders)]:
                status = item.stat()
                entries.append([part, item.name, status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps([located.source.title, located.kind, entries]).encode()).hexdigest()[:12]


def class_names(located: Located) -> tuple[str, ...]:
    """The class names in the order of the class numbers, after a look at the files' own lists of classes.

    Raises:
        DataError: a file is truncated, has no images or lists other classes.
    """
    if located.kind == "parquet":
        return formats.parquet_classes(located.source, located.files)
    if located.source.classes:
        return located.source.classes
    if located.source.names is not None:
        return located.source.names(located.source, located.files)
    return formats.tiny_wnids(located.source, located.files["train"][0])


def chunks(located: Located, part: str) -> Iterator[Chunk]:
    """The images and class numbers of one part, checked.

    Raises:
        DataError: a file is truncated, an image cannot be decoded or has another size than the data set's, a class
            number is out of range.
    """
    source, files = located.source, located.files.get(part, ())
    own = source.read[part] if isinstance(source.read, Mapping) else source.read
    read = formats.read_parquet if located.kind == "parquet" else own
    where = f"{source.title}, {part}, {files[0] if files else 'embedded'}"
    assert read is not None, "what `find` returns can be read"
    count = len(class_names(located))
    for pixels, labels in read(source, files):
        if len(pixels) != len(labels):
            raise DataError(
                f"{where}: {len(pixels)} images but {len(labels)} class numbers. The files do not belong together, or "
                "one is truncated: get them again."
            )
        if pixels.shape[1:3] != (source.side, source.side):
            raise DataError(
                f"{where}: images of {pixels.shape[1]}x{pixels.shape[2]} pixels. {source.title}'s are {source.side}x"
                f"{source.side}: give the data set as it was published. (`side` of a data spec resizes it.)"
            )
        wrong = labels[(labels < 0) | (labels >= count)]
        if len(wrong):
            raise DataError(
                f"{where}: class number {wrong[0]} is not allowed; the classes are 0 to {count - 1}. Are these files "
                "of another data set?"
            )
        yield pixels, labels


def missing(name: str, folder: Path | None, besides: str = "") -> str:
    """Says that a data set was not found, what happened besides, and how to provide it."""
    where = f"not found under {folder}" if folder is not None else "not here (no data folder was given)"
    return f"{SOURCES[name].title} is {where}{besides}. {_wanted(name)}"


def _located(source: Source, folder: Path) -> Located | None:
    places = [*(folder / name for name in source.folders if (folder / name).is_dir()), folder]
    for place in places:
        files = formats.parquet_files(source, place)
        absent = [part for part in source.parts if part not in files]
        if files and absent:
            starts = " or ".join(f"{start}*.parquet" for start in source.parts[absent[0]])
            raise DataError(f"{source.title} in {place} has no {absent[0]} part: add {starts} to that folder.")
        if files:
            return Located(source, "parquet", files)
    for place in places:
        found = source.layout(place) if source.layout else None
        if found:
            return Located(source, "torchvision", found)
    return None


def _download(name: str, folder: Path, given: Path | None) -> None:
    import torchvision.datasets

    entry = SOURCES[name].download
    assert entry is not None, "asked only where torchvision can"
    log.warning("%s is not under %s: downloading it to %s.", SOURCES[name].title, given or "--data", folder)
    partial = folder.with_name(f"{name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a download that was killed: its files may be cut short
    try:
        with contextlib.redirect_stdout(sys.stderr):  # torchvision prints; stdout may be read by a program
            for arguments in entry[1]:
                getattr(torchvision.datasets, entry[0])(partial, download=True, **arguments)
    except (OSError, RuntimeError, ValueError) as error:  # no network is an OSError, a bad archive a RuntimeError
        shutil.rmtree(partial, ignore_errors=True)
        raise DataError(missing(name, given, f", and its download failed ({error})")) from None
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _wanted(name: str) -> str:
    folder = SOURCES[name].folders[0]
    if SOURCES[name].published:
        return f"Give a folder by --data DIR or ABLATE_DATA that holds DIR/{folder}/ with {SOURCES[name].published}."
    if not any(SOURCES[name].parts.values()):
        return (
            f"Give a folder by --data DIR or ABLATE_DATA that holds DIR/{folder}/ with its images: pictures, .npy "
            "arrays (N, H, W, 3) of uint8, or .parquet files with an image column."
        )
    parts = ", ".join(f"{starts[0]}-*.parquet" for starts in SOURCES[name].parts.values())
    return (
        f"Give a folder by --data DIR or ABLATE_DATA that holds DIR/{folder}/ with {parts} (image and label columns, "
        "as on the Hugging Face Hub)"
        + (", or its published files, unpacked as torchvision keeps them." if SOURCES[name].layout else ".")
    )


# The catalogue

_DIGITS = tuple(string.digits)
_BALANCED = (*string.digits, *string.ascii_uppercase, *"abdefghnqrt")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
_CIFAR100 = tuple(_CIFAR100_NAMES.split())


def _emnist(split: str, classes: tuple[str, ...]) -> Source:
    return Source(
        title=f"EMNIST ({split})",
        mode="L",
        side=28,
        classes=classes,
        folders=(f"emnist-{split}", "emnist", "EMNIST"),
        layout=formats.idx_layout(f"emnist-{split}-train", f"emnist-{split}-test", "EMNIST"),
        read=formats.read_emnist,
        download=("EMNIST", ({"split": split, "train": True}, {"split": split, "train": False})),
    )


def _without_classes(
    title: str, *folders: str, files: tuple[str, ...] = (), cut: bool = False, side: int = 32
) -> Source:
    """Colour images of which nobody asks for the class."""
    return Source(
        title=title,
        mode="RGB",
        side=side,
        classes=("image",),
        folders=folders,
        parts={"train": ()},
        layout=unlabelled.layout(folders, *files),
        read=unlabelled.read,
        cut=cut,
    )


def _noise(mode: Literal["L", "RGB"], side: int) -> Source:
    return Source(
        title=f"noise of {side} x {side} pixels",
        mode=mode,
        side=side,
        classes=unlabelled.NOISE,
        folders=(),
        parts={"train": ()},
        read=unlabelled.read_noise,
    )


def _imagenet(known: Wnids, negative: Wnids, unknown: Wnids) -> Source:
    """The classes of one protocol alone: all of ImageNet would be a quarter of a terabyte when decoded."""
    return Source(
        title="ImageNet (ILSVRC-2012)",
        mode="RGB",
        side=256,
        classes=tuple(sorted({*known[0], *negative[0], *unknown[0]})),
        folders=("imagenet", "ILSVRC2012", "ImageNet"),
        layout=formats.folders_layout,
        read=formats.read_folders,
        square=True,
        untrained=frozenset(unknown[0]),
    )


def _all_of_imagenet(side: int) -> Source:
    """Its thousand classes, decoded at one size: 252 GB at 256 pixels a side, 63 GB at 128, 16 GB at 64."""
    return Source(
        title="ImageNet (ILSVRC-2012)",
        mode="RGB",
        side=side,
        count=1000,
        folders=("imagenet", "imagenet-1k", "ILSVRC2012", "ImageNet"),
        parts={"train": ("train",), "test": ("validation", "val", "valid")},
        layout=formats.folders_layout,
        read=formats.read_folders,
        square=True,
        numbered=True,
        boxes=boxes.of_folders,
    )


def _fine_grained(
    title: str,
    count: int,
    folders: tuple[str, ...],
    layout: Callable[[Path], Files | None],
    names: Callable[[Source, Files], tuple[str, ...]],
    read: formats.Read | Mapping[str, formats.Read],
    **more: Any,
) -> Source:
    """Photographs of any shape, decoded at 256 pixels a side."""
    return Source(
        title=title,
        mode="RGB",
        side=256,
        count=count,
        folders=folders,
        layout=layout,
        names=names,
        read=read,
        square=True,
        numbered=True,
        **more,
    )


def _corrupted(title: str, classes: tuple[str, ...], *folders: str) -> Source:
    """CIFAR's corrupted test images; a part is a corruption."""
    return Source(
        title=title,
        mode="RGB",
        side=32,
        classes=classes,
        folders=(title, *folders),
        parts=dict.fromkeys(corrupted_files.OF_CIFAR, ()),
        layout=corrupted_files.arrays_layout(corrupted_files.OF_CIFAR),
        read=corrupted_files.read_arrays,
        published="labels.npy and an array for each corruption (fog.npy, ...), as its archive unpacks",
    )


SOURCES: dict[str, Source] = {
    "digits": Source(
        title="scikit-learn's digits",
        mode="L",
        side=8,
        classes=_DIGITS,
        folders=(),
        parts={"train": ()},
        read=formats.read_digits,
    ),
    "digits-boxes": Source(
        title="scikit-learn's digits on noise",
        mode="L",
        side=32,
        classes=_DIGITS,
        folders=(),
        parts={"train": ()},
        read=boxes.read_placed,
        boxes=boxes.of_placed,
    ),
    "mnist": Source(
        title="MNIST",
        mode="L",
        side=28,
        classes=_DIGITS,
        folders=("mnist", "MNIST"),
        layout=formats.idx_layout("train", "t10k", "MNIST"),
        read=formats.read_idx,
        download=("MNIST", ({},)),
    ),
    "svhn": Source(
        title="SVHN",
        mode="RGB",
        side=32,
        classes=_DIGITS,
        folders=("svhn", "SVHN"),
        layout=formats.svhn_layout,
        read=formats.read_svhn,
        download=("SVHN", ({"split": "train"}, {"split": "test"})),
    ),
    "cifar10": Source(
        title="CIFAR-10",
        mode="RGB",
        side=32,
        classes=_CIFAR10,
        folders=("cifar10", "cifar-10", "CIFAR10"),
        layout=formats.cifar10_layout,
        read=formats.read_cifar,
        download=("CIFAR10", ({},)),
    ),
    "cifar100": Source(
        title="CIFAR-100",
        mode="RGB",
        side=32,
        classes=_CIFAR100,
        folders=("cifar100", "cifar-100", "CIFAR100"),
        layout=formats.cifar100_layout,
        read=formats.read_cifar,
        download=("CIFAR100", ({},)),
    ),
    "tinyimagenet": Source(
        title="TinyImageNet",
        mode="RGB",
        side=64,
        count=200,
        folders=("tiny-imagenet", "tinyimagenet", "tiny_imagenet", "tiny-imagenet-200"),
        parts={"train": ("train",), "test": ("valid", "validation", "val")},
        layout=formats.tiny_layout,
        read=formats.read_tiny,
        boxes=boxes.of_tiny,
    ),
    "cub200": _fine_grained(
        "CUB-200-2011",
        200,
        ("cub200", finegrained.BIRDS, "CUB-200-2011", "cub-200-2011"),
        finegrained.birds_layout,
        finegrained.birds,
        {part: finegrained.read_birds(part) for part in ("train", "test")},
    ),
    "aircraft": _fine_grained(
        "FGVC-Aircraft",
        100,
        ("aircraft", "fgvc-aircraft", "fgvc_aircraft", finegrained.AIRCRAFT),
        finegrained.aircraft_layout,
        finegrained.aircraft,
        finegrained.read_aircraft,
        download=("FGVCAircraft", ({"split": "trainval"},)),
    ),
    "cars": _fine_grained(
        "Stanford Cars",
        196,
        ("cars", "stanford-cars", finegrained.CARS),
        finegrained.cars_layout,
        finegrained.cars,
        finegrained.read_cars,
    ),
    "cifar10-c": _corrupted("CIFAR-10-C", _CIFAR10, "cifar10-c", "cifar-10-c"),
    "cifar100-c": _corrupted("CIFAR-100-C", _CIFAR100, "cifar100-c", "cifar-100-c"),
    "tinyimagenet-c": Source(
        title="Tiny-ImageNet-C",
        mode="RGB",
        side=64,
        count=200,
        folders=("Tiny-ImageNet-C", "tiny-imagenet-c", "tinyimagenet-c"),
        parts=dict.fromkeys(corrupted_files.OF_TINY, ()),
        layout=corrupted_files.folders_layout(corrupted_files.OF_TINY),
        names=corrupted_files.wnids,
        read=corrupted_files.read_folders,
        published="folders <corruption>/<severity>/<class>/ of pictures, as its archive unpacks",
    ),
    "emnist-letters": _emnist("letters", tuple(string.ascii_lowercase)),
    "emnist-digits": _emnist("digits", _DIGITS),
    "emnist-mnist": _emnist("mnist", _DIGITS),
    "emnist-balanced": _emnist("balanced", _BALANCED),
    "imagenet": _all_of_imagenet(256),
    "imagenet128": _all_of_imagenet(128),
    "imagenet64": _all_of_imagenet(64),
    "imagenet-p1": _imagenet(imagenet.P1_KNOWN, imagenet.P1_NEGATIVE, imagenet.P1_UNKNOWN),
    "imagenet-p2": _imagenet(imagenet.P2_KNOWN, imagenet.P2_NEGATIVE, imagenet.P2_UNKNOWN),
    "imagenet-p3": _imagenet(imagenet.P3_KNOWN, imagenet.P3_NEGATIVE, imagenet.P3_UNKNOWN),
    "omniglot": Source(title="Omniglot", mode="L", side=105, folders=("omniglot",), parts={"train": ("train",)}),
    "photos": Source(
        title="patches of scikit-learn's photographs",
        mode="L",
        side=8,
        classes=unlabelled.PHOTOS,
        folders=(),
        parts={"train": ()},
        read=unlabelled.read_photos,
    ),
    "noise-8": _noise("L", 8),
    "noise-32": _noise("RGB", 32),
    "random300k": _without_classes(
        "300K RandomImages",
        "300k_random_images",
        "random300k",
        "300K_random_images",
        files=("300K_random_images.npy", "300k_random_images.npy"),
    ),
    "auxiliary": _without_classes("auxiliary images of one's own", "auxiliary"),
    "textures": _without_classes("Textures (DTD)", "textures", "dtd", "Textures"),
    "places365": _without_classes("Places365", "places365", "places365_10k", "Places365"),
    "lsun-c": _without_classes("LSUN (cropped)", "lsun-c", "LSUN", "LSUN_C", "lsun_c", cut=True),
    "lsun-r": _without_classes("LSUN (resized)", "lsun-r", "LSUN_resize", "LSUN_R", "lsun_r"),
    "isun": _without_classes("iSUN", "isun", "iSUN"),
    "textures-224": _without_classes("Textures (DTD)", "textures", "dtd", "Textures", side=224),
    "places-224": _without_classes("Places, beside ImageNet", "places", "Places", side=224),
    "inaturalist-224": _without_classes("iNaturalist, beside ImageNet", "inaturalist", "iNaturalist", side=224),
    "sun-224": _without_classes("SUN, beside ImageNet", "sun", "SUN", side=224),
}
"""Every data set, by the name that protocols use."""
