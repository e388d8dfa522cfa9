"""Heartbeats against a real broker: a dead peer is found in time, a quiet one is not taken for dead (invariant 9)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import anyio.to_thread
import pytest

import anyamqp
from anyamqp import Connection, Message, Publication, Publisher, ReconnectPolicy, Settings, State
from anyamqp.testing import FaultProxy
from support.queues import unique
from support.rabbitmq import Node
from support.waiting import eventually

pytestmark = pytest.mark.anyio

LIMIT = 60.0
SLACK = 1.5


def settings_for(host: str, port: int, heartbeat: int) -> Settings:
    """A frozen broker still accepts TCP connections, so an attempt needs a short time-out."""
    return replace(
        Settings.from_urls(f"amqp://guest:guest@{host}:{port}/"),
        heartbeat=heartbeat,
        connect_timeout=2.0,
        reconnect=ReconnectPolicy.constant(0.2),
        name=unique("heartbeat"),
    )


@asynccontextmanager
async def a_queue(node: Node) -> AsyncGenerator[str, None]:
    name = unique("queue")
    with anyio.fail_after(LIMIT):
        async with anyamqp.connect(node.url) as connection, connection.channel() as channel:
            await channel.declare_queue(name)
            try:
                yield name
            finally:
                await channel.delete_queue(name)


async def seconds_until_lost(connection: Connection, limit: float) -> float:
    started = anyio.current_time()
    await eventually(lambda: connection.state is State.RECONNECTING, within=limit, every=0.01)
    return anyio.current_time() - started


async def submit_unanswered(publisher: Publisher, queue: str) -> Publication:
    """A publish that the frozen broker has not answered: the signal may take a moment to stop all of its threads."""
    while True:
        publication = await publisher.submit(Message(b"pending"), routing_key=queue)
        with anyio.move_on_after(0.3) as scope:
            await publication
        if scope.cancelled_caught:
            return publication


async def test_a_frozen_broker_is_found_and_the_pending_publish_is_confirmed_after_it_thaws(own_node: Node) -> None:
    interval = 2
    with anyio.fail_after(LIMIT):
        async with (
            anyamqp.connect(settings_for(own_node.host, own_node.port, interval)) as connection,
            connection.channel() as channel,
            connection.publisher() as publisher,
        ):
            await channel.declare_queue("q")
            await publisher.publish(Message(b"before"), routing_key="q")
            await anyio.to_thread.run_sync(own_node.freeze)
            pending = await submit_unanswered(publisher, "q")
            took = await seconds_until_lost(connection, 2 * interval + SLACK)
            assert took > interval / 2
            assert isinstance(connection.stats.last_error, anyamqp.HeartbeatTimeout)
            assert not pending.is_settled
            await anyio.to_thread.run_sync(own_node.thaw)
            receipt = await pending
            assert receipt.attempts == 2
            await publisher.publish(Message(b"after"), routing_key="q")
            bodies: list[bytes] = []
            while (delivery := await channel.get("q", no_ack=True)) is not None:
                bodies.append(delivery.body)
            # The broker may have read the first sending out of the dead connection: then it is there twice.
            assert set(bodies) == {b"before", b"pending", b"after"}
            assert (bodies[0], bodies[-1]) == (b"before", b"after")


async def test_an_idle_connection_stays_up_and_the_broker_keeps_it(shared_node: Node) -> None:
    settings = settings_for(shared_node.host, shared_node.port, 1)
    log_before = len(shared_node.log_text())
    async with a_queue(shared_node) as queue, anyamqp.connect(settings) as connection:
        assert connection.tuning is not None
        assert connection.tuning.heartbeat == 1
        async with connection.publisher() as publisher, connection.consumer(queue) as consumer:
            received = connection.stats.bytes_received
            sent = connection.stats.bytes_sent
            await anyio.sleep(4.2)
            assert (connection.state, connection.stats.link_number) == (State.OPEN, 1)
            # A heartbeat has 8 octets; both sides send one at least every second.
            assert connection.stats.bytes_sent - sent >= 4 * 8
            assert connection.stats.bytes_received - received >= 4 * 8
            assert (await publisher.publish(Message(b"awake"), routing_key=queue)).attempts == 1
            async with await anext(consumer) as delivery:
                assert delivery.body == b"awake"
    assert "missed heartbeats" not in shared_node.log_text()[log_before:]


async def test_a_client_that_only_listens_keeps_sending_heartbeats(shared_node: Node) -> None:
    """Input is no reason to stay silent: the client is never silent for longer than the interval."""
    settings = settings_for(shared_node.host, shared_node.port, 1)
    async with (
        a_queue(shared_node) as queue,
        anyamqp.connect(shared_node.url) as busy,
        busy.publisher() as publisher,
        anyamqp.connect(settings) as connection,
        connection.consumer(queue, no_ack=True) as consumer,
    ):
        sent = connection.stats.frames_sent
        until = anyio.current_time() + 4.2
        while anyio.current_time() < until:
            await publisher.publish(Message(b"tick"), routing_key=queue)
            assert (await anext(consumer)).body == b"tick"
            await anyio.sleep(0.05)
        assert (connection.state, connection.stats.link_number) == (State.OPEN, 1)
        assert connection.stats.frames_sent - sent >= 4


async def test_a_stranded_connection_is_found_and_replaced(shared_node: Node) -> None:
    """Neither side gets a FIN or RST, as behind a firewall that has forgotten the connection. Invariants 1 and 9."""
    interval = 1
    with FaultProxy(shared_node.host, shared_node.port) as proxy:
        async with (
            a_queue(shared_node) as queue,
            anyamqp.connect(settings_for(proxy.host, proxy.port, interval)) as connection,
            connection.publisher() as publisher,
        ):
            await publisher.publish(Message(b"before"), routing_key=queue)
            proxy.strand()
            pending = await publisher.submit(Message(b"pending"), routing_key=queue)
            await seconds_until_lost(connection, 2 * interval + SLACK)
            assert isinstance(connection.stats.last_error, anyamqp.HeartbeatTimeout)
            assert (await pending).attempts == 2
            assert (connection.stats.link_number, proxy.connections_total) == (2, 2)


async def test_a_proposal_of_0_leaves_the_interval_to_the_broker(shared_node: Node) -> None:
    """The node's own is 60."""
    with anyio.fail_after(LIMIT):
        async with anyamqp.connect(shared_node.url, heartbeat=0) as connection:
            assert connection.tuning is not None
            assert connection.tuning.heartbeat == 60
