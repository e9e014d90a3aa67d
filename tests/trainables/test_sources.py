"""Small files in every format, read back and compared with torchvision; and everything that can be wrong with them."""

import gzip
import io
import json
import pickle
import shutil
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import torchvision.datasets
from PIL import Image

from trainables.data_protocols import DataSpec
from trainables.datasets import check, open_data, open_source
from trainables.imageformats import DataError
from trainables.sources import SOURCES, chunks, class_names, find

CIFAR10 = list(SOURCES["cifar10"].classes)
CLOSED = DataSpec(protocol="cifar10-closed")


def pictures(count: int, side: int = 32, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (count, side, side, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, form)
    return buffer.getvalue()


def write_parquet(
    path: Path,
    images: Sequence[bytes | None],
    labels: Sequence[int | None],
    names: Sequence[str] | None = None,
    columns: tuple[str, str] = ("image", "label"),
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    arrays = [pa.array([{"bytes": image, "path": None} for image in images], kind), pa.array(labels, pa.int64())]
    table = pa.table(arrays, names=list(columns))
    if names is not None:
        features = {columns[0]: {"_type": "Image"}, columns[1]: {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=8)


def write_cifar10(folder: Path, per_class: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Parquet files of both parts; returns the training images and class numbers."""
    labels = np.arange(10 * per_class) % 10
    pixels = pictures(len(labels))
    for part in ("train", "test"):
        write_parquet(folder / f"{part}-00000-of-00001.parquet", [encoded(p) for p in pixels], labels.tolist(), CIFAR10)
    return pixels, labels


def opened(source: Path, spec: DataSpec = CLOSED):
    return open_data(spec, cache=source.parent / "cache", source=source, download=False)


# Parquet


@pytest.mark.parametrize("below", ["cifar10", "", "cifar10/data", "CIFAR10/plain_text", "data"])
def test_parquet_is_found_where_the_hub_puts_it(tmp_path: Path, below: str) -> None:
    pixels, labels = write_cifar10(tmp_path / "d" / below)
    data = opened(tmp_path / "d")
    np.testing.assert_array_equal(data.train.pixels, pixels)
    np.testing.assert_array_equal(data.train.labels, labels)
    assert data.classes == tuple(CIFAR10)


def test_shards_are_read_in_order_and_other_columns_are_known(tmp_path: Path) -> None:
    pixels, labels = pictures(30), np.arange(30) % 10
    for shard in range(3):
        rows = range(10 * shard, 10 * shard + 10)
        path = tmp_path / "d" / "cifar10" / f"train-0000{shard}-of-00003.parquet"
        write_parquet(path, [encoded(pixels[i]) for i in rows], labels[rows].tolist(), CIFAR10, ("img", "label"))
    write_parquet(tmp_path / "d/cifar10/validation.parquet", [encoded(p) for p in pixels], labels.tolist(), CIFAR10)
    data = opened(tmp_path / "d")
    np.testing.assert_array_equal(data.train.pixels, pixels)
    np.testing.assert_array_equal(data.test.pixels, pixels)


def test_class_numbers_follow_the_names_not_the_files_order(tmp_path: Path) -> None:
    pixels, names = pictures(10), CIFAR10[::-1]
    for part in ("train", "test"):
        write_parquet(tmp_path / f"d/cifar10/{part}.parquet", [encoded(p) for p in pixels], list(range(10)), names)
    np.testing.assert_array_equal(opened(tmp_path / "d").train.labels, np.arange(10)[::-1])


def test_cifar100_fine_labels(tmp_path: Path) -> None:
    names = SOURCES["cifar100"].classes
    assert len(names) == 100
    assert list(names) == sorted(names)
    images = [encoded(p) for p in pictures(100)]
    for part in ("train", "test"):
        path = tmp_path / f"d/cifar100/{part}.parquet"
        write_parquet(path, images, list(range(100)), names, ("img", "fine_label"))
    np.testing.assert_array_equal(
        opened(tmp_path / "d", DataSpec(protocol="cifar100-closed")).test.labels, np.arange(100)
    )


def test_parquet_comes_before_torchvisions_files(tmp_path: Path) -> None:
    pixels, _ = write_cifar10(tmp_path / "d" / "cifar10")
    write_cifar_pickles(tmp_path / "d", pictures(20, seed=1), np.arange(20) % 10)
    np.testing.assert_array_equal(opened(tmp_path / "d").train.pixels, pixels)


def test_changed_files_are_decoded_again(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "d")
    before = opened(tmp_path / "d")
    pixels, _ = write_cifar10(tmp_path / "d", per_class=3)
    after = opened(tmp_path / "d")
    assert len(before.train.pixels) == 20
    np.testing.assert_array_equal(after.train.pixels, pixels)
    assert after.digest != before.digest


# torchvision's layouts, read by torchvision too


def write_cifar_pickles(root: Path, pixels: np.ndarray, labels: np.ndarray) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    flat = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for name in names:
        with (folder / name).open("wb") as handle:
            pickle.dump({"data": flat, "labels": labels.tolist(), "batch_label": name}, handle, protocol=2)


def test_cifar10_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar_pickles(tmp_path / "d", pictures(10), np.arange(10))
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda _: True)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_load_meta", lambda _: None)
    theirs = torchvision.datasets.CIFAR10(tmp_path / "d")
    ours = opened(tmp_path / "d")
    np.testing.assert_array_equal(ours.train.pixels, theirs.data)
    np.testing.assert_array_equal(ours.train.labels, theirs.targets)
    assert len(ours.train.pixels) == 50


def test_cifar100_pickles(tmp_path: Path) -> None:
    folder, pixels = tmp_path / "d" / "cifar-100-python", pictures(100)
    folder.mkdir(parents=True)
    flat = pixels.transpose(0, 3, 1, 2).reshape(100, -1)
    for part in ("train", "test"):
        with (folder / part).open("wb") as handle:
            pickle.dump({"data": flat, "fine_labels": list(range(100)), "coarse_labels": [0] * 100}, handle, protocol=2)
    data = opened(tmp_path / "d", DataSpec(protocol="cifar100-closed"))
    np.testing.assert_array_equal(data.test.pixels, pixels)
    np.testing.assert_array_equal(data.test.labels, np.arange(100))


def write_idx(path: Path, array: np.ndarray, compress: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + array.astype(np.uint8).tobytes()
    path.with_name(path.name + (".gz" if compress else "")).write_bytes(gzip.compress(raw) if compress else raw)


@pytest.mark.parametrize("compress", [False, True])
def test_mnist_idx(tmp_path: Path, compress: bool) -> None:
    pixels, labels = pictures(20, 28, 1)[..., 0], np.arange(20) % 10
    for start in ("train", "t10k"):
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            write_idx(tmp_path / "d/MNIST/raw" / f"{start}-{kind}-ubyte", array, compress)
    data = opened(tmp_path / "d", DataSpec(protocol="mnist-closed"))
    np.testing.assert_array_equal(data.train.pixels[..., 0], pixels)
    np.testing.assert_array_equal(data.test.labels, labels)
    if not compress:
        theirs = torchvision.datasets.MNIST(tmp_path / "d")
        np.testing.assert_array_equal(data.train.pixels[..., 0], theirs.data)


def test_emnist_letters_stand_upright_and_count_from_a(tmp_path: Path) -> None:
    pixels, labels = pictures(52, 28, 1)[..., 0], np.arange(52) % 26 + 1
    for part in ("train", "test"):
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            write_idx(tmp_path / "d/EMNIST/raw" / f"emnist-letters-{part}-{kind}-ubyte", array)
    data = opened(tmp_path / "d", DataSpec(protocol="emnist-letters-closed"))
    theirs = torchvision.datasets.EMNIST(tmp_path / "d", split="letters")
    np.testing.assert_array_equal(data.train.pixels[..., 0], theirs.data.transpose(1, 2))
    np.testing.assert_array_equal(data.train.labels, theirs.targets - 1)
    assert data.classes[0] == "a"


def test_svhn_mat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, labels = pictures(20), np.arange(20) % 10 + 1
    (tmp_path / "d").mkdir()
    for part in ("train", "test"):
        scipy.io.savemat(tmp_path / f"d/{part}_32x32.mat", {"X": pixels.transpose(1, 2, 3, 0), "y": labels[:, None]})
    monkeypatch.setattr(torchvision.datasets.SVHN, "_check_integrity", lambda _: True)
    theirs = torchvision.datasets.SVHN(tmp_path / "d", split="train")
    ours = opened(tmp_path / "d", DataSpec(protocol="svhn-closed"))
    np.testing.assert_array_equal(ours.train.pixels, theirs.data.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(ours.train.labels, theirs.labels)
    assert set(ours.train.labels.tolist()) == set(range(10))


def write_tiny(folder: Path) -> list[str]:
    """Two training images and a validation image for each of 200 classes; classes are listed out of order."""
    wnids = [f"n{10_000_000 + 7919 * i % 1000:08d}" for i in range(200)]
    image = encoded(pictures(1, 64)[0], "JPEG")
    grey = encoded(pictures(1, 64, 1)[0], "JPEG")
    for wnid in wnids:
        (folder / "train" / wnid / "images").mkdir(parents=True)
        (folder / "train" / wnid / "images" / f"{wnid}_0.JPEG").write_bytes(image)
        (folder / "train" / wnid / "images" / f"{wnid}_1.JPEG").write_bytes(grey)
    (folder / "val" / "images").mkdir(parents=True)
    lines = []
    for i, wnid in enumerate(wnids):
        (folder / "val" / "images" / f"val_{i}.JPEG").write_bytes(image)
        lines.append(f"val_{i}.JPEG\t{wnid}\t0\t0\t63\t63")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    return wnids


def test_tinyimagenet_folder(tmp_path: Path) -> None:
    wnids = write_tiny(tmp_path / "d" / "tiny-imagenet-200")
    data = opened(tmp_path / "d", DataSpec(protocol="tinyimagenet-closed"))
    theirs = torchvision.datasets.ImageFolder(tmp_path / "d/tiny-imagenet-200/train")
    assert data.classes == tuple(theirs.classes)
    np.testing.assert_array_equal(data.train.labels, theirs.targets)
    np.testing.assert_array_equal(data.train.pixels[3], np.asarray(theirs[3][0]))
    np.testing.assert_array_equal(data.test.labels, [sorted(wnids).index(wnid) for wnid in wnids])


def test_tinyimagenet_parquet_counts_classes_by_sorted_wnid(tmp_path: Path) -> None:
    names = [f"n{10_000_000 + 7919 * i % 1000:08d} thing" for i in range(200)]
    image = encoded(pictures(1, 64)[0], "JPEG")
    for part in ("train", "valid"):
        write_parquet(tmp_path / f"d/tiny-imagenet/{part}.parquet", [image] * 200, list(range(200)), names)
    data = opened(tmp_path / "d", DataSpec(protocol="tinyimagenet-closed"))
    assert data.classes == tuple(sorted(names))
    np.testing.assert_array_equal(data.train.labels, [sorted(names).index(name) for name in names])


def test_omniglot_has_as_many_classes_as_its_files_name(tmp_path: Path) -> None:
    names = ["Greek/character02", "Greek/character01"]
    write_parquet(tmp_path / "d/omniglot/train.parquet", [encoded(p) for p in pictures(4, 105, 1)], [0, 1, 0, 1], names)
    parts = open_source("omniglot", cache=tmp_path / "cache", source=tmp_path / "d")
    assert parts["train"].labels.tolist() == [1, 0, 1, 0]
    assert parts["train"].pixels.shape == (4, 105, 105, 1)


# Bad input. Each gets one message: what, where, what is allowed, how to mend


def refused(source: Path, *words: str, spec: DataSpec = CLOSED, cheaply: bool = False) -> None:
    """`open_data` refuses with all of the words; `check` too, if it is to be seen without decoding."""
    calls: list[Callable[..., object]] = [open_data, check] if cheaply else [open_data]
    for call in calls:
        with pytest.raises(DataError) as caught:
            call(spec, cache=source.parent / "cache", source=source, download=False)
        for word in words:
            assert word in str(caught.value)
    left = source.parent / "cache"
    assert not [path for path in left.glob("*/*") if path.suffix != ".lock"], "something was written"


def test_a_missing_folder(tmp_path: Path) -> None:
    for spec in (CLOSED, DataSpec(protocol="digits")):  # said even where the data are embedded
        refused(tmp_path / "d", str(tmp_path / "d"), "does not exist", "--data", spec=spec, cheaply=True)


def test_a_file_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("x")
    refused(tmp_path / "d", "is a file", "--data", cheaply=True)


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    refused(tmp_path / "d", "is empty", "--data DIR", "cifar10/", "train-*.parquet", cheaply=True)


def test_a_folder_without_the_data_set(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "d" / "cifar10")
    refused(tmp_path / "d", "SVHN is not found", "svhn/", spec=DataSpec(protocol="svhn"), cheaply=True)


def test_no_folder_and_no_download(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"CIFAR-10 is not here \(no data folder was given\)\. Give .*ABLATE_DATA"):
        open_data(CLOSED, cache=tmp_path / "cache", download=False)


def test_a_missing_part(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "d")
    (tmp_path / "d" / "test-00000-of-00001.parquet").unlink()
    refused(tmp_path / "d", "has no test part", "test*.parquet", cheaply=True)


@pytest.mark.parametrize("keep", [0, 3, 2000])
def test_a_truncated_parquet_file(tmp_path: Path, keep: int) -> None:
    write_cifar10(tmp_path / "d")
    path = tmp_path / "d" / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    refused(tmp_path / "d", str(path), "truncated", "again", cheaply=True)


def test_a_parquet_file_damaged_in_the_middle(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "d")
    path = tmp_path / "d" / "train-00000-of-00001.parquet"
    raw = bytearray(path.read_bytes())
    raw[4:400] = bytes(396)
    path.write_bytes(raw)
    refused(tmp_path / "d", str(path))


def cifar10_with(tmp_path: Path, images: list[bytes | None], labels: list[int | None], **options) -> Path:
    """A folder whose training part is given and whose test part is good."""
    write_cifar10(tmp_path / "d")
    write_parquet(tmp_path / "d" / "train-00000-of-00001.parquet", images, labels, **{"names": CIFAR10, **options})
    return tmp_path / "d"


GOOD = [encoded(p) for p in pictures(20)]
LABELS: list[int | None] = [i % 10 for i in range(20)]


def test_a_truncated_image(tmp_path: Path) -> None:
    folder = cifar10_with(tmp_path, [*GOOD[:7], GOOD[7][:900], *GOOD[8:]], LABELS)
    refused(folder, "row 7", "cannot be decoded", "PNG and JPEG", "again")


def test_bytes_that_are_no_image(tmp_path: Path) -> None:
    refused(cifar10_with(tmp_path, [b"no image", *GOOD[1:]], LABELS), "row 0", "cannot be decoded")


def test_a_missing_image(tmp_path: Path) -> None:
    refused(cifar10_with(tmp_path, [*GOOD[:19], None], LABELS), "row 19", "cannot be decoded")


def test_mixed_image_sizes(tmp_path: Path) -> None:
    folder = cifar10_with(tmp_path, [*GOOD[:19], encoded(pictures(1, 40)[0])], LABELS)
    refused(folder, "32x32 and 40x40", "one size", "resize")


def test_images_of_another_data_sets_size(tmp_path: Path) -> None:
    folder = cifar10_with(tmp_path, [encoded(p) for p in pictures(20, 28)], LABELS)
    refused(folder, "28x28", "CIFAR-10's are 32x32")


def test_other_classes(tmp_path: Path) -> None:
    names = ["airplane", "cactus", *CIFAR10[2:]]
    refused(cifar10_with(tmp_path, GOOD, LABELS, names=names), "is not CIFAR-10", "'cactus'", cheaply=True)


def test_fewer_classes(tmp_path: Path) -> None:
    folder = cifar10_with(tmp_path, GOOD, [0] * 20, names=CIFAR10[:9])
    refused(folder, "9 classes", "10 classes", "airplane", "--data DIR", cheaply=True)


@pytest.mark.parametrize("names", [CIFAR10, None])
@pytest.mark.parametrize("label", [-1, 10])
def test_a_class_number_out_of_range(tmp_path: Path, label: int, names: list[str] | None) -> None:
    refused(cifar10_with(tmp_path, GOOD, [*LABELS[:19], label], names=names), f"class number {label}", "0 to 9")


def test_a_missing_class_number(tmp_path: Path) -> None:
    refused(cifar10_with(tmp_path, GOOD, [*LABELS[:19], None]), "class numbers are missing", "every image")


def test_a_class_without_images(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "d")
    write_parquet(tmp_path / "d/train-00000-of-00001.parquet", GOOD, [i % 9 for i in range(20)], CIFAR10)
    with pytest.raises(DataError, match=r"the train part has no image of class 9, which cifar10-closed, split 0"):
        opened(tmp_path / "d")


def test_other_columns(tmp_path: Path) -> None:
    folder = cifar10_with(tmp_path, GOOD, LABELS, columns=("picture", "label"))
    refused(folder, "columns picture, label", "image or img", cheaply=True)


def test_no_images(tmp_path: Path) -> None:
    refused(cifar10_with(tmp_path, [], []), "has no images", cheaply=True)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    write_cifar_pickles(tmp_path / "d", pictures(10), np.arange(10))
    with (tmp_path / "d/cifar-10-batches-py/data_batch_3").open("wb") as handle:
        pickle.dump({"data": shutil.rmtree}, handle)
    refused(tmp_path / "d", "data_batch_3", "shutil.rmtree", "Unpack")


def test_truncated_files_of_torchvisions_layouts(tmp_path: Path) -> None:
    write_cifar_pickles(tmp_path / "d", pictures(10), np.arange(10))
    path = tmp_path / "d/cifar-10-batches-py/data_batch_2"
    path.write_bytes(path.read_bytes()[:500])
    refused(tmp_path / "d", str(path), "no whole batch", "again")

    write_idx(tmp_path / "e/train-images-idx3-ubyte", pictures(20, 28, 1)[..., 0])
    for name in ("train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        write_idx(tmp_path / "e" / name, np.arange(20) % 10)
    path = tmp_path / "e/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-5])
    refused(tmp_path / "e", str(path), "no whole IDX file", "again", spec=DataSpec(protocol="mnist"))

    (tmp_path / "f").mkdir()
    for part in ("train", "test"):
        (tmp_path / f"f/{part}_32x32.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(300))
    refused(tmp_path / "f", "train_32x32.mat", "no whole file", "again", spec=DataSpec(protocol="svhn"))


def test_images_and_class_numbers_that_do_not_belong_together(tmp_path: Path) -> None:
    for start, count in (("train", 19), ("t10k", 20)):
        write_idx(tmp_path / f"d/{start}-images-idx3-ubyte", pictures(20, 28, 1)[..., 0])
        write_idx(tmp_path / f"d/{start}-labels-idx1-ubyte", np.arange(count) % 10)
    refused(tmp_path / "d", "20 images but 19 class numbers", spec=DataSpec(protocol="mnist"))


def test_tinyimagenet_with_a_class_folder_missing(tmp_path: Path) -> None:
    wnids = write_tiny(tmp_path / "d")
    shutil.rmtree(tmp_path / "d/train" / wnids[0])
    refused(tmp_path / "d", "199 class folders", "has 200", spec=DataSpec(protocol="tinyimagenet"), cheaply=True)


def test_tinyimagenet_with_an_image_missing_or_of_no_class(tmp_path: Path) -> None:
    write_tiny(tmp_path / "d")
    (tmp_path / "d/val/images/val_7.JPEG").unlink()
    refused(tmp_path / "d", "val_7.JPEG cannot be read", spec=DataSpec(protocol="tinyimagenet"))
    (tmp_path / "d/val/val_annotations.txt").write_text("val_0.JPEG\tn99999999\t0\t0\t1\t1\n")
    refused(tmp_path / "d", "'n99999999'", "none of the folders", spec=DataSpec(protocol="tinyimagenet"))


def test_an_unknown_data_set_is_told_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Did you mean 'omniglot'"):
        open_source("omniglott", cache=tmp_path)


# Downloads, without a network


def offline(*_: object, **__: object) -> None:
    raise URLError("no route to host")


def test_a_failed_download_says_how_to_provide_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", offline)
    with pytest.raises(DataError, match=r"its download failed \(.*no route to host.*\)\. Give .*ABLATE_DATA"):
        open_data(CLOSED, cache=tmp_path / "cache")


def test_a_download_is_made_once_and_a_killed_one_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def fetch(root: Path, download: bool) -> None:
        sys.stdout.write("as torchvision does")
        calls.append(root)
        write_cifar_pickles(Path(root), pictures(10), np.arange(10))

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fetch)
    killed = tmp_path / "cache/downloads/cifar10.partial/cifar-10-batches-py"
    killed.mkdir(parents=True)
    check(CLOSED, cache=tmp_path / "cache")  # may be downloaded: nothing to object to
    for spec in (CLOSED, DataSpec(protocol="cifar10")):
        assert open_data(spec, cache=tmp_path / "cache").train.pixels.shape[1:] == (32, 32, 3)
    assert len(calls) == 1
    assert capsys.readouterr().out == ""
    assert not killed.exists()


def test_tinyimagenet_cannot_be_downloaded_and_says_so_early(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="TinyImageNet is not here"):
        check(DataSpec(protocol="tinyimagenet"), cache=tmp_path)


WNIDS = [f"n{number:08d}" for number in range(1000)]


def painted(shape: tuple[int, int], colour: int) -> np.ndarray:
    """A picture of any shape whose middle square alone has the colour."""
    height, width = shape
    side, pixels = min(shape), np.zeros((height, width, 3), dtype=np.uint8)
    top, left = (height - side) // 2, (width - side) // 2
    pixels[top : top + side, left : left + side] = colour
    return pixels


def imagenet_folders(root: Path) -> None:
    """All thousand classes, one picture in each part: wide for training, tall for validation."""
    for part, shape in (("train", (64, 96)), ("val", (96, 64))):
        for number, name in enumerate(WNIDS):
            folder = root / part / name
            folder.mkdir(parents=True)
            Image.fromarray(painted(shape, number % 251)).save(folder / "one.JPEG", "PNG")


def test_imagenets_folders_become_middle_squares_in_the_order_of_the_names(tmp_path: Path) -> None:
    imagenet_folders(tmp_path / "data" / "imagenet")
    spec = DataSpec(protocol="imagenet64-closed")
    data = open_data(spec, cache=tmp_path / "cache", source=tmp_path / "data")
    assert data.classes == tuple(WNIDS)
    wanted = np.arange(1000)
    for images in (data.train, data.test):
        assert np.array_equal(images.labels, wanted)
        assert images.pixels.shape == (1000, 64, 64, 3)
        assert np.array_equal(images.pixels.min((1, 2, 3)), wanted % 251)
        assert np.array_equal(images.pixels.max((1, 2, 3)), wanted % 251)
    theirs = torchvision.datasets.ImageFolder(str(tmp_path / "data" / "imagenet" / "val"))
    assert theirs.classes == list(data.classes)
    few = open_data(DataSpec(protocol="imagenet64-closed", side=16), cache=tmp_path / "cache", source=tmp_path / "data")
    assert few.train.pixels.shape[1:] == (16, 16, 3)
    assert len(list((tmp_path / "cache" / "decoded").glob("imagenet64-*[!k]"))) == 1, "decoded once for both"


def test_imagenet_parquet_keeps_its_numbers_even_where_two_classes_share_a_name(tmp_path: Path) -> None:
    """On the Hub the names are English, two classes are a 'crane', and the test part has no labels."""
    names = ["tench", *(f"thing {number}" for number in range(997)), "crane", "crane"]
    folder = tmp_path / "data" / "imagenet-1k" / "data"
    numbers = [999, 0, 998, 5]
    pictures_ = [
        encoded(painted(shape, 20 * place)) for place, shape in enumerate([(40, 70), (70, 40), (40, 40), (9, 9)])
    ]
    for part, labels in (("train", numbers), ("validation", numbers), ("test", [-1] * 4)):
        write_parquet(folder / f"{part}-00000-of-00001.parquet", pictures_, labels, names)
    located = find("imagenet64", tmp_path / "cache", tmp_path / "data")
    assert located is not None
    assert [path.name for path in located.files["test"]] == ["validation-00000-of-00001.parquet"]
    assert class_names(located) == tuple(names)
    for part in ("train", "test"):
        ((pixels, labels),) = chunks(located, part)
        assert labels.tolist() == numbers
        assert pixels.shape == (4, 64, 64, 3)
        assert pixels[:, 32, 32, 0].tolist() == [0, 20, 40, 60]


def test_imagenet_without_all_its_classes_says_so(tmp_path: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / "data" / "imagenet" / part / WNIDS[0]).mkdir(parents=True)
    with pytest.raises(DataError, match=r"has 1 class folders\. .* has 1000"):
        open_data(DataSpec(protocol="imagenet64-closed"), cache=tmp_path / "cache", source=tmp_path / "data")


def test_imagenets_unsorted_validation_images_name_who_sorts_them(tmp_path: Path) -> None:
    imagenet_folders(tmp_path / "data" / "imagenet")
    shutil.rmtree(tmp_path / "data" / "imagenet" / "val")
    (tmp_path / "data" / "imagenet" / "val").mkdir()
    with pytest.raises(DataError, match=r"n00000000 has no images.*torchvision.datasets.ImageNet"):
        open_data(DataSpec(protocol="imagenet64-closed"), cache=tmp_path / "cache", source=tmp_path / "data")
