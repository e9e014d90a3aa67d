"""Boxes as they are annotated: of files written here, and of digits, whose boxes can be seen in the pixels."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables import boxes
from trainables.data_protocols import PROTOCOLS, DataSpec
from trainables.datasets import VERSION, check, open_data
from trainables.imageformats import DataError
from trainables.sources import SOURCES, find, fingerprint

WNIDS = ("n01443537", "n01629819")


def picture(path: Path, width: int = 64, height: int = 64) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 100, dtype=np.uint8)).save(path, "JPEG")


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Opens a protocol of two classes with boxes, of what lies in `data`."""
    for name in ("tinyimagenet", "imagenet64"):
        monkeypatch.setitem(SOURCES, name, replace(SOURCES[name], count=2))

    def of(protocol: str, **fields: object):
        spec = DataSpec(protocol=protocol, boxes=True, **fields)
        return open_data(spec, cache=tmp_path / "cache", source=tmp_path / "data", download=False)

    return of


# Digits


@pytest.mark.parametrize("side", [None, 48])
def test_a_digits_box_is_where_it_is_brighter_than_the_noise(tmp_path, side):
    spec = DataSpec(protocol="digits-boxes", split=1, test_per_class=30, per_class=5, boxes=True)
    native = open_data(spec, cache=tmp_path)
    data = open_data(replace(spec, side=side), cache=tmp_path)
    assert data.test.boxes.shape == (300, 1, 4)
    assert data.train.boxes.shape == (50, 1, 4)
    assert np.array_equal(data.test.boxes, native.test.boxes), "resizing moves no box"
    for image, (box,) in zip(native.test.pixels[..., 0], native.test.boxes, strict=True):
        rows = [row for row in range(32) if max(image[row]) >= boxes.NOISE]
        columns = [column for column in range(32) if max(image[:, column]) >= boxes.NOISE]
        assert np.array_equal(32 * box, [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    sizes = 32 * (native.test.boxes[:, 0, 2:] - native.test.boxes[:, 0, :2])
    assert sizes.max() == 24
    assert sizes.min() >= 6
    assert len({tuple(box) for (box,) in native.test.boxes}) > 100, "they are all over the image"


def test_digits_keep_their_classes_and_are_the_same_every_time(tmp_path):
    from sklearn.datasets import load_digits

    first, again = (open_data(DataSpec(protocol="digits-boxes"), cache=tmp_path / name) for name in "ab")
    assert first.digest == again.digest
    assert first.test.boxes is None, "the spec asks for none"
    counts = np.bincount(np.concatenate([first.train.labels, first.test.labels]))
    assert np.array_equal(counts, np.bincount(load_digits().target))


# TinyImageNet


def write_tiny(folder: Path) -> None:
    for wnid in WNIDS:
        for number in range(3):
            picture(folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG")
        lines = [f"{wnid}_{number}.JPEG\t{number}\t10\t{number + 20}\t63\n" for number in (2, 0, 1)]
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("".join(lines))
    lines = [f"val_{i}.JPEG\t{wnid}\t0\t{i}\t31\t63\n" for i, wnid in enumerate(reversed(WNIDS))]
    for i in range(2):
        picture(folder / "val" / "images" / f"val_{i}.JPEG")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))


def test_tinyimagenets_boxes_belong_to_their_images(tmp_path, opened):
    write_tiny(tmp_path / "data" / "tiny-imagenet-200")
    data = opened("tinyimagenet-closed")
    assert data.test.labels.tolist() == [1, 0]
    assert (64 * data.test.boxes).tolist() == [[[0, 0, 32, 64]], [[0, 1, 32, 64]]]
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert (64 * data.train.boxes).tolist() == [[[n, 10, n + 21, 64]] for n in (0, 1, 2) * 2]


def test_tinyimagenets_training_images_may_be_without_boxes(tmp_path, opened):
    folder = tmp_path / "data" / "tiny-imagenet-200"
    write_tiny(folder)
    for wnid in WNIDS:
        (folder / "train" / wnid / f"{wnid}_boxes.txt").unlink()
    data = opened("tinyimagenet-closed")
    assert data.train.boxes is None
    assert data.test.boxes is not None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("val_0.JPEG\tn01443537\n", "1 of 2 test images have no box"),
        ("val_0.JPEG\tn01443537\t0\t0\t70\t63\n", r"val_annotations.txt, line 1.*no box of an image of 64 x 64"),
        ("val_0.JPEG\tn01443537\t9\t0\t5\t63\n", "line 1.*no box of an image"),
        ("val_0.JPEG\tn01443537\ta\t0\t5\t63\n", "line 1.*invalid literal"),
    ],
)
def test_tinyimagenets_damaged_lists_are_refused(tmp_path, opened, line, words):
    folder = tmp_path / "data" / "tiny-imagenet-200"
    write_tiny(folder)
    (folder / "val" / "val_annotations.txt").write_text(f"{line}val_1.JPEG\t{WNIDS[1]}\t0\t0\t1\t1\n")
    with pytest.raises(DataError, match=words):
        opened("tinyimagenet-closed")


# ImageNet


def write_xml(path: Path, width: int, height: int, *edges: tuple[int, int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ("xmin", "ymin", "xmax", "ymax")
    objects = "".join(
        "<object><bndbox>" + "".join(f"<{n}>{e}</{n}>" for n, e in zip(names, box, strict=True)) + "</bndbox></object>"
        for box in edges
    )
    path.write_text(f"<annotation><size><width>{width}</width><height>{height}</height></size>{objects}</annotation>")


def write_imagenet(folder: Path, annotations: Path, *, by_class: bool) -> None:
    """Wide images of 192 x 128, of which the middle 128 x 128 are kept, as 64 x 64."""
    for wnid in WNIDS:
        picture(folder / "train" / wnid / f"{wnid}_1.JPEG")
        picture(folder / "val" / wnid / f"ILSVRC2012_val_{wnid}.JPEG", 192, 128)
    inside, half, outside = (64, 32, 96, 128), (0, 0, 96, 64), (0, 0, 20, 20)
    for wnid, edges in zip(WNIDS, ((inside,), (half, outside)), strict=True):
        place = annotations / "val" / wnid if by_class else annotations / "val"
        write_xml(place / f"ILSVRC2012_val_{wnid}.xml", 192, 128, *edges)


@pytest.mark.parametrize(
    ("images", "annotations", "by_class"),
    [
        ("imagenet", "imagenet/Annotations/CLS-LOC", False),
        ("imagenet", "imagenet/bbox", True),
        ("ILSVRC2012", "ILSVRC2012/Annotations", False),
    ],
)
def test_imagenets_boxes_are_cut_with_their_images(tmp_path, opened, images, annotations, by_class):
    write_imagenet(tmp_path / "data" / images, tmp_path / "data" / annotations, by_class=by_class)
    data = opened("imagenet64-closed", side=32)
    assert data.train.boxes is None
    assert data.test.boxes.shape == (2, 2, 4)
    # The kept square is 32..160 of 192 columns: 64 is a quarter into it.
    assert np.allclose(data.test.boxes[0, 0], [0.25, 0.25, 0.5, 1])
    assert np.isnan(data.test.boxes[0, 1]).all()
    assert np.allclose(data.test.boxes[1], [[0, 0, 0.5, 0.5], [0, 0, 0, 20 / 128]])


def test_imagenets_files_as_the_archive_has_them(tmp_path):
    part = tmp_path / "ILSVRC" / "Data" / "CLS-LOC" / "val"
    picture(part / WNIDS[0] / "a.JPEG")
    write_xml(tmp_path / "ILSVRC" / "Annotations" / "CLS-LOC" / "val" / "a.xml", 64, 64, (16, 16, 32, 64))
    source = replace(SOURCES["imagenet64"], count=1, classes=(WNIDS[0],))
    assert boxes.of_folders(source, (part,), np.array([0])) == [[(0.25, 0.25, 0.5, 1.0)]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<annotation>", "holds no boxes of an image"),
        ("<annotation><size><width>4</width></size></annotation>", "holds no boxes"),
        (None, "1 of 2 test images have no box.*Annotations/CLS-LOC/val"),
    ],
)
def test_imagenets_damaged_and_missing_files_are_refused(tmp_path, opened, text, words):
    folder = tmp_path / "data" / "imagenet"
    write_imagenet(folder, folder / "bbox", by_class=False)
    path = folder / "bbox" / "val" / f"ILSVRC2012_val_{WNIDS[1]}.xml"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(DataError, match=words):
        opened("imagenet64-closed")


def test_a_box_that_leaves_its_image_is_refused(tmp_path, opened):
    folder = tmp_path / "data" / "imagenet"
    write_imagenet(folder, folder / "bbox", by_class=False)
    write_xml(folder / "bbox" / "val" / f"ILSVRC2012_val_{WNIDS[1]}.xml", 192, 128, (0, 0, 300, 128))
    with pytest.raises(DataError, match="a box is not on the image"):
        opened("imagenet64-closed")


# Data that have none


@pytest.mark.parametrize("read", [check, open_data])
def test_data_that_have_no_boxes_are_refused_by_name(tmp_path, read):
    with pytest.raises(DataError, match=r"scikit-learn's digits has no boxes.*Data with boxes are: digits-boxes"):
        read(DataSpec(protocol="digits-closed", boxes=True), cache=tmp_path)
    assert not list(tmp_path.glob("*/*")), "before anything is decoded"


def test_parquet_files_have_no_boxes(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for part in ("train", "valid"):
        path = tmp_path / "data" / "tiny-imagenet" / f"{part}-0.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"image": [{"bytes": b"", "path": ""}], "label": [0]}), path)
    with pytest.raises(DataError, match="TinyImageNet has boxes, but not as Parquet"):
        check(DataSpec(protocol="tinyimagenet", boxes=True), cache=tmp_path, source=tmp_path / "data")


def test_a_spec_without_boxes_is_prepared_as_if_there_were_no_such_field(tmp_path):
    """The field came later."""
    open_data(DataSpec(protocol="digits", per_class=3, test_per_class=3), cache=tmp_path)
    fields = {"protocol": "digits", "split": 0, "side": None, "per_class": 3, "test_per_class": 3}
    states = {"digits": fingerprint(find("digits", tmp_path, None))}
    key = hashlib.sha256(json.dumps([VERSION, fields, states, repr(PROTOCOLS["digits"])]).encode()).hexdigest()[:12]
    assert [path.name for path in (tmp_path / "prepared").iterdir() if path.is_dir()] == [f"digits-0-{key}"]
