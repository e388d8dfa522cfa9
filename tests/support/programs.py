"""Programs with other AMQP clients, run against the embedded broker over TCP."""

from __future__ import annotations

import subprocess
from pathlib import Path

import anyio

from anyamqp.testing import Broker, eventually
from anyamqp.testing.embedded.versions import Version

LIMIT = 60.0
"""Seconds that a program may take."""


async def run_on_broker(
    interpreter: str, program: Path, *arguments: str, version: Version = "3.10", is_tidy: bool = True
) -> None:
    """Run a program with the broker's URL as its first argument.

    Args:
        interpreter: runs the program.
        program: its source.
        arguments: its further arguments.
        version: the version of RabbitMQ that the broker follows.
        is_tidy: whether it has to close its connections and delete its queues.

    Raises:
        AssertionError: the program failed, did not close its connections by AMQP's handshake, or left queues.
        TimeoutError: it took too long.
    """
    with anyio.fail_after(LIMIT):
        async with Broker(version=version) as broker:
            command = [interpreter, str(program), await broker.listen(), *arguments]
            done = await anyio.run_process(command, stderr=subprocess.STDOUT, check=False)
            assert done.returncode == 0, done.stdout.decode(errors="replace")
            await eventually(lambda: not broker.connections)
            if is_tidy:
                assert not broker.unexpected_closes, f"not closed by a handshake: {broker.unexpected_closes}"
                assert not broker.queues, f"queues are left: {list(broker.queues)}"
