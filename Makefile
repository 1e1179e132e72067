# `make help` lists the targets. The first use makes .venv; all are quick about that the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ROOM ?=
PROCESSES ?= logical
SEED ?= 0
TRACE ?=
SEEDS ?= 20000
MACHINES ?=
KILLS ?= 200
FAULTS ?= 20
MINUTES ?= 10
ROUNDS ?= 3

# twice quiet: else each use shows a frame of warnings that setuptools has about every editable installation
INSTALL := $(BIN)/pip install -qq --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest
# a process that ends fails the run at once: replaced, it would wait for a second file for ever
XDIST := --dist loadfile --max-worker-restart=0
BESIDE := -n $(PROCESSES) $(XDIST)
FILES = $(or $(sort $(shell find tests -path '*$(ROOM)*' -name 'test_*.py')),$(error no test file has '$(ROOM)' in its path))
# those of them that have a marker: to collect all for a few costs as much as to run them
MARKED = $$(grep -l 'mark\.$(1)' $(FILES) || echo tests/__init__.py)
# 5: there were no such tests
NONE_IS_FINE := || [ $$? = 5 ]

.PHONY: help demo test test-fast tests-here tests-on-ray compiled check bench bench-peers seed soak differential sweep
.PHONY: mutants chaos chaos-machines steady conformance clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r target text; do \
		printf '  %-14s %s\n' "$$target" "$$text"; done

demo: $(STAMP) ## a briefing on this repository, written by the example workflow, on a local Ray cluster
	$(BIN)/podium run examples/repo_brief/brief.yaml --input path="$(CURDIR)"
	$(BIN)/podium ask "how is the journal fenced?" --root "$(CURDIR)"

# What needs Ray waits more than it computes, and runs beside the rest; what measures time or memory runs after both.
test: $(STAMP) compiled ## all tests; ROOM=limits: of the files with that in their path
	@ended=0; $(MAKE) --no-print-directory -k -j 2 tests-on-ray tests-here || ended=1; \
		echo; echo "== alone"; $(PYTEST) -m alone $(call MARKED,alone) $(NONE_IS_FINE) || ended=1; exit $$ended

tests-here:
	@$(PYTEST) $(BESIDE) -m "not ray and not alone" $(if $(ROOM),$(FILES)) $(NONE_IS_FINE)

tests-on-ray:
	@mkdir -p build
	@$(PYTEST) -n 3 $(XDIST) --no-loadscope-reorder -m "ray and not alone" $(call MARKED,ray) \
		> build/tests-on-ray.txt 2>&1; ended=$$?; \
		echo; echo "== on Ray"; cat build/tests-on-ray.txt; [ $$ended = 0 ] || [ $$ended = 5 ]

test-fast: $(STAMP) compiled ## the tests that need no Ray and are quick: half a minute
	@$(PYTEST) $(BESIDE) --fast -m "not ray and not alone" $(if $(ROOM),$(FILES))

# Tests start many processes; where Python is told to keep no compiled code, each would compile all of Podium again.
compiled: $(STAMP)
	@$(BIN)/python -m compileall -q podium protocols supervisors actors cluster tests benchmarks

check: $(STAMP) ## lint, format, and types against the built wheel
	$(INSTALL) -e ".[dev]"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/lib build/wheel && $(BIN)/pip wheel --quiet --no-deps --wheel-dir build/wheel .
	rm -rf build/typed && $(BIN)/pip install --quiet --no-deps --target build/typed build/wheel/podium-*.whl
	cp tests/house/typing_cases.py build/typed
	cd build && MYPYPATH=typed ../$(BIN)/mypy --config-file ../pyproject.toml -p podium -m typing_cases
	cp tests/house/typing_cases.json build/typed/pyrightconfig.json
	$(BIN)/basedpyright --pythonpath $(BIN)/python --project build/typed

bench: $(STAMP) ## all measurements of docs/performance.md
	$(INSTALL) -e ".[bench]"
	$(BIN)/python benchmarks/all.py

bench-peers: $(STAMP) ## the same work in other systems; ROUNDS=3
	$(BIN)/python benchmarks/peers/run.py --rounds $(ROUNDS)

seed: $(STAMP) ## one simulated storm, told; SEED=17, TRACE=1 for everything that happens in it
	$(BIN)/python -m tests.support.seed $(SEED) $(if $(TRACE),--trace)

soak: $(STAMP) ## many simulated storms, with the edges taken; SEEDS=20000, MACHINES=1 for those with several machines
	$(BIN)/python -m tests.support.soak --seeds $(SEEDS) $(if $(MACHINES),--machines)

differential: $(STAMP) ## random trees against an interpreter of the documentation
	$(BIN)/python -m tests.support.differential --simulated 20000 --inprocess 500 --ray 50

sweep: $(STAMP) ## an abort at every commit, frame and spawn of a run on real files
	$(BIN)/python -m tests.support.sweep

mutants: $(STAMP) ## which layer of the tests notices which planted bug
	$(BIN)/python -m tests.support.mutants

chaos: $(STAMP) ## real kills on Ray under load; KILLS=200
	$(BIN)/python -m benchmarks.chaos --kills $(KILLS)

chaos-machines: $(STAMP) ## machines that fail under load, by class, as root; FAULTS=20
	$(BIN)/python -m tests.support.machines.chaos --rounds $(FAULTS)

steady: $(STAMP) ## growth under steady load; MINUTES=10
	$(BIN)/python -m benchmarks.steady --minutes $(MINUTES)

conformance: $(STAMP) ## MCP's own suite; brings Node
	mkdir -p build/conformance && cd build/conformance && npm install --silent --no-save node@22 @modelcontextprotocol/conformance@0.2.0-alpha.12
	$(BIN)/python -m tests.support.conformance --suite build/conformance

clean: ## removes .venv and what was built
	rm -rf $(VENV) build *.egg-info .podium

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade "pip>=24" "setuptools>=77"
	$(INSTALL) -e ".[test]"
	touch $(STAMP)
