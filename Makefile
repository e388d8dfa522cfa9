# make demo      the service under traffic while its broker fails
# make test      all checks and all tests; installs RabbitMQ's server if the machine has none
# make check     linter, formatter, type checkers
# make diagrams  draw the life cycles anew from their tables
# make bench            holdfast beside the other clients and a bare socket: writes docs/benchmarks.md (about 15 minutes)
# make bench-quick      one short round of the same, to the terminal (two minutes)
# make bench-micro      codec, confirms ledger and session by themselves, without a broker
# make bench-growth     what a message costs as everything grows, and what things weigh: docs/growth.md, docs/memory.md
#                       (about 7 minutes)
# make bench-recovery   from a reset to the first new confirm: docs/recovery.md (about 10 minutes)
# make bench-startup    importing and connecting: docs/startup.md (two minutes)
#
# Each needs nothing but a python3 (3.11 or later) and a package index. PYTHON=/path/to/python3 picks one.

VENV := .venv
STAMP := $(VENV)/.stamp
BIN := $(VENV)/bin
export PYTHON

.PHONY: demo test check diagrams bench bench-quick bench-growth bench-micro bench-recovery bench-startup

demo: $(STAMP)
	$(BIN)/feature-service demo

test: check
	scripts/ensure-rabbitmq
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy src tests benchmarks
	$(BIN)/pyright

diagrams: $(STAMP)
	$(BIN)/python -m holdfast.diagrams

bench: $(STAMP)
	scripts/ensure-rabbitmq
	$(BIN)/python -m benchmarks

bench-quick: $(STAMP)
	scripts/ensure-rabbitmq
	$(BIN)/python -m benchmarks --quick

bench-growth: $(STAMP)
	scripts/ensure-rabbitmq
	$(BIN)/python -m benchmarks.growth
	$(BIN)/python -m benchmarks.memory

bench-micro: $(STAMP)
	$(BIN)/python -m pytest tests/benchmarks --benchmark-enable --benchmark-only

bench-recovery: $(STAMP)
	scripts/ensure-rabbitmq
	$(BIN)/python -m benchmarks.recovery

bench-startup: $(STAMP)
	scripts/ensure-rabbitmq
	$(BIN)/python -m benchmarks.startup

$(STAMP): pyproject.toml scripts/ensure-venv scripts/find-python
	scripts/ensure-venv
