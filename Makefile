# Everything for a fresh machine with Python >= 3.11 and make. `make` alone lists the targets.
#   PYTHON=python3.12 make test    another interpreter (default: python3)
#   JOBS=8 make test               more test processes (default: 2)
#   FAST=1 make test               without the slow tests

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile

.PHONY: help quickstart test soak lint docs clean
.DELETE_ON_ERROR:

help:
	@echo 'make quickstart   data, tokenizer, training, evaluation and three answers, in minutes on a CPU'
	@echo 'make test         all tests; with FAST=1 without the slow ones, in minutes'
	@echo 'make soak         long trials: 500 kills, hostile files by the thousand; goes on where it was stopped'
	@echo 'make lint         ruff and pyright'
	@echo 'make docs         the web site, with the API, in build/docs'
	@echo 'make clean        removes .venv and what the quickstart and tests wrote'

quickstart: $(VENV)/installed
	$(BIN)/python -m belle_jax.quickstart

test: $(VENV)/installed-test $(VENV)/installed-compilers
	$(BIN)/python -m pytest -n $(JOBS) --dist=worksteal $(if $(FAST),-m 'not slow and not parity')

soak: $(VENV)/installed-test $(VENV)/installed-compilers
	$(BIN)/python -m pytest -n $(JOBS) --dist=worksteal -m soak

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: $(VENV)/installed-test
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --config-file docs/site/mkdocs.yml

clean:
	rm -rf $(VENV) build/docs runs/quickstart runs/benchmarks *.egg-info .pytest_cache .ruff_cache

# Each stamp is newer than pyproject.toml once that extra is installed, so nothing is installed twice.
$(VENV)/python: | pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo \
	  "$(PYTHON): $$($(PYTHON) --version 2>&1 | tail -n 1), and Belle-JAX needs Python 3.11 or newer:" \
	  'name one with PYTHON=python3.12 make ...' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: pyproject.toml $(VENV)/python
	$(PIP) --editable .
	@touch $@

$(VENV)/installed-test: pyproject.toml $(VENV)/python
	$(PIP) --editable '.[test]'
	@touch $@ $(VENV)/installed

$(VENV)/installed-dev: pyproject.toml $(VENV)/python
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/installed-test $(VENV)/installed

# The real compilers for TPUs and GPUs, which tests ask without such a device. They are large, so
# failing to get them only skips those tests.
$(VENV)/installed-compilers: .ci/compilers $(VENV)/installed-test
	@$(BIN)/python .ci/compilers $(VENV)/compilers && touch $@ || \
	  echo 'No compilers for TPU and GPU: the tests that ask them will skip.' >&2
