# Nothing but Python >= 3.11, make and a C++ compiler is needed.
#   make demo   sets up and walks the whole way on this machine
#   make test   sets up and passes the checks and tests

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUDGET ?= 5m
OUT ?= runs/demo

.PHONY: demo test check slow clean

demo: $(VENV)/.stamp
	$(BIN)/weft demo --budget $(BUDGET) --out $(OUT)

# Ranks of several processes, and kernels of several threads.
ALL_CORES := tests/parallel tests/ops tests/engine/test_invariance.py

# The other files lie side by side, a thread each: most tests wait as long as they compute.
test: $(VENV)/.stamp-dev check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(addprefix --ignore=,$(ALL_CORES))
	$(BIN)/python -m pytest $(ALL_CORES)

check: $(VENV)/.stamp-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

slow: $(VENV)/.stamp-dev
	$(BIN)/python -m pytest -m slow

# torch comes first and alone: asked for through another package, the registry may answer with a GPU build.
$(VENV)/.stamp: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==$$(sed -n 's/^torch==//p' constraints.txt)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[data]'
	touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[data,dev]'
	touch $@

clean:
	rm -rf $(VENV)
