"""Request and reply: RabbitMQ, "Direct Reply-to".

The client consumes from the pseudo-queue ``amq.rabbitmq.reply-to`` and publishes requests on the same channel; replies
find it without any queue being declared. The address of a reply belongs to a channel of one link, so a reply to a
request that was sent before a loss cannot arrive any more: the call then fails, or is sent again if it may be.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from types import TracebackType
from typing import Final, Never, Self

import anyio

from anyamqp.checks import check_flag, check_kind, check_seconds
from anyamqp.consumer import Consumer, checked_handler
from anyamqp.core.attachment import Attachment
from anyamqp.core.channel import ChannelHost, ChannelOwner, LogicalChannel
from anyamqp.errors import (
    AnyamqpError,
    ChannelClosed,
    ConnectionClosed,
    ConnectionLost,
    InvalidArgument,
    InvalidUse,
    MalformedProperties,
    RemoteError,
    ReplyError,
    ReplyTimeout,
    copy_of,
    printable,
)
from anyamqp.failures import Decision, OnError, checked_policy, decide
from anyamqp.message import Delivery, Message, check_message, random_id
from anyamqp.misuse import Entered, surplus_error
from anyamqp.net.event_loop import Waiter
from anyamqp.net.timers import Deadlines
from anyamqp.protocol.contents import delivery_of, unroutable_of
from anyamqp.protocol.events import Content
from anyamqp.protocol.reconnect import Reopenings
from anyamqp.publication import UNSET, Unset, deadline_after, until
from anyamqp.publisher import Publisher
from anyamqp.wire import methods
from anyamqp.wire.basic import Route, Routes, encode_properties
from anyamqp.wire.frames import Method, build

REPLY_TO: Final = "amq.rabbitmq.reply-to"
DEFAULT_TIMEOUT: Final = 60.0
_MOST_ATTEMPTS = 3
_ERROR_HEADER: Final = "x-anyamqp-error"
"""Holds the name of an error's type, in a reply whose body is the error's text."""
_LONGEST_ERROR_TEXT = 4096


class _Call:
    """A request that waits for its reply."""

    __slots__ = ("attempts", "body", "deadline", "done", "is_sent", "outcome", "properties", "route", "seconds")

    def __init__(
        self, route: Route, properties: bytes, body: bytes, done: Waiter, seconds: float | None, deadline: float | None
    ) -> None:
        self.route = route
        self.properties = properties
        self.body = body
        self.done = done
        self.seconds = seconds
        self.deadline = deadline
        self.attempts = 0
        self.is_sent = False
        self.outcome: Delivery | AnyamqpError | None = None

    def settle(self, outcome: Delivery | AnyamqpError) -> None:
        if self.outcome is None:
            self.outcome = outcome
            self.done.set()

    def time_out(self) -> None:
        sent = "sent" if self.attempts else "never sent"
        self.settle(ReplyTimeout(f"no reply within {self.seconds} s; the request was {sent}"))


class RpcClient(Entered, ChannelOwner):
    """Calls that are answered: ``async with connection.rpc_client() as rpc: reply = await rpc.call(...)``.

    Made by :meth:`Connection.rpc_client`, which tells of the arguments.
    """

    _block = "async with connection.rpc_client() as rpc"

    def __init__(self, host: ChannelHost, *, timeout: float | None = DEFAULT_TIMEOUT, resend: bool = False) -> None:
        check_seconds("timeout", timeout, none="for ever")
        check_flag("resend", resend)
        self._host = host
        self._timeout = timeout
        self._resend = resend
        self._calls: dict[str, _Call] = {}
        self._unsent: OrderedDict[str, _Call] = OrderedDict()
        """Those that wait to be sent."""
        self._id_prefix = f"{random_id()}-"
        self._ids = count(1)
        self._deadlines = Deadlines(host.later, self._expire)
        self._routes = Routes()
        self._channel = LogicalChannel(host, self)
        self._reopenings = Reopenings()
        self._closed: AnyamqpError | None = None
        self._has_been_entered = False

    async def __aenter__(self) -> Self:
        self._host.loop.require_here("an RPC client")
        if self._has_been_entered:
            raise InvalidUse("an RPC client is entered once; make a new one with connection.rpc_client()")
        self._has_been_entered = True
        try:
            await self._channel.open()
        except BaseException:
            self._channel.begin_close()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close(ChannelClosed("the RPC client is closed"))
        self._deadlines.cancel()
        await self._channel.close()

    async def call(
        self,
        message: Message,
        *surplus: Never,
        exchange: str = "",
        routing_key: str = "",
        timeout: float | Unset | None = UNSET,
    ) -> Delivery:
        """Send a request and wait for its reply.

        Args:
            message: the request; without a ``correlation_id`` it gets a random one. Its ``reply_to`` is set here.
            surplus: nothing: all else is given by name.
            exchange: where to publish it; empty for the default exchange, which routes to the queue named by the key.
            routing_key: the routing key, often the name of the server's queue.
            timeout: seconds to wait for the reply, reconnects included, instead of the client's own; None for ever.

        Returns:
            The reply; it needs no acknowledgement.

        Raises:
            Unroutable: no queue took the request.
            RemoteError: the server answered with an error.
            ReplyTimeout: no reply in time.
            ConnectionLost: a loss caught the call, and it may not be sent again: the server may have done it or not.
            ConnectionClosed: the connection is closed.
            ReplyError: what the broker closed the channel for, such as :class:`NotFound` for a missing exchange.
            InvalidArgument: AMQP cannot carry the message, or a call with that ``correlation_id`` is under way.
        """
        if surplus:
            raise surplus_error(RpcClient.call)
        if not self._has_been_entered:
            raise InvalidUse(f"an RPC client works inside its block: {self._block}")
        self._host.loop.require_here("an RPC client")
        check_message(message, self._host.max_message_size)
        fresh_id = f"{self._id_prefix}{next(self._ids)}"
        properties = message.properties
        correlation_id = properties.correlation_id or fresh_id
        if correlation_id in self._calls:
            raise InvalidArgument(f"correlation_id: a call with {correlation_id!r} is under way")
        encoded = encode_properties(
            properties,
            correlation_id=correlation_id,
            reply_to=REPLY_TO,
            message_id=fresh_id if properties.message_id is None else properties.message_id,
        )
        seconds = self._timeout if isinstance(timeout, Unset) else timeout
        loop = self._host.loop
        deadline = deadline_after(loop.now(), seconds)
        route = self._routes.get(exchange, routing_key, mandatory=True)
        call = _Call(route, encoded, message.body, loop.waiter(), seconds, deadline)
        if self._closed is not None:
            raise copy_of(self._closed)
        self._calls[correlation_id] = call
        self._unsent[correlation_id] = call
        self._deadlines.add(deadline)
        try:
            attachment = self._channel.attachment
            if attachment is not None and attachment.link.is_full:
                with until(deadline) as scope:
                    await attachment.link.wait_not_full()
                if scope.cancelled_caught:
                    call.time_out()
            self._send_waiting()
            if call.outcome is None:
                await call.done.wait()
        except BaseException:
            call.time_out()  # cancelled: nobody waits for it any more, so it is not sent either
            raise
        finally:
            del self._calls[correlation_id]
            self._unsent.pop(correlation_id, None)
        if isinstance(call.outcome, Delivery):
            if (error := _remote_error(call.outcome)) is not None:
                raise error
            return call.outcome
        raise call.outcome or InvalidUse("the call has no outcome")

    # --- sending and settling; nothing below waits ------------------------------------------------------------------

    def _send_waiting(self) -> None:
        while self._unsent and self._channel.can_publish:
            _, call = self._unsent.popitem(last=False)
            if call.outcome is not None:
                continue
            try:
                self._channel.publish(call.route, call.properties, call.body)
            except InvalidArgument as error:
                call.settle(error)
                continue
            call.is_sent = True
            call.attempts += 1
        self._channel.flush(is_awaited=len(self._calls) == 1)

    def _expire(self, now: float) -> float | None:
        """End those whose deadline is past; the nearest deadline of the others."""
        waiting = [call for call in self._calls.values() if call.outcome is None]
        for call in waiting:
            if call.deadline is not None and now >= call.deadline:
                call.time_out()
        deadlines = (call.deadline for call in waiting if call.outcome is None)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def _lose(self, error: Exception) -> None:
        """Replies to what was sent cannot come any more."""
        for call in self._calls.values():
            if not call.is_sent or call.outcome is not None:
                continue
            if self._resend and call.attempts < _MOST_ATTEMPTS:
                call.is_sent = False
                continue
            lost = ConnectionLost("the request was sent, but the link or channel of its reply was lost")
            lost.__cause__ = error
            call.settle(lost)
        self._unsent = OrderedDict((name, call) for name, call in self._calls.items() if not call.is_sent)

    def _guilty(self, error: ReplyError) -> list[_Call]:
        # The broker does not say which publish it was, but its text names the exchange, if that is what is wrong. The
        # default exchange is always there: who went through it is guilty only if nobody else can be, or at last.
        sent = [call for call in self._calls.values() if call.is_sent and call.outcome is None]
        through_exchange = [call for call in sent if call.route.exchange]
        named = [call for call in through_exchange if f"'{printable(call.route.exchange)}'" in error.text]
        alone = sent if len(sent) == 1 and error.method == "basic.publish" else []
        at_last = [call for call in sent if call.attempts >= _MOST_ATTEMPTS]
        return named or through_exchange or alone or at_last

    def _close(self, error: AnyamqpError) -> None:
        self._closed = self._closed or error
        for call in self._calls.values():
            if call.outcome is None:
                call.settle(copy_of(error))

    # --- what the channel tells -------------------------------------------------------------------------------------

    @property
    def awaits_answer(self) -> bool:
        return bool(self._calls)

    def setup(self) -> Sequence[Method]:
        return [build(methods.Basic.Consume, queue=REPLY_TO, no_ack=True)]

    def on_opened(self) -> None:
        # Requests go out when the whole connection is ready.
        self._reopenings.opened(anyio.current_time())

    def on_ready(self) -> None:
        self._send_waiting()

    def on_contents(self, contents: Sequence[Content], attachment: Attachment) -> None:  # noqa: ARG002
        self._reopenings.in_vain = 0
        for method, message in contents:
            try:
                call = self._calls.get(message.correlation_id or "")
            except MalformedProperties:
                continue  # whoever sent it did not say what it answers
            if call is None or call.outcome is not None:
                continue  # the caller has gone
            if isinstance(method, methods.Basic.Deliver):
                call.settle(delivery_of(method, message, None))
            elif isinstance(method, methods.Basic.Return):
                call.settle(unroutable_of(method, message.message_id))

    def on_method(self, method: Method) -> None:
        """The pseudo-queue cannot be deleted, so the broker cancels nothing here."""

    def on_lost(self, error: AnyamqpError | None) -> None:
        self._lose(error or ConnectionLost("the link was lost"))

    def on_failed(self, error: AnyamqpError) -> None:
        if not isinstance(error, ReplyError) or not self._channel.has_been_open or self._closed is not None:
            self._close(self._channel.closed_error())
            return
        guilty = self._guilty(error)
        for call in guilty:
            call.settle(copy_of(error))
        is_named = error.method == "basic.publish" and bool(guilty)
        delay = 0.0 if is_named else self._reopenings.closed(anyio.current_time())
        if delay is None:
            self._close(error)
            return
        self._lose(error)
        self._channel = LogicalChannel(self._host, self)
        try:
            self._channel.register(delay=delay)
        except AnyamqpError as refused:
            self._close(refused)


async def serve_rpc(
    consumer: Consumer,
    publisher: Publisher,
    handler: Callable[[Delivery], Awaitable[Message]],
    *,
    concurrency: int = 1,
    on_error: OnError | None = None,
) -> None:
    """Answer the requests that a consumer gets, until its iteration ends.

    A request is acknowledged when its answer is confirmed. Requests without ``reply_to`` are handled all the same. A
    caller that has gone is no error: the answer is dropped.

    An error in the handler is logged and answered with an error reply, and the serving goes on. The caller's
    :meth:`RpcClient.call` raises it as :class:`RemoteError`. The convention, for callers that do not use anyamqp: the
    header ``x-anyamqp-error`` holds the name of the error's type, the body its text in UTF-8, cut at 4096 characters.
    So callers read the texts of the errors that handlers raise; no traceback is sent.

    Args:
        consumer: where requests come from.
        publisher: where answers go out.
        handler: an async function that makes the answer; its ``correlation_id`` is set here.
        concurrency: how many requests are handled at a time.
        on_error: what becomes of a request whose handler raises and which nobody waits for, because it has no
            ``reply_to``; see :data:`OnError`. The consumer's own if None.

    Raises:
        InvalidArgument: an argument is out of its range, or of a wrong type, or ``handler`` is not an async
            function of one argument; see :meth:`Consumer.process`.
        ConsumerCancelled, NotFound, ConnectionClosed: what the iteration raises.
        ChannelClosed, ConnectionClosed: the publisher is closed, so that nothing can be answered any more.
    """
    check_kind("consumer", consumer, Consumer, "connection.consumer('requests')")
    check_kind("publisher", publisher, Publisher, "connection.publisher()")
    handler = checked_handler(handler)
    unheard = consumer.on_error if on_error is None else checked_policy(on_error)
    ends: list[AnyamqpError] = []

    async def answer(request: Delivery) -> None:
        reply = _checked_reply(await handler(request))
        if request.reply_to is not None:
            await send(reply, request, request.reply_to)

    async def answer_error(request: Delivery, error: Exception) -> Decision | None:
        if request.reply_to is None:
            return await decide(unheard, request, error)
        await send(_error_reply(error), request, request.reply_to)
        return "ack"

    async def send(reply: Message, request: Delivery, reply_to: str) -> None:
        try:
            # Not mandatory: the broker takes a reply-to address for no queue (RabbitMQ, "Direct Reply-to").
            await publisher.publish(
                reply.replace(correlation_id=request.correlation_id),
                exchange="",
                routing_key=reply_to,
                mandatory=False,
            )
        except (ChannelClosed, ConnectionClosed) as closed:
            ends.append(closed)
            await consumer.stop()
            raise

    await consumer.process(answer, concurrency=concurrency, on_error=answer_error)
    if ends:
        raise ends[0]


def _checked_reply(reply: object) -> Message:
    if isinstance(reply, Message):
        return reply
    raise InvalidUse(f"the handler returned {type(reply).__name__} instead of Message; return Message(b'...')")


def _error_reply(error: Exception) -> Message:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - the caller is answered, whatever the error's class does
        text = "the error has no text: its __str__ raised"
    body = text[:_LONGEST_ERROR_TEXT].encode(errors="replace")
    return Message(body, headers={_ERROR_HEADER: type(error).__name__}, content_type="text/plain; charset=utf-8")


def _remote_error(reply: Delivery) -> RemoteError | None:
    """The error that a reply tells; None if it is an answer."""
    try:
        kind = reply.headers.get(_ERROR_HEADER)
    except MalformedProperties:
        return None
    return RemoteError(kind, reply.body.decode(errors="replace")) if isinstance(kind, str) else None
