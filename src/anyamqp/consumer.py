"""Consuming: deliveries as an async iterator.

A consumer owns a channel with its own prefetch. Deliveries go from the reader's task into a deque, and from there to
whoever iterates; there is no task in between. After a loss the channel consumes again under the same tag. What was
delivered but not yet handed out belongs to the old link and is dropped: the broker delivers it again. A stream is read
on behind what was handed out last.

What ends a consumer and what does not:

* a loss, and an error of its channel that is not its own doing to begin with (an acknowledgement that took longer than
  the broker allows, a tag that it does not know): it consumes again, and what was delivered before is stale;
* the broker cancels it although its queue is there (RabbitMQ 4.3 does so when an acknowledgement takes too long): the
  same. It asks for the queue first, and consumes again on a new channel, because on the old one RabbitMQ refuses the
  consumer tag (530) and ignores late acknowledgements without a word;
* the broker cancels it because its queue was deleted or moved: as ``on_cancel`` says;
* the broker refuses to let it consume (no such queue, no permission), sends a message larger than
  ``max_message_size``, or far more messages than the prefetch allows: the iteration raises that.
"""

from __future__ import annotations

import inspect
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias, TypeVar

import anyio
import anyio.lowlevel

from anyamqp.channel import Queue, checked_name
from anyamqp.checks import check_choice, check_whole
from anyamqp.core.attachment import Attachment
from anyamqp.core.channel import ChannelHost, ChannelOwner, Consuming, LogicalChannel
from anyamqp.errors import (
    AccessRefused,
    AnyamqpError,
    ChannelClosed,
    ChannelLimitReached,
    ConsumerCancelled,
    InvalidArgument,
    InvalidUse,
    MalformedProperties,
    NotFound,
    PreconditionFailed,
    ReplyError,
    ResourceLocked,
    Side,
)
from anyamqp.failures import Failures, OnError, checked_policy, give_back
from anyamqp.message import Delivery, FieldTable, random_id
from anyamqp.misuse import Entered
from anyamqp.net.event_loop import Waiter, failure_of, interrupt_as_itself
from anyamqp.net.link import Link
from anyamqp.options import StreamOffset, stream_offset_argument
from anyamqp.protocol.contents import delivery_of
from anyamqp.protocol.events import Content
from anyamqp.protocol.lifecycle import State
from anyamqp.wire import methods
from anyamqp.wire.frames import Method, build, field_table

T = TypeVar("T")

OnCancel: TypeAlias = Literal["raise", "resubscribe", "end"]
"""What a consumer does when the broker cancels it: raise :class:`ConsumerCancelled`, wait for its queue to come back,
or end the iteration."""

Handler: TypeAlias = Callable[[Delivery], Awaitable[object]]
"""An async function that handles a delivery."""

DEFAULT_PREFETCH: Final = 100

_PAUSE_AT = 1000
"""Deliveries held for a consumer that no prefetch limits before reading pauses."""

_EXCESS = 4
_MORE_EXCESS = 100
"""So many times its prefetch and so many more may be delivered to a consumer before the broker is taken to be broken. A
mirrored queue delivers again, beside what is unsettled, whenever another of its nodes takes over."""

_TURN: Final = 64
"""Deliveries that were there already, after which iterating lets others run."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
"""Seconds between attempts to consume from a queue that is not there."""

_OFFSET: Final = "x-stream-offset"
_MARGIN: Final = 5.0
"""Seconds before its beginning from which a consumer reads a stream again: the clocks of a cluster's nodes differ a
little, and basic.consume takes a while to reach the broker."""

_YOUNG = 1.0
_MOST_YOUNG_ENDS = 3
"""A channel that is closed for an error so many times in a row within so many seconds of its opening is given up."""


class Consumer(Entered, ChannelOwner):
    """Deliveries from a queue: ``async with connection.consumer("queue") as consumer: async for delivery in consumer``.

    The iteration goes on over reconnects. It raises what ends it: :class:`ConsumerCancelled` when the broker cancels
    the consumer (its queue was deleted), :class:`NotFound` or another :class:`ReplyError` when the queue cannot be
    consumed from any more, :class:`ConnectionClosed` when the connection is closed for good. When the block ends, what
    was not settled goes back to the queue.

    Made by :meth:`Connection.consumer`, which tells of the arguments.
    """

    _block = "async with connection.consumer(...) as consumer"

    def __init__(
        self,
        host: ChannelHost,
        *,
        registry: set[Consuming],
        queue: Queue | str,
        prefetch: int = DEFAULT_PREFETCH,
        no_ack: bool = False,
        exclusive: bool = False,
        consumer_tag: str | None = None,
        priority: int | None = None,
        stream_offset: StreamOffset | None = None,
        arguments: FieldTable | None = None,
        on_cancel: OnCancel = "raise",
        on_error: OnError = "requeue",
    ) -> None:
        check_whole("prefetch", prefetch, 0, 65535)
        check_choice("on_cancel", on_cancel, ("raise", "resubscribe", "end"))
        if priority is not None:
            check_whole("priority", priority, -(2**31), 2**31 - 1)
        self._host = host
        self._registry = registry
        self._may_be_locked_until = 0.0
        self._queue = host.recorder.first_name(queue.name if isinstance(queue, Queue) else checked_name(queue))
        self._prefetch = prefetch
        self._most_unsettled = _EXCESS * prefetch + _MORE_EXCESS if prefetch and not no_ack else math.inf
        self._pause_at = _PAUSE_AT if no_ack or not prefetch else max(_PAUSE_AT, _EXCESS * prefetch + _MORE_EXCESS)
        self._no_ack = no_ack
        self._on_cancel: OnCancel = on_cancel
        self._on_error: OnError = checked_policy(on_error)
        self._failures = Failures(host.journal)
        self._consumer_tag = consumer_tag or f"anyamqp-{random_id()}"
        self._consume = build(
            methods.Basic.Consume,
            queue=self._queue,
            consumer_tag=self._consumer_tag,
            no_ack=no_ack,
            exclusive=exclusive,
            arguments=field_table(_arguments(arguments, priority, stream_offset)),
        )
        self._waiting: deque[Delivery] = deque()
        self._news: set[Waiter] = set()
        """Of those who wait for a delivery."""
        self._returning: list[Delivery] = []
        """What :meth:`stop` gives back when the broker has answered basic.cancel."""
        self._handed_out = 0
        self._is_stream: bool | None = None
        """Not known before the first delivery of a channel."""
        self._error: AnyamqpError | None = None
        self._asked_at = (0.0, 0.0)
        """When basic.consume was sent last, on the event loop's clock and on the system's."""
        self._next_since: tuple[float, float] | None = None
        """When it was first sent to a stream that is read from what comes next, until a delivery is handed out."""
        self._margin = _MARGIN
        self._has_been_entered = False
        self._has_consumed = False
        self._is_over = False
        """Whether the iteration ends when nothing waits any more."""
        self._is_cancelled = False
        """Whether the broker has cancelled it on its channel, and has not said yet whether the queue is still there."""
        self._opened_at = 0.0
        self._young_ends = 0
        self._pause = _FIRST_PAUSE
        self._awaits_queue = False
        """Whether the queue was not there when it was last asked for."""
        self._paused: Link | None = None
        self._channel = LogicalChannel(host, self)

    async def __aenter__(self) -> Self:
        self._host.loop.require_here("a consumer")
        if self._has_been_entered:
            raise InvalidUse("a consumer is entered once; make a new one with connection.consumer()")
        self._has_been_entered = True
        self._registry.add(self)
        try:
            self._channel.register()
            await self._wait_consuming()
        except BaseException:
            self._registry.discard(self)
            self._channel.begin_close()
            raise
        return self

    async def _wait_consuming(self) -> None:
        """Wait until the broker delivers; no longer than until it is known that the queue is to be waited for."""
        while not self._awaits_queue:
            channel = self._channel
            try:
                await channel.wait_usable()
            except (ChannelClosed, ReplyError):
                if self._is_over and self._has_consumed:
                    return  # the iteration tells how it ended
                if self._is_over or (self._channel is channel and not self._awaits_queue):
                    raise
            else:
                return

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._registry.discard(self)
        try:
            await self.stop()
        finally:
            self._waiting.clear()
            await self._channel.close()

    def __aiter__(self) -> Self:
        self._host.loop.require_here("a consumer")  # once, instead of for every delivery that waits
        return self

    async def __anext__(self) -> Delivery:
        if not self._has_been_entered:
            raise InvalidUse(f"a consumer works inside its block: {self._block}")
        self._handed_out += 1
        if self._waiting and not self._handed_out % _TURN:
            await anyio.lowlevel.checkpoint()  # a backlog is not to keep the event loop from everybody else
        while not self._waiting:
            self._host.loop.require_here("a consumer")
            self._resume_reading()
            if self._error is not None:
                raise self._error
            if self._is_over:
                raise StopAsyncIteration
            news = self._host.loop.waiter()
            self._news.add(news)
            try:
                await news.wait()
            finally:
                self._news.discard(news)
        delivery = self._waiting.popleft()
        if self._is_stream is not False:
            self._follow_stream(delivery)
        return delivery

    @property
    def queue(self) -> str:
        """The present name of the queue."""
        return self._host.recorder.present_name(self._queue)

    @property
    def consumer_tag(self) -> str:
        """The consumer's name on its channel."""
        return self._consumer_tag

    @property
    def is_consuming(self) -> bool:
        """Whether the broker delivers to it now."""
        return self._channel.state in (State.OPEN, State.BLOCKED) and not self._is_over and not self._is_cancelled

    @property
    def on_error(self) -> OnError:
        """What becomes of deliveries that fail, unless :meth:`process` is told otherwise."""
        return self._on_error

    async def stop(self) -> None:
        """Take no more: the iteration ends, and what it did not hand out goes back to the queue.

        A failed delivery that waits for its return goes back at once. What was handed out can be settled until the
        block ends. With ``no_ack`` nothing can go back, so what has
        arrived is still handed out. Takes ``close_timeout`` seconds at most (basic.cancel).
        """
        self._host.loop.require_here("a consumer")
        if self._is_over:
            return
        self._finish(None)
        channel = self._channel
        if channel.state not in (State.OPEN, State.BLOCKED):
            channel.begin_close()
            return
        self._returning = self._take_waiting()
        try:
            await channel.last_request(build(methods.Basic.Cancel, consumer_tag=self._consumer_tag))
        finally:
            # Behind basic.cancel: before it, the broker would deliver all of this to this very consumer again.
            self._give_back(self._returning)

    async def process(self, handler: Handler, *, concurrency: int = 1, on_error: OnError | None = None) -> None:
        """Run ``handler`` for every delivery, at most ``concurrency`` at a time, until the iteration ends.

        A delivery is acknowledged when its handler returns. What a handler raises is logged, ``on_error`` says what
        becomes of its delivery, and the processing goes on. :meth:`stop` ends the processing gracefully: handlers that
        run are waited for, and what they return is acknowledged. A cancellation gives what is being handled back to
        the queue, and counts as no failure.

        Args:
            handler: an async function of a delivery; it may settle the delivery by itself.
            concurrency: how many run at a time; the consumer's prefetch should be at least that.
            on_error: instead of the consumer's own, see :data:`OnError`.

        Raises:
            InvalidArgument: an argument is out of its range, or ``handler`` is not an async function of one argument.
                Of a lambda and the like this shows when it has run once; its delivery goes back, not as a failure.
            InvalidUse: called on another event loop than the connection's, or outside the consumer's block.
            ConsumerCancelled, NotFound, ConnectionClosed: what the iteration raises.
        """
        self._host.loop.require_here("a consumer")
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

    async def _handle(self, delivery: Delivery, handler: Handler, on_error: OnError) -> None:
        try:
            await handler(delivery)
        except _NotAwaitable as refused:
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

    def fail(self, error: AnyamqpError) -> None:
        """The queue could not be recovered."""
        self._channel.shut(error)

    def cancel(self) -> None:
        """The connection is about to be closed: have the broker deliver no more, and wait for nothing."""
        if self.is_consuming:
            self._channel.tell(build(methods.Basic.Cancel, consumer_tag=self._consumer_tag, nowait=True))

    def give_back(self) -> None:
        """Return what was not handed out, which the end of the channel would count as failed. After :meth:`cancel`."""
        self._give_back([*self._returning, *self._take_waiting()])

    def on_connection_closed(self, error: AnyamqpError) -> None:
        """Nothing will come any more; told also while there is no channel, because the queue is waited for."""
        self._finish(error)

    # --- what the channel tells -------------------------------------------------------------------------------------

    def setup(self) -> Sequence[Method]:
        if self._is_over:
            return []
        return [methods.Basic.Qos(prefetch_count=self._prefetch), self._consume_now()]

    def on_opened(self) -> None:
        self._is_stream = None  # the queue may be another one, of the same name
        self._is_cancelled = False
        self._opened_at = anyio.current_time()
        taken = self._opened_at - self._asked_at[0]
        if self._next_since is None:
            self._next_since = self._asked_at if self._begins_at_next() else None
        elif taken > self._margin:
            # The broker counted the interval back from a time later than it was meant for.
            self._margin = 2 * taken
            self._leave_channel()
            self._resubscribe()
            return
        self._pause = _FIRST_PAUSE
        self._awaits_queue = False
        if not self._has_consumed:
            self._has_consumed = True
            self._host.recorder.consumer_started(self._queue)

    def on_ready(self) -> None:
        """A consumer has nothing to send."""

    def on_contents(self, contents: Sequence[Content], attachment: Attachment) -> None:
        attachment.on_failed = self._block_failed
        settler = None if self._no_ack else attachment
        deliveries = [
            delivery_of(method, message, settler)
            for method, message in contents
            if isinstance(method, methods.Basic.Deliver)
        ]
        if self._is_over and not self._no_ack:
            for delivery in deliveries:
                delivery.nack(requeue=True)
            return
        self._waiting.extend(deliveries)
        self._wake()
        attachment.delivered += len(deliveries)
        held = max(len(self._waiting), attachment.unsettled)
        if held > self._most_unsettled and not (deliveries and self._is_of_stream(deliveries[-1])):
            text = f"delivered {held:g} messages without settlement to a consumer whose prefetch is {self._prefetch}"
            error = PreconditionFailed(f"the broker {text}", method="basic.deliver", found_by=Side.CLIENT)
            self._channel.refuse(error)
        elif len(self._waiting) >= self._pause_at and self._paused is None:
            self._paused = attachment.link
            attachment.link.pause_reading(self)

    def on_method(self, method: Method) -> None:
        if not isinstance(method, methods.Basic.Cancel) or self._is_over:
            return
        if self._on_cancel == "resubscribe":
            self._leave_channel()
            self._resubscribe_later()
            return
        self._is_cancelled = True
        self._channel.ask(build(methods.Queue.Declare, queue=self.queue, passive=True), self._on_queue_found)

    def on_lost(self, error: AnyamqpError | None) -> None:  # noqa: ARG002
        self._may_be_locked_until = anyio.current_time() + self._host.lock_grace
        self._drop_waiting()

    def on_failed(self, error: AnyamqpError) -> None:
        if self._is_cancelled and isinstance(error, NotFound):
            self._finish(self._cancelled(error))  # what waits is all that is left of the queue: still handed out
            return
        self._drop_waiting()
        if self._is_over:
            return
        if self._is_locked_by_us(error):
            # Recovery tries again: an exclusive consumer of our own may still be there, on a link that only we know
            # to be dead.
            self._resubscribe()
        elif isinstance(error, NotFound) and self._host.will_declare(self._queue):
            self._resubscribe()
        elif isinstance(error, NotFound) and self._on_cancel == "resubscribe":
            self._resubscribe_later()
        elif isinstance(error, NotFound) and self._on_cancel == "end" and self._has_consumed:
            self._finish(None)
        elif self._may_go_on_after(error):
            self._resubscribe()
        else:
            self._finish(error if isinstance(error, ReplyError) else self._channel.closed_error())

    # --- inside -----------------------------------------------------------------------------------------------------

    def _is_locked_by_us(self, error: AnyamqpError) -> bool:
        is_locked = isinstance(error, ResourceLocked) or (self._consume.exclusive and isinstance(error, AccessRefused))
        return is_locked and anyio.current_time() < self._may_be_locked_until

    def _may_go_on_after(self, error: AnyamqpError) -> bool:
        """Whether the channel failed for something else than what the consumer is made for.

        Mostly that is a delivery whose acknowledgement took longer than the broker's ``consumer_timeout``.
        """
        if not isinstance(error, ReplyError) or error.found_by is Side.CLIENT or not self._channel.has_been_open:
            return False
        if error.method in ("basic.consume", "basic.qos"):
            return False
        return self._has_lived()

    def _has_lived(self) -> bool:
        """Whether an end of the channel is not one of too many in a row soon after its opening."""
        is_young = anyio.current_time() - self._opened_at < _YOUNG
        self._young_ends = self._young_ends + 1 if is_young else 0
        return self._young_ends < _MOST_YOUNG_ENDS

    def _on_queue_found(self, _: Method) -> None:
        """The broker cancelled the consumer, but not because its queue is gone."""
        if self._is_over or not self._is_cancelled:
            return
        if not self._has_lived():
            self._finish(self._cancelled(None))
            return
        self._host.journal.consumer_cancelled(self.queue)
        self._leave_channel()
        self._resubscribe()

    def _cancelled(self, cause: AnyamqpError | None) -> ConsumerCancelled | None:
        """What the iteration ends with when the broker has cancelled the consumer for good."""
        if self._on_cancel == "end":
            return None
        why = "which is there, again and again" if cause is None else "which is gone"
        error = ConsumerCancelled(f"the broker cancelled the consumer of queue {self.queue!r}, {why}")
        error.__cause__ = cause
        return error

    def _leave_channel(self) -> None:
        """Give back what waits, without counting it as failed as a closed channel does, and close the channel."""
        self._give_back(self._take_waiting())
        self._channel.begin_close()
        self._resume_reading()

    def _take_waiting(self) -> list[Delivery]:
        if self._no_ack:
            return []
        taken = list(self._waiting)
        self._waiting.clear()
        return taken

    def _give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Return deliveries that nobody has handled, and those whose pause after a failure has not ended."""
        for delivery in deliveries:
            if not delivery.is_stale:
                delivery.nack(requeue=True)
        if self._channel.attachment is not None:
            self._channel.attachment.release()

    def _resubscribe_later(self) -> None:
        self._awaits_queue = True
        self._host.later(self._pause, self._resubscribe)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _resubscribe(self) -> None:
        if self._is_over:
            return
        self._channel = LogicalChannel(self._host, self)
        try:
            self._channel.register()
        except ChannelLimitReached:
            self._resubscribe_later()
        except AnyamqpError as refused:
            self._finish(refused)

    def _drop_waiting(self) -> None:
        if not self._no_ack:
            self._waiting.clear()
        self._resume_reading()

    def _finish(self, error: AnyamqpError | None) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._error = error
        if self._has_consumed:
            self._host.recorder.consumer_ended(self._queue)
        self._wake()
        self._resume_reading()

    @staticmethod
    def _is_of_stream(delivery: Delivery) -> bool:
        """Whether it comes from a stream, of which the broker delivers whole chunks, whatever the prefetch."""
        try:
            return delivery.stream_offset is not None
        except MalformedProperties:
            return False

    def _consume_now(self) -> methods.Basic.Consume:
        """The request to consume; from a stream of which nothing was handed out yet, from where it began."""
        self._asked_at = anyio.current_time(), time.time()
        if self._next_since is None:
            return self._consume
        # An interval, because the broker takes it from its own clock. Of ours the monotonic one stops while the machine
        # sleeps, and the other one may be set back.
        away = max(now - then for now, then in zip(self._asked_at, self._next_since, strict=True))
        offset = f"{math.ceil(away + self._margin)}s"
        return self._consume.replace(arguments={**self._consume.arguments, _OFFSET: offset})

    def _begins_at_next(self) -> bool:
        offset = self._consume.arguments.get(_OFFSET)
        return offset == "next" or (offset is None and self._host.recorder.is_stream(self._queue))

    def _follow_stream(self, delivery: Delivery) -> None:
        """Remember where to go on after a loss, if the queue is a stream."""
        try:
            offset = delivery.stream_offset
        except MalformedProperties:
            return
        self._is_stream = offset is not None
        if offset is not None:
            self._consume = self._consume.replace(arguments={**self._consume.arguments, _OFFSET: offset + 1})
            self._next_since = None

    def _wake(self) -> None:
        for news in self._news:
            news.set()

    def _resume_reading(self) -> None:
        if self._paused is not None:
            self._paused.resume_reading(self)
            self._paused = None


class _NotAwaitable(Exception):
    """A handler that could not be told to be async returned nothing to await."""


def checked_handler(handler: Callable[[Delivery], Awaitable[T]]) -> Callable[[Delivery], Awaitable[T]]:
    """Refuse a handler that cannot work, before a message is lost to it.

    Returns:
        The handler; one that cannot be told to be async, such as a lambda, with a check of its result.

    Raises:
        InvalidArgument: it is known not to be async, or does not take one argument by position.
    """
    function: Any = handler
    while isinstance(function, partial):
        function = function.func
    if not callable(function):
        raise InvalidArgument(f"handler: {handler!r} is not a function")
    name = getattr(function, "__qualname__", type(function).__qualname__)
    _check_takes_one(name, handler)
    called = function if inspect.isroutine(function) else type(function).__call__
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(inspect.unwrap(called)):
        return handler
    # A lambda may well return what an async function returns, and so may what is not written in Python.
    is_plain = inspect.isroutine(function) or inspect.isfunction(called)
    if is_plain and getattr(function, "__name__", "") != "<lambda>":
        raise InvalidArgument(_not_async(name))

    async def checked(delivery: Delivery) -> T:
        result = handler(delivery)
        if not inspect.isawaitable(result):
            raise _NotAwaitable(f"{_not_async(name)}; it returned {type(result).__name__}")
        return await result

    return checked


def _not_async(name: str) -> str:
    return (
        f"handler: {name} is not an async function; define it with 'async def', and run what blocks in a thread with "
        "anyio.to_thread.run_sync"
    )


def _check_takes_one(name: str, handler: Callable[..., object]) -> None:
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        return  # nothing says what it takes
    try:
        signature.bind(object())
    except TypeError:
        raise InvalidArgument(
            f"handler: {name}{signature} does not take one argument by position, the delivery"
        ) from None


def _arguments(
    arguments: FieldTable | None, priority: int | None, stream_offset: StreamOffset | None
) -> FieldTable | None:
    table = field_table(arguments)
    given = {
        "x-priority": priority,
        _OFFSET: None if stream_offset is None else stream_offset_argument(stream_offset),
    }
    for key, value in given.items():
        if value is not None and key in table:
            raise InvalidArgument(f"{key}: given as a keyword and in arguments; one of them is enough")
    return {**table, **{key: value for key, value in given.items() if value is not None}}
