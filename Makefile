# Every command of the project. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help
help: ## Show the targets of this file.
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMP) ## Install everything into .venv, from the lock, by hash.

# Compiled once here: where PYTHONDONTWRITEBYTECODE is set, each of the many processes of Ray would compile torch anew.
$(STAMP): requirements.lock bootstrap.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Sightline needs Python 3.11 or newer; got $$($(PYTHON) --version). Set PYTHON=..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r bootstrap.lock
	@cat bootstrap.lock requirements.lock > .venv/all.lock
	@$(BIN)/uv pip sync --compile-bytecode --python $(BIN)/python --require-hashes .venv/all.lock
	@$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

PROTO_FILES := common errors encoder retriever generator

.PHONY: protos
protos: $(STAMP) ## Lint the protos and regenerate the stubs in sightline/v1.
	@cd protos && ../$(BIN)/buf lint
	@$(BIN)/python -m grpc_tools.protoc -I protos --python_out=. --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc --mypy_out=quiet:. --grpc_python_out=. --mypy_grpc_out=quiet:. $(PROTO_FILES:%=protos/sightline/v1/%.proto)
	@touch sightline/v1/__init__.py

.PHONY: lint
lint: $(STAMP) ## Check style and formatting.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

.PHONY: types
types: $(STAMP) ## Check types with mypy, strictly.
	@$(BIN)/mypy

# Test processes share the cores already; threads of their own would spin for the same ones.
check test: export OMP_NUM_THREADS := 1

.PHONY: check
check: lint types ## Lint, types and the fast tests.
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow and not e2e and not gpu"

PYTEST := $(BIN)/python -m pytest -q -o console_output_style=count
REGISTRY ?= var/registry
RECIPE ?= toytown-tiny
ARGS ?=

.PHONY: test
test: check ## The fast layer, then the slow and the end-to-end layer.
	@$(PYTEST) -n 2 --dist loadfile -m "slow and not e2e and not gpu"
	@$(PYTEST) -n 2 --dist loadfile -m "e2e and not gpu"

.PHONY: demo
demo: $(STAMP) ## Train, publish, serve, index, chat, hot-reload and measure; writes var/demo.
	@$(BIN)/python -m examples.demo $(ARGS)

.PHONY: train
train: $(STAMP) ## Train and publish RECIPE into REGISTRY (default: toytown-tiny, var/registry).
	@$(BIN)/python -m trainer fit $(RECIPE) --registry $(REGISTRY) $(ARGS)

# The cluster of `make up` listens on this machine only, so its own tokens are left out.
up down: export RAY_AUTH_MODE := disabled

.PHONY: up
up: $(STAMP) ## Start a local Ray cluster and the three Serve applications on port 9000.
	@$(BIN)/ray start --head --node-ip-address 127.0.0.1 --disable-usage-stats --include-dashboard=true
	@$(BIN)/serve deploy deploy/ray/serve.yaml
	@$(BIN)/python -m examples.wait_ready --address 127.0.0.1:9000

.PHONY: down
down: $(STAMP) ## Stop what `make up` started.
	@$(BIN)/serve shutdown --yes || true
	@$(BIN)/ray stop

.PHONY: chat
chat: $(STAMP) ## Talk to the bot that `make up` serves.
	@$(BIN)/sightline chat --address 127.0.0.1:9000 $(ARGS)

.PHONY: bench
bench: $(STAMP) ## Run the benchmarks; each writes JSON under bench/results.
	@$(BIN)/python -m bench.vectors
	@$(BIN)/python -m bench.encoder

.PHONY: bench-grounding
bench-grounding: $(STAMP) ## Train three seeds and the controls; mean and deviation of every score.
	@$(BIN)/python -m bench.grounding --seeds 0 1 2 --out bench/results/grounding.json

.PHONY: clean
clean: ## Remove everything that was generated, .venv included.
	@rm -rf .venv var .mypy_cache .ruff_cache dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
