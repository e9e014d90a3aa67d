"""Where the objects are on images: boxes of TinyImageNet's and ImageNet's annotations, and of digits put on noise.

A box is (left, top, right, bottom), edges as fractions of the image's width and height, so that resizing moves none.
The boxes of N images are one array (N, M, 4) of float32, M the most that one of them has, filled up with NaN.

Sources: TinyImageNet's `val_annotations.txt` and `<class>_boxes.txt`, whose numbers are read as the first and the last
pixel inside; ImageNet's XML files of the classification and localisation task, whose numbers are taken for edges.

Deviations:
1. Boxes are cut to the middle square that is kept of ImageNet's images. One that lies outside has no area left, and is
   kept: the image still has a box.

NumPy alone at import.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from trainables.imageformats import Box, Chunk, DataError, Source, folder_images, middle, read_digits, tiny_images
from trainables.seeding import numpy_stream

XML = ("Annotations/CLS-LOC", "Annotations", "bbox")
"""Folders that hold ImageNet's `<part>/<image>.xml` or `<part>/<class>/<image>.xml`, beside `train` and `val`, or
beside `Data`, as in the archive."""
MARGIN = 0.05
"""A box of ImageNet may leave its image by so much of a side; more is a damaged file."""


WHERE = (
    "Data with boxes are: digits-boxes, made here; TinyImageNet as its archive unpacks, with val/val_annotations.txt; "
    f"ImageNet in folders of classes, with its XML files in {' or '.join(f'{name}/val' for name in XML)} beside them."
)
"""How to mend what has none."""


def check(source: Source, kind: str) -> None:
    """Raises DataError where images cannot have boxes, whatever else the files hold.

    Args:
        source: the data set.
        kind: of its files: 'parquet', 'torchvision' or 'embedded'.
    """
    if source.boxes is None:
        raise DataError(f"{source.title} has no boxes, which localisation is measured against. {WHERE}")
    if kind == "parquet":
        raise DataError(f"{source.title} has boxes, but not as Parquet. {WHERE}")


def of(source: Source, files: tuple[Path, ...], rows: np.ndarray, part: str) -> np.ndarray | None:
    """The boxes of chosen images, (N, M, 4); None for training images that have none.

    Args:
        source: one that `check` lets through.
        files: of the part.
        rows: numbers of the images, in the order they are read.
        part: 'train' or 'test'.

    Raises:
        DataError: a test image has no box; a list or file of boxes is damaged.
    """
    assert source.boxes is not None, "checked before"
    found = source.boxes(source, files, rows)
    without = sum(not boxes for boxes in found)
    if part == "test" and without:
        raise DataError(
            f"{source.title}: {without} of {len(found)} test images have no box, and localisation is measured against "
            f"them. {WHERE}"
        )
    return padded(found) if without < len(found) else None


def padded(boxes: Sequence[Sequence[Box]]) -> np.ndarray:
    """One array (N, M, 4), float32, filled up with NaN; M is at least 1."""
    most = max(1, max(map(len, boxes), default=1))
    out = np.full((len(boxes), most, 4), np.nan, dtype=np.float32)
    for row, of_image in enumerate(boxes):
        if of_image:
            out[row, : len(of_image)] = of_image
    return out


def _box(edges: np.ndarray) -> Box:
    left, top, right, bottom = (float(edge) for edge in edges)
    return left, top, right, bottom


# TinyImageNet


def of_tiny(source: Source, files: tuple[Path, ...], rows: np.ndarray) -> list[list[Box]]:
    """Of chosen images: those of training from the lists beside their folders, the others from the one list."""
    images = [image for image, _ in tiny_images(source, files)]
    chosen = [images[row] for row in rows]
    lists = [files[0]] if files[0].is_file() else sorted({_list_of(image) for image in chosen})
    found: dict[str, list[Box]] = {}
    for path in lists:
        _add_tiny(found, path, source.side)
    return [found.get(image.name, []) for image in chosen]


def _list_of(image: Path) -> Path:
    folder = image.parent.parent if image.parent.name == "images" else image.parent
    return folder / f"{folder.name}_boxes.txt"


def _add_tiny(found: dict[str, list[Box]], path: Path, side: int) -> None:
    """Adds each line's box: the image first, first and last column and row at the end; between them maybe the class."""
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else (), 1):
        words = line.split("\t")
        if len(words) < 5:
            continue  # an image and its class alone
        try:
            left, top, right, bottom = map(int, words[-4:])
            if not (0 <= left <= right <= side and 0 <= top <= bottom <= side):
                raise ValueError(f"no box of an image of {side} x {side} pixels")
        except ValueError as error:
            raise DataError(
                f"{path}, line {number}: {line!r} holds no box ({error}). Unpack the archive again."
            ) from None
        edges = (left / side, top / side, min(right + 1, side) / side, min(bottom + 1, side) / side)
        found.setdefault(words[0], []).append(edges)


# ImageNet


def of_folders(source: Source, files: tuple[Path, ...], rows: np.ndarray) -> list[list[Box]]:
    """Of chosen images, from the XML file of each; none where it has no file."""
    part = files[0]
    beside = (part.parent, part.parent.parent.parent)
    folders = [folder for base in beside for name in XML if (folder := base / name / part.name).is_dir()]
    if not folders:
        return [[] for _ in rows]
    images = [path for _, paths in folder_images(source, files) for path in paths]
    found = []
    for image in (images[row] for row in rows):
        places = (place for folder in folders for place in (folder, folder / image.parent.name))
        path = next((path for place in places if (path := place / f"{image.stem}.xml").is_file()), None)
        found.append([] if path is None else _of_xml(source, path))
    return found


def _of_xml(source: Source, path: Path) -> list[Box]:
    try:
        root = ElementTree.parse(path).getroot()
        width, height = (int(root.findtext(f"size/{name}", "")) for name in ("width", "height"))
        boxes = [
            tuple(float(box.findtext(name, "")) for name in ("xmin", "ymin", "xmax", "ymax"))
            for box in root.iterfind("object/bndbox")
        ]
        sides = np.array([width, height, width, height])
        edges_M4 = np.array(boxes).reshape(-1, 4) / sides
        if not ((edges_M4 >= -MARGIN) & (edges_M4 <= 1 + MARGIN)).all() or (edges_M4[:, :2] > edges_M4[:, 2:]).any():
            raise ValueError("a box is not on the image")
    except (OSError, ElementTree.ParseError, ValueError, ZeroDivisionError) as error:
        raise DataError(f"{path} holds no boxes of an image ({error}). Unpack the archive again.") from None
    across, down, left, top = middle(source, width, height)
    kept_M4 = (edges_M4 * (across, down, across, down) - (left, top, left, top)) / source.side
    return [_box(edges) for edges in kept_M4.clip(0, 1)]


# Digits on noise


FACTORS = (2, 3)
"""How many times larger a digit is shown: 16 or 24 pixels a side."""
NOISE = 64
"""Background pixels are uniform below this."""


def read_placed(source: Source, _files: tuple[Path, ...]) -> Iterator[Chunk]:
    """scikit-learn's digits, each once, enlarged and somewhere on noise."""
    pixels, labels, _ = _placed(source)
    yield pixels, labels


def of_placed(source: Source, _files: tuple[Path, ...], rows: np.ndarray) -> list[list[Box]]:
    """The smallest box around each one's pixels that are brighter than all noise."""
    boxes = _placed(source)[2]
    return [[boxes[row]] for row in rows]


def _placed(source: Source) -> tuple[np.ndarray, np.ndarray, list[Box]]:
    ((digits, labels),) = read_digits(source, ())
    random, side = numpy_stream(0, "digits-boxes"), source.side
    pixels = random.integers(0, NOISE, (len(digits), side, side, 1), dtype=np.uint8)
    boxes = []
    for image, digit in zip(pixels, digits, strict=True):
        large = digit.repeat(random.choice(FACTORS), 0)
        large = large.repeat(len(large) // len(digit), 1)
        top, left = random.integers(0, side - len(large) + 1, 2)
        part = image[top : top + len(large), left : left + len(large)]
        np.maximum(part, large, out=part)
        rows, columns = (np.flatnonzero((large[..., 0] >= NOISE).any(axis)) for axis in (1, 0))
        edges = np.array([left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1]) / side
        boxes.append(_box(edges))
    return pixels, labels, boxes
