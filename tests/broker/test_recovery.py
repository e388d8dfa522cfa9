"""Recovery after a loss, on RabbitMQ.

The invariants of the design, by number: in OPEN the broker counts the channels that the client counts (6), afterwards
nothing is left (7), an ack never crosses links (8).
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass

import anyio
import anyio.to_thread
import pytest

import anyamqp
from anyamqp import (
    Channel,
    ChannelClosed,
    Connection,
    ConnectionEvent,
    Consumer,
    ConsumerCancelled,
    Delivery,
    LinkEvent,
    Message,
    NotFound,
    PreconditionFailed,
    Queue,
    ReadyTimeout,
    ReconnectPolicy,
    State,
    TransportError,
    Unroutable,
)
from anyamqp.testing import FaultProxy
from broker.conftest import MakeNode
from support.queues import unique
from support.rabbitmq import Counts, Node
from support.waiting import eventually, running_tasks

pytestmark = pytest.mark.anyio

LIMIT = 60.0
EAGER = ReconnectPolicy(maximum=0.2, stable_after=0.0)

Loss = Callable[[Node], Awaitable[None]]


@pytest.fixture(scope="module")
def module_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that these tests may start and kill, not started: starting one for each would take most of their time."""
    with closing(Node(tmp_path_factory.mktemp("mortal-node"), name="mortal")) as node:
        yield node


async def in_thread(work: Callable[[], None]) -> None:
    await anyio.to_thread.run_sync(work)


async def close_all(node: Node) -> None:
    await in_thread(node.close_all_connections)


async def kill_and_restart(node: Node) -> None:
    await in_thread(node.kill)
    await in_thread(node.start)


async def until_recovered(connection: Connection, reconnects: int) -> None:
    await eventually(lambda: connection.stats.reconnects >= reconnects and connection.state is State.OPEN, within=LIMIT)


async def lose(node: Node, connection: Connection, loss: Loss = close_all) -> None:
    """Cut the connection, and wait until it is back."""
    reconnects = connection.stats.reconnects
    await loss(node)
    await until_recovered(connection, reconnects + 1)


async def next_of(consumer: Consumer) -> Delivery:
    with anyio.fail_after(20):
        return await anext(consumer)


async def exists(connection: Connection, queue: str) -> bool:
    async with connection.channel() as channel:
        try:
            await channel.declare_queue(queue, passive=True)
        except NotFound:
            return False
    return True


async def delete(connection: Connection, *queues: Queue | str, exchange: str | None = None) -> None:
    async with connection.channel() as channel:
        for queue in queues:
            await channel.delete_queue(queue)
        if exchange is not None:
            await channel.delete_exchange(exchange)


async def prefetch_limits(node: Node) -> dict[str, int]:
    """What each consumer may hold, by its tag, as the broker sees it."""
    output = await anyio.to_thread.run_sync(
        node.ctl, "--formatter", "json", "list_consumers", "consumer_tag", "prefetch_count"
    )
    return {row["consumer_tag"]: row["prefetch_count"] for row in json.loads(output)}


@dataclass(frozen=True)
class Setup:
    """One queue of each kind, bound to one exchange under the name of its kind, each with its consumer."""

    exchange: str
    queues: Sequence[Queue]
    consumers: Sequence[Consumer]
    channel: Channel


KINDS = ("durable", "exclusive", "server-named")


@asynccontextmanager
async def everything(connection: Connection) -> AsyncGenerator[Setup, None]:
    exchange, name = unique("exchange"), unique("durable")
    async with connection.channel() as channel:
        await channel.declare_exchange(exchange, "topic")
        durable = await channel.declare_queue(name)
        exclusive = await channel.declare_queue(unique("exclusive"), durable=False, exclusive=True)
        server_named = await channel.declare_queue(durable=False, exclusive=True, auto_delete=True)
        queues = (durable, exclusive, server_named)
        for queue, kind in zip(queues, KINDS, strict=True):
            await channel.bind_queue(queue, exchange, f"{kind}.#")
        async with (
            connection.consumer(durable, prefetch=11) as one,
            connection.consumer(exclusive, prefetch=12, exclusive=True) as two,
            connection.consumer(server_named, prefetch=13) as three,
        ):
            yield Setup(exchange, queues, (one, two, three), channel)
        await channel.delete_queue(durable)
        await channel.delete_queue(exclusive)
        await channel.delete_exchange(exchange)


async def assert_each_consumer_gets_its_message(connection: Connection, setup: Setup) -> None:
    async with connection.publisher() as publisher:
        for kind, consumer in zip(KINDS, setup.consumers, strict=True):
            body = unique(kind).encode()
            await publisher.publish(Message(body), exchange=setup.exchange, routing_key=f"{kind}.now")
            delivery = await next_of(consumer)
            while delivery.body != body:
                # An ack of before that the broker lost or had not written down when it was killed.
                delivery.ack()
                delivery = await next_of(consumer)
            delivery.ack()


async def assert_everything_comes_back(node: Node, loss: Loss) -> None:
    async with anyamqp.connect(node.url, reconnect=EAGER) as connection, everything(connection) as setup:
        await assert_each_consumer_gets_its_message(connection, setup)
        old_name = setup.queues[2].name
        await lose(node, connection, loss)

        # Invariant 6: the three consumers' channels, and the one that declared.
        assert connection.stats.open_channels == 4
        assert await anyio.to_thread.run_sync(node.counts) == Counts(1, 4)
        new_name = setup.queues[2].name
        assert new_name != old_name
        assert setup.consumers[2].queue == new_name
        assert not await exists(connection, old_name)
        for queue in setup.queues:
            await setup.channel.declare_queue(queue.name, passive=True)
        limits = await prefetch_limits(node)
        assert [limits[consumer.consumer_tag] for consumer in setup.consumers] == [11, 12, 13]
        await assert_each_consumer_gets_its_message(connection, setup)


async def test_connecting_waits_until_the_broker_comes_up(module_node: Node) -> None:
    node = module_node
    if node.running:
        await in_thread(node.kill)
    with anyio.fail_after(LIMIT):
        async with (
            anyamqp.connect(node.url, ready_timeout=0, reconnect=EAGER) as connection,
            anyio.create_task_group() as tasks,
        ):
            await eventually(lambda: connection.stats.dials >= 3, within=20)
            assert connection.state is State.CONNECTING
            tasks.start_soon(in_thread, node.start)
            await connection.wait_ready(LIMIT)
            assert connection.stats.reconnects == 0
            assert isinstance(connection.stats.last_error, TransportError)
            assert not await exists(connection, unique("absent"))


async def test_topology_and_consumers_come_back_after_the_broker_was_killed(module_node: Node) -> None:
    if not module_node.running:
        await in_thread(module_node.start)
    with anyio.fail_after(LIMIT):
        await assert_everything_comes_back(module_node, kill_and_restart)


async def test_topology_and_consumers_come_back_after_the_broker_closed_all_connections(shared_node: Node) -> None:
    with anyio.fail_after(LIMIT):
        await assert_everything_comes_back(shared_node, close_all)


async def test_prefetch_of_a_channel_comes_back(shared_node: Node) -> None:
    async with anyamqp.connect(shared_node.url, reconnect=EAGER) as connection, connection.channel() as channel:
        await channel.set_qos(17)
        await lose(shared_node, connection)
        listed = await anyio.to_thread.run_sync(
            shared_node.ctl, "--formatter", "json", "list_channels", "prefetch_count"
        )
        assert json.loads(listed) == [{"prefetch_count": 17}]


async def test_stale_ack_sends_nothing_and_is_counted(shared_node: Node) -> None:
    """Invariant 8: had it been sent, the broker would have closed the channel for an unknown tag."""
    name = unique("stale")
    async with anyamqp.connect(shared_node.url, reconnect=EAGER) as connection:
        async with connection.channel() as channel:
            await channel.declare_queue(name)
        async with connection.publisher() as publisher:
            await publisher.publish(Message(b"one"), routing_key=name)
        async with connection.channel() as channel, connection.consumer(name) as consumer:
            stale = await next_of(consumer)
            await lose(shared_node, connection)
            again = await next_of(consumer)
            assert stale.is_stale
            assert not again.is_stale
            assert (again.message_id, again.redelivered) == (stale.message_id, True)

            # The requests before and behind it put the ack between two points of what is sent.
            await channel.declare_queue(name, passive=True)
            sent = connection.stats.frames_sent
            stale.ack()
            await channel.declare_queue(name, passive=True)
            assert connection.stats.frames_sent == sent + 1
            assert connection.stats.stale_acks == 1

            again.ack()
            await channel.declare_queue(name, passive=True)
            assert connection.stats.stale_acks == 1
        async with connection.channel() as channel:
            # Deliveries left unsettled at the channel's end would be back.
            assert (await channel.declare_queue(name, passive=True)).message_count == 0
        await delete(connection, name)


async def test_consumer_of_a_queue_that_is_deleted_is_cancelled(shared_node: Node) -> None:
    name = unique("deleted")
    async with (
        anyamqp.connect(shared_node.url) as connection,
        anyamqp.connect(shared_node.url) as other,
        connection.channel() as channel,
    ):
        await channel.declare_queue(name)
        async with connection.consumer(name) as consumer:
            await delete(other, name)
            with pytest.raises(ConsumerCancelled, match=name):
                await next_of(consumer)
        # It ended the iteration and nothing else.
        assert connection.state is State.OPEN
        assert channel.state is State.OPEN
        assert connection.stats.link_number == 1


async def test_what_the_user_deleted_or_unbound_is_not_resurrected(shared_node: Node) -> None:
    deleted, unbound, exchange, gone = unique("deleted"), unique("unbound"), unique("exchange"), unique("gone")
    async with anyamqp.connect(shared_node.url, reconnect=EAGER) as connection:
        async with connection.channel() as channel:
            for name in (exchange, gone):
                await channel.declare_exchange(name, "direct")
            for name in (deleted, unbound):
                await channel.declare_queue(name)
                await channel.bind_queue(name, exchange, name)
            await channel.bind_queue(unbound, exchange, "kept")
            await channel.delete_queue(deleted)
            await channel.unbind_queue(unbound, exchange, unbound)
            await channel.delete_exchange(gone)
        await lose(shared_node, connection)
        assert not await exists(connection, deleted)
        async with connection.publisher() as publisher:
            for key in (deleted, unbound):
                with pytest.raises(Unroutable):
                    await publisher.publish(Message(b""), exchange=exchange, routing_key=key)
            await publisher.publish(Message(b""), exchange=exchange, routing_key="kept")
            with pytest.raises(NotFound):
                await publisher.publish(Message(b""), exchange=gone)
        await delete(connection, unbound, exchange=exchange)


async def test_queue_redeclared_by_somebody_else_fails_its_owner_and_nobody_else(shared_node: Node) -> None:
    name, well = unique("redeclared"), unique("well")
    with anyio.fail_after(LIMIT), FaultProxy(shared_node.host, shared_node.port) as proxy:
        url = f"amqp://guest:guest@{proxy.host}:{proxy.port}/"
        async with (
            anyamqp.connect(shared_node.url) as other,
            anyamqp.connect(url, reconnect=EAGER) as connection,
            connection.channel() as owner,
            connection.channel() as bystander,
            connection.publisher() as publisher,
        ):
            await owner.declare_queue(name)
            await bystander.declare_queue(well)
            async with connection.consumer(name) as consumer, connection.consumer(well) as unharmed:
                proxy.refuse()
                proxy.reset()
                await eventually(lambda: connection.state is State.RECONNECTING)
                async with other.channel() as channel:
                    await channel.delete_queue(name)
                    await channel.declare_queue(name, arguments={"x-message-ttl": 60_000})
                proxy.accept()
                await until_recovered(connection, 1)

                with pytest.raises(ChannelClosed) as raised:
                    await owner.declare_queue(name, passive=True)
                assert isinstance(raised.value.__cause__, PreconditionFailed)

                await bystander.declare_queue(well, passive=True)
                await publisher.publish(Message(b"goes on"), routing_key=well)
                delivery = await next_of(unharmed)
                assert delivery.body == b"goes on"
                delivery.ack()
                await publisher.publish(Message(b"to the one that is there now"), routing_key=name)
                (await next_of(consumer)).ack()
                assert connection.stats.open_channels == 4
            await delete(other, name, well)


async def test_connection_shown_as_open_can_publish_and_declare_at_once(shared_node: Node) -> None:
    """On every transition to OPEN, and by what was open before the loss. Ten losses of three kinds."""
    name, losses, checked = unique("open"), 10, 0
    with anyio.fail_after(LIMIT), FaultProxy(shared_node.host, shared_node.port) as proxy:
        url = f"amqp://guest:guest@{proxy.host}:{proxy.port}/"
        async with (
            anyamqp.connect(url, reconnect=EAGER) as connection,
            connection.channel() as channel,
            connection.publisher() as publisher,
        ):
            await channel.declare_queue(name)
            transitions = connection.transitions()
            proxy.reset()
            async for transition in transitions:
                if transition.machine != "connection" or transition.target is not State.OPEN:
                    continue
                assert (connection.state, channel.state) == (State.OPEN, State.OPEN)
                assert connection.stats.open_channels == 2
                receipt = await publisher.publish(Message(b""), routing_key=name, timeout=10)
                assert receipt.attempts == 1
                await channel.declare_queue(name, passive=True)
                checked += 1
                assert connection.stats.link_number == checked + 1
                if checked == losses:
                    break
                if checked == losses // 2:
                    await close_all(shared_node)
                elif checked % 2:
                    proxy.finish()
                else:
                    proxy.reset()
            assert await anyio.to_thread.run_sync(shared_node.counts) == Counts(1, 2)
            assert (await channel.declare_queue(name, passive=True)).message_count == losses
            await delete(connection, name)


async def test_connecting_to_an_absent_broker_times_out_and_leaves_nothing(make_node: MakeNode) -> None:
    """Invariant 7."""
    node = make_node()
    before = running_tasks()
    with anyio.fail_after(LIMIT), pytest.raises(ReadyTimeout) as raised:
        async with anyamqp.connect(node.url, ready_timeout=0.5):
            pytest.fail("entered without a broker")
    assert isinstance(raised.value.__cause__, TransportError)
    assert running_tasks() <= before


async def test_transitions_tell_of_a_loss_in_the_order_in_which_it_happened(shared_node: Node) -> None:
    with anyio.fail_after(LIMIT):
        async with anyamqp.connect(shared_node.url, ready_timeout=0, reconnect=EAGER) as connection:
            transitions = connection.transitions()
            states = [connection.state]
            await connection.wait_ready(20)
            states.append(connection.state)
            await lose(shared_node, connection)
            await connection.wait_ready(0)
        assert states == [State.CONNECTING, State.OPEN]
        seen = [
            (one.machine, one.event)
            async for one in transitions
            if one.machine == "connection" or one.machine.startswith("link")
        ]

    def handshake(link: int) -> list[tuple[str, ConnectionEvent | LinkEvent]]:
        steps = (LinkEvent.STARTED, LinkEvent.TUNED, LinkEvent.OPENED)
        return [*((f"link {link}", step) for step in steps), ("connection", ConnectionEvent.OPENED)]

    assert seen == [
        *handshake(1),
        ("link 1", LinkEvent.THEIR_CLOSE),
        ("connection", ConnectionEvent.LOST),
        *handshake(2),
        ("connection", ConnectionEvent.CLOSE),
        ("link 2", LinkEvent.CLOSE),
        ("link 2", LinkEvent.THEIR_CLOSE_OK),
        ("connection", ConnectionEvent.CLOSED),
    ]
