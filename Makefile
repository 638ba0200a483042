# Every target that needs Python makes .venv itself when it is missing or older than setup.cfg.
PYTHON ?= python3
VENV ?= .venv
OLDEST ?= .venv-oldest
SUITE ?= digits
ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# in the order of their names: a file of few long tests would be the last one, with one process at work, if those of many came first
PYTEST := -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help install format lint type test test-oldest test-avx2 test-gpu reproduce-tables tables evidence-gpu speed speed-gpu clean

help: ## Say what there is
	@echo "make TARGET [SUITE=digits] [ARGS='...'] [PYTHON=python3.12]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(STAMP) ## Make .venv with ardbench and the tools for working on it

$(STAMP): setup.cfg pyproject.toml
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  $(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null || { \
	    echo "ardbench needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo 'not there'): say which to take, such as make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }; \
	  $(PYTHON) -c "import ensurepip, venv" 2>/dev/null || { \
	    echo "'$(PYTHON)' cannot make virtual environments: install its venv module (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }; \
	  echo "Making $(VENV) with $$($(PYTHON) --version)"; \
	  $(PYTHON) -m venv $(VENV); \
	fi
	@echo "Installing ardbench and its dependencies into $(VENV); PyTorch makes the first time take minutes"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

format: $(STAMP) ## Sort imports and format
	$(BIN)/ruff check --select I --fix ardbench benchmarks examples tests
	$(BIN)/ruff format ardbench benchmarks examples tests

lint: $(STAMP) ## Check style and format with ruff
	$(BIN)/ruff check ardbench benchmarks examples tests
	$(BIN)/ruff format --check ardbench benchmarks examples tests

type: $(STAMP) ## Check types with mypy, strictly
	$(BIN)/mypy

test: $(STAMP) ## Run the tests that need neither a GPU nor patience; ARGS goes to pytest
	$(BIN)/python $(PYTEST) $(ARGS)

test-oldest: ## Run them with the oldest torch that setup.cfg allows, in an environment of its own
	@[ -d $(OLDEST) ] || $(PYTHON) -m venv $(OLDEST)
	@$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' \
	  $$(sed -nE 's/^ +(torch|torchvision)>=([0-9.]+),.*/\1==\2.*/p' setup.cfg)
	$(OLDEST)/bin/python $(PYTEST) $(ARGS)

test-avx2: $(STAMP) ## Run them with the kernels of a processor that has nothing beyond AVX2; ARGS goes to pytest
	ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/python $(PYTEST) $(ARGS)

test-gpu: $(STAMP) ## Run the tests that need a CUDA device; ARGS goes to pytest
	$(BIN)/python -m pytest -m gpu $(ARGS)

reproduce-tables: $(STAMP) ## Train and measure what is missing of SUITE, make its tables in runs/tables and hold them against results/; ARGS goes to ardbench
	$(BIN)/ardbench reproduce $(SUITE) $(ARGS)

tables: $(STAMP) ## Make the tables of SUITE again in runs/tables from the runs that are there
	$(BIN)/ardbench report $(SUITE) --out runs/tables $(ARGS)

evidence-gpu: $(STAMP) ## Train a robust ResNet-18, then cells of cifar10-level, in calls of nine minutes; ARGS names the folder of the results
	PYTHON=$(BIN)/python benchmarks/evidence_gpu.sh $(ARGS)

speed: $(STAMP) ## Measure training, each switch, AutoAttack, scaling and places of images, over an hour on a CPU; ARGS goes to all, such as --device cuda
	$(BIN)/python benchmarks/speed/training.py $(ARGS)
	$(BIN)/python benchmarks/speed/switches.py $(ARGS)
	$(BIN)/python benchmarks/speed/autoattack.py $(ARGS)
	$(BIN)/python benchmarks/speed/scaling.py $(ARGS)
	$(BIN)/python benchmarks/speed/scaling.py --dataset digits $(ARGS)
	$(BIN)/python benchmarks/speed/places.py $(ARGS)

speed-gpu: $(STAMP) ## Run all GPU tests and speed measurements but the switches in nine minutes; ARGS names the folder of the results
	PYTHON=$(BIN)/python benchmarks/speed/gpu.sh $(ARGS)

clean: ## Remove what building and testing leave; runs/, data/, results/ and .venv stay
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* htmlcov
	find ardbench benchmarks examples tests -name __pycache__ -type d -prune -exec rm -rf {} +
