"""Image data sets as files: the Hub's Parquet, torchvision's own layouts, and how they are read into arrays.

Every reader yields chunks of uint8 images and of class numbers. Class numbers follow the data set's own order (for
TinyImageNet and Omniglot: sorted names), whatever order a Parquet file's schema lists.

NumPy alone at import; pyarrow, PIL, SciPy and scikit-learn only where they are used.
"""

import gzip
import io
import json
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

Chunk = tuple[np.ndarray, np.ndarray]
"""pixels (n, H, W, C) uint8, class numbers (n,) int64."""
Files = Mapping[str, tuple[Path, ...]]
"""The files of each part, 'train' and 'test'."""
Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge, as fractions of an image's width and height."""


class DataError(ValueError):
    """Data that is missing, truncated or not what is needed. Says what, where, what is allowed, how to mend."""


Read = Callable[["Source", tuple[Path, ...]], Iterator[Chunk]]
"""(data set, the files of a part) -> its images."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One data set: what its images and classes are, and where and how it is read."""

    title: str
    """For messages."""
    mode: Literal["L", "RGB"]
    """Grey or colour."""
    side: int
    """Pixels a side."""
    classes: tuple[str, ...] = ()
    """Names in the order of the class numbers; empty where the files alone say (then sorted)."""
    count: int | None = None
    """Number of classes, where `classes` is empty; None: as many as the files list."""
    folders: tuple[str, ...]
    """Names of its own folder under `--data`; none for what is embedded in a dependency."""
    parts: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {"train": ("train",), "test": ("test", "valid", "validation", "val")}
    )
    """The parts it has, and how the Parquet files of each begin, best first."""
    layout: "Callable[[Path], Files | None] | None" = None
    """Finds torchvision's files in a folder; None where there is only Parquet."""
    read: "Read | Mapping[str, Read] | None" = None
    """Reads them; a reader for each part, where their files do not tell the parts apart."""
    names: "Callable[[Source, Files], tuple[str, ...]] | None" = None
    """Reads the class names of these files, where they are neither in `classes` nor folders' names."""
    untrained: frozenset[str] = frozenset()
    """Classes whose training images nobody wants, where a class is a folder."""
    square: bool = False
    """Whether images come in any shape: their shorter side is resized to `side`, and the middle square is kept."""
    numbered: bool = False
    """Whether Parquet files number the classes as the sorted folders do, whatever they call them."""
    cut: bool = False
    """Whether images without classes are cut from the middle of larger ones, rather than made smaller first."""
    boxes: "Callable[[Source, tuple[Path, ...], np.ndarray], list[list[Box]]] | None" = None
    """Reads the boxes of a part's chosen images from what lies beside torchvision's files; None where there are none
    in the data set as published."""
    published: str = ""
    """What its files are, for a message to a person who has none; empty: images in a part's Parquet files."""
    download: "tuple[str, tuple[Mapping[str, Any], ...]] | None" = None
    """torchvision's class, and the arguments of each call that is needed; None where it cannot download."""

    @property
    def expected(self) -> int | None:
        """Number of classes, if it is known before the files are."""
        return len(self.classes) or self.count


# Parquet in the Hub's layout


_BELOW = ("", "data", "plain_text", "cropped_digits", "default")
"""Where the Hub keeps Parquet files in a data set's folder; or in a folder named as the data set."""


def parquet_files(source: Source, folder: Path) -> dict[str, tuple[Path, ...]]:
    """Part -> its shards, in the folder or where the Hub has them below it."""
    for below in (*_BELOW, *source.folders):
        names = sorted((folder / below).glob("*.parquet"))
        files = {}
        for part, starts in source.parts.items():
            for start in starts:
                shards = tuple(path for path in names if re.match(rf"{start}(?![a-z])", path.name))
                if shards:
                    files[part] = shards
                    break
        if files:
            return files
    return {}


def _parquet_schema(path: Path) -> tuple[str, str, tuple[str, ...]]:
    """Names of the image and the label column, and the class names (empty if not written down)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is no Parquet file or is truncated ({error}). Copy or download it again.") from None
    image = next((name for name in ("image", "img") if name in schema.names), None)
    label = next((name for name in ("label", "fine_label") if name in schema.names), None)
    if image is None or label is None or not pa.types.is_struct(schema.field(image).type):
        raise DataError(
            f"{path} has the columns {', '.join(schema.names)}. Needed are an image column (image or img, a struct "
            "with bytes) and a class column (label or fine_label), as image sets have them on the Hugging Face Hub."
        )
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        names = features[label].get("names") or features[label]["feature"]["names"]
    except (KeyError, TypeError, ValueError):
        names = []
    return image, label, tuple(str(name) for name in names)


def parquet_classes(source: Source, files: Files) -> tuple[str, ...]:
    """The class names in the order of our class numbers, after checking that every file has this data set's.

    Raises:
        DataError: a file is truncated, has no images, or lists other classes.
    """
    import pyarrow.parquet as pq

    names: tuple[str, ...] = ()
    for path in (path for shards in files.values() for path in shards):
        names = _parquet_schema(path)[2]
        _class_map(source, path, names)
        if not pq.read_metadata(path).num_rows:
            raise DataError(f"{path} has no images. {source.title} needs some: get the file again.")
    if source.classes:
        return source.classes
    ours = names if source.numbered else tuple(sorted(names))
    return ours or tuple(str(number) for number in range(source.count or 0))


def _class_map(source: Source, path: Path, names: tuple[str, ...]) -> np.ndarray | None:
    """The class number of each of the file's numbers; None where the file names no classes and so shares our order."""
    if not names or (source.numbered and len(names) == source.expected):
        return None
    ours = source.classes or tuple(sorted(names))
    index = {_plain(name): number for number, name in enumerate(ours)}
    wrong = [name for name in names if _plain(name) not in index]
    if len(names) != (source.expected or len(names)) or wrong:
        told = f"{len(names)} classes" + (f", among them {', '.join(map(repr, wrong[:3]))}" if wrong else "")
        raise DataError(
            f"{path} is not {source.title}: it has {told}. Needed are its {source.expected} classes"
            + (f" ({', '.join(source.classes[:3])}, ...)" if source.classes else "")
            + ". Give the folder that holds them by --data DIR or ABLATE_DATA."
        )
    return np.array([index[_plain(name)] for name in names], dtype=np.int64)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9/]+", " ", name.lower()).strip()


def read_parquet(source: Source, shards: tuple[Path, ...]) -> Iterator[Chunk]:
    """Images and class numbers of all shards, in order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in shards:
        image, label, names = _parquet_schema(path)
        renumber, row = _class_map(source, path, names), 0
        try:
            with pq.ParquetFile(path) as file:
                rows = _ROWS // 8 if source.square else _ROWS
                for batch in file.iter_batches(batch_size=rows, columns=[image, label]):
                    encoded = batch.column(image).field("bytes")
                    pixels = [shaped(source, e.as_py(), f"{path}, row {row + i}") for i, e in enumerate(encoded)]
                    labels = batch.column(label).to_numpy(zero_copy_only=False)
                    yield _stacked(source, pixels, f"{path}, rows {row} on"), _numbered(source, labels, renumber, path)
                    row += len(batch)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{path} is truncated or damaged ({error}). Copy or download it again.") from None


_ROWS = 2048
"""Images decoded at a time."""


def _numbered(source: Source, labels: np.ndarray, renumber: np.ndarray | None, path: Path) -> np.ndarray:
    if labels.dtype.kind not in "iu":
        raise DataError(f"{path}: class numbers are missing or no integers. {source.title} needs one for every image.")
    labels = labels.astype(np.int64)
    if renumber is None:
        return labels
    wrong = labels[(labels < 0) | (labels >= len(renumber))]
    if len(wrong):
        raise DataError(
            f"{path}: class number {wrong[0]} is not allowed; its schema names the classes 0 to {len(renumber) - 1}. "
            "The file is damaged or was written wrongly: get it again."
        )
    numbers: np.ndarray = renumber[labels]
    return numbers


def decoded(source: Source, encoded: bytes | None, where: str) -> np.ndarray:
    """The pixels of an encoded image, grey or in colour as the source's are."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded or b"")) as image:
            return np.asarray(image.convert(source.mode))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(
            f"{where}: the image cannot be decoded ({error}). Allowed are whole PNG and JPEG images. Get it again."
        ) from None


def _stacked(source: Source, images: list[np.ndarray], where: str) -> np.ndarray:
    shapes = sorted({image.shape[:2] for image in images})
    if len(shapes) > 1:
        told = " and ".join(f"{height}x{width}" for height, width in shapes[:3])
        raise DataError(
            f"{where}: images of {told} pixels. All images of {source.title} must have one size: resize them, or leave "
            "out those that differ."
        )
    stacked = np.stack(images)
    return stacked if stacked.ndim == 4 else stacked[..., None]


# torchvision's own layouts


def _only(files: dict[str, tuple[Path, ...]]) -> Files | None:
    return files if all(files.values()) and all(path.exists() for part in files.values() for path in part) else None


def cifar10_layout(folder: Path) -> Files | None:
    """The five batches and the test batch."""
    own = folder if folder.name == "cifar-10-batches-py" else folder / "cifar-10-batches-py"
    return _only({"train": tuple(own / f"data_batch_{i}" for i in range(1, 6)), "test": (own / "test_batch",)})


def cifar100_layout(folder: Path) -> Files | None:
    """The two files."""
    own = folder if folder.name == "cifar-100-python" else folder / "cifar-100-python"
    return _only({"train": (own / "train",), "test": (own / "test",)})


class _ArraysOnly(pickle.Unpickler):
    """Reads CIFAR's pickles and nothing that runs other code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.split(".")[0], name) in {("numpy", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}:
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds a {module}.{name}, which no CIFAR file does")


def read_cifar(source: Source, files: tuple[Path, ...]) -> Iterator[Chunk]:
    """CIFAR's pickled batches."""
    for path in files:
        try:
            with path.open("rb") as handle:
                entry = _ArraysOnly(handle, encoding="latin1").load()
            pixels = np.asarray(entry["data"], dtype=np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            labels = np.asarray(entry["labels" if "labels" in entry else "fine_labels"], dtype=np.int64)
        except (pickle.UnpicklingError, EOFError, ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(
                f"{path} is no whole batch of {source.title} ({error}). Unpack the archive again."
            ) from None
        yield pixels, labels


def idx_layout(train: str, test: str, own: str) -> Callable[[Path], Files | None]:
    """A finder of IDX files, plain or gzipped; `train` and `test` begin the files' names."""

    def layout(folder: Path) -> Files | None:
        for place in (folder / own / "raw", folder / "raw", folder):
            files = {
                part: tuple(
                    next(
                        (place / f"{name}{end}" for end in ("", ".gz") if (place / f"{name}{end}").exists()),
                        place / name,
                    )
                    for name in (f"{start}-images-idx3-ubyte", f"{start}-labels-idx1-ubyte")
                )
                for part, start in (("train", train), ("test", test))
            }
            if _only(files):
                return files
        return None

    return layout


def _idx_array(path: Path) -> np.ndarray:
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        axes = raw[3]
        shape = tuple(int(length) for length in np.frombuffer(raw, ">i4", axes, 4))
        if raw[:3] != b"\0\0\x08":
            raise ValueError("not an IDX file of bytes")
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise DataError(f"{path} is no whole IDX file ({error}). Download it again.") from None


def read_idx(_source: Source, files: tuple[Path, ...]) -> Iterator[Chunk]:
    """A pair of files, images and class numbers."""
    yield _idx_array(files[0])[..., None], _idx_array(files[1]).astype(np.int64)


def read_emnist(source: Source, files: tuple[Path, ...]) -> Iterator[Chunk]:
    """EMNIST stores its images lying on their side, and its letters from 1."""
    for pixels, labels in read_idx(source, files):
        yield pixels.transpose(0, 2, 1, 3), labels - (1 if source.classes[0] == "a" else 0)


def svhn_layout(folder: Path) -> Files | None:
    """The two files in the form of 32x32 crops."""
    return _only({part: (folder / f"{part}_32x32.mat",) for part in ("train", "test")})


def read_svhn(source: Source, files: tuple[Path, ...]) -> Iterator[Chunk]:
    """SVHN writes the digit 0 as class 10."""
    import scipy.io

    for path in files:
        try:
            entry = scipy.io.loadmat(path)
            pixels = np.asarray(entry["X"], dtype=np.uint8).transpose(3, 0, 1, 2)
            labels = entry["y"].astype(np.int64).reshape(-1)
        except (OSError, ValueError, KeyError, TypeError, IndexError, scipy.io.matlab.MatReadError) as error:
            raise DataError(f"{path} is no whole file of {source.title} ({error}). Download it again.") from None
        yield pixels, np.where(labels == 10, 0, labels)


def tiny_layout(folder: Path) -> Files | None:
    """The unpacked archive."""
    for place in (folder, folder / "tiny-imagenet-200"):
        if (place / "train").is_dir() and (place / "val" / "val_annotations.txt").exists():
            return {"train": (place / "train",), "test": (place / "val" / "val_annotations.txt",)}
    return None


def tiny_wnids(source: Source, train: Path) -> tuple[str, ...]:
    """The WordNet ids that are folders of `train`, sorted."""
    wnids = tuple(sorted(entry.name for entry in train.iterdir() if entry.is_dir()))
    if len(wnids) != source.expected:
        raise DataError(
            f"{train} has {len(wnids)} class folders. {source.title} has {source.expected}: unpack the whole archive."
        )
    return wnids


def tiny_images(source: Source, files: tuple[Path, ...]) -> list[tuple[Path, int]]:
    """Images and class numbers of a part: of training from their folders, the others by val_annotations.txt."""
    path = files[0]
    train = path if path.is_dir() else path.parent.parent / "train"
    number = {wnid: i for i, wnid in enumerate(tiny_wnids(source, train))}
    if path.is_dir():
        return [(image, i) for wnid, i in number.items() for image in sorted((train / wnid).rglob("*.JPEG"))]
    pairs = []
    for line in path.read_text().splitlines():
        name, wnid = [*line.split("\t"), ""][:2]
        if wnid not in number:
            raise DataError(f"{path}: the class {wnid!r} of {name!r} is none of the folders in {train}.")
        pairs.append((path.parent / "images" / name, number[wnid]))
    return pairs


def read_tiny(source: Source, files: tuple[Path, ...]) -> Iterator[Chunk]:
    """The images of `tiny_images`."""
    pairs = tiny_images(source, files)
    for start in range(0, len(pairs), _ROWS):
        part = pairs[start : start + _ROWS]
        images = [decoded(source, bytes_of(image), str(image)) for image, _ in part]
        yield _stacked(source, images, str(part[0][0])), np.array([i for _, i in part], dtype=np.int64)


def folders_layout(folder: Path) -> Files | None:
    """ILSVRC-2012 with a folder for each class in `train` and in `val`."""
    if (folder / "train").is_dir() and (folder / "val").is_dir():
        return {"train": (folder / "train",), "test": (folder / "val",)}
    return None


def folder_images(source: Source, files: tuple[Path, ...]) -> Iterator[tuple[int, list[Path]]]:
    """Of each class its number and images: the source's classes, or all folders of `train` where it names none."""
    part = files[0]
    for number, name in enumerate(source.classes or tiny_wnids(source, part.parent / "train")):
        if part.name == "train" and name in source.untrained:
            continue
        paths = sorted(path for path in (part / name).glob("*") if path.suffix.lower() in (".jpeg", ".jpg", ".png"))
        if not paths:
            raise DataError(
                f"{part / name} has no images. {source.title} needs this class: unpack the whole archive, a folder for "
                "each class, as torchvision.datasets.ImageNet leaves it."
            )
        yield number, paths


def read_folders(source: Source, files: tuple[Path, ...]) -> Iterator[Chunk]:
    """The images of `folder_images`."""
    for number, paths in folder_images(source, files):
        for start in range(0, len(paths), _ROWS // 8):
            some = paths[start : start + _ROWS // 8]
            pixels = np.stack([shaped(source, bytes_of(path), str(path)) for path in some])
            yield pixels, np.full(len(some), number, dtype=np.int64)


def shaped(source: Source, encoded: bytes | None, where: str) -> np.ndarray:
    """The pixels of an encoded image; of its middle square, where the source's images come in any shape."""
    from PIL import Image

    pixels = decoded(source, encoded, where)
    if not source.square:
        return pixels
    image = Image.fromarray(pixels)
    width, height, left, top = middle(source, *image.size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized.crop((left, top, left + source.side, top + source.side)))


def middle(source: Source, width: int, height: int) -> tuple[int, int, int, int]:
    """What an image of these sides is resized to, width and height, and left and top of the square that is kept."""
    scale = source.side / min(width, height)
    width, height = (max(source.side, int(length * scale)) for length in (width, height))
    return width, height, round((width - source.side) / 2), round((height - source.side) / 2)


def bytes_of(path: Path) -> bytes:
    """What a file holds."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Unpack the archive again.") from None


def read_digits(_source: Source, _files: tuple[Path, ...]) -> Iterator[Chunk]:
    """scikit-learn's 1,797 digits of 8x8 pixels, values 0 to 16 stretched to 0 to 255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    yield pixels[..., None], digits.target.astype(np.int64)
