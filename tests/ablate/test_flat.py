"""What the driver keeps of a trial does not grow with their number; `benchmarks.flat` measures time too."""

from benchmarks import flat


def test_the_driver_keeps_as_much_of_the_last_trials_as_of_the_first():
    found = flat.measure(650, slots=4, epochs=3, step=200, ask=False)
    assert len(found["a trial, by thousands"]["blocks"]) == 3
    assert 0 < found["last over first"]["blocks"] <= 1.2
