"""Sets of kinds that look alike, as they were published: CUB-200-2011, FGVC-Aircraft and Stanford Cars.

Each names its images and classes in files of its own: text for the birds and the aircraft, MATLAB's for the cars. Class
numbers begin at 0 in the order of these files. Training images of the aircraft are their training and validation
images, as in the literature and in torchvision's 'trainval'; the photographers' names at the foot of their pictures
stay.

NumPy alone at import; PIL and SciPy only where they are used.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from trainables.imageformats import Chunk, DataError, Files, Source, bytes_of, shaped

_ROWS = 256
"""Images decoded at a time."""
Listed = list[tuple[Path, int]]
"""Image files and class numbers."""

BIRDS = "CUB_200_2011"
AIRCRAFT = "fgvc-aircraft-2013b"
CARS = "stanford_cars"
"""How the archives, or torchvision, call their folders."""


def layout(own: str, parts: dict[str, tuple[str, str]]) -> Callable[[Path], Files | None]:
    """A finder of published files in a folder, or in its folder `own`.

    Args:
        own: name of the archive's folder.
        parts: part -> path of the list of its images, path of the folder of its images.
    """

    def find(folder: Path) -> Files | None:
        for place in (folder / own, folder):
            files = {part: tuple(place / path for path in paths) for part, paths in parts.items()}
            if all(path.exists() for paths in files.values() for path in paths):
                return files
        return None

    return find


birds_layout = layout(BIRDS, dict.fromkeys(("train", "test"), ("train_test_split.txt", "images")))
aircraft_layout = layout(
    AIRCRAFT,
    {
        "train": ("data/images_variant_trainval.txt", "data/images"),
        "test": ("data/images_variant_test.txt", "data/images"),
    },
)
cars_layout = layout(
    CARS,
    {
        "train": ("devkit/cars_train_annos.mat", "cars_train"),
        "test": ("cars_test_annos_withlabels.mat", "cars_test"),
    },
)


def birds(source: Source, files: Files) -> tuple[str, ...]:
    """Class names, of classes.txt."""
    return _expected(source, tuple(_table(files["train"][0].with_name("classes.txt")).values()))


def aircraft(source: Source, files: Files) -> tuple[str, ...]:
    """Class names, of variants.txt."""
    return _expected(source, tuple(_lines(files["train"][0].with_name("variants.txt"))))


def cars(source: Source, files: Files) -> tuple[str, ...]:
    """Class names, of cars_meta.mat."""
    names = _matlab(files["train"][0].with_name("cars_meta.mat"), "class_names")
    return _expected(source, tuple(str(name) for name in names))


def read_birds(part: str) -> Callable[[Source, tuple[Path, ...]], Iterator[Chunk]]:
    """A reader of the 'train' or the 'test' images: both parts are in the same lists."""
    return partial(_read_birds, "1" if part == "train" else "0")


def _read_birds(flag: str, source: Source, files: tuple[Path, ...]) -> Iterator[Chunk]:
    listing, folder = files
    flags = _table(listing)
    paths, classes = (_table(listing.with_name(name)) for name in ("images.txt", "image_class_labels.txt"))
    if not flags.keys() == paths.keys() == classes.keys():
        raise DataError(
            f"{listing.parent}: train_test_split.txt, images.txt and image_class_labels.txt do not list the same "
            "images. Unpack the whole archive again."
        )
    numbers = {ident: _number(text, listing.with_name("image_class_labels.txt")) - 1 for ident, text in classes.items()}
    yield from _decoded(source, [(folder / paths[ident], numbers[ident]) for ident in flags if flags[ident] == flag])


def read_aircraft(source: Source, files: tuple[Path, ...]) -> Iterator[Chunk]:
    """The images of one list: '<image> <variant>' on each line."""
    listing, folder = files
    variants = {name: number for number, name in enumerate(aircraft(source, {"train": files}))}
    listed = []
    for ident, variant in _table(listing).items():
        if variant not in variants:
            raise DataError(f"{listing}: the variant {variant!r} of {ident!r} is not in variants.txt. Unpack it again.")
        listed.append((folder / f"{ident}.jpg", variants[variant]))
    yield from _decoded(source, listed)


def read_cars(source: Source, files: tuple[Path, ...]) -> Iterator[Chunk]:
    """The images of one file of annotations."""
    listing, folder = files
    rows = _matlab(listing, "annotations")
    try:
        listed = [(folder / str(row["fname"]), int(row["class"]) - 1) for row in rows]
    except (ValueError, TypeError, IndexError) as error:
        raise DataError(
            f"{listing} does not give a class to every image ({error}). For the test images take "
            "cars_test_annos_withlabels.mat, not the file without labels in the devkit."
        ) from None
    yield from _decoded(source, listed)


def _decoded(source: Source, listed: Listed) -> Iterator[Chunk]:
    for start in range(0, len(listed), _ROWS):
        some = listed[start : start + _ROWS]
        pixels = np.stack([shaped(source, bytes_of(path), str(path)) for path, _ in some])
        yield pixels, np.array([number for _, number in some], dtype=np.int64)


def _expected(source: Source, names: tuple[str, ...]) -> tuple[str, ...]:
    if len(names) != source.expected:
        raise DataError(
            f"{source.title}: the list of classes has {len(names)}, and there are {source.expected}. Unpack the whole "
            "archive again."
        )
    return names


def _lines(path: Path) -> list[str]:
    text = bytes_of(path).decode("utf-8", errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _table(path: Path) -> dict[str, str]:
    """First word of each line -> the rest."""
    pairs = [line.split(maxsplit=1) for line in _lines(path)]
    broken = [pair for pair in pairs if len(pair) < 2]
    if broken:
        raise DataError(f"{path}: the line {broken[0][0]!r} has one word and should have two. Unpack it again.")
    return {pair[0]: pair[1] for pair in pairs}


def _number(text: str, path: Path) -> int:
    if not text.isdigit():
        raise DataError(f"{path}: {text!r} is no class number. Unpack the archive again.")
    return int(text)


def _matlab(path: Path, name: str) -> np.ndarray:
    import scipy.io

    try:
        return np.atleast_1d(scipy.io.loadmat(path, squeeze_me=True)[name])
    except (OSError, ValueError, KeyError, TypeError, IndexError, scipy.io.matlab.MatReadError) as error:
        raise DataError(f"{path} is no whole file of MATLAB with {name!r} ({error}). Unpack it again.") from None
