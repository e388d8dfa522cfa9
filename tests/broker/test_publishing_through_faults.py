"""Thousands of confirmed publishes through kills, closes, resets and a dead link, against RabbitMQ.

The invariants of the design, by number: at most one live socket (1), every publish has one outcome (3), what was
confirmed is delivered (4), a publisher's order holds by first appearances (5), in OPEN the broker counts the channels
that the client counts (6), and afterwards nothing is left (7).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

import anyio
import anyio.to_thread
import pytest

import anyamqp
from anyamqp import Connection, Message, Publication, Publisher, Receipt, ReconnectPolicy
from anyamqp.testing import FaultProxy
from support.nodelog import log_mark, log_of_graceful_close
from support.queues import unique
from support.rabbitmq import Counts, Node
from support.waiting import eventually, running_tasks

pytestmark = pytest.mark.anyio

TASKS = 20
EACH = 100
"""How many publishes each task makes."""
BULK = 3_000
"""How many publishes the task makes that submits and flushes."""
BATCH = 150
TOTAL = TASKS * EACH + BULK
LIMIT = 100.0

EAGER = ReconnectPolicy(maximum=0.2, stable_after=0.0)
UNEXPECTED = "client unexpectedly closed"


@pytest.fixture(scope="module")
def module_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that these tests may kill: starting one for each of them would take most of their time."""
    with closing(Node(tmp_path_factory.mktemp("killed-node"), name="killed")) as node:
        yield node


@pytest.fixture
def mortal_node(module_node: Node) -> Node:
    """The module's node, running."""
    if not module_node.running:
        module_node.start()
    return module_node


@dataclass
class Traffic:
    """Publishes, and how each of them ended. Goes on until everything is published and the faults are over.

    A body says who published it and as which of his, counted from 0: ``7:42``.
    """

    queue: str
    confirmed: dict[bytes, Receipt] = field(default_factory=dict[bytes, Receipt])
    failed: dict[bytes, Exception] = field(default_factory=dict[bytes, Exception])
    started: int = 0
    faults_are_over: bool = False

    async def one_by_one(self, publisher: Publisher, name: int) -> None:
        number = 0
        while number < EACH or not self.faults_are_over:
            body = self._body(name, number)
            try:
                self._confirm(body, await publisher.publish(Message(body), routing_key=self.queue))
            except anyamqp.AnyamqpError as error:
                self.failed[body] = error
            number += 1

    async def in_batches(self, publisher: Publisher, name: int) -> None:
        number = 0
        while number < BULK or not self.faults_are_over:
            submitted: dict[bytes, Publication] = {}
            for _ in range(BATCH):
                body = self._body(name, number)
                submitted[body] = await publisher.submit(Message(body), routing_key=self.queue)
                number += 1
            await publisher.flush()
            for body, publication in submitted.items():
                assert publication.is_settled
                self._confirm(body, await publication)

    async def until_confirmed(self, count: int) -> None:
        await eventually(lambda: len(self.confirmed) >= count, within=LIMIT)

    def _body(self, name: int, number: int) -> bytes:
        self.started += 1
        return f"{name}:{number}".encode()

    def _confirm(self, body: bytes, receipt: Receipt) -> None:
        assert body not in self.confirmed
        assert body not in self.failed
        self.confirmed[body] = receipt


async def publish_through(
    connection: Connection, publisher: Publisher, queue: str, faults: Callable[[Traffic], Awaitable[None]]
) -> Traffic:
    """Publish while ``faults`` strike; returns when everything has its outcome."""
    traffic = Traffic(queue)
    async with connection.channel() as channel:
        await channel.declare_queue(queue)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(traffic.in_batches, publisher, TASKS)
        for name in range(TASKS):
            tasks.start_soon(traffic.one_by_one, publisher, name)
        await faults(traffic)
        traffic.faults_are_over = True
    assert publisher.unconfirmed == 0
    return traffic


async def until_reconnected(connection: Connection, times: int) -> None:
    await eventually(lambda: connection.stats.reconnects >= times, within=LIMIT)


async def drain(connection: Connection, traffic: Traffic) -> list[bytes]:
    """Consume until everything that was confirmed has come, or nothing more comes; the bodies in that order."""
    delivered: list[bytes] = []
    missing = set(traffic.confirmed)
    async with connection.consumer(traffic.queue, prefetch=500) as consumer:
        while missing:
            with anyio.move_on_after(20) as patience:
                async with await anext(consumer) as delivery:
                    delivered.append(delivery.body)
                    missing.discard(delivery.body)
            if patience.cancelled_caught:
                break
    return delivered


def assert_nothing_is_lost_or_out_of_order(traffic: Traffic, delivered: list[bytes]) -> None:
    # Invariant 3: none of these faults is a reason to fail, with a minute for each publish.
    assert traffic.failed == {}
    assert len(traffic.confirmed) == traffic.started >= TOTAL
    # The faults hit pending publishes.
    assert any(receipt.attempts > 1 for receipt in traffic.confirmed.values())
    # Invariant 4, and nothing that was never published.
    assert set(traffic.confirmed) - set(delivered) == set()
    assert set(delivered) - set(traffic.confirmed) == set()
    # Invariant 5.
    order: dict[bytes, list[int]] = defaultdict(list)
    for body in dict.fromkeys(delivered):
        publisher, _, number = body.partition(b":")
        order[publisher].append(int(number))
    assert len(order) == TASKS + 1
    for numbers in order.values():
        assert numbers == list(range(len(numbers)))


async def assert_broker_counts(node: Node, connection: Connection, channels: int) -> None:
    """Invariants 1 and 6, as the broker sees them. A connection that it lost may take it a moment to bury."""
    counts = None
    with anyio.move_on_after(20):
        while counts != Counts(1, channels):
            counts = await anyio.to_thread.run_sync(node.counts)
    assert counts == Counts(1, channels)
    assert connection.stats.open_channels == channels


async def delete_and_close(connection: Connection, queue: str) -> None:
    async with connection.channel() as channel:
        await channel.delete_queue(queue)
    await connection.close()


async def test_publishes_survive_a_broker_that_is_killed_twice(mortal_node: Node) -> None:
    node, name = mortal_node, unique("kills")

    async def faults(traffic: Traffic) -> None:
        # RabbitMQ answers queue.declare before the queue is on disk. One that is killed within that moment comes back
        # without the queue, and so without its confirmed messages, which no client can make up for.
        await anyio.to_thread.run_sync(node.eval, "mnesia:sync_log()")
        for kills in (1, 2):
            await traffic.until_confirmed(len(traffic.confirmed) + 500)
            await anyio.to_thread.run_sync(node.kill)
            await anyio.to_thread.run_sync(node.start)
            await until_reconnected(connection, kills)

    before = running_tasks()
    with anyio.fail_after(LIMIT):
        async with anyamqp.connect(node.url, name=name, reconnect=EAGER) as connection:
            async with connection.publisher() as publisher:
                traffic = await publish_through(connection, publisher, name, faults)
                assert connection.stats.reconnects == 2
                await assert_broker_counts(node, connection, channels=1)
            delivered = await drain(connection, traffic)
            await assert_broker_counts(node, connection, channels=0)
            start = await log_mark(node)
            await delete_and_close(connection, name)
        assert_nothing_is_lost_or_out_of_order(traffic, delivered)
        assert UNEXPECTED not in await log_of_graceful_close(node, name, start)
    assert running_tasks() <= before


async def test_publishes_survive_a_broker_that_closes_all_connections_again_and_again(shared_node: Node) -> None:
    node, name = shared_node, unique("closes")
    closes = 4

    async def faults(traffic: Traffic) -> None:
        for number in range(closes):
            await traffic.until_confirmed(1_000 * number + 100)
            await anyio.to_thread.run_sync(node.close_all_connections)
            await until_reconnected(connection, number + 1)

    before = running_tasks()
    with anyio.fail_after(LIMIT):
        start = await log_mark(node)
        async with anyamqp.connect(node.url, name=name, reconnect=EAGER) as connection:
            async with connection.publisher() as publisher:
                traffic = await publish_through(connection, publisher, name, faults)
                assert connection.stats.reconnects == closes
                await assert_broker_counts(node, connection, channels=1)
            delivered = await drain(connection, traffic)
            await assert_broker_counts(node, connection, channels=0)
            await delete_and_close(connection, name)
        assert_nothing_is_lost_or_out_of_order(traffic, delivered)
        # Those that the broker began are answered as they should be, too.
        assert UNEXPECTED not in await log_of_graceful_close(node, name, start)
    assert running_tasks() <= before


async def test_publishes_survive_resets_and_a_dead_link(shared_node: Node) -> None:
    node, name = shared_node, unique("resets")
    resets = 20

    async def faults(traffic: Traffic) -> None:
        for number in range(resets):
            await traffic.until_confirmed(200 * number + 100)
            proxy.reset()
            await until_reconnected(connection, number + 1)
        await traffic.until_confirmed(200 * resets)
        proxy.strand()
        await until_reconnected(connection, resets + 1)

    before = running_tasks()
    with anyio.fail_after(LIMIT), FaultProxy(node.host, node.port) as proxy:
        start = await log_mark(node)
        url = f"amqp://guest:guest@{proxy.host}:{proxy.port}/?heartbeat=1"
        async with anyamqp.connect(url, name=name, reconnect=EAGER) as connection:
            async with connection.publisher() as publisher:
                traffic = await publish_through(connection, publisher, name, faults)
                assert connection.stats.reconnects >= resets + 1
                await assert_broker_counts(node, connection, channels=1)
            delivered = await drain(connection, traffic)
            await assert_broker_counts(node, connection, channels=0)
            await delete_and_close(connection, name)
        assert_nothing_is_lost_or_out_of_order(traffic, delivered)
        log = await log_of_graceful_close(node, name, start)
        assert log.count(UNEXPECTED) <= resets
        # Invariant 1: one live socket at a time; two would be a dial before the old one is closed.
        assert proxy.max_live_connections == 1
    assert running_tasks() <= before
