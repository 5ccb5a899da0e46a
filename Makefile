# make run    start foreman in front of the Ollama that answers, else of a small model on this CPU
# make test   everything that can be tested here; the last lines say what was skipped for want of what
# make check  format, lint, types, import floors
# make faults kill -9 and the like (QUICK=1: a minute or two)   make bench  what the relay costs, as ratios
# make soak   traffic for MINUTES=10, memory printed            make setup  the venv with all tools
# make docs   what the docs hold that is made from the code
# PYTHON=python3.12 picks a Python, ARGS='…' goes to pytest, the bench or foreman run, JOBS=1 tests in one process.

VENV ?= .venv
BIN := $(VENV)/bin
MINUTES ?= 10
# Test files side by side: most of a test's time is waiting, so more than the cores of a small machine.
JOBS ?= 4
export VENV
export FOREMAN_TEST_NODE_MODULES ?= $(CURDIR)/.cache/node/node_modules

# QUICK=1 leaves out the tests marked slow and a story that `make test` tells, and runs the others side by side: they wait more than they work. Whole, the
# fault run has the machine for itself: it measures how long things take.
QUICK_ARGS := $(if $(QUICK),-m "not slow" -n 3 --dist loadfile --no-loadscope-reorder,)

.PHONY: docs run setup check test faults bench soak

run:
	@scripts/setup run
	@exec $(BIN)/foreman run $(ARGS)

setup:
	@scripts/setup dev

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup
	@scripts/test-parts
	$(BIN)/python -m pytest tests --ignore=tests/faults -n $(JOBS) --dist loadfile $(ARGS)

faults: setup
	$(BIN)/python -m pytest $(wildcard tests/faults) $(if $(QUICK),,tests/walkthrough/test_kill.py) $(QUICK_ARGS) $(ARGS)

bench: setup
	$(BIN)/python tests/bench/run.py $(ARGS)

soak: setup
	$(BIN)/python tests/bench/soak.py --minutes $(MINUTES) $(ARGS)

docs: setup
	$(BIN)/python scripts/docs
