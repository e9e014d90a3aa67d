"""Documents cannot rot: links lead somewhere, commands are commands, CI runs what the README prints."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from ablate.__main__ import COMMANDS, parse
from search_spaces import catalogue

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    page for folder in (".", "docs", "examples", "benchmarks", "results") for page in (ROOT / folder).glob("*.md")
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def commands(page: Path) -> list[list[str]]:
    """Every `python -m ablate ...` of a page's code, without comments."""
    text = "\n".join(re.findall(r"^(?: {4}|```sh\n)?.*python -m ablate.*$", page.read_text(), flags=re.MULTILINE))
    found = re.findall(r"python -m ablate ([^`\n]*)", text)
    return [shlex.split(line, comments=True) for line in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_a_page_prints_can_be_parsed(page: Path) -> None:
    for words in commands(page):
        if words and words[0] in COMMANDS and not any("|" in word or word.endswith("...") for word in words):
            parse(words)


def test_the_readme_names_commands_and_studies_that_exist() -> None:
    words = commands(ROOT / "README.md")
    assert {line[0] for line in words} <= set(COMMANDS)
    assert len(words) >= 10
    studies = [line[1] for line in words if len(line) > 1 and not line[1].startswith(("-", "./"))]
    assert set(studies) <= set(catalogue.names())


def test_every_benchmark_is_listed_with_its_question() -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text()
    for file in (ROOT / "benchmarks").glob("[a-z]*.py"):
        if "__main__" in file.read_text():
            assert f"benchmarks.{file.stem}" in text, file.name


def test_ci_runs_the_readmes_own_test_command() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    extract = re.search(r"^command=\$\((awk .*)\)$", script, flags=re.MULTILINE)
    assert extract is not None
    ran = subprocess.run(["bash", "-c", extract[1]], cwd=ROOT, capture_output=True, text=True, check=True)
    found = ran.stdout.strip()
    assert found.startswith("python3 -m venv .venv && ")
    assert found in (ROOT / "README.md").read_text()
    assert "pytest" in found
