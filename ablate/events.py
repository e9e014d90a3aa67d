"""What a watcher of a sweep hears."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ablate.log import Record
from ablate.plan import Plan


@dataclass(frozen=True)
class Event:
    """What `watch` hears, in the driver's process, after the log has it."""

    kind: Literal["started", "epoch", "ended", "lost", "avoided", "waiting", "stopped", "ordered", "grown"]
    trial: str = ""
    attempt: int = 1
    epoch: int = 0
    """For 'epoch': epochs completed, from 1."""
    metrics: Mapping[str, float] | None = None
    """For 'epoch'."""
    record: Record | None = None
    """For 'ended'."""
    why: str = ""
    """For 'lost', for 'avoided' (which node, and why), for 'waiting' (for what) and for 'ordered' (what, by whom)."""
    plan: Plan | None = None
    """For 'grown': the plan with what a tuning study tries next, or what an order added."""
    steered: Mapping[str, str] | None = None
    """For 'ordered': arms that are paused or cancelled now."""
