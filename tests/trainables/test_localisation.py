"""Class activation maps, boxes and their overlap: against loops, hand cases, and what the published code gives."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.trainables.toys import open_set
from trainables import (
    adautomix,
    cam,
    classifiers,
    finetuned,
    gradmix,
    judged,
    localisation,
    margins,
    rmix,
    stress,
    transfer,
    twoheads,
)
from trainables.augment import normalise, to_float
from trainables.config import ConfigError
from trainables.data_protocols import DataSpec
from trainables.datasets import Data, Images, open_data
from trainables.localisation import Located, box, inside_outline, overlap
from trainables.protocol import Needed

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "mixing" / "L1_localisation.npz")
RMIX = Needed("rmix", rmix.Config())


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_like(network: torch.nn.Module) -> torch.nn.Module:
    """Scales, biases and running statistics drawn too, so that no block ends in 0."""
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.ndim == 1:
                value.copy_(0.5 + 0.5 * torch.rand(value.shape, generator=generator(1)))
    return network.eval()


# Maps


def end_of(network, weights_KD, biases_K) -> cam.Last:
    return cam.Last(network.maps, weights_KD, biases_K)


@torch.no_grad()
@pytest.mark.parametrize("name", ["preactresnet18", "wrn10_2", "resnext29_4x24", "resnet50", "densenet_bc_22_12"])
def test_the_mean_of_a_class_map_is_its_logit_without_the_bias(name):
    network = random_like(classifiers.classifier(name, 4, 3, 5, generator()))
    x_BCHW = torch.rand(3, 3, 64, 64, generator=generator(2))
    end = end_of(network, network.linear.weight, network.linear.bias)
    _check_logits(end, x_BCHW, network(x_BCHW))


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_so_it_is_with_two_heads(name):
    network = random_like(twoheads.two_heads(name, 4, 3, 5, generator(), layer=3))
    x_BCHW = torch.rand(3, 3, 32, 32, generator=generator(2))
    _check_logits(end_of(network, network.one.weight, network.one.bias), x_BCHW, network(x_BCHW).one_BK)


def _check_logits(end: cam.Last, x_BCHW: torch.Tensor, logits_BK: torch.Tensor) -> None:
    maps_BDhw = end.maps(x_BCHW)
    assert maps_BDhw.shape[2] > 1
    assert torch.allclose(cam.logits(end, maps_BDhw), logits_BK, rtol=1e-4)
    for c in range(5):
        M_Bhw = cam.class_maps(end, maps_BDhw, torch.full((3,), c))
        assert torch.allclose(M_Bhw.mean((1, 2)) + end.biases_K[c], logits_BK[:, c], rtol=1e-4)


def test_a_class_map_is_the_weighted_sum_of_the_last_feature_maps():
    A, W = torch.randn(2, 3, 4, 5, generator=generator()), torch.randn(6, 3, generator=generator(1))
    classes = torch.tensor([4, 1])
    found = cam.class_maps(cam.Last(lambda x: x, W, torch.zeros(6)), A, classes)
    for b, i, j in itertools.product(range(2), range(4), range(5)):
        wanted = sum(float(W[classes[b], d]) * float(A[b, d, i, j]) for d in range(3))
        assert float(found[b, i, j]) == pytest.approx(wanted, abs=1e-6)


def golden_end() -> cam.Last:
    return cam.Last(lambda x: x, torch.from_numpy(GOLDEN["weights"]), torch.from_numpy(GOLDEN["biases"]))


def test_maps_are_those_of_the_published_code():
    end, maps_BDhw = golden_end(), torch.from_numpy(GOLDEN["features"])
    answers_B = cam.logits(end, maps_BDhw).argmax(1)
    assert np.array_equal(answers_B, GOLDEN["answers"])
    found = cam.upscaled(cam.class_maps(end, maps_BDhw, answers_B), (28, 28), smoothing=3)
    np.testing.assert_allclose(found, GOLDEN["cams"], atol=1e-5)


def test_boxes_are_those_of_the_published_code():
    found = localisation.levels(torch.from_numpy(GOLDEN["cams"]))
    for levels_HW, boxes in zip(found, GOLDEN["boxes"], strict=True):
        assert [list(box(levels_HW, share)) for share in GOLDEN["thresholds"]] == boxes.tolist()


@pytest.mark.parametrize("side", [5, 8, 16, 24])
def test_the_largest_outline_is_opencvs_largest_contour(side):
    from scipy import ndimage

    rows = zip(*(GOLDEN[f"{name}_{side}"] for name in ("levels", "shares", "boxes", "areas")), strict=True)
    for levels_HW, share, wanted, area in rows:
        assert list(box(levels_HW, share)) == wanted.tolist()
        numbered_HW, count = ndimage.label(levels_HW > int(share * levels_HW.max()), np.ones((3, 3)))
        assert max(inside_outline(numbered_HW == number) for number in range(1, count + 1)) == area


def test_a_map_without_slope_is_nowhere_above_the_threshold():
    found = cam.upscaled(torch.full((1, 2, 2), 3.0), (8, 8))
    assert not found.any()
    assert box(localisation.levels(found)[0], 0.25) == (0, 0, 1, 1)


def test_smoothing_is_a_mean_with_zeros_around():
    M_hw = torch.rand(3, 4, generator=generator())
    found = cam.upscaled(M_hw[None], (3, 4), smoothing=3)[0]
    by_hand = torch.zeros(3, 4)
    for i, j, a, b in itertools.product(range(3), range(4), (-1, 0, 1), (-1, 0, 1)):
        if 0 <= i + a < 3 and 0 <= j + b < 4:
            by_hand[i, j] += M_hw[i + a, j + b]
    by_hand = (by_hand - by_hand.min()) / (by_hand.max() - by_hand.min())
    assert torch.allclose(found, by_hand, atol=1e-6)


# Boxes


def flooded(above_HW: np.ndarray) -> list[set[tuple[int, int]]]:
    """Connected parts with diagonal neighbours, pixel by pixel, in the order their first pixels are read."""
    left, parts = {(int(i), int(j)) for i, j in np.argwhere(above_HW)}, []
    for start in sorted(left):
        if start not in left:
            continue
        part, edge = set(), [start]
        while edge:
            i, j = edge.pop()
            if (i, j) in left:
                left.remove((i, j))
                part.add((i, j))
                edge += [(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
        parts.append(part)
    return parts


@pytest.mark.parametrize("seed", range(12))
def test_the_part_of_most_pixels_is_found_as_by_flooding(seed):
    random = np.random.default_rng(seed)
    levels_HW = random.integers(0, 256, (9, 13), dtype=np.uint8)
    share = float(random.uniform(0.5, 0.9))
    parts = flooded(levels_HW > int(share * levels_HW.max()))
    rows, columns = zip(*max(parts, key=len), strict=True)
    wanted = (min(columns), min(rows), max(columns) + 1, max(rows) + 1)
    assert box(levels_HW, share, "pixels") == wanted


def test_outlines_and_pixels_may_disagree():
    levels_HW = np.zeros((8, 12), dtype=np.uint8)
    levels_HW[0:7, 0] = levels_HW[0:7, 6] = levels_HW[0, 0:7] = levels_HW[6, 0:7] = 255  # a ring: 24 pixels
    levels_HW[0:8, 8:12] = 255  # 32 pixels
    assert box(levels_HW, 0.25, "pixels") == (8, 0, 12, 8)
    assert box(levels_HW, 0.25, "outline") == (0, 0, 7, 7)


@pytest.mark.parametrize(
    ("rows", "area"),
    [
        (["#"], 0),
        (["####"], 0),
        (["##", "##"], 1),
        (["##", "#."], 0.5),
        (["####", "####", "####"], 6),
        ([".#.", "###", ".#."], 2),
        (["#..", ".#.", "..#"], 0),
        (["####", "#..#", "#..#", "####"], 9),
        (["#.#", "###"], 1),
    ],
)
def test_an_outline_encloses_the_polygon_through_its_pixels(rows, area):
    assert inside_outline(np.array([[mark == "#" for mark in row] for row in rows])) == area


@pytest.mark.parametrize(("share", "left"), [(0.25, 1), (0.245, 0)])
def test_pixels_on_the_threshold_are_not_above_it(share, left):
    """A quarter of 255 is level 63, rounded down; 0.245 of it is level 62."""
    assert box(np.array([[63, 64, 255]], dtype=np.uint8), share) == (left, 0, 3, 1)


def covered(edges, side: int) -> set[tuple[int, int]]:
    left, top, right, bottom = edges
    return {(i, j) for i in range(side) for j in range(side) if top <= i < bottom and left <= j < right}


def test_overlap_counts_pixels_and_takes_the_best_of_the_true_boxes():
    random, side, shown = np.random.default_rng(0), 12, 0
    for _ in range(60):
        low = random.integers(0, 6, 2) + random.integers(0, 3, (4, 2))
        boxes = np.concatenate([low, low + random.integers(1, 5, (4, 2))], axis=1)
        mine, true = covered(boxes[0], side), [covered(each, side) for each in boxes[1:]]
        wanted = max(len(mine & each) / len(mine | each) for each in true)
        padded = np.full((1, 5, 4), np.nan, dtype=np.float32)
        padded[0, :3] = boxes[1:] / side
        (found,) = overlap(boxes[:1] / side, padded)
        assert found == pytest.approx(wanted, abs=1e-6)
        shown += wanted > 0.5
    assert shown > 5, "some are alike"


def test_boxes_apart_in_both_directions_have_nothing_in_common():
    """The published formula multiplies two negative sides: 0.36 common, 0.18 in all, so -2 here."""
    one, other = np.array([[0.0, 0.0, 0.2, 0.2]]), np.array([[[0.8, 0.8, 1.0, 1.0]]])
    assert overlap(one, other).tolist() == [0.0]
    nothing = np.array([[[0.1, 0.1, 0.1, 0.2]]])
    assert overlap(one, nothing).tolist() == [0.0]


# The whole


SIDE, PLACES = 24, [(3, 5), (10, 0), (12, 12), (0, 9), (9, 9), (1, 1)]
LABELS = np.array([0, 1, 0, 1, 0, 1])


def squares(true_at: list[tuple[int, int]]) -> Data:
    """Squares of 10 pixels a side, red for class 0 and green for class 1; annotated where `true_at` has them."""
    pixels = np.zeros((6, SIDE, SIDE, 3), dtype=np.uint8)
    for image, (top, left), label in zip(pixels, PLACES, LABELS, strict=True):
        image[top : top + 10, left : left + 10, label] = 255
    corners = [(left, top, left + 10, top + 10) for top, left in true_at]
    boxes = np.array(corners, dtype=np.float32)[:, None] / SIDE
    images = Images(pixels, LABELS, None, boxes)
    return Data(DataSpec(protocol="digits-boxes", boxes=True), ("red", "green"), images, images)


def test_bright_squares_are_found_where_they_are():
    """Maps that are the colours themselves; green is never answered."""
    data = squares([*PLACES[:4], (0, 0), (1, 2)])
    colours = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    end = cam.Last(lambda x_BCHW: x_BCHW, colours, torch.tensor([9.0, 0.0]))
    config = localisation.Config(network=RMIX, smoothing=1)
    found = localisation.locate(config, end, data, "cpu", np.array([0, 4]))
    assert found.right_N.tolist() == [True, False] * 3
    assert np.allclose(SIDE * found.boxes_N4[0], [5, 3, 15, 13])
    assert np.allclose(SIDE * found.boxes_N4[1], [0, 0, 1, 1]), "there is no red on a green square"
    shared = 90 / 110  # of a square that is annotated one column beside it
    assert np.allclose(found.known_N, [1, 1, 1, 1, 1 / 199, shared], atol=1e-5)
    assert np.allclose(found.answered_N, [1, 0, 1, 0, 1 / 199, 0.0], atol=1e-2)
    assert np.allclose(found.known_NT, found.known_N[:, None]), "at every threshold"
    assert np.allclose(found.whole_N, 100 / SIDE**2)
    assert found.levels_RHW.shape == (2, SIDE, SIDE)
    assert np.array_equal(found.levels_RHW[1], data.test.pixels[4, :, :, 0])
    assert localisation.measures(config, found) == pytest.approx(
        {
            "accuracy": 3 / 6,
            "localisation": 2 / 6,
            "localisation_known": 5 / 6,
            "localisation_right": 2 / 3,
            "localisation_whole": 0.0,
            "localisation_best": 5 / 6,
            "box_iou": (4 + 1 / 199 + shared) / 6,
        },
        abs=1e-5,
    )


def test_measures_of_six_images_by_hand():
    count = len(localisation.THRESHOLDS)
    known_NT = np.zeros((4, count))
    known_NT[:3, 7] = 0.5
    found = Located(
        right_N=np.array([True, True, False, False]),
        boxes_N4=np.zeros((4, 4)),
        answered_N=np.array([0.5, 0.49, 0.9, 0.1]),
        known_N=np.array([0.5, 0.49, 0.4, 0.7]),
        known_NT=known_NT,
        whole_N=np.array([0.1, 0.6, 0.8, 0.2]),
        levels_RHW=np.zeros((0, 2, 2), dtype=np.uint8),
    )
    config = localisation.Config(network=RMIX)
    assert localisation.measures(config, found) == pytest.approx(
        {
            "accuracy": 0.5,
            "localisation": 0.25,
            "localisation_known": 0.5,
            "localisation_right": 0.5,
            "localisation_whole": 0.25,
            "localisation_best": 0.75,
            "box_iou": (0.5 + 0.49 + 0.4 + 0.7) / 4,
        }
    )
    assert localisation.measures(replace(config, overlap=0.45), found)["localisation"] == 0.5
    wrong = replace(found, right_N=np.zeros(4, dtype=bool))
    assert localisation.measures(config, wrong)["localisation_right"] == 0.0


def state_of(network) -> dict[str, object]:
    return {"network": dict(network.description), "weights": network.state_dict(), "epoch": 3}


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Data:
    spec = DataSpec(protocol="digits-boxes", per_class=2, test_per_class=4, boxes=True)
    return open_data(spec, cache=tmp_path_factory.mktemp("data"))


def run(state, data, needed=RMIX, **fields):
    config = localisation.Config(network=needed, **fields)
    (epoch,) = localisation.train(config, data, seed=0, device="cpu", network=state)
    return epoch


@torch.no_grad()
def test_a_trial_judges_the_network_of_another(digits, monkeypatch):
    network = random_like(classifiers.classifier("wrn10_2", 8, 1, 10, generator()))
    whole = run(state_of(network), digits)
    monkeypatch.setattr(judged, "BATCH", 7)
    assert dict(run(state_of(network), digits).metrics) == dict(whole.metrics), "whatever the batch"
    x_BCHW = normalise(to_float(torch.from_numpy(np.array(digits.test.pixels))), digits.mean, digits.std)
    answers = network(x_BCHW).argmax(1).numpy()
    assert whole.metrics["accuracy"] == np.mean(answers == digits.test.labels)
    shown = whole.exhibits()
    rows = [0, 8, 16, 23, 31, 39]
    assert np.array_equal(shown["box_images"], digits.test.pixels[rows])
    assert np.array_equal(shown["box_true"], digits.test.boxes[rows])
    for levels_HW, edges in zip(shown["box_maps"], shown["box_found"], strict=True):
        assert np.array_equal(np.array(box(levels_HW, 0.25)) / 32, edges)
    row, maps_BDhw = rows[2], network.maps(x_BCHW)
    M_hw = F.avg_pool2d((network.linear.weight[answers[row]][:, None, None] * maps_BDhw[row]).sum(0)[None], 3, 1, 1)
    M_HW = F.interpolate(M_hw[None], size=(32, 32), mode="bicubic")[0, 0]
    wanted = 255 * (M_HW - M_HW.min()) / (M_HW.max() - M_HW.min())
    np.testing.assert_allclose(shown["box_maps"][2], wanted, atol=1.01)


@pytest.mark.parametrize("scored", ["teacher", "student"])
def test_of_student_and_teacher_the_one_is_judged_that_its_trial_names(digits, scored):
    config = adautomix.Config(width=4, scored=scored)
    trio = adautomix.trio_of(config, 1, 10, seed=0)
    with torch.no_grad():
        trio.student.one.weight.mul_(-1)
    state = {"network": dict(trio.description), "weights": trio.state_dict()}
    network = trio.student if scored == "student" else trio.teacher
    end = cam.last(Needed("adautomix", config), state, digits, "cpu")
    assert torch.equal(end.weights_KD, network.one.weight)


# What is refused


@pytest.mark.parametrize(
    ("needed", "words"),
    [
        (Needed("gradmix", gradmix.Config()), "'gradmix', whose network has no last feature maps"),
        (Needed("transfer", transfer.Config(network=RMIX)), "'transfer', whose network has no last feature maps"),
        (Needed("margins", margins.Config()), "'margins', whose network is neither"),
        (Needed("stress", stress.Config(network=RMIX)), "'stress', which trains no network"),
        (Needed("adautomix", adautomix.Config(network="convnext_t")), "'adautomix' with 'convnext_t'"),
    ],
)
def test_methods_without_classifier_or_last_maps_are_refused_by_name(needed, words):
    with pytest.raises(ConfigError, match=words):
        localisation.Config(network=needed)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"threshold": 1.0}, "threshold=1.0 .* below 1"),
        ({"overlap": 0.0}, "overlap=0.0 .* above 0"),
        ({"smoothing": 2}, "smoothing=2 .* odd"),
        ({"largest": "contour"}, "largest='contour' .* one of 'outline', 'pixels'"),
    ],
)
def test_settings_out_of_range_are_refused(fields, words):
    with pytest.raises(ConfigError, match=words):
        localisation.Config(network=RMIX, **fields)


def test_a_spec_without_boxes_is_refused_before_anything_runs():
    config = localisation.Config(network=RMIX)
    localisation.check(config, DataSpec(protocol="digits-boxes", boxes=True), {})
    with pytest.raises(ConfigError, match=r"'cifar10-closed' are opened without: say data=\{'boxes': True\}"):
        localisation.check(config, DataSpec(protocol="cifar10-closed"), {})


def test_a_network_of_other_classes_is_refused_before_anything_runs():
    known = {"network": DataSpec(protocol="digits-known")}
    with pytest.raises(ConfigError, match="'digits-known', whose images have other channels or classes"):
        localisation.check(localisation.Config(network=RMIX), DataSpec(protocol="digits-boxes", boxes=True), known)


def test_data_without_boxes_are_refused():
    network = classifiers.classifier("wrn10_2", 4, 3, 3, generator())
    with pytest.raises(ConfigError, match="'toys' are opened without"):
        run(state_of(network), open_set())
    asked = replace(open_set(), spec=DataSpec(protocol="toys", boxes=True))
    with pytest.raises(ConfigError, match="'toys' have no boxes"):
        run(state_of(network), asked)


def _other_weights() -> dict[str, object]:
    one, other = (classifiers.classifier(name, 4, 1, 10, generator()) for name in ("wrn10_2", "resnet18"))
    return {"network": one.description, "weights": other.state_dict()}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (lambda: {"epoch": 3}, "holds no classifier"),
        (_other_weights, "weights are not those of the network"),
        (lambda: state_of(classifiers.classifier("wrn10_2", 4, 1, 3, generator())), "3 classes, .* have 10"),
        (lambda: state_of(classifiers.classifier("wrn10_2", 4, 3, 10, generator())), "3 channels, .* have 1"),
        (
            lambda: state_of(finetuned.on(classifiers.classifier("wrn10_2", 4, 1, 3, generator()), 10, generator())),
            "no classifier with last feature maps",
        ),
    ],
)
def test_states_of_another_network_are_refused(digits, state, words):
    with pytest.raises(ValueError, match=words):
        run(state(), digits)


def test_a_body_that_normalises_after_its_mean_has_no_maps():
    network = twoheads.two_heads("convnext_t", 4, 3, 5, generator(), layer=3)
    with pytest.raises(ConfigError, match="'convnext_t' takes the mean over pixels before its last layers"):
        network.maps(torch.rand(1, 3, 32, 32))
