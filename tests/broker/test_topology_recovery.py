"""Recovery of declared entities on RabbitMQ: restored, failed and forgotten ones.

Each test declares something, takes the connection away, changes the broker behind its back where that matters, and
looks at what is there when the connection is OPEN again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

import anyamqp
from anyamqp import (
    AnyamqpError,
    Connection,
    Entity,
    Message,
    NotFound,
    PreconditionFailed,
    ReconnectPolicy,
    RecoveryMode,
    State,
    TopologyRecovery,
)
from anyamqp.testing import FaultProxy
from support.queues import unique
from support.rabbitmq import Node
from support.waiting import eventually

pytestmark = pytest.mark.anyio

LIMIT = 60.0
EAGER = ReconnectPolicy(maximum=0.2, stable_after=0.0)


class Losable:
    """A connection behind a proxy, and another one that stays."""

    def __init__(self, connection: Connection, other: Connection, proxy: FaultProxy) -> None:
        self.connection = connection
        self.other = other
        self._proxy = proxy

    @asynccontextmanager
    async def away(self) -> AsyncGenerator[None, None]:
        """The connection is lost inside the block, and recovered after it."""
        reconnects = self.connection.stats.reconnects
        self._proxy.refuse()
        self._proxy.reset()
        await eventually(lambda: self.connection.state is State.RECONNECTING)
        yield
        self._proxy.accept()
        await eventually(
            lambda: self.connection.stats.reconnects > reconnects and self.connection.state is State.OPEN, within=LIMIT
        )

    async def lose(self) -> None:
        async with self.away():
            pass

    async def has_queue(self, name: str) -> bool:
        async with self.other.channel() as channel:
            try:
                await channel.declare_queue(name, passive=True)
            except NotFound:
                return False
        return True

    async def has_exchange(self, name: str) -> bool:
        async with self.other.channel() as channel:
            try:
                await channel.declare_exchange(name, passive=True)
            except NotFound:
                return False
        return True

    async def delete(self, *queues: str, exchanges: tuple[str, ...] = ()) -> None:
        async with self.other.channel() as channel:
            for queue in queues:
                await channel.delete_queue(queue)
            for exchange in exchanges:
                await channel.delete_exchange(exchange)


@asynccontextmanager
async def losable(node: Node, recovery: TopologyRecovery | None = None) -> AsyncGenerator[Losable, None]:
    with anyio.fail_after(LIMIT), FaultProxy(node.host, node.port) as proxy:
        async with (
            anyamqp.connect(node.url) as other,
            anyamqp.connect(
                f"amqp://guest:guest@{proxy.host}:{proxy.port}/", reconnect=EAGER, topology_recovery=recovery
            ) as connection,
        ):
            yield Losable(connection, other, proxy)


async def test_everything_is_declared_again_by_default(shared_node: Node) -> None:
    queue, exchange = unique("all"), unique("all-x")
    async with losable(shared_node) as case, case.connection.channel() as channel:
        await channel.declare_exchange(exchange, "fanout")
        await channel.declare_queue(queue)
        await channel.bind_queue(queue, exchange)
        async with case.away():
            await case.delete(queue, exchanges=(exchange,))
        async with case.connection.publisher(exchange=exchange) as publisher:
            await publisher.publish(Message(b"by way of the binding"))
        assert await channel.purge_queue(queue) == 1
        await case.delete(queue, exchanges=(exchange,))


async def test_transient_mode_recovers_only_transient_entities(shared_node: Node) -> None:
    durable, exclusive, exchange = unique("durable"), unique("exclusive"), unique("auto-delete-x")
    recovery = TopologyRecovery(mode=RecoveryMode.TRANSIENT)
    async with losable(shared_node, recovery) as case, case.connection.channel() as channel:
        await channel.declare_exchange(exchange, "fanout", durable=False)
        await channel.declare_queue(durable)
        await channel.declare_queue(exclusive, exclusive=True)
        await channel.bind_queue(exclusive, exchange)
        async with case.away():
            await case.delete(durable)
        assert not await case.has_queue(durable)
        async with case.connection.publisher(exchange=exchange) as publisher:
            await publisher.publish(Message(b"by way of the binding"))
        assert await channel.purge_queue(exclusive) == 1
        await case.delete(exchanges=(exchange,))


async def test_nothing_mode_declares_nothing_and_channels_come_back_all_the_same(shared_node: Node) -> None:
    durable, exclusive = unique("durable"), unique("exclusive")
    async with (
        losable(shared_node, TopologyRecovery(mode=RecoveryMode.NOTHING)) as case,
        case.connection.channel() as channel,
    ):
        await channel.declare_queue(durable)
        await channel.declare_queue(exclusive, exclusive=True)
        async with case.away():
            await case.delete(durable)
        assert not await case.has_queue(durable)
        assert not await case.has_queue(exclusive)
        await channel.declare_queue(durable)
        await case.delete(durable)


async def test_a_filter_picks_what_is_declared_again(shared_node: Node) -> None:
    wanted, unwanted = unique("wanted"), unique("unwanted")
    seen: list[Entity] = []

    def pick(entity: Entity) -> bool:
        seen.append(entity)
        return entity.name != unwanted

    async with losable(shared_node, TopologyRecovery(wanted=pick)) as case, case.connection.channel() as channel:
        await channel.declare_queue(wanted, max_length=7)
        await channel.declare_queue(unwanted)
        async with case.away():
            await case.delete(wanted, unwanted)
        assert await case.has_queue(wanted)
        assert not await case.has_queue(unwanted)
        assert [(one.kind, one.name, one.arguments) for one in seen] == [
            ("queue", wanted, {"x-max-length": 7}),
            ("queue", unwanted, {}),
        ]
        await case.delete(wanted)


async def test_the_error_hook_gets_the_entity_and_the_brokers_error(shared_node: Node) -> None:
    name, well = unique("redeclared"), unique("well")
    told: list[tuple[Entity, AnyamqpError]] = []
    recovery = TopologyRecovery(on_error=lambda entity, error: told.append((entity, error)))
    async with losable(shared_node, recovery) as case:
        async with case.connection.channel() as channel:
            await channel.declare_queue(name)
            await channel.declare_queue(well)
        async with case.away():
            await case.delete(name, well)
            async with case.other.channel() as channel:
                await channel.declare_queue(name, max_length=1)
        ((entity, error),) = told
        assert (entity.kind, entity.name) == ("queue", name)
        assert isinstance(error, PreconditionFailed)
        assert name in str(error)
        assert await case.has_queue(well)
        await case.delete(name, well)


def raises(_entity: Entity, _error: AnyamqpError | None = None) -> bool:
    raise ZeroDivisionError("from the user's own hook")


@pytest.mark.parametrize(
    "recovery", [TopologyRecovery(wanted=raises), TopologyRecovery(on_error=raises)], ids=["wanted", "on_error"]
)
async def test_a_hook_that_raises_is_logged_and_costs_nothing(
    shared_node: Node, recovery: TopologyRecovery, caplog: pytest.LogCaptureFixture
) -> None:
    name, well = unique("redeclared"), unique("well")
    async with losable(shared_node, recovery) as case, case.connection.channel() as bystander:
        await bystander.declare_queue(well)
        async with case.connection.channel() as channel:
            await channel.declare_queue(name)
        async with case.away():
            await case.delete(name, well)
            async with case.other.channel() as channel:
                await channel.declare_queue(name, max_length=1)
        assert await case.has_queue(well)
        assert await bystander.purge_queue(well) == 0
        await case.delete(name, well)
    assert "ZeroDivisionError" in caplog.text


async def test_an_auto_delete_queue_is_forgotten_with_its_last_consumer(shared_node: Node) -> None:
    name = unique("auto-delete")
    async with losable(shared_node) as case, case.connection.channel() as channel:
        await channel.declare_queue(name, auto_delete=True)
        async with case.connection.consumer(name), case.connection.consumer(name) as last:
            await case.lose()
            assert await case.has_queue(name)
            assert last.is_consuming
        await eventually_not(case.has_queue, name)
        await case.lose()
        assert not await case.has_queue(name)


async def test_an_auto_delete_queue_without_a_consumer_yet_comes_back(shared_node: Node) -> None:
    name = unique("auto-delete")
    async with losable(shared_node) as case, case.connection.channel() as channel:
        await channel.declare_queue(name, auto_delete=True)
        async with case.away():
            await case.delete(name)
        assert await case.has_queue(name)
        await case.delete(name)


async def test_an_auto_delete_exchange_is_forgotten_with_its_last_binding(shared_node: Node) -> None:
    queue, upper, lower = unique("q"), unique("upper"), unique("lower")
    async with losable(shared_node) as case, case.connection.channel() as channel:
        await channel.declare_exchange(upper, "fanout", auto_delete=True)
        await channel.declare_exchange(lower, "fanout", auto_delete=True)
        await channel.bind_exchange(lower, upper)
        await channel.declare_queue(queue)
        await channel.bind_queue(queue, lower)
        await case.lose()
        assert await case.has_exchange(upper)
        assert await case.has_exchange(lower)
        # The broker deletes the lower one with its only binding, and with it the binding from the upper one.
        await channel.unbind_queue(queue, lower)
        await case.lose()
        assert not await case.has_exchange(lower)
        assert not await case.has_exchange(upper)
        await case.delete(queue)


async def test_bindings_of_a_deleted_queue_are_forgotten_with_it(shared_node: Node) -> None:
    queue, exchange = unique("q"), unique("x")
    async with losable(shared_node) as case, case.connection.channel() as channel:
        await channel.declare_exchange(exchange, "fanout")
        await channel.declare_queue(queue)
        await channel.bind_queue(queue, exchange)
        await channel.delete_queue(queue)
        async with case.away(), case.other.channel() as others:
            await others.declare_queue(queue)
        async with case.connection.publisher(exchange=exchange, mandatory=False) as publisher:
            await publisher.publish(Message(b"goes nowhere"))
        assert await channel.purge_queue(queue) == 0
        await case.delete(queue, exchanges=(exchange,))


@pytest.mark.parametrize("kind", ["заказы", "a*b", "q$1"])
async def test_names_that_pamqp_refuses_come_back(shared_node: Node, kind: str) -> None:
    """RabbitMQ takes any UTF-8 name; pamqp's constructors hold names to a regular expression."""
    queue, exchange = unique(kind), unique(f"{kind}-x")
    async with losable(shared_node) as case, case.connection.channel() as channel:
        await channel.declare_exchange(exchange, "topic")
        await channel.declare_queue(queue)
        await channel.bind_queue(queue, exchange, kind)
        async with (
            case.connection.consumer(queue) as consumer,
            case.connection.publisher(exchange=exchange) as publisher,
        ):
            async with case.away():
                await case.delete(queue, exchanges=(exchange,))
            await publisher.publish(Message(b"after"), routing_key=kind)
            async with await anext(consumer) as delivery:
                assert delivery.body == b"after"
        await case.delete(queue, exchanges=(exchange,))


async def test_requests_that_waited_name_the_queue_as_the_broker_does_now(shared_node: Node) -> None:
    async with (
        losable(shared_node) as case,
        case.connection.channel() as binding,
        case.connection.channel() as getting,
        case.connection.channel() as purging,
        case.connection.channel() as deleting,
        case.connection.publisher(exchange="amq.fanout") as publisher,
    ):
        queue = await binding.declare_queue(exclusive=True)
        unwanted = await binding.declare_queue(exclusive=True)
        async with anyio.create_task_group() as tasks, case.away():
            tasks.start_soon(binding.bind_queue, queue, "amq.fanout")
            tasks.start_soon(getting.get, queue)
            tasks.start_soon(purging.purge_queue, queue)
            tasks.start_soon(deleting.delete_queue, unwanted)
            await anyio.wait_all_tasks_blocked()
        await publisher.publish(Message(b"by way of the binding"))
        assert await purging.purge_queue(queue) == 1
        with pytest.raises(NotFound):
            await getting.declare_queue(unwanted.name, passive=True)


async def eventually_not(has: Callable[[str], Awaitable[bool]], name: str) -> None:
    """Wait until the broker has finished: it answers a little earlier."""
    with anyio.fail_after(20):
        while await has(name):
            continue
