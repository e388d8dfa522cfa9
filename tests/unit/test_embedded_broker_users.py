"""Users and virtual hosts of the embedded broker, as a test sets them up."""

from __future__ import annotations

import pytest

import anyamqp
from anyamqp import InvalidArgument, LoginRefused, NotAllowed, ReconnectPolicy
from anyamqp.testing import Broker

pytestmark = pytest.mark.anyio

ONCE = ReconnectPolicy(max_attempts=1)


async def test_the_first_user_may_do_everything_in_new_virtual_hosts() -> None:
    async with Broker(username="alice", password="secret") as broker:
        broker.add_virtual_host("orders")
        url = "amqp://alice:secret@memory/orders"
        async with anyamqp.connect(url, dial=broker.dial) as connection, connection.channel() as channel:
            await channel.declare_queue("q")
        assert broker.queue("q", virtual_host="orders").messages == 0
        assert "q" not in broker.queues


async def test_a_virtual_host_that_is_added_twice_keeps_its_queues() -> None:
    async with Broker() as broker:
        host = broker.add_virtual_host("orders")
        assert broker.add_virtual_host("orders") is host


async def test_a_new_user_opens_what_it_is_permitted_to() -> None:
    async with Broker() as broker:
        broker.add_user("bob", "builder")
        url = "amqp://bob:builder@memory/"
        with pytest.raises(NotAllowed, match="access to vhost '/' refused for user 'bob'"):
            async with anyamqp.connect(url, dial=broker.dial, reconnect=ONCE):
                pass
        broker.set_permissions("bob", configure="^bob-", write="", read="")
        async with anyamqp.connect(url, dial=broker.dial) as connection, connection.channel() as channel:
            await channel.declare_queue("bob-queue")
            with pytest.raises(anyamqp.AccessRefused, match="access to queue 'other' in vhost '/' refused"):
                await channel.declare_queue("other")


async def test_a_removed_user_cannot_log_in() -> None:
    async with Broker() as broker:
        broker.add_user("bob", "builder")
        broker.remove_user("bob")
        with pytest.raises(LoginRefused):
            async with anyamqp.connect("amqp://bob:builder@memory/", dial=broker.dial, reconnect=ONCE):
                pass


async def test_removing_a_virtual_host_removes_its_permissions() -> None:
    async with Broker() as broker:
        broker.add_user("bob", "builder")
        broker.add_virtual_host("orders")
        broker.set_permissions("bob", "orders")
        broker.set_topic_permissions("bob", "amq.topic", "orders", write="^two")
        broker.remove_virtual_host("orders")
        broker.add_virtual_host("orders")
        with pytest.raises(NotAllowed, match="access to vhost 'orders' refused for user 'bob'"):
            async with anyamqp.connect("amqp://bob:builder@memory/orders", dial=broker.dial, reconnect=ONCE):
                pass
        broker.set_permissions("bob", "orders")
        url = "amqp://bob:builder@memory/orders"
        async with anyamqp.connect(url, dial=broker.dial) as connection, connection.publisher() as publisher:
            await publisher.publish(anyamqp.Message(b""), exchange="amq.topic", routing_key="one", mandatory=False)


async def test_connections_of_others_stay_open() -> None:
    async with Broker() as broker, anyamqp.connect("amqp://guest:guest@memory/", dial=broker.dial) as connection:
        broker.add_user("bob", "builder")
        broker.add_virtual_host("orders")
        broker.remove_user("bob")
        broker.remove_virtual_host("orders")
        async with connection.channel() as channel:
            await channel.declare_queue("q")
        assert broker.connections_total == 1


async def test_names_that_are_not_there_are_named() -> None:
    async with Broker() as broker:
        with pytest.raises(InvalidArgument, match="there is no 'bob', only 'guest'"):
            broker.set_permissions("bob")
        with pytest.raises(InvalidArgument, match="there is no 'bob'"):
            broker.remove_user("bob")
        with pytest.raises(InvalidArgument, match="virtual host: there is no 'orders'"):
            broker.set_permissions("guest", "orders")
        with pytest.raises(InvalidArgument, match="virtual host: there is no 'orders'"):
            broker.remove_virtual_host("orders")
        with pytest.raises(InvalidArgument, match="there is a user 'guest' already"):
            broker.add_user("guest", "other")


async def test_nobody_is_anonymous_where_guest_has_another_password() -> None:
    async with Broker(password="other", version="4.3") as broker:
        assert broker.log_in("ANONYMOUS", "") is None
        assert Broker(version="4.3").log_in("ANONYMOUS", "") is not None
