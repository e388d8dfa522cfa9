"""The embedded broker at the transport: resets, restarts, slow readers."""

from __future__ import annotations

import anyio
import anyio.abc
import pytest

from anyamqp import UnexpectedFailure
from anyamqp.testing import Broker
from anyamqp.testing.embedded.channel import Channel
from anyamqp.testing.embedded.strikes import Style
from anyamqp.wire import methods
from anyamqp.wire.frames import build, encode_method
from anyamqp.wire.methods import Method
from support.rawpeer import CONSUME, QUEUE, Dial, fill, raw_peer, serving
from support.waiting import eventually, running_tasks

pytestmark = pytest.mark.anyio


async def over_tcp(broker: Broker) -> anyio.abc.ByteStream:
    await broker.listen()
    return await anyio.connect_tcp("127.0.0.1", broker.port)


both_transports = pytest.mark.parametrize("dial", [Broker.dial, over_tcp], ids=["memory", "tcp"])


# --- ends of transports ---------------------------------------------------------------------------------------------


@both_transports
async def test_reset_breaks_the_clients_transport_and_nothing_more_is_said(dial: Dial) -> None:
    async with serving(1, dial=dial) as (broker, peer):
        await fill(peer, 1, 10)
        await peer.send(1, QUEUE)
        broker.reset_connections()
        with anyio.fail_after(5), pytest.raises(anyio.BrokenResourceError) as caught:
            await peer.stream.receive()
        assert isinstance(caught.value.__cause__, ConnectionResetError)
        assert (broker.connection_count, broker.unexpected_closes) == (0, [])


async def test_requeued_messages_skip_connections_reset_with_theirs() -> None:
    async with serving(1) as (broker, peer), raw_peer(await broker.dial(), 1) as other:
        await fill(peer, 1, 10)
        await peer.call(1, CONSUME, methods.Basic.ConsumeOk)
        await peer.delivery(1)
        no_ack = build(methods.Basic.Consume, queue="q", no_ack=True)
        await other.call(1, no_ack, methods.Basic.ConsumeOk)
        broker.reset_connections()
        assert (broker.queues["q"].messages, broker.queues["q"].unacked, broker.queues["q"].consumers) == (1, 0, 0)


async def test_nothing_is_left_of_a_broker_that_was_left_in_the_middle() -> None:
    before = running_tasks()
    async with Broker() as broker:
        await broker.listen()
        stream = await anyio.connect_tcp("127.0.0.1", broker.port)
        memory = await broker.dial()
        port = broker.port
    await eventually(lambda: running_tasks() <= before)
    for left in (stream, memory):
        with anyio.fail_after(5), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await left.receive()
        await left.aclose()
    with pytest.raises(OSError, match=r"connect|refused"):
        await anyio.connect_tcp("127.0.0.1", port)


@both_transports
async def test_a_client_may_close_without_reading_its_input(dial: Dial) -> None:
    async with serving(1, dial=dial) as (broker, peer), raw_peer(await broker.dial(), 1) as other:
        await fill(peer, 40, 100_000)
        await peer.call(1, CONSUME, methods.Basic.ConsumeOk)
        close = build(methods.Connection.Close, reply_code=200, reply_text="bye", class_id=0, method_id=0)
        await peer.send(0, close)
        await eventually(lambda: broker.connection_count == 1)
        assert broker.unexpected_closes == []
        assert broker.queues["q"].messages == 40
        await other.call(1, QUEUE, methods.Queue.DeclareOk)


# --- slow readers ---------------------------------------------------------------------------------------------------


async def test_client_that_does_not_read_is_sent_no_more_than_a_bounded_amount() -> None:
    async with serving(1) as (broker, peer):
        await fill(peer, 60, 100_000)
        await peer.call(1, CONSUME, methods.Basic.ConsumeOk)
        await anyio.wait_all_tasks_blocked()
        assert 0 < broker.queues["q"].unacked < 30
        for _ in range(60):
            await peer.delivery(1)
        assert broker.queues["q"].messages == 0


async def test_client_that_leaves_its_deliveries_unread_is_still_heard() -> None:
    async with serving(1) as (broker, peer), raw_peer(await broker.dial(), 1) as other:
        await fill(peer, 40, 100_000)
        await peer.call(1, CONSUME, methods.Basic.ConsumeOk)
        await anyio.wait_all_tasks_blocked()
        # The first lot is on its way and stuck; this one fills the buffer behind it.
        await other.publish(1, b"m", routing_key="q")
        await anyio.wait_all_tasks_blocked()
        await peer.send(1, build(methods.Queue.Declare, queue="heard"))
        await eventually(lambda: "heard" in broker.queues)


async def test_client_that_does_not_read_its_answers_is_read_no_more() -> None:
    async with serving(1) as (broker, peer):
        await fill(peer, 60, 100_000)
        get = encode_method(1, build(methods.Basic.Get, queue="q", no_ack=True))
        for _ in range(60):
            await peer.say(get)
            await anyio.wait_all_tasks_blocked()
        assert broker.queues["q"].messages > 20
        for _ in range(60):
            await peer.expect(1, methods.Basic.GetOk)
            await peer.content(1)
        assert broker.queues["q"].messages == 0


# --- stop and start -------------------------------------------------------------------------------------------------


async def test_stopped_broker_does_not_listen_and_comes_back_on_the_same_port() -> None:
    async with serving(dial=over_tcp) as (broker, peer):
        port = broker.port
        broker.stop()
        with pytest.raises(anyio.BrokenResourceError):
            await peer.stream.receive()
        with pytest.raises(OSError, match=r"connect|refused"):
            await anyio.connect_tcp("127.0.0.1", port)
        with pytest.raises(ConnectionRefusedError):
            await broker.dial()
        await broker.start()
        assert broker.port == port
        async with raw_peer(await anyio.connect_tcp("127.0.0.1", port), 1):
            assert broker.channel_count == 1


async def test_broker_that_is_started_at_once_finds_its_port_free() -> None:
    async with Broker() as broker:
        await broker.listen()
        for _ in range(5):
            broker.stop()
            await broker.start()
        async with raw_peer(await anyio.connect_tcp("127.0.0.1", broker.port), 1):
            assert broker.connection_count == 1


async def test_starting_a_broker_that_runs_changes_nothing() -> None:
    async with serving(1, dial=over_tcp) as (broker, peer):
        await broker.start()
        await peer.call(1, QUEUE, methods.Queue.DeclareOk)


# --- bugs of the broker ---------------------------------------------------------------------------------------------


def fail(*_: object, **__: object) -> None:
    raise RuntimeError("planted")


async def test_bug_of_the_broker_ends_one_connection_and_is_raised_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker()
    with pytest.raises(UnexpectedFailure, match="bugs of anyamqp") as caught:
        await until_it_fails(broker, monkeypatch)
    assert caught.value.__cause__ is broker.errors[0]
    assert [str(error) for error in broker.errors] == ["planted"]


async def until_it_fails(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    async with broker, raw_peer(await broker.dial(), 1) as peer, raw_peer(await broker.dial(), 1) as other:
        with monkeypatch.context() as patched:
            patched.setattr(Channel, "receive", fail)
            await peer.send(1, QUEUE)
            close = await peer.closed()
        assert (close.reply_code, close.reply_text) == (541, "INTERNAL_ERROR")
        await other.call(1, QUEUE, methods.Queue.DeclareOk)


async def test_bug_of_the_broker_at_a_later_time_ends_no_connection() -> None:
    async with serving(1) as (broker, peer):
        broker.model.timers.after(0, fail)
        await eventually(lambda: len(broker.errors) == 1)
        await peer.call(1, QUEUE, methods.Queue.DeclareOk)
        broker.errors.clear()


async def raise_in(broker: Broker) -> None:
    async with broker:
        broker.errors.append(RuntimeError("planted"))
        raise LookupError


async def test_bug_of_the_broker_is_a_note_to_the_error_of_a_test() -> None:
    with pytest.raises(LookupError) as caught:
        await raise_in(Broker())
    assert "RuntimeError('planted')" in caught.value.__notes__[0]


# --- the last frames ------------------------------------------------------------------------------------------------


@both_transports
async def test_client_that_sends_on_after_its_close_is_not_reset(dial: Dial) -> None:
    async with serving(1, dial=dial) as (broker, peer):
        close = build(methods.Connection.Close, reply_code=200, reply_text="bye", class_id=0, method_id=0)
        await peer.say(encode_method(0, close), bytes(100_000))
        for _ in range(5):
            await peer.say(bytes(100_000))
        await peer.expect(0, methods.Connection.CloseOk)
        with pytest.raises(anyio.EndOfStream):
            await peer.frame()
        await peer.say(bytes(100_000))
        await peer.stream.aclose()
        await eventually(lambda: broker.connection_count == 0)
        assert broker.unexpected_closes == []


# --- confirms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("style", "sent"),
    [
        ("doubled", [methods.Basic.Ack(3, True)] * 2),
        ("single", [methods.Basic.Ack(1), methods.Basic.Ack(2), methods.Basic.Ack(3)]),
        ("reversed", [methods.Basic.Ack(3), methods.Basic.Ack(2), methods.Basic.Ack(1)]),
        ("multiple", [methods.Basic.Ack(3, True)]),
        ("nacked", [methods.Basic.Nack(3, True, False)]),
    ],
)
async def test_three_publishes_are_confirmed_in_each_style(style: Style, sent: list[Method]) -> None:
    async with serving(1) as (broker, peer):
        await peer.call(1, QUEUE, methods.Queue.DeclareOk)
        await peer.call(1, build(methods.Confirm.Select), methods.Confirm.SelectOk)
        broker.faults.before("basic.ack", by="broker").confirms(style)
        await peer.publish(1, b"1", b"2", b"3", routing_key="q")
        assert [(await peer.frame()).payload for _ in sent] == sent
        await peer.call(1, QUEUE, methods.Queue.DeclareOk)
