"""The options of a publisher on RabbitMQ: defaults, refusals, nacks, losses, sizes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace

import anyio
import pytest

import anyamqp
from anyamqp import (
    Channel,
    Connection,
    Delivery,
    FieldTable,
    InvalidArgument,
    Message,
    Nacked,
    OutcomeUnknown,
    PreconditionFailed,
    Properties,
    Publication,
    Publisher,
    Receipt,
    ReconnectPolicy,
    Settings,
    TransportError,
    Unroutable,
)
from anyamqp.testing import FaultProxy
from support.queues import take_all, unique
from support.rabbitmq import Node
from support.waiting import eventually

pytestmark = pytest.mark.anyio

LIMIT = 60.0
EAGER = ReconnectPolicy(maximum=0.2, stable_after=0.0)
MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module")
def narrow_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that takes messages of one mebibyte at most."""
    folder = tmp_path_factory.mktemp("narrow-node")
    with closing(Node(folder, config={"max_message_size": str(MEGABYTE)}, name="narrow")) as node:
        node.start()
        yield node


@dataclass(frozen=True)
class Bench:
    """A connection to publish with, and a queue that another connection declares, empties and deletes."""

    connection: Connection
    channel: Channel
    queue: str

    async def take(self) -> list[Delivery]:
        """Take all messages out of the queue."""
        return await take_all(self.channel, self.queue)

    async def bodies(self) -> list[bytes]:
        return [delivery.body for delivery in await self.take()]

    async def submit(self, publisher: Publisher, *messages: Message) -> list[Publication]:
        return [await publisher.submit(message, routing_key=self.queue) for message in messages]


@asynccontextmanager
async def a_bench(
    node: Node, settings: Settings | None = None, *, max_length: int | None = None
) -> AsyncGenerator[Bench, None]:
    """A bench. With ``max_length``, the broker nacks publishes that do not fit into the queue."""
    queue = unique("queue")
    with anyio.fail_after(LIMIT):
        async with anyamqp.connect(node.url) as other, other.channel() as channel:
            if max_length is None:
                await channel.declare_queue(queue)
            else:
                await channel.declare_queue(queue, max_length=max_length, overflow="reject-publish")
            try:
                async with anyamqp.connect(settings or node.url, reconnect=EAGER) as connection:
                    yield Bench(connection, channel, queue)
            finally:
                await channel.delete_queue(queue)


def through(proxy: FaultProxy) -> Settings:
    return Settings.from_urls(f"amqp://guest:guest@{proxy.host}:{proxy.port}/")


def numbered(count: int) -> list[Message]:
    return [Message(b"%d" % number) for number in range(count)]


# --- defaults -------------------------------------------------------------------------------------------------------


async def test_a_messages_properties_override_the_publishers_defaults(shared_node: Node) -> None:
    defaults = Properties(
        content_type="application/json",
        headers={"origin": "defaults", "shared": "defaults"},
        persistent=False,
        expiration=3600,
        user_id="guest",
        app_id="billing",
    )
    async with a_bench(shared_node) as bench, bench.connection.publisher(defaults=defaults) as publisher:
        own = Message(
            b"own", content_type="text/plain", headers={"shared": "message"}, persistent=True, expiration=7200
        )
        await bench.submit(publisher, Message(b"plain"), own)
        await publisher.flush()
        first, second = [delivery.message for delivery in await bench.take()]
        assert (first.content_type, first.headers) == ("application/json", defaults.headers)
        assert (first.persistent, first.expiration) == (False, 3600)
        assert (second.content_type, second.headers) == ("text/plain", {"origin": "defaults", "shared": "message"})
        assert (second.persistent, second.expiration) == (True, 7200)
        for message in (first, second):
            assert (message.user_id, message.app_id) == ("guest", "billing")


async def test_the_default_exchange_of_a_publisher_is_where_its_messages_go(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.publisher(exchange="amq.direct") as publisher:
        await bench.channel.bind_queue(bench.queue, "amq.direct", "bound")
        await publisher.publish(Message(b"bound"), routing_key="bound")
        await publisher.publish(Message(b"elsewhere"), exchange="", routing_key=bench.queue)
        delivered = [(delivery.exchange, delivery.body) for delivery in await bench.take()]
        assert delivered == [("amq.direct", b"bound"), ("", b"elsewhere")]


async def test_a_default_expiration_makes_the_queue_drop_the_message(shared_node: Node) -> None:
    async with (
        a_bench(shared_node) as bench,
        bench.connection.publisher(defaults=Properties(expiration=0)) as publisher,
    ):
        await publisher.publish(Message(b"dropped"), routing_key=bench.queue)
        await publisher.publish(Message(b"kept", expiration=3600), routing_key=bench.queue)
        assert await bench.bodies() == [b"kept"]


async def test_a_user_id_that_is_not_ours_fails_that_publish_alone(shared_node: Node) -> None:
    """Invariants 3 and 5. RabbitMQ, "Validated User-ID"."""
    async with a_bench(shared_node) as bench, bench.connection.publisher() as publisher:
        good = await bench.submit(publisher, *numbered(10))
        (forged,) = await bench.submit(publisher, Message(b"forged", user_id="somebody"))
        good += await bench.submit(publisher, *(Message(b"%d" % n, user_id="guest") for n in range(10, 20)))
        with pytest.raises(PreconditionFailed, match="user_id"):
            await forged
        for publication in good:
            await publication
        assert list(dict.fromkeys(await bench.bodies())) == [b"%d" % n for n in range(20)]
        assert bench.connection.stats.link_number == 1


# --- nacks ----------------------------------------------------------------------------------------------------------


async def test_a_nack_of_a_full_queue_is_raised(shared_node: Node) -> None:
    async with a_bench(shared_node, max_length=2) as bench, bench.connection.publisher() as publisher:
        first, second, third = await bench.submit(publisher, *numbered(3))
        assert [(await one).attempts for one in (first, second)] == [1, 1]
        with pytest.raises(Nacked) as caught:
            await third
        assert caught.value.message_id == third.message_id
        assert await bench.bodies() == [b"0", b"1"]


async def test_a_nack_of_a_full_queue_is_retried_until_a_consumer_makes_room(shared_node: Node) -> None:
    """Invariant 3."""
    async with a_bench(shared_node, max_length=1) as bench, bench.connection.publisher(retry_nacked=True) as publisher:
        await publisher.publish(Message(b"first"), routing_key=bench.queue)
        (second,) = await bench.submit(publisher, Message(b"second"))
        # Until it has been nacked and sent again: it is the only one that sends.
        sent = bench.connection.stats.frames_sent
        await eventually(lambda: bench.connection.stats.frames_sent > sent)
        assert not second.is_settled
        async with bench.connection.consumer(bench.queue) as consumer:
            async with await anext(consumer) as delivery:
                assert delivery.body == b"first"
            async with await anext(consumer) as delivery:
                assert delivery.body == b"second"
        assert (await second).attempts > 1


async def test_a_nack_of_a_full_queue_is_retried_no_longer_than_the_deadline(shared_node: Node) -> None:
    """Invariant 3."""
    async with a_bench(shared_node, max_length=1) as bench, bench.connection.publisher(retry_nacked=True) as publisher:
        await publisher.publish(Message(b"first"), routing_key=bench.queue)
        with pytest.raises(anyamqp.PublishTimeout) as caught:
            await publisher.publish(Message(b"second"), routing_key=bench.queue, timeout=0.5)
        assert caught.value.sent
        assert await bench.bodies() == [b"first"]
        await publisher.publish(Message(b"third"), routing_key=bench.queue)
        assert await bench.bodies() == [b"third"]


# --- losses ---------------------------------------------------------------------------------------------------------


async def test_without_resend_a_reset_leaves_sent_publishes_unknown(shared_node: Node) -> None:
    """Invariant 3."""
    with FaultProxy(shared_node.host, shared_node.port) as proxy:
        async with (
            a_bench(shared_node, through(proxy)) as bench,
            bench.connection.publisher(resend=False) as publisher,
        ):
            await publisher.publish(Message(b"before"), routing_key=bench.queue)
            proxy.black_hole()
            caught_by_it = await bench.submit(publisher, *numbered(5))
            await anyio.wait_all_tasks_blocked()
            proxy.reset()
            for publication in caught_by_it:
                with pytest.raises(OutcomeUnknown) as caught:
                    await publication
                assert isinstance(caught.value.__cause__, TransportError)
            proxy.heal()
            assert (await publisher.publish(Message(b"after"), routing_key=bench.queue)).attempts == 1
            assert await bench.bodies() == [b"before", b"after"]


async def test_with_resend_a_reset_costs_nothing(shared_node: Node) -> None:
    """Invariants 3, 4 and 5."""
    with FaultProxy(shared_node.host, shared_node.port) as proxy:
        async with a_bench(shared_node, through(proxy)) as bench, bench.connection.publisher() as publisher:
            await publisher.publish(Message(b"before"), routing_key=bench.queue)
            proxy.black_hole()
            publications = await bench.submit(publisher, *numbered(5))
            await anyio.wait_all_tasks_blocked()
            proxy.reset()
            proxy.heal()
            assert [(await one).attempts for one in publications] == [2] * 5
            assert await bench.bodies() == [b"before", *(b"%d" % n for n in range(5))]


async def test_several_tasks_on_one_publisher_keep_each_tasks_order_over_resets(shared_node: Node) -> None:
    """Invariants 4 and 5."""
    tasks_count, each, resets = 8, 150, 3
    submitted: list[bytes] = []
    attempts: list[int] = []

    async def publish(publisher: Publisher, queue: str, name: int) -> None:
        publications: list[Publication] = []
        for number in range(each):
            body = b"%d:%d" % (name, number)
            publications.append(await publisher.submit(Message(body), routing_key=queue))
            submitted.append(body)
        attempts.extend([(await publication).attempts for publication in publications])

    async def until_submitted(count: int) -> None:
        await eventually(lambda: len(submitted) >= count, within=LIMIT)

    async def until_reconnected(connection: Connection, times: int) -> None:
        await eventually(lambda: connection.stats.reconnects >= times, within=LIMIT)

    with FaultProxy(shared_node.host, shared_node.port) as proxy:
        async with a_bench(shared_node, through(proxy)) as bench, bench.connection.publisher(window=64) as publisher:
            async with anyio.create_task_group() as tasks:
                for name in range(tasks_count):
                    tasks.start_soon(publish, publisher, bench.queue, name)
                for reset in range(1, resets + 1):
                    await until_submitted(reset * tasks_count * each // (resets + 1))
                    proxy.reset()
                    await until_reconnected(bench.connection, reset)
            delivered = list(dict.fromkeys(await bench.bodies()))
    assert max(attempts) > 1
    assert set(delivered) == set(submitted)
    order: dict[bytes, list[int]] = defaultdict(list)
    for body in delivered:
        task, _, which = body.partition(b":")
        order[task].append(int(which))
    assert list(order.values()) == [list(range(each))] * tasks_count


# --- unroutable -----------------------------------------------------------------------------------------------------


async def test_returns_among_routable_ones_with_the_same_id_are_matched(shared_node: Node) -> None:
    """Invariant 3."""
    async with a_bench(shared_node) as bench, bench.connection.publisher(exchange="amq.direct") as publisher:
        await bench.channel.bind_queue(bench.queue, "amq.direct", "bound")
        publications: list[Publication] = []
        for number in range(30):
            message = Message(b"%d" % (number // 3), message_id="same", headers={"number": number})
            key = "unbound" if number % 3 == 1 else "bound"
            publications.append(await publisher.submit(message, routing_key=key))
        outcomes: list[type[object]] = []
        for publication in publications:
            try:
                outcomes.append(type(await publication))
            except Unroutable as error:
                assert (error.message_id, error.exchange, error.routing_key) == ("same", "amq.direct", "unbound")
                outcomes.append(Unroutable)
        assert outcomes == [Unroutable if number % 3 == 1 else Receipt for number in range(30)]
        headers = [delivery.headers["number"] for delivery in await bench.take()]
        assert headers == [number for number in range(30) if number % 3 != 1]


@pytest.mark.parametrize("changed", [{}, {"BCC": ["nobody"]}], ids=["as sent", "without BCC"])
async def test_returns_with_the_same_id_and_key_are_matched_by_content(shared_node: Node, changed: FieldTable) -> None:
    """Invariant 3. The exchange routes by a header, which is all that differs between those that reach the queue and
    the others. RabbitMQ 4 returns the headers sorted, and every version returns them without BCC.
    """
    async with a_bench(shared_node) as bench, bench.connection.publisher(exchange="amq.headers") as publisher:
        match: FieldTable = {"x-match": "all", "owner": bench.queue, "wanted": True}
        rest: FieldTable = {"owner": bench.queue, "pi": 3.14, "big": 2**40, "list": [1, "a", None], **changed}
        await bench.channel.bind_queue(bench.queue, "amq.headers", arguments=match)
        wanted = [number % 4 != 2 for number in range(20)]
        publications = [
            await publisher.submit(Message(b"x", message_id="same", headers={**rest, "wanted": is_wanted}))
            for is_wanted in wanted
        ]
        outcomes: list[bool] = []
        for publication in publications:
            try:
                await publication
                outcomes.append(True)
            except Unroutable:
                outcomes.append(False)
        assert outcomes == wanted
        assert len(await bench.take()) == wanted.count(True)


# --- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 131072 - 9, 131072 - 8, 131072 - 7, 3 * (131072 - 8), 5_000_000])
async def test_a_body_of_any_size_arrives_whole(shared_node: Node, size: int) -> None:
    """Around the sizes at which a body fills its frames of 128 KiB, less their 8 bytes of overhead."""
    body = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
    async with a_bench(shared_node) as bench, bench.connection.publisher() as publisher:
        await bench.submit(publisher, Message(b"before"), Message(body), Message(b"after"))
        await publisher.flush()
        assert await bench.bodies() == [b"before", body, b"after"]


async def test_a_body_of_the_brokers_maximum_arrives(narrow_node: Node) -> None:
    body = b"m" * MEGABYTE
    async with a_bench(narrow_node) as bench, bench.connection.publisher() as publisher:
        await publisher.publish(Message(body), routing_key=bench.queue)
        assert await bench.bodies() == [body]


async def test_a_body_above_the_brokers_maximum_fails_alone(narrow_node: Node) -> None:
    """Invariants 3 and 5."""
    async with a_bench(narrow_node) as bench, bench.connection.publisher() as publisher:
        good = await bench.submit(publisher, *numbered(10))
        (large,) = await bench.submit(publisher, Message(bytes(MEGABYTE + 1)))
        good += await bench.submit(publisher, *(Message(b"%d" % n) for n in range(10, 20)))
        with pytest.raises(PreconditionFailed, match="larger than"):
            await large
        for publication in good:
            await publication
        assert list(dict.fromkeys(await bench.bodies())) == [b"%d" % n for n in range(20)]
        assert bench.connection.stats.link_number == 1


async def test_a_body_above_our_own_maximum_is_refused_before_it_is_sent(shared_node: Node) -> None:
    settings = replace(Settings.from_urls(shared_node.url), max_message_size=1000)
    async with a_bench(shared_node, settings) as bench, bench.connection.publisher() as publisher:
        before = bench.connection.stats.bytes_sent
        with pytest.raises(InvalidArgument, match="max_message_size is 1000"):
            await publisher.publish(Message(bytes(1001)), routing_key=bench.queue)
        assert bench.connection.stats.bytes_sent == before
        await publisher.publish(Message(bytes(1000)), routing_key=bench.queue)
        assert await bench.bodies() == [bytes(1000)]
