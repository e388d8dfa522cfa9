"""Request and reply over direct reply-to, on a real broker: replies reach their callers, and failures are clean."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

import anyamqp
from anyamqp import (
    ChannelClosed,
    Connection,
    ConnectionLost,
    Decision,
    Delivery,
    InvalidArgument,
    InvalidUse,
    Message,
    NotFound,
    OnError,
    PreconditionFailed,
    ReconnectPolicy,
    RemoteError,
    ReplyTimeout,
    RpcClient,
    State,
    Unroutable,
)
from anyamqp.core.channel import LogicalChannel
from anyamqp.testing import FaultProxy
from support.queues import unique
from support.rabbitmq import Node
from support.stepping import cancel_at
from support.waiting import eventually, running_tasks

pytestmark = pytest.mark.anyio

LIMIT = 60.0
EAGER = ReconnectPolicy(maximum=0.2, stable_after=0.0)

Handler = Callable[[Delivery], Awaitable[Message]]


@dataclass
class Server:
    """Answers each request with its body in capitals; one that begins with "slow" when it is let go.

    Attributes:
        seen: the bodies of the requests that came, in order.
    """

    seen: list[bytes] = field(default_factory=list[bytes])
    released: anyio.Event = field(default_factory=anyio.Event)

    async def answer(self, request: Delivery) -> Message:
        await anyio.lowlevel.checkpoint()
        self.seen.append(request.body)
        if request.body.startswith(b"slow"):
            await self.released.wait()
        return Message(request.body.upper(), content_type="text/plain")

    async def until_seen(self, *bodies: bytes) -> None:
        await eventually(lambda: self.seen == list(bodies), within=20)


@dataclass(frozen=True)
class Bench:
    """A connection for clients through a network that breaks, a server beyond it, and the server's queue."""

    connection: Connection
    beyond: Connection
    proxy: FaultProxy
    queue: str
    server: Server

    async def lose(self) -> None:
        """Cut the clients' connection."""
        link = self.connection.stats.link_number
        self.proxy.reset()
        await eventually(lambda: self.connection.stats.link_number > link, within=20)

    async def exchange(self) -> str:
        """An exchange that routes to the server's queue with the key "server"."""
        name = f"exchange-{self.queue}"
        async with self.beyond.channel() as channel:
            await channel.declare_exchange(name, auto_delete=True)
            await channel.bind_queue(self.queue, name, "server")
        return name


@asynccontextmanager
async def a_bench(node: Node, *, serving: bool = True) -> AsyncGenerator[Bench, None]:
    queue = unique("queue")
    with anyio.fail_after(LIMIT), FaultProxy(node.host, node.port) as proxy:
        async with (
            anyamqp.connect(f"amqp://guest:guest@{proxy.host}:{proxy.port}/", reconnect=EAGER) as connection,
            anyamqp.connect(node.url) as beyond,
            beyond.channel() as channel,
        ):
            await channel.declare_queue(queue)
            bench = Bench(connection, beyond, proxy, queue, Server())
            try:
                if not serving:
                    yield bench
                    return
                async with (
                    beyond.publisher() as publisher,
                    beyond.consumer(queue) as consumer,
                    anyio.create_task_group() as tasks,
                ):

                    async def serve() -> None:
                        await anyamqp.serve_rpc(consumer, publisher, bench.server.answer, concurrency=50)

                    tasks.start_soon(serve)
                    yield bench
                    bench.server.released.set()
                    await consumer.stop()
            finally:
                await channel.delete_queue(queue)


def calls_of(rpc: RpcClient) -> int:
    """How many pending calls a client has."""
    return len(vars(rpc)["_shell"].calls)


async def is_answered(rpc: RpcClient, bench: Bench, body: bytes = b"ping") -> bool:
    reply = await rpc.call(Message(body), routing_key=bench.queue, timeout=20)
    return reply.body == body.upper()


# --- answers ----------------------------------------------------------------------------------------------------------


async def test_a_call_is_answered(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.rpc_client() as rpc:
        reply = await rpc.call(Message(b"hello", correlation_id="mine"), routing_key=bench.queue)
        assert (reply.body, reply.correlation_id, reply.message.content_type) == (b"HELLO", "mine", "text/plain")
        assert reply.is_settled
        with pytest.raises(InvalidUse, match="no_ack"):
            reply.ack()
        assert bench.server.seen == [b"hello"]


async def test_a_server_sees_where_to_answer_and_acks_what_it_answered(shared_node: Node) -> None:
    async with a_bench(shared_node, serving=False) as bench:
        requests: list[Delivery] = []

        async def answer(request: Delivery) -> Message:
            await anyio.lowlevel.checkpoint()
            requests.append(request)
            return Message(b"pong")

        async with (
            bench.beyond.publisher() as publisher,
            bench.beyond.consumer(bench.queue) as consumer,
            bench.connection.rpc_client() as rpc,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(anyamqp.serve_rpc, consumer, publisher, answer)
            await rpc.call(Message(b"ping", correlation_id="c", reply_to="overwritten"), routing_key=bench.queue)
            (request,) = requests
            assert (request.reply_to or "").startswith("amq.rabbitmq.reply-to.")
            assert (request.correlation_id, request.message_id is None) == ("c", False)
            await eventually(lambda: request.is_settled)
            await consumer.stop()
        assert await anyio.to_thread.run_sync(shared_node.queue_depth, bench.queue) == 0


async def test_many_calls_at_a_time_get_their_own_replies(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.rpc_client() as rpc:
        replies: dict[int, bytes] = {}

        async def call(n: int) -> None:
            replies[n] = (await rpc.call(Message(b"call %d" % n), routing_key=bench.queue)).body

        async with anyio.create_task_group() as tasks:
            for n in range(500):
                tasks.start_soon(call, n)
        assert replies == {n: b"CALL %d" % n for n in range(500)}
        assert len(bench.server.seen) == 500


async def test_replies_come_in_any_order(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.rpc_client() as rpc:
        answered: list[bytes] = []

        async def call(body: bytes) -> None:
            answered.append((await rpc.call(Message(body), routing_key=bench.queue)).body)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, b"slow")
            await bench.server.until_seen(b"slow")
            await call(b"quick")
            bench.server.released.set()
        assert answered == [b"QUICK", b"SLOW"]


async def test_a_call_through_an_exchange_is_answered(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.rpc_client() as rpc:
        exchange = await bench.exchange()
        assert (await rpc.call(Message(b"x"), exchange=exchange, routing_key="server")).body == b"X"


async def test_a_request_without_reply_to_is_handled_and_not_answered(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        async with bench.beyond.publisher() as publisher:
            await publisher.publish(Message(b"fire and forget"), routing_key=bench.queue)
        await bench.server.until_seen(b"fire and forget")
        async with bench.connection.rpc_client() as rpc:
            assert await is_answered(rpc, bench)


async def test_an_answer_may_go_to_an_ordinary_queue(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.channel() as channel:
        answers = await channel.declare_queue(durable=False, exclusive=True)
        async with bench.connection.publisher() as publisher, bench.connection.consumer(answers) as consumer:
            request = Message(b"by hand", reply_to=answers.name, correlation_id="7")
            await publisher.publish(request, routing_key=bench.queue)
            async with await anext(consumer) as answer:
                assert (answer.body, answer.correlation_id) == (b"BY HAND", "7")


# --- what goes wrong --------------------------------------------------------------------------------------------------


async def test_a_call_that_is_not_answered_in_time_raises_and_its_late_reply_is_ignored(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.rpc_client(timeout=20) as rpc:
        with pytest.raises(ReplyTimeout, match=r"0\.5 s.*was sent"):
            await rpc.call(Message(b"slow", correlation_id="late"), routing_key=bench.queue, timeout=0.5)
        assert calls_of(rpc) == 0
        received = bench.connection.stats.frames_received
        bench.server.released.set()
        await eventually(lambda: bench.connection.stats.frames_received > received)
        assert await is_answered(rpc, bench)
        assert (rpc_state(rpc), bench.connection.stats.link_number) == (State.OPEN, 1)


def rpc_state(rpc: RpcClient) -> State:
    """Where the client's channel is."""
    shell: object = vars(rpc)["_shell"]
    channel: LogicalChannel = vars(shell)["_channel"]
    return channel.state


async def test_the_clients_own_timeout_is_for_calls_that_say_nothing(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.rpc_client(timeout=0.3) as rpc:
        with pytest.raises(ReplyTimeout, match=r"0\.3 s"):
            await rpc.call(Message(b"slow 1"), routing_key=bench.queue)
        with pytest.raises(ReplyTimeout, match=r"0\.1 s"):
            await rpc.call(Message(b"slow 2"), routing_key=bench.queue, timeout=0.1)


async def test_a_call_that_no_queue_takes_is_unroutable_at_once(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.rpc_client(timeout=None) as rpc:
        nowhere = f"nowhere-{bench.queue}"
        with pytest.raises(Unroutable) as caught:
            await rpc.call(Message(b"x", message_id="m"), routing_key=nowhere)
        assert (caught.value.message_id, caught.value.routing_key, caught.value.code) == ("m", nowhere, 312)
        assert await is_answered(rpc, bench)


async def test_a_missing_exchange_fails_its_call_and_others_go_on(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.rpc_client(resend=True) as rpc:
        missing = f"missing-{bench.queue}"
        answered: list[bytes] = []

        async def call() -> None:
            answered.append((await rpc.call(Message(b"slow"), routing_key=bench.queue)).body)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await bench.server.until_seen(b"slow")
            with pytest.raises(NotFound, match=missing):
                await rpc.call(Message(b"guilty"), exchange=missing)
            # Its reply cannot come on a channel that is gone, so it was sent again.
            await bench.server.until_seen(b"slow", b"slow")
            bench.server.released.set()
        assert answered == [b"SLOW"]
        assert await is_answered(rpc, bench)
        assert bench.connection.stats.link_number == 1


async def test_a_missing_exchange_loses_replies_without_resend(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.rpc_client() as rpc:
        lost: list[str] = []

        async def call() -> None:
            with pytest.raises(ConnectionLost) as caught:
                await rpc.call(Message(b"slow"), routing_key=bench.queue)
            assert isinstance(caught.value.__cause__, NotFound)
            lost.append("slow")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await bench.server.until_seen(b"slow")
            with pytest.raises(NotFound):
                await rpc.call(Message(b"guilty"), exchange=f"missing-{bench.queue}")
        assert lost == ["slow"]
        assert await is_answered(rpc, bench)
        assert bench.server.seen == [b"slow", b"ping"]


async def test_only_the_call_through_the_missing_exchange_fails(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.rpc_client(resend=True) as rpc:
        exchange = await bench.exchange()
        answered: list[bytes] = []

        async def call() -> None:
            answered.append((await rpc.call(Message(b"slow"), exchange=exchange, routing_key="server")).body)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await bench.server.until_seen(b"slow")
            with pytest.raises(NotFound):
                await rpc.call(Message(b"guilty"), exchange=f"missing-{bench.queue}")
            bench.server.released.set()
        assert answered == [b"SLOW"]


async def test_a_message_that_the_broker_refuses_fails_its_call_with_the_brokers_error(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.rpc_client() as rpc:
        with pytest.raises(PreconditionFailed, match="user_id"):
            await rpc.call(Message(b"forged", user_id="somebody"), routing_key=bench.queue)
        assert await is_answered(rpc, bench)


async def test_a_loss_fails_a_call_that_was_sent_and_the_next_one_works(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.rpc_client() as rpc:
        lost: list[str] = []

        async def call() -> None:
            with pytest.raises(ConnectionLost, match="its reply"):
                await rpc.call(Message(b"slow"), routing_key=bench.queue)
            lost.append("slow")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await bench.server.until_seen(b"slow")
            await bench.lose()
        assert lost == ["slow"]
        bench.server.released.set()
        assert await is_answered(rpc, bench)
        assert bench.server.seen == [b"slow", b"ping"]


async def test_a_loss_has_a_call_sent_again_when_told_so(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.rpc_client(resend=True) as rpc:
        answered: list[bytes] = []

        async def call() -> None:
            answered.append((await rpc.call(Message(b"slow"), routing_key=bench.queue)).body)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await bench.server.until_seen(b"slow")
            await bench.lose()
            await bench.server.until_seen(b"slow", b"slow")
            bench.server.released.set()
        assert answered == [b"SLOW"]


async def test_a_call_that_every_link_loses_is_not_sent_for_ever(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.rpc_client(resend=True) as rpc:
        lost: list[str] = []

        async def call() -> None:
            with pytest.raises(ConnectionLost):
                await rpc.call(Message(b"slow"), routing_key=bench.queue)
            lost.append("slow")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            for attempt in (1, 2, 3):
                await bench.server.until_seen(*[b"slow"] * attempt)
                await bench.lose()
        assert lost == ["slow"]
        assert await is_answered(rpc, bench)


@pytest.mark.parametrize("resend", [False, True])
async def test_a_call_made_while_the_connection_is_away_waits_for_it(shared_node: Node, *, resend: bool) -> None:
    """It was never sent, so sending it repeats nothing."""
    async with a_bench(shared_node) as bench, bench.connection.rpc_client(resend=resend) as rpc:
        bench.proxy.refuse()
        bench.proxy.reset()
        await eventually(lambda: bench.connection.state is State.RECONNECTING)
        answered: list[bool] = []

        async def call() -> None:
            answered.append(await is_answered(rpc, bench))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await eventually(lambda: calls_of(rpc) == 1)
            bench.proxy.accept()
        assert answered == [True]
        assert bench.server.seen == [b"ping"]


async def test_a_call_that_was_never_sent_says_so_when_it_times_out(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.rpc_client() as rpc:
        bench.proxy.refuse()
        bench.proxy.reset()
        await eventually(lambda: bench.connection.state is State.RECONNECTING)
        with pytest.raises(ReplyTimeout, match="never sent"):
            await rpc.call(Message(b"x"), routing_key=bench.queue, timeout=0.3)
        bench.proxy.accept()
        assert await is_answered(rpc, bench)
        assert bench.server.seen == [b"ping"]


async def test_a_correlation_id_is_refused_while_a_call_has_it(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.rpc_client() as rpc:
        replies: list[Delivery] = []

        async def call() -> None:
            replies.append(await rpc.call(Message(b"slow", correlation_id="one"), routing_key=bench.queue))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await bench.server.until_seen(b"slow")
            with pytest.raises(InvalidArgument, match="'one' is under way"):
                await rpc.call(Message(b"refused", correlation_id="one"), routing_key=bench.queue)
            bench.server.released.set()
        again = await rpc.call(Message(b"again", correlation_id="one"), routing_key=bench.queue)
        assert [reply.body for reply in (*replies, again)] == [b"SLOW", b"AGAIN"]
        assert bench.server.seen == [b"slow", b"again"]


async def test_what_amqp_cannot_carry_fails_its_call_alone(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.rpc_client() as rpc:
        with pytest.raises(InvalidArgument):
            await rpc.call(Message(b"x", headers={"large": bytes(200_000)}), routing_key=bench.queue)
        with pytest.raises(InvalidArgument):
            await rpc.call(Message(b"x", correlation_id="x" * 256), routing_key=bench.queue)
        with pytest.raises(InvalidArgument):
            await rpc.call(Message(b"x"), routing_key="x" * 256)
        assert calls_of(rpc) == 0
        assert await is_answered(rpc, bench)


async def test_a_cancelled_call_leaves_nothing(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.rpc_client() as rpc:
        before = running_tasks()
        steps = 0
        while await cancel_at(steps + 1, lambda: rpc.call(Message(b"slow"), routing_key=bench.queue, timeout=20)):
            steps += 1
            assert calls_of(rpc) == 0
            bench.server.released.set()
            assert steps < 20
        assert steps > 0
        assert calls_of(rpc) == 0
        assert running_tasks() == before
        assert await is_answered(rpc, bench)
        assert bench.connection.stats.link_number == 1


async def test_leaving_the_block_ends_calls_that_wait(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        ended: list[str] = []

        async def call(rpc: RpcClient) -> None:
            with pytest.raises(ChannelClosed, match="RPC client is closed"):
                await rpc.call(Message(b"slow"), routing_key=bench.queue)
            ended.append("slow")

        async with anyio.create_task_group() as tasks, bench.connection.rpc_client() as rpc:
            tasks.start_soon(call, rpc)
            await bench.server.until_seen(b"slow")
        assert ended == ["slow"]
        with pytest.raises(ChannelClosed):
            await rpc.call(Message(b"late"), routing_key=bench.queue)
        assert bench.connection.stats.open_channels == 0


async def test_a_client_works_inside_its_block_only(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        rpc = bench.connection.rpc_client()
        with pytest.raises(InvalidUse, match="inside its block"):
            await rpc.call(Message(b"early"), routing_key=bench.queue)
        async with rpc:
            with pytest.raises(InvalidUse, match="entered once"):
                async with rpc:
                    pytest.fail("entered twice")
            assert await is_answered(rpc, bench)


# --- serving ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(bench: Bench, handler: Handler, *, on_error: OnError | None = None) -> AsyncGenerator[None, None]:
    """Have the handler answer until the block ends."""
    async with (
        bench.beyond.publisher() as publisher,
        bench.beyond.consumer(bench.queue) as consumer,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(partial(anyamqp.serve_rpc, consumer, publisher, handler, concurrency=2, on_error=on_error))
        yield
        await consumer.stop()


async def fail_once(request: Delivery) -> Message:
    await anyio.lowlevel.checkpoint()
    if request.body == b"bad":
        raise LookupError("no account 7")
    return Message(request.body.upper())


async def test_a_handlers_error_reaches_the_caller_and_serving_continues(
    shared_node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        a_bench(shared_node, serving=False) as bench,
        serving(bench, fail_once),
        bench.connection.rpc_client() as rpc,
    ):
        with pytest.raises(RemoteError, match="the server raised LookupError: no account 7") as caught:
            await rpc.call(Message(b"bad"), routing_key=bench.queue, timeout=20)
        assert (caught.value.type, caught.value.text) == ("LookupError", "no account 7")
        assert await is_answered(rpc, bench)
    logged = [record.exc_info[1] for record in caplog.records if record.exc_info is not None]
    assert [str(error) for error in logged] == ["no account 7"]


async def test_an_error_reply_is_a_header_and_a_text(shared_node: Node) -> None:
    async with (
        a_bench(shared_node, serving=False) as bench,
        serving(bench, fail_once),
        bench.connection.channel() as channel,
    ):
        answers = await channel.declare_queue(durable=False, exclusive=True)
        async with bench.connection.publisher() as publisher, bench.connection.consumer(answers) as consumer:
            request = Message(b"bad", reply_to=answers.name, correlation_id="7")
            await publisher.publish(request, routing_key=bench.queue)
            async with await anext(consumer) as answer:
                assert answer.headers == {"x-anyamqp-error": "LookupError"}
                assert (answer.body, answer.correlation_id) == (b"no account 7", "7")
                assert answer.message.content_type == "text/plain; charset=utf-8"


async def test_an_error_reply_is_cut_so_that_it_always_fits(
    shared_node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="anyamqp")  # the workers cannot report a log with a lone surrogate

    async def fail(_: Delivery) -> Message:
        await anyio.lowlevel.checkpoint()
        raise LookupError("\N{EURO SIGN}" * 20_000 + "\udcff")

    async with a_bench(shared_node, serving=False) as bench, serving(bench, fail), bench.connection.rpc_client() as rpc:
        with pytest.raises(RemoteError) as caught:
            await rpc.call(Message(b"x"), routing_key=bench.queue, timeout=20)
        assert caught.value.text == "\N{EURO SIGN}" * 4096


async def test_a_handler_that_returns_no_message_is_told_at_both_ends(
    shared_node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(_: Delivery) -> Message:
        await anyio.lowlevel.checkpoint()
        return cast("Message", b"pong")

    async with (
        a_bench(shared_node, serving=False) as bench,
        serving(bench, answer),
        bench.connection.rpc_client() as rpc,
    ):
        with pytest.raises(RemoteError, match="the handler returned bytes instead of Message"):
            await rpc.call(Message(b"ping"), routing_key=bench.queue, timeout=20)
    assert "the handler returned bytes instead of Message" in caplog.text


async def test_an_answer_that_cannot_be_sent_is_told_at_the_caller(shared_node: Node) -> None:
    async def answer(_: Delivery) -> Message:
        await anyio.lowlevel.checkpoint()
        return Message(b"pong", expiration=-1)

    async with (
        a_bench(shared_node, serving=False) as bench,
        serving(bench, answer),
        bench.connection.rpc_client() as rpc,
    ):
        with pytest.raises(RemoteError, match="InvalidArgument: expiration"):
            await rpc.call(Message(b"ping"), routing_key=bench.queue, timeout=20)


async def test_a_request_that_nobody_waits_for_goes_by_on_error(shared_node: Node) -> None:
    told: list[str] = []

    def note(request: Delivery, error: Exception) -> Decision:
        told.append(f"{request.body.decode()}: {error}")
        return "reject"

    async with a_bench(shared_node, serving=False) as bench:
        async with serving(bench, fail_once, on_error=note), bench.beyond.publisher() as publisher:
            await publisher.publish(Message(b"bad"), routing_key=bench.queue)
            await eventually(lambda: told == ["bad: no account 7"])
        assert await anyio.to_thread.run_sync(shared_node.queue_depth, bench.queue) == 0


async def test_a_request_that_nobody_waits_for_is_handled_again_by_default(shared_node: Node) -> None:
    runs: list[bool] = []

    async def answer(request: Delivery) -> Message:
        await anyio.lowlevel.checkpoint()
        runs.append(request.redelivered)
        if len(runs) == 1:
            raise LookupError
        return Message(b"")

    async with (
        a_bench(shared_node, serving=False) as bench,
        serving(bench, answer),
        bench.beyond.publisher() as publisher,
    ):
        await publisher.publish(Message(b"x"), routing_key=bench.queue)
        await eventually(lambda: runs == [False, True])


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancelled_future_in_a_handler_is_an_error(shared_node: Node) -> None:
    async def answer(request: Delivery) -> Message:
        if request.body == b"bad":
            foreign = asyncio.get_running_loop().create_future()
            foreign.cancel()
            await foreign
        return Message(request.body.upper())

    async with (
        a_bench(shared_node, serving=False) as bench,
        serving(bench, answer),
        bench.connection.rpc_client() as rpc,
    ):
        with pytest.raises(RemoteError, match="CancelledError was raised, but"):
            await rpc.call(Message(b"bad"), routing_key=bench.queue, timeout=20)
        assert await is_answered(rpc, bench)


async def test_a_server_whose_publisher_is_closed_ends_with_its_error(shared_node: Node) -> None:
    async with a_bench(shared_node, serving=False) as bench, bench.beyond.consumer(bench.queue) as consumer:
        async with bench.beyond.publisher() as publisher:
            await publisher.publish(Message(b"ping", reply_to="nowhere"), routing_key=bench.queue)
        with pytest.raises(ChannelClosed, match="publisher is closed"):
            await anyamqp.serve_rpc(consumer, publisher, bench.server.answer)
        # Nobody was answered, so the request is still there.
        async with bench.beyond.consumer(bench.queue) as other, await anext(other) as again:
            assert (again.body, again.redelivered) == (b"ping", True)


async def test_a_server_that_is_not_async_is_refused(shared_node: Node) -> None:
    def answer(_: Delivery) -> Message:
        raise AssertionError("ran")

    async with (
        a_bench(shared_node, serving=False) as bench,
        bench.beyond.publisher() as publisher,
        bench.beyond.consumer(bench.queue) as consumer,
    ):
        with pytest.raises(InvalidArgument, match="answer is not an async function"):
            await anyamqp.serve_rpc(consumer, publisher, cast("Handler", answer))


async def test_serving_goes_on_when_a_caller_has_gone(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        async with bench.connection.rpc_client() as gone:
            with pytest.raises(ReplyTimeout):
                await gone.call(Message(b"slow"), routing_key=bench.queue, timeout=0.3)
        bench.server.released.set()
        async with bench.connection.rpc_client() as rpc:
            assert await is_answered(rpc, bench)


async def test_serving_ends_when_its_consumer_is_stopped(shared_node: Node) -> None:
    async with (
        a_bench(shared_node, serving=False) as bench,
        bench.beyond.publisher() as publisher,
        bench.beyond.consumer(bench.queue) as consumer,
        bench.connection.rpc_client() as rpc,
    ):
        answered: list[bytes] = []

        async def serve() -> None:
            await anyamqp.serve_rpc(consumer, publisher, bench.server.answer)

        async def call() -> None:
            answered.append((await rpc.call(Message(b"slow"), routing_key=bench.queue)).body)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            tasks.start_soon(call)
            await bench.server.until_seen(b"slow")
            await consumer.stop()
            bench.server.released.set()
        assert answered == [b"SLOW"]


async def test_call_in_another_thread_is_refused(shared_node: Node, anyio_backend_name: str) -> None:
    async with a_bench(shared_node) as bench, bench.connection.rpc_client() as rpc:

        async def elsewhere() -> None:
            with pytest.raises(InvalidUse, match="event loop"):
                await rpc.call(Message(b"ping"), routing_key=bench.queue, timeout=5)

        await anyio.to_thread.run_sync(partial(anyio.run, elsewhere, backend=anyio_backend_name))
        assert calls_of(rpc) == 0
        assert await is_answered(rpc, bench)
        assert bench.server.seen == [b"ping"]
