"""CUB-200-2011, FGVC-Aircraft and Stanford Cars: small stand-ins in the published formats, next to torchvision."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torchvision.datasets
from PIL import Image

from trainables import finegrained
from trainables.data_protocols import DataSpec
from trainables.datasets import Data, check, open_data
from trainables.imageformats import DataError
from trainables.sources import SOURCES

CLASSES = 3
SHAPES = [(30, 20), (20, 30), (24, 24)]
"""Height and width: photographs come in any shape."""


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """The data sets as if they had three classes, decoded at 16 pixels."""
    for name in ("cub200", "aircraft", "cars"):
        monkeypatch.setitem(SOURCES, name, replace(SOURCES[name], side=16, count=CLASSES))


def picture(path: Path, value: int) -> None:
    """A photograph of one shade, so that it is known again after resizing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SHAPES[value % 3][::-1], (value, value, value)).save(path, "PNG")


def write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def write_birds(root: Path) -> None:
    """Nine images, of each class the second for testing; shade 10 times the image's number."""
    folder = root / finegrained.BIRDS
    names = ["001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross"]
    paths = [f"{names[i // 3]}/bird_{i}.jpg" for i in range(9)]
    for number, path in enumerate(paths):
        picture(folder / "images" / path, 10 * number)
    write(folder / "classes.txt", [f"{i} {name}" for i, name in enumerate(names, 1)])
    write(folder / "images.txt", [f"{i} {path}" for i, path in enumerate(paths, 1)])
    write(folder / "image_class_labels.txt", [f"{i} {(i - 1) // 3 + 1}" for i in range(1, 10)])
    write(folder / "train_test_split.txt", [f"{i} {int(i % 3 != 2)}" for i in range(1, 10)])


VARIANTS = ["707-320", "A340-500", "Cessna 172"]


def write_aircraft(root: Path) -> None:
    """Training, validation and test images of each variant."""
    data = root / finegrained.AIRCRAFT / "data"
    write(data / "variants.txt", VARIANTS)
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for number in range(9):
        ident = f"{1000 + number:07}"
        picture(data / "images" / f"{ident}.jpg", 10 * number)
        lists[("train", "val", "test")[number % 3]].append(f"{ident} {VARIANTS[number // 3]}")
    for part, lines in (lists | {"trainval": lists["train"] + lists["val"]}).items():
        write(data / f"images_variant_{part}.txt", lines)


def write_cars(root: Path) -> None:
    folder = root / finegrained.CARS
    (folder / "devkit").mkdir(parents=True)
    kinds = [("bbox_x1", "O"), ("class", "O"), ("fname", "O")]

    def annotations(part: str, numbers: list[int]) -> np.ndarray:
        rows = np.zeros((1, len(numbers)), dtype=kinds)
        for place, number in enumerate(numbers):
            picture(folder / f"cars_{part}" / f"{number:05}.jpg", 10 * number)
            rows[0, place] = (3, number // 3 + 1, f"{number:05}.jpg")
        return rows

    names = np.array(["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "smart fortwo 2012"], dtype=object)
    scipy.io.savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})
    train, test = [0, 2, 3, 5, 6, 8], [1, 4, 7]
    scipy.io.savemat(folder / "devkit" / "cars_train_annos.mat", {"annotations": annotations("train", train)})
    scipy.io.savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": annotations("test", test)})


WRITERS = {"cub200": write_birds, "aircraft": write_aircraft, "cars": write_cars}
every_set = pytest.mark.parametrize("name", WRITERS)


def opened(name: str, root: Path, **fields: int) -> Data:
    spec = DataSpec(protocol=f"{name}-closed", **fields)
    return open_data(spec, cache=root / "cache", source=root / "data", download=False)


def shades(data: Data) -> dict[str, list[tuple[int, str]]]:
    """Part -> shade and class name of each image."""
    return {
        part: [(int(image[8, 8, 0]), data.classes[label]) for image, label in zip(of.pixels, of.labels, strict=True)]
        for part, of in (("train", data.train), ("test", data.test))
    }


@every_set
@pytest.mark.parametrize("below", ["", "own"])
def test_images_are_squares_with_the_classes_of_the_lists(tmp_path, name, below):
    WRITERS[name](tmp_path / "data" / (SOURCES[name].folders[0] if below else ""))
    data = opened(name, tmp_path)
    assert data.train.pixels.shape == (6, 16, 16, 3)
    assert data.test.pixels.shape == (3, 16, 16, 3)
    assert np.ptp(data.train.pixels, axis=(1, 2, 3)).max() == 0
    found = shades(data)
    assert sorted(shade for part in found.values() for shade, _ in part) == list(range(0, 90, 10))
    assert all(kind == data.classes[shade // 30] for part in found.values() for shade, kind in part)
    assert opened(name, tmp_path, side=8, per_class=1).train.pixels.shape == (3, 8, 8, 3)


def test_birds_are_parted_by_their_own_split(tmp_path):
    write_birds(tmp_path / "data")
    data = opened("cub200", tmp_path)
    assert data.classes[1] == "002.Laysan_Albatross"
    assert [shade for shade, _ in shades(data)["test"]] == [10, 40, 70]


def test_aircraft_are_torchvisions(tmp_path):
    write_aircraft(tmp_path / "data")
    data = opened("aircraft", tmp_path)
    for split, part in (("trainval", "train"), ("test", "test")):
        theirs = torchvision.datasets.FGVCAircraft(tmp_path / "data", split=split, annotation_level="variant")
        assert theirs.classes == list(data.classes) == VARIANTS
        wanted = [(np.asarray(image)[0, 0, 0], theirs.classes[label]) for image, label in theirs]
        assert shades(data)[part] == wanted


def test_cars_are_torchvisions(tmp_path):
    write_cars(tmp_path / "data")
    data = opened("cars", tmp_path)
    for part in ("train", "test"):
        theirs = torchvision.datasets.StanfordCars(tmp_path / "data", split=part)
        assert theirs.classes == list(data.classes)
        assert shades(data)[part] == [(np.asarray(image)[0, 0, 0], theirs.classes[label]) for image, label in theirs]


@every_set
def test_parquet_with_numbers_alone_will_do(tmp_path, name):
    from tests.trainables.test_sources import encoded, write_parquet

    pixels = [np.full((*shape, 3), 10 * i, dtype=np.uint8) for i, shape in enumerate(SHAPES)]
    for part in ("train", "test"):
        path = tmp_path / "data" / SOURCES[name].folders[0] / f"{part}-00000-of-00001.parquet"
        write_parquet(path, [encoded(each) for each in pixels], [2, 0, 1], ["b", "a", "c"])
    data = opened(name, tmp_path)
    assert data.classes == ("b", "a", "c")
    assert data.train.labels.tolist() == [2, 0, 1]


# What is refused, before anything is trained


def refused(name, tmp_path, words):
    with pytest.raises(DataError, match=words):
        opened(name, tmp_path)


@every_set
def test_a_set_that_is_not_there_says_where_it_goes(tmp_path, name):
    (tmp_path / "data" / "other").mkdir(parents=True)
    refused(name, tmp_path, rf"{SOURCES[name].title} is not found under .*DIR/{SOURCES[name].folders[0]}/")


@every_set
def test_an_image_that_is_listed_and_missing_is_named(tmp_path, name):
    WRITERS[name](tmp_path / "data")
    gone = sorted((tmp_path / "data").rglob("*.jpg"))[0]
    gone.unlink()
    refused(name, tmp_path, rf"{gone.name} cannot be read.*Unpack the archive again")


@every_set
def test_another_number_of_classes_is_seen_before_decoding(tmp_path, name, monkeypatch):
    WRITERS[name](tmp_path / "data")
    monkeypatch.setitem(SOURCES, name, replace(SOURCES[name], count=200))
    spec = DataSpec(protocol=f"{name}-closed")
    with pytest.raises(DataError, match="the list of classes has 3, and there are 200"):
        check(spec, cache=tmp_path / "cache", source=tmp_path / "data", download=False)


def test_lists_of_different_images_are_refused(tmp_path):
    write_birds(tmp_path / "data")
    path = tmp_path / "data" / finegrained.BIRDS / "image_class_labels.txt"
    write(path, path.read_text().splitlines()[:-1])
    refused("cub200", tmp_path, "do not list the same images")


@pytest.mark.parametrize(
    ("line", "words"), [("9 three", "'three' is no class number"), ("9 0", "class number -1"), ("9", "has one word")]
)
def test_classes_that_are_none_are_refused(tmp_path, line, words):
    write_birds(tmp_path / "data")
    path = tmp_path / "data" / finegrained.BIRDS / "image_class_labels.txt"
    write(path, [*path.read_text().splitlines()[:-1], line])
    refused("cub200", tmp_path, words)


def test_a_variant_that_is_not_listed_is_named(tmp_path):
    write_aircraft(tmp_path / "data")
    path = tmp_path / "data" / finegrained.AIRCRAFT / "data" / "images_variant_test.txt"
    path.write_text(path.read_text().replace("707-320", "747-400"))
    refused("aircraft", tmp_path, "the variant '747-400' of '0001002' is not in variants.txt")


def test_test_cars_without_labels_name_the_file_with_them(tmp_path):
    write_cars(tmp_path / "data")
    rows = np.zeros((1, 1), dtype=[("bbox_x1", "O"), ("fname", "O")])
    rows[0, 0] = (1, "00001.jpg")
    path = tmp_path / "data" / finegrained.CARS / "cars_test_annos_withlabels.mat"
    scipy.io.savemat(path, {"annotations": rows})
    refused("cars", tmp_path, "does not give a class to every image.*cars_test_annos_withlabels.mat")
    path.write_bytes(b"MATLAB 5.0")
    refused("cars", tmp_path, "is no whole file of MATLAB")
