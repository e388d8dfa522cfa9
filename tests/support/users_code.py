"""Sample user code. The type checkers check it in strict mode; it never runs."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from typing import assert_type

import anyamqp
from anyamqp import (
    ChannelEvent,
    ConnectionEvent,
    Credentials,
    Decision,
    Delivery,
    Entity,
    FieldTable,
    FieldValue,
    LinkEvent,
    Message,
    OnError,
    Properties,
    Publication,
    Queue,
    Receipt,
    ReconnectPolicy,
    RecoveryMode,
    Retry,
    State,
    Stats,
    TopologyRecovery,
    Transition,
    Tuning,
)


async def token() -> Credentials:
    return Credentials("", "a token", expires_in=300)


def is_ours(entity: Entity) -> bool:
    return entity.kind == "queue" and entity.name.startswith("ours.")


def told(entity: Entity, error: anyamqp.AnyamqpError) -> None:
    print(f"{entity} did not come back: {error} ({error.blame}, {error.cure})")


async def declare(connection: anyamqp.Connection) -> None:
    arguments: FieldTable = {"x-queue-leader-locator": "balanced", "nested": {"list": [1, 2.5, None, b"x"]}}
    async with connection.channel(wait=1.0) as channel:
        queue = await channel.declare_queue(
            "orders",
            queue_type="quorum",
            message_ttl=60,
            delivery_limit=5,
            dead_letter_exchange="dead",
            arguments=arguments,
        )
        assert_type(queue, Queue)
        assert_type(queue.message_count, int)
        await channel.declare_exchange("market", "topic", alternate_exchange="unrouted")
        await channel.bind_queue(queue, "market", "trade.*")
        assert_type(await channel.get(queue), Delivery | None)
        assert_type(await channel.purge_queue(queue), int)
        async with channel.transaction() as transaction:
            await transaction.publish(Message(b"both or neither"), routing_key="orders")


async def publish(connection: anyamqp.Connection) -> None:
    defaults = Properties(content_type="application/json", app_id="billing", headers={"v": 1})
    async with connection.publisher(exchange="market", defaults=defaults, retry_nacked=True) as publisher:
        receipt = await publisher.publish(
            Message(b"{}", timestamp=datetime.now(UTC)), routing_key="trade.eur", timeout=5
        )
        assert_type(receipt, Receipt)
        assert_type(receipt.attempts, int)
        publication = await publisher.submit(Message(b"{}"), routing_key="trade.usd", timeout=None)
        assert_type(publication, Publication)
        assert_type(await publication, Receipt)
        try:
            await publisher.flush()
        except* anyamqp.Unroutable as group:
            for error in group.exceptions:
                print(error)
        except* (anyamqp.PublishTimeout, anyamqp.OutcomeUnknown) as group:
            print(group.exceptions)


async def consume(connection: anyamqp.Connection) -> None:
    async with connection.consumer("orders", prefetch=10, on_cancel="resubscribe") as consumer:
        async for delivery in consumer:
            async with delivery as same:
                assert_type(same, Delivery)
                assert_type(delivery.body, bytes)
                assert_type(delivery.headers, FieldTable)
                value: FieldValue = delivery.headers.get("v")
                print(value, delivery.message.correlation_id, delivery.is_stale)


async def handle(delivery: Delivery) -> None:
    print(delivery.body)


def on_error(delivery: Delivery, error: Exception) -> Decision | None:
    if isinstance(error, ValueError):
        return "reject"
    return Retry(limit=5, delay=2.0) if delivery.redelivered else "requeue"


async def on_error_later(delivery: Delivery, error: Exception) -> Decision:
    print(delivery, error)
    return "ack"


async def process(connection: anyamqp.Connection) -> None:
    async with connection.consumer("stream", stream_offset="first", priority=5, on_error=Retry(limit=3)) as consumer:
        assert_type(consumer.on_error, OnError)
        await consumer.process(handle, concurrency=8, on_error="reject")
        await consumer.process(handle, on_error=on_error)
        await consumer.process(handle, on_error=on_error_later)


async def answer(request: Delivery) -> Message:
    return Message(request.body.upper())


async def call(connection: anyamqp.Connection) -> None:
    async with connection.rpc_client(resend=True) as rpc:
        try:
            assert_type((await rpc.call(Message(b"ping"), routing_key="echo", timeout=2)).body, bytes)
        except anyamqp.RemoteError as error:
            print(error.type, error.text)
    async with connection.consumer("echo") as consumer, connection.publisher() as publisher:
        await anyamqp.serve_rpc(consumer, publisher, answer, concurrency=4, on_error="reject")


async def watch(connection: anyamqp.Connection) -> None:
    assert_type(connection.state, State)
    assert_type(connection.stats, Stats)
    assert_type(connection.tuning, Tuning | None)
    async for transition in connection.transitions():
        assert_type(transition, Transition)
        assert_type(transition.event, ConnectionEvent | ChannelEvent | LinkEvent)


async def main() -> None:
    recovery = TopologyRecovery(mode=RecoveryMode.TRANSIENT, wanted=is_ours, on_error=told)
    async with anyamqp.connect(
        ["amqps://one.example/orders", "amqps://two.example/orders"],
        tls=ssl.create_default_context(),
        credentials=token,
        reconnect=ReconnectPolicy(max_elapsed=600),
        topology_recovery=recovery,
        name="billing",
    ) as connection:
        try:
            await connection.wait_unblocked(timeout=30)
        except anyamqp.ConnectionBlocked as error:
            print(error.reason)
        await declare(connection)
        await publish(connection)
        await consume(connection)
        await process(connection)
        await call(connection)
        await watch(connection)
