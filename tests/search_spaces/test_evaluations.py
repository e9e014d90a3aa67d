"""Evaluations read networks that other studies train: the same trials, by their ids, at every size that both have."""

import pytest

from ablate.plan import plan
from search_spaces import catalogue

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


@pytest.mark.parametrize("scale", ["smoke", "laptop", "pictures", "gpu"])
def test_the_spread_is_of_networks_of_the_open_set_studies(scale):
    assert networks("gradmix_spread", scale) <= trained("gradmix_augmentation", scale)


@pytest.mark.parametrize("scale", ["smoke", "laptop", "pictures", "gpu", "paper"])
def test_corruptions_and_closed_sets_share_their_networks(scale):
    one, other = networks("gradmix_corruptions", scale), networks("gradmix_closed", scale)
    assert one & other
    assert one == other or scale == "paper"


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
