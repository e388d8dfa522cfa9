"""Minimal reproductions of bugs in the embedded broker and in recovery on it."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
import trio.testing

import anyamqp
from anyamqp import CommandInvalid, Message, PreconditionFailed, ReconnectPolicy, State
from anyamqp.testing import Broker
from anyamqp.testing.embedded.exchanges import Exchange
from anyamqp.testing.embedded.model import Model
from anyamqp.testing.embedded.peer import Peer
from anyamqp.testing.embedded.queues import Declaration, Queue
from anyamqp.wire import methods
from anyamqp.wire.methods import Method
from support.waiting import eventually

URL = "amqp://guest:guest@memory/"
QUICK = ReconnectPolicy(initial=0.01, maximum=0.05)


def when_declared(broker: Broker, act: Callable[[Peer], object]) -> None:
    """Do it as the next queue is declared."""
    declared = broker.model.declare_queue

    def declare(wanted: Declaration, user: Peer) -> Queue:
        vars(broker.model).pop("declare_queue")
        queue = declared(wanted, user)
        act(user)
        return queue

    vars(broker.model)["declare_queue"] = declare


@pytest.mark.anyio
async def test_recovery_survives_a_close_between_two_steps() -> None:
    """Nothing that the broker sends may end the connection for good."""
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, reconnect=QUICK) as connection,
    ):
        async with connection.channel() as channel:
            await channel.declare_exchange("x", "fanout")
            await channel.declare_queue("q")
            await channel.bind_queue("q", "x")

        def close_behind_the_reply(peer: Peer) -> None:
            write = peer.write

            def write_and_close(number: int, method: Method) -> None:
                write(number, method)
                if isinstance(method, methods.Queue.DeclareOk):
                    vars(peer).pop("write")
                    peer.close_channel(peer.channels[number], 406, "PRECONDITION_FAILED - simulated")

            vars(peer)["write"] = write_and_close

        when_declared(broker, close_behind_the_reply)
        broker.reset_connections()
        await eventually(lambda: connection.state in (State.OPEN, State.CLOSED) and connection.stats.link_number > 1)
        assert connection.state is State.OPEN


@pytest.mark.anyio
async def test_recovery_survives_a_close_for_a_method_not_sent() -> None:
    """Invariant 12: the close names a method that nothing waits for."""
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial, reconnect=QUICK) as connection:
        async with connection.channel() as channel:
            await channel.declare_queue("q")

        def close(peer: Peer) -> None:
            (channel,) = peer.channels.values()
            text = "PRECONDITION_FAILED - simulated"
            peer.close_channel(channel, 406, text, methods.Basic.Ack())
            raise PreconditionFailed(text)

        when_declared(broker, close)
        broker.reset_connections()
        await eventually(lambda: connection.state in (State.OPEN, State.CLOSED) and connection.stats.link_number > 1)
        assert connection.state is State.OPEN


@pytest.mark.anyio
@pytest.mark.parametrize(
    "anyio_backend", [("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})], ids=["trio"]
)
async def test_blocked_connection_stays_on_its_link_for_an_hour() -> None:
    """Invariant 9: that the broker does not read is no silence of the client's."""
    async with (
        Broker(heartbeat=10) as broker,
        anyamqp.connect(URL, dial=broker.dial, heartbeat=10) as connection,
        connection.publisher() as publisher,
    ):
        await publisher.publish(Message(b"x"), routing_key="q", mandatory=False)
        broker.block()
        await anyio.sleep(3600)
        assert connection.state is State.BLOCKED
        broker.unblock()
        await anyio.sleep(1)
        assert connection.stats.state is State.OPEN
        assert connection.stats.link_number == 1


def test_removing_no_binding_keeps_an_auto_delete_exchange_that_was_never_bound() -> None:
    """RabbitMQ deletes it when its last binding goes; here none went."""
    model = Model()
    model.declare_exchange(Exchange("x", "fanout", durable=True, auto_delete=True))
    model.unbind("x", "queue", "q", "")
    assert "x" in model.exchanges


@pytest.mark.anyio
async def test_request_that_costs_the_connection_is_named_by_the_broker_and_raises() -> None:
    """RabbitMQ names class and method in connection.close too; without them the request is sent again for ever."""
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, reconnect=QUICK) as connection,
        connection.channel() as channel,
    ):
        with anyio.fail_after(3), pytest.raises(CommandInvalid, match="unknown exchange type 'nosuch'"):
            await channel.declare_exchange("x", "nosuch")
        await connection.wait_ready(5)
        assert broker.connections_total == 2


def test_broker_is_made_without_an_event_loop() -> None:
    """A fixture that is no coroutine may make it."""
    assert Broker().connection_count == 0
