PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
UV := $(BIN)/uv pip install --python $(BIN)/python

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
# uv takes half a minute; pip takes longer, and knows pip's configuration.
.venv/ready: requirements.lock setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet uv
	$(UV) --requirement requirements.lock \
	    || $(PIP) install --requirement requirements.lock
	$(UV) --no-deps --editable . || $(PIP) install --no-deps --editable .
	touch $@

# Resolves again, within the ranges of setup.cfg.
.PHONY: lock
lock: .venv/ready
	$(BIN)/uv pip compile setup.cfg --extra dev --universal --upgrade \
	    --python-version 3.11 --constraint constraints.txt \
	    --no-header --output-file requirements.lock
