"""Tests of trained networks: each number against the same computed by hand, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainables.toys import open_set
from trainables import (
    adautomix,
    attacks,
    backbones,
    calibration,
    classification,
    classifiers,
    corruptions,
    gradmix,
    judged,
    occlusion,
    openset,
    rmix,
    seeding,
    stress,
)
from trainables.augment import normalise, to_float
from trainables.config import ConfigError, to_plain
from trainables.corruption_settings import CORRUPTIONS, EXTRA
from trainables.data_protocols import DataSpec
from trainables.protocol import Needed

GOLDEN = Path(__file__).parents[1] / "golden"
DATA = open_set()
ENCODER = backbones.projected("resnet18", 2, 3, "mlp", torch.Generator().manual_seed(0)).eval()
CLASSIFIER = classifiers.classifier("wrn10_2", 4, 3, 3, torch.Generator().manual_seed(0)).eval()


def state_of(network) -> dict[str, object]:
    return {"network": dict(network.description), "weights": network.state_dict(), "epoch": 3}


def run(state, seed=0, needed=None, **fields):
    config = stress.Config(network=needed or Needed("gradmix", gradmix.Config()), **fields)
    (epoch,) = stress.train(config, DATA, seed=seed, device="cpu", network=state)
    return epoch


@pytest.fixture(scope="module")
def of_encoder():
    return run(state_of(ENCODER), k=3)


def pixels():
    return torch.from_numpy(DATA.test.pixels)


def share(scores, x_BHWC) -> float:
    found = scores(normalise(to_float(x_BHWC), DATA.mean, DATA.std)).argmax(1).numpy()
    return float(np.mean(found == DATA.test.labels))


@torch.no_grad()
def test_an_encoder_is_judged_by_its_neighbours(of_encoder):
    assert of_encoder.metrics["accuracy"] == openset.evaluate(ENCODER.embed, DATA, k=3)["accuracy"]


@torch.no_grad()
def test_a_classifier_is_judged_by_its_logits():
    found = run(state_of(CLASSIFIER), needed=Needed("rmix", rmix.Config()), tests=("extra",)).metrics
    assert found["accuracy"] == share(CLASSIFIER, pixels())
    for name in EXTRA:
        stream = seeding.torch_stream(0, f"{name}/3")
        assert found[f"accuracy_{name}_3"] == share(CLASSIFIER, corruptions.corrupt(pixels(), name, 3, stream))


@torch.no_grad()
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("scored", ["teacher", "student"])
def test_the_one_of_student_and_teacher_is_judged_that_its_trial_names(scored, plain):
    config = adautomix.Config(width=4, scored=scored)
    trio = adautomix.trio_of(config, 3, 3, seed=0)
    with torch.no_grad():
        trio.teacher.one.bias.copy_(torch.tensor([9.0, 0.0, 0.0]))
        trio.student.one.bias.copy_(torch.tensor([0.0, 9.0, 0.0]))
    needed = Needed("adautomix", to_plain(config) if plain else config)
    subject = judged.judged(needed, state_of(trio), DATA, "cpu")
    assert subject.logits
    assert set(subject.scores(to_float(pixels())).argmax(1).tolist()) == {0 if scored == "teacher" else 1}


def test_released_colours_are_those_of_the_needed_trial():
    needed = Needed("rmix", rmix.Config(colour="released"))
    subject = judged.judged(needed, state_of(CLASSIFIER), DATA, "cpu")
    with torch.no_grad():
        wanted = CLASSIFIER(normalise(to_float(pixels()), rmix.RELEASED_MEAN, rmix.RELEASED_STD))
        assert torch.equal(subject.scores(to_float(pixels())), wanted)


def test_drops_are_means_of_differences(of_encoder):
    found = of_encoder.metrics
    drop = {(n, s): found["accuracy"] - found[f"accuracy_{n}_{s}"] for n in CORRUPTIONS for s in range(1, 6)}
    assert found["drop"] == pytest.approx(np.mean(list(drop.values())))
    assert found["drop_fog"] == pytest.approx(np.mean([drop["fog", s] for s in range(1, 6)]))
    assert found["drop_4"] == pytest.approx(np.mean([drop[n, 4] for n in CORRUPTIONS]))
    assert found["accuracy_corrupted"] == pytest.approx(found["accuracy"] - found["drop"])
    assert any(drop.values())


def test_nineteen_corruptions_are_averaged_where_all_were_made():
    found = run(state_of(CLASSIFIER), needed=Needed("rmix", rmix.Config()), tests=("extra", "corruptions")).metrics
    extra = np.mean([found[f"accuracy_{name}_{severity}"] for name in EXTRA for severity in range(1, 6)])
    mean = (15 * found["accuracy_corrupted"] + 4 * extra) / 19
    assert found["accuracy_corrupted_19"] == pytest.approx(mean)


def test_drops_are_the_golden_ones():
    with np.load(GOLDEN / "gradmix" / "g7_schedules_aggregates.npz") as g:
        accuracy = {
            f"accuracy_{name}_{severity}": g["corr_acc"][place, severity - 1] / 100
            for place, name in enumerate(CORRUPTIONS)
            for severity in range(1, 6)
        }
        found = stress.drops({"accuracy": float(g["clean_acc"]) / 100} | accuracy)
        assert 100 * found["drop"] == pytest.approx(float(g["D"]))
        assert [100 * found[f"drop_{severity}"] for severity in range(1, 6)] == pytest.approx(g["D_s"].tolist())
        assert [100 * found[f"drop_{name}"] for name in CORRUPTIONS] == pytest.approx(g["D_c"].tolist())


def test_published_severities_have_the_published_mean():
    """Table 5: CIFAR-10's printed averages are the means of its five rows."""
    from search_spaces.gradmix_evaluations import TABLE5

    rows = np.array([TABLE5[f"_{severity}"] for severity in range(1, 6)])
    assert np.allclose(rows.mean(0)[:2], TABLE5[""][:2], atol=0.006)
    assert np.allclose(rows.mean(0)[2:], (38.92, 37.96), atol=0.006)


OF_LOGITS = ("fgsm", "pgd", "calibration")


@pytest.fixture(scope="module")
def of_classifier():
    needed = Needed("rmix", rmix.Config())
    return run(state_of(CLASSIFIER), needed=needed, tests=("occlusion", *OF_LOGITS), steps=3, occlusion_grid=4)


def from_pixels(x_BCHW):
    return CLASSIFIER(normalise(x_BCHW, DATA.mean, DATA.std))


@torch.no_grad()
def test_covered_images_are_judged_with_one_set_of_patches(of_classifier):
    found = of_classifier.metrics
    assert found["accuracy_occluded_0"] == found["accuracy"]
    for share in (0.3, 0.9):
        stream = seeding.torch_stream(0, "occlusion")
        x_BCHW = occlusion.occlude(to_float(pixels()), share, 4, DATA.mean, stream)
        wanted = np.mean(from_pixels(x_BCHW).argmax(1).numpy() == DATA.test.labels)
        assert found[f"accuracy_occluded_{round(100 * share)}"] == wanted
    shown = of_classifier.exhibits()
    assert found["accuracy_occluded"] == pytest.approx(shown["occluded_accuracy"].mean())
    assert shown["occluded_shares"].tolist() == [percent / 100 for percent in range(0, 100, 10)]


@torch.no_grad()
def test_patches_are_0_after_the_normalisation_of_the_needed_trial(monkeypatch):
    fills = []
    real = occlusion.occlude
    monkeypatch.setattr(occlusion, "occlude", lambda *given: fills.append(given[3]) or real(*given))
    needed = Needed("rmix", rmix.Config(colour="released"))
    run(state_of(CLASSIFIER), needed=needed, tests=("occlusion",), occlusion_grid=4)
    assert set(fills) == {rmix.RELEASED_MEAN}


def test_attacks_are_as_long_as_the_config_says_and_with_the_colours_of_the_needed_trial(monkeypatch):
    asked, colours, real = [], [], attacks.released_fgsm
    monkeypatch.setattr(attacks, "pgd", lambda _, x, __, norm, **given: asked.append((norm, given)) or x)
    monkeypatch.setattr(attacks, "released_fgsm", lambda *given: colours.append(given[3:]) or real(*given))
    needed = Needed("rmix", rmix.Config(colour="released"))
    run(state_of(CLASSIFIER), needed=needed, tests=("pgd", "fgsm"), radius_linf=16 / 255, radius_l2=2.0, steps=7)
    assert [norm for norm, _ in asked] == ["linf", "l2"]
    for (_, given), radius, step in zip(asked, (16 / 255, 2.0), (4 / 255, 0.4), strict=True):
        assert (given["radius"], given["steps"]) == (radius, 7)
        assert given["step"] == pytest.approx(step)
    assert colours == [(rmix.RELEASED_MEAN, rmix.RELEASED_STD)]


@pytest.mark.parametrize("k", [1, 4])
def test_so_many_neighbours_are_asked_as_the_config_says(k, monkeypatch):
    asked, real = set(), openset.class_scores
    monkeypatch.setattr(openset, "class_scores", lambda *given: asked.add(given[4]) or real(*given))
    run(state_of(ENCODER), tests=("extra",), k=k)
    assert asked == {k}


def test_attacks_are_in_pixels_and_those_of_their_own_functions(of_classifier):
    found, labels = of_classifier.metrics, torch.from_numpy(DATA.test.labels)
    assert found["fgsm_error"] == classification.fgsm_error(CLASSIFIER, DATA, DATA.mean, DATA.std)
    released = attacks.released_fgsm(from_pixels, to_float(pixels()), labels, DATA.mean, DATA.std)
    wanted = float((from_pixels(released).argmax(1) != labels).double().mean())
    assert found["fgsm_error_released"] == pytest.approx(wanted)
    for norm, radius, step in (("linf", 8 / 255, 2 / 255), ("l2", 0.5, 0.1)):
        moved = attacks.pgd(
            from_pixels,
            to_float(pixels()),
            labels,
            norm,
            radius=radius,
            step=step,
            steps=3,
            generator=seeding.torch_stream(0, f"pgd/{norm}"),
        )
        wanted = float((from_pixels(moved).argmax(1) != labels).double().mean())
        assert found[f"pgd_{norm}_error"] == pytest.approx(wanted)


@torch.no_grad()
def test_calibration_is_of_the_logits_and_of_both_halves(of_classifier):
    found, logits, labels = of_classifier.metrics, from_pixels(to_float(pixels())), torch.from_numpy(DATA.test.labels)
    for name, wanted in calibration.measures(logits, labels).items():
        assert found[name] == pytest.approx(wanted, abs=1e-6)
    assert found["nll_scaled"] != found["nll"]
    assert found["temperature"] > 0
    assert of_classifier.exhibits()["reliability_share"].sum() == pytest.approx(1)


@pytest.mark.parametrize("test", OF_LOGITS)
def test_what_needs_logits_is_refused_of_an_encoder(test):
    with pytest.raises(ConfigError, match=f"'{test}' need a classifier's logits, and 'gradmix' trains an encoder"):
        stress.Config(network=Needed("gradmix", None), tests=(test,))
    with pytest.raises(ValueError, match=f"'{test}' needs a classifier's logits"):
        run(state_of(ENCODER), needed=Needed("one_of_my_own", None), tests=(test,))


def test_the_seed_is_what_the_corruptions_are_drawn_from(of_encoder):
    assert run(state_of(ENCODER), k=3).metrics == of_encoder.metrics
    assert run(state_of(ENCODER), k=3, seed=1).metrics != of_encoder.metrics


def test_what_is_shown_is_what_was_measured(of_encoder):
    shown = of_encoder.exhibits()
    assert shown["clean"].tolist() == [of_encoder.metrics["accuracy"]]
    assert shown["corrupted_snow"].tolist() == [of_encoder.metrics[f"accuracy_snow_{s}"] for s in range(1, 6)]


def test_a_finished_test_is_not_repeated(of_encoder):
    config = stress.Config(network=Needed("gradmix", None))
    again = stress.train(config, DATA, seed=0, device="cpu", resume=of_encoder.state(), network=state_of(ENCODER))
    assert list(again) == []


@pytest.mark.parametrize("method", sorted(judged.WITHOUT_NETWORK))
def test_a_method_that_trains_no_network_is_refused_before_anything_runs(method):
    with pytest.raises(ConfigError, match=f"'{method}', which trains no network"):
        stress.Config(network=Needed(method, None))


def test_a_method_whose_network_nobody_else_reads_is_refused_before_anything_runs():
    with pytest.raises(ConfigError, match="'margins', whose network is neither"):
        stress.Config(network=Needed("margins", None))


def test_every_method_that_needs_another_is_known_to_train_no_network():
    from trainables.catalogue import METHODS
    from trainables.config import field_types

    readers = {name for name, method in METHODS.items() if "network" in field_types(method.config)}
    readers = {name for name in readers if field_types(METHODS[name].config)["network"] is Needed}
    assert readers <= judged.WITHOUT_NETWORK | {"greg", "transfer"}


@pytest.mark.parametrize("name", sorted(judged.WITHOUT_NETWORK - {"margin_scores"} | {"transfer"}))
def test_every_evaluation_refuses_images_of_another_kind_before_anything_runs(name):
    """A network of grey images, and data in colour, with boxes and sets outside."""
    from trainables.catalogue import METHODS

    method, data = METHODS[name], DataSpec(protocol="cifar10-ood", boxes=True)
    config = method.config(network=Needed("one_of_my_own", None))
    with pytest.raises(ConfigError, match=r"'digits-ood', whose images (are grey|have other channels)"):
        method.check(config, data, {"network": DataSpec(protocol="digits-ood")})
    method.check(config, data, {"network": DataSpec(protocol="cifar10-closed")})


@pytest.mark.parametrize(
    "state", [{"epoch": 1}, {"network": {"network": "lenet"}, "weights": {}}, {"network": 3, "weights": {}}]
)
def test_a_state_without_a_known_network_is_refused(state):
    with pytest.raises(ValueError, match="holds no classifier and no encoder"):
        run(state)


def test_a_network_of_other_data_is_refused():
    other = classifiers.classifier("wrn10_2", 4, 3, 7, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="has 7 classes, and the images of 'toys' have 3"):
        run(state_of(other))
    grey = backbones.projected("resnet18", 2, 1, "mlp", torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="has 1 channels, and the images of 'toys' have 3"):
        run(state_of(grey))


@pytest.mark.parametrize(
    "fields",
    [{"tests": ()}, {"tests": ("extra", "extra")}, {"k": 0}, {"tests": ("rain",)}, {"radius_l2": 0.0}, {"steps": 0}],
)
def test_configs_that_mean_nothing_are_refused(fields):
    with pytest.raises(ConfigError):
        stress.Config(network=Needed("gradmix", None), **fields)
