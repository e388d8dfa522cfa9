"""Requests that fail on a real broker in ways that a client must distinguish."""

from __future__ import annotations

from dataclasses import replace

import anyio
import anyio.to_thread
import pytest

import anyamqp
from anyamqp import Message
from broker.conftest import MakeNode
from support.queues import unique
from support.rabbitmq import Node
from support.stepping import cancel_at
from support.waiting import eventually

pytestmark = pytest.mark.anyio


async def test_a_request_that_costs_the_link_raises_the_brokers_error_and_is_not_repeated(shared_node: Node) -> None:
    """AMQP 0-9-1, 4.9: a hard error closes the connection. Sent again, the request would cost the next link as well."""
    costs_link = shared_node.facts.unknown_exchange_type_costs_link
    error = anyamqp.CommandInvalid if costs_link else anyamqp.PreconditionFailed
    with anyio.fail_after(20):
        async with anyamqp.connect(shared_node.url) as connection, connection.channel() as channel:
            with anyio.fail_after(5), pytest.raises(error, match="no-such-type"):
                await channel.declare_exchange(unique("exchange"), "no-such-type")
            await connection.wait_ready(10)
            assert connection.stats.link_number == (2 if costs_link else 1)


async def test_a_get_that_was_cancelled_gives_its_message_back(shared_node: Node) -> None:
    """The reply to a cancelled request carries a message, which would stay unacknowledged."""
    queue = unique("queue")
    with anyio.fail_after(20):
        async with (
            anyamqp.connect(shared_node.url) as connection,
            connection.channel() as channel,
            connection.publisher() as publisher,
        ):
            await channel.declare_queue(queue)
            try:
                await publisher.publish(Message(b"wanted"), routing_key=queue)
                assert await cancel_at(1, lambda: channel.get(queue))
                delivery = None
                with anyio.move_on_after(5):
                    while delivery is None:
                        delivery = await channel.get(queue)
                assert delivery is not None
                assert delivery.body == b"wanted"
                delivery.ack()
            finally:
                await channel.delete_queue(queue)


async def test_flush_names_the_message_of_every_failure(shared_node: Node) -> None:
    with anyio.fail_after(20):
        async with anyamqp.connect(shared_node.url) as connection, connection.publisher() as publisher:
            message = Message(b"guilty", message_id=unique("message"))
            await publisher.submit(message, exchange=unique("exchange"))
            with pytest.raises(ExceptionGroup) as caught:
                await publisher.flush()
            (error,) = caught.value.exceptions
            assert isinstance(error, anyamqp.NotFound)
            assert str(message.message_id) in " ".join([str(error), *getattr(error, "__notes__", [])])


async def test_a_delivery_that_a_multiple_ack_has_covered_is_settled(shared_node: Node) -> None:
    """A second ack for its tag would be an error for which the broker closes the channel (406)."""
    queue = unique("queue")
    with anyio.fail_after(20):
        async with (
            anyamqp.connect(shared_node.url) as connection,
            connection.channel() as channel,
            connection.publisher() as publisher,
        ):
            await channel.declare_queue(queue)
            try:
                for body in (b"a", b"b", b"c"):
                    await publisher.publish(Message(body), routing_key=queue)
                async with connection.consumer(queue, prefetch=2) as consumer:
                    async with await anext(consumer) as first:
                        second = await anext(consumer)
                        second.ack(multiple=True)
                        third = await anext(consumer)
                        assert first.is_settled
                    await publisher.publish(Message(b"d"), routing_key=queue)
                    assert (await anext(consumer)).body == b"d"
                    third.ack()
            finally:
                await channel.delete_queue(queue)


async def test_an_exchange_that_costs_the_link_when_it_is_declared_again_is_given_up(own_node: Node) -> None:
    """As after a restart of the broker without the plugin that had the exchange's type: the rest must go on."""
    exchange = unique("exchange")
    settings = replace(anyamqp.Settings.from_urls(own_node.url), reconnect=anyamqp.ReconnectPolicy.constant(0.05))
    with anyio.fail_after(100):
        async with (
            anyamqp.connect(settings) as connection,
            connection.channel() as owner,
            connection.channel() as other,
        ):
            await owner.declare_exchange(exchange, "headers")
            name = f'rabbit_misc:r(<<"/">>, exchange, <<"{exchange}">>)'
            await anyio.to_thread.run_sync(own_node.eval, f'rabbit_exchange:delete({name}, false, <<"test">>)')
            await anyio.to_thread.run_sync(own_node.eval, 'rabbit_registry:unregister(exchange, <<"headers">>)')
            for loss in range(2):
                await anyio.to_thread.run_sync(own_node.close_all_connections)
                with anyio.fail_after(8):
                    await other.set_qos(loss)
                    await connection.wait_ready()
            with pytest.raises(anyamqp.ChannelClosed, match="headers"):
                await owner.set_qos(1)
            # The first link, those after the losses, and one more if the exchange cost a link.
            costs_link = own_node.facts.unknown_exchange_type_costs_link
            assert connection.stats.link_number == (4 if costs_link else 3)


async def test_a_transient_queue_is_given_up_where_the_next_node_forbids_it(
    shared_node: Node, make_node: MakeNode
) -> None:
    """541 for a queue that is neither durable nor exclusive: declared again, it would close link after link."""
    forbids = shared_node.facts.has_deprecated_features
    permit = "deprecated_features.permit.transient_nonexcl_queues"
    permissive = make_node(config={permit: "true"} if forbids else {})
    strict = make_node(config={permit: "false"} if forbids else {})
    for node in (permissive, strict):
        await anyio.to_thread.run_sync(node.start)
    told: list[tuple[str, anyamqp.AnyamqpError]] = []
    settings = replace(
        anyamqp.Settings.from_urls([permissive.url, strict.url]),
        reconnect=anyamqp.ReconnectPolicy.constant(0.05),
        topology_recovery=anyamqp.TopologyRecovery(on_error=lambda entity, error: told.append((entity.name, error))),
    )
    queue, other = unique("transient"), unique("durable")
    with anyio.fail_after(40):
        async with (
            anyamqp.connect(settings) as connection,
            connection.channel() as owner,
            connection.channel() as channel,
        ):
            await owner.declare_queue(queue, durable=False)
            await channel.declare_queue(other)
            await anyio.to_thread.run_sync(permissive.kill)
            await eventually(lambda: connection.stats.reconnects == 1, within=30)
            if not forbids:
                assert await owner.purge_queue(queue) == 0
                assert told == []
                return
            assert [(name, type(error)) for name, error in told] == [(queue, anyamqp.InternalError)]
            with pytest.raises(anyamqp.ChannelClosed, match="transient"):
                await owner.set_qos(1)
            assert await channel.purge_queue(other) == 0
            with pytest.raises(anyamqp.InternalError, match="transient"):
                await channel.declare_queue(queue, durable=False)
            await connection.wait_ready(10)
