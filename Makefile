# Everything starts here; `make help` lists the commands. Each sets up .venv first when that is needed.
PYTHON ?= python3
STUDY ?= quickstart
WORKERS ?= 2
BIN := .venv/bin
PACKAGES := arch_lab blocks experiments

.DEFAULT_GOAL := help
.PHONY: help compare test test-all test-reference bench-gpu lint format wheel clean setup

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

compare: .venv/.installed ## run a study (STUDY=quickstart) and write its report to runs/
	$(BIN)/arch-lab compare $(STUDY)

test: .venv/.installed ## tests that fit in a coffee break (WORKERS=2 processes)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-all: .venv/.installed ## the same and the slow ones; GPU tests where there is a GPU
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m ""

test-reference: .venv/.installed ## blocks, laws and accounting again with every operation on plain torch, as where no kernel runs
	ARCH_LAB_OPS=reference $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal tests/blocks tests/contracts tests/arch_lab/test_counter.py tests/arch_lab/test_accounting.py

bench-gpu: .venv/.installed ## operations, layers and Gemma 3 training steps on CUDA against other implementations; tables to runs/bench-gpu-*.{json,md}
	@mkdir -p runs
	@for suite in ops_gpu gemma_gpu; do \
	  $(BIN)/arch-lab bench $$suite --json --markdown runs/bench-gpu-$$suite.md > runs/bench-gpu-$$suite.json.part \
	    || { code=$$?; rm -f runs/bench-gpu-$$suite.json.part; exit $$code; }; \
	  mv runs/bench-gpu-$$suite.json.part runs/bench-gpu-$$suite.json && echo runs/bench-gpu-$$suite.json runs/bench-gpu-$$suite.md; \
	done
	@if command -v compute-sanitizer >/dev/null; then compute-sanitizer --error-exitcode 1 $(BIN)/python -m pytest -m gpu tests/cuda -q -n0; \
	else echo "compute-sanitizer is not on this machine: memory accesses of the kernels were not checked"; fi

lint: .venv/.installed ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.installed ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: .venv/.installed ## build dist/arch_lab-*.whl
	$(BIN)/python -m build --wheel --no-isolation

clean: ## remove build products and caches; keeps .venv and runs/
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(PACKAGES) tests -name __pycache__ -type d -prune -exec rm -rf {} +

setup: .venv/.installed ## only install

.venv/.installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "setup: no '$(PYTHON)' found; install Python 3.11 or newer, or: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) .ci/install.py
