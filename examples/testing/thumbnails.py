"""A worker on trio that makes thumbnails; a picture that cannot be read is tried three times, a minute apart."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

import anyamqp
from anyamqp import Connection, Delivery, Retry

RETRY = Retry(limit=3, delay=60.0)


async def work(connection: Connection, make: Callable[[bytes], Awaitable[None]]) -> None:
    """Make a thumbnail of each picture whose name comes, until cancelled.

    Args:
        connection: a connection to the broker.
        make: makes one thumbnail.
    """
    async with connection.channel() as channel:
        await channel.declare_queue("failed pictures")
        await channel.declare_queue("pictures", dead_letter_exchange="", dead_letter_routing_key="failed pictures")

    async def handle(delivery: Delivery) -> None:
        await make(delivery.body)

    async with connection.consumer("pictures", prefetch=4, on_error=RETRY) as consumer:
        await consumer.process(handle, concurrency=4)


async def main(url: str, make: Callable[[bytes], Awaitable[None]]) -> None:
    """The program: ``trio.run(main, url, make)``."""
    async with anyamqp.connect(url, name="thumbnails") as connection, trio.open_nursery() as nursery:
        nursery.start_soon(work, connection, make)
