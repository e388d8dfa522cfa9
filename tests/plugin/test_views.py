"""The state of the embedded broker, as the assertions of a test read it."""

from __future__ import annotations

import anyio
import pytest

import anyamqp
from anyamqp import Message
from anyamqp.testing import Broker, ConnectionView, eventually
from anyamqp.testing.embedded import record
from anyamqp.testing.embedded.record import Record

pytestmark = pytest.mark.anyio

URL = "amqp://guest:guest@memory/"


async def publish(broker: Broker, *places: tuple[str, str], name: str = "test") -> None:
    """Publish a message to each exchange and routing key; queues and exchanges are declared before."""
    async with anyamqp.connect(URL, dial=broker.dial, name=name) as connection:
        async with connection.channel() as channel:
            for exchange, routing_key in places:
                if exchange:
                    await channel.declare_exchange(exchange, "topic")
                else:
                    await channel.declare_queue(routing_key)
        async with connection.publisher() as publisher:
            for number, (exchange, routing_key) in enumerate(places):
                message = Message(b"%d" % number)
                await publisher.publish(message, exchange=exchange, routing_key=routing_key, mandatory=False)


async def test_queue_shows_its_messages_and_bodies() -> None:
    async with Broker() as broker:
        await publish(broker, ("", "orders"), ("", "orders"))
        queue = broker.queue("orders")
        assert (queue.messages, queue.unacked, queue.consumers, queue.bodies()) == (2, 0, 0, [b"0", b"1"])
        assert repr(queue) == "<queue 'orders': 2 messages ready, 0 unacked, 0 consumers>"


async def test_missing_queue_is_answered_with_those_that_are_there() -> None:
    async with Broker() as broker:
        with pytest.raises(LookupError, match=r"^no queue 'orders' in virtual host '/'; there is: none at all$"):
            broker.queue("orders")
        await publish(broker, ("", "order"), ("", "bills"))
        with pytest.raises(LookupError, match=r"^no queue 'orders' in virtual host '/'; there is: 'bills', 'order'$"):
            broker.queue("orders")


async def test_many_queues_are_not_all_named() -> None:
    async with Broker() as broker:
        await publish(broker, *(("", f"q{number:02}") for number in range(22)))
        with pytest.raises(LookupError, match=r"'q18', 'q19' and 2 more$"):
            broker.queue("orders")


async def test_missing_virtual_host_is_answered_with_those_that_are_there() -> None:
    async with Broker() as broker:
        with pytest.raises(LookupError, match=r"^no virtual host 'shop'; there is: '/'$"):
            broker.queue("orders", virtual_host="shop")


async def test_published_messages_are_selected_by_exchange_and_routing_key() -> None:
    async with Broker() as broker:
        await publish(broker, ("market", "trade.btc"), ("market", "book.btc"), ("", "orders"))
        assert broker.published().bodies == [b"0", b"1", b"2"]
        assert broker.published(exchange="market").bodies == [b"0", b"1"]
        assert broker.published(exchange="").bodies == [b"2"]
        assert broker.published(routing_key="book.btc").one().body == b"1"
        assert not broker.published(exchange="market", routing_key="orders")
        assert broker.published()[1].routing_key == "book.btc"
        assert [one.exchange for one in broker.published()[1:]] == ["market", ""]


async def test_published_message_has_its_properties() -> None:
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial) as connection:
        async with connection.publisher(mandatory=False) as publisher:
            await publisher.publish(Message(b"", headers={"n": 1}, content_type="text/plain"), routing_key="nowhere")
        properties = broker.published().one().properties
        assert (properties.content_type, properties.headers) == ("text/plain", {"n": 1})


async def test_nothing_published_is_shown_with_what_was() -> None:
    async with Broker() as broker:
        assert repr(broker.published(exchange="bills")) == "<nothing published to exchange 'bills'>"
        await publish(broker, ("market", "trade.btc"), ("market", "trade.btc"), ("", "orders"))
        there = "2 to exchange 'market' with 'trade.btc', 1 to the default exchange with 'orders'"
        assert repr(broker.published(routing_key="bills")) == (
            f"<nothing published with routing key 'bills'; there is: {there}>"
        )
        assert repr(broker.published()) == f"<3 published: {there}>"
        with pytest.raises(LookupError, match=r"^one message expected to exchange 'market', but <2 published: "):
            broker.published(exchange="market").one()


async def test_record_keeps_the_newest_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "MOST_MESSAGES", 2)
    async with Broker() as broker:
        await publish(broker, ("", "a"), ("", "b"), ("", "c"))
        assert broker.published().bodies == [b"1", b"2"]
        assert repr(broker.published(routing_key="a")).endswith("; the 1 oldest messages are no longer recorded>")


async def test_record_keeps_only_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "MOST_BYTES", 10)
    recorded = Record()
    for body in (b"12345678", b"12", b"3"):
        recorded.add("", "q", Message(body))
    assert [one.body for one in recorded] == [b"12", b"3"]


async def test_connections_show_name_state_and_channels() -> None:
    async with Broker() as broker:
        async with anyamqp.connect(URL, dial=broker.dial, name="billing") as connection, connection.channel():
            assert broker.connections == [ConnectionView("billing", "open", (1,), "/")]
            assert broker.connection("billing").channels == (1,)
            with pytest.raises(LookupError, match=r"^no connection 'biling'; there is: 'billing'$"):
                broker.connection("biling")
            async with anyamqp.connect(URL, dial=broker.dial, name="billing"):
                with pytest.raises(LookupError, match=r"^2 connections have the name 'billing'$"):
                    broker.connection("billing")
        await eventually(lambda: not broker.connections)


async def test_connection_in_its_handshake_is_opening() -> None:
    async with Broker() as broker, await broker.dial():
        await eventually(lambda: [one.state for one in broker.connections] == ["opening"])


async def test_blocked_connection_is_shown_as_blocked() -> None:
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, name="billing") as connection,
        connection.publisher(mandatory=False) as publisher,
    ):
        await publisher.publish(Message(b""), routing_key="q")
        broker.block()
        assert broker.connection("billing").state == "blocked"
        broker.unblock()


async def test_connection_that_the_broker_closes_is_closing() -> None:
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial):
        broker.close_connections()
        assert [one.state for one in broker.connections] == ["closing"]


async def test_eventually_waits_for_a_queue_that_is_not_there_yet() -> None:
    async with Broker() as broker, anyio.create_task_group() as tasks:
        tasks.start_soon(publish, broker, ("", "orders"))
        assert await eventually(lambda: broker.queue("orders").bodies()) == [b"0"]


async def test_eventually_gives_up_and_tells_why() -> None:
    async with Broker() as broker:
        with pytest.raises(AssertionError, match=r"^did not become true within 0.01 s$") as caught:
            await eventually(lambda: broker.queue("orders").messages == 1, within=0.01)
        assert str(caught.value.__cause__) == "no queue 'orders' in virtual host '/'; there is: none at all"
