"""Request and reply: RabbitMQ, "Direct Reply-to".

The client consumes from the pseudo-queue ``amq.rabbitmq.reply-to`` and publishes requests on the same channel; replies
reach it without a declared queue. :mod:`anyamqp.protocol.calls` holds the calls that wait for their replies.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from types import TracebackType
from typing import Final, Never, Self

import anyio

from anyamqp.checks import check_flag, check_kind, check_seconds
from anyamqp.consumer import Consumer
from anyamqp.core.channel import LogicalChannel
from anyamqp.core.host import ChannelHost
from anyamqp.delivery import Delivery
from anyamqp.errors import (
    AnyamqpError,
    ChannelClosed,
    ConnectionClosed,
    InvalidUse,
    MalformedProperties,
    RemoteError,
)
from anyamqp.handlers import checked_handler
from anyamqp.message import Message, check_message, random_id
from anyamqp.misuse import Entered, surplus_error
from anyamqp.net.event_loop import Waiter
from anyamqp.net.timers import Deadlines
from anyamqp.on_error import OnError, checked_policy, decide
from anyamqp.protocol.calls import Call, Calls
from anyamqp.protocol.events import Content
from anyamqp.protocol.failures import Decision
from anyamqp.protocol.lifecycle.caller import CallerState
from anyamqp.protocol.ports import ChannelOwner
from anyamqp.publication import UNSET, Unset, deadline_after
from anyamqp.publisher import Publisher
from anyamqp.wire import methods
from anyamqp.wire.basic import Received, Routes, decode_reply_address, encode_properties
from anyamqp.wire.frames import build
from anyamqp.wire.methods import Method

REPLY_TO: Final = "amq.rabbitmq.reply-to"
_ERROR_HEADER: Final = "x-anyamqp-error"
"""The header of an error reply; its value is the name of the error's type, and the body is the error's text."""
_LONGEST_ERROR_TEXT: Final = 4096
"""Characters."""


class RpcClient(Entered):
    """Sends requests and awaits replies: ``async with connection.rpc_client() as rpc: reply = await rpc.call(...)``.

    A broker may lose a reply: RabbitMQ 4.0 does so between opening its listeners and the end of its start. The call
    then times out.

    Made by :meth:`Connection.rpc_client`, which documents the arguments.
    """

    _kind = "an RPC client"
    _block = "async with connection.rpc_client() as rpc"

    def __init__(self, host: ChannelHost, *, timeout: float | None, resend: bool) -> None:
        check_seconds("timeout", timeout, none="for ever")
        check_flag("resend", resend)
        self._host = host
        self._timeout = timeout
        self._id_prefix = f"{random_id()}-"
        self._ids = count(1)
        self._routes = Routes()
        self._shell = _CallsShell(host, resend=resend)

    @property
    def _is_new(self) -> bool:
        return self._shell.calls.state is CallerState.NEW

    async def __aenter__(self) -> Self:
        self._host.loop.require_here(self._kind)
        self._check_new()
        await self._shell.open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._shell.close()

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
            surplus: nothing; the other arguments are given by name.
            exchange: where to publish it; empty for the default exchange, which routes to the queue named by the key.
            routing_key: the routing key, often the name of the server's queue.
            timeout: seconds to wait for the reply, reconnects included, instead of the client's own; None for ever.

        Returns:
            The reply; it needs no acknowledgement.

        Raises:
            Unroutable: no queue took the request.
            RemoteError: the server answered with an error.
            ReplyTimeout: no reply in time.
            ConnectionLost: the link was lost before the reply, and the client was made with ``resend=False``; the
                server may have handled the request or not.
            ConnectionClosed: the connection is closed.
            ReplyError: the broker closed the channel because of this request, such as :class:`NotFound` for a missing
                exchange.
            InvalidArgument: AMQP cannot carry the message, or a call with that ``correlation_id`` is under way.
        """
        if surplus:
            raise surplus_error(RpcClient.call)
        self._check_entered()
        self._host.loop.require_here(self._kind)
        check_message(message, self._host.max_message_size)
        if self._host.hooks is None:
            return await self._call(message, exchange, routing_key, timeout)
        with self._host.hooks.publishing(message, exchange, routing_key, "call") as message:
            return await self._call(message, exchange, routing_key, timeout)

    async def _call(self, message: Message, exchange: str, routing_key: str, timeout: float | Unset | None) -> Delivery:
        fresh_id = f"{self._id_prefix}{next(self._ids)}"
        properties = message.properties
        correlation_id = properties.correlation_id or fresh_id
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
        done = loop.waiter()
        call = Call(correlation_id, route, encoded, message.body, waker=done, seconds=seconds, deadline=deadline)
        await self._shell.run(call, done)
        if isinstance(call.outcome, Delivery):
            if (error := _remote_error(call.outcome)) is not None:
                raise error
            return call.outcome
        raise call.outcome or InvalidUse("the call has no outcome")


class _CallsShell(ChannelOwner):
    """Runs the calls of one client: waits, calls them at their deadlines, and opens their channels."""

    def __init__(self, host: ChannelHost, *, resend: bool) -> None:
        self._host = host
        self._channel = LogicalChannel(host, self)
        self.calls: Calls = Calls(self._channel.core, resend=resend)
        self._deadlines = Deadlines(host.later, self._due)

    async def open(self) -> None:
        """Begin the life of the client, and wait until its channel is open."""
        self.calls.enter()
        try:
            await self._channel.open()
        except BaseException:
            self.calls.close()
            self._channel.begin_close()
            raise

    async def close(self) -> None:
        """Settle the calls that have no outcome, and close the channel."""
        self.calls.close()
        self._deadlines.cancel()
        await self._channel.close()

    async def run(self, call: Call, done: Waiter) -> None:
        """Send a call, and wait for its outcome.

        Raises:
            InvalidArgument: a call with its correlation id is under way.
            AnyamqpError: the client is closed.
        """
        calls = self.calls
        calls.add(call)
        self._deadlines.add(call.deadline)
        try:
            if self._channel.is_full:
                scope = anyio.CancelScope(deadline=call.deadline)
                if not await self._channel.wait_not_full(scope):
                    call.time_out()
            calls.send_waiting()
            if call.outcome is None:
                await done.wait()
        finally:
            calls.remove(call)

    def _due(self, now: float) -> float:
        self.calls.due(now)
        return self.calls.deadline

    # --- events of the channel --------------------------------------------------------------------------------------

    @property
    def awaits_answer(self) -> bool:
        return len(self.calls) > 0

    def setup(self) -> Sequence[Method]:
        return [build(methods.Basic.Consume, queue=REPLY_TO, no_ack=True)]

    def on_opened(self) -> None:
        self.calls.channel_opened(anyio.current_time())

    def on_ready(self) -> None:
        self.calls.channel_ready()

    def on_contents(self, contents: Sequence[Content]) -> None:
        for content in contents:
            self.calls.received(content)

    def on_lost(self, error: AnyamqpError | None) -> None:
        self.calls.link_lost(error)

    def on_failed(self, error: AnyamqpError) -> None:
        self.calls.channel_failed(error, anyio.current_time())
        for opening in self.calls.take_effects():
            refused = self._channel.renew(delay=opening.delay)
            self.calls.channel = self._channel.core
            if refused is not None:
                self.calls.channel_refused(refused)


async def serve_rpc(
    consumer: Consumer,
    publisher: Publisher,
    handler: Callable[[Delivery], Awaitable[Message]],
    *,
    concurrency: int = 1,
    on_error: OnError | None = None,
) -> None:
    """Answer the requests that a consumer receives, until its iteration ends.

    A request is acknowledged when its answer is confirmed. Requests without ``reply_to`` are handled without an answer.
    If the caller has gone, the answer is dropped; this is no error.

    An error in the handler is logged and answered with an error reply, and the serving continues. The caller's
    :meth:`RpcClient.call` raises it as :class:`RemoteError`. For callers that do not use anyamqp: the header
    ``x-anyamqp-error`` holds the name of the error's type, the body its text in UTF-8, cut at 4096 characters. So
    callers can read the texts of the errors that handlers raise; no traceback is sent.

    Args:
        consumer: delivers the requests.
        publisher: publishes the answers.
        handler: an async function that returns the answer to a request; its ``correlation_id`` is set here.
        concurrency: how many requests are handled at a time.
        on_error: the policy for a request without ``reply_to`` whose handler raises; see :data:`OnError`. None uses the
            consumer's own.

    Raises:
        InvalidArgument: an argument is out of its range, or of a wrong type, or ``handler`` is not an async
            function of one argument; see :meth:`Consumer.process`.
        ConsumerCancelled, NotFound, ConnectionClosed: as the iteration raises them.
        ChannelClosed, ConnectionClosed: the publisher is closed, so that no request can be answered any more.
    """
    check_kind("consumer", consumer, Consumer, "connection.consumer('requests')")
    check_kind("publisher", publisher, Publisher, "connection.publisher()")
    handler = checked_handler(handler)
    unheard = consumer.on_error if on_error is None else checked_policy(on_error)
    ends: list[AnyamqpError] = []

    async def answer(request: Delivery) -> None:
        reply = _checked_reply(await handler(request))
        correlation_id, reply_to = _reply_address(request)
        if reply_to is not None:
            await send(reply, correlation_id, reply_to)

    async def answer_error(request: Delivery, error: Exception) -> Decision | None:
        correlation_id, reply_to = _reply_address(request)
        if reply_to is None:
            return await decide(unheard, request, error)
        await send(_error_reply(error), correlation_id, reply_to)
        return "ack"

    async def send(reply: Message, correlation_id: str | None, reply_to: str) -> None:
        try:
            # Not mandatory: to the broker, a reply-to address is no queue (RabbitMQ, "Direct Reply-to").
            await publisher.publish(
                reply.replace(correlation_id=correlation_id),
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


def _reply_address(request: Delivery) -> tuple[str | None, str | None]:
    """The correlation id and the reply-to of a request; its other properties are not decoded for them."""
    message = request.message
    if isinstance(message, Received):
        return decode_reply_address(message.encoded)
    return message.correlation_id, message.reply_to


def _checked_reply(reply: object) -> Message:
    if isinstance(reply, Message):
        return reply
    raise InvalidUse(f"the handler returned {type(reply).__name__} instead of Message; return Message(b'...')")


def _error_reply(error: Exception) -> Message:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - the caller gets an answer even if __str__ fails
        text = "the error has no text: its __str__ raised"
    body = text[:_LONGEST_ERROR_TEXT].encode(errors="replace")
    return Message(body, headers={_ERROR_HEADER: type(error).__name__}, content_type="text/plain; charset=utf-8")


def _remote_error(reply: Delivery) -> RemoteError | None:
    """The error of an error reply; None if the reply is an answer."""
    message = reply.message
    if isinstance(message, Received) and _ERROR_HEADER.encode() not in message.encoded:
        return None  # the usual case, without decoding the properties
    try:
        kind = reply.headers.get(_ERROR_HEADER)
    except MalformedProperties:
        return None
    return RemoteError(kind, reply.body.decode(errors="replace")) if isinstance(kind, str) else None
