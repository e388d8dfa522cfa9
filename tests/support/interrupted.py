"""A program to interrupt with Ctrl-C: ``python -m support.interrupted URL BACKEND TASK``.

It says ``ready`` and then does one of these: ``connecting``; ``busy`` publishing and consuming; waiting in the block of
a connection, ``nested`` with three channels or ``patient`` with a long close time-out.
"""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from dataclasses import replace

import anyio

import anyamqp
from anyamqp import Connection, Message, Settings


async def main(url: str, task: str) -> None:
    """Connect, and be interrupted."""
    settings = replace(Settings.from_urls(url), close_timeout=30.0 if task == "patient" else 2.0)
    if task == "connecting":
        say_ready()
    async with anyamqp.connect(settings) as connection:
        if task == "busy":
            await work(connection)
        async with AsyncExitStack() as stack:
            for _ in range(3 if task == "nested" else 0):
                await stack.enter_async_context(connection.channel())
            say_ready()
            await anyio.sleep_forever()


async def work(connection: Connection) -> None:
    """Keep the connection's tasks busy, so that a signal interrupts one of them rather than this task."""
    async with connection.channel() as channel, connection.publisher() as publisher:
        queue = await channel.declare_queue(durable=False, exclusive=True)
        async with connection.consumer(queue, no_ack=True) as consumer:
            say_ready()
            while True:
                for _ in range(100):
                    await publisher.submit(Message(b"x"), routing_key=queue.name)
                for _ in range(100):
                    await anext(consumer)


def say_ready() -> None:
    """Tell the test that the work has begun."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[3], backend=sys.argv[2])
