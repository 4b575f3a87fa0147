# `make demo` and `make test` are all a newcomer needs; both make .venv themselves.
PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= auto

.PHONY: demo test test-slow check format figures clean

demo: $(VENV)/installed  ## a whole tournament, offline, and its report
	$(BIN)/metaresearch demo

test: $(VENV)/installed-dev  ## everything that takes minutes in all
	$(BIN)/python -m pytest -n $(WORKERS)

test-slow: $(VENV)/installed-dev  ## ten kills and the other long ones
	$(BIN)/python -m pytest -m slow -s

check: $(VENV)/installed-dev  ## linters, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed-dev  ## let ruff rewrite
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

figures: $(VENV)/installed  ## measure single edits and regenerate benchmarks/ and the README's table
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/determinism.py
	$(BIN)/python benchmarks/single_edits.py
	$(BIN)/python benchmarks/prompt_cost.py
	$(BIN)/python benchmarks/steering.py
	$(BIN)/python benchmarks/rounds.py
	$(BIN)/python benchmarks/readme.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -e ".[dev]"
	touch $@ $(VENV)/installed

clean:  ## forget the environment; results/ stays
	rm -rf $(VENV) *.egg-info
