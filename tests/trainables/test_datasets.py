"""Which images a spec means, prepared once, shared by all trials."""

import dataclasses
import io
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainables import datasets, splits
from trainables.data_protocols import PROTOCOLS, DataSpec, class_split
from trainables.datasets import check, open_data, open_source
from trainables.imageformats import DataError
from trainables.sources import SOURCES

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
needs_shared = pytest.mark.skipif(
    not (SHARED / "cifar10").is_dir(), reason="needs the real images in ../shared/data beside the repository"
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the module, so that real images are decoded once."""
    return tmp_path_factory.mktemp("data")


@pytest.mark.parametrize(
    ("protocol", "split", "words"),
    [
        ("cifar", 0, "Did you mean 'cifar10'"),
        ("cifar10", 5, "the splits of cifar10 are 0 to 4"),
        ("cifar10-closed", 1, "are 0 only"),
    ],
)
def test_unknown_protocols_and_splits_are_refused(tmp_path: Path, protocol: str, split: int, words: str) -> None:
    spec = DataSpec(protocol=protocol, split=split)
    with pytest.raises(DataError, match=words):
        open_data(spec, cache=tmp_path)
    with pytest.raises(DataError, match=words):
        check(spec, cache=tmp_path)


# The digits


def test_digits_are_scikit_learns(cache: Path) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    train = open_source("digits", cache=cache)["train"]
    np.testing.assert_array_equal(train.pixels[..., 0], np.rint(digits.images / 16 * 255))
    np.testing.assert_array_equal(train.labels, digits.target)


@pytest.mark.parametrize("split", [0, 3, 17])
def test_digits_resplit_is_stratified_and_disjoint(cache: Path, split: int) -> None:
    spec = DataSpec(protocol="digits", split=split)
    data, (known, unknown) = open_data(spec, cache=cache), class_split(spec)
    totals = np.bincount(open_source("digits", cache=cache)["train"].labels)
    assert len(data.train.labels) == sum(totals[number] // 2 for number in known)
    for label, number in enumerate(known):
        assert (data.train.labels == label).sum() == totals[number] // 2
        assert (data.test.labels == label).sum() == totals[number] - totals[number] // 2
    assert set(data.others["unknown"].original.tolist()) == set(unknown)
    assert set(data.others["unknown"].labels.tolist()) == {-2}
    seen = {image.tobytes() for image in data.train.pixels}
    assert not seen & {image.tobytes() for image in data.test.pixels}


def test_known_classes_are_numbered_in_the_order_listed(cache: Path) -> None:
    spec = DataSpec(protocol="digits", split=1)
    data, known = open_data(spec, cache=cache), class_split(spec)[0]
    assert data.classes == tuple(str(number) for number in known) == ("3", "2", "6", "9", "4", "0")
    for part in (data.train, data.test):
        np.testing.assert_array_equal(part.original, np.array(known)[part.labels])


def test_resplits_of_the_closed_set_differ(cache: Path) -> None:
    one, two = (open_data(DataSpec(protocol="digits-closed", split=split), cache=cache) for split in (0, 1))
    assert one.others == {}
    assert one.classes == tuple("0123456789")
    assert len(one.train.labels) + len(one.test.labels) == 1797
    assert one.digest != two.digest


def test_the_images_a_spec_means_never_change(cache: Path) -> None:
    """Trials already run were trained on exactly these: another digest here means another VERSION of everything."""
    digests = {
        DataSpec(protocol="digits"): "5294d9b6b96e1d6bf7a9965cfb6b5a8d22e1db273c14a4872dc4dba78a3c9ca8",
        DataSpec(
            protocol="digits", split=7, per_class=20
        ): "c19147039c6d07e7c0b84bbfbe020e01a835cbdb5e343899fc4130728a048a9e",
    }
    for spec, digest in digests.items():
        assert open_data(spec, cache=cache).digest == digest


# Numbers of images, size


def test_per_class_takes_the_first_of_a_fixed_order(cache: Path) -> None:
    base = DataSpec(protocol="digits", split=2)
    few, more, all_of_them = (
        open_data(dataclasses.replace(base, per_class=n, test_per_class=t), cache=cache)
        for n, t in ((5, 3), (20, 10), (10_000, 10_000))
    )
    assert np.bincount(few.train.labels).tolist() == [5] * 6
    assert np.bincount(few.test.labels).tolist() == [3] * 6
    assert len(few.others["unknown"].labels) == 4 * 3
    for part in ("train", "test"):
        small, large = ({image.tobytes() for image in getattr(data, part).pixels} for data in (few, more))
        assert small < large
    assert all_of_them.digest == open_data(base, cache=cache).digest


def test_side_resizes_with_antialiasing_once(cache: Path) -> None:
    native = open_data(DataSpec(protocol="digits"), cache=cache)
    for side in (4, 16):
        resized = open_data(DataSpec(protocol="digits", side=side), cache=cache)
        expected = Image.fromarray(native.train.pixels[9, ..., 0]).resize((side, side), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(resized.train.pixels[9, ..., 0], np.asarray(expected))
        assert resized.train.pixels.shape == (537, side, side, 1)
        assert resized.others["unknown"].pixels.shape[1:] == (side, side, 1)
    assert open_data(DataSpec(protocol="digits", side=8), cache=cache).digest == native.digest


# Once, and shared


def test_the_second_trial_only_maps_the_arrays(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = DataSpec(protocol="digits", split=4)
    first = open_data(spec, cache=cache)
    monkeypatch.setattr("trainables.arraystore._make", None)
    monkeypatch.setattr("trainables.arraystore.array_digest", None)
    second = open_data(spec, cache=cache)
    for images in (first.train, second.train, second.others["unknown"]):
        assert isinstance(images.pixels, np.memmap)
    assert second.train.pixels.filename == first.train.pixels.filename
    assert second.digest == first.digest


def test_arrays_become_tensors_without_a_copy_or_a_warning(cache: Path) -> None:
    data = open_data(DataSpec(protocol="digits"), cache=cache)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels, labels = torch.from_numpy(data.train.pixels), torch.from_numpy(data.train.labels)
    assert pixels.data_ptr() == data.train.pixels.ctypes.data
    pixels[0] = 255  # this trial's own: copied on writing
    assert open_data(DataSpec(protocol="digits"), cache=cache).train.pixels[0].max() < 256
    assert not (np.asarray(open_data(DataSpec(protocol="digits"), cache=cache).train.pixels[0]) == 255).all()
    assert labels.dtype == torch.int64


def test_damaged_arrays_are_prepared_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = DataSpec(protocol="digits", per_class=5, test_per_class=5)
    before = open_data(spec, cache=tmp_path)
    for folder in ("prepared", "decoded"):
        for path in (tmp_path / folder).glob("*/train.pixels.npy"):
            path.write_bytes(path.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        after = open_data(spec, cache=tmp_path)
    assert after.digest == before.digest
    assert caplog.text.count("is made again") == 2


def test_the_whole_of_a_set_is_not_stored_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = np.arange(1797)
    monkeypatch.setattr(datasets, "_chosen", lambda *_: everything)
    open_data(DataSpec(protocol="digits-closed"), cache=tmp_path)
    (decoded,) = (tmp_path / "decoded").glob("*/train.pixels.npy")
    (prepared,) = (tmp_path / "prepared").glob("*/test.pixels.npy")
    assert prepared.samefile(decoded)


_CHILD = """
import logging, sys
from pathlib import Path
from trainables.datasets import open_data
from trainables.data_protocols import DataSpec
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
folder = Path(sys.argv[1])
(folder / f"ready{sys.argv[2]}").touch()
while not (folder / "go").exists():
    pass
print(open_data(DataSpec(protocol="digits", split=int(sys.argv[2]) % 2), cache=folder / "cache").digest)
"""


def test_four_first_trials_at_the_same_moment_decode_once(tmp_path: Path) -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(tmp_path), str(i)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for i in range(4)
    ]
    while len(list(tmp_path.glob("ready*"))) < 4:
        assert all(child.poll() is None for child in children)
    (tmp_path / "go").touch()
    said = [child.communicate(timeout=60)[0] for child in children]
    assert [child.returncode for child in children] == [0] * 4
    assert "".join(said).count("Decoding") == 1
    digests = [text.split()[-1] for text in said]
    assert digests[0] == digests[2] != digests[1] == digests[3]


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be kept in .*--home or ABLATE_HOME"):
        open_data(DataSpec(protocol="digits"), cache=tmp_path / "file" / "data")


def test_check_writes_nothing(tmp_path: Path) -> None:
    check(DataSpec(protocol="digits"), cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_protocols_and_specs_need_neither_torch_nor_pyarrow() -> None:
    heavy = "{'torch', 'torchvision', 'pyarrow', 'sklearn', 'PIL', 'scipy'}"
    code = f"import sys, trainables.datasets; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# Real images


@needs_shared
@pytest.mark.parametrize("split", range(5))
def test_real_cifar10(cache: Path, split: int) -> None:
    spec = DataSpec(protocol="cifar10", split=split)
    data = open_data(spec, cache=cache, source=SHARED, download=False)
    assert [len(part.labels) for part in (data.train, data.test, data.others["unknown"])] == [30000, 6000, 4000]
    assert np.bincount(data.train.labels).tolist() == [5000] * 6
    names = SOURCES["cifar10"].classes
    assert data.classes == tuple(names[number] for number in splits.CIFAR10[split])
    if split == 0:  # the constants of the protocol are those of the whole training set, to the JPEG's loss
        mean = data.train.pixels.reshape(-1, 3).mean(0) / 255
        np.testing.assert_allclose(mean, data.mean, atol=0.03)


@needs_shared
def test_real_cifar10_is_the_hubs_first_image(cache: Path) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetFile(SHARED / "cifar10" / "test-00000-of-00001.parquet") as file:
        row = next(file.iter_batches(batch_size=1)).to_pylist()[0]
    data = open_data(DataSpec(protocol="cifar10-closed"), cache=cache, source=SHARED / "cifar10", download=False)
    expected = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB"))
    np.testing.assert_array_equal(data.test.pixels[0], expected)
    assert data.test.labels[0] == row["label"]
    assert len(data.train.labels) == 50000


@needs_shared
def test_real_cifar10_with_no_cifar100_beside_it(cache: Path) -> None:
    for call in (open_data, check):
        with pytest.raises(DataError, match="CIFAR-100 is not found under"):
            call(DataSpec(protocol="cifar+10"), cache=cache, source=SHARED, download=False)


@needs_shared
def test_real_mnist_and_omniglot(cache: Path) -> None:
    data = open_data(DataSpec(protocol="mnist"), cache=cache, source=SHARED, download=False)
    assert len(data.test.labels) + len(data.others["unknown"].labels) == 10000
    assert data.train.pixels.shape[1:] == (28, 28, 1)
    assert np.bincount(data.train.labels).tolist() == [5958, 5842, 5421, 5949, 5851, 6131]  # of 2, 4, 5, 9, 8, 3
    characters = open_source("omniglot", cache=cache, source=SHARED)["train"]
    assert characters.pixels.shape == (4840, 105, 105, 1)
    assert np.bincount(characters.labels).tolist() == [20] * 242


@pytest.mark.slow
@needs_shared
def test_real_tinyimagenet(cache: Path) -> None:
    for split in range(5):
        spec = DataSpec(protocol="tinyimagenet", split=split, side=32)
        data = open_data(spec, cache=cache, source=SHARED, download=False)
        assert np.bincount(data.train.labels).tolist() == [250] * 20  # half of each class's images are there
        assert [len(data.test.labels), len(data.others["unknown"].labels)] == [1000, 9000]
        wnids = [name.split()[0] for name in data.classes]
        assert np.argsort(np.argsort(splits.TINYIMAGENET[split])).tolist() == np.argsort(np.argsort(wnids)).tolist()


# Protocols with negatives


def test_what_was_prepared_for_other_classes_is_not_taken(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = DataSpec(protocol="digits-others", per_class=2)
    first = open_data(spec, cache=cache)
    monkeypatch.setitem(PROTOCOLS, "digits-others", dataclasses.replace(PROTOCOLS["digits-others"], known=((0, 1),)))
    assert first.classes != open_data(spec, cache=cache).classes == ("0", "1")


def test_negatives_are_trained_on_unknowns_are_not_and_no_image_is_in_two_sets(cache: Path) -> None:
    data = open_data(DataSpec(protocol="digits-toy", split=2), cache=cache)
    known = splits.MNIST[2]
    negative, unknown = splits.DIGITS_NEGATIVE[2], splits.DIGITS_UNKNOWN[2]
    sets = {"train": data.train, "test": data.test, **data.others}
    classes = {name: set(images.original.tolist()) for name, images in sets.items()}
    assert classes["train"] == classes["validation"] == classes["test"] == set(known)
    assert classes["negative_train"] == classes["negative_validation"] == classes["negative"] == set(negative)
    assert classes["unknown"] == set(unknown)
    for name, images in sets.items():
        expected = [known.index(number) for number in images.original] if set(known) & classes[name] else None
        alone = -2 if name == "unknown" else -1
        assert images.labels.tolist() == (expected or [alone] * len(images.labels))
    # Every image of every class is in one set: nothing lost, nothing twice.
    assert sum(len(images.labels) for images in sets.values()) == 1797
    count = len(data.train.labels), len(data.others["validation"].labels)
    assert count[0] == round(0.8 * sum(count))


@needs_shared
def test_omniglot_beside_mnist_is_bright_on_black_and_of_its_size(cache: Path) -> None:
    data = open_data(DataSpec(protocol="mnist-omniglot"), cache=cache, source=SHARED)
    assert len(data.train.labels) == 48_000
    assert len(data.others["validation"].labels) == 12_000
    for name in ("negative", "negative_train", "unknown"):
        assert data.others[name].pixels.shape[1:] == (28, 28, 1)
        assert 5 < data.others[name].pixels.mean() < 60
    assert not set(data.others["negative"].original.tolist()) & set(data.others["unknown"].original.tolist())


def test_folders_of_images_become_middle_squares_of_the_wanted_classes(cache: Path, tmp_path: Path) -> None:
    """ImageNet's folders in small: P2's classes, pictures of any shape; unknown classes need no training images."""
    protocol = PROTOCOLS["imagenet-p2"]
    trained = [*protocol.known[0], *protocol.negative[0]]
    for part, count, names in (("train", 5, trained), ("val", 1, [*trained, *protocol.unknown[0]])):
        for place, name in enumerate(names):
            folder = tmp_path / "imagenet" / part / name
            folder.mkdir(parents=True)
            for number in range(count * (1 + place % 2) if part == "train" else count):
                canvas = np.zeros((20, 40, 3), dtype=np.uint8)
                canvas[:, 10:30] = place + number
                Image.fromarray(canvas).save(folder / f"{number}.png")
    data = open_data(DataSpec(protocol="imagenet-p2", side=16), cache=tmp_path / "cache", source=tmp_path)
    assert data.classes == protocol.known[0]
    sets = {"train": data.train, "test": data.test, **data.others}
    for classes, kept, held in ((30, "train", "validation"), (31, "negative_train", "negative_validation")):
        for name, least in ((kept, 4), (held, 1)):
            _, counts = np.unique(sets[name].original, return_counts=True)
            assert counts.tolist() == [least * (1 + place % 2) for place in range(classes)], "a fifth of every class"
    assert {name: len(data.others[name].labels) for name in ("unknown", "negative")} == {"unknown": 55, "negative": 31}
    assert data.test.labels.tolist() == list(range(30))
    # The middle square of 20 x 40 is the painted one, and paint tells the class.
    assert [int(image[8, 8, 0]) for image in data.test.pixels] == list(range(30))
    assert int(data.test.pixels[7].min()) == int(data.test.pixels[7].max()) == 7


# Parts of a data set alone


def test_digits_are_shared_out_between_the_known_and_the_others(cache: Path) -> None:
    for split in range(5):
        known, others = (
            open_data(DataSpec(protocol=name, split=split), cache=cache) for name in ("digits-known", "digits-others")
        )
        assert known.classes + others.classes != tuple("0123456789")
        assert sorted(known.classes + others.classes) == list("0123456789")
        assert [len(known.classes), len(others.classes)] == [6, 4]
        for data in (known, others):
            assert not data.others
            names = [data.classes[label] for label in data.train.labels]
            assert names == [str(number) for number in data.train.original]
        whole = open_data(DataSpec(protocol="digits", split=split), cache=cache)
        np.testing.assert_array_equal(known.train.pixels, whole.train.pixels)
        np.testing.assert_array_equal(known.test.pixels, whole.test.pixels)


@needs_shared
def test_half_of_tinyimagenet_in_real_images(cache: Path) -> None:
    spec = DataSpec(protocol="tinyimagenet100-closed", per_class=1, test_per_class=1)
    data = open_data(spec, cache=cache, source=SHARED)
    assert len(data.classes) == 100
    assert list(data.classes) == sorted(data.classes)
    assert data.classes[0].startswith("n01443537")
    assert sorted(data.train.labels.tolist()) == list(range(100))
    assert not data.others
