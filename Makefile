# EdgeBus. `make install`, `make demo` and `make test` each set up all they need on a fresh machine.
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
SOURCES := edgebus workloads services scripts tests $(wildcard benchmarks)
# System packages that the tests talk to: a real broker, a real time-series store, a browser.
APT_PACKAGES := mosquitto mosquitto-clients influxdb chromium

.DEFAULT_GOAL := help
.PHONY: help install demo test check lint types imports generated compatible unit soak system schemas clean

help:  ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Variables: PYTHON=$(PYTHON) (3.11 or newer), VENV=$(VENV). Then: $(BIN)/edgebus --help"

install: $(VENV)/.all  ## Set up everything and run nothing; then: .venv/bin/edgebus --help

demo: $(VENV)/.all  ## Set up everything and close the loop once, with an embedded broker
	$(BIN)/edgebus up

test: system $(VENV)/.dev  ## Set up everything and pass the checks and the tests
	$(MAKE) check unit

check: lint types imports generated compatible  ## Style, types, imports, generated files, contracts

lint: $(VENV)/.dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

generated: $(VENV)/.dev
	$(BIN)/python scripts/generate_schemas.py --check

# Services of the last release and of this version must understand each other.
compatible: $(VENV)/.dev
	@tag=$$(git describe --tags --abbrev=0 2>/dev/null || true); \
	if [ -n "$$tag" ]; then $(BIN)/edgebus schema check --against "$$tag" --breaks-only; \
	else echo "no release yet to compare the contracts with"; fi

# Two files at a time; then, with nothing beside them, the runs that measure a world in real time.
unit: $(VENV)/.dev
	$(BIN)/pytest -n 2 --dist loadfile --ignore tests/e2e
	$(BIN)/pytest tests/e2e

soak: system $(VENV)/.dev  ## The long runs: hostile inputs, faults, kills, damage, clocks, load
	$(BIN)/python -m tests.soak fuzz
	$(BIN)/python -m tests.soak faults
	$(BIN)/python -m tests.soak cluster
	$(BIN)/python -m tests.soak kills
	$(BIN)/python -m tests.soak damage
	$(BIN)/python -m tests.soak clocks
	$(BIN)/python -m tests.soak load

schemas: $(VENV)/.all  ## Write schemas/, docs/topics.md and docs/settings.md anew
	$(BIN)/python scripts/generate_schemas.py

system:  ## Install the system packages that the tests talk to, where this user may
	@scripts/system-packages.sh $(APT_PACKAGES)

$(VENV)/bin/pip:
	@scripts/make-venv.sh "$(PYTHON)" "$(VENV)"

$(VENV)/.all: pyproject.toml | $(VENV)/bin/pip
	@scripts/install.sh "$(BIN)/pip" '.[all]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/pip
	@scripts/install.sh "$(BIN)/pip" '.[dev]'
	@touch $(VENV)/.all $@

clean:  ## Remove the virtual environment, caches and runs
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
