"""When RabbitMQ refuses a request, the error names the request and the mistake."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

import anyamqp
from anyamqp import (
    AccessRefused,
    Channel,
    ChannelClosed,
    CloseFacts,
    CloseFrame,
    CommandInvalid,
    Connection,
    ConnectionClosed,
    ConnectionForced,
    Message,
    NotAllowed,
    NotFound,
    PreconditionFailed,
    ReplyError,
    ResourceLocked,
    Side,
)
from support.queues import unique
from support.rabbitmq import Node

pytestmark = pytest.mark.anyio

LIMIT = 60.0
Request = Callable[[Channel], Awaitable[object]]

REFUSED: tuple[tuple[Request, type[ReplyError], str], ...] = (
    (
        lambda channel: channel.declare_queue("nowhere", passive=True),
        NotFound,
        "no queue 'nowhere' in vhost '/' (queue.declare passive)",
    ),
    (
        lambda channel: channel.declare_exchange("nowhere", passive=True),
        NotFound,
        "no exchange 'nowhere' in vhost '/' (exchange.declare passive)",
    ),
    (lambda channel: channel.purge_queue("nowhere"), NotFound, "no queue 'nowhere' in vhost '/' (queue.purge)"),
    (
        lambda channel: channel.bind_queue("nowhere", "amq.direct"),
        NotFound,
        "no queue 'nowhere' in vhost '/' (queue.bind)",
    ),
    (
        lambda channel: channel.bind_exchange("amq.fanout", "nowhere"),
        NotFound,
        "no exchange 'nowhere' in vhost '/' (exchange.bind)",
    ),
    (
        lambda channel: channel.get("nowhere", no_ack=True),
        NotFound,
        "no queue 'nowhere' in vhost '/' (basic.get no-ack)",
    ),
    (
        lambda channel: channel.declare_queue("amq.mine"),
        AccessRefused,
        "queue name 'amq.mine' contains reserved prefix 'amq.*' (queue.declare)",
    ),
    (
        lambda channel: channel.declare_exchange("amq.direct", "topic"),
        PreconditionFailed,
        (
            "inequivalent arg 'type' for exchange 'amq.direct' in vhost '/': received 'topic' but current is 'direct' "
            "(exchange.declare)"
        ),
    ),
)


@pytest.mark.parametrize(
    ("request_", "error", "text"), REFUSED, ids=lambda value: value if isinstance(value, str) else ""
)
async def test_a_refused_request_names_itself_and_the_mistake(
    shared_node: Node, request_: Request, error: type[ReplyError], text: str
) -> None:
    with anyio.fail_after(LIMIT):
        async with anyamqp.connect(shared_node.url) as connection, connection.channel() as channel:
            with pytest.raises(ReplyError) as caught:
                await request_(channel)
            assert type(caught.value) is error
            assert str(caught.value) == text
            close = caught.value.close
            assert close is not None
            assert close.received is not None
            assert (close.received.code, close.first) == (error.code, Side.BROKER)
            with pytest.raises(ChannelClosed) as later:
                await channel.declare_queue("q", passive=True)
            assert later.value.close == close
            assert later.value.__cause__ is caught.value


async def refused(connection: Connection, request: Request) -> ReplyError:
    async with connection.channel() as channel:
        with pytest.raises(ReplyError) as caught:
            await request(channel)
    return caught.value


async def test_conditions_that_do_not_hold_say_which(shared_node: Node) -> None:
    name = unique("conditions")
    with anyio.fail_after(LIMIT):
        async with anyamqp.connect(shared_node.url) as connection:
            async with connection.channel() as channel, connection.publisher() as publisher:
                await channel.declare_queue(name)
                await publisher.publish(Message(b"x"), routing_key=name)
            error = await refused(connection, lambda channel: channel.delete_queue(name, if_empty=True))
            assert str(error) == f"queue '{name}' in vhost '/' not empty (queue.delete if-empty)"
            async with connection.consumer(name):
                error = await refused(connection, lambda channel: channel.delete_queue(name, if_unused=True))
                assert str(error) == f"queue '{name}' in vhost '/' in use (queue.delete if-unused)"
                with pytest.raises(AccessRefused) as caught:
                    async with connection.consumer(name, exclusive=True):
                        pytest.fail("consumes alone beside another consumer")
                assert str(caught.value) == f"queue '{name}' in vhost '/' in exclusive use (basic.consume exclusive)"
            async with connection.channel() as channel:
                await channel.delete_queue(name)


async def test_another_connections_queue_says_that_it_is_locked(shared_node: Node) -> None:
    name = unique("mine")
    with anyio.fail_after(LIMIT):
        async with anyamqp.connect(shared_node.url) as owner, owner.channel() as channel:
            await channel.declare_queue(name, exclusive=True)
            async with anyamqp.connect(shared_node.url) as other:
                error = await refused(other, lambda channel: channel.declare_queue(name, exclusive=True))
    assert isinstance(error, ResourceLocked)
    assert str(error).startswith(f"cannot obtain exclusive access to locked queue '{name}' in vhost '/'")
    assert str(error).endswith("(queue.declare exclusive)")


async def test_a_publish_to_no_exchange_names_it_and_its_message(shared_node: Node) -> None:
    with anyio.fail_after(LIMIT):
        async with anyamqp.connect(shared_node.url) as connection, connection.publisher() as publisher:
            with pytest.raises(NotFound) as caught:
                await publisher.publish(Message(b"x", message_id="m-1"), exchange="nowhere")
    assert str(caught.value) == "no exchange 'nowhere' in vhost '/' (basic.publish)"
    assert caught.value.__notes__ == ["while publishing message 'm-1'"]


async def test_an_unknown_exchange_type_is_told_even_if_it_costs_the_connection(shared_node: Node) -> None:
    costs_link = shared_node.facts.unknown_exchange_type_costs_link
    with anyio.fail_after(LIMIT):
        async with anyamqp.connect(shared_node.url) as connection:
            error = await refused(connection, lambda channel: channel.declare_exchange("x", "x-no-such-plugin"))
            assert type(error) is (CommandInvalid if costs_link else PreconditionFailed)
            assert str(error).endswith("exchange type 'x-no-such-plugin' (exchange.declare)")
            await connection.wait_ready(LIMIT)


async def test_an_unknown_virtual_host_is_named(shared_node: Node) -> None:
    with anyio.fail_after(LIMIT), pytest.raises(NotAllowed) as caught:
        async with anyamqp.connect(shared_node.url + "no-such-vhost"):
            pytest.fail("connected")
    assert str(caught.value) == "vhost no-such-vhost not found (connection.open)"


async def test_a_connection_that_an_operator_closed_says_so_where_it_gives_up(shared_node: Node) -> None:
    policy = anyamqp.ReconnectPolicy(max_attempts=1, stable_after=3600.0)
    with anyio.fail_after(LIMIT):
        async with anyamqp.connect(shared_node.url, name="given up", reconnect=policy) as connection:
            await anyio.to_thread.run_sync(shared_node.close_all_connections, "maintenance")
            await connection.wait_closed()
            with pytest.raises(ConnectionClosed) as caught:
                await connection.wait_ready()
    received = CloseFrame(320, "CONNECTION_FORCED - maintenance", None)
    assert caught.value.close == CloseFacts(received, None, Side.BROKER)
    last = connection.stats.last_error
    assert isinstance(last, ConnectionForced)
    assert str(last) == "maintenance"
