"""Evaluations read networks that other studies train: the same trials, by their ids, at every size that both have."""

from dataclasses import replace

import pytest

from ablate import preflight
from ablate.home import Home
from ablate.plan import plan
from ablate.request import UsageError, on_dataset
from search_spaces import catalogue
from trainables.config import ConfigError, to_plain
from trainables.rmix import IMAGENET

STUDIES = catalogue.imported()


def networks(study: str, scale: str) -> set[tuple[str, str, str]]:
    """(arm, block, trial that trains the network) of every cell."""
    found = plan(STUDIES[study], scale)
    needs = {trial.id: trial.needs["network"] for trial in found.trials if trial.needs}
    return {(cell.arm, cell.block.name, needs[cell.trial]) for cell in found.cells}


def trained(study: str, scale: str) -> set[tuple[str, str, str]]:
    return {(cell.arm, cell.block.name, cell.trial) for cell in plan(STUDIES[study], scale).cells}


@pytest.mark.parametrize("scale", ["smoke", "laptop", "pictures", "gpu"])
@pytest.mark.parametrize("study", ["adautomix_robustness", "adautomix_calibration", "adautomix_occlusion"])
def test_networks_are_those_of_the_study_of_methods(study, scale):
    assert networks(study, scale) <= trained("adautomix_methods", scale)


def test_a_linear_probe_stands_beside_the_neighbours_of_the_closed_sets():
    study = STUDIES["gradmix_closed"]
    assert "linear_accuracy" in {outcome.metric for outcome in study.secondary}
    assert all(arm.config.linear_probe for arm in study.arms)


def test_robustness_and_calibration_compare_what_the_papers_tables_do():
    """Section 4.3 names the mixes of Table 4; Table 6 has seven to a network. PuzzleMix and GridMix are not run."""
    arms = {arm.name for arm in STUDIES["adautomix_robustness"].arms}
    assert arms >= {"cutmix", "fmix", "automix", "adautomix"}
    printed = [number.where for number in STUDIES["adautomix_calibration"].published]
    assert [sum(network in where for where in printed) for network in ("ResNet-18", "Swin-T")] == [7, 7]


@pytest.mark.parametrize("scale", ["smoke", "laptop", "pictures", "gpu"])
def test_the_spread_is_of_networks_of_the_open_set_studies(scale):
    assert networks("gradmix_spread", scale) <= trained("gradmix_augmentation", scale)


@pytest.mark.parametrize("scale", ["smoke", "laptop", "pictures", "gpu", "paper"])
def test_corruptions_and_closed_sets_share_their_networks(scale):
    one, other = networks("gradmix_corruptions", scale), networks("gradmix_closed", scale)
    assert one & other
    assert one == other or scale == "paper"


@pytest.mark.parametrize("study", ["gradmix_closed", "gradmix_corruptions", "gradmix_ood"])
def test_all_classes_are_learned_as_long_as_by_the_authors_scripts(study):
    """Epochs and lambda, by data set. CIFAR-100's epochs are ours; Tiny-ImageNet's are those of its open-set splits."""
    wanted = {
        "cifar10-closed": (500, 1.2),
        "cifar100-closed": (600, 1.2),
        "tinyimagenet100-closed": (600, 1.0),
        "tinyimagenet-closed": (800, 1.0),
        "cifar10-cifar100-svhn": (500, 1.2),
    }
    found = plan(STUDIES[study], "paper")
    by_id = {trial.id: trial for trial in found.trials}
    for trial in found.trials:
        for needed in (by_id[ident] for ident in trial.needs.values()):
            config = needed.config
            assert (config["epochs"], config["lam"]) == wanted[needed.data["protocol"]]
            assert (config["theta"], config["batch"], config["learning_rate"]) == (1.0, 256, 1e-3)


@pytest.mark.parametrize("scale", ["smoke", "laptop", "pictures", "gpu", "paper"])
def test_one_training_without_labels_serves_probes_of_all_networks_and_over_epochs(scale):
    probed = {(block, trial) for _, block, trial in networks("gradmix_ssl", scale)}
    over_epochs = {(block, trial) for _, block, trial in trained("gradmix_ssl_epochs", scale)}
    assert over_epochs < probed
    several = plan(STUDIES["gradmix_ssl_networks"], scale)
    blocks = {cell.block.name for cell in several.cells}
    of_resnet18 = {cell.trial for cell in several.cells if "resnet18" in cell.arm}
    assert of_resnet18 == {
        cell.trial for cell in plan(STUDIES["gradmix_ssl"], scale).cells if cell.block.name in blocks
    }


def test_training_without_labels_is_the_papers():
    """Section 4.5 and its code, on all of Tiny-ImageNet, and probed every 40 epochs on the way."""
    common = {"theta": 0.0, "lam": 1.0, "epochs": 200, "batch": 256, "width": 64, "temperature": 0.05}
    common |= {"evaluate_every": 40, "linear_probe": True, "stages": "single", "precision": "fp32"}
    simclr = {"optimizer": "adam", "learning_rate": 1e-3, "schedule": "cosine", "head": "mlp"}
    moco = {"optimizer": "sgd", "learning_rate": 0.03, "schedule": "steps", "head": "linear", "milestones": [120, 160]}
    moco |= {"moco_queue": 8192, "moco_momentum": 0.999, "weight_decay": 1e-4, "views": 1}
    found = plan(STUDIES["gradmix_ssl_networks"], "paper")
    by_id = {trial.id: trial for trial in found.trials}
    seen = set()
    for cell in found.cells:
        framework, network, mix = cell.arm.split("_")
        wanted = common | (moco if framework == "moco" else simclr)
        wanted |= {"ssl": framework, "network": network, "mix": mix}
        config = by_id[by_id[cell.trial].needs["network"]].config
        assert {name: config[name] for name in wanted} == wanted
        seen.add((framework, network, mix))
    assert len(seen) == 18
    assert {block.dataset for block in found.scale.blocks} == {"tinyimagenet-closed"}


@pytest.mark.parametrize("scale", ["pictures", "gpu"])
def test_what_goes_on_are_networks_of_the_study_of_methods(scale):
    """Theirs were trained on the other data, which a plan tells by the trial alone."""
    wanted = {(arm, trial) for arm, _, trial in trained("adautomix_methods", scale)}
    found = {(arm, trial) for arm, _, trial in networks("adautomix_transfer", scale) if arm != "scratch"}
    assert found <= wanted


@pytest.mark.parametrize("scale", ["smoke", "laptop", "pictures", "gpu", "paper"])
def test_networks_go_on_with_classes_that_they_have_not_seen(scale):
    found = plan(STUDIES["adautomix_transfer"], scale)
    data = {trial.id: trial.data for trial in found.trials}
    for trial in found.trials:
        for ident in trial.needs.values():
            before, after = data[ident]["protocol"], trial.data["protocol"]
            assert (before, after) in {
                ("digits-known", "digits-others"),
                ("cifar10-closed", "tinyimagenet100-closed"),
                ("cifar10-closed", "cifar100-closed"),
                ("imagenet128-closed", "cub200-closed"),
                ("imagenet128-closed", "cars-closed"),
            }
            assert data[ident]["split"] == trial.data["split"]


def test_birds_and_cars_go_on_from_the_same_networks():
    found = networks("adautomix_transfer", "paper")
    assert len(found) == 42
    assert len({trial for _, _, trial in found}) == 18


LOCALISED = ("rmix_localisation", "rmix_localisation_graph_cuts")


@pytest.mark.parametrize("scale", ["smoke", "laptop", "pictures", "gpu", "paper"])
@pytest.mark.parametrize("study", LOCALISED)
def test_localisation_asks_for_boxes_in_the_data(study, scale):
    """Then data without any are refused when they are opened, before a trial starts."""
    preflight.check_methods(plan(STUDIES[study], scale))
    without = replace(STUDIES[study].scale(scale), data={})
    asked = replace(STUDIES[study], scales=(without,))
    with pytest.raises(ConfigError, match=r"measured against boxes, and the data '.*' are opened without"):
        preflight.check_methods(plan(asked, scale))


@pytest.mark.parametrize("study", LOCALISED)
def test_localisation_on_data_that_have_no_boxes_is_refused_before_anything_runs(study, tmp_path):
    moved = on_dataset(STUDIES[study].scale("smoke"), "digits-closed")
    asked = replace(STUDIES[study], scales=(moved,))
    with pytest.raises(UsageError, match="scikit-learn's digits has no boxes"):
        preflight.check_data(plan(asked, moved.name), Home(tmp_path), None)
    assert not (tmp_path / "trials").exists()


@pytest.mark.parametrize("scale", ["smoke", "laptop", "pictures", "gpu", "paper"])
def test_both_studies_of_localisation_share_the_networks_of_rmix(scale):
    one, other = (networks(study, scale) for study in LOCALISED)
    assert {cell for cell in one if cell[0] == "rmix"} == {cell for cell in other if cell[0] == "rmix"}


def test_table_5_is_trained_as_the_imagenet_path_is():
    """R-Mix's network on ImageNet is the method's own `IMAGENET`; the others differ in how they mix alone."""
    found = plan(STUDIES["rmix_localisation"], "paper")
    by_id = {trial.id: trial for trial in found.trials}
    configs = {cell.arm: by_id[by_id[cell.trial].needs["network"]].config for cell in found.cells}
    assert configs["rmix"] == to_plain(IMAGENET)
    for arm, config in configs.items():
        changed = {name for name, value in config.items() if value != configs["rmix"][name]}
        assert changed <= {"mix", "clean_weight", "alpha"}, arm
        assert (config["clean_weight"] > 0) == (arm == "rmix")


def test_puzzlemix_and_comixup_have_their_own_codes_settings_on_imagenet():
    """PuzzleMix: imagenet_fast/configs. Co-Mixup: comix-imagenet/lib/utils.py, a Dirichlet of ones, whatever is set."""
    found = plan(STUDIES["rmix_localisation_graph_cuts"], "paper")
    by_id = {trial.id: trial for trial in found.trials}
    configs = {cell.arm: by_id[by_id[cell.trial].needs["network"]].config for cell in found.cells}
    wanted = {"puzzlemix": (1.0, 1.0, "train"), "comixup": (1.0, 1.0, "train"), "rmix": (0.2, 1.0, "train")}
    fields = ("alpha", "clean_weight", "saliency_mode")
    assert {arm: tuple(config[name] for name in fields) for arm, config in configs.items()} == wanted


@pytest.mark.parametrize("scale", ["smoke", "laptop", "pictures", "gpu", "paper"])
def test_dimensions_are_of_networks_of_the_open_set_studies(scale):
    theirs = {trial for study in ("gradmix_loss", "gradmix_layers") for _, _, trial in trained(study, scale)}
    assert {trial for _, _, trial in networks("gradmix_dimension", scale)} <= theirs
