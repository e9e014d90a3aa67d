"""Protocols: which classes are known, negative and unknown, against the published tables and their rules."""

import hashlib
import json
import math
from pathlib import Path

import pytest

from trainables import imagenet_classes, splits
from trainables.config import ConfigError
from trainables.data_protocols import PROTOCOLS, DataSpec, Protocol, channels, class_split
from trainables.imageformats import DataError
from trainables.sources import SOURCES, class_names, find

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(
    not (SHARED / "tiny-imagenet").is_dir(), reason="needs the real images in ../shared/data beside the repository"
)
OPEN_SET = [name for name, protocol in PROTOCOLS.items() if protocol.open_set and protocol.negative is None]
WITH_NEGATIVES = [name for name, protocol in PROTOCOLS.items() if protocol.negative is not None]


def test_openness_is_the_protocols() -> None:
    """1 - sqrt(known / all classes), the paper's definition, and Scheirer's, from the specification's table."""
    expected = {
        "digits": (6, 10, 0.2254, 0.1340),
        "mnist": (6, 10, 0.2254, 0.1340),
        "svhn": (6, 10, 0.2254, 0.1340),
        "cifar10": (6, 10, 0.2254, 0.1340),
        "cifar+10": (4, 14, 0.4655, 0.3333),
        "cifar+50": (4, 54, 0.7278, 0.6286),
        "tinyimagenet": (20, 200, 0.6838, 0.5736),
    }
    assert set(expected) == set(OPEN_SET)
    for name, (known_count, count, paper, scheirer) in expected.items():
        for split in range(5):
            known, unknown = class_split(DataSpec(protocol=name, split=split))
            assert len(set(known)) == len(known) == known_count
            assert len(set(unknown)) == len(unknown) == count - known_count
            assert 1 - math.sqrt(len(known) / count) == pytest.approx(paper, abs=5e-5)
            assert 1 - math.sqrt(2 * len(known) / (len(known) + count)) == pytest.approx(scheirer, abs=5e-5)


def test_unknown_classes_are_the_others_or_those_listed() -> None:
    assert class_split(DataSpec(protocol="mnist")) == ((2, 4, 5, 9, 8, 3), (0, 1, 6, 7))
    assert class_split(DataSpec(protocol="cifar10", split=4)) == ((2, 4, 1, 7, 9, 6), (0, 3, 5, 8))
    assert class_split(DataSpec(protocol="cifar+10", split=3)) == (
        (6, 4, 9, 1),
        (95, 60, 30, 73, 46, 49, 68, 99, 8, 71),
    )
    for name in ("mnist", "svhn", "cifar10", "tinyimagenet"):
        for split in range(5):
            known, unknown = class_split(DataSpec(protocol=name, split=split))
            assert sorted(known + unknown) == list(range(SOURCES[name].expected or 0))


def test_tables_are_those_of_the_published_splits() -> None:
    """SHA-256 of the JSON of the seven tables, made from sgvaze/osr_closed_set_all_you_need @c977dad, osr_splits.py."""
    tables = [
        splits.MNIST,
        splits.SVHN,
        splits.CIFAR10,
        splits.CIFAR_PLUS,
        splits.CIFAR_PLUS_10_UNKNOWN,
        splits.CIFAR_PLUS_50_UNKNOWN,
        splits.TINYIMAGENET,
    ]
    published = "b4f4dafb21dbb5c867e3ae3e7924a21b47eaa6ed6ab7f6e88d849ffdeda91ad4"
    assert hashlib.sha256(json.dumps(tables).encode()).hexdigest() == published
    for ten, fifty in zip(splits.CIFAR_PLUS_10_UNKNOWN, splits.CIFAR_PLUS_50_UNKNOWN, strict=True):
        assert set(ten) < set(fifty)


def test_further_digits_splits_are_drawn_once_and_for_all() -> None:
    drawn = [class_split(DataSpec(protocol="digits", split=split))[0] for split in range(5, 40)]
    assert drawn == [class_split(DataSpec(protocol="digits", split=split))[0] for split in range(5, 40)]
    assert all(len(set(known)) == 6 and set(known) < set(range(10)) for known in drawn)
    assert len({frozenset(known) for known in drawn}) > 20
    assert [class_split(DataSpec(protocol="digits", split=i))[0] for i in range(5)] == list(splits.MNIST)


@pytest.mark.parametrize(
    ("field", "value"), [("split", -1), ("side", 2), ("per_class", 0), ("test_per_class", 0), ("side", "16")]
)
def test_specs_out_of_range_are_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        DataSpec(**{"protocol": "digits", field: value})


@pytest.mark.parametrize("name", WITH_NEGATIVES)
def test_a_class_has_one_role_and_the_counts_are_the_specifications(name: str) -> None:
    counts = {
        "digits-toy": (6, 2, 2),
        "toy": (10, 11, 11),
        "toy-mnist": (10, 11, 11),
        "tinyimagenet-p2": (6, 7, 13),
        "tinyimagenet-p3": (20, 11, 31),
        "imagenet-p1": (116, 67, 166),
        "imagenet-p2": (30, 31, 55),
        "imagenet-p3": (151, 97, 164),
    }
    protocol = PROTOCOLS[name]
    for roles in zip(protocol.known, protocol.negative, protocol.unknown, strict=True):
        if name in counts:
            assert tuple(map(len, roles)) == counts[name]
        assert not set(roles[1]) & set(roles[2])
        if protocol.unknown_source is None:
            assert not set(roles[0]) & (set(roles[1]) | set(roles[2]))


def test_tinyimagenets_p3_follows_the_rule_over_its_superclasses() -> None:
    superclasses = {
        "dog": range(24, 30),
        "bird": (11, 20, 21, 22),
        "insect": (36, 37, 38, 39, 40, 41, 42, 43, 44, 45),
        "furniture": (97, 98, 142),
        "fish": (0,),
        "monkey": (56,),
        "car": (70, 94, 116, 153),
        "feline": (33, 34),
        "truck": (121, 133),
        "fruit": (199,),
        "boat": (108, 115),
    }
    known, negative, unknown = set(), set(), {4, 5, *range(48, 54), 183, 184, 185}  # reptiles, ungulates, vegetables
    unknown |= {60, 62, 74, 77, 85, 90, 105, 112, 119, 120, 134, 149, 150, 158, 169}  # clothing
    for members in superclasses.values():
        for j, number in enumerate(members):
            (known if j % 2 == 0 else unknown if j % 3 == 0 else negative).add(number)
    ours = (splits.TINY_P3_KNOWN, splits.TINY_P3_NEGATIVE, splits.TINY_P3_UNKNOWN)
    assert [set(table[0]) for table in ours] == [known, negative, unknown]


@needs_shared
def test_tinyimagenets_p3_has_those_of_its_classes_that_imagenets_has() -> None:
    names = class_names(find("tinyimagenet", Path("/nowhere"), SHARED))
    wanted = {*imagenet_classes.P3_KNOWN[0], *imagenet_classes.P3_NEGATIVE[0], *imagenet_classes.P3_UNKNOWN[0]}
    numbers = {number for number, name in enumerate(names) if name[:9] in wanted}
    assert numbers == {*splits.TINY_P3_KNOWN[0], *splits.TINY_P3_NEGATIVE[0], *splits.TINY_P3_UNKNOWN[0]}


def test_the_letters_are_those_of_the_thesis() -> None:
    def letters(table: splits.Table) -> str:
        return "".join(SOURCES["emnist-letters"].classes[number] for number in table[0])

    assert letters(splits.LETTERS_NEGATIVE) == "abcdefhjkmn"
    assert letters(splits.LETTERS_UNKNOWN) == "pqrstuvwxyz"


def test_classes_that_overlap_are_refused_with_their_names() -> None:
    table = ((0, 1, 2),)
    with pytest.raises(DataError, match=r"overlap: 2 of 'digits', split 0, is known and negative"):
        Protocol(source="digits", known=table, negative=((2, 3),), unknown=((4,),))
    with pytest.raises(DataError, match=r"overlap: 3, 4 of 'digits', split 0, are negative and unknown"):
        Protocol(source="digits", known=table, negative=((3, 4),), unknown=((4, 3),))
    with pytest.raises(DataError, match="must list its known and its unknown"):
        Protocol(source="digits", known=table, negative=((3, 4),))
    with pytest.raises(DataError, match=r"as many splits each: known 1, negative 2"):
        Protocol(source="digits", known=table, negative=((3,), (4,)), unknown=((5,),))


def test_half_of_tinyimagenet_is_its_first_hundred_classes() -> None:
    known, others = class_split(DataSpec(protocol="tinyimagenet100-closed"))
    assert known == tuple(range(100))
    assert set(others) == set(range(100, 200))
    assert not PROTOCOLS["tinyimagenet100-closed"].open_set


def test_channels_are_those_of_the_known_images() -> None:
    assert channels(DataSpec(protocol="digits-ood")) == 1
    assert channels(DataSpec(protocol="cifar10-ood")) == 3
