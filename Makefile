# make demo   run the demo              make check   the gate: lint, format, types, import rules
# make test   run all tests             make bench   measure against other libraries
# make docs   write the parts of docs/ that are made from the code
# make clean  remove what make made     make test-python313   the unit tests on Python 3.13
#
# Options for the program behind a target go in ARGS:  make demo ARGS=--stay    make test ARGS="-k delay -x"
# Tests run in several processes; files and tests that ARGS names, and with -s, in one. ARGS="-n 3" says how many.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
# Each process of a test run, and each program that it starts, would compile all modules again.
export PYTHONDONTWRITEBYTECODE :=
RABBITMQ40 := .cache/rabbitmq-4.0
PYTHON313 := .cache/python-3.13
VENV313 := .cache/venv-3.13

.PHONY: help
help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -7

# A stamp is left by the last install that succeeded; a newer pyproject.toml makes the next one.
.venv/.stamp-%: pyproject.toml tools/venv.sh
	@PYTHON='$(PYTHON)' tools/venv.sh $*

.PHONY: demo
demo: .venv/.stamp-run
	@$(BIN)/broker-jobs demo $(ARGS)

.PHONY: servers
servers:
	@tools/servers.sh rabbitmq postgres prometheus nginx compose systemd libfaketime chromium

.PHONY: test
test: .venv/.stamp-dev servers
	@$(PYTEST) -n auto $(ARGS)

# The tests that talk to a broker, again, on RabbitMQ 4.0; which database is behind makes no difference there.
.PHONY: test-rabbitmq40
test-rabbitmq40: .venv/.stamp-dev servers $(RABBITMQ40)/.complete
	@BROKER_JOBS_TEST_RABBITMQ=4.0 $(PYTEST) $(wildcard tests/conformance tests/integration tests/fuzz tests/deploy/test_rabbitmq_roles.py \
		tests/deploy/test_rights.py) \
		-n auto -m "rabbitmq and not postgres" $(ARGS)

$(RABBITMQ40)/.complete:
	@tools/rabbitmq40.sh $(RABBITMQ40)

# The unit tests, again, with the oldest versions of every dependency that pyproject.toml allows. What those warn of in
# the newer packages under them (an old typer on a new click) is not ours.
.PHONY: test-lowest
test-lowest: pyproject.toml
	@tools/lowest.sh .cache/lowest
	@.cache/lowest/bin/python -m pytest tests/unit -W ignore::DeprecationWarning $(ARGS)

# The unit tests on Python 3.13, where this machine's is older. Not part of .ci/run: with the tree and the environment
# that it makes first it takes about three minutes.
.PHONY: test-python313
test-python313: $(VENV313)/.stamp-dev
	@$(VENV313)/bin/python -m pytest -n auto tests/unit $(ARGS)

$(VENV313)/.stamp-dev: $(PYTHON313)/.complete pyproject.toml tools/venv.sh
	@VENV=$(VENV313) PYTHON=$(PYTHON313)/usr/bin/python3.13 tools/venv.sh dev

$(PYTHON313)/.complete:
	@tools/python313.sh $(PYTHON313)

.PHONY: check
check: .venv/.stamp-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy $(wildcard broker_jobs tests benchmarks deploy examples)
	@$(BIN)/pyright
	@$(PYTEST) -q tests/test_map.py tests/test_words.py

# The whole system under faults at random, for minutes. Part of no other target.
.PHONY: storm
storm: .venv/.stamp-dev
	@tools/servers.sh rabbitmq postgres
	@$(BIN)/python -m tests.storm $(ARGS)

# Jobs that hang, crash and hog beside innocent ones, for minutes. Part of no other target.
.PHONY: soak
soak: .venv/.stamp-dev
	@tools/servers.sh rabbitmq
	@$(BIN)/python -m tests.soak $(ARGS)

# Hostile messages of every type, in-process, for minutes. Part of no other target.
.PHONY: fuzz
fuzz: .venv/.stamp-dev
	@tools/servers.sh postgres
	@$(BIN)/python -m tests.fuzz $(ARGS)

.PHONY: docs
docs: .venv/.stamp-dev
	@$(BIN)/python tools/docs.py $(ARGS)

.PHONY: bench
bench: .venv/.stamp-bench
	@tools/servers.sh rabbitmq
	@$(BIN)/python -m benchmarks $(ARGS)

.PHONY: clean
clean:
	@rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@if [ -d .cache ]; then rm -rf --one-file-system .cache; fi
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
