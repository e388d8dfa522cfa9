"""What a recovery survives: names that pamqp refuses, entities that cannot be declared any more, faults of our own."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import anyio
import pytest

import anyamqp
from anyamqp import Channel, Connection, Message, Queue, ReconnectPolicy, State
from anyamqp.testing import Broker
from support.waiting import eventually

pytestmark = pytest.mark.anyio

URL = "amqp://guest:guest@memory/"
EAGER = ReconnectPolicy(initial=0.01, maximum=0.02, stable_after=0.0)

Request: TypeAlias = Callable[[Channel, Queue], Coroutine[Any, Any, None]]


async def lose(broker: Broker, connection: Connection) -> None:
    """Reset the link, and wait for the next one."""
    reconnects = connection.stats.reconnects
    broker.reset_connections()
    await eventually(lambda: connection.stats.reconnects > reconnects)
    await connection.wait_ready(10)


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["заказы", "a*b", "q$1"])
async def test_names_that_pamqp_refuses_survive_a_reset(name: str) -> None:
    """RabbitMQ takes any UTF-8 name; pamqp's constructors hold names to a regular expression."""
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, reconnect=EAGER) as connection,
        connection.channel() as channel,
    ):
        await channel.declare_exchange(f"x{name}", "topic")
        await channel.declare_exchange(f"y{name}", "topic")
        await channel.bind_exchange(f"y{name}", f"x{name}", name)
        await channel.declare_queue(name)
        await channel.bind_queue(name, f"y{name}", name)
        async with (
            connection.consumer(name, consumer_tag=name) as consumer,
            connection.publisher(exchange=f"x{name}") as publisher,
        ):
            broker.model.exchanges.clear()
            broker.model.queues.clear()
            await lose(broker, connection)
            await publisher.publish(Message(b"after"), routing_key=name, timeout=5)
            with anyio.fail_after(5):
                delivery = await anext(consumer)
            assert (delivery.body, delivery.exchange, delivery.routing_key) == (b"after", f"x{name}", name)


async def bind(channel: Channel, queue: Queue) -> None:
    await channel.bind_queue(queue, "amq.fanout")


async def unbind(channel: Channel, queue: Queue) -> None:
    await channel.unbind_queue(queue, "amq.fanout")


async def get(channel: Channel, queue: Queue) -> None:
    assert await channel.get(queue) is None


async def purge(channel: Channel, queue: Queue) -> None:
    assert await channel.purge_queue(queue) == 0


async def delete(channel: Channel, queue: Queue) -> None:
    await channel.delete_queue(queue)


@pytest.mark.parametrize("request_of", [bind, unbind, get, purge, delete], ids=lambda call: call.__name__)
async def test_a_request_that_waited_for_the_link_names_the_queue_as_the_broker_does_now(
    request_of: Request,
) -> None:
    """A queue that the broker names has another name on each link."""
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, reconnect=EAGER) as connection,
        connection.channel() as channel,
    ):
        queue = await channel.declare_queue(exclusive=True)
        if request_of is unbind:
            await bind(channel, queue)
        await lose(broker, connection)
        named_before = queue.name  # its second name: the third one must be found from this as well
        broker.refuse()
        broker.reset_connections()
        await eventually(lambda: connection.state is State.RECONNECTING)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(request_of, channel, queue)
            await anyio.wait_all_tasks_blocked()
            broker.accept()
        assert queue.name != named_before
        assert list(broker.queues) == ([] if request_of is delete else [queue.name])
        assert bool(broker.model.exchanges["amq.fanout"].bindings) == (request_of is bind)


async def test_a_request_that_a_loss_caught_is_sent_again_under_the_queues_new_name() -> None:
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, reconnect=EAGER) as connection,
        connection.channel() as channel,
    ):
        queue = await channel.declare_queue(exclusive=True)
        broker.freeze()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bind, channel, queue)
            await anyio.wait_all_tasks_blocked()
            broker.reset_connections()
            broker.thaw()
        assert list(broker.model.exchanges["amq.fanout"].bindings) == [("queue", queue.name, "")]
