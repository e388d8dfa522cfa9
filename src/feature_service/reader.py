"""Reads one of the source queues, whatever happens to the queue, its broker or its messages.

A message beyond ``MAX_BODY`` would stand at the head of its queue for ever: the reading connection takes none of that
size, and what it did not receive it cannot reject. So the messages at the head are fetched one by one over another
connection, which takes what the broker takes, until that message has been rejected.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, TypeAlias

import anyio

import anyamqp
from anyamqp import Connection, Consumer, Delivery
from feature_service.events import MAX_BODY
from feature_service.pause import GrowingPause

_LOGGER: Final = logging.getLogger("feature_service")

_PREFETCH: Final = 100
_TURN_BYTES: Final = 64 * 1024
"""Bytes of bodies that a reader takes before it lets others run. The worst body of 1 MiB takes 20 ms of CPU time."""

Handle: TypeAlias = Callable[[str, Delivery], None]
"""Takes a delivery of a queue in and settles it."""


class QueueReader:
    """Reads one queue.

    Args:
        queue: its name. It belongs to another service: declared passively, waited for while it is not there.
        connection: reads messages up to ``MAX_BODY``.
        connect_for_large: makes a connection that reads larger ones too.
        handle: is given every message.
        turns: shared by all readers: one body beyond 64 KiB is taken at a time, then others run.

    Attributes:
        queue: its name.
        oversized: messages beyond ``MAX_BODY`` that were rejected.
        last_error: why reading stopped last; None if it never did.
        last_message_at: when the last message came, on the event loop's clock; None if none came.
    """

    def __init__(
        self,
        queue: str,
        *,
        connection: Connection,
        connect_for_large: Callable[[], Connection],
        handle: Handle,
        turns: anyio.Lock,
    ) -> None:
        self.queue = queue
        self.oversized = 0
        self.last_error: anyamqp.AnyamqpError | None = None
        self.last_message_at: float | None = None
        self._connection = connection
        self._connect_for_large = connect_for_large
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
            except anyamqp.ContentTooLarge as error:
                self.last_error = error
                _LOGGER.warning("%s: %s; it is rejected", self.queue, error)
                if await self._reject_oversized():
                    continue
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

    async def _reject_oversized(self) -> bool:
        """Fetch messages until none of them is beyond ``MAX_BODY``. Returns whether one was."""
        found = False
        try:
            async with self._connect_for_large() as connection, connection.channel() as channel:
                # It was delivered to the consumer, so it is among the first messages, as many as were prefetched.
                for _ in range(_PREFETCH):
                    delivery = await channel.get(self.queue)
                    if delivery is None:
                        break
                    is_oversized = len(delivery.body) > MAX_BODY
                    self._take(delivery)
                    if is_oversized:
                        found = True
                        self.oversized += 1
                    elif found:
                        break
        except anyamqp.AnyamqpError as error:
            self.last_error = error
            _LOGGER.warning("%s: the message that is too large cannot be rejected: %s", self.queue, error)
        return found

    def _take(self, delivery: Delivery) -> None:
        self.last_message_at = anyio.current_time()
        self._handle(self.queue, delivery)
