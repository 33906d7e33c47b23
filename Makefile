PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
UV := $(BIN)/uv pip install --python $(BIN)/python

.PHONY: demo test test-quick test-backends test-benchmarks test-detection \
    test-peers test-web web lint format

PAGE_PACKAGES := export/web/node_modules/.package-lock.json
EXPORT ?= $(shell ls -dt runs/*/export 2>/dev/null | head -n 1)
SCANS = $(dir $(EXPORT:/=))scans
PORT ?= 8000

demo: .venv/ready
	$(BIN)/python -m examples.digits_demo

# One worker for each core; tests that share something dear stay in one.
PYTEST := $(BIN)/python -m pytest --numprocesses=auto --dist=loadgroup

test: lint
	$(PYTEST) -m "not detection" --ignore=tests/benchmarks

# Trains and exports detectors, in two minutes or so.
test-detection: .venv/ready
	$(PYTEST) tests/trainers/detection tests/export/detection \
	    tests/examples/test_detect_shapes.py

# The programs that measure, on little.
test-benchmarks: .venv/ready
	$(PYTEST) tests/benchmarks

# For the edit loop: without what trains, exports or starts programs.
test-quick: .venv/ready
	$(PYTEST) -m "not slow"

# The layers on the other backends of Keras, without TensorFlow.
BACKENDS := jax torch
LAYER_TESTS := $(addprefix tests/lambda_keras/, attention/test_attention.py \
    contraction test_lambda_layers.py test_lambda_variants.py \
    test_layer_contract.py test_resizing.py test_shared_embeddings.py \
    test_torch_export.py)

test-backends: .venv-backends/ready
	for backend in $(BACKENDS); do \
	    KERAS_BACKEND=$$backend .venv-backends/bin/python -m pytest \
	        $(LAYER_TESTS) || exit 1; \
	done

# Against the networks of timm, in PyTorch.
test-peers: .venv-peers/ready
	.venv-peers/bin/python -m pytest \
	    tests/lambda_keras/networks/test_torch_weights.py \
	    tests/export/test_convert_weights.py

# The page in a browser; `make test` skips it without npm or Chromium.
test-web: .venv/ready $(PAGE_PACKAGES)
	REQUIRE_BROWSER=1 $(PYTEST) tests/export/web tests/export/test_make_page.py

# The newest export on a web page, until Ctrl-C.
web: .venv/ready $(PAGE_PACKAGES)
	$(BIN)/python -m export.make_page --export_dir="$(EXPORT)" \
	    --output_dir=build/page $(if $(wildcard $(SCANS)),--examples=$(SCANS))
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory build/page \
	    $(PORT)

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

$(PAGE_PACKAGES): export/web/package-lock.json
	npm ci --prefix export/web --no-audit --no-fund
	touch $@

.venv-backends/ready: requirements.lock
	$(PYTHON) -m venv .venv-backends
	.venv-backends/bin/python -m pip install --constraint requirements.lock \
	    keras numpy pytest hypothesis "torch==2.13.*" "jax==0.10.*"
	touch $@

.venv-peers/ready: requirements.lock setup.cfg
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet uv
	.venv-peers/bin/uv pip install --python .venv-peers/bin/python \
	    --constraint requirements.lock --editable ".[dev,peers]"
	touch $@

# Resolves again, within the ranges of setup.cfg.
.PHONY: lock
lock: .venv/ready
	$(BIN)/uv pip compile setup.cfg --extra dev --universal --upgrade \
	    --python-version 3.11 --constraint constraints.txt \
	    --no-header --output-file requirements.lock
