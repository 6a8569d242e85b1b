.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
DATA ?= ../shared/data
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
COMPILE := $(BIN)/uv pip compile --no-header --no-annotate --quiet

.PHONY: help setup demo up test lint format proto contracts lock clean bench-ingest

help: ## what each target does
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## make .venv with the pinned packages and the `ragline` command in it

demo: $(VENV)/.ready ## the main job on real documents, in under three minutes
	@$(BIN)/python -m examples.demo

up: $(VENV)/.ready ## the whole stack in the foreground; Ctrl-C stops it
	@$(BIN)/ragline up

test: $(VENV)/.ready-dev ## run the tests
	$(BIN)/python -m pytest

bench-ingest: $(VENV)/.ready ## documents a second and freshness on the PEP change stream (DATA=folder of data sets)
	$(BIN)/python -m bench.ingest --data $(DATA) --embedder wordllama
	$(BIN)/python -m bench.ingest --data $(DATA) --embedder minilm
	$(BIN)/python -m bench.parsing --data $(DATA)

lint: $(VENV)/.ready-dev ## formatting, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint

format: $(VENV)/.ready-dev ## format the code and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: $(VENV)/.ready-dev ## generate the gRPC stubs from proto/
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I proto --python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. $$(find proto -name '*.proto' | sort)

contracts: $(VENV)/.ready-dev ## generate AsyncAPI and the Kafka topics from the events
	@$(BIN)/ragline contracts asyncapi > docs/asyncapi.yaml
	@$(BIN)/ragline contracts topics > deploy/k8s/base/kafka-topics.yaml

lock: $(VENV)/.ready-dev ## pin anew, after a change of pyproject.toml
	$(COMPILE) --universal --generate-hashes --python-version 3.11 pyproject.toml --extra local --group build -o requirements.lock
	$(COMPILE) --universal --generate-hashes --python-version 3.11 pyproject.toml --group dev -c requirements.lock -o requirements-dev.lock
	@for service in ingest embed retrieve generate eval; do $(COMPILE) --python-platform linux --python-version 3.11 pyproject.toml --extra $$service -c requirements.lock > requirements/$$service.txt || exit 1; done

clean: ## remove what the targets made (not your data in .ragline)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || { echo "Ragline needs Python 3.11 to 3.14; this is $$($(PYTHON) --version). Name another one: make PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing; on Debian: apt install python3-venv"; exit 1; }
	@echo "Installing the pinned packages into $(VENV); a minute or two the first time ..."
	@$(PIP) install --no-deps --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready requirements-dev.lock
	@$(PIP) install --no-deps --require-hashes -r requirements-dev.lock
	@touch $@
