# Two commands on a fresh machine: `make demo` and `make test`. Everything else is for developers.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LM_EVAL := .lm-eval

.PHONY: help venv demo test test-long lint format docs lock wheel clean

help:
	@echo "make demo       train the quickstart's adapter and compare the answers before and after"
	@echo "make test       all tests but the long ones"
	@echo "make test-long  the long ones too"
	@echo "make lint       ruff and mypy"
	@echo "make format     format the code"
	@echo "make docs       the guide as a site, in docs/_build"
	@echo "make lock       renew the lock file of the container image"
	@echo "make wheel      a wheel in dist/"
	@echo "make clean      remove what make has made"

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "packtrain needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Making $(VENV) (downloads PyTorch; some minutes the first time) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip --disable-pip-version-check install -c constraints.txt -e '.[gguf,gke,qlora,dev]' \
	  | grep --line-buffered -E '^(Collecting|Installing collected)' | cut -c -100
	@touch $@

$(LM_EVAL)/.installed: tests/lm-eval.txt $(STAMP)
	@rm -rf $(LM_EVAL)
	@$(BIN)/python -m pip --disable-pip-version-check install -q --no-deps --target $(LM_EVAL) -r tests/lm-eval.txt
	@touch $@

demo: $(STAMP)
	@rm -rf demo
	@mkdir demo
	@$(BIN)/packtrain init quickstart --output demo/quickstart.yaml
	@cd demo && ../$(BIN)/packtrain train quickstart.yaml --run-dir run

# The models of the tests are tiny: more threads would only wait for each other.
test test-long: export OMP_NUM_THREADS ?= 1
# Beside each other, as many as there are cores (tests/conftest.py). A file is one worker's: what its tests
# share is made once. In the order in which they are found, the files with long tests are not the last.
test test-long: BESIDE := -n auto --dist loadfile --no-loadscope-reorder

test: $(STAMP) $(LM_EVAL)/.installed
	@$(BIN)/python -m pytest $(BESIDE) -m 'not long'

test-long: $(STAMP) $(LM_EVAL)/.installed
	@$(BIN)/python -m pytest $(BESIDE)

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(STAMP)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: $(STAMP)
	@$(BIN)/python -m sphinx -q -W --keep-going docs docs/_build
	@echo "The guide is in docs/_build/index.html"

lock: $(STAMP)
	@$(BIN)/python tests/image_lock.py

wheel: $(STAMP)
	@$(BIN)/python -m build --wheel

clean:
	@rm -rf $(VENV) $(LM_EVAL) demo dist build docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	@find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
