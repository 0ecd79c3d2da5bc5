# Every target works in a clean checkout: what it needs is installed into .venv first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PYTEST := $(BIN)/pytest -q
# Tests wait more than they work: twice as many processes as there are cores.
JOBS   ?= $(shell echo $$((2 * $$(nproc 2>/dev/null || sysctl -n hw.ncpu))))

.DEFAULT_GOAL := help
.PHONY: help install demo test test-promises lint models chaos cluster cluster-test loadtest costs peers-quick dashboards docs clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{split($$1, t, ":"); printf "  make %-16s %s\n", t[1], $$2}'

install: $(STAMP) ## set up .venv with everything the other targets need

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Rowlock needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 …" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "could not make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[all]' --group test
	@touch $@

demo: install ## index a folder of real files with four workers, and kill one half-way (DIR=… for another folder)
	@$(BIN)/python examples/demo.py $(if $(DIR),"$(DIR)")

test: install lint ## all default tests, in processes side by side (JOBS=…); those on a cluster: make cluster-test
	$(PYTEST) --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder --ignore tests/cluster

test-promises: install ## the tests of the promises
	$(PYTEST) tests/promises

lint: install ## style, types, and which room imports which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache >.import-linter.log 2>&1 || { cat .import-linter.log; exit 1; }; rm -f .import-linter.log

models: install ## check the protocols' models in every order of their steps (needs spin and gcc; minutes)
	PYTHONPATH=tests $(BIN)/python -m models.checking

chaos: install ## kill, freeze, cut off and restart everything for a while, then check every history (CHAOS_SECONDS=…)
	ROWLOCK_CHAOS_SECONDS=$(or $(CHAOS_SECONDS),120) $(PYTEST) -s tests/chaos

cluster: install ## a real Kubernetes on this machine for trying things (as root; down again: make cluster DOWN=1)
	PYTHONPATH=tests $(BIN)/python -m testbed $(if $(DOWN),down,up)

cluster-test: install ## image, chart and operator on a real cluster (ROWLOCK_TEST_KUBECONFIG=… for one of yours)
	$(PYTEST) tests/cluster

loadtest: install ## what a database bears under contention, as a report in out/ (ROWLOCK_DATABASE_URL=… or an embedded Postgres; LOADTEST=--quick)
	$(BIN)/rowlock loadtest $(LOADTEST)

costs: install ## measure steps, drain, latency and replay on an embedded Postgres
	$(BIN)/python -m rowlock_loadtest

peers-quick: install ## the same beside pgbench, in interleaved rounds
	$(BIN)/python -m rowlock_loadtest --rounds 3 --beside-pgbench

dashboards: install ## generate the Grafana dashboards anew
	$(BIN)/python dashboards/generate.py

docs: install ## generate the reference in docs/sql.md anew
	$(BIN)/python docs/generate.py

clean: ## remove what the targets made
	rm -rf $(VENV) .cache build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis out
