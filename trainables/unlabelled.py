"""Images of which nobody asks for the class, as files (a folder of pictures, an array, Parquet) or made on the spot.

NumPy alone at import; pyarrow, PIL and scikit-learn only where they are used.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from trainables.imageformats import Chunk, DataError, Files, Source, bytes_of, decoded

_ROWS = 2048
"""Images read at a time."""
_PICTURES = (".jpeg", ".jpg", ".png", ".bmp")


def layout(folders: tuple[str, ...], *names: str) -> Callable[[Path], Files | None]:
    """A finder of images in a folder of one of the given names; or in one of the files `names`, anywhere."""

    def find(folder: Path) -> Files | None:
        files = tuple(folder / name for name in names if (folder / name).is_file())
        if files:
            return {"train": files}
        if folder.name in folders and _image_files(folder):
            return {"train": (folder,)}
        return None

    return find


def _image_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (*_PICTURES, ".npy", ".parquet"))


def read(source: Source, files: tuple[Path, ...]) -> Iterator[Chunk]:
    """Every image as of class 0: pictures made to the source's size, arrays (N, H, W, C), Parquet's image columns."""
    for place in files:
        paths = _image_files(place) if place.is_dir() else [place]
        pictures = [path for path in paths if path.suffix.lower() in _PICTURES]
        for start in range(0, len(pictures), _ROWS):
            part = pictures[start : start + _ROWS]
            yield _unclassed([_fitted(source, decoded(source, bytes_of(path), str(path))) for path in part])
        for path in paths:
            if path.suffix == ".npy":
                yield from _array_rows(source, path)
            elif path.suffix == ".parquet":
                yield from _parquet_rows(source, path)


def _unclassed(images: list[np.ndarray]) -> Chunk:
    stacked = np.stack(images)
    return stacked if stacked.ndim == 4 else stacked[..., None], np.zeros(len(images), dtype=np.int64)


def _array_rows(source: Source, path: Path) -> Iterator[Chunk]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is no whole NumPy array ({error}). Copy or download it again.") from None
    channels = 1 if source.mode == "L" else 3
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != channels:
        raise DataError(f"{path} holds {array.dtype} {array.shape}. Needed are images (N, H, W, {channels}) of uint8.")
    for start in range(0, len(array), _ROWS):
        yield _unclassed([_fitted(source, image) for image in array[start : start + _ROWS]])


def _parquet_rows(source: Source, path: Path) -> Iterator[Chunk]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            column = next((name for name in ("image", "img") if name in file.schema_arrow.names), None)
            if column is None:
                raise DataError(f"{path} has no column image or img: name the images' column so.")
            for batch in file.iter_batches(batch_size=_ROWS, columns=[column]):
                encoded = batch.column(column)
                rows = encoded.field("bytes") if pa.types.is_struct(encoded.type) else encoded
                yield _unclassed([_fitted(source, decoded(source, row.as_py(), str(path))) for row in rows])
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is no Parquet file or is truncated ({error}). Copy or download it again.") from None


def _fitted(source: Source, image: np.ndarray) -> np.ndarray:
    """The middle square at the source's side; shorter side resized first, unless the source cuts."""
    from PIL import Image

    side, (height, width) = source.side, image.shape[:2]
    if (height, width) == (side, side):
        return image
    picture = Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    if not source.cut or min(height, width) < side:
        scale = side / min(height, width)
        picture = picture.resize(
            (max(side, round(width * scale)), max(side, round(height * scale))), Image.Resampling.BILINEAR
        )
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return np.asarray(picture.crop((left, top, left + side, top + side)))


# Images made on the spot


NOISE = ("gaussian", "uniform", "blobs", "stripes")
"""Classes of `read_noise`."""
_PER_NOISE = 500


def read_noise(source: Source, _files: tuple[Path, ...]) -> Iterator[Chunk]:
    """Noise of four kinds: Gaussian and uniform pixels, smooth blobs, stripes; always the same."""
    channels = 1 if source.mode == "L" else 3
    for number, kind in enumerate(NOISE):
        rng = np.random.default_rng((number, source.side, channels))
        pixels = np.stack([_noise(kind, rng, source.side, channels) for _ in range(_PER_NOISE)])
        yield pixels, np.full(_PER_NOISE, number, dtype=np.int64)


def _noise(kind: str, rng: np.random.Generator, side: int, channels: int) -> np.ndarray:
    shape = (side, side, channels)
    if kind == "gaussian":
        grains: np.ndarray = (rng.normal(0.5, 0.25, shape).clip(0, 1) * 255).astype(np.uint8)
        return grains
    if kind == "uniform":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    rows, columns = np.mgrid[:side, :side] / side
    if kind == "stripes":
        angle, waves, phase = rng.uniform(0, np.pi), rng.uniform(1, 4), rng.uniform(0, 2 * np.pi, channels)
        along = rows * np.cos(angle) + columns * np.sin(angle)
        stripes: np.ndarray = np.rint(127.5 * (1 + np.sin(2 * np.pi * waves * along[..., None] + phase)))
        return stripes.astype(np.uint8)
    blobs = np.zeros(shape)
    for row, column, width in zip(rng.random(3), rng.random(3), rng.uniform(0.1, 0.3, 3), strict=True):
        distance = (rows - row) ** 2 + (columns - column) ** 2
        blobs += np.exp(-distance / (2 * width**2))[..., None] * rng.random(channels)
    brightest: float = blobs.max()
    smooth: np.ndarray = np.rint(255 * blobs / brightest)
    return smooth.astype(np.uint8)


PHOTOS = ("china", "flower")
"""Classes of `read_photos`, the names of scikit-learn's two pictures."""
_FLAT = 8.0
"""Patches whose grey levels have a smaller standard deviation are left out: pieces of sky are all alike."""


def read_photos(source: Source, _files: tuple[Path, ...]) -> Iterator[Chunk]:
    """Patches of the two photographs that come with scikit-learn, grey, side by side."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    pictures = {Path(name).stem: image for name, image in _named(load_sample_images())}
    side = source.side
    for number, name in enumerate(PHOTOS):
        grey = np.asarray(Image.fromarray(pictures[name]).convert("L"))
        rows, columns = grey.shape[0] // side, grey.shape[1] // side
        tiles = grey[: rows * side, : columns * side].reshape(rows, side, columns, side).swapaxes(1, 2)
        patches = tiles.reshape(-1, side, side, 1)
        kept = patches[patches.std(axis=(1, 2, 3)) >= _FLAT]
        yield kept, np.full(len(kept), number, dtype=np.int64)


def _named(samples: Any) -> Iterator[tuple[str, np.ndarray]]:
    return zip(samples.filenames, samples.images, strict=True)
