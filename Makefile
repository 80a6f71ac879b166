# Two commands do everything on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
WORKERS ?= 2

.PHONY: run test test-slow test-postgres lint bench docs clean setup

run: $(READY)            ## the whole loop on the sample feed, embedded, approving the promotion
	$(BIN)/feedloop run --yes

.PHONY: up
up: $(READY)             ## Prefect, MLflow and a worker with their pages, on the sample feed, until Ctrl-C
	$(BIN)/feedloop up

test: $(READY)           ## every fast test, on real local backends
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-slow: $(READY)      ## simulations and whole runs of minutes
	$(BIN)/python -m pytest -m slow

test-postgres: $(READY)  ## what runs on a team's servers, fast and slow, with Prefect and MLflow on a real PostgreSQL
	$(BIN)/python -m pytest --on-postgres -m "slow or not slow" tests/deployments/test_*_on_a_server.py tests/deployments/test_edits_while_waiting.py

lint: $(READY)           ## style, layers, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)          ## speed as ratios, side by side in one run
	$(BIN)/python -m benchmarks

docs: $(READY)           ## regenerate the settings and command reference
	$(BIN)/python -m docs.generate

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "feedloop needs Python 3.11 or newer; run make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(READY)

clean:                   ## remove what was built and the embedded workspace of the sample feed
	rm -rf $(VENV) .feedloop build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
