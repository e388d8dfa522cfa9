# make demo      the service under traffic while its broker fails
# make test      all checks and all tests; installs RabbitMQ's server if the machine has none
# make check     linter, formatter, type checkers
# make diagrams  draw the life cycles anew from their tables
#
# Each needs nothing but a python3 (3.11 or later) and a package index. PYTHON=/path/to/python3 picks one.

VENV := .venv
STAMP := $(VENV)/.stamp
BIN := $(VENV)/bin
export PYTHON

.PHONY: demo test check diagrams

demo: $(STAMP)
	$(BIN)/feature-service demo

test: check
	scripts/ensure-rabbitmq
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy src tests
	$(BIN)/pyright

diagrams: $(STAMP)
	$(BIN)/python -m holdfast.diagrams

$(STAMP): pyproject.toml scripts/ensure-venv scripts/find-python
	scripts/ensure-venv
