# Two commands: `make demo` and `make test`. Both make .venv first and are quick the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SEEDS ?= 20000
KILLS ?= 200
MINUTES ?= 10
ROUNDS ?= 3
SEED ?= 0
TRACE ?=

.PHONY: demo test check bench bench-peers seed soak differential sweep mutants chaos steady conformance clean

demo: $(STAMP)
	$(BIN)/podium run examples/repo_brief/brief.yaml --input path="$(CURDIR)"
	$(BIN)/podium ask "how is the journal fenced?" --root "$(CURDIR)"

test: $(STAMP)
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/wheel && $(BIN)/pip wheel --quiet --no-deps --wheel-dir build/wheel .
	rm -rf build/typed && $(BIN)/pip install --quiet --no-deps --target build/typed build/wheel/podium-*.whl
	cd build && MYPYPATH=typed ../$(BIN)/mypy --config-file ../pyproject.toml -p podium

bench: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[bench]"
	$(BIN)/python benchmarks/all.py

bench-peers: $(STAMP)
	$(BIN)/python benchmarks/peers/run.py --rounds $(ROUNDS)

seed: $(STAMP)
	$(BIN)/python -m tests.seed $(SEED) $(if $(TRACE),--trace)

soak: $(STAMP)
	$(BIN)/python -m tests.soak --seeds $(SEEDS)

differential: $(STAMP)
	$(BIN)/python -m tests.differential --simulated 20000 --inprocess 500 --ray 50

sweep: $(STAMP)
	$(BIN)/python -m tests.sweep

mutants: $(STAMP)
	$(BIN)/python -m tests.mutants

chaos: $(STAMP)
	$(BIN)/python -m benchmarks.chaos --kills $(KILLS)

steady: $(STAMP)
	$(BIN)/python -m benchmarks.steady --minutes $(MINUTES)

conformance: $(STAMP)
	mkdir -p build/conformance && cd build/conformance && npm install --silent --no-save node@22 @modelcontextprotocol/conformance@0.2.0-alpha.12
	$(BIN)/python -m tests.conformance --suite build/conformance

clean:
	rm -rf $(VENV) build *.egg-info .podium

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade "pip>=24" "setuptools>=77"
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[test]"
	touch $(STAMP)
