"""SIGTERM: the process stops reading, publishes the waiting vectors, closes cleanly, and exits with 0."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import anyio
import pytest

from anyamqp.testing import Broker
from feature_service.settings import SOURCES
from support.waiting import eventually

pytestmark = pytest.mark.anyio


async def test_sigterm_ends_the_service_with_a_clean_close(anyio_backend_name: str) -> None:
    async with Broker() as broker:
        url = await broker.listen()
        environment = {
            **os.environ,
            "RABBITMQ_URL": url,
            "HEALTH_PORT": "0",
            "FEATURE_BACKEND": anyio_backend_name,
        }
        command = [sys.executable, "-m", "feature_service", "run"]
        async with await anyio.open_process(command, env=environment, stderr=subprocess.PIPE) as process:
            with anyio.fail_after(30):
                await eventually(lambda: broker.connection_count == 2 and "features.live" in broker.queues, within=20)
                assert not set(SOURCES) & set(broker.queues)
                process.send_signal(signal.SIGTERM)
                assert await process.wait() == 0
        await eventually(lambda: broker.connection_count == 0)
        assert broker.unexpected_closes == []
