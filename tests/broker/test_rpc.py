"""Request and reply over direct reply-to, on a real broker: who gets which reply, and what goes wrong cleanly."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

import anyamqp
from anyamqp import (
    ChannelClosed,
    Connection,
    ConnectionLost,
    Delivery,
    InvalidArgument,
    InvalidUse,
    Message,
    NotFound,
    PreconditionFailed,
    ReconnectPolicy,
    ReplyTimeout,
    RpcClient,
    State,
    Unroutable,
)
from anyamqp.testing import FaultProxy
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
        """Have the clients' connection lost."""
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
    queue = f"queue-{uuid.uuid4().hex}"
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


def calls_of(rpc: RpcClient) -> dict[str, object]:
    """What a client has under way."""
    calls: dict[str, object] = vars(rpc)["_calls"]
    return calls


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
        assert calls_of(rpc) == {}
        received = bench.connection.stats.frames_received
        bench.server.released.set()
        await eventually(lambda: bench.connection.stats.frames_received > received)
        assert await is_answered(rpc, bench)
        assert (rpc_state(rpc), bench.connection.stats.link_number) == (State.OPEN, 1)


def rpc_state(rpc: RpcClient) -> State:
    """Where the client's channel is."""
    state: State = vars(rpc)["_channel"].state
    return state


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


async def test_a_missing_exchange_takes_the_replies_of_calls_that_may_not_be_sent_again(shared_node: Node) -> None:
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


async def test_only_the_call_through_the_missing_exchange_is_told_of_it(shared_node: Node) -> None:
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
            await eventually(lambda: len(calls_of(rpc)) == 1)
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
        assert calls_of(rpc) == {}
        assert await is_answered(rpc, bench)


async def test_a_cancelled_call_leaves_nothing(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.rpc_client() as rpc:
        before = running_tasks()
        steps = 0
        while await cancel_at(steps + 1, lambda: rpc.call(Message(b"slow"), routing_key=bench.queue, timeout=20)):
            steps += 1
            assert calls_of(rpc) == {}
            bench.server.released.set()
            assert steps < 20
        assert steps > 0
        assert calls_of(rpc) == {}
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


async def test_a_handlers_error_ends_the_serving_and_the_request_is_back(shared_node: Node) -> None:
    async with a_bench(shared_node, serving=False) as bench:
        error = LookupError("no such account")

        async def fail(_: Delivery) -> Message:
            await anyio.lowlevel.checkpoint()
            raise error

        async with (
            bench.beyond.publisher() as publisher,
            bench.beyond.consumer(bench.queue) as consumer,
        ):
            await publisher.publish(Message(b"x"), routing_key=bench.queue)
            with pytest.raises(LookupError) as caught:
                await anyamqp.serve_rpc(consumer, publisher, fail)
            assert caught.value is error
        async with bench.beyond.consumer(bench.queue) as consumer, await anext(consumer) as again:
            assert (again.body, again.redelivered) == (b"x", True)


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
        assert calls_of(rpc) == {}
        assert await is_answered(rpc, bench)
        assert bench.server.seen == [b"ping"]
