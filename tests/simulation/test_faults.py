"""The vocabulary of faults: a connection of ours survives each of them, or raises the error that names it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest
import trio.testing

from anyamqp import (
    ChannelError,
    Connection,
    ConnectionForced,
    FrameError,
    HeartbeatTimeout,
    InvalidUse,
    LoginRefused,
    Message,
    Nacked,
    PreconditionFailed,
    PublishTimeout,
    ReconnectPolicy,
    RequestTimeout,
    Settings,
    State,
    connect,
)
from anyamqp.testing import Broker
from anyamqp.testing.embedded.strikes import Style
from anyamqp.testing.faults import (
    BlackHole,
    Block,
    Confirms,
    Delay,
    Drop,
    Fault,
    Finish,
    Freeze,
    FreezeBroker,
    Hang,
    Refuse,
    RefuseLogin,
    Repeat,
    Reset,
)
from anyamqp.wire import methods
from anyamqp.wire.frames import build
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


@VIRTUAL
async def test_connection_in_a_black_hole_is_given_up_by_both_sides_and_opened_again() -> None:
    async with serving() as (broker, connection):
        assert broker.queues["q"].consumers == 0
        async with connection.consumer("q") as consumer:
            broker.faults.black_hole()
            began = anyio.current_time()
            await eventually(lambda: connection.stats.reconnects == 1, within=500, every=1)
            assert isinstance(connection.stats.last_error, HeartbeatTimeout)
            assert anyio.current_time() - began == pytest.approx(120, abs=10)
            await eventually(lambda: broker.connection_count == broker.queues["q"].consumers == 1, within=500, every=1)
            assert consumer.is_consuming
    assert broker.unexpected_closes == []


@VIRTUAL
async def test_what_a_black_hole_held_back_arrives_when_it_heals() -> None:
    async with serving() as (broker, connection), connection.channel() as channel:
        broker.faults.black_hole(seconds=7)
        began = anyio.current_time()
        assert await channel.get("q") is None
        assert anyio.current_time() - began == pytest.approx(7, abs=0.1)
        assert connection.stats.link_number == 1


@VIRTUAL
async def test_answers_are_delayed_one_by_one() -> None:
    async with serving() as (broker, connection), connection.channel() as channel:
        broker.faults.delay(3)
        began = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(channel.get, "q")
        assert anyio.current_time() - began == pytest.approx(3, abs=0.1)
        broker.faults.heal()
        await channel.get("q")
        assert anyio.current_time() - began == pytest.approx(3, abs=0.1)


@VIRTUAL
async def test_large_message_takes_its_time_on_a_slow_network() -> None:
    async with serving() as (broker, connection), connection.channel() as channel:
        await channel.publish(Message(bytes(10_000)), routing_key="q")
        await eventually(lambda: broker.queues["q"].messages == 1)
        broker.faults.throttle(1000)
        began = anyio.current_time()
        delivery = await channel.get("q")
        assert delivery is not None
        assert len(delivery.body) == 10_000
        assert anyio.current_time() - began == pytest.approx(10, abs=0.5)


# --- frames ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 6, 20, 60, 90])
async def test_delivery_cut_at_a_byte_comes_again(count: int) -> None:
    async with serving() as (broker, connection), connection.publisher() as publisher:
        await publisher.publish(Message(b"x" * 40), routing_key="q")
        broker.faults.before("basic.deliver").cut(count)
        async with connection.consumer("q") as consumer:
            with anyio.fail_after(5):
                delivery = await anext(aiter(consumer))
            assert (delivery.body, delivery.redelivered) == (b"x" * 40, True)
            await eventually(lambda: connection.stats.reconnects == 1)


async def test_transport_ends_after_so_many_bytes_from_now() -> None:
    async with serving() as (broker, connection), connection.channel() as channel:
        broker.faults.cut(3, resets=True)
        await channel.declare_queue("q")
        assert connection.stats.reconnects == 1


async def test_garbage_costs_the_connection_and_nothing_else() -> None:
    async with serving() as (broker, connection):
        broker.faults.garbage()
        await eventually(lambda: connection.stats.reconnects == 1)
        assert isinstance(connection.stats.last_error, FrameError)
    assert broker.unexpected_closes == []


async def test_frame_larger_than_agreed_is_refused_before_it_comes() -> None:
    async with serving() as (broker, connection):
        broker.faults.oversized_frame()
        await eventually(lambda: connection.stats.reconnects == 1)
        assert isinstance(connection.stats.last_error, FrameError)
        assert "2147483656 bytes" in str(connection.stats.last_error)


async def test_handshake_in_a_wrong_order_fails_the_attempt() -> None:
    async with serving() as (broker, connection):
        broker.faults.before("connection.tune").send(methods.Connection.OpenOk())
        broker.faults.reset()
        await eventually(lambda: connection.stats.reconnects == 1)
        assert connection.stats.dials == 3


LATE = build(methods.Basic.Deliver, "gone", 7, False, "", "q")


async def test_late_frames_on_a_closing_channel_are_ignored() -> None:
    async with serving() as (broker, connection):
        async with connection.channel():
            broker.faults.before("channel.close-ok").send(LATE, body=b"late")
            broker.faults.before("channel.close-ok").send(methods.Basic.Ack(9))
        async with connection.channel() as another:
            assert await another.get("q") is None
        assert connection.stats.reconnects == 0


async def test_frame_on_a_closed_channel_costs_the_connection() -> None:
    async with serving() as (broker, connection):
        async with connection.channel():
            broker.faults.after("channel.close-ok").send(LATE, body=b"late")
        await eventually(lambda: connection.stats.reconnects == 1)
        assert isinstance(connection.stats.last_error, ChannelError)


# --- confirms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["doubled", "single", "reversed", "multiple"])
async def test_confirms_in_any_style_settle_each_publish_once(style: Style) -> None:
    async with serving() as (broker, connection), connection.publisher() as publisher:
        broker.faults.before("basic.ack", by="broker", times=None).confirms(style)
        published = [await publisher.submit(Message(bytes([number])), routing_key="q") for number in range(20)]
        with anyio.fail_after(5):
            receipts = [await one for one in published]
        assert [receipt.attempts for receipt in receipts] == [1] * 20
        assert broker.queues["q"].messages == 20


async def test_publish_that_the_broker_nacks_is_refused() -> None:
    async with serving() as (broker, connection), connection.publisher() as publisher:
        broker.faults.before("basic.ack", by="broker").confirms("nacked")
        with pytest.raises(Nacked):
            await publisher.publish(Message(b"x"), routing_key="q")
        await publisher.publish(Message(b"x"), routing_key="q")


@VIRTUAL
async def test_confirm_that_never_comes_is_a_time_out() -> None:
    async with serving() as (broker, connection), connection.publisher() as publisher:
        broker.faults.before("basic.ack", by="broker").drop()
        with pytest.raises(PublishTimeout):
            await publisher.publish(Message(b"x"), routing_key="q", timeout=5)


async def test_delivery_that_comes_twice_is_a_delivery_each_time() -> None:
    async with serving() as (broker, connection), connection.publisher() as publisher:
        await publisher.publish(Message(b"x"), routing_key="q")
        broker.faults.before("basic.deliver").repeat()
        async with connection.consumer("q") as consumer:
            with anyio.fail_after(5):
                bodies = [(await anext(aiter(consumer))).body for _ in range(2)]
            assert bodies == [b"x", b"x"]


# --- entities and logins --------------------------------------------------------------------------------------------


async def test_cancelled_consumer_of_a_queue_that_exists_consumes_again() -> None:
    async with serving() as (broker, connection), connection.consumer("q") as consumer:
        broker.faults.cancel_consumer()
        assert broker.queues["q"].consumers == 0
        await eventually(lambda: broker.queues["q"].consumers == 1)
        await eventually(lambda: consumer.is_consuming)
        assert connection.stats.reconnects == 0


async def test_refused_login_is_an_error_of_the_first_attempt() -> None:
    async with Broker() as broker:
        broker.faults.refuse_logins()
        with pytest.raises(LoginRefused):
            async with connect(SETTINGS, dial=broker.dial, fail_fast=True):
                pass
        async with connect(SETTINGS, dial=broker.dial, fail_fast=True) as connection:
            assert connection.state is State.OPEN
    assert broker.unexpected_closes == []


@VIRTUAL
async def test_queue_whose_node_is_down_gets_no_answer() -> None:
    settings = replace(SETTINGS, request_timeout=3.0)
    async with (
        serving(settings) as (broker, connection),
        connection.channel() as channel,
        connection.channel() as other,
        connection.consumer("q") as consumer,
    ):
        broker.faults.queue_down("q")
        await other.declare_queue("another")
        with pytest.raises(RequestTimeout):
            await channel.get("q")
        assert broker.queues["q"].consumers == 0
        broker.faults.queue_up("q")
        await eventually(lambda: broker.queues["q"].consumers == 1, within=500, every=1)
        await eventually(lambda: consumer.is_consuming)


# --- schedules ------------------------------------------------------------------------------------------------------

KINDS = (Reset(), Finish(), BlackHole(1), Freeze(0.5), Refuse(0.5), Block(0.5), FreezeBroker(0.5), Delay(0.1, 1))


async def struck_by(seed: int) -> list[tuple[float, object, int | None]]:
    """What a schedule does to two connections within a minute."""
    async with (
        serving() as (broker, connection),
        connect(SETTINGS, dial=broker.dial),
        connection.publisher() as publisher,
    ):
        began = anyio.current_time()
        schedule = broker.faults.schedule(seed, *KINDS, every=(0.5, 5))
        while anyio.current_time() < began + 60:
            await publisher.publish(Message(b"x"), routing_key="q", timeout=60)
            await anyio.sleep(0.5)
        broker.faults.calm()
        count = len(schedule.struck)
        await anyio.sleep(20)
        assert len(schedule.struck) == count
        await publisher.publish(Message(b"x"), routing_key="q", timeout=60)
        return [(round(at - began, 6), fault, place) for at, fault, place in schedule.struck]


@VIRTUAL
async def test_seed_reproduces_a_schedule() -> None:
    first = await struck_by(7)
    assert 12 < len(first) < 120
    assert await struck_by(7) == first
    assert await struck_by(8) != first


@VIRTUAL
async def test_schedule_ends_after_its_count() -> None:
    async with serving() as (broker, _):
        schedule = broker.faults.schedule(1, Delay(0.0), every=(1, 1), count=3)
        await anyio.sleep(60)
        assert [one.fault for one in schedule.struck] == [Delay(0.0)] * 3


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


@pytest.mark.parametrize("fault", [Drop(), Repeat(), Confirms("doubled"), RefuseLogin(), Hang()], ids=str)
async def test_fault_that_changes_a_method_is_refused_elsewhere(fault: Fault) -> None:
    async with serving() as (broker, _):
        for refused in (
            lambda: broker.faults.strike(fault),
            lambda: broker.faults.after("basic.ack").strike(fault),
            lambda: broker.faults.schedule(1, fault, every=(1, 2)),
        ):
            with pytest.raises(InvalidUse, match="strikes only before a method"):
                refused()
