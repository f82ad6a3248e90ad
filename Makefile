# The two commands: `make report` and `make test`. Both make their own environment in .venv first.
#
#   make report              extraction and all notebooks, to reports/index.html
#   make report ARGS="..."   the same with arguments of `sslsim run`, such as ARGS="layers -p frames=5000"
#   make test                lint, types and tests (about 4 minutes on two cores)
#   make test-all            every test, the slow ones too (about 15 minutes more)
#   make bench               benchmarks, to tests/benchmarks/results.md (about 35 minutes; ARGS="pairs grid" for some)
#   make lab                 JupyterLab on the notebooks
#   make clean               remove the environment and the reports
#
# PYTHON=python3.12 chooses the interpreter, VENV=dir the environment's folder, and PIP_FLAGS="..." is passed to
# pip, for instance to name another package index.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete

.PHONY: report test test-all bench lab clean

report: $(STAMP)
	$(BIN)/sslsim run $(ARGS)

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

test-all: $(STAMP)
	$(BIN)/python -m pytest

bench: $(STAMP)
	$(BIN)/python tests/benchmarks/run.py $(ARGS)

lab: $(STAMP)
	$(BIN)/jupyter lab --notebook-dir=. notebooks/tutorial.ipynb

# pyproject.toml says what is needed, constraints.txt which versions are known to work together
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and \
	    "sslsim needs Python 3.11 or later, $(PYTHON) is %d.%d; name another: make PYTHON=python3.12 ..." % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) --constraint constraints.txt --editable ".[test]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) reports
