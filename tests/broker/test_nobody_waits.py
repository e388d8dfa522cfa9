"""Invariant 13 against RabbitMQ: what one entity waits for after a loss delays no other, and comes back in the end."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import anyio
import anyio.to_thread
import pytest

import anyamqp
from anyamqp import Connection, Consumer, Message, Publisher, ReconnectPolicy
from anyamqp.testing import FaultProxy
from support.cluster import cluster
from support.queues import unique
from support.rabbitmq import Node
from support.unnoticed import Lines
from support.waiting import eventually

pytestmark = pytest.mark.anyio

MEASURED = logging.getLogger("measured")
EAGER = ReconnectPolicy(maximum=0.2, stable_after=0.0)
SOON = 5.0
"""Seconds in which whatever waits for nothing must go on; about a second on a quiet machine."""
LIMIT = 120.0
"""Seconds for nodes to start, and for locks and dead nodes to be noticed."""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    """Three nodes of one cluster."""
    with cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


def names_of(connection: Connection) -> str:
    return "\n".join(connection.stats.not_back)


async def assert_delivers(publisher: Publisher, consumer: Consumer, body: bytes) -> None:
    await publisher.publish(Message(body), routing_key=consumer.queue)
    async with await anext(consumer) as delivery:
        assert delivery.body == body


async def test_a_queue_of_a_node_that_is_killed_delays_nobody_and_comes_back(nodes: list[Node]) -> None:
    """The connection is on the node that is home to the classic queue."""
    first, second, home = nodes
    classic, quorum = unique("classic"), unique("quorum")
    with anyio.fail_after(2 * LIMIT):
        async with (
            anyamqp.connect([home.url, first.url, second.url], reconnect=EAGER) as connection,
            connection.channel() as channel,
            connection.publisher() as publisher,
        ):
            await channel.declare_queue(classic)
            await channel.declare_queue(quorum, queue_type="quorum")
            async with (
                connection.consumer(classic) as of_classic,
                connection.consumer(quorum, on_cancel="resubscribe") as of_quorum,
            ):
                await anyio.to_thread.run_sync(home.kill)
                lost_at = anyio.current_time()
                with anyio.fail_after(SOON):
                    await assert_delivers(publisher, of_quorum, b"meanwhile")
                MEASURED.info("another queue goes on %.2f s after the kill", anyio.current_time() - lost_at)
                assert not of_classic.is_consuming
                assert f"queue {classic!r}" in names_of(connection)
                reason = "down or inaccessible" if first.facts.refuses_queue_of_dead_node else "does not answer"
                assert reason in names_of(connection)
                with pytest.raises(anyamqp.ReadyTimeout, match=classic):
                    await connection.wait_ready(0.1)
                await anyio.to_thread.run_sync(home.start)
                await connection.wait_ready(LIMIT)
                assert connection.stats.not_back == ()
                await assert_delivers(publisher, of_classic, b"after")
            await channel.delete_queue(classic)
            await channel.delete_queue(quorum)


async def test_a_queue_of_a_node_that_is_frozen_delays_nobody_and_comes_back(nodes: list[Node]) -> None:
    """The other nodes hold it for alive, and wait for its answer."""
    first, _, home = nodes
    classic, quorum = unique("classic"), unique("quorum")
    async with anyamqp.connect(home.url) as other, other.channel() as channel:
        await channel.declare_queue(classic)
    with anyio.fail_after(2 * LIMIT), FaultProxy(first.host, first.port) as proxy:
        async with (
            anyamqp.connect(f"amqp://guest:guest@{proxy.host}:{proxy.port}/", reconnect=EAGER) as connection,
            connection.channel() as channel,
            connection.publisher() as publisher,
        ):
            await channel.declare_queue(classic)
            await channel.declare_queue(quorum, queue_type="quorum")
            async with connection.consumer(classic) as of_classic, connection.consumer(quorum) as of_quorum:
                home.freeze()
                try:
                    proxy.reset()
                    lost_at = anyio.current_time()
                    await eventually(lambda: connection.stats.reconnects == 1, within=SOON)
                    with anyio.fail_after(SOON):
                        await assert_delivers(publisher, of_quorum, b"meanwhile")
                    MEASURED.info("another queue goes on %.2f s after the reset", anyio.current_time() - lost_at)
                    assert not of_classic.is_consuming
                    assert f"queue {classic!r}: the broker does not answer" in names_of(connection)
                finally:
                    home.thaw()
                await connection.wait_ready(LIMIT)
                assert connection.stats.not_back == ()
                await assert_delivers(publisher, of_classic, b"after")
            await channel.delete_queue(classic)
            await channel.delete_queue(quorum)


async def test_an_exclusive_queue_that_our_last_link_locks_delays_nobody_and_comes_back(shared_node: Node) -> None:
    """405 RESOURCE_LOCKED for two to three heartbeat intervals."""
    name, locked, lines = unique("unrelated"), unique("exclusive"), Lines()
    with anyio.fail_after(2 * LIMIT), FaultProxy(shared_node.host, shared_node.port) as proxy:
        url = f"amqp://guest:guest@{proxy.host}:{proxy.port}/?heartbeat=5"
        async with (
            anyamqp.connect(url, dial=lines, reconnect=EAGER) as connection,
            connection.channel() as channel,
            connection.publisher() as publisher,
        ):
            await channel.declare_queue(name)
            await channel.declare_queue(locked, durable=False, exclusive=True)
            async with connection.consumer(locked) as consumer:
                lost_at = anyio.current_time()
                await lines.lose(proxy, connection)
                with anyio.fail_after(SOON):
                    await publisher.publish(Message(b"meanwhile"), routing_key=name)
                MEASURED.info("another queue goes on %.2f s after the loss", anyio.current_time() - lost_at)
                assert not consumer.is_consuming
                assert f"queue {locked!r}: 405" in names_of(connection)
                await connection.wait_ready(LIMIT)
                MEASURED.info("everything is back %.2f s after the loss", anyio.current_time() - lost_at)
                await assert_delivers(publisher, consumer, b"after")
            await channel.delete_queue(name)


def test_the_cluster_is_one(nodes: list[Node]) -> None:
    """Otherwise the tests above would prove nothing."""
    said = nodes[0].ctl("cluster_status")
    assert all(node.name in said for node in nodes)
