"""Errors that few programs ever see: calls too late or too early, hooks and parts of anyamqp that raise."""

from __future__ import annotations

import anyio
import pytest

import anyamqp
from anyamqp import (
    AccessRefused,
    ChannelClosed,
    Connection,
    ConnectionBlocked,
    ConnectionClosed,
    Delivery,
    InvalidArgument,
    InvalidUse,
    Message,
    ReadyTimeout,
    State,
    TopologyRecovery,
    Unroutable,
    serve_rpc,
)
from anyamqp.core.link_maker import LinkMaker
from anyamqp.entities import Entity
from anyamqp.testing import Broker
from anyamqp.wire import methods
from support.handbroker import EAGER, HandBroker, connected
from support.waiting import eventually

pytestmark = pytest.mark.anyio

URL = "amqp://guest:guest@memory/"


# --- waiting --------------------------------------------------------------------------------------------------------


async def test_waiting_for_the_end_of_a_block_names_the_block() -> None:
    async with connected() as (broker, connection):
        await broker.link.block("low on disk")
        with pytest.raises(ConnectionBlocked, match="low on disk"):
            await connection.wait_unblocked(0)


async def test_waiting_for_the_end_of_a_block_without_a_link_is_not_ready() -> None:
    async with connected() as (broker, connection):
        broker.is_refusing = True
        await broker.link.reset()
        await eventually(lambda: connection.state is State.RECONNECTING)
        with pytest.raises(ReadyTimeout, match="not ready within 0 s, still RECONNECTING"):
            await connection.wait_unblocked(0)


async def test_a_name_that_no_resolver_can_be_asked_for_is_named() -> None:
    host = "\u00e4" * 70 + ".example"
    async with anyamqp.connect(f"amqp://{host}/", ready_timeout=0) as connection:
        await eventually(lambda: connection.stats.last_error is not None)
        assert isinstance(connection.stats.last_error, anyamqp.TransportError)
        assert str(connection.stats.last_error).startswith(f"resolving '{host}'")


# --- objects that show themselves -----------------------------------------------------------------------------------


async def test_objects_show_their_state() -> None:
    async with connected() as (broker, connection), connection.publisher() as publisher:
        assert repr(connection) == "<Connection to memory:5672 OPEN>"
        publication = await publisher.submit(Message(b"", message_id="1"), routing_key="q")
        assert repr(publication) == "<Publication '1' waiting>"
        await eventually(lambda: bool(broker.published))
        await broker.link.ack(1)
        await publication
        assert repr(publication) == "<Publication '1' confirmed>"
        refused = await publisher.submit(Message(b"", message_id="2"), routing_key="q")
        await eventually(lambda: len(broker.published) == 2)
        await broker.link.nack(2)
        with pytest.raises(anyamqp.Nacked):
            await refused
        assert "Nacked" in repr(refused)
        async with connection.channel() as channel:
            assert repr(channel) == "<Channel 2 OPEN>"
            assert repr(await channel.declare_queue("orders")) == "<Queue 'orders'>"


async def test_consumer_has_the_tag_that_it_was_given() -> None:
    async with connected() as (_, connection), connection.consumer("q", consumer_tag="mine") as consumer:
        assert consumer.consumer_tag == "mine"


# --- arguments ------------------------------------------------------------------------------------------------------


async def test_priority_of_a_consumer_is_given_once() -> None:
    async with connected() as (_, connection):
        with pytest.raises(InvalidArgument, match="x-priority: given as a keyword and in arguments"):
            connection.consumer("q", priority=1, arguments={"x-priority": 2})


async def test_publish_of_a_transaction_takes_its_key_by_name() -> None:
    async with connected() as (_, connection), connection.channel() as channel, channel.transaction() as transaction:
        with pytest.raises(InvalidUse, match="publish"):
            await transaction.publish(Message(b""), "q")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_connect_without_a_url_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RABBITMQ_URL", URL)
    async with Broker() as broker, anyamqp.connect(dial=broker.dial) as connection:
        assert connection.state is State.OPEN


async def test_channel_works_inside_its_block() -> None:
    async with connected() as (_, connection):
        with pytest.raises(InvalidUse, match="a channel works inside its block"):
            await connection.channel().declare_queue("q")


# --- deliveries -----------------------------------------------------------------------------------------------------


async def delivered(connection: Connection, *, no_ack: bool = False) -> Delivery:
    """A delivery of a queue with one message."""
    async with connection.channel() as channel, connection.publisher() as publisher:
        await channel.declare_queue("q")
        await publisher.publish(Message(b"x", reply_to="answers", headers={"x-delivery-count": 2}), routing_key="q")
        async with connection.consumer("q", no_ack=no_ack) as consumer:
            return await anext(consumer)


async def test_delivery_with_no_ack_takes_no_settlement() -> None:
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial) as connection:
        delivery = await delivered(connection, no_ack=True)
        with pytest.raises(InvalidUse, match="came with no_ack: the broker expects no acknowledgement"):
            delivery.ack()
        async with delivery:
            pass


async def test_delivery_tells_where_an_answer_goes_and_how_often_it_failed() -> None:
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial) as connection:
        delivery = await delivered(connection)
        assert (delivery.reply_to, delivery.delivery_count) == ("answers", 2)


# --- RPC ------------------------------------------------------------------------------------------------------------


async def test_serving_ends_with_the_error_of_its_publisher() -> None:
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial) as connection:
        async with connection.channel() as channel, connection.publisher() as outside:
            await channel.declare_queue("requests")
            await outside.publish(Message(b"", reply_to="answers"), routing_key="requests")
        async with connection.publisher() as publisher:
            pass
        async with connection.consumer("requests") as consumer:

            async def answer(_: Delivery) -> Message:
                return Message(b"")

            with anyio.fail_after(10), pytest.raises((ChannelClosed, InvalidUse)):
                await serve_rpc(consumer, publisher, answer)


async def test_serving_ends_when_the_broker_closes_its_publisher_for_good() -> None:
    async with (
        connected() as (broker, connection),
        connection.publisher() as publisher,
        connection.consumer("requests") as consumer,
        anyio.create_task_group() as tasks,
    ):
        consuming = channel_of(broker, methods.Basic.Consume)

        async def answer(request: Delivery) -> Message:
            assert request.reply_to == "answers"
            broker.habits.silent_to.add(methods.Confirm.Select)
            for _ in range(2):  # the second comes before the next channel is open
                await broker.link.close_channel(
                    methods.Channel.Close(403, "ACCESS_REFUSED", 0, 0), channel_of(broker, methods.Confirm.Select)
                )
            return Message(b"")

        async def serve() -> None:
            with pytest.raises(ChannelClosed, match="ACCESS_REFUSED"):
                await serve_rpc(consumer, publisher, answer)
            tasks.cancel_scope.cancel()

        tasks.start_soon(serve)
        await broker.link.deliver(Message(b"", reply_to="answers"), channel=consuming)
        with anyio.fail_after(20):
            await anyio.sleep_forever()


def channel_of(broker: HandBroker, kind: type[methods.Method]) -> int:
    """The channel of the last method of a kind."""
    return next(number for number, method in reversed(broker.link.methods) if isinstance(method, kind))


# --- what raises in anyamqp or in the user's functions ----------------------------------------------------------------


async def test_fault_of_anyamqp_ends_the_connection_as_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: LinkMaker) -> float:
        raise ZeroDivisionError("a bug")

    async with connected() as (broker, connection):
        monkeypatch.setattr(LinkMaker, "pause", broken)
        await broker.link.reset()
        with anyio.fail_after(10):
            await connection.wait_closed()
        with pytest.raises(ConnectionClosed, match="a bug") as caught:
            await connection.wait_ready()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)


async def test_queue_that_is_refused_in_recovery_ends_its_channel_and_its_consumers() -> None:
    failures: list[tuple[str, type[Exception]]] = []
    hooks = TopologyRecovery(on_error=lambda entity, error: failures.append((entity.name, type(error))))
    async with (
        connected(reconnect=EAGER, topology_recovery=hooks) as (broker, connection),
        connection.channel() as channel,
        connection.consumer("q") as consumer,
    ):
        await channel.declare_queue("q")
        broker.habits.silent_to.add(methods.Queue.Declare)
        await broker.link.reset()
        await eventually(lambda: len(broker.links) == 2 and bool(broker.link.sent(methods.Queue.Declare)))
        refusal = methods.Channel.Close(403, "ACCESS_REFUSED", 50, 10)
        await broker.link.close_channel(refusal, channel_of(broker, methods.Queue.Declare))
        with anyio.fail_after(10), pytest.raises(AccessRefused):
            await anext(consumer)
        with pytest.raises(ChannelClosed, match="ACCESS_REFUSED"):
            await channel.get("q")
    assert failures == [("q", AccessRefused)]


async def test_hook_that_raises_is_logged_and_the_entity_is_recovered(caplog: pytest.LogCaptureFixture) -> None:
    def wanted(_: Entity) -> bool:
        raise LookupError("no idea")

    hooks = TopologyRecovery(wanted=wanted)
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, reconnect=EAGER, topology_recovery=hooks) as connection,
        connection.channel() as channel,
    ):
        await channel.declare_queue("q", exclusive=True)
        broker.reset_connections()
        await eventually(lambda: connection.stats.reconnects == 1)
        await channel.declare_queue("q", passive=True)
    assert "topology_recovery.wanted" in caplog.text


async def test_publish_that_reaches_no_queue_names_itself() -> None:
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial) as connection,
        connection.publisher() as publisher,
    ):
        with pytest.raises(Unroutable, match="nowhere"):
            await publisher.publish(Message(b""), routing_key="nowhere")
