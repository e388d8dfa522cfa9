"""Consuming: deliveries as an async iterator.

A consumer owns a channel with its own prefetch. Deliveries go from the reader's task into a deque, and from there to
whoever iterates; there is no task in between. After a loss the channel consumes again under the same tag. What was
delivered but not yet handed out belongs to the old link and is dropped: the broker delivers it again.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

import anyio
from pamqp import commands

from holdfast.channel import Attachment, Channel, ChannelOwner, Queue, Recorder
from holdfast.errors import (
    AccessRefused,
    ConsumerCancelled,
    HoldfastError,
    InvalidArgument,
    InvalidUse,
    ReplyError,
    ResourceLocked,
)
from holdfast.link import Link
from holdfast.message import Delivery, FieldTable, Message
from holdfast.protocol.wire import Method, build, field_table

DEFAULT_PREFETCH: Final = 100

_PAUSE_AT = 1000
"""Deliveries held for a consumer without acknowledgements, which no prefetch limits, before reading pauses."""


class Consumer(ChannelOwner):
    """Deliveries from a queue: ``async with connection.consumer("queue") as consumer: async for delivery in consumer``.

    The iteration goes on over reconnects. It raises what ends it: :class:`ConsumerCancelled` when the broker cancels
    the consumer (its queue was deleted), :class:`NotFound` or another :class:`ReplyError` when the queue cannot be
    consumed from any more, :class:`ConnectionClosed` when the connection is closed for good. When the block ends, what
    was not settled goes back to the queue.

    Args:
        new_channel: makes a channel that works for the consumer.
        registry: the connection's consumers.
        recorder: knows the present name of the queue.
        lock_grace: for how many seconds after a loss the queue may be locked by our own earlier link.
        queue: the queue or its name.
        prefetch: how many deliveries may be unsettled; 0 for no limit.
        no_ack: the broker forgets messages as it sends them; a loss loses what was on its way. A reader that is too
            slow then makes the whole connection pause reading, because no prefetch slows the broker down.
        exclusive: nobody else may consume from the queue.
        consumer_tag: the consumer's name; a random one if None.
        arguments: such as ``{"x-priority": 10}``.

    Raises:
        InvalidArgument: AMQP cannot carry an argument.
    """

    def __init__(
        self,
        new_channel: Callable[[ChannelOwner], Channel],
        *,
        registry: set[Consumer],
        recorder: Recorder,
        lock_grace: Callable[[], float],
        queue: Queue | str,
        prefetch: int = DEFAULT_PREFETCH,
        no_ack: bool = False,
        exclusive: bool = False,
        consumer_tag: str | None = None,
        arguments: FieldTable | None = None,
    ) -> None:
        if not 0 <= prefetch <= 65535:
            raise InvalidArgument(f"prefetch: {prefetch} is not between 0 and 65535")
        self._registry = registry
        self._recorder = recorder
        self._new_channel = new_channel
        self._lock_grace = lock_grace
        self._may_be_locked_until = 0.0
        self._queue = recorder.first_name(queue.name if isinstance(queue, Queue) else queue)
        self._prefetch = prefetch
        self._no_ack = no_ack
        self._consumer_tag = consumer_tag or f"holdfast-{uuid.uuid4().hex}"
        self._consume = build(
            commands.Basic.Consume,
            queue=self._queue,
            consumer_tag=self._consumer_tag,
            no_ack=no_ack,
            exclusive=exclusive,
            arguments=field_table(arguments),
        )
        self._waiting: deque[Delivery] = deque()
        self._news = anyio.Event()
        self._error: HoldfastError | None = None
        self._has_been_entered = False
        self._is_closed = False
        self._paused: Link | None = None
        self._channel = new_channel(self)

    async def __aenter__(self) -> Self:
        if self._has_been_entered:
            raise InvalidUse("a consumer is entered once; make a new one with connection.consumer()")
        self._has_been_entered = True
        self._registry.add(self)
        try:
            await self._channel.open()
        except BaseException:
            self._registry.discard(self)
            self._channel.begin_close()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._registry.discard(self)
        self._is_closed = True
        self._waiting.clear()
        self._wake()
        self._resume_reading()
        await self._channel.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delivery:
        if not self._has_been_entered:
            raise InvalidUse("a consumer works inside its block: async with connection.consumer(...) as consumer")
        while not self._waiting:
            self._resume_reading()
            if self._error is not None:
                raise self._error
            if self._is_closed:
                raise StopAsyncIteration
            await self._news.wait()
        return self._waiting.popleft()

    @property
    def queue(self) -> str:
        """The present name of the queue."""
        return self._recorder.present_name(self._queue)

    @property
    def consumer_tag(self) -> str:
        """The consumer's name on its channel."""
        return self._consumer_tag

    def fail(self, error: HoldfastError) -> None:
        """The queue could not be recovered."""
        self._channel.shut(error)

    # --- what the channel tells -------------------------------------------------------------------------------------

    def setup(self) -> Sequence[Method]:
        self._consume.queue = self.queue
        return [commands.Basic.Qos(prefetch_count=self._prefetch), self._consume]

    def on_ready(self) -> None:
        """A consumer has nothing to send."""

    def on_content(self, method: Method, message: Message, attachment: Attachment) -> None:
        if not isinstance(method, commands.Basic.Deliver):
            return
        self._waiting.append(
            Delivery(
                message,
                exchange=method.exchange,
                routing_key=method.routing_key or "",
                delivery_tag=method.delivery_tag or 0,
                redelivered=bool(method.redelivered),
                consumer_tag=method.consumer_tag,
                settler=None if self._no_ack else attachment,
            )
        )
        self._wake()
        if len(self._waiting) >= _PAUSE_AT and (self._no_ack or not self._prefetch) and self._paused is None:
            self._paused = attachment.link
            attachment.link.pause_reading(self)

    def on_method(self, method: Method) -> None:
        if isinstance(method, commands.Basic.Cancel):
            self._end(ConsumerCancelled(f"the broker cancelled the consumer of queue {self.queue!r}: is it deleted?"))

    def on_lost(self) -> None:
        self._may_be_locked_until = anyio.current_time() + self._lock_grace()
        self._drop_waiting()

    def on_failed(self, error: HoldfastError) -> None:
        self._drop_waiting()
        is_locked = isinstance(error, ResourceLocked) or (self._consume.exclusive and isinstance(error, AccessRefused))
        if is_locked and not self._is_closed and anyio.current_time() < self._may_be_locked_until:
            # Recovery tries again: an exclusive consumer of our own may still be there, on a link that only we know
            # to be dead.
            self._channel = self._new_channel(self)
            try:
                self._channel.register()
            except HoldfastError as refused:
                self._end(refused)
            return
        self._end(error if isinstance(error, ReplyError) else self._channel.closed_error())

    def _drop_waiting(self) -> None:
        if not self._no_ack:
            self._waiting.clear()
        self._resume_reading()

    def _end(self, error: HoldfastError) -> None:
        if self._error is None:
            self._error = error
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    def _resume_reading(self) -> None:
        if self._paused is not None:
            self._paused.resume_reading(self)
            self._paused = None
