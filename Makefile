# Everything runs in a virtual environment of the project's own; nothing is installed elsewhere.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# Tests sync thousands of tiny files; memory is the right place for them where there is some.
TMP := $(if $(wildcard /dev/shm),/dev/shm,/tmp)

FUZZ_RUNS ?= 1000000

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast lint soak fuzz bench docs clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.demo ## teach a real model something, shrink the fine-tune, install it, remove it
	$(BIN)/python examples/demo.py

test: lint ## style, types and all tests, those on real models included
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m "not real_model" --basetemp $(TMP)/skillpack-tests-$$$$
	PYTHONPATH=examples $(BIN)/python -m recipes.shared
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m real_model tests

test-fast: lint ## the same without the tests on real models
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m "not real_model" --basetemp $(TMP)/skillpack-tests-$$$$

lint: $(VENV)/.test ## style and strict types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

soak: $(VENV)/.test ## the store against its model in memory, 100,000 random steps (half an hour)
	SKILLPACK_STEPS=100000 $(BIN)/python -m pytest -q tests/store/test_state_machine.py --basetemp $(TMP)/skillpack-soak-$$$$

fuzz: $(VENV)/.test ## throw FUZZ_RUNS (by default a million) hostile inputs at every parser
	$(BIN)/python fuzz/run.py $(FUZZ_RUNS)

bench: $(VENV)/.test ## measure every figure of the README (many hours) and write its table
	for name in exact fidelity bound comparison calibration 'calibration --task few-city-facts' ablation coders stacks singular_vectors classifier memory speed store grafting live serving routing clashes 'compose memory' 'compose kept' compose_learned surgery logits continual shifts 'goals --long'; do $(BIN)/python -m benchmarks.$$name || exit 1; done
	$(BIN)/python -m benchmarks.tables

docs: $(VENV)/.test ## write the pages that are generated
	$(BIN)/python -m skillpack.cli.docs > docs/cli.md
	$(BIN)/python -m benchmarks.tables

clean: ## remove the virtual environment and everything generated
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[demo]'
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	touch $@ $(VENV)/.demo
