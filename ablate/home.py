"""Where things lie under the home. All paths of the product are made here."""

import hashlib
import os
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Home:
    """The one folder that a sweep writes to (`--home`, `ABLATE_HOME`, default ./ablate-home)."""

    root: Path
    """Where the home is an object store: this node's cache of it, and what has not reached it yet."""
    remote: str | None = None
    """URI of the object store; may hold a password."""

    @classmethod
    def at(cls, text: str) -> "Home":
        """The home that a folder's name or a URI means, on this node."""
        return cls(cache_of(text), text) if "://" in text else cls(Path(text).expanduser())

    def here(self) -> "Home":
        """The same home on the node that this runs on."""
        return self if self.remote is None else replace(self, root=cache_of(self.remote))

    @property
    def name(self) -> str:
        """For people, and for a command line: no password."""
        return str(self.root) if self.remote is None else shown(self.remote)

    @property
    def logs(self) -> Path:
        """Of all sweeps."""
        return self.root / "log"

    def log(self, sweep: str) -> Path:
        """The append-only truth of one sweep, written by its one driver."""
        return self.logs / f"{sweep}.jsonl"

    def lock(self, sweep: str) -> Path:
        """Held (flock) by the driver of the sweep; says who."""
        return self.logs / f"{sweep}.lock"

    def summary(self, sweep: str) -> Path:
        """The log in short, made from it."""
        return self.logs / f"{sweep}.summary"

    def orders(self, sweep: str) -> Path:
        """What people ordered while the sweep runs, a file each."""
        return self.logs / f"{sweep}.orders"

    def trial(self, ident: str) -> Path:
        """Checkpoint, lock and notes of one trial."""
        return self.root / "trials" / ident[:2] / ident

    def exhibits(self, ident: str) -> Path:
        """What one trial left for people to look at."""
        return self.trial(ident) / "exhibits"

    @property
    def data(self) -> Path:
        """Decoded data sets, shared by all trials of a node."""
        return self.root / "data"

    def frames(self, sweep: str) -> Path:
        """Parquet of one sweep."""
        return self.root / "frames" / sweep

    def report(self, sweep: str) -> Path:
        """Page, figures and tables of one sweep."""
        return self.root / "reports" / sweep

    @property
    def mlflow(self) -> str:
        """Default tracking URI."""
        return f"sqlite:///{self.root.resolve() / 'mlflow.db'}"

    @property
    def mlflow_artifacts(self) -> Path:
        """Reports and figures as MLflow keeps them."""
        return self.root / "mlflow-artifacts"

    @property
    def optuna(self) -> str:
        """Default storage URL, opened by optuna-dashboard."""
        return f"sqlite:///{self.root.resolve() / 'optuna.db'}"

    @property
    def scratch(self) -> Path:
        """Ray's session and Tune's folders: nothing here is needed after a sweep."""
        return self.root / "scratch"


def shown(uri: str) -> str:
    """The URI of a home without user, password and options."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


def cache_of(uri: str) -> Path:
    """This node's folder for the home at `uri`: under ABLATE_CACHE, else the user's cache folder.

    Who asks, with what password, is not part of its name; the endpoint is. So is the host: a user's cache folder may be
    shared by all nodes.
    """
    given = os.environ.get("ABLATE_CACHE")
    base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "ablate"
    parts = urlsplit(uri)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}?{parts.query} {endpoint}"
    digest = hashlib.sha256(place.encode()).hexdigest()[:16]
    return base.expanduser().resolve() / f"{digest}-{platform.node() or 'node'}"
