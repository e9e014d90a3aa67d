"""CIFAR-10-C, CIFAR-100-C and Tiny-ImageNet-C: small stand-ins in the published formats, tested through `stress`."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.trainables.test_sources import encoded, pictures, write_parquet
from trainables import classifiers, corrupted_files, rmix, stress
from trainables.augment import normalise, to_float
from trainables.config import ConfigError
from trainables.corruption_settings import CORRUPTIONS, EXTRA
from trainables.data_protocols import DataSpec
from trainables.datasets import Data, check, open_data
from trainables.imageformats import DataError
from trainables.protocol import Needed
from trainables.sources import SOURCES

NEEDED = Needed("rmix", rmix.Config())
PER_CLASS = 2


def kept_with(root: Path, protocol: str, **fields: int) -> Data:
    spec = DataSpec(protocol=protocol, **fields)
    return open_data(spec, cache=root / "cache", source=root / "data", download=False)


def write_cifar(root: Path, name: str = "cifar10") -> tuple[np.ndarray, np.ndarray]:
    """Clean images of both parts as Parquet, and corrupted ones: pixels of a corruption and severity are the clean ones
    with (number of the corruption) * 5 + severity added."""
    classes = SOURCES[name].classes
    labels = np.arange(len(classes) * PER_CLASS) % len(classes)
    pixels = pictures(len(labels)) // 2
    for part in ("train", "test"):
        path = root / "data" / name / f"{part}.parquet"
        write_parquet(path, [encoded(each) for each in pixels], labels.tolist(), classes)
    folder = root / "data" / SOURCES[f"{name}-c"].title
    folder.mkdir(parents=True)
    np.save(folder / "labels.npy", np.tile(labels, 5).astype(np.uint8))
    for place, kind in enumerate((*CORRUPTIONS, *EXTRA)):
        np.save(folder / f"{kind}.npy", np.concatenate([pixels + np.uint8(5 * place + s) for s in range(1, 6)]))
    return pixels, labels


WNIDS = [f"n{number:08}" for number in (7, 12, 30)]


@pytest.fixture
def three_classes(monkeypatch):
    """Tiny-ImageNet as if it had three classes of 16 pixels, and two corruptions."""
    monkeypatch.setitem(SOURCES, "tinyimagenet", replace(SOURCES["tinyimagenet"], side=16, count=3))
    names = CORRUPTIONS[:2]
    small = replace(
        SOURCES["tinyimagenet-c"],
        side=16,
        count=3,
        parts=dict.fromkeys(names, ()),
        layout=corrupted_files.folders_layout(names),
    )
    monkeypatch.setitem(SOURCES, "tinyimagenet-c", small)


def write_tiny(root: Path) -> None:
    """Clean images as the archive unpacks, and corrupted ones: shade 100 + 10 * corruption + severity."""
    own, folder = root / "data" / "tiny-imagenet-200", root / "data" / "Tiny-ImageNet-C"
    lines = []
    for number in range(6):
        wnid = WNIDS[number % 3]
        shade(own / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", 20)
        shade(own / "val" / "images" / f"val_{number}.JPEG", number)
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t0\t9\t9")
        for place, kind in enumerate(CORRUPTIONS[:2]):
            for severity in range(1, 6):
                shade(folder / kind / str(severity) / wnid / f"val_{number}.JPEG", 100 + 10 * place + severity)
    (own / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")


def shade(path: Path, value: int, side: int = 16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (value, value, value)).save(path, "PNG")


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_each_corruption_of_cifar_is_a_set_severity_after_severity(tmp_path, name):
    pixels, labels = write_cifar(tmp_path, name)
    data = kept_with(tmp_path, f"{name}-c")
    np.testing.assert_array_equal(data.test.pixels, pixels)
    assert set(data.others) == {f"corrupted_{kind}" for kind in (*CORRUPTIONS, *EXTRA)}
    for place, kind in enumerate((*CORRUPTIONS, *EXTRA)):
        found = data.others[f"corrupted_{kind}"]
        np.testing.assert_array_equal(found.labels, np.tile(labels, 5))
        for severity in range(1, 6):
            rows = slice((severity - 1) * len(labels), severity * len(labels))
            np.testing.assert_array_equal(found.pixels[rows], pixels + np.uint8(5 * place + severity))


def test_fewer_images_are_the_same_ones_clean_and_corrupted(tmp_path):
    write_cifar(tmp_path)
    data = kept_with(tmp_path, "cifar10-c", test_per_class=1)
    fog = data.others["corrupted_fog"].pixels.reshape(5, 10, 32, 32, 3)
    assert data.test.pixels.shape == (10, 32, 32, 3)
    for severity in range(1, 6):
        added = np.uint8(5 * CORRUPTIONS.index("fog") + severity)
        np.testing.assert_array_equal(fog[severity - 1], data.test.pixels + added)
    assert kept_with(tmp_path, "cifar10-c", side=16).others["corrupted_fog"].pixels.shape == (100, 16, 16, 3)


def test_tinyimagenets_folders_are_read_by_severity_and_class(tmp_path, three_classes):
    write_tiny(tmp_path)
    data = kept_with(tmp_path, "tinyimagenet-c")
    assert set(data.others) == {"corrupted_gaussian_noise", "corrupted_shot_noise"}
    assert data.classes == tuple(WNIDS)
    for place, kind in enumerate(CORRUPTIONS[:2]):
        found = data.others[f"corrupted_{kind}"]
        assert found.labels.reshape(5, 6).tolist() == [[0, 0, 1, 1, 2, 2]] * 5
        shades = found.pixels[:, 3, 3, 0].reshape(5, 6)
        assert shades.tolist() == [[100 + 10 * place + severity] * 6 for severity in range(1, 6)]


@torch.no_grad()
def test_drops_on_published_files_are_those_counted_by_hand(tmp_path):
    pixels, labels = write_cifar(tmp_path)
    data = kept_with(tmp_path, "cifar10-c")
    network = classifiers.classifier("wrn10_2", 8, 3, 10, torch.Generator().manual_seed(3)).eval()
    clean = network(normalise(to_float(torch.from_numpy(pixels)), data.mean, data.std))
    network.linear.bias.sub_(clean.mean(0))  # so that no one class is always the first
    network.linear.weight.div_(clean.std(0)[:, None])
    network.linear.bias.div_(clean.std(0))
    state = {"network": dict(network.description), "weights": network.state_dict()}
    config = stress.Config(network=NEEDED, tests=("published", "published_extra"))
    (epoch,) = stress.train(config, data, seed=0, device="cpu", network=state)

    def right(images):
        x = normalise(to_float(torch.from_numpy(images)), data.mean, data.std)
        return float(np.mean(network(x).argmax(1).numpy() == labels))

    found = epoch.metrics
    wanted = {
        f"accuracy_{kind}_{severity}": right(pixels + np.uint8(5 * place + severity))
        for place, kind in enumerate((*CORRUPTIONS, *EXTRA))
        for severity in range(1, 6)
    }
    assert {name: found[name] for name in wanted} == wanted
    assert found["accuracy"] == right(pixels)
    assert len(set(wanted.values())) > 1
    rows = np.array(list(wanted.values())).reshape(19, 5)
    assert found["drop"] == pytest.approx(right(pixels) - rows[:15].mean())
    assert found["drop_3"] == pytest.approx(right(pixels) - rows[:15, 2].mean())
    assert found["drop_snow"] == pytest.approx(right(pixels) - rows[CORRUPTIONS.index("snow")].mean())
    assert found["accuracy_corrupted_19"] == pytest.approx(rows.mean())
    assert epoch.exhibits()["corrupted_snow"].tolist() == rows[CORRUPTIONS.index("snow")].tolist()


def test_they_are_measured_by_the_names_of_those_made_here():
    for tests in (("published", "corruptions"), ("extra", "published_extra")):
        with pytest.raises(ConfigError, match="both are measured by the same names"):
            stress.Config(network=NEEDED, tests=tests)
    stress.Config(network=NEEDED, tests=("published", "extra"))


# What is refused, before anything is trained


def refused(root, words, protocol="cifar10-c"):
    with pytest.raises(DataError, match=words):
        kept_with(root, protocol)


@pytest.mark.parametrize(
    ("protocol", "words"), [("cifar10-c", "CIFAR-10-C is not found.*labels.npy"), ("cifar100-c", "CIFAR-100")]
)
def test_files_that_are_not_there_are_asked_for_by_name(tmp_path, protocol, words):
    write_cifar(tmp_path)
    for path in (tmp_path / "data" / "CIFAR-10-C").iterdir():
        path.unlink()
    refused(tmp_path, words, protocol)
    with pytest.raises(DataError, match=words):
        check(DataSpec(protocol=protocol), cache=tmp_path / "cache", source=tmp_path / "data", download=False)


def test_a_corruption_that_is_missing_is_named(tmp_path):
    write_cifar(tmp_path)
    (tmp_path / "data" / "CIFAR-10-C" / "fog.npy").unlink()
    refused(tmp_path, r"CIFAR-10-C is not whole: fog.npy is missing\. Unpack it again")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((100, 32, 32), np.uint8), r"fog.npy holds uint8 \(100, 32, 32\). Needed is uint8 \(5 N, 32, 32, 3\)"),
        (np.zeros((100, 32, 32, 3), np.float32), "fog.npy holds float32"),
        (np.zeros((100, 64, 64, 3), np.uint8), r"fog.npy holds uint8 \(100, 64, 64, 3\)"),
        (np.zeros((99, 32, 32, 3), np.uint8), r"fog.npy holds uint8 \(99, 32, 32, 3\)"),
        (np.zeros((50, 32, 32, 3), np.uint8), r"labels.npy holds \(100,\), and fog.npy 50 images"),
        (np.array([{}]), "fog.npy is no whole NumPy array"),
    ],
)
def test_an_array_of_another_kind_is_refused(tmp_path, array, words):
    write_cifar(tmp_path)
    np.save(tmp_path / "data" / "CIFAR-10-C" / "fog.npy", array, allow_pickle=True)
    refused(tmp_path, words)


def test_labels_that_change_with_the_severity_are_refused(tmp_path):
    write_cifar(tmp_path)
    path = tmp_path / "data" / "CIFAR-10-C" / "labels.npy"
    np.save(path, np.roll(np.load(path), 3) * (np.arange(100) < 50))
    refused(tmp_path, "the same at every severity")


def test_other_images_than_the_test_images_are_refused(tmp_path):
    write_cifar(tmp_path)
    folder = tmp_path / "data" / "CIFAR-10-C"
    np.save(folder / "labels.npy", np.load(folder / "labels.npy") // 2)
    refused(tmp_path, "CIFAR-10-C has 20 images at a severity, and the test images are 20, or of other classes")


def test_tinyimagenet_without_a_severity_or_with_odd_images_is_refused(tmp_path, three_classes):
    write_tiny(tmp_path)
    folder = tmp_path / "data" / "Tiny-ImageNet-C" / "shot_noise"
    image = folder / "4" / WNIDS[0] / "val_0.JPEG"
    image.rename(image.with_name("val_9.JPEG"))
    refused(tmp_path, r"4 has other images than .*1: n00000007/val_0.JPEG is in one alone", "tinyimagenet-c")
    (folder / "5").rename(folder / "6")
    refused(tmp_path, "is not whole: shot_noise/5/ is missing", "tinyimagenet-c")


def test_images_of_another_size_are_refused(tmp_path, three_classes):
    write_tiny(tmp_path)
    shade(tmp_path / "data" / "Tiny-ImageNet-C" / "shot_noise" / "2" / WNIDS[1] / "val_1.JPEG", 5, side=20)
    refused(
        tmp_path, "20x20 pixels, and Tiny-ImageNet-C's images have 16x16: .*not those of ImageNet-C", "tinyimagenet-c"
    )


def test_other_classes_are_refused(tmp_path, three_classes):
    write_tiny(tmp_path)
    for folder in (tmp_path / "data" / "Tiny-ImageNet-C").glob("*/*"):
        (folder / WNIDS[2]).rename(folder / "n00000099")
    refused(tmp_path, "has a class 'n00000099' where the test images have 'n00000030'", "tinyimagenet-c")


def test_tests_of_files_that_a_protocol_has_not_are_refused_before_anything_runs():
    config = stress.Config(network=NEEDED, tests=("published", "published_extra"))
    for protocol, words in (
        (
            "cifar10-closed",
            "no published files of gaussian_noise, .*: cifar10-c, cifar100-c, tinyimagenet-c; .*'corrup",
        ),
        ("tinyimagenet-c", "no published files of speckle_noise, .*: cifar10-c, cifar100-c; .*'extra'"),
    ):
        spec = DataSpec(protocol=protocol)
        with pytest.raises(ConfigError, match=words):
            stress.check(config, spec, {"network": spec})
    spec = DataSpec(protocol="cifar10-c")
    stress.check(config, spec, {"network": DataSpec(protocol="cifar10-closed")})


@pytest.mark.parametrize("protocol", ["cifar100-closed", "digits-closed", "cifar10"])
def test_a_network_for_other_images_is_refused_before_anything_runs(protocol):
    config = stress.Config(network=NEEDED)
    with pytest.raises(ConfigError, match=f"network is trained on '{protocol}', whose images have other"):
        stress.check(config, DataSpec(protocol="cifar10-closed"), {"network": DataSpec(protocol=protocol)})
