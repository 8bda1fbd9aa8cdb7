# Everything starts here; `make help` lists the commands. Each sets up .venv first when that is needed.
PYTHON ?= python3
STUDY ?= quickstart
WORKERS ?= 2
BIN := .venv/bin
PACKAGES := arch_lab blocks experiments

.DEFAULT_GOAL := help
.PHONY: help compare test test-all bench-gpu lint format wheel clean setup

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

compare: .venv/.installed ## run a study (STUDY=quickstart) and write its report to runs/
	$(BIN)/arch-lab compare $(STUDY)

test: .venv/.installed ## tests that fit in a coffee break (WORKERS=2 processes)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-all: .venv/.installed ## the same and the slow ones; GPU tests where there is a GPU
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m ""

bench-gpu: .venv/.installed ## Gemma 3 training steps against transformers, on CUDA; rows to runs/bench-gpu.json
	@mkdir -p runs
	@$(BIN)/arch-lab bench gemma_gpu --json > runs/bench-gpu.json.part || { code=$$?; rm -f runs/bench-gpu.json.part; exit $$code; }
	@mv runs/bench-gpu.json.part runs/bench-gpu.json && echo runs/bench-gpu.json

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
