"""Corrupted test images as they were published: CIFAR-10-C, CIFAR-100-C and Tiny-ImageNet-C.

CIFAR's are one array for each corruption, `<corruption>.npy` of uint8, the whole test set at severity 1, then at 2, up
to 5, and the classes in `labels.npy`. Tiny-ImageNet's are `<corruption>/<severity>/<class>/<image>.JPEG`. Either is
read severity after severity, each with the same images.

Paper: Hendrycks and Dietterich, Benchmarking Neural Network Robustness (arXiv 1903.12261). Deviations: none known.

NumPy alone at import.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from trainables.corruption_settings import CORRUPTIONS, EXTRA, SEVERITIES
from trainables.imageformats import Chunk, DataError, Files, Source, bytes_of, decoded, tiny_wnids

_ROWS = 2048
"""Images read at a time."""
LABELS = "labels.npy"
OF_CIFAR = (*CORRUPTIONS, *EXTRA)
"""What the archives of CIFAR hold."""
OF_TINY = CORRUPTIONS
"""What that of Tiny-ImageNet holds; the other four have one of their own."""
SET = "corrupted_{}"
"""The set of a protocol's data that holds a corruption."""


def arrays_layout(names: tuple[str, ...]) -> Callable[[Path], Files | None]:
    """A finder of `<corruption>.npy` and labels.npy in one folder.

    Raises:
        DataError: (the finder) some are there and others are missing.
    """

    def find(folder: Path) -> Files | None:
        if not (folder / LABELS).is_file():
            return None
        found = {name: (folder / f"{name}.npy", folder / LABELS) for name in names}
        _refuse_missing(folder, [files[0].name for files in found.values() if not files[0].is_file()], len(names))
        return found

    return find


def folders_layout(names: tuple[str, ...]) -> Callable[[Path], Files | None]:
    """A finder of `<corruption>/<severity>/` in one folder.

    Raises:
        DataError: (the finder) some are there and others are missing.
    """

    def find(folder: Path) -> Files | None:
        if not any((folder / name / "1").is_dir() for name in names):
            return None
        places = [Path(name, str(severity)) for name in names for severity in SEVERITIES]
        _refuse_missing(folder, [f"{place}/" for place in places if not (folder / place).is_dir()], len(places))
        return {name: (folder / name,) for name in names}

    return find


def _refuse_missing(folder: Path, missing: list[str], whole: int) -> None:
    if missing and len(missing) < whole:
        told = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise DataError(
            f"{folder} is not whole: {told} {'are' if len(missing) > 1 else 'is'} missing. Unpack it again."
        )


def read_arrays(source: Source, files: tuple[Path, ...]) -> Iterator[Chunk]:
    """One corruption of CIFAR's test images."""
    path, labels_path = files
    pixels, labels = _array(path), _array(labels_path).astype(np.int64)
    shape = (source.side, source.side, 3)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != shape or len(pixels) % len(SEVERITIES):
        raise DataError(
            f"{path} holds {pixels.dtype} {pixels.shape}. Needed is uint8 (5 N, {source.side}, {source.side}, 3), the "
            f"N test images at {len(SEVERITIES)} severities, as in the archive of {source.title}: get it again."
        )
    if labels.shape != (len(pixels),) or np.ptp(labels.reshape(len(SEVERITIES), -1), 0).any():
        raise DataError(
            f"{labels_path} holds {labels.shape}, and {path.name} {len(pixels)} images. Needed is a class for each "
            "image, the same at every severity, as in the archive: get it again."
        )
    for start in range(0, len(pixels), _ROWS):
        yield np.array(pixels[start : start + _ROWS]), labels[start : start + _ROWS]


def _array(path: Path) -> np.ndarray:
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is no whole NumPy array ({error}). Copy or download it again.") from None
    return found


def wnids(source: Source, files: Files) -> tuple[str, ...]:
    """Class names: the folders of the first corruption's first severity."""
    return tiny_wnids(source, next(iter(files.values()))[0] / "1")


def read_folders(source: Source, files: tuple[Path, ...]) -> Iterator[Chunk]:
    """One corruption of Tiny-ImageNet's validation images, by class and name at each severity."""
    (folder,) = files
    first: list[str] = []
    for severity in SEVERITIES:
        place = folder / str(severity)
        number = {wnid: i for i, wnid in enumerate(tiny_wnids(source, place))}
        images = [(image, i) for wnid, i in number.items() for image in sorted((place / wnid).glob("*.JPEG"))]
        names = [f"{image.parent.name}/{image.name}" for image, _ in images]
        first = first or names
        if names != first:
            odd = sorted({*names} ^ {*first})
            raise DataError(
                f"{place} has other images than {folder / '1'}: {odd[0]} is in one alone. Unpack the archive again."
            )
        for start in range(0, len(images), _ROWS):
            some = images[start : start + _ROWS]
            pixels = np.stack([_sized(source, image) for image, _ in some])
            yield pixels, np.array([i for _, i in some], dtype=np.int64)


def _sized(source: Source, path: Path) -> np.ndarray:
    pixels = decoded(source, bytes_of(path), str(path))
    if pixels.shape != (source.side, source.side, 3):
        raise DataError(
            f"{path} has {pixels.shape[1]}x{pixels.shape[0]} pixels, and {source.title}'s images have {source.side}x"
            f"{source.side}: give the files as they were published, not those of ImageNet-C."
        )
    return pixels


def check_same(source: Source, clean: np.ndarray, corrupted: np.ndarray) -> None:
    """Whether corrupted images can be those of a test set: as many of each class at a severity.

    Args:
        source: of the corrupted images.
        clean: class numbers of the test images.
        corrupted: of one corruption at one severity.

    Raises:
        DataError: they cannot.
    """
    if not np.array_equal(np.bincount(clean), np.bincount(corrupted)):
        raise DataError(
            f"{source.title} has {len(corrupted)} images at a severity, and the test images are {len(clean)}, or of "
            "other classes. Give both as they were published."
        )


def check_names(source: Source, clean: tuple[str, ...], corrupted: tuple[str, ...]) -> None:
    """Raises DataError where the two sets of files number other classes; what follows a WordNet id does not count."""
    for mine, theirs in zip(corrupted, clean, strict=True):
        if mine.split()[0] != theirs.split()[0]:
            raise DataError(
                f"{source.title} has a class {mine!r} where the test images have {theirs!r}. Give both as published."
            )
