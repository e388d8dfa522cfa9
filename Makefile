# make demo      the service under traffic while its broker fails
# make test      all checks and all tests with their branch coverage; installs RabbitMQ's server if the machine has none
# make test-rabbitmq4   the broker and conformance tests on RabbitMQ 4.0 and 4.3, which it fetches once: scripts/ensure-rabbitmq4
#                       (make test-rabbitmq-4.3: on one of them)
# make test-python3.13  all tests that need no RabbitMQ on Python 3.13, which it fetches if the machine has none
# make dist      both distributions in dist/, checked, installed in a clean environment and tried
# make test-clients     the embedded broker under the clients of others: kombu, Celery, AMQPStorm, and two for Node,
#                       all of which it installs; needs node and npm
# make check     linter, formatter, type checkers
# make law       change each cell of each table, and see that a test fails: writes docs/law.md (about 4 minutes)
# make explore   play every order of events against the core, up to a depth: writes docs/explore.md (about 3 minutes)
# make planted   plant fifty bugs, one at a time, and see which fast test finds each: writes docs/planted.md (about an hour)
# make simulate  run worlds of connections, a broker and faults in virtual time: SEEDS=1-100 MINUTES=10 (docs/simulate.md)
# make rows      play the scenes that take each row of the tables, on both loops: writes docs/rows.md (10 seconds)
# make docs      the site in build/site, from docs/ and the docstrings; a broken link is an error
# make diagrams  draw the life cycles anew from their tables
# make bench            anyamqp beside the other clients and a bare socket: writes docs/benchmarks.md (about 15 minutes)
# make bench-quick      one short round of the same, to the terminal (two minutes)
# make bench-micro      codec, confirms ledger and session by themselves, without a broker
# make bench-growth     what a message costs as everything grows, and what things weigh: docs/growth.md, docs/memory.md
#                       (about 7 minutes)
# make bench-recovery   from a loss to the first new confirm: docs/recovery.md (about 15 minutes)
# make bench-profile    where anyamqp's CPU time goes in each case: writes docs/profile.md, which is not in git
#                       (a minute)
# make bench-startup    importing and connecting: docs/startup.md (two minutes)
#
# Each needs nothing but a python3 (3.11 or later) and a package index. PYTHON=/path/to/python3 picks one.

VENV := .venv
DEMO := $(VENV)/.demo
DEV := $(VENV)/.dev
CLIENTS := $(VENV)/.clients
BIN := $(VENV)/bin
export PYTHON

# Three workers, because many tests wait for a broker. Files in their order, with the slow ones of tests/broker first.
# A test that hangs ends its worker, and xdist gives it to the next one: once more is enough.
PARALLEL := -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 1

# The tests that start no RabbitMQ.
FAST := tests/unit tests/state tests/simulation tests/service tests/worlds tests/plugin tests/extras

.PHONY: demo dist docs test test-python3.13 test-rabbitmq4 test-clients check diagrams explore law rows simulate planted bench bench-quick bench-growth bench-micro bench-profile bench-recovery bench-startup

demo: $(DEMO)
	$(BIN)/feature-service demo

test: check
	scripts/ensure-rabbitmq
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report= --cov-fail-under=0
	$(BIN)/coverage report --include='src/anyamqp/*'
	$(BIN)/coverage report --include='src/feature_service/*' --fail-under=84

test-rabbitmq4: test-rabbitmq-4.0 test-rabbitmq-4.3

test-rabbitmq-%: $(DEV)
	scripts/ensure-rabbitmq4 $*
	RABBITMQ_SCRIPTS=$$(scripts/ensure-rabbitmq4 --scripts $*) $(BIN)/python -m pytest $(PARALLEL) tests/broker tests/conformance \
		-k "not embedded"

test-python3.13:
	scripts/with-python3.13 -m pytest $(PARALLEL) $(FAST)

dist: $(DEV)
	scripts/check-distributions

test-clients: $(CLIENTS)
	$(BIN)/python -m pytest tests/clients tests/clients/extra_clients.py

check: $(DEV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy src tests benchmarks tools examples
	$(BIN)/pyright

docs: $(DEV)
	$(BIN)/python -m tools.errors_page
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

diagrams: $(DEV)
	$(BIN)/python -m tools.diagrams

rows: $(DEV)
	PYTHONPATH=tests $(BIN)/python -m support.scenes.report

explore: $(DEV)
	$(BIN)/python -m tools.explore

planted: $(DEV)
	$(BIN)/python -m tools.planted

law: $(DEV)
	$(BIN)/python -m tools.law

SEEDS := 1-100
MINUTES := 10

simulate: $(DEV)
	$(BIN)/python -m tools.simulate --seeds $(SEEDS) --minutes $(MINUTES)

bench: $(DEV)
	scripts/ensure-rabbitmq
	$(BIN)/python -m benchmarks

bench-quick: $(DEV)
	scripts/ensure-rabbitmq
	$(BIN)/python -m benchmarks --quick

bench-growth: $(DEV)
	scripts/ensure-rabbitmq
	$(BIN)/python -m benchmarks.growth
	$(BIN)/python -m benchmarks.memory

bench-micro: $(DEV)
	$(BIN)/python -m pytest tests/benchmarks --benchmark-enable --benchmark-only

bench-profile: $(DEV)
	scripts/ensure-rabbitmq
	$(BIN)/python -m benchmarks.profiling

bench-recovery: $(DEV)
	scripts/ensure-rabbitmq
	$(BIN)/python -m benchmarks.recovery

bench-startup: $(DEV)
	scripts/ensure-rabbitmq
	$(BIN)/python -m benchmarks.startup

$(DEMO) $(DEV) $(CLIENTS): pyproject.toml src/feature_service/pyproject.toml scripts/ensure-venv scripts/find-python
	scripts/ensure-venv $(patsubst $(VENV)/.%,%,$@)
