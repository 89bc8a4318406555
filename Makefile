# Every target prepares what it needs first (.ci/setup). ARGS is passed on: make test ARGS="-k name"
BIN := .venv/bin
ARGS ?=

# The longest a whole run may take. SIGINT, so that pytest ends its servers and prints its summary.
LIMIT ?= 40m
BOUNDED = timeout --foreground --signal=INT --kill-after=60s $(LIMIT)

# Most of a run is waiting for brokers, so three run side by side, each with brokers of its own.
# For a debugger: make test WORKERS=0
WORKERS ?= 3

.DEFAULT_GOAL := help
.PHONY: help demo test check bench chaos fmt

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 8

demo: ## kill and freeze real brokers under a running application, then under a bridge
	@.ci/setup --brokers
	@$(BIN)/python -m understudy.testing.demo $(ARGS)
	@$(BIN)/python -m understudyd.testing.joined

test: ## all tests, with real brokers, except the long fault runs
	@.ci/setup --brokers
	@$(BOUNDED) $(BIN)/pytest -m 'not slow' -n $(WORKERS) --dist worksteal --durations=15 $(ARGS)

check: ## format, lint, types, import rules and unit tests; needs no broker
	@.ci/setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest tests/unit

bench: ## measure speed beside the peers on this machine
	@.ci/setup --brokers
	@$(BIN)/python tests/bench/run.py $(ARGS)

chaos: LIMIT := 3h
chaos: ## the long fault runs
	@.ci/setup --brokers
	@$(BOUNDED) $(BIN)/pytest -m slow -o faulthandler_timeout=3600 --durations=15 $(ARGS)

fmt: ## format and fix what can be fixed
	@.ci/setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
