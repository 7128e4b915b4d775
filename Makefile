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

$(STAMP): requirements.lock bootstrap.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Sightline needs Python 3.11 or newer; got $$($(PYTHON) --version). Set PYTHON=..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r bootstrap.lock
	@cat bootstrap.lock requirements.lock > .venv/all.lock
	@$(BIN)/uv pip sync --python $(BIN)/python --require-hashes .venv/all.lock
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

.PHONY: check
check: lint types ## Lint, types and the fast tests.
	@$(BIN)/python -m pytest -q -m "not slow and not e2e and not gpu"
