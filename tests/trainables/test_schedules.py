"""Learning rates against SupContrast's, as golden numbers."""

from pathlib import Path

import numpy as np
import pytest

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
