"""Teachers: the released schedule, the average in a slow loop, batch norm with passes merged, best and median."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.trainables.toys import open_set
from trainables import mixblock, teachers, twoheads

GOLDEN = Path(__file__).parents[1] / "golden" / "mixing"


def a_trio(seed=0) -> teachers.Trio:
    student = twoheads.two_heads("resnet18", 4, 3, 3, torch.Generator().manual_seed(seed), layer=3)
    block = {"kind": "any", "embed": False, "scale": 4}
    generator = mixblock.build(block, student.map_channels)
    mixblock.initialise(generator, torch.Generator().manual_seed(seed))
    return teachers.Trio(student, generator, {"student": student.description, "generator": block})


def test_the_momentum_is_that_of_the_released_hook():
    with np.load(GOLDEN / "A3_ema_momentum_schedule.npz") as g:
        for steps, end, step, wanted in g["rows"]:
            assert teachers.momentum(step / steps, 0.999, end, 0.1) == pytest.approx(wanted, abs=1e-12)


def moved(network: nn.Module) -> nn.Module:
    """The network with all that floats in it changed."""
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for part in (*network.parameters(), *network.buffers()):
            if part.is_floating_point():
                part.add_(torch.rand(part.shape, generator=random))
    return network


@pytest.mark.parametrize("norms", ["own", "average", "copy"])
def test_the_teacher_follows_by_its_momentum(norms):
    trio = a_trio()
    assert all(map(torch.equal, trio.student.state_dict().values(), trio.teacher.state_dict().values()))
    before = {key: value.clone() for key, value in trio.teacher.state_dict().items()}
    moved(trio.student)
    weights = dict(trio.student.named_parameters())
    teachers.follow(trio.student, trio.teacher, 0.75, norms)
    for key, found in trio.teacher.state_dict().items():
        new, old = trio.student.state_dict()[key], before[key]
        if not found.is_floating_point() or (key not in weights and norms == "own"):
            assert torch.equal(found, old)
        elif key not in weights and norms == "copy":
            assert torch.equal(found, new)
        else:
            torch.testing.assert_close(found, 0.75 * old + 0.25 * new)


@torch.no_grad()
@given(clean=st.integers(0, 5))
@settings(deadline=None, max_examples=6)
def test_two_passes_leave_the_statistics_of_all(clean):
    """The released loop: the batch, the mixed images, and the batch again, permuted, once for each image."""
    random = torch.Generator().manual_seed(clean)
    x, mixed = (torch.randn(6, 3, 8, 8, generator=random) + shift for shift in (0, 2))
    released, ours = a_trio().teacher.train(), a_trio().teacher.train()
    released(x)
    released(mixed)
    for _ in range(clean):
        released(x[torch.randperm(6, generator=random)])
    for images, momentum in zip((x, mixed), teachers.merged_momenta(clean), strict=True):
        with teachers.norm_momentum(ours, momentum):
            ours(images)
    for (key, found), wanted in zip(ours.named_buffers(), released.buffers(), strict=True):
        if found.is_floating_point():
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4, msg=key)
    assert {part.momentum for part in ours.modules() if isinstance(part, nn.BatchNorm2d)} == {0.1}


def test_no_gradient_reaches_the_teacher():
    trio = a_trio()
    assert not any(weight.requires_grad for weight in trio.teacher.parameters())
    assert all(weight.requires_grad for weight in trio.student.parameters())


@pytest.mark.parametrize("scored", ["teacher", "student"])
def test_the_scored_network_has_all_measures_and_each_head_its_accuracy(scored):
    trio, data = a_trio(), open_set()
    moved(trio.student)
    metrics = teachers.evaluate(trio, data, scored, "cpu", attack=True)
    assert metrics["accuracy"] == metrics[f"accuracy_{scored}_one"]
    assert trio.training
    x, labels = next(teachers.classification.batches(data.test, "cpu", 500))
    x = teachers.augment.normalise(x, data.mean, data.std)
    for name, network in (("teacher", trio.teacher.eval()), ("student", trio.student.eval())):
        seen = network(x)
        for head, logits in (("one", seen.one_BK), ("mix", seen.mix_BK)):
            share = float((logits.argmax(1) == labels).double().mean())
            assert metrics[f"accuracy_{name}_{head}"] == pytest.approx(share)
    assert {"nll", "ece_10", "ece_15", "accuracy_top5", "fgsm_error"} <= metrics.keys()


@pytest.mark.parametrize("scored", ["teacher", "student"])
def test_the_attack_is_on_the_one_hot_head_of_the_scored_network(scored):
    """Heads that give everything the same class, each another: the error is the share of the other labels."""
    trio, data = a_trio(), open_set()
    answers = {("teacher", "one"): 0, ("teacher", "mix"): 1, ("student", "one"): 2, ("student", "mix"): 1}
    data = replace(data, test=replace(data.test, labels=np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2])))
    with torch.no_grad():
        for (whose, head), answer in answers.items():
            getattr(getattr(trio, whose), head).bias[answer] = 1e3
    metrics = teachers.evaluate(trio, data, scored, "cpu", attack=True)
    assert metrics["fgsm_error"] == pytest.approx({"teacher": 0.5, "student": 0.75}[scored])


def test_best_and_median_are_of_what_was_measured():
    history: dict[str, list[float]] = {}
    values = {epoch: (epoch * 7 % 23) / 23 for epoch in range(2, 31, 2)}
    for epoch, value in values.items():
        found = teachers.remembered(history, epoch, dict.fromkeys(teachers.REMEMBERED, value))
        late = [each for then, each in values.items() if epoch - 10 < then <= epoch]
        assert found["accuracy_best"] == max(each for then, each in values.items() if then <= epoch)
        assert found["accuracy_teacher_mix_median10"] == float(np.median(late))
    assert len(found) == 2 * len(teachers.REMEMBERED)


def test_a_final_state_builds_the_networks_again():
    trio = a_trio()
    moved(trio.student)
    again = teachers.rebuild(trio.description, trio.state_dict())
    assert not again.training
    for key, value in trio.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)
