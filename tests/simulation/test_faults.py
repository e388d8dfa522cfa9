"""The vocabulary of faults: a connection of ours survives each of them, or raises the error that names it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest
import trio.testing

from anyamqp import (
    Connection,
    ConnectionForced,
    InvalidUse,
    Message,
    PreconditionFailed,
    ReconnectPolicy,
    RequestTimeout,
    Settings,
    State,
    connect,
)
from anyamqp.testing import Broker
from anyamqp.testing.faults import Drop
from anyamqp.wire import methods
from anyamqp.wire.methods import Method
from support.waiting import eventually

pytestmark = pytest.mark.anyio

SETTINGS = replace(Settings.from_urls("amqp://memory/"), reconnect=ReconnectPolicy(initial=0.01, maximum=0.05))


@asynccontextmanager
async def serving(settings: Settings | None = None) -> AsyncGenerator[tuple[Broker, Connection], None]:
    """A broker with a queue ``q``, and a connection to it."""
    async with (
        Broker() as broker,
        connect(settings or SETTINGS, dial=broker.dial) as connection,
    ):
        async with connection.channel() as channel:
            await channel.declare_queue("q")
        yield broker, connection


# --- ends of transports ---------------------------------------------------------------------------------------------


async def test_publish_whose_confirm_a_reset_takes_is_published_again() -> None:
    async with serving() as (broker, connection), connection.publisher() as publisher:
        broker.faults.before("basic.ack", by="broker").reset()
        receipt = await publisher.publish(Message(b"x"), routing_key="q", timeout=5)
        assert receipt.attempts == 2
        assert broker.queues["q"].bodies() == [b"x", b"x"]


async def test_publish_before_which_the_transport_ends_arrives_once() -> None:
    async with serving() as (broker, connection), connection.publisher() as publisher:
        broker.faults.before("basic.publish").finish()
        receipt = await publisher.publish(Message(b"x"), routing_key="q", timeout=5)
        assert receipt.attempts == 2
        assert broker.queues["q"].bodies() == [b"x"]


async def test_confirm_before_an_end_of_the_stream_arrives() -> None:
    async with serving() as (broker, connection), connection.publisher() as publisher:
        broker.faults.after("basic.ack", by="broker").finish()
        receipt = await publisher.publish(Message(b"x"), routing_key="q", timeout=5)
        assert receipt.attempts == 1
        await eventually(lambda: connection.stats.reconnects == 1)


async def test_half_closed_connection_is_opened_again() -> None:
    async with serving() as (broker, connection):
        broker.faults.half_close()
        await eventually(lambda: connection.stats.reconnects == 1)
        await eventually(lambda: broker.connection_count == 1)
    assert broker.unexpected_closes == []


# --- closes ---------------------------------------------------------------------------------------------------------


async def test_connection_that_is_closed_at_a_point_comes_back() -> None:
    async with serving() as (broker, connection), connection.publisher() as publisher:
        broker.faults.before("basic.publish").close_connection()
        receipt = await publisher.publish(Message(b"x"), routing_key="q", timeout=5)
        assert receipt.attempts == 2
        assert isinstance(connection.stats.last_error, ConnectionForced)


async def test_channel_that_is_closed_at_a_point_ends_with_code_and_text() -> None:
    async with serving() as (broker, connection), connection.channel() as channel, connection.channel() as other:
        broker.faults.before("basic.get").close_channel(406, "PRECONDITION_FAILED - simulated")
        with pytest.raises(PreconditionFailed, match="simulated"):
            await channel.get("q")
        assert (channel.state, other.state) == (State.CLOSED, State.OPEN)


# --- silence --------------------------------------------------------------------------------------------------------


VIRTUAL = pytest.mark.parametrize(
    "anyio_backend", [pytest.param(("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}), id="trio")]
)


@VIRTUAL
async def test_connection_frozen_for_a_while_answers_afterwards() -> None:
    async with serving() as (broker, connection), connection.channel() as channel:
        broker.faults.before("basic.get").freeze(seconds=7)
        began = anyio.current_time()
        assert await channel.get("q") is None
        assert anyio.current_time() - began == pytest.approx(7, abs=0.1)
        assert connection.stats.link_number == 1


@VIRTUAL
async def test_broker_frozen_for_a_while_answers_afterwards() -> None:
    async with serving() as (broker, connection), connection.channel() as channel:
        broker.faults.freeze(seconds=7)
        began = anyio.current_time()
        assert await channel.get("q") is None
        assert anyio.current_time() - began == pytest.approx(7, abs=0.1)


@VIRTUAL
async def test_broker_refuses_connections_for_a_while() -> None:
    async with serving() as (broker, connection):
        broker.faults.refuse(seconds=7)
        began = anyio.current_time()
        broker.faults.reset()
        await eventually(lambda: connection.state is State.RECONNECTING)
        await connection.wait_ready(20)
        assert anyio.current_time() - began == pytest.approx(7, abs=0.1)


@VIRTUAL
async def test_publisher_is_blocked_for_a_while() -> None:
    async with serving() as (broker, connection), connection.publisher() as publisher:
        await publisher.publish(Message(b"first"), routing_key="q")
        broker.faults.block(seconds=7)
        began = anyio.current_time()
        await eventually(lambda: connection.state is State.BLOCKED)
        await publisher.publish(Message(b"second"), routing_key="q")
        assert anyio.current_time() - began == pytest.approx(7, abs=0.1)


@VIRTUAL
async def test_request_that_is_dropped_is_not_answered() -> None:
    settings = replace(SETTINGS, request_timeout=3.0)
    async with serving(settings) as (broker, connection), connection.channel() as channel:
        broker.faults.before("basic.get").drop()
        with pytest.raises(RequestTimeout):
            await channel.get("q")


# --- points ---------------------------------------------------------------------------------------------------------


async def test_fault_strikes_after_the_passages_that_it_skips_and_as_often_as_it_says() -> None:
    async with serving() as (broker, connection), connection.publisher() as publisher:
        broker.faults.after("basic.publish", skip=1, times=2).reset()
        attempts = [(await publisher.publish(Message(b"x"), routing_key="q", timeout=5)).attempts for _ in range(3)]
        assert attempts == [1, 3, 1]
        assert broker.queues["q"].messages == 5


def gets_other(method: Method) -> bool:
    return isinstance(method, methods.Basic.Get) and method.queue == "other"


async def test_fault_strikes_only_the_methods_and_the_connection_that_it_names() -> None:
    async with serving(replace(SETTINGS, name="ours")) as (broker, connection), connection.channel() as channel:
        await channel.declare_queue("other")
        broker.faults.before("basic.get", connection="theirs").reset()
        broker.faults.before("basic.get", where=gets_other).reset()
        await channel.get("q")
        assert connection.stats.reconnects == 0
        await channel.get("other")
        assert connection.stats.reconnects == 1


async def test_calm_ends_all_faults() -> None:
    async with serving() as (broker, connection), connection.channel() as channel:
        broker.faults.before("basic.get").reset()
        broker.faults.freeze()
        broker.faults.refuse()
        broker.faults.block()
        broker.faults.calm()
        assert await channel.get("q") is None
        assert (connection.stats.reconnects, broker.blocked, broker.is_frozen) == (0, None, False)


async def test_point_that_amqp_does_not_have_is_refused() -> None:
    async with Broker() as broker:
        with pytest.raises(InvalidUse, match=r"'basic\.akc' is no method"):
            broker.faults.before("basic.akc")


async def test_fault_that_needs_a_method_is_refused_without_one() -> None:
    async with serving() as (broker, _):
        with pytest.raises(InvalidUse, match="strikes only before a method"):
            broker.faults.strike(Drop())
