"""When blocks overlap, and by how much."""

import dataclasses

import pytest

from analysis.contrasts import compare
from analysis.effects import nadeau_bengio
from analysis.resampling import overlap
from search_spaces.study import Block, Scale, Study
from tests.analysis import frames


def _study(*blocks: Block, **data: int) -> Study:
    return dataclasses.replace(frames.small_study(), scales=(Scale(name="smoke", blocks=blocks, data=data),))


def _splits(dataset: str) -> list[Block]:
    return [Block(dataset=dataset, split=split) for split in range(5)]


@pytest.mark.parametrize(
    ("dataset", "data", "ratio"),
    [
        ("digits", {}, 1.0),
        ("digits-closed", {}, 1.0),
        ("cifar+10", {}, None),
        ("cifar10", {}, 0.2),
        ("cifar10", {"per_class": 300, "test_per_class": 200}, 2 / 3),
        ("cifar10", {"per_class": 300}, None),
        ("unheard", {}, None),
    ],
)
def test_ratio_of_splits_of_one_data_set(dataset: str, data: dict[str, int], ratio: float | None) -> None:
    frame = frames.sound(_study(*_splits(dataset), **data))
    assert overlap(frame, list(frame.trials["block"])) == pytest.approx(ratio)


def test_seeds_and_several_data_sets_do_not_overlap() -> None:
    seeds = frames.sound(frames.small_study())
    assert overlap(seeds, list(seeds.trials["block"])) is None
    mixed = frames.sound(_study(*_splits("digits"), *_splits("mnist")))
    assert overlap(mixed, list(mixed.trials["block"])) is None
    assert overlap(mixed, [block.name for block in _splits("mnist")]) == pytest.approx(1 / 6)


def test_a_comparison_over_splits_shows_the_wider_interval_and_says_why() -> None:
    study = _study(*_splits("digits"))
    found = compare(frames.sound(study), study)
    result = found.contrasts[0]
    expected, p = nadeau_bengio(result.differences, 1.0)
    assert result.intervals["nadeau-bengio"] == expected
    assert result.other_p["nadeau-bengio"] == p
    assert expected.low < result.interval.low
    assert "5 splits of digits, which share images" in found.warnings[0]


def test_an_interval_that_cannot_be_computed_is_not_pointed_at() -> None:
    study = _study(*_splits("cifar+10"))
    found = compare(frames.sound(study), study)
    assert "nadeau-bengio" not in found.contrasts[0].intervals
    assert "Nadeau-Bengio" not in "".join(found.warnings)
    assert "they are too narrow; by how much is not known" in found.warnings[0]
