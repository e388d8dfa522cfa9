"""Consuming: deliveries as an async iterator.

A consumer owns a channel with its own prefetch. The task that reads the link appends deliveries to a deque, and the
iteration takes them from it; there is no task in between. After a loss the channel consumes again under the same tag.
Deliveries that the iteration has not taken belong to the old link and are dropped: the broker delivers them again. In a
stream, consuming resumes after the delivery that was taken last.

:mod:`anyamqp.protocol.subscription` decides when to consume, and :mod:`anyamqp.core.receiver` carries that out.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

import anyio
import anyio.lowlevel

from anyamqp.checks import check_choice, check_whole
from anyamqp.core.host import ChannelHost
from anyamqp.core.receiver import Receiver
from anyamqp.delivery import Delivery
from anyamqp.errors import InvalidArgument
from anyamqp.handlers import Handler, NotAwaitable, checked_handler
from anyamqp.message import FieldTable, random_id
from anyamqp.misuse import Entered
from anyamqp.net.event_loop import failure_of, interrupt_as_itself
from anyamqp.on_error import Failures, OnError, checked_policy, give_back
from anyamqp.options import StreamOffset, stream_offset_argument
from anyamqp.protocol.lifecycle.consumer import OVER, ConsumerState
from anyamqp.protocol.ports import Consuming
from anyamqp.protocol.stream_position import OFFSET
from anyamqp.protocol.subscribing import OnCancel
from anyamqp.protocol.subscription import Subscription
from anyamqp.queue import Queue, lasting_name
from anyamqp.wire import methods
from anyamqp.wire.frames import build, field_table

_TURN: Final = 64
"""Deliveries taken without a wait after which the iteration lets other tasks run."""


class Consumer(Entered):
    """Deliveries from a queue: ``async with connection.consumer("queue") as consumer: async for delivery in consumer``.

    The iteration continues over reconnects. It raises the error that ends it: :class:`ConsumerCancelled` when the
    broker cancels the consumer (its queue was deleted), :class:`NotFound` or another :class:`ReplyError` when the
    broker no longer lets it consume, :class:`ConnectionClosed` when the connection is closed for good. When the block
    ends, unsettled deliveries return to the queue.

    Made by :meth:`Connection.consumer`, which documents the arguments.
    """

    _kind = "a consumer"
    _block = "async with connection.consumer(...) as consumer"

    def __init__(
        self,
        host: ChannelHost,
        *,
        registry: set[Consuming],
        queue: Queue | str,
        prefetch: int,
        no_ack: bool,
        exclusive: bool,
        consumer_tag: str | None,
        priority: int | None,
        stream_offset: StreamOffset | None,
        arguments: FieldTable | None,
        on_cancel: OnCancel,
        on_error: OnError,
    ) -> None:
        check_whole("prefetch", prefetch, 0, 65535)
        check_choice("on_cancel", on_cancel, ("raise", "resubscribe", "end"))
        if priority is not None:
            check_whole("priority", priority, -(2**31), 2**31 - 1)
        request = build(
            methods.Basic.Consume,
            queue=lasting_name(queue, host.topology),
            consumer_tag=consumer_tag or f"anyamqp-{random_id()}",
            no_ack=no_ack,
            exclusive=exclusive,
            arguments=field_table(_arguments(arguments, priority, stream_offset)),
        )
        self._host = host
        self._consumer_tag = request.consumer_tag
        self._on_error: OnError = checked_policy(on_error)
        self._failures = Failures(host.journal)
        self._subscription = Subscription(request, prefetch=prefetch, on_cancel=on_cancel)
        self._receiver = Receiver(host, registry, request, self._subscription, self._block_failed)
        self._waiting = self._subscription.waiting
        self._position = self._subscription.position
        self._handed_out = 0
        self._hooks = self._receiver.hooks

    @property
    def _is_new(self) -> bool:
        return self._subscription.state is ConsumerState.NEW

    async def __aenter__(self) -> Self:
        self._host.loop.require_here(self._kind)
        self._check_new()
        await self._receiver.enter()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._hooks is not None:
            self._hooks.close()
        await self._receiver.close()

    def __aiter__(self) -> Self:
        self._host.loop.require_here(self._kind)  # here, because __anext__ checks it only where it waits
        return self

    async def __anext__(self) -> Delivery:
        if self._hooks is not None:
            self._hooks.next()
        self._handed_out += 1
        if self._waiting and not self._handed_out % _TURN:
            await anyio.lowlevel.checkpoint()  # so that a backlog cannot starve other tasks
        while not self._waiting:
            self._check_entered()
            self._host.loop.require_here(self._kind)
            subscription = self._subscription
            if subscription.is_reading_paused:
                self._receiver.emptied()
            if subscription.state in OVER:
                raise subscription.error or StopAsyncIteration
            waker = self._host.loop.waiter()
            subscription.wakers.add(waker)
            try:
                await waker.wait()
            finally:
                subscription.wakers.discard(waker)
        delivery = self._waiting.popleft()
        if self._position.is_stream is not False:
            self._position.follow(delivery)
        if self._hooks is not None:
            self._hooks.handed_out(delivery)
        return delivery

    @property
    def queue(self) -> str:
        """The current name of the queue."""
        return self._receiver.queue

    @property
    def consumer_tag(self) -> str:
        """The consumer's name on its channel."""
        return self._consumer_tag

    @property
    def is_consuming(self) -> bool:
        """Whether the broker delivers to it now."""
        return self._subscription.state is ConsumerState.CONSUMING

    @property
    def on_error(self) -> OnError:
        """The policy for failed deliveries, unless :meth:`process` has one of its own."""
        return self._on_error

    async def stop(self) -> None:
        """Stop consuming (basic.cancel): the iteration ends, and deliveries that it has not taken return to the queue.

        A failed delivery that waits to be requeued is requeued at once. Deliveries that the iteration has taken can be
        settled until the block ends. With ``no_ack`` none can be returned, so the iteration ends after those that have
        arrived. Takes ``close_timeout`` seconds at most.
        """
        self._check_entered()
        self._host.loop.require_here(self._kind)
        await self._receiver.stop()

    async def process(self, handler: Handler, *, concurrency: int = 1, on_error: OnError | None = None) -> None:
        """Run ``handler`` for every delivery, at most ``concurrency`` at a time, until the iteration ends.

        A delivery is acknowledged when its handler returns. An exception of a handler is logged, ``on_error`` decides
        about its delivery, and the processing continues. :meth:`stop` ends it gracefully: running handlers finish, and
        their deliveries are acknowledged. A cancellation returns the deliveries in hand to the queue; this counts as no
        failure.

        Args:
            handler: an async function of a delivery; it may settle the delivery itself.
            concurrency: how many handlers run at a time; the consumer's prefetch should be no less.
            on_error: the policy for failed deliveries instead of the consumer's own, see :data:`OnError`.

        Raises:
            InvalidArgument: an argument is out of its range, or ``handler`` is not an async function of one argument.
                For a lambda and the like this is known after its first call; its delivery is returned to the queue,
                not as a failure.
            InvalidUse: called on another event loop than the connection's, or outside the consumer's block.
            ConsumerCancelled, NotFound, ConnectionClosed: as the iteration raises them.
        """
        self._check_entered()
        self._host.loop.require_here(self._kind)
        handler = checked_handler(handler)
        check_whole("concurrency", concurrency, 1)
        policy = self._on_error if on_error is None else checked_policy(on_error)
        ends: list[BaseException] = []

        async def work() -> None:
            try:
                async for delivery in self:
                    await self._handle(delivery, handler, policy)
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as end:  # noqa: BLE001 - raised below, as itself and not in a group
                ends.append(end)
                await self.stop()

        with interrupt_as_itself():
            async with anyio.create_task_group() as workers:
                for _ in range(concurrency):
                    workers.start_soon(work)
        if ends:
            raise ends[0]

    async def fail(self, delivery: Delivery, error: Exception) -> None:
        """Treat a delivery of this consumer as one whose handler raised: log the error, and let ``on_error`` decide.

        Args:
            delivery: the delivery; nothing happens to one that is settled.
            error: the reason.
        """
        self._host.journal.handler_failed(self.queue, error)
        if self._hooks is not None:
            self._hooks.failed(delivery, error)
        if not delivery.is_settled:
            await self._failures.settle(delivery, error, self._on_error, self.queue)

    async def _handle(self, delivery: Delivery, handler: Handler, on_error: OnError) -> None:
        try:
            await handler(delivery)
        except NotAwaitable as refused:
            give_back(delivery)
            raise InvalidArgument(str(refused)) from None
        except BaseException as raised:
            error = failure_of(raised)
            if error is None:
                give_back(delivery)
                if isinstance(raised, Exception):
                    await anyio.lowlevel.checkpoint()  # raises the cancellation that the handler turned into an error
                raise
            self._host.journal.handler_failed(self.queue, error)
            if self._hooks is not None:
                self._hooks.failed(delivery, error)
            if not delivery.is_settled:
                await self._failures.settle(delivery, error, on_error, self.queue)
        else:
            if delivery.redelivered:
                self._failures.succeeded(delivery)
            if not delivery.is_settled:
                delivery.ack()

    async def _block_failed(self, delivery: Delivery, raised: BaseException) -> None:
        error = failure_of(raised)
        if error is None:
            give_back(delivery)
        else:
            await self._failures.settle(delivery, error, self._on_error, self.queue)


def _arguments(
    arguments: FieldTable | None, priority: int | None, stream_offset: StreamOffset | None
) -> FieldTable | None:
    table = field_table(arguments)
    given = {
        "x-priority": priority,
        OFFSET: None if stream_offset is None else stream_offset_argument(stream_offset),
    }
    for key, value in given.items():
        if value is not None and key in table:
            raise InvalidArgument(f"{key}: given as a keyword and in arguments; one of them is enough")
    return {**table, **{key: value for key, value in given.items() if value is not None}}
