"""What a watcher of a sweep hears."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ablate.log import Record
from ablate.plan import Plan


@dataclass(frozen=True)
class Event:
    """What `watch` hears, in the driver's process, after the log has it."""

    kind: Literal["started", "epoch", "ended", "lost", "avoided", "grown"]
    trial: str = ""
    attempt: int = 1
    epoch: int = 0
    """For 'epoch': epochs completed, from 1."""
    metrics: Mapping[str, float] | None = None
    """For 'epoch'."""
    record: Record | None = None
    """For 'ended'."""
    why: str = ""
    """For 'lost', and for 'avoided': which node, and why."""
    plan: Plan | None = None
    """For 'grown': the plan with what a tuning study tries next."""
