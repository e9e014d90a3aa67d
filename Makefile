# One command for everything a change must pass: `make check`. Tools come from `pip install -c constraints.txt -e '.[dev]'`.
PYTHON ?= python

.PHONY: check format lint types imports test test-slow test-gpu index bench help

check: lint types imports test  ## all that a change must pass

format:  ## rewrite in the house format
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

lint:  ## format and lint, without rewriting
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .

types:
	$(PYTHON) -m mypy

imports:  ## ablate -> analysis -> search_spaces -> trainables
	lint-imports || $(PYTHON) -c "from importlinter.cli import lint_imports_command as c; c()"

test:  ## what runs in CI
	$(PYTHON) -m pytest

test-slow:  ## minutes to hours: many kills, long studies
	$(PYTHON) -m pytest -m slow

test-gpu:
	$(PYTHON) -m pytest -m gpu

index:  ## the torch-free index of studies, after a change of a study or a method
	$(PYTHON) -m search_spaces.catalogue

bench:  ## side-by-side ratios; minutes; see benchmarks/README.md
	for file in benchmarks/*.py; do echo "== $$file"; $(PYTHON) $$file; done

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14
