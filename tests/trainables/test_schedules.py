"""Learning rates against SupContrast's and R-Mix's, as golden numbers, and against torch's schedulers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from trainables import schedules

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "gradmix" / "g7_schedules_aggregates.npz")


@pytest.mark.parametrize(("name", "peak", "r"), [("gradmix", 1e-3, 0.8), ("supcontrast", 0.05, 0.1)])
def test_cosine_is_supcontrasts(name, peak, r):
    rates = [schedules.cosine(int(epoch), 600, peak, peak * r**3) for epoch in GOLDEN["epochs"]]
    np.testing.assert_allclose(rates, GOLDEN[f"lr_{name}_600"], rtol=1e-9)


def test_steps_drop_after_their_milestones():
    rates = [schedules.steps(int(epoch), 0.03, (120, 160)) for epoch in GOLDEN["step_epochs"]]
    np.testing.assert_allclose(rates, GOLDEN["lr_step_003"], rtol=1e-9)


def test_cosine_falls_from_the_peak_and_is_symmetric_about_its_middle():
    rates = [schedules.cosine(epoch, 10, 1.0, 0.2) for epoch in range(11)]
    assert rates[0] == 1.0
    assert rates == sorted(rates, reverse=True)
    np.testing.assert_allclose(np.add(rates, rates[::-1]), 1.2, rtol=1e-12)


def test_one_cycle_is_the_released_runs():
    with np.load(Path(__file__).parents[1] / "golden" / "mixing" / "R7_onecycle.npz") as g:
        steps, rates, momenta = g["step"].tolist(), g["lr"], g["momentum"]
    total, peak = 300 * 500, 0.29947526988779305
    np.testing.assert_allclose([schedules.one_cycle(step, total, peak) for step in steps], rates, rtol=1e-9)
    np.testing.assert_allclose([schedules.one_cycle_momentum(step, total) for step in steps], momenta, rtol=1e-9)


def torchs(schedule, steps, peak, **options):
    """Learning rate and momentum in effect at every step of a torch scheduler."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak, momentum=0.9)
    scheduler, found = schedule(optimizer, **options), []
    for _ in range(steps):
        found.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        scheduler.step()
    return np.array(found).T


@pytest.mark.parametrize(("total", "rise"), [(20, 0.3), (37, 0.1), (8, 0.5)])
def test_one_cycle_is_torchs(total, rise):
    options = {"max_lr": 0.3, "total_steps": total, "pct_start": rise, "div_factor": 25, "final_div_factor": 100}
    rates, momenta = torchs(torch.optim.lr_scheduler.OneCycleLR, total - 1, 0.3, **options)
    ours = {"rise": rise, "start_divisor": 25, "end_divisor": 100}
    found = [schedules.one_cycle(step, total, 0.3, **ours) for step in range(total)]
    np.testing.assert_allclose(found[:-1], rates, rtol=1e-9)
    assert found[-1] == pytest.approx(0.3 / 25 / 100)
    momentum = [schedules.one_cycle_momentum(step, total, rise=rise) for step in range(total - 1)]
    np.testing.assert_allclose(momentum, momenta, rtol=1e-9)


def test_one_cycle_of_few_steps_starts_at_the_peak():
    assert schedules.one_cycle(0, 2, 0.3) == pytest.approx(0.3)
    assert schedules.one_cycle(1, 2, 0.3) == pytest.approx(0.3 / 1e6)
    assert schedules.one_cycle(0, 1, 0.3) == pytest.approx(0.3 / 1e6)


def test_multi_step_is_torchs():
    rates, _ = torchs(torch.optim.lr_scheduler.MultiStepLR, 12, 0.2, milestones=[4, 9], gamma=0.1)
    np.testing.assert_allclose([schedules.multi_step(epoch, 0.2, (4, 9)) for epoch in range(12)], rates, rtol=1e-9)


def test_the_fast_schedule_passes_its_knots_and_is_straight_between():
    at = {0: 0.5, 4: 0.75, 8: 1.0, 15: 0.2, 40: 0.02, 65: 0.002, 90: 0.0002, 100: 0.00002}
    assert {epoch: schedules.imagenet_fast(epoch) for epoch in at} == pytest.approx(at)
    assert schedules.imagenet_fast(14.999) == pytest.approx(0.125, rel=1e-2)
    assert schedules.imagenet_fast(27.5) == pytest.approx(0.11)
