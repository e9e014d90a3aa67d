"""Who drives a sweep now, told from its lock alone."""

from ablate import lease, lock
from ablate.home import Home


def holder(home: Home, sweep: str) -> str | None:
    """What the lock, or the lease in an object store, says of its holder; None when nobody holds it."""
    path = home.lock(sweep)
    return lock.holder(path) or lease.holder(home, path)
