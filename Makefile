# make demo    set up a private environment and run the main job
# make check   the quick loop: lint, types, tests that need no server, under a minute
# make test    everything
# make bench   measure, beside the raw ceilings of this machine
# make bench-peers   measure, beside other queues, on servers of its own

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
REDIS_ARGS ?=
POSTGRES_ARGS ?=

# Tests and demos start Python hundreds of times: compiled once, each starts in half the time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo check test bench bench-peers lint types servers clean

demo: $(VENV)/.installed
	$(BIN)/culm demo $(ARGS)

check: lint types
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not server" $(ARGS)

test: lint types servers
	CULM_TESTS=full $(BIN)/python -m pytest -n 2 --dist worksteal --durations=15 $(ARGS)

servers: # what the tests start for themselves; installed where it is missing
	sh benchmarks/peers/install_redis.sh
	sh benchmarks/peers/install_postgres.sh
	sh benchmarks/peers/install_pooler.sh

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(VENV)/.dev
	$(BIN)/mypy

bench: $(VENV)/.bench servers
	$(BIN)/python -m benchmarks $(ARGS)
	$(BIN)/python -m benchmarks.redis $(REDIS_ARGS)
	$(BIN)/python -m benchmarks.postgres $(POSTGRES_ARGS)

bench-peers: $(VENV)/.installed servers
	$(BIN)/python -m benchmarks.peers $(ARGS)

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --group bench
	@touch $@

clean:
	rm -rf $(VENV) .bench dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
