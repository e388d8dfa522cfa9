"""Request and reply with a scripted broker: the methods sent, and how each call ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self, cast

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from trio.testing import MockClock

import anyamqp
from anyamqp import (
    AnyamqpError,
    ChannelClosed,
    Connection,
    ConnectionLost,
    Delivery,
    FieldTable,
    InvalidArgument,
    InvalidUse,
    Message,
    NotFound,
    RemoteError,
    ReplyTimeout,
    RpcClient,
    State,
    Unroutable,
)
from anyamqp.net import link
from anyamqp.wire import methods
from support.handbroker import EAGER, HandBroker, Sent, connected, settled
from support.waiting import eventually

pytestmark = pytest.mark.anyio

REPLY_TO = "amq.rabbitmq.reply-to"


class Call:
    """A call in a task of its own, and how it ended."""

    def __init__(self, rpc: RpcClient, body: bytes, **arguments: Any) -> None:
        self.reply: Delivery | None = None
        self.error: AnyamqpError | None = None
        self._rpc = rpc
        self._message = Message(body)
        self._arguments: dict[str, Any] = {"routing_key": "server", **arguments}

    async def start(self, tasks: anyio.abc.TaskGroup) -> Self:
        """Make the call, and wait until it is sent, if it can be."""
        tasks.start_soon(self._run)
        await settled()
        return self

    async def _run(self) -> None:
        try:
            self.reply = await self._rpc.call(self._message, **self._arguments)
        except AnyamqpError as error:
            self.error = error


@asynccontextmanager
async def calling(
    *, timeout: float | None = 20, resend: bool = False
) -> AsyncGenerator[tuple[HandBroker, Connection, RpcClient, anyio.abc.TaskGroup], None]:
    """A broker, a connection, an RPC client on channel 1, and tasks for its calls."""
    async with (
        connected(reconnect=EAGER) as (broker, connection),
        connection.rpc_client(timeout=timeout, resend=resend) as rpc,
        anyio.create_task_group() as tasks,
    ):
        yield broker, connection, rpc, tasks
        tasks.cancel_scope.cancel()


async def answer(broker: HandBroker, request: Sent, body: bytes = b"pong") -> None:
    """Answer a request on the current link."""
    await broker.link.deliver(Message(body, correlation_id=request.message.correlation_id))


async def lose(broker: HandBroker, connection: Connection) -> None:
    """Drop the link, and wait for the next one."""
    await broker.link.reset()
    await connection.wait_ready(10)
    await settled()


async def is_answered(broker: HandBroker, rpc: RpcClient, tasks: anyio.abc.TaskGroup) -> bool:
    """Whether the next call works."""
    call = await Call(rpc, b"next").start(tasks)
    await answer(broker, broker.published[-1], b"answer to the next")
    return call.reply is not None and call.reply.body == b"answer to the next"


# --- answers --------------------------------------------------------------------------------------------------------


async def test_a_request_names_the_pseudo_queue_and_gets_its_reply() -> None:
    async with calling() as (broker, _, rpc, tasks):
        (consume,) = broker.link.sent(methods.Basic.Consume)
        assert (consume.queue, consume.no_ack) == (REPLY_TO, True)
        call = await Call(rpc, b"ping").start(tasks)
        (request,) = broker.published
        assert request.message.reply_to == REPLY_TO
        assert (request.method.exchange, request.method.routing_key, request.method.mandatory) == ("", "server", True)
        await answer(broker, request)
        assert call.reply is not None
        assert (call.reply.body, call.reply.correlation_id) == (b"pong", request.message.correlation_id)
        assert call.reply.is_settled
        assert broker.link.sent(methods.Basic.Ack) == []


async def test_replies_in_any_order_find_their_calls() -> None:
    async with calling() as (broker, _, rpc, tasks):
        calls = [await Call(rpc, b"%d" % number).start(tasks) for number in range(10)]
        for request in reversed(broker.published):
            await answer(broker, request, b"answer to " + request.message.body)
        assert [call.reply and call.reply.body for call in calls] == [b"answer to %d" % n for n in range(10)]


async def test_replies_to_nobody_are_dropped() -> None:
    async with calling() as (broker, connection, rpc, tasks):
        await broker.link.deliver(Message(b"unknown", correlation_id="nobody's"))
        await broker.link.deliver(Message(b"without an id"))
        assert await is_answered(broker, rpc, tasks)
        assert connection.stats.link_number == 1


async def test_a_second_reply_changes_nothing() -> None:
    async with calling() as (broker, _, rpc, tasks):
        call = await Call(rpc, b"ping").start(tasks)
        (request,) = broker.published
        await answer(broker, request, b"first")
        await answer(broker, request, b"second")
        assert call.reply is not None
        assert call.reply.body == b"first"
        assert await is_answered(broker, rpc, tasks)


# --- no answer ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})], ids=["virtual time"])
async def test_each_call_ends_at_its_own_deadline() -> None:
    async with calling(timeout=None) as (_, _, rpc, _):
        began = anyio.current_time()
        late, soon = Call(rpc, b"late", timeout=5), Call(rpc, b"soon", timeout=1)
        with anyio.fail_after(60):
            async with anyio.create_task_group() as both:
                await late.start(both)
                await soon.start(both)
        assert anyio.current_time() - began == pytest.approx(5)
        for call, seconds in ((soon, "1 s"), (late, "5 s")):
            assert isinstance(call.error, ReplyTimeout)
            assert str(call.error).startswith(f"no reply within {seconds}; the request was sent")


async def test_a_reply_after_the_deadline_is_dropped() -> None:
    async with calling() as (broker, _, rpc, tasks):
        with pytest.raises(ReplyTimeout):
            await rpc.call(Message(b"slow"), routing_key="server", timeout=0.01)
        await eventually(lambda: bool(broker.published))
        await answer(broker, broker.published[0], b"too late")
        assert await is_answered(broker, rpc, tasks)


async def test_a_request_that_no_queue_takes_is_unroutable() -> None:
    async with calling() as (broker, _, rpc, tasks):
        lost = await Call(rpc, b"lost").start(tasks)
        other = await Call(rpc, b"other").start(tasks)
        await broker.link.give_back(broker.published[0])
        await settled()
        assert isinstance(lost.error, Unroutable)
        assert (other.reply, other.error) == (None, None)
        await answer(broker, broker.published[1])
        assert other.reply is not None


async def test_a_cancelled_call_that_waits_for_the_link_is_not_sent() -> None:
    async with calling() as (broker, connection, rpc, tasks):
        broker.is_refusing = True
        await broker.link.reset()
        async with anyio.create_task_group() as cancelled:
            await Call(rpc, b"cancelled").start(cancelled)
            cancelled.cancel_scope.cancel()
        broker.is_refusing = False
        await connection.wait_ready(10)
        assert await is_answered(broker, rpc, tasks)
        assert broker.bodies() == [b"next"]


async def test_a_call_that_waits_for_the_outgoing_buffer_times_out_unsent(monkeypatch: pytest.MonkeyPatch) -> None:
    async with calling() as (broker, _, rpc, tasks):
        monkeypatch.setattr(link, "HIGH_WATER", -1)
        with pytest.raises(ReplyTimeout, match="never sent"):
            await rpc.call(Message(b"late"), routing_key="server", timeout=0.01)
        monkeypatch.undo()
        assert await is_answered(broker, rpc, tasks)
        assert broker.bodies() == [b"next"]


async def test_leaving_the_block_ends_its_calls() -> None:
    async with connected() as (_, connection), anyio.create_task_group() as tasks:
        async with connection.rpc_client() as rpc:
            call = await Call(rpc, b"ping").start(tasks)
        await settled()
        assert isinstance(call.error, ChannelClosed)
        assert "RPC client is closed" in str(call.error)
        with pytest.raises(ChannelClosed):
            await rpc.call(Message(b"late"), routing_key="server")


# --- losses ---------------------------------------------------------------------------------------------------------


async def test_a_loss_fails_what_was_sent_and_sends_nothing_again() -> None:
    """The server may have handled the request; only the caller knows whether it may run twice."""
    async with calling() as (broker, connection, rpc, tasks):
        call = await Call(rpc, b"pay").start(tasks)
        await lose(broker, connection)
        assert isinstance(call.error, ConnectionLost)
        assert await is_answered(broker, rpc, tasks)
        assert broker.bodies() == [b"pay", b"next"]


async def test_a_loss_has_a_call_sent_again_when_told_so() -> None:
    async with calling(resend=True) as (broker, connection, rpc, tasks):
        call = await Call(rpc, b"look up").start(tasks)
        await lose(broker, connection)
        assert broker.link.bodies() == [b"look up"]
        await answer(broker, broker.published[-1])
        assert call.reply is not None


async def test_a_call_that_every_link_loses_is_sent_three_times() -> None:
    async with calling(resend=True) as (broker, connection, rpc, tasks):
        call = await Call(rpc, b"again").start(tasks)
        for _ in range(3):
            assert call.error is None
            await lose(broker, connection)
        assert isinstance(call.error, ConnectionLost)
        assert broker.bodies() == [b"again"] * 3


async def test_a_cancelled_call_is_not_sent_again_after_a_loss() -> None:
    async with calling(resend=True) as (broker, connection, rpc, tasks):
        async with anyio.create_task_group() as cancelled:
            await Call(rpc, b"cancelled").start(cancelled)
            cancelled.cancel_scope.cancel()
        await lose(broker, connection)
        assert await is_answered(broker, rpc, tasks)
        assert broker.bodies() == [b"cancelled", b"next"]


@pytest.mark.parametrize("resend", [False, True])
async def test_a_call_made_without_a_link_is_sent_once(*, resend: bool) -> None:
    async with calling(resend=resend) as (broker, connection, rpc, tasks):
        broker.is_refusing = True
        await broker.link.reset()
        call = await Call(rpc, b"waits").start(tasks)
        assert connection.state is State.RECONNECTING
        broker.is_refusing = False
        await connection.wait_ready(10)
        await settled()
        assert broker.bodies() == [b"waits"]
        await answer(broker, broker.published[0])
        assert call.reply is not None


async def test_a_call_that_was_never_sent_says_so() -> None:
    async with calling() as (broker, connection, rpc, tasks):
        broker.is_refusing = True
        await broker.link.reset()
        with pytest.raises(ReplyTimeout, match="never sent"):
            await rpc.call(Message(b"never"), routing_key="server", timeout=0.01)
        broker.is_refusing = False
        await connection.wait_ready(10)
        assert await is_answered(broker, rpc, tasks)
        assert broker.bodies() == [b"next"]


# --- the broker closes the channel ----------------------------------------------------------------------------------

MISSING = methods.Channel.Close(404, "NOT_FOUND - no exchange 'missing' in vhost '/'", 60, 40)


async def test_a_missing_exchange_fails_its_own_call_only() -> None:
    async with calling(resend=True) as (broker, connection, rpc, tasks):
        innocent = await Call(rpc, b"innocent").start(tasks)
        guilty = await Call(rpc, b"guilty", exchange="missing").start(tasks)
        await broker.link.close_channel(MISSING)
        assert isinstance(guilty.error, NotFound)
        assert innocent.error is None
        assert broker.bodies() == [b"innocent", b"guilty", b"innocent"]
        await broker.link.deliver(
            Message(b"pong", correlation_id=broker.published[-1].message.correlation_id),
            channel=broker.published[-1].channel,
        )
        assert innocent.reply is not None
        assert connection.stats.link_number == 1


async def test_a_missing_exchange_takes_the_replies_of_others() -> None:
    async with calling() as (broker, _, rpc, tasks):
        innocent = await Call(rpc, b"innocent").start(tasks)
        guilty = await Call(rpc, b"guilty", exchange="missing").start(tasks)
        await broker.link.close_channel(MISSING)
        assert isinstance(guilty.error, NotFound)
        assert isinstance(innocent.error, ConnectionLost)
        assert isinstance(innocent.error.__cause__, NotFound)
        assert broker.bodies() == [b"innocent", b"guilty"]


async def test_a_lone_call_that_the_close_names_is_guilty() -> None:
    async with calling(resend=True) as (broker, _, rpc, tasks):
        call = await Call(rpc, b"forged").start(tasks)
        await broker.link.close_channel(methods.Channel.Close(406, "PRECONDITION_FAILED - user_id", 60, 40))
        assert isinstance(call.error, anyamqp.PreconditionFailed)
        assert broker.bodies() == [b"forged"]


async def test_a_refused_reply_consumer_fails_the_entering() -> None:
    async with connected() as (broker, connection), anyio.create_task_group() as tasks:
        broker.habits.silent_to.add(methods.Basic.Consume)

        async def refuse() -> None:
            await settled()
            await broker.link.close_channel(methods.Channel.Close(403, "ACCESS_REFUSED - no", 60, 20))

        tasks.start_soon(refuse)
        with pytest.raises(anyamqp.AccessRefused):
            async with connection.rpc_client():
                pytest.fail("entered")


async def test_a_client_whose_entering_was_cancelled_is_closed() -> None:
    async with connected() as (_, connection):
        rpc = connection.rpc_client()
        with anyio.CancelScope() as scope:
            scope.cancel()
            async with rpc:
                pytest.fail("entered")
        with pytest.raises(ChannelClosed, match="the RPC client is closed"):
            await rpc.call(Message(b"late"), routing_key="server", timeout=0.01)


# --- misuse ---------------------------------------------------------------------------------------------------------


async def test_a_correlation_id_in_use_is_refused() -> None:
    async with calling() as (broker, _, rpc, tasks):
        message = Message(b"x", correlation_id="mine")
        tasks.start_soon(lambda: rpc.call(message, routing_key="server"))
        await settled()
        with pytest.raises(InvalidArgument, match="'mine' is under way"):
            await rpc.call(message, routing_key="server")
        assert broker.bodies() == [b"x"]


async def test_headers_larger_than_a_frame_fail_their_call_alone() -> None:
    async with calling() as (broker, _, rpc, tasks):
        with pytest.raises(InvalidArgument):
            await rpc.call(Message(b"x", headers={"large": bytes(200_000)}), routing_key="server")
        assert await is_answered(broker, rpc, tasks)
        assert broker.bodies() == [b"next"]


async def test_a_request_above_the_largest_size_is_refused() -> None:
    async with connected(max_message_size=10) as (broker, connection), connection.rpc_client() as rpc:
        with pytest.raises(InvalidArgument, match="max_message_size"):
            await rpc.call(Message(bytes(11)), routing_key="server")
        await settled()
        assert broker.bodies() == []


async def test_a_client_works_inside_its_block_only() -> None:
    async with connected() as (_, connection):
        rpc = connection.rpc_client()
        with pytest.raises(InvalidUse, match="inside its block"):
            await rpc.call(Message(b"early"), routing_key="server")
        async with rpc:
            with pytest.raises(InvalidUse, match="entered once"):
                async with rpc:
                    pytest.fail("entered twice")


# --- errors of the server -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("body", "text"), [(b"no account", ": no account"), (b"", ""), (b"\xff", ": \ufffd")])
async def test_an_error_reply_is_raised_at_its_caller(body: bytes, text: str) -> None:
    async with calling() as (broker, _, rpc, tasks):
        call = await Call(rpc, b"ping").start(tasks)
        (request,) = broker.published
        headers = {"x-anyamqp-error": "LookupError"}
        await broker.link.deliver(Message(body, headers=headers, correlation_id=request.message.correlation_id))
        assert isinstance(call.error, RemoteError)
        assert str(call.error) == f"the server raised LookupError{text}"
        assert await is_answered(broker, rpc, tasks)


@pytest.mark.parametrize("headers", [{"x-anyamqp-error": 7}, {"x-error": "LookupError"}, {}], ids=str)
async def test_a_reply_with_other_headers_is_an_answer(headers: FieldTable) -> None:
    async with calling() as (broker, _, rpc, tasks):
        call = await Call(rpc, b"ping").start(tasks)
        (request,) = broker.published
        await broker.link.deliver(Message(b"pong", headers=headers, correlation_id=request.message.correlation_id))
        assert call.reply is not None
        assert (call.reply.body, call.error) == (b"pong", None)


# --- serving --------------------------------------------------------------------------------------------------------


Handler = Callable[[Delivery], Awaitable[Message]]


async def upper(request: Delivery) -> Message:
    await anyio.lowlevel.checkpoint()
    return Message(request.body.upper())


@asynccontextmanager
async def serving(handler: Handler = upper) -> AsyncGenerator[HandBroker, None]:
    """A broker and a server of it, which consumes on channel 1 and answers on channel 2."""
    async with (
        connected() as (broker, connection),
        connection.consumer("server") as consumer,
        connection.publisher() as publisher,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(anyamqp.serve_rpc, consumer, publisher, handler)
        yield broker
        tasks.cancel_scope.cancel()


async def test_an_answer_goes_to_reply_to_with_the_requests_id() -> None:
    async with serving() as broker:
        await broker.link.deliver(Message(b"ping", reply_to=f"{REPLY_TO}.client", correlation_id="7"))
        (reply,) = broker.published
        assert (reply.method.exchange, reply.method.routing_key) == ("", f"{REPLY_TO}.client")
        assert (reply.message.body, reply.message.correlation_id) == (b"PING", "7")
        assert not reply.method.mandatory


async def test_a_request_is_acked_once_its_answer_is_confirmed() -> None:
    async with serving() as broker:
        await broker.link.deliver(Message(b"ping", reply_to="somewhere", correlation_id="7"))
        assert broker.link.sent(methods.Basic.Ack) == []
        await broker.link.ack(1, channel=2)
        await settled()
        assert [ack.delivery_tag for ack in broker.link.sent(methods.Basic.Ack, 1)] == [1]


async def test_a_request_without_reply_to_is_acked_and_not_answered() -> None:
    async with serving() as broker:
        await broker.link.deliver(Message(b"ping"))
        assert broker.published == []
        assert [ack.delivery_tag for ack in broker.link.sent(methods.Basic.Ack, 1)] == [1]


async def fail(_: Delivery) -> Message:
    await anyio.lowlevel.checkpoint()
    raise LookupError("no account")


class Untold(Exception):
    def __str__(self) -> str:
        raise RuntimeError


async def fail_untold(_: Delivery) -> Message:
    await anyio.lowlevel.checkpoint()
    raise Untold


async def answer_bytes(_: Delivery) -> Message:
    await anyio.lowlevel.checkpoint()
    return cast("Message", b"pong")


@pytest.mark.parametrize(
    ("handler", "kind", "text"),
    [
        (fail, "LookupError", "no account"),
        (fail_untold, "Untold", "the error has no text: its __str__ raised"),
        (answer_bytes, "InvalidUse", "the handler returned bytes instead of Message; return Message(b'...')"),
    ],
)
async def test_a_failing_handler_is_answered_and_the_serving_goes_on(handler: Handler, kind: str, text: str) -> None:
    async with serving(handler) as broker:
        for n in (1, 2):
            await broker.link.deliver(Message(b"ping", reply_to="somewhere", correlation_id=str(n)))
            reply = broker.published[-1].message
            assert (reply.headers, reply.body.decode()) == ({"x-anyamqp-error": kind}, text)
            assert (reply.correlation_id, reply.content_type) == (str(n), "text/plain; charset=utf-8")
            assert len(broker.link.sent(methods.Basic.Ack, 1)) == n - 1
            await broker.link.ack(n, channel=2)
            await settled()
            assert len(broker.link.sent(methods.Basic.Ack, 1)) == n


async def test_a_failing_request_that_nobody_waits_for_is_requeued() -> None:
    async with serving(fail) as broker:
        await broker.link.deliver(Message(b"ping"))
        await settled()
        assert broker.published == []
        assert [reject.requeue for reject in broker.link.sent(methods.Basic.Reject, 1)] == [True]
