"""Clients that others wrote do a common exercise on the embedded broker: those that the development needs anyway.

Each program in ``programs/`` declares and binds; publishes with confirms a message with headers, one of a mebibyte and
one that comes back; consumes and acknowledges; gets, requeues and gets again; asks for a queue that is missing; deletes
all and closes. It ends with an error if anything is not as on RabbitMQ. More clients: ``make test-clients``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.programs import run_on_broker

PROGRAMS = Path(__file__).parent / "programs"

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("program", ["pika_blocking.py", "pika_select.py", "py_amqp.py", "aio_pika_robust.py"])
async def test_client_does_its_exercise(program: str) -> None:
    await run_on_broker(sys.executable, PROGRAMS / program)


async def test_failed_exercise_fails_the_test(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("raise SystemExit('not as on RabbitMQ')")
    with pytest.raises(AssertionError, match="not as on RabbitMQ"):
        await run_on_broker(sys.executable, program)


async def test_exercise_that_leaves_a_queue_fails_the_test(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, pika\n"
        "with pika.BlockingConnection(pika.URLParameters(sys.argv[1])) as connection:\n"
        "    connection.channel().queue_declare('left')\n"
    )
    with pytest.raises(AssertionError, match="left"):
        await run_on_broker(sys.executable, program)
