"""Auxiliary and out-of-distribution sets: which images they are, that none has two roles, how their files are read."""

import io
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables import outside, splits, unlabelled
from trainables.data_protocols import PROTOCOLS, DataSpec, Protocol
from trainables.datasets import check, open_data, open_source
from trainables.imageformats import DataError
from trainables.outside import Outside
from trainables.sources import SOURCES

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(
    not (SHARED / "tiny-imagenet").is_dir(), reason="needs the real images in ../shared/data beside the repository"
)


def test_the_digits_protocol_has_all_roles_and_its_images_are_the_data_sets_own(tmp_path):
    digits = open_source("digits", cache=tmp_path)["train"]
    for split in (0, 3):
        data = open_data(DataSpec(protocol="digits-ood", split=split), cache=tmp_path)
        known, hidden = set(data.classes), set(np.unique(data.others["near_digits"].original))
        seen = set(np.unique(data.others["auxiliary_digits"].original))
        assert {int(name) for name in known} | hidden | seen == set(range(10))
        assert (len(known), len(seen), len(hidden)) == (6, 2, 2)
        for name, classes in (("auxiliary_digits", seen), ("near_digits", hidden)):
            wanted = digits.pixels[np.isin(digits.labels, list(classes))]
            np.testing.assert_array_equal(data.others[name].pixels, wanted)
        assert set(data.others["auxiliary_photos"].labels) == {-1}
        assert set(data.others["far_photos"].labels) == set(data.others["far_noise"].labels) == {-2}


def test_auxiliary_images_have_a_limit_of_their_own(tmp_path):
    spec = DataSpec(protocol="digits-ood", per_class=3, test_per_class=2, auxiliary=50)
    data = open_data(spec, cache=tmp_path)
    assert len(data.train.labels) == 18
    assert {name: len(images.labels) for name, images in data.others.items()} == {
        "auxiliary_digits": 50,
        "auxiliary_photos": 50,
        "near_digits": 4,
        "far_photos": 2,
        "far_noise": 8,
    }
    again = open_data(replace(spec, auxiliary=None), cache=tmp_path)
    assert len(again.others["auxiliary_photos"].labels) > 2000


def test_all_classes_but_some_are_the_others(tmp_path, monkeypatch):
    aside = Outside(source="digits", besides=((2, 5),))
    monkeypatch.setitem(PROTOCOLS, "two", Protocol(source="digits", known=((2, 5),), outside={"auxiliary": aside}))
    data = open_data(DataSpec(protocol="two"), cache=tmp_path)
    assert set(data.others["auxiliary"].original) == {0, 1, 3, 4, 6, 7, 8, 9}
    assert set(data.train.original) == {2, 5}


def test_imagenets_ten_classes_are_read_from_folders_with_the_others_as_auxiliary_ones(tmp_path, monkeypatch):
    """A thousand folders of one small picture, whose grey level tells the class."""
    rng = np.random.default_rng(0)
    for place, folder in product(range(1000), ("train", "val")):
        target = tmp_path / "imagenet" / folder / f"n{place:08d}"
        target.mkdir(parents=True)
        image = np.full((4, 6, 3), place % 250, dtype=np.uint8)
        image[0] = rng.integers(0, 256, (6, 3))
        Image.fromarray(image).save(target / "one.png")
    for folder in ("textures", "places", "inaturalist", "sun"):
        (tmp_path / folder).mkdir()
        Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(tmp_path / folder / "one.png")
    for name in ("imagenet64", "textures-224", "places-224", "inaturalist-224", "sun-224"):
        monkeypatch.setitem(SOURCES, name, replace(SOURCES[name], side=4))
    data = open_data(DataSpec(protocol="imagenet10-64", side=4), cache=tmp_path / "cache", source=tmp_path)
    known = [342, 778, 443, 256, 601, 104, 445, 1, 269, 688]
    assert dict(zip(data.train.original.tolist(), data.train.labels.tolist(), strict=True)) == {
        number: label for label, number in enumerate(known)
    }
    assert [int(image[3, 0, 0]) for image in data.test.pixels] == [int(n) % 250 for n in data.test.original]
    auxiliary = data.others["auxiliary"]
    assert sorted(auxiliary.original.tolist()) == [number for number in range(1000) if number not in known]
    assert {name: len(each.labels) for name, each in data.others.items() if name != "auxiliary"} == {
        "far_textures": 1,
        "far_places": 1,
        "far_inaturalist": 1,
        "far_sun": 1,
    }


def test_photographs_are_cut_into_different_patches_without_sky(tmp_path):
    from sklearn.datasets import load_sample_image

    photos = open_source("photos", cache=tmp_path)["train"]
    flower = photos.pixels[photos.labels == 1]
    grey = np.asarray(Image.fromarray(load_sample_image("flower.jpg")).convert("L"))
    found = {patch.tobytes() for patch in flower}
    tiles = [grey[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] for row in range(53) for column in range(80)]
    assert found == {tile.tobytes() for tile in tiles if tile.std() >= 8}
    assert photos.pixels.std(axis=(1, 2, 3)).min() >= 8


def test_noise_is_of_four_kinds_and_always_the_same(tmp_path):
    first, again = (open_source("noise-32", cache=tmp_path / place)["train"] for place in ("a", "b"))
    np.testing.assert_array_equal(first.pixels, again.pixels)
    assert first.pixels.shape == (2000, 32, 32, 3)
    by_kind = [first.pixels[first.labels == number].astype(float) for number in range(4)]
    rough = [np.abs(np.diff(kind, axis=2)).mean() for kind in by_kind]
    assert rough[2] < rough[3] < rough[0] < rough[1]
    assert by_kind[1].std() == pytest.approx(256 / 12**0.5, rel=0.01)
    assert by_kind[0].std() == pytest.approx(0.25 * 255, rel=0.1)


# Overlaps


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ({"auxiliary": Outside(source="digits", classes=((1, 2),))}, "the known classes and auxiliary overlap: 1"),
        (
            {
                "auxiliary": Outside(source="digits", classes=((7, 8),)),
                "near_digits": Outside(source="digits", classes=((8, 9),)),
            },
            "auxiliary and near_digits overlap: 8 of 'digits', split 0",
        ),
        ({"auxiliary": Outside(source="photos"), "far_photos": Outside(source="photos")}, "overlap: all of 'photos'"),
        ({"others": Outside(source="photos")}, "'others' has no role"),
        (
            {"auxiliary": Outside(source="digits", besides=((0, 2),))},
            "the known classes and auxiliary overlap: 1 of 'digits'",
        ),
    ],
)
def test_a_class_with_two_roles_is_refused_when_a_protocol_is_declared(sets, words):
    with pytest.raises(DataError, match=words):
        Protocol(source="digits", known=((0, 1),), outside=sets)


def test_no_protocol_shares_a_class_between_what_is_trained_and_what_is_judged():
    """Written without the code that checks it: by source and class, over all splits."""
    for name, protocol in PROTOCOLS.items():
        for split in range(5 if protocol.outside else 0):
            trained, judged = set(), set()
            known = protocol.known[split % len(protocol.known)] if protocol.known else range(100)
            judged |= {(protocol.source, number) for number in known}
            for set_name, each in protocol.outside.items():
                classes = each.of(split) if each.classes else (None,)
                if each.besides:
                    classes = [number for number in range(1000) if number not in each.besides[0]]
                into = trained if set_name.startswith("auxiliary") else judged
                into |= {(each.source, number) for number in classes}
            assert not trained & judged, (name, split)


def test_tinyimagenets_classes_are_divided_and_none_is_like_cifar10s():
    near, auxiliary = set(splits.TINY_NEAR[0]), set(splits.TINY_AUXILIARY[0])
    assert (len(near), len(auxiliary)) == (44, 132)
    assert not near & auxiliary


@needs_shared
def test_the_classes_left_out_are_cats_dogs_birds_frogs_cars_boats_and_a_gazelle():
    from trainables.sources import class_names, find

    found = find("tinyimagenet", Path("/nowhere"), SHARED)
    assert found is not None
    names = class_names(found)
    kept = {names[number][10:] for number in (*splits.TINY_NEAR[0], *splits.TINY_AUXILIARY[0])}
    left_out = {name[10:] for name in names} - kept
    assert {"tabby", "Chihuahua", "king penguin", "bullfrog", "sports car", "moving van", "lifeboat"} <= left_out
    assert {"goldfish", "lion", "school bus", "tractor", "pizza"} <= kept
    assert len(left_out) == 24


def test_auxiliary_images_that_are_known_are_refused_and_a_few_evaluated_ones_are_left_out(caplog):
    rng = np.random.default_rng(0)
    one, other, third = (rng.integers(0, 256, (200, 4, 4, 1), dtype=np.uint8) for _ in range(3))
    assert not outside.shared_images({"train": one, "auxiliary": other, "far_noise": third})
    assert not outside.shared_images({"train": one, "test": one})  # no auxiliary set, nothing to check
    mixed = np.concatenate([other, one[2:4]])
    with pytest.raises(DataError, match="2 of the 202 images of 'auxiliary' are also in 'train'"):
        outside.shared_images({"train": one, "auxiliary": mixed})
    found = outside.shared_images({"train": third, "auxiliary": mixed, "near_digits": one})
    assert found["auxiliary"].tolist() == [200, 201]
    assert "2 of the 202 images of 'auxiliary' are evaluated, too: left out" in caplog.text
    with pytest.raises(DataError, match="3 of the 203 images of 'auxiliary' are also in 'near_digits'"):
        outside.shared_images({"train": third, "auxiliary": np.concatenate([mixed, one[:1]]), "near_digits": one})


def test_what_is_left_out_of_an_auxiliary_folder_is_gone_and_the_files_are_as_they_were(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (150, 32, 32, 3), dtype=np.uint8)
    (tmp_path / "data" / "auxiliary").mkdir(parents=True)
    np.save(tmp_path / "data" / "auxiliary" / "mine.npy", images[:120])
    np.save(tmp_path / "data" / "300K_random_images.npy", images[119:])
    sets = {"auxiliary": Outside(source="auxiliary"), "far_noise": Outside(source="random300k")}
    for name, side, shape in (("small", 8, (119, 8, 8, 1)), ("colour", 32, (119, 32, 32, 1))):
        monkeypatch.setitem(PROTOCOLS, name, Protocol(source="digits", outside=sets, side=side))
        data = open_data(DataSpec(protocol=name), cache=tmp_path / "cache", source=tmp_path / "data")
        assert data.others["auxiliary"].pixels.shape == shape
        assert len(data.others["auxiliary"].labels) == 119
    assert len(read("auxiliary", tmp_path / "data", tmp_path)) == 120
    few = {"auxiliary": Outside(source="random300k"), "far_noise": Outside(source="auxiliary")}
    monkeypatch.setitem(PROTOCOLS, "few", Protocol(source="digits", outside=few, side=8))
    with pytest.raises(DataError, match=r"1 of the 31 images of 'auxiliary' are also in 'far_noise'"):
        open_data(DataSpec(protocol="few"), cache=tmp_path / "cache", source=tmp_path / "data")


# Files


def picture(height, width, colour):
    return Image.fromarray(np.full((height, width, 3), colour, dtype=np.uint8))


def read(name, folder, tmp_path):
    return open_source(name, cache=tmp_path / "cache", source=folder, download=False)["train"].pixels


def test_a_folder_of_pictures_an_array_and_parquet_are_read_alike(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    folder = tmp_path / "data" / "auxiliary"
    (folder / "deeper").mkdir(parents=True)
    Image.fromarray(images[0]).save(folder / "deeper" / "a.png")
    np.save(folder / "b.npy", images[1:3])
    buffer = io.BytesIO()
    Image.fromarray(images[3]).save(buffer, format="PNG")
    pq.write_table(pa.table({"image": [{"bytes": buffer.getvalue(), "path": "x"}]}), folder / "c.parquet")
    found = read("auxiliary", tmp_path / "data", tmp_path)
    assert {image.tobytes() for image in found} == {image.tobytes() for image in images}


def test_larger_pictures_are_made_smaller_and_then_cut_or_only_cut(tmp_path):
    rows = np.zeros((64, 96, 3), dtype=np.uint8)
    rows[:, 48:] = 200
    for name in ("textures", "lsun-c"):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        Image.fromarray(rows).save(folder / "a.png")
    resized, cut = (read(name, tmp_path / "data", tmp_path)[0] for name in ("textures", "lsun-c"))
    assert resized.shape == cut.shape == (32, 32, 3)
    # Both are centred on the edge; cutting keeps it sharp, resizing blurs it.
    assert set(np.unique(cut)) == {0, 200}
    assert len(np.unique(resized)) > 2
    assert (cut[:, :16] == 0).all()
    assert (resized[:, :14] == 0).all()


def test_random_images_are_found_by_the_name_of_their_array(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "300K_random_images.npy", images)
    np.testing.assert_array_equal(read("random300k", tmp_path / "data", tmp_path), images)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 32, 32), dtype=np.uint8), r"holds uint8 \(2, 32, 32\)\. Needed are images \(N, H, W, 3\)"),
        (np.zeros((2, 32, 32, 3)), "holds float64"),
    ],
)
def test_an_array_that_holds_no_images_is_refused(tmp_path, array, words):
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "300K_random_images.npy", array)
    with pytest.raises(DataError, match=words):
        read("random300k", tmp_path / "data", tmp_path)


def test_what_is_missing_is_said_before_anything_is_decoded(tmp_path):
    (tmp_path / "data" / "textures").mkdir(parents=True)
    picture(32, 32, 9).save(tmp_path / "data" / "textures" / "a.png")
    with pytest.raises(DataError, match="CIFAR-10 is not found"):
        check(
            DataSpec(protocol="cifar10-random300k"),
            cache=tmp_path / "cache",
            source=tmp_path / "data",
            download=False,
        )
    (tmp_path / "data" / "isun").mkdir()
    with pytest.raises(DataError, match=r"iSUN is not found .* pictures, \.npy arrays"):
        open_source("isun", cache=tmp_path / "cache", source=tmp_path / "data", download=False)


def test_damaged_files_are_named(tmp_path):
    folder = tmp_path / "data" / "auxiliary"
    folder.mkdir(parents=True)
    (folder / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"a\.parquet is no Parquet file or is truncated"):
        read("auxiliary", tmp_path / "data", tmp_path)
    (folder / "a.parquet").unlink()
    (folder / "b.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"b\.npy is no whole NumPy array"):
        read("auxiliary", tmp_path / "data", tmp_path)


@pytest.mark.slow
@needs_shared
def test_cifar10_with_tinyimagenet_and_grey_sets_in_colour(tmp_path):
    spec = DataSpec(protocol="cifar10-ood", per_class=20, test_per_class=5, auxiliary=300)
    data = open_data(spec, cache=tmp_path, source=SHARED, download=False)
    shapes = {name: images.pixels.shape for name, images in data.others.items()}
    assert shapes["auxiliary"] == (300, 32, 32, 3)
    assert shapes["near_tinyimagenet"] == (220, 32, 32, 3)
    assert shapes["far_mnist"] == (50, 32, 32, 3)
    assert shapes["far_omniglot"] == (1210, 32, 32, 3)
    mnist = data.others["far_mnist"].pixels
    assert (mnist[..., 0] == mnist[..., 2]).all()
    assert set(data.others["auxiliary"].original) <= set(splits.TINY_AUXILIARY[0])
    assert set(data.others["near_tinyimagenet"].original) == set(splits.TINY_NEAR[0])


def test_every_source_of_a_protocol_exists_and_names_its_reader():
    for protocol in PROTOCOLS.values():
        for each in protocol.outside.values():
            assert each.source in SOURCES
    assert SOURCES["random300k"].read is unlabelled.read
