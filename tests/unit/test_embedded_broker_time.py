"""The embedded broker and time, on trio's virtual clock: heartbeats, silence, freezing, and patience with closes."""

from __future__ import annotations

import anyio
import pytest
import trio.testing

from anyamqp import SettingsError
from anyamqp.testing import Broker
from anyamqp.wire import methods
from anyamqp.wire.frames import PROTOCOL_HEADER, build
from support.amqp import HEARTBEAT, METHOD, frame
from support.rawpeer import CONSUME, QUEUE, RawPeer, fill, raw_peer, serving


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Virtual time: only trio has a clock that jumps."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


def test_heartbeat_that_amqp_cannot_carry_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"heartbeat: 0\.5"):
        Broker(heartbeat=0.5)


@pytest.mark.anyio
async def test_heartbeats_come_at_half_the_interval_and_a_silent_client_is_dropped_after_two() -> None:
    async with serving(heartbeat=10) as (broker, peer):
        began = anyio.current_time()
        await peer.ended(within=100)
        assert anyio.current_time() - began == pytest.approx(20, abs=0.1)
        assert peer.heartbeats == 3
        assert broker.unexpected_closes == []


@pytest.mark.anyio
async def test_client_that_sends_heartbeats_stays() -> None:
    async with serving(1, heartbeat=10) as (broker, peer):
        for _ in range(20):
            await anyio.sleep(9)
            await peer.say(frame(HEARTBEAT, 0, b""))
        await peer.call(1, QUEUE, methods.Queue.DeclareOk)
        assert broker.connection_count == 1


@pytest.mark.anyio
async def test_a_blocked_client_is_not_taken_for_silent() -> None:
    async with serving(1, heartbeat=10) as (broker, peer):
        await fill(peer, 1, 10)
        broker.block("low on memory")
        assert (await peer.expect(0, methods.Connection.Blocked)).reason == "low on memory"
        for _ in range(20):
            await anyio.sleep(9)
            await peer.say(frame(HEARTBEAT, 0, b""))
        await peer.publish(1, b"waits", routing_key="q")
        await anyio.sleep(1)
        assert (broker.connection_count, broker.queues["q"].messages) == (1, 1)
        broker.unblock()
        await peer.expect(0, methods.Connection.Unblocked)
        assert (await peer.expect(1, methods.Basic.Ack)).delivery_tag == 2
        await peer.call(1, QUEUE, methods.Queue.DeclareOk)


@pytest.mark.anyio
async def test_frozen_broker_says_nothing_and_loses_nothing() -> None:
    async with serving(1, heartbeat=10) as (broker, peer):
        broker.freeze()
        await peer.send(1, QUEUE)
        with pytest.raises(TimeoutError):
            await peer.frame(within=300)
        assert peer.heartbeats == 0
        broker.thaw()
        await peer.expect(1, methods.Queue.DeclareOk)


@pytest.mark.parametrize("is_answered", [True, False])
@pytest.mark.anyio
async def test_closed_connection_is_dropped_at_its_answer_or_after_five_seconds(is_answered: bool) -> None:
    async with serving(1) as (broker, peer):
        broker.close_connections(320, "CONNECTION_FORCED - simulated")
        assert (await peer.closed()).reply_text == "CONNECTION_FORCED - simulated"
        began = anyio.current_time()
        if is_answered:
            await peer.send(0, build(methods.Connection.CloseOk))
        await peer.ended(within=10)
        assert anyio.current_time() - began == pytest.approx(0 if is_answered else 5, abs=0.1)
        assert (broker.channel_count, broker.unexpected_closes) == (0, [])


@pytest.mark.anyio
async def test_client_that_sent_garbage_is_dropped_five_seconds_after_it_was_told() -> None:
    async with serving(1) as (_, peer):
        await peer.say(frame(METHOD, 1, b"\x00\x0a\x00\x0a", end=b"\xcd"))
        assert (await peer.closed()).reply_code == 501
        began = anyio.current_time()
        await peer.ended(within=10)
        assert anyio.current_time() - began == pytest.approx(5, abs=0.1)


@pytest.mark.anyio
async def test_connection_that_is_being_closed_gets_no_deliveries() -> None:
    async with serving(1) as (broker, peer), raw_peer(await broker.dial(), 1) as other:
        await peer.call(1, QUEUE, methods.Queue.DeclareOk)
        await peer.call(1, CONSUME, methods.Basic.ConsumeOk)
        await peer.send(1, build(methods.Channel.Open))
        assert (await peer.closed()).reply_code == 504
        assert broker.channels == [("raw", ()), ("raw", (1,))]
        await other.publish(1, b"m", routing_key="q")
        await peer.ended(within=10)
        assert broker.queues["q"].bodies() == [b"m"]


@pytest.mark.parametrize("said", [b"", PROTOCOL_HEADER], ids=["nothing", "protocol-header"])
@pytest.mark.anyio
async def test_client_that_does_not_finish_the_handshake_is_dropped_after_ten_seconds(said: bytes) -> None:
    async with Broker() as broker, await broker.dial() as stream:
        await stream.send(said)
        began = anyio.current_time()
        received = b"".join([data async for data in stream])
        assert (received == b"") is (said == b"")
        assert anyio.current_time() - began == pytest.approx(10, abs=0.1)
        assert broker.unexpected_closes == []


@pytest.mark.anyio
async def test_time_in_which_the_broker_is_frozen_does_not_count_for_the_handshake() -> None:
    async with Broker() as broker, await broker.dial() as stream:
        peer = RawPeer(stream)
        broker.freeze()
        await peer.say(PROTOCOL_HEADER)
        await anyio.sleep(60)
        broker.thaw()
        await peer.expect(0, methods.Connection.Start)
        await anyio.sleep(9)
        assert broker.connection_count == 1


@pytest.mark.anyio
async def test_client_that_was_given_up_in_a_black_hole_learns_of_it_when_the_network_is_back() -> None:
    async with serving(1, heartbeat=10) as (broker, peer):
        await peer.call(1, QUEUE, methods.Queue.DeclareOk)
        await peer.call(1, CONSUME, methods.Basic.ConsumeOk)
        broker.faults.black_hole()
        with pytest.raises(TimeoutError):
            await peer.frame(within=100)
        assert (peer.heartbeats, broker.queues["q"].consumers) == (0, 0)
        broker.faults.heal()
        await peer.ended(within=1)
