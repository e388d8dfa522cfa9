"""Other parts of AMQP: types of exchanges, recover, publishing without a confirm."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest

import anyamqp
from anyamqp import Channel, Connection, FieldTable, Message, NotFound, Publisher, Unroutable
from anyamqp.testing import FaultProxy
from broker.conftest import MakeNode
from support.queues import take_bodies, unique
from support.rabbitmq import Node
from support.waiting import eventually

pytestmark = pytest.mark.anyio

LIMIT = 60.0


class Bench:
    """A channel for declaring, a publisher, and their entities."""

    def __init__(self, connection: Connection, channel: Channel, publisher: Publisher) -> None:
        self.connection = connection
        self.channel = channel
        self.publisher = publisher
        self._exchanges: list[str] = []

    async def exchange(self, kind: str, *, alternate_exchange: str | None = None) -> str:
        name = unique(kind)
        await self.channel.declare_exchange(name, kind, alternate_exchange=alternate_exchange)
        self._exchanges.append(name)
        return name

    async def queue(self, exchange: str = "", key: str = "", arguments: FieldTable | None = None) -> str:
        name = unique("q")
        await self.channel.declare_queue(name, exclusive=True)
        if exchange:
            await self.channel.bind_queue(name, exchange, key, arguments=arguments)
        return name

    async def bodies(self, queue: str) -> list[bytes]:
        """Take all messages out of the queue."""
        return await take_bodies(self.channel, queue)

    async def clean(self) -> None:
        for exchange in self._exchanges:
            await self.channel.delete_exchange(exchange)


@asynccontextmanager
async def bench(node: Node) -> AsyncGenerator[Bench, None]:
    with anyio.fail_after(LIMIT):
        async with (
            anyamqp.connect(node.url) as connection,
            connection.channel() as channel,
            connection.publisher() as publisher,
        ):
            made = Bench(connection, channel, publisher)
            yield made
            await made.clean()


async def taken(connection: Connection, queue: str, count: int) -> list[bytes]:
    """The first so many bodies that come to a consumer."""
    bodies: list[bytes] = []
    async with connection.consumer(queue) as consumer:
        async for delivery in consumer:
            delivery.ack()
            bodies.append(delivery.body)
            if len(bodies) == count:
                break
    return bodies


async def test_a_topic_exchange_routes_by_words(shared_node: Node) -> None:
    async with bench(shared_node) as made:
        exchange = await made.exchange("topic")
        one, many = await made.queue(exchange, "trade.*"), await made.queue(exchange, "trade.#")
        await made.publisher.publish(Message(b"eur"), exchange=exchange, routing_key="trade.eur")
        await made.publisher.publish(Message(b"eur spot"), exchange=exchange, routing_key="trade.eur.spot")
        with pytest.raises(Unroutable):
            await made.publisher.publish(Message(b"other"), exchange=exchange, routing_key="quote.eur")
        assert await made.bodies(one) == [b"eur"]
        assert await made.bodies(many) == [b"eur", b"eur spot"]


async def test_a_fanout_exchange_routes_to_all(shared_node: Node) -> None:
    async with bench(shared_node) as made:
        exchange = await made.exchange("fanout")
        queues = [await made.queue(exchange) for _ in range(3)]
        await made.publisher.publish(Message(b"all"), exchange=exchange, routing_key="whatever")
        assert [await made.bodies(queue) for queue in queues] == [[b"all"]] * 3


@pytest.mark.parametrize(("match", "reached"), [("all", False), ("any", True)])
async def test_a_headers_exchange_routes_by_headers(shared_node: Node, match: str, reached: bool) -> None:
    async with bench(shared_node) as made:
        exchange = await made.exchange("headers")
        queue = await made.queue(exchange, arguments={"x-match": match, "kind": "trade", "urgent": True})
        message = Message(b"half of it", headers={"kind": "trade", "urgent": False})
        await made.publisher.publish(message, exchange=exchange, mandatory=False)
        assert bool(await made.bodies(queue)) is reached


async def test_an_alternate_exchange_takes_what_is_not_routed(shared_node: Node) -> None:
    async with bench(shared_node) as made:
        unrouted = await made.exchange("fanout")
        exchange = await made.exchange("direct", alternate_exchange=unrouted)
        routed, rest = await made.queue(exchange, "known"), await made.queue(unrouted)
        await made.publisher.publish(Message(b"one"), exchange=exchange, routing_key="known")
        await made.publisher.publish(Message(b"two"), exchange=exchange, routing_key="unknown")
        assert await made.bodies(routed) == [b"one"]
        assert await made.bodies(rest) == [b"two"]


async def test_an_unbound_exchange_gets_nothing_from_the_other(shared_node: Node) -> None:
    async with bench(shared_node) as made:
        source, destination = await made.exchange("fanout"), await made.exchange("fanout")
        queue = await made.queue(destination)
        await made.channel.bind_exchange(destination, source)
        await made.publisher.publish(Message(b"bound"), exchange=source)
        await made.channel.unbind_exchange(destination, source)
        with pytest.raises(Unroutable):
            await made.publisher.publish(Message(b"unbound"), exchange=source)
        assert await made.bodies(queue) == [b"bound"]


async def test_an_internal_exchange_takes_messages_from_exchanges_only(shared_node: Node) -> None:
    async with bench(shared_node) as made:
        source, internal = await made.exchange("fanout"), unique("internal")
        await made.channel.declare_exchange(internal, "fanout", internal=True)
        await made.channel.bind_exchange(internal, source)
        queue = await made.queue(internal)
        await made.publisher.publish(Message(b"by way of the source"), exchange=source)
        with pytest.raises(anyamqp.AccessRefused, match="internal"):
            await made.publisher.publish(Message(b"straight"), exchange=internal)
        assert await made.bodies(queue) == [b"by way of the source"]
        await made.channel.delete_exchange(internal)


async def test_a_plugins_exchange_is_declared_by_the_name_of_its_type(make_node: MakeNode) -> None:
    node = make_node(plugins=["rabbitmq_consistent_hash_exchange"])
    await anyio.to_thread.run_sync(node.start)
    async with bench(node) as made:
        exchange = await made.exchange("x-consistent-hash")
        queues = [await made.queue(exchange, "1") for _ in range(2)]
        for number in range(100):
            await made.publisher.submit(Message(b"x"), exchange=exchange, routing_key=str(number))
        await made.publisher.flush()
        counts = [len(await made.bodies(queue)) for queue in queues]
        assert sum(counts) == 100
        assert min(counts) > 0


async def test_recover_gives_back_what_was_fetched_and_not_settled(shared_node: Node) -> None:
    async with bench(shared_node) as made:
        queue = await made.queue()
        for body in (b"settled", b"open"):
            await made.publisher.publish(Message(body), routing_key=queue)
        settled, fetched = await made.channel.get(queue), await made.channel.get(queue)
        assert settled is not None
        assert fetched is not None
        settled.ack()
        assert not fetched.is_settled
        await made.channel.recover()
        assert fetched.is_settled
        again = await made.channel.get(queue)
        assert again is not None
        assert (again.body, again.redelivered) == (b"open", True)
        again.ack()
        assert await made.channel.get(queue) is None


async def test_publishing_without_a_confirm_reaches_the_queue(shared_node: Node) -> None:
    async with bench(shared_node) as made:
        queue = await made.queue()
        for number in range(100):
            await made.channel.publish(Message(b"%d" % number), routing_key=queue)
        assert await taken(made.connection, queue, 100) == [b"%d" % number for number in range(100)]


async def test_publishing_without_a_confirm_waits_while_the_connection_is_away(shared_node: Node) -> None:
    queue = unique("q")
    with anyio.fail_after(LIMIT), FaultProxy(shared_node.host, shared_node.port) as proxy:
        url = f"amqp://guest:guest@{proxy.host}:{proxy.port}/"
        async with anyamqp.connect(url) as connection, connection.channel() as channel:
            await channel.declare_queue(queue, exclusive=True)
            proxy.refuse()
            proxy.reset()
            await eventually(lambda: connection.state is anyamqp.State.RECONNECTING)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: channel.publish(Message(b"later"), routing_key=queue))
                proxy.accept()
            assert await taken(connection, queue, 1) == [b"later"]


async def test_publishing_without_a_confirm_to_no_exchange_closes_the_channel(shared_node: Node) -> None:
    with anyio.fail_after(LIMIT):
        async with anyamqp.connect(shared_node.url) as connection, connection.channel() as channel:
            await channel.publish(Message(b"x"), exchange="nowhere")
            with pytest.raises(anyamqp.ChannelClosed, match="no exchange 'nowhere'") as caught:
                await channel.declare_queue("q", passive=True)
            assert isinstance(caught.value.__cause__, NotFound)
