"""Clients that the development does not need otherwise: kombu, Celery, AMQPStorm, Node's amqplib and rabbitmq-client.

Run by ``make test-clients``, which installs them. The name keeps the file out of the ordinary run.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from anyamqp.testing.embedded.versions import RULES, Version
from support.programs import run_on_broker

PROGRAMS = Path(__file__).parent / "programs"
NODE_FOLDER = Path(sys.prefix) / "node"

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("version", RULES)]


@pytest.mark.parametrize("program", ["kombu_messages.py", "amqpstorm_blocking.py"])
async def test_client_does_its_exercise(program: str, version: Version) -> None:
    await run_on_broker(sys.executable, PROGRAMS / program, version=version)


async def test_celery_works_retries_and_returns_results(version: Version) -> None:
    await run_on_broker(sys.executable, PROGRAMS / "celery_app.py", version=version, is_tidy=False)


@pytest.mark.parametrize("program", ["amqplib.mjs", "rabbitmq_client.mjs"])
async def test_client_for_node_does_its_exercise(program: str, version: Version) -> None:
    await run_on_broker("node", PROGRAMS / program, str(NODE_FOLDER), version=version)
