"""For all tests: no clock in Hypothesis, and the same examples in every run."""

from hypothesis import settings

settings.register_profile("ablate", deadline=None, derandomize=True)
settings.load_profile("ablate")
