"""Blocks of GradMix's studies are different experiments, although two of the standard splits are one."""

import pytest

from search_spaces.gradmix import KNOWN, STUDIES, blocks


def test_the_standard_splits_repeat_known_classes_where_the_docstring_says() -> None:
    repeated = {
        name: [k for k, row in enumerate(table) if any(set(row) == set(before) for before in table[:k])]
        for name, table in KNOWN.items()
    }
    assert repeated == {"mnist": [], "svhn": [1], "cifar10": [1], "cifar+10": [2], "cifar+50": [2], "tinyimagenet": []}


@pytest.mark.parametrize("seeds", [1, 2, 3])
@pytest.mark.parametrize("dataset", ["digits", *KNOWN])
def test_no_two_blocks_train_on_the_same_classes_with_the_same_seed(dataset: str, seeds: int) -> None:
    table = KNOWN.get(dataset)
    runs = [(frozenset(table[b.split]) if table else b.split, b.seed) for b in blocks(dataset, 5, seeds)]
    assert len(set(runs)) == len(runs) == 5 * seeds


def test_every_scale_of_every_study_has_distinct_runs_as_blocks() -> None:
    for study in STUDIES:
        for scale in study.scales:
            listed = [b for b in scale.blocks if b.dataset in KNOWN]
            runs = {(b.dataset, frozenset(KNOWN[b.dataset][b.split]), b.seed) for b in listed}
            assert len(runs) == len(listed), (study.name, scale.name)
