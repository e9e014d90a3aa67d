"""Where things lie under the home. All paths of the product are made here."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Home:
    """The one folder that a sweep writes to (`--home`, `ABLATE_HOME`, default ./ablate-home)."""

    root: Path

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
