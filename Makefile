PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint format

demo: .venv/ready
	$(BIN)/python -m examples.digits_demo

test: lint
	$(BIN)/python -m pytest

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Made anew only when what it is made of has changed.
.venv/ready: requirements.lock setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --python $(BIN)/python --requirement requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --editable .
	touch $@

# Resolves again, within the ranges of setup.cfg.
.PHONY: lock
lock: .venv/ready
	$(BIN)/uv pip compile setup.cfg --extra dev --universal --upgrade \
	    --python-version 3.11 --constraint constraints.txt \
	    --no-header --output-file requirements.lock
