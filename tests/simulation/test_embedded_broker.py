"""The embedded broker with anyamqp as its client, over memory and TCP: its answers and its faults."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.abc
import pytest

import anyamqp
from anyamqp import (
    AccessRefused,
    Address,
    ChannelClosed,
    Connection,
    ConnectionForced,
    ConsumerCancelled,
    Delivery,
    HeartbeatTimeout,
    LoginRefused,
    Message,
    NotAllowed,
    NotFound,
    PreconditionFailed,
    ReconnectPolicy,
    ReplyError,
    ResourceLocked,
    State,
    TransportError,
    Unroutable,
)
from anyamqp.net.tcp import dial_tcp
from anyamqp.testing import Broker
from anyamqp.wire import methods
from anyamqp.wire.methods import Method
from support.amqp import any_method, decode, expect
from support.waiting import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("transport", ["memory", "tcp"])]

QUICK = ReconnectPolicy(initial=0.01, maximum=0.05)


@dataclass
class Served:
    """A broker and the way to it."""

    broker: Broker
    url: str
    dial: anyamqp.Dial

    def connect(self, url: str | None = None, **options: Any) -> Connection:
        """A connection to it."""
        return anyamqp.connect(url or self.url, dial=self.dial, reconnect=QUICK, **options)

    async def raw(self) -> anyio.abc.ByteStream:
        """A transport to it, on which nothing was said yet."""
        return await self.dial(Address("127.0.0.1", self.broker.port if self.dial is dial_tcp else 0))


@asynccontextmanager
async def serving(transport: str, **options: Any) -> AsyncGenerator[Served, None]:
    async with Broker(**options) as broker:
        if transport == "tcp":
            yield Served(broker, await broker.listen(), dial_tcp)
        else:
            yield Served(broker, "amqp://guest:guest@memory/", broker.dial)


async def declare(connection: Connection, *names: str) -> None:
    async with connection.channel() as channel:
        for name in names:
            await channel.declare_queue(name)


async def fill(connection: Connection, queue: str, count: int) -> None:
    async with connection.publisher() as publisher:
        for number in range(count):
            await publisher.submit(Message(b"%d" % number), routing_key=queue)


async def take(consumer: anyamqp.Consumer, count: int) -> list[Delivery]:
    deliveries: list[Delivery] = []
    with anyio.fail_after(5):
        while len(deliveries) < count:
            deliveries.append(await anext(consumer))
    return deliveries


# --- handshake ------------------------------------------------------------------------------------------------------


async def test_wrong_password_is_refused_with_403(transport: str) -> None:
    async with serving(transport, username="alice", password="right") as served:
        with pytest.raises(LoginRefused) as caught:
            async with served.connect(credentials=anyamqp.Credentials("alice", "wrong")):
                pass
        assert caught.value.code == 403
        assert "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN" in caught.value.text
        await eventually(lambda: served.broker.connection_count == 0)
    assert served.broker.unexpected_closes == []


async def test_unknown_virtual_host_is_refused_with_530(transport: str) -> None:
    async with serving(transport) as served:
        with pytest.raises(NotAllowed, match="vhost elsewhere not found") as caught:
            async with served.connect(served.url + "elsewhere"):
                pass
        assert caught.value.code == 530
        await eventually(lambda: served.broker.connection_count == 0)
    assert served.broker.unexpected_closes == []


async def test_limits_are_agreed_at_the_lower_of_both_proposals(transport: str) -> None:
    async with (
        serving(transport, heartbeat=7, channel_max=5, frame_max=16384) as served,
        served.connect(heartbeat=30) as connection,
    ):
        assert connection.tuning == anyamqp.Tuning(channel_max=5, frame_max=16384, heartbeat=7)


async def test_broker_tells_what_it_is(transport: str) -> None:
    async with serving(transport) as served, served.connect() as connection:
        assert connection.server_properties["product"] == "anyamqp embedded broker"


async def test_connections_are_counted(transport: str) -> None:
    async with serving(transport) as served:
        async with served.connect(), served.connect():
            assert served.broker.connection_count == 2
        await eventually(lambda: served.broker.connection_count == 0)
        async with served.connect():
            pass
        assert (served.broker.connections_total, served.broker.most_connections) == (3, 2)


# --- queues and exchanges -------------------------------------------------------------------------------------------


async def test_declared_queue_tells_its_counts(transport: str) -> None:
    async with serving(transport) as served, served.connect() as connection:
        await declare(connection, "q")
        await fill(connection, "q", 3)
        async with connection.channel() as channel:
            queue = await channel.declare_queue("q", passive=True)
            assert (queue.name, queue.message_count, queue.consumer_count) == ("q", 3, 0)
        assert served.broker.queues["q"].bodies() == [b"0", b"1", b"2"]


async def test_broker_names_queues(transport: str) -> None:
    async with serving(transport) as served, served.connect() as connection, connection.channel() as channel:
        one, other = await channel.declare_queue(exclusive=True), await channel.declare_queue(exclusive=True)
        assert one.name != other.name
        assert set(served.broker.queues) == {one.name, other.name}


async def test_messages_go_where_the_bindings_say(transport: str) -> None:
    async with (
        serving(transport) as served,
        served.connect() as connection,
        connection.channel() as channel,
        connection.publisher() as publisher,
    ):
        await declare(connection, "trades", "all")
        await channel.declare_exchange("market", "topic")
        await channel.declare_exchange("copy", "fanout")
        await channel.bind_queue("trades", "market", "trade.*")
        await channel.bind_exchange("copy", "market", "#")
        await channel.bind_queue("all", "copy")
        await publisher.publish(Message(b"trade"), exchange="market", routing_key="trade.x")
        await publisher.publish(Message(b"book"), exchange="market", routing_key="book.x")
        await channel.unbind_queue("trades", "market", "trade.*")
        await publisher.publish(Message(b"later"), exchange="market", routing_key="trade.x")
        assert served.broker.queues["trades"].bodies() == [b"trade"]
        assert served.broker.queues["all"].bodies() == [b"trade", b"book", b"later"]


async def test_purge_and_delete_tell_how_many_messages_went(transport: str) -> None:
    async with serving(transport) as served, served.connect() as connection, connection.channel() as channel:
        await declare(connection, "q")
        await fill(connection, "q", 3)
        assert await channel.purge_queue("q") == 3
        await fill(connection, "q", 2)
        assert await channel.delete_queue("q") == 2
        assert dict(served.broker.queues) == {}


async def test_exclusive_queue_is_locked_for_others_and_goes_with_its_connection(transport: str) -> None:
    async with serving(transport) as served:
        async with served.connect() as owner, served.connect() as other:
            async with owner.channel() as channel:
                await channel.declare_queue("mine", exclusive=True)
            async with other.channel() as channel:
                with pytest.raises(ResourceLocked) as caught:
                    await channel.declare_queue("mine", exclusive=True)
                assert caught.value.code == 405
            assert "mine" in served.broker.queues
        await eventually(lambda: "mine" not in served.broker.queues)


async def test_auto_delete_queue_goes_with_its_last_consumer(transport: str) -> None:
    async with serving(transport) as served, served.connect() as connection:
        async with connection.channel() as channel:
            await channel.declare_queue("q", auto_delete=True)
        assert "q" in served.broker.queues
        async with connection.consumer("q"), connection.consumer("q"):
            assert served.broker.queues["q"].consumers == 2
        assert "q" not in served.broker.queues


# --- get, consume, settle -------------------------------------------------------------------------------------------


async def test_get_fetches_one_message_after_the_other_and_then_none(transport: str) -> None:
    async with serving(transport) as served, served.connect() as connection, connection.channel() as channel:
        await declare(connection, "q")
        await fill(connection, "q", 2)
        first = await channel.get("q")
        second = await channel.get("q", no_ack=True)
        assert first is not None
        assert second is not None
        assert (first.body, first.message_count, first.routing_key) == (b"0", 1, "q")
        assert (second.body, second.message_count) == (b"1", 0)
        assert await channel.get("q") is None
        assert served.broker.queues["q"].unacked == 1
        first.ack()
        await eventually(lambda: served.broker.queues["q"].unacked == 0)


async def test_properties_and_large_bodies_arrive_as_they_were_sent(transport: str) -> None:
    body = bytes(range(256)) * 4000
    async with (
        serving(transport, frame_max=8192) as served,
        served.connect() as connection,
        connection.channel() as channel,
        connection.publisher() as publisher,
    ):
        await declare(connection, "q")
        message = Message(body, content_type="text/plain", headers={"a": 1}, priority=3, message_id="m", expiration=1.5)
        await publisher.publish(message, routing_key="q")
        delivery = await channel.get("q")
        assert delivery is not None
        assert delivery.message == message.replace(persistent=True)


async def test_acked_message_is_gone_and_nacked_one_comes_again_marked(transport: str) -> None:
    async with serving(transport) as served, served.connect() as connection:
        await declare(connection, "q")
        await fill(connection, "q", 2)
        async with connection.consumer("q") as consumer:
            first, second = await take(consumer, 2)
            assert not first.redelivered
            first.ack()
            second.nack()
            (again,) = await take(consumer, 1)
            assert (again.body, again.redelivered) == (b"1", True)
            again.ack()
            await eventually(lambda: served.broker.queues["q"].unacked == 0)
        assert served.broker.queues["q"].messages == 0


async def test_rejected_message_is_dropped(transport: str) -> None:
    async with serving(transport) as served, served.connect() as connection:
        await declare(connection, "q")
        await fill(connection, "q", 1)
        async with connection.consumer("q") as consumer:
            (delivery,) = await take(consumer, 1)
            delivery.reject(requeue=False)
            await eventually(lambda: served.broker.queues["q"].unacked == 0)
        assert served.broker.queues["q"].messages == 0


async def test_unsettled_deliveries_of_a_closed_consumer_return_in_order(transport: str) -> None:
    async with serving(transport) as served, served.connect() as connection:
        await declare(connection, "q")
        await fill(connection, "q", 5)
        async with connection.consumer("q") as consumer:
            deliveries = await take(consumer, 5)
            deliveries[1].ack()
            await eventually(lambda: served.broker.queues["q"].unacked == 4)
        assert served.broker.queues["q"].bodies() == [b"0", b"2", b"3", b"4"]
        async with connection.consumer("q") as consumer:
            assert all(delivery.redelivered for delivery in await take(consumer, 4))


async def test_prefetch_bounds_what_is_unsettled(transport: str) -> None:
    """Invariant 11: the broker sends no more than was asked for."""
    async with serving(transport) as served, served.connect() as connection:
        await declare(connection, "q")
        await fill(connection, "q", 10)
        async with connection.consumer("q", prefetch=3) as consumer:
            deliveries = await take(consumer, 3)
            assert (served.broker.queues["q"].unacked, served.broker.queues["q"].messages) == (3, 7)
            deliveries[0].ack()
            await take(consumer, 1)
            assert (served.broker.queues["q"].unacked, served.broker.queues["q"].messages) == (3, 6)


async def test_consumer_without_acks_settles_as_it_is_sent(transport: str) -> None:
    async with serving(transport) as served, served.connect() as connection:
        await declare(connection, "q")
        await fill(connection, "q", 10)
        async with connection.consumer("q", no_ack=True, prefetch=3) as consumer:
            await take(consumer, 10)
            assert (served.broker.queues["q"].unacked, served.broker.queues["q"].messages) == (0, 0)


async def test_two_consumers_share_a_queue(transport: str) -> None:
    async with serving(transport) as served, served.connect() as connection:
        await declare(connection, "q")
        async with connection.consumer("q") as one, connection.consumer("q") as other:
            await fill(connection, "q", 4)
            assert [delivery.body for delivery in await take(one, 2)] == [b"0", b"2"]
            assert [delivery.body for delivery in await take(other, 2)] == [b"1", b"3"]


async def test_deleted_queue_cancels_its_consumer(transport: str) -> None:
    async with serving(transport) as served, served.connect() as connection, connection.channel() as channel:
        await channel.declare_queue("q")
        async with connection.consumer("q") as consumer:
            await channel.delete_queue("q")
            with anyio.fail_after(5), pytest.raises(ConsumerCancelled):
                await anext(consumer)


async def test_exclusive_consumer_keeps_others_out(transport: str) -> None:
    async with serving(transport) as served, served.connect() as connection:
        await declare(connection, "q")
        async with connection.consumer("q", exclusive=True):
            with pytest.raises(AccessRefused, match="in exclusive use"):
                async with connection.consumer("q"):
                    pass
        async with connection.consumer("q"):
            assert served.broker.queues["q"].consumers == 1


# --- confirms and returns -------------------------------------------------------------------------------------------


async def test_publishes_are_confirmed(transport: str) -> None:
    async with serving(transport) as served, served.connect() as connection, connection.publisher() as publisher:
        await declare(connection, "q")
        receipt = await publisher.publish(Message(b"x", message_id="one"), routing_key="q")
        assert (receipt.message_id, receipt.attempts) == ("one", 1)
        assert served.broker.queues["q"].bodies() == [b"x"]


async def test_mandatory_publish_without_a_queue_comes_back(transport: str) -> None:
    async with serving(transport) as served, served.connect() as connection, connection.publisher() as publisher:
        with pytest.raises(Unroutable) as caught:
            await publisher.publish(Message(b"x", message_id="one"), routing_key="nowhere")
        assert (caught.value.code, caught.value.message_id) == (312, "one")


async def test_publish_that_is_not_mandatory_may_go_nowhere(transport: str) -> None:
    async with serving(transport) as served, served.connect() as connection, connection.publisher() as publisher:
        receipt = await publisher.publish(Message(b"x"), routing_key="nowhere", mandatory=False)
        assert receipt.attempts == 1


# --- errors ---------------------------------------------------------------------------------------------------------


async def get_missing(channel: anyamqp.Channel) -> None:
    await channel.get("gone")


async def declare_reserved(channel: anyamqp.Channel) -> None:
    await channel.declare_queue("amq.mine")


async def declare_unlike(channel: anyamqp.Channel) -> None:
    await channel.declare_queue("q")
    await channel.declare_queue("q", durable=False)


@pytest.mark.parametrize(
    ("kind", "act"), [(NotFound, get_missing), (AccessRefused, declare_reserved), (PreconditionFailed, declare_unlike)]
)
async def test_channel_error_closes_the_channel_and_nothing_else(
    transport: str, kind: type[ReplyError], act: Any
) -> None:
    """Invariant 6: both sides count the same channels afterwards."""
    async with serving(transport) as served, served.connect() as connection:
        async with connection.channel() as bystander:
            async with connection.channel() as channel:
                with pytest.raises(kind):
                    await act(channel)
                with pytest.raises(ChannelClosed):
                    await channel.get("q")
            await bystander.declare_queue("after")
            assert served.broker.channel_count == connection.stats.open_channels == 1
        assert connection.stats.link_number == 1


async def test_ack_of_an_unknown_tag_closes_the_channel_with_406(transport: str) -> None:
    async with serving(transport) as served:
        stream = await served.raw()
        async with stream:
            await say_hello(stream)
            await stream.send(any_method(1, methods.Channel.Open()))
            expect(await heard(stream), methods.Channel.OpenOk)
            await stream.send(any_method(1, methods.Basic.Ack(7)))
            close = expect(await heard(stream), methods.Channel.Close)
            assert (close.reply_code, close.reply_text) == (406, "PRECONDITION_FAILED - unknown delivery tag 7")
            assert (close.class_id, close.method_id) == (60, 80)


# --- clients that misbehave -----------------------------------------------------------------------------------------


async def heard(stream: anyio.abc.ByteStream) -> Method:
    """The one method that the broker sends next."""
    with anyio.fail_after(5):
        (frame,) = decode(await stream.receive())
    return expect(frame.payload, Method)


async def say_hello(stream: anyio.abc.ByteStream, name: str = "raw") -> None:
    await stream.send(b"AMQP\x00\x00\x09\x01")
    expect(await heard(stream), methods.Connection.Start)
    properties: dict[str, Any] = {"connection_name": name}
    await stream.send(any_method(0, methods.Connection.StartOk(properties, "PLAIN", "\0guest\0guest", "en_US")))
    tune = expect(await heard(stream), methods.Connection.Tune)
    await stream.send(any_method(0, methods.Connection.TuneOk(tune.channel_max, tune.frame_max, 0)))
    await stream.send(any_method(0, methods.Connection.Open("/")))
    expect(await heard(stream), methods.Connection.OpenOk)


async def test_client_that_drops_the_transport_is_an_unexpected_close(transport: str) -> None:
    async with serving(transport) as served:
        stream = await served.raw()
        await say_hello(stream, "rude")
        assert served.broker.unexpected_closes == []
        await stream.aclose()
        await eventually(lambda: served.broker.connection_count == 0)
        assert served.broker.unexpected_closes == ["rude"]


async def test_client_that_drops_the_transport_before_the_handshake_is_an_unexpected_close(transport: str) -> None:
    async with serving(transport) as served:
        stream = await served.raw()
        await eventually(lambda: served.broker.connection_count == 1)
        await stream.aclose()
        await eventually(lambda: served.broker.connection_count == 0)
        assert served.broker.unexpected_closes == ["unnamed"]


async def test_client_that_says_goodbye_is_no_unexpected_close(transport: str) -> None:
    async with serving(transport) as served:
        stream = await served.raw()
        async with stream:
            await say_hello(stream)
            await stream.send(any_method(0, methods.Connection.Close(200, "bye", 0, 0)))
            expect(await heard(stream), methods.Connection.CloseOk)
        await eventually(lambda: served.broker.connection_count == 0)
        assert served.broker.unexpected_closes == []


async def test_anyamqps_own_leaving_is_no_unexpected_close(transport: str) -> None:
    async with serving(transport) as served:
        async with served.connect() as connection, connection.publisher():
            pass
        await eventually(lambda: served.broker.connection_count == 0)
        assert served.broker.unexpected_closes == []


async def test_deliveries_of_a_client_that_dropped_go_back(transport: str) -> None:
    async with serving(transport) as served, served.connect() as connection:
        await declare(connection, "q")
        await fill(connection, "q", 1)
        stream = await served.raw()
        await say_hello(stream)
        await stream.send(any_method(1, methods.Channel.Open()))
        expect(await heard(stream), methods.Channel.OpenOk)
        await stream.send(any_method(1, methods.Basic.Get(queue="q")))
        await eventually(lambda: served.broker.queues["q"].unacked == 1)
        await stream.aclose()
        await eventually(lambda: served.broker.queues["q"].unacked == 0)
        assert served.broker.queues["q"].bodies() == [b"0"]


# --- faults ---------------------------------------------------------------------------------------------------------


async def test_reset_connections_come_back_with_what_they_had(transport: str) -> None:
    async with serving(transport) as served, served.connect() as connection, connection.channel() as channel:
        named = await channel.declare_queue(exclusive=True)
        name = named.name
        async with connection.consumer(named) as consumer, connection.publisher() as publisher:
            served.broker.reset_connections()
            assert served.broker.connection_count == served.broker.channel_count == 0
            await eventually(lambda: connection.stats.reconnects == 1)
            assert named.name != name
            await publisher.publish(Message(b"x"), routing_key=named.name)
            assert [delivery.body for delivery in await take(consumer, 1)] == [b"x"]
            assert served.broker.channel_count == connection.stats.open_channels == 3
        assert isinstance(connection.stats.last_error, TransportError)
        assert "Connection reset by peer" in str(connection.stats.last_error)
    assert served.broker.unexpected_closes == []


async def test_frozen_broker_goes_on_where_it_was_when_thawed(transport: str) -> None:
    async with serving(transport) as served, served.connect() as connection, connection.publisher() as publisher:
        await declare(connection, "q")
        served.broker.freeze()
        publication = await publisher.submit(Message(b"x"), routing_key="q")
        with anyio.move_on_after(0.05):
            await publication
        assert not publication.is_settled
        assert served.broker.queues["q"].messages == 0
        served.broker.thaw()
        with anyio.fail_after(5):
            receipt = await publication
        assert (receipt.attempts, connection.stats.link_number) == (1, 1)


async def test_frozen_broker_takes_connections_and_does_not_answer(transport: str) -> None:
    async with serving(transport) as served:
        served.broker.freeze()
        async with served.connect(ready_timeout=0) as connection:
            await eventually(lambda: served.broker.connection_count == 1)
            with pytest.raises(anyamqp.ReadyTimeout):
                await connection.wait_ready(0.05)
            served.broker.thaw()
            await connection.wait_ready(5)
            assert connection.stats.link_number == 1
    assert served.broker.unexpected_closes == []


async def test_client_that_gives_a_frozen_broker_up_is_excused(transport: str) -> None:
    async with serving(transport, heartbeat=1) as served, served.connect() as connection:
        served.broker.freeze()
        await eventually(lambda: isinstance(connection.stats.last_error, HeartbeatTimeout))
        served.broker.thaw()
        await connection.wait_ready(5)
        await eventually(lambda: served.broker.connection_count == 1)
    assert served.broker.unexpected_closes == []


async def test_refusing_broker_keeps_its_connections_and_takes_no_new_ones(transport: str) -> None:
    async with serving(transport) as served, served.connect() as old:
        served.broker.refuse()
        await declare(old, "q")
        async with served.connect(ready_timeout=0) as new:
            await eventually(lambda: new.stats.dials > 2)
            assert new.state is State.CONNECTING
            assert served.broker.connections_total == 1
            served.broker.accept()
            await new.wait_ready(5)
        assert served.broker.unexpected_closes == []


async def test_blocked_publisher_waits_and_goes_on(transport: str) -> None:
    async with serving(transport) as served, served.connect() as connection, connection.publisher() as publisher:
        await declare(connection, "q")
        await publisher.publish(Message(b"first"), routing_key="q")
        served.broker.block("low on disk")
        await eventually(lambda: connection.state is State.BLOCKED)
        publication = await publisher.submit(Message(b"second"), routing_key="q")
        await anyio.wait_all_tasks_blocked()
        assert served.broker.queues["q"].bodies() == [b"first"]
        assert connection.stats.blocked_since is not None
        served.broker.unblock()
        with anyio.fail_after(5):
            await publication
        assert connection.stats.blocked_since is None
        assert served.broker.queues["q"].bodies() == [b"first", b"second"]


async def test_connection_that_never_published_is_not_blocked(transport: str) -> None:
    async with serving(transport) as served, served.connect() as connection:
        served.broker.block()
        await declare(connection, "q")
        assert connection.state is State.OPEN


async def test_first_publish_to_a_blocked_broker_is_taken_and_blocks(transport: str) -> None:
    async with serving(transport) as served, served.connect() as connection, connection.publisher() as publisher:
        await declare(connection, "q")
        served.broker.block()
        await publisher.publish(Message(b"x"), routing_key="q", timeout=5)
        await eventually(lambda: connection.state is State.BLOCKED)
        served.broker.unblock()
        await connection.wait_ready(5)
        await eventually(lambda: connection.state is State.OPEN)


async def test_closed_connections_come_back_after_the_close_handshake(transport: str) -> None:
    async with serving(transport) as served, served.connect() as connection, connection.channel() as channel:
        await channel.declare_queue("mine", exclusive=True)
        served.broker.close_connections()
        await eventually(lambda: connection.stats.reconnects == 1)
        assert isinstance(connection.stats.last_error, ConnectionForced)
        assert (await channel.declare_queue("mine", passive=True)).name == "mine"
        await eventually(lambda: served.broker.connection_count == 1)
    assert served.broker.unexpected_closes == []


async def test_closed_channels_end_with_what_the_broker_says(transport: str) -> None:
    async with serving(transport) as served, served.connect() as connection:
        await declare(connection, "q")
        async with connection.channel() as channel, connection.consumer("q") as consumer:
            served.broker.close_channels(406, "PRECONDITION_FAILED - simulated")
            await eventually(lambda: channel.state is State.CLOSED)
            with pytest.raises(ChannelClosed, match="simulated"):
                await channel.get("q")
            await eventually(lambda: served.broker.channel_count == connection.stats.open_channels == 1)
            await eventually(lambda: consumer.is_consuming)
        assert connection.stats.link_number == 1


async def test_channels_closed_twice_leave_the_connection_open(transport: str) -> None:
    async with serving(transport) as served, served.connect() as connection, connection.channel() as channel:
        served.broker.close_channels(406, "PRECONDITION_FAILED - once")
        served.broker.close_channels(406, "PRECONDITION_FAILED - twice")
        await eventually(lambda: served.broker.channel_count == 0)
        with pytest.raises(ChannelClosed, match="once"):
            await channel.get("q")
        await declare(connection, "q")
        assert connection.stats.link_number == 1


async def test_channel_closes_that_cross_leave_the_connection_open(transport: str) -> None:
    async with serving(transport) as served, served.connect() as connection:
        async with anyio.create_task_group() as tasks, connection.channel() as channel:
            tasks.start_soon(channel.close)
            while channel.state is State.OPEN:
                await anyio.lowlevel.checkpoint()
            served.broker.close_channels(406, "PRECONDITION_FAILED - crossing")
        await declare(connection, "q")
        await eventually(lambda: served.broker.channel_count == connection.stats.open_channels == 0)
        assert connection.stats.link_number == 1


async def test_broker_that_listened_leaves_no_socket(transport: str) -> None:
    """Invariant 7."""
    async with serving(transport) as served:
        if transport == "memory":
            await served.broker.listen()
        address = ("127.0.0.1", served.broker.port)
        with socket.socket() as probe:
            assert probe.connect_ex(address) == 0
    with socket.socket() as probe:
        assert probe.connect_ex(address) == errno.ECONNREFUSED


async def test_restarted_broker_has_what_was_durable_and_persistent(transport: str) -> None:
    async with serving(transport) as served:
        async with served.connect() as connection, connection.channel() as channel:
            await channel.declare_queue("kept")
            await channel.declare_queue("gone", durable=False)
            async with connection.publisher() as publisher:
                await publisher.publish(Message(b"kept"), routing_key="kept")
                await publisher.publish(Message(b"gone", persistent=False), routing_key="kept")
        served.broker.stop()
        assert set(served.broker.queues) == {"kept"}
        assert served.broker.queues["kept"].bodies() == [b"kept"]


async def test_stopped_broker_refuses_until_it_is_started_at_the_same_place(transport: str) -> None:
    async with serving(transport) as served, served.connect() as connection:
        await declare(connection, "q")
        served.broker.stop()
        await eventually(lambda: connection.stats.dials > 3)
        assert connection.state is State.RECONNECTING
        await served.broker.start()
        await connection.wait_ready(5)
        async with connection.publisher() as publisher:
            receipt = await publisher.publish(Message(b"x"), routing_key="q", timeout=5)
        assert receipt.attempts == 1
    assert served.broker.unexpected_closes == []


async def test_unsettled_deliveries_of_a_killed_broker_come_again(transport: str) -> None:
    async with serving(transport) as served, served.connect() as connection:
        await declare(connection, "q")
        await fill(connection, "q", 2)
        async with connection.consumer("q") as consumer:
            first, second = await take(consumer, 2)
            served.broker.stop()
            await served.broker.start()
            again = await take(consumer, 2)
            assert [delivery.body for delivery in again] == [b"0", b"1"]
            assert all(delivery.redelivered for delivery in again)
            assert first.is_stale
            assert second.is_stale
            first.ack()
            assert connection.stats.stale_acks == 1
            assert served.broker.queues["q"].unacked == 2
