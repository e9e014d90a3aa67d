"""Image data sets as they lie on disk: where they are looked for, and how they are read into arrays.

A data set is found in the Hub's Parquet layout or in the layout torchvision downloads; both give the same: chunks of
uint8 images and of class numbers. Class numbers always follow the data set's own order (for TinyImageNet and Omniglot:
sorted names), whatever order a Parquet file's schema lists.

NumPy alone at import; pyarrow, PIL, SciPy, scikit-learn and torchvision only where they are used.
"""

import gzip
import hashlib
import io
import json
import pickle
import re
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

Chunk = tuple[np.ndarray, np.ndarray]
"""pixels (n, H, W, C) uint8, class numbers (n,) int64."""
Files = Mapping[str, tuple[Path, ...]]
"""The files of each part, 'train' and 'test'."""


class DataError(ValueError):
    """Data that is missing, truncated or not what is needed. Says what, where, what is allowed, how to mend."""


@dataclass(frozen=True)
class Source:
    """One data set.

    title: for messages.
    mode: L (grey) or RGB.
    classes: names in the order of the class numbers; empty where the files alone say (then sorted).
    count: number of classes.
    folders: names of its own folder under `--data`.
    parts: the parts it has, and how the Parquet files of each begin, best first.
    layout: finds torchvision's files in a folder; None where torchvision has no such set.
    read: reads them.
    download: torchvision's class, and arguments for each part; None where torchvision cannot download it.
    """

    title: str
    mode: Literal["L", "RGB"]
    classes: tuple[str, ...]
    count: int
    folders: tuple[str, ...]
    parts: Mapping[str, tuple[str, ...]]
    layout: Callable[[Path], Files | None] | None = None
    read: "Callable[[Source, tuple[Path, ...]], Iterator[Chunk]] | None" = None
    download: tuple[str, tuple[Mapping[str, Any], ...]] | None = None


@dataclass(frozen=True)
class Located:
    """A data set's files, found but not yet opened."""

    source: Source
    kind: Literal["parquet", "own", "embedded"]
    files: Files


def locate(source: Source, folder: Path) -> Located | None:
    """The data set under `folder`: its own folder in it, or the folder itself; None if it is not there. Opens no file.

    Raises:
        DataError: a part of it is missing.
    """
    places = [*(folder / name for name in source.folders if (folder / name).is_dir()), folder]
    for place in places:
        files = _parquet_files(source, place)
        missing = [part for part in source.parts if part not in files]
        if files and missing:
            starts = " or ".join(f"{start}*.parquet" for start in source.parts[missing[0]])
            raise DataError(f"{source.title} in {place} has no {missing[0]} part: add {starts} to that folder.")
        if files:
            return Located(source, "parquet", files)
    for place in places:
        files = source.layout(place) if source.layout else None
        if files:
            return Located(source, "own", files)
    return None


def fingerprint(located: Located) -> str:
    """Tells one state of the files from another without reading them: their names, sizes and times."""
    entries = []
    for part, paths in sorted(located.files.items()):
        for path in paths:
            for item in [path, *sorted(path.glob("*/images"))] if path.is_dir() else [path]:
                status = item.stat()
                entries.append([part, item.name, status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps([located.source.title, located.kind, entries]).encode()).hexdigest()[:12]


def class_names(located: Located) -> tuple[str, ...]:
    """The class names in the order of the class numbers, after a look at the files' own lists of classes.

    Raises:
        DataError: a file is truncated or lists other classes.
    """
    if located.kind == "parquet":
        return _parquet_classes(located.source, located.files)
    if located.source.classes:
        return located.source.classes
    return _tiny_wnids(located.source, located.files["train"][0])


def count_images(located: Located, part: str) -> int | None:
    """The number of images of a part, where it can be known without reading them."""
    if located.kind != "parquet":
        return None
    import pyarrow.parquet as pq

    return sum(pq.ParquetFile(path).metadata.num_rows for path in located.files[part])


def chunks(located: Located, part: str) -> Iterator[Chunk]:
    """The images and class numbers of one part.

    Raises:
        DataError: a file is truncated, an image cannot be decoded, a class number is out of range.
    """
    files = located.files.get(part, ())
    read = _read_parquet if located.kind == "parquet" else located.source.read
    assert read is not None
    source = located.source
    for pixels, labels in read(source, files):
        if len(pixels) != len(labels):
            raise DataError(
                f"{source.title}, {part}, {files[0].parent if files else ''}: {len(pixels)} images but {len(labels)} "
                "class numbers. The files do not belong together, or one is truncated: get them again."
            )
        if len(labels) and not (labels.min() >= 0 and labels.max() < source.count):
            wrong = labels[(labels < 0) | (labels >= source.count)][0]
            raise DataError(
                f"{source.title}, {part}, {files[0] if files else ''}: class number {wrong} is not allowed; "
                f"the classes are 0 to {source.count - 1}. Are these the files of another data set?"
            )
        yield pixels, labels


# Parquet in the Hub's layout


def _parquet_files(source: Source, folder: Path) -> dict[str, tuple[Path, ...]]:
    """Part -> its shards, in the folder or one level below it (the Hub's `data/`, `plain_text/`)."""
    for place in (folder, folder / "data", *(folder / name for name in _HUB_FOLDERS)):
        names = sorted(place.glob("*.parquet"))
        files = {}
        for part, starts in source.parts.items():
            for start in starts:
                shards = tuple(path for path in names if re.match(rf"{start}([^a-z]|\.parquet$)", path.name))
                if shards:
                    files[part] = shards
                    break
        if files:
            return files
    return {}


_HUB_FOLDERS = ("plain_text", "mnist", "cifar10", "cifar100", "cropped_digits", "default")


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


def _parquet_classes(source: Source, files: Files) -> tuple[str, ...]:
    """The class names in the order of our class numbers, after checking that they are this data set's."""
    for shards in files.values():
        for path in shards:
            _class_map(source, path, _parquet_schema(path)[2])
    names = _parquet_schema(next(iter(files.values()))[0])[2]
    return source.classes or (tuple(sorted(names)) if names else tuple(str(number) for number in range(source.count)))


def _class_map(source: Source, path: Path, names: tuple[str, ...]) -> np.ndarray | None:
    """The class number of each of the file's numbers; None where the file names no classes and so shares our order."""
    if not names:
        return None
    ours = source.classes or tuple(sorted(names))
    index = {_plain(name): number for number, name in enumerate(ours)}
    wrong = [name for name in names if _plain(name) not in index]
    if len(names) != source.count or wrong:
        told = f"{len(names)} classes" + (f", among them {', '.join(map(repr, wrong[:3]))}" if wrong else "")
        raise DataError(
            f"{path} is not {source.title}: it has {told}. Needed are its {source.count} classes"
            + (f" ({', '.join(source.classes[:3])}, ...)" if source.classes else "")
            + ". Give the folder that holds them by --data DIR or ABLATE_DATA."
        )
    return np.array([index[_plain(name)] for name in names], dtype=np.int64)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9/]+", " ", name.lower()).strip()


def _read_parquet(source: Source, shards: tuple[Path, ...]) -> Iterator[Chunk]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in shards:
        image, label, names = _parquet_schema(path)
        renumber = _class_map(source, path, names)
        row = 0
        try:
            for batch in pq.ParquetFile(path).iter_batches(batch_size=2048, columns=[image, label]):
                encoded = batch.column(0).field("bytes")
                labels = batch.column(1).to_numpy(zero_copy_only=False)
                pixels = [
                    _decoded(source, value.as_py(), f"{path}, row {row + offset}")
                    for offset, value in enumerate(encoded)
                ]
                yield _stacked(source, pixels, f"{path}, rows {row} on"), _renumbered(source, labels, renumber, path)
                row += len(batch)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{path} is truncated or damaged ({error}). Copy or download it again.") from None


def _renumbered(source: Source, labels: np.ndarray, renumber: np.ndarray | None, path: Path) -> np.ndarray:
    if labels.dtype.kind not in "iu":
        raise DataError(
            f"{path}: the class column has values that are missing or no integers. {source.title} needs one."
        )
    labels = labels.astype(np.int64)
    if renumber is None:
        return labels
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(renumber)):
        wrong = labels[(labels < 0) | (labels >= len(renumber))][0]
        raise DataError(
            f"{path}: class number {wrong} is not allowed; its schema names the classes 0 to {len(renumber) - 1}. "
            "The file is damaged or was written wrongly: get it again."
        )
    return renumber[labels]


def _decoded(source: Source, encoded: bytes | None, where: str) -> np.ndarray:
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


def _cifar10_layout(folder: Path) -> Files | None:
    own = folder if folder.name == "cifar-10-batches-py" else folder / "cifar-10-batches-py"
    return _only({"train": tuple(own / f"data_batch_{i}" for i in range(1, 6)), "test": (own / "test_batch",)})


def _cifar100_layout(folder: Path) -> Files | None:
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


def _read_cifar(source: Source, files: tuple[Path, ...]) -> Iterator[Chunk]:
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


def _idx_layout(train: str, test: str, own: str) -> Callable[[Path], Files | None]:
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


def _read_idx(_source: Source, files: tuple[Path, ...]) -> Iterator[Chunk]:
    yield _idx_array(files[0])[..., None], _idx_array(files[1]).astype(np.int64)


def _read_emnist(source: Source, files: tuple[Path, ...]) -> Iterator[Chunk]:
    """EMNIST stores its images lying on their side, and its letters from 1."""
    for pixels, labels in _read_idx(source, files):
        yield pixels.transpose(0, 2, 1, 3), labels - (1 if source.classes[0] == "a" else 0)


def _svhn_layout(folder: Path) -> Files | None:
    return _only({part: (folder / f"{part}_32x32.mat",) for part in ("train", "test")})


def _read_svhn(source: Source, files: tuple[Path, ...]) -> Iterator[Chunk]:
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


def _tiny_layout(folder: Path) -> Files | None:
    for place in (folder, folder / "tiny-imagenet-200"):
        if (place / "train").is_dir() and (place / "val" / "val_annotations.txt").exists():
            return {"train": (place / "train",), "test": (place / "val" / "val_annotations.txt",)}
    return None


def _tiny_wnids(source: Source, train: Path) -> tuple[str, ...]:
    wnids = tuple(sorted(entry.name for entry in train.iterdir() if entry.is_dir()))
    if len(wnids) != source.count:
        raise DataError(
            f"{train} has {len(wnids)} class folders. {source.title} has {source.count}: unpack the whole archive."
        )
    return wnids


def _read_tiny(source: Source, files: tuple[Path, ...]) -> Iterator[Chunk]:
    path = files[0]
    train = path if path.is_dir() else path.parent.parent / "train"
    number = {wnid: i for i, wnid in enumerate(_tiny_wnids(source, train))}
    pairs = []
    if path.is_dir():
        pairs = [(image, i) for wnid, i in number.items() for image in sorted((train / wnid).rglob("*.JPEG"))]
    else:
        for line in path.read_text().splitlines():
            name, wnid = [*line.split("\t"), ""][:2]
            if wnid not in number:
                raise DataError(f"{path}: the class {wnid!r} of {name!r} is none of the folders in {train}.")
            pairs.append((path.parent / "images" / name, number[wnid]))
    for start in range(0, len(pairs), 2048):
        part = pairs[start : start + 2048]
        images = [_decoded(source, _bytes_of(image), str(image)) for image, _ in part]
        yield _stacked(source, images, str(part[0][0])), np.array([i for _, i in part], dtype=np.int64)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Unpack the archive again.") from None


def _read_digits(_source: Source, _files: tuple[Path, ...]) -> Iterator[Chunk]:
    """scikit-learn's 1,797 digits of 8x8 pixels, values 0 to 16 stretched to 0 to 255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    yield pixels[..., None], digits.target.astype(np.int64)


_DIGITS = tuple(string.digits)
_BALANCED = (*string.digits, *string.ascii_uppercase, *"abdefghnqrt")
_SPLIT = {"train": ("train",), "test": ("test", "valid", "validation", "val")}
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
        classes=classes,
        count=len(classes),
        folders=(f"emnist-{split}", "emnist", "EMNIST"),
        parts=_SPLIT,
        layout=_idx_layout(f"emnist-{split}-train", f"emnist-{split}-test", "EMNIST"),
        read=_read_emnist,
        download=("EMNIST", ({"split": split},)),
    )


SOURCES: dict[str, Source] = {
    "digits": Source("scikit-learn's digits", "L", _DIGITS, 10, (), {"train": ()}, None, _read_digits),
    "mnist": Source(
        "MNIST", "L", _DIGITS, 10, ("mnist", "MNIST"), _SPLIT,
        _idx_layout("train", "t10k", "MNIST"), _read_idx, ("MNIST", ({},)),
    ),
    "svhn": Source(
        "SVHN", "RGB", _DIGITS, 10, ("svhn", "SVHN"), _SPLIT,
        _svhn_layout, _read_svhn, ("SVHN", ({"split": "train"}, {"split": "test"})),
    ),
    "cifar10": Source(
        "CIFAR-10", "RGB", _CIFAR10, 10, ("cifar10", "cifar-10", "CIFAR10"), _SPLIT,
        _cifar10_layout, _read_cifar, ("CIFAR10", ({},)),
    ),
    "cifar100": Source(
        "CIFAR-100", "RGB", _CIFAR100, 100, ("cifar100", "cifar-100", "CIFAR100"), _SPLIT,
        _cifar100_layout, _read_cifar, ("CIFAR100", ({},)),
    ),
    "tinyimagenet": Source(
        "TinyImageNet", "RGB", (), 200,
        ("tiny-imagenet", "tinyimagenet", "tiny_imagenet", "tiny-imagenet-200"),
        {"train": ("train",), "test": ("valid", "validation", "val")},
        _tiny_layout, _read_tiny,
    ),
    "emnist-letters": _emnist("letters", tuple(string.ascii_lowercase)),
    "emnist-digits": _emnist("digits", _DIGITS),
    "emnist-mnist": _emnist("mnist", _DIGITS),
    "emnist-balanced": _emnist("balanced", _BALANCED),
    "omniglot": Source("Omniglot", "L", (), 242, ("omniglot",), {"train": ("train",)}),
}  # fmt: skip
"""Every data set, by the name protocols use."""
