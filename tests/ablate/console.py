"""The command line as a test calls it: in this process, with what it printed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ablate import driver
from ablate.__main__ import main
from ablate.execution import Options
from ablate.plan import Plan

TOY = str(Path(__file__).with_name("toy.py"))
OFF = ("--mlflow", "none", "--optuna", "none")
"""No projections: tests of other things need no database."""


@dataclass(frozen=True)
class Answered:
    """Exit code and output of one command."""

    code: int
    out: str
    err: str


class Shell:
    """Runs commands against one home."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self._capsys = capsys

    def __call__(self, *words: str) -> Answered:
        """The command as typed, in this test's home."""
        return self.bare(*words, "--home", str(self.home))

    def bare(self, *words: str) -> Answered:
        """The command exactly as typed."""
        self._capsys.readouterr()
        code = main(words)
        found = self._capsys.readouterr()
        return Answered(code, found.out, found.err)

    def trains(self, study: str = "toy", *words: str) -> Answered:
        """`run` in this process, without projections."""
        return self("run", f"{TOY}:{study}", "--local", *OFF, *words)


def files(folder: Path) -> Sequence[str]:
    """Every file below the folder, relative to it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@contextmanager
def stopped_after(ends: int) -> Iterator[None]:
    """Ctrl-C when so many trials have ended; with 0, while the data is checked."""
    original = driver.run

    def interrupting(
        plan: Plan, options: Options, watch: Callable[[driver.Event], None], check: Callable[[], None]
    ) -> driver.Result:
        ended = 0

        def hear(event: driver.Event) -> None:
            nonlocal ended
            watch(event)
            ended += event.kind == "ended"
            if ended == ends:
                raise KeyboardInterrupt

        def checked() -> None:
            check()
            if not ends:
                raise KeyboardInterrupt

        return original(plan, options, hear, checked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "run", interrupting)
        yield
