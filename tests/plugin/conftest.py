"""A broker in the place of a RabbitMQ, for the tests of ``--amqp-url``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager

import anyio.from_thread
import pytest

from anyamqp.testing import Broker


@asynccontextmanager
async def listening() -> AsyncGenerator[Broker, None]:
    async with Broker() as broker:
        await broker.listen()
        yield broker


@pytest.fixture(scope="module")
def other_broker() -> Generator[Broker, None, None]:
    """A broker in another thread, in the place of a RabbitMQ."""
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(listening()) as broker,
    ):
        yield broker
