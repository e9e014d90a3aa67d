"""ImageNet's class lists against the rules that tie them to one another, and what was read in the authors' own."""

import itertools

import numpy as np
import pytest

from trainables import imagenet_classes as stored

ROLES = ("KNOWN", "NEGATIVE", "UNKNOWN")


def classes(protocol: str, role: str) -> list[str]:
    (ids,) = getattr(stored, f"{protocol}_{role}")
    return list(ids)


DOGS = classes("P1", "KNOWN")


@pytest.mark.parametrize(("protocol", "sizes"), [("P1", (116, 67, 166)), ("P2", (30, 31, 55)), ("P3", (151, 97, 164))])
def test_lists_are_sorted_disjoint_and_of_the_printed_sizes(protocol, sizes):
    lists = [classes(protocol, role) for role in ROLES]
    assert tuple(map(len, lists)) == sizes
    for one in lists:
        assert one == sorted(set(one))
        assert all(len(wnid) == 9 and wnid[0] == "n" and wnid[1:].isdigit() for wnid in one)
    assert not [pair for pair in itertools.combinations(map(set, lists), 2) if pair[0] & pair[1]]


def test_p3_takes_p1s_dogs_by_turns():
    by_rule = {"KNOWN": [], "NEGATIVE": [], "UNKNOWN": []}
    for j, dog in enumerate(DOGS):
        by_rule["KNOWN" if j % 2 == 0 else "UNKNOWN" if j % 3 == 0 else "NEGATIVE"].append(dog)
    for role, dogs in by_rule.items():
        assert [wnid for wnid in classes("P3", role) if wnid in DOGS] == dogs


def test_p2_halves_p1s_hunting_dogs_and_takes_toy_dogs_and_p1s_negatives_without_primates():
    known, negative, unknown = (classes("P2", role) for role in ROLES)
    hunting = known + negative
    assert hunting == [dog for dog in DOGS if hunting[0] <= dog <= hunting[-1]], "WordNet numbers them in a row"
    assert len(known) == len(hunting) // 2
    toys = [wnid for wnid in unknown if wnid in DOGS]
    assert toys == [dog for dog in DOGS if dog <= toys[-1]]
    others = [wnid for wnid in unknown if wnid not in DOGS]
    assert others == [wnid for wnid in classes("P1", "NEGATIVE") if wnid in set(others)]
    left = [wnid for wnid in classes("P1", "NEGATIVE") if wnid not in others]
    assert "n02480495" in left, "an orang-utan is a primate"
    assert not {"n02119022", "n02114367", "n02129165", "n02132136"} & set(left), "fox, wolf, lion and bear are none"


def test_what_was_read_in_the_authors_lists_stands_in_ours():
    p1, p3 = set(classes("P1", "UNKNOWN")), set(classes("P3", "UNKNOWN"))
    assert {"n03000684", "n07684084", "n07693725", "n07695742"} <= p1, "chain saw, French loaf, bagel, pretzel"
    assert not {"n03085013", "n03445924", "n04162706", "n04179913"} & p1, "keyboard, golf cart, belt, sewing machine"
    ordered = classes("P1", "UNKNOWN")
    following = ordered[ordered.index("n03394916") : ordered.index("n03476684") + 1]
    assert following == [
        *("n03394916", "n03417042", "n03425413", "n03444034"),
        *("n03447721", "n03452741", "n03467068", "n03476684"),
    ]
    ordered = classes("P3", "UNKNOWN")
    following = ordered[124:132]
    assert following == [
        *("n03710721", "n03724870", "n03763968", "n03770439"),
        *("n03775071", "n03787032", "n03832673", "n03866082"),
    ], "the 125th to 132nd classes of unknown rows in their p3_test.csv"
    assert "n04162706" in p3


def test_gregs_ten_classes_are_those_that_the_permutation_puts_first_and_have_the_names_of_their_ids():
    """The WordNet ids are the pig, scale, bib, dog, hoopskirt, wallaby, bikini, goldfish, wolf, oscilloscope."""
    from torchvision.models import ResNet18_Weights

    place = np.random.RandomState(1993).permutation(1000)
    assert [int(place[number]) for number in stored.TEN[0]] == list(range(10))
    names = [ResNet18_Weights.IMAGENET1K_V1.meta["categories"][number] for number in stored.TEN[0]]
    assert names == [
        *("wild boar", "scale", "bib", "Newfoundland", "hoopskirt"),
        *("wallaby", "bikini", "goldfish", "timber wolf", "oscilloscope"),
    ]
