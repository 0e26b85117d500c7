# make demo | test | test-slow | lint | clean; each makes .venv first if it has to.

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint clean

# The oldest supported Python comes first: it is what the tests are run with. `make PYTHON=...` chooses another.
PYTHON ?= $(shell for version in 3.11 3.12 3.13; do \
	python$$version -c 'import venv, ensurepip' >/dev/null 2>&1 && echo python$$version && break; done)
BIN := .venv/bin
READY := .venv/.ready

help:
	@echo 'make demo       train, generate and simulate the example: a few minutes after the installation'
	@echo 'make test       the tests, but for the slow ones'
	@echo 'make test-slow  the slow tests'
	@echo 'make lint       ruff and mypy'
	@echo 'make clean      remove what was built, bundles and bitstreams in build/ too; .venv stays'

$(READY): pyproject.toml constraints.txt
	@test -n '$(PYTHON)' || { echo 'hwgen needs Python 3.11, 3.12 or 3.13 with venv; none was found' >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/hwgen demo

test: $(READY)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow"

test-slow: $(READY)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
