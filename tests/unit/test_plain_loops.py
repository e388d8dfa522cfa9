"""On an event loop that anyio did not start, as in most programs and in web servers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import trio
import uvloop

import anyamqp
from anyamqp import Message
from anyamqp.testing import Broker

QUEUE = "features.live"


async def publish_and_consume_over_a_reset() -> None:
    async with (
        Broker() as broker,
        anyamqp.connect(await broker.listen()) as connection,
        connection.channel() as channel,
        connection.publisher() as publisher,
    ):
        await channel.declare_queue(QUEUE)
        async with connection.consumer(QUEUE) as consumer:
            await publisher.publish(Message(b"before"), routing_key=QUEUE)
            delivery = await anext(consumer)
            assert delivery.body == b"before"
            delivery.ack()
            broker.reset_connections()
            assert (await publisher.publish(Message(b"after"), routing_key=QUEUE, timeout=10)).attempts
            assert (await anext(consumer)).body in (b"before", b"after")


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio.run", "uvloop.run"])
def test_a_connection_works_where_asyncio_itself_runs_the_program(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    assert "sniffio" in sys.modules, "anyio asks sniffio if it is installed, and that knows nothing outside of tasks"
    run(publish_and_consume_over_a_reset())


def test_a_connection_works_where_trio_itself_runs_the_program() -> None:
    trio.run(publish_and_consume_over_a_reset)
