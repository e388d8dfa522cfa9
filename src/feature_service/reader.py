"""Reads one source queue, through all failures of the queue, its broker and its messages.

The service receives messages beyond ``MAX_BODY`` and then rejects them. If the connection refused them instead, it
would have to close the channel, and the broker would requeue every prefetched message, which counts against the
delivery limit of each. The connection does refuse a message beyond its ``max_message_size`` of 128 MiB, which RabbitMQ
accepts only if configured so: reading then fails, with a warning at each attempt, until an operator or the queue's
delivery limit removes the message.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, TypeAlias

import anyio

import anyamqp
from anyamqp import Connection, Consumer, Delivery
from feature_service.pause import GrowingPause

_LOGGER: Final = logging.getLogger("feature_service")

_PREFETCH: Final = 20
"""How many messages the broker sends ahead. It bounds the bodies in memory: to 20 MiB per queue if none is beyond
``MAX_BODY``, else to 320 MiB with RabbitMQ 4 (messages up to 16 MiB by default) or 2.5 GiB with RabbitMQ 3 (128 MiB).
"""
_TURN_BYTES: Final = 64 * 1024
"""How many bytes of bodies a reader handles before it yields. The worst body of 1 MiB takes 20 ms of CPU time."""

Handle: TypeAlias = Callable[[str, Delivery], None]
"""Handles a delivery of the named queue, and settles it."""


class QueueReader:
    """Reads one queue.

    Args:
        queue: the queue's name. The queue belongs to another service: the reader declares it passively, and waits
            for it while it does not exist.
        connection: a connection that accepts messages of every size that the broker accepts, so that ``handle`` can
            reject them.
        handle: called with every message.
        turns: a lock that all readers share. A reader takes it for each 64 KiB of bodies, which lets other tasks run.

    Attributes:
        queue: the queue's name.
        last_error: why the queue could not be read; None once it is read again.
        last_message_at: when the last message came, on the event loop's clock; None if none has come.
    """

    def __init__(
        self,
        queue: str,
        *,
        connection: Connection,
        handle: Handle,
        turns: anyio.Lock,
    ) -> None:
        self.queue = queue
        self.last_error: anyamqp.AnyamqpError | None = None
        self.last_message_at: float | None = None
        self._connection = connection
        self._handle = handle
        self._turns = turns
        self._consumer: Consumer | None = None
        self._pause = GrowingPause()

    @property
    def is_reading(self) -> bool:
        """Whether the broker delivers the queue's messages to us now."""
        return self._consumer is not None and self._consumer.is_consuming

    async def run(self) -> None:
        """Read until cancelled.

        Raises:
            ConnectionClosed: the connection gave up.
        """
        while True:
            try:
                async with self._connection.channel() as channel:
                    await channel.declare_queue(self.queue, passive=True)
                await self._read()
            except anyamqp.ConnectionClosed:
                raise
            except anyamqp.AnyamqpError as error:
                self.last_error = error
                _LOGGER.warning(
                    "cannot read %s: %s; trying again within %.0f s", self.queue, error, self._pause.seconds
                )
            await self._pause()

    async def _read(self) -> None:
        async with self._connection.consumer(self.queue, prefetch=_PREFETCH) as consumer:
            self._consumer = consumer
            try:
                _LOGGER.info("reading %s", self.queue)
                self.last_error = None
                self._pause.reset()
                taken = 0
                async for delivery in consumer:
                    taken += len(delivery.body)
                    if taken <= _TURN_BYTES:
                        self._take(delivery)
                        continue
                    taken = 0
                    async with self._turns:  # other tasks run, other readers wait
                        self._take(delivery)
            finally:
                self._consumer = None

    def _take(self, delivery: Delivery) -> None:
        self.last_message_at = anyio.current_time()
        self._handle(self.queue, delivery)
