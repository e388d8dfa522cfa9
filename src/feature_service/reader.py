"""Reads one of the source queues, whatever happens to the queue, its broker or its messages.

The service itself rejects messages beyond ``MAX_BODY``, after it has received them. A connection that takes no messages
of that size could only close the channel, and then the broker would return every message that it had sent ahead, which
counts against the delivery limit of each of them. That is left for a message beyond the connection's own
``max_message_size`` of 128 MiB: RabbitMQ takes such a message only if it is configured to, and reading fails, with a
warning at each attempt, until somebody removes it or the queue's delivery limit does.
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
"""How many messages the broker sends ahead. It bounds the bodies in memory: to 20 MiB a queue if none is beyond
``MAX_BODY``; else to 320 MiB with the 16 MiB that RabbitMQ 4 takes by default, 2.5 GiB with the 128 MiB of RabbitMQ 3.
"""
_TURN_BYTES: Final = 64 * 1024
"""Bytes of bodies that a reader takes before it lets others run. The worst body of 1 MiB takes 20 ms of CPU time."""

Handle: TypeAlias = Callable[[str, Delivery], None]
"""Takes a delivery of a queue in and settles it."""


class QueueReader:
    """Reads one queue.

    Args:
        queue: its name. It belongs to another service: declared passively, waited for while it is not there.
        connection: takes messages of any size that the broker takes, so that they can be rejected.
        handle: is given every message.
        turns: shared by all readers: one body beyond 64 KiB is taken at a time, then others run.

    Attributes:
        queue: its name.
        last_error: why the queue could not be read; None once it is read again.
        last_message_at: when the last message came, on the event loop's clock; None if none came.
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
                    async with self._turns:  # lets others run, and other readers wait
                        self._take(delivery)
            finally:
                self._consumer = None

    def _take(self, delivery: Delivery) -> None:
        self.last_message_at = anyio.current_time()
        self._handle(self.queue, delivery)
