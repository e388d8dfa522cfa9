"""The embedded broker frame by frame: what a client may say, what it may not, and what is answered.

Through a raw peer, because a well-behaved client never says most of this.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from anyamqp.testing import Broker
from anyamqp.wire import methods
from anyamqp.wire.frames import build, encode_method
from anyamqp.wire.methods import Method
from support.amqp import METHOD, body, frame, header
from support.rawpeer import CAPABILITIES, RawPeer, raw_peer
from support.waiting import eventually

pytestmark = pytest.mark.anyio

CHANNEL_CLOSE = build(methods.Channel.Close, reply_code=200, reply_text="bye", class_id=0, method_id=0)


@asynccontextmanager
async def peer_of(broker: Broker, *channels: int, **options: Any) -> AsyncGenerator[RawPeer, None]:
    """A peer over memory, past its handshake."""
    async with raw_peer(await broker.dial(), *channels, **options) as peer:
        yield peer


async def declare(
    peer: RawPeer, name: str = "q", channel: int = 1, *, durable: bool = False, exclusive: bool = False
) -> str:
    """Declare a queue; its name."""
    method = build(methods.Queue.Declare, queue=name, durable=durable, exclusive=exclusive)
    reply = await peer.call(channel, method, methods.Queue.DeclareOk)
    return reply.queue or ""


async def consume(peer: RawPeer, queue: str = "q", channel: int = 1, *, tag: str = "", no_ack: bool = False) -> str:
    """Consume; the consumer's tag."""
    method = build(methods.Basic.Consume, queue=queue, consumer_tag=tag, no_ack=no_ack)
    reply = await peer.call(channel, method, methods.Basic.ConsumeOk)
    return reply.consumer_tag or ""


# --- handshake ------------------------------------------------------------------------------------------------------


async def test_start_tells_the_capabilities() -> None:
    async with Broker() as broker, await broker.dial() as stream:
        peer = RawPeer(stream)
        await peer.say(b"AMQP\x00\x00\x09\x01")
        start = await peer.expect(0, methods.Connection.Start)
        assert start.mechanisms == "AMQPLAIN PLAIN"
        capabilities = start.server_properties["capabilities"]
        assert isinstance(capabilities, dict)
        assert CAPABILITIES.items() <= capabilities.items()


@pytest.mark.parametrize("greeting", [b"AMQP\x00\x00\x08\x00", b"AMQP\x03\x01\x00\x00", b"GET / HTTP/1.1\r\n\r\n"])
async def test_another_protocol_is_answered_with_the_one_that_is_spoken(greeting: bytes) -> None:
    async with Broker() as broker, await broker.dial() as stream:
        await stream.send(greeting)
        with anyio.fail_after(5):
            assert await stream.receive() == b"AMQP\x00\x00\x09\x01"
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()


async def test_nobody_opens_a_connection_without_logging_in() -> None:
    async with Broker() as broker, await broker.dial() as stream:
        peer = RawPeer(stream)
        await peer.say(b"AMQP\x00\x00\x09\x01", encode_method(0, build(methods.Connection.Open, virtual_host="/")))
        await peer.expect(0, methods.Connection.Start)
        assert (await peer.closed()).reply_code == 504


async def test_nobody_opens_a_connection_after_a_refused_login() -> None:
    async with Broker() as broker, await broker.dial() as stream:
        peer = RawPeer(stream)
        await peer.log_in(response="\0guest\0wrong")
        assert (await peer.closed()).reply_code == 403
        await peer.send(0, build(methods.Connection.Open, virtual_host="/"))
        await peer.send(1, build(methods.Channel.Open))
        await peer.send(0, build(methods.Connection.CloseOk))
        await peer.ended()


async def test_refused_login_is_silent_for_a_client_that_did_not_ask_to_be_told() -> None:
    async with Broker() as broker, await broker.dial() as stream:
        peer = RawPeer(stream)
        await peer.log_in(response="\0guest\0wrong", capabilities={})
        await peer.ended()


async def test_unknown_mechanism_is_refused() -> None:
    async with Broker() as broker, await broker.dial() as stream:
        peer = RawPeer(stream)
        await peer.log_in(mechanism="EXTERNAL")
        close = await peer.closed()
        assert (close.reply_code, close.reply_text) == (
            503,
            "COMMAND_INVALID - unknown authentication mechanism 'EXTERNAL'",
        )


async def test_new_secrets_are_answered_and_kept() -> None:
    async with Broker() as broker, peer_of(broker) as peer:
        for secret in ("one", "two"):
            await peer.call(0, build(methods.Connection.UpdateSecret, secret, ""), methods.Connection.UpdateSecretOk)
        assert broker.secrets == ["one", "two"]


async def test_new_secret_before_the_login_is_a_channel_error() -> None:
    async with Broker() as broker, await broker.dial() as stream:
        peer = RawPeer(stream)
        await peer.log_in()
        await peer.send(0, build(methods.Connection.UpdateSecret, "new", ""))
        await peer.expect(0, methods.Connection.Tune)
        assert (await peer.closed()).reply_code == 504
        assert broker.secrets == []


@pytest.mark.parametrize(
    "changes", [{"frame_max": 131073}, {"frame_max": 0}, {"frame_max": 4095}, {"channel_max": 2048}, {"channel_max": 0}]
)
async def test_limits_beyond_the_brokers_are_not_allowed(changes: dict[str, int]) -> None:
    async with Broker() as broker, await broker.dial() as stream:
        peer = RawPeer(stream)
        await peer.log_in()
        await peer.tune(**changes)
        assert (await peer.closed()).reply_code == 530


async def test_frame_larger_than_agreed_is_a_frame_error() -> None:
    async with Broker() as broker, peer_of(broker, 1) as peer:
        await peer.say(body(1, bytes(140000)))
        assert (await peer.closed()).reply_code == 501


async def test_more_channels_than_the_limit_are_not_allowed() -> None:
    async with Broker(channel_max=2) as broker, peer_of(broker, 2, 7) as peer:
        await peer.send(1, build(methods.Channel.Open))
        assert (await peer.closed()).reply_code == 530


# --- protocol errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(frame(METHOD, 1, b"\x00\x0a\x00\x0a", end=b"\xcd"), 501, id="end-byte"),
        pytest.param(encode_method(1, build(methods.Channel.Flow, False)), 540, id="flow"),
        pytest.param(encode_method(1, build(methods.Channel.Open)), 504, id="second-open"),
        pytest.param(encode_method(2, build(methods.Basic.Ack)), 504, id="channel-not-open"),
        pytest.param(encode_method(1, build(methods.Channel.CloseOk)), 503, id="channel-close-ok-unasked"),
        pytest.param(encode_method(0, build(methods.Connection.CloseOk)), 504, id="connection-close-ok-unasked"),
        pytest.param(encode_method(0, build(methods.Basic.Ack)), 504, id="method-on-channel-0"),
        pytest.param(encode_method(0, build(methods.Connection.Open, virtual_host="/")), 504, id="second-opening"),
        pytest.param(header(1, 4), 505, id="header-without-publish"),
        pytest.param(body(1, b"abcd"), 505, id="body-without-header"),
        pytest.param(body(0, b"abcd"), 505, id="body-on-channel-0"),
        pytest.param(encode_method(1, build(methods.Basic.Publish)) * 2, 505, id="publish-without-content"),
        pytest.param(
            encode_method(1, build(methods.Basic.Publish, immediate=True)) + header(1, 0), 540, id="immediate"
        ),
    ],
)
async def test_protocol_error_closes_the_connection(data: bytes, code: int) -> None:
    async with Broker() as broker, peer_of(broker, 1) as peer:
        await peer.say(data)
        assert (await peer.closed()).reply_code == code
        await peer.say(encode_method(0, build(methods.Connection.CloseOk)))


async def test_close_names_the_method_that_it_is_for() -> None:
    async with Broker() as broker, peer_of(broker, 1) as peer:
        await peer.send(1, build(methods.Exchange.Declare, exchange="x", exchange_type="odd"))
        close = await peer.closed()
        assert (close.reply_code, close.class_id, close.method_id) == (503, 40, 10)
        assert close.reply_text == "COMMAND_INVALID - unknown exchange type 'odd'"


async def test_what_comes_after_the_brokers_close_is_discarded() -> None:
    async with Broker() as broker, peer_of(broker, 1) as peer:
        await peer.send(1, build(methods.Channel.Open), build(methods.Queue.Declare, queue="late"))
        await peer.closed()
        await peer.send(0, build(methods.Connection.CloseOk))
        await peer.ended()
        assert "late" not in broker.queues
        assert broker.unexpected_closes == []


# --- channels -------------------------------------------------------------------------------------------------------


async def test_closed_channel_discards_until_it_is_agreed_and_can_be_opened_again() -> None:
    async with Broker() as broker, peer_of(broker, 1) as peer:
        await peer.send(1, build(methods.Basic.Ack, delivery_tag=7))
        close = await peer.expect(1, methods.Channel.Close)
        assert (close.reply_code, close.class_id, close.method_id) == (406, 60, 80)
        await peer.send(1, build(methods.Queue.Declare, queue="late"), build(methods.Channel.CloseOk))
        await peer.call(1, build(methods.Channel.Open), methods.Channel.OpenOk)
        assert "late" not in broker.queues


async def test_closes_of_a_channel_that_cross_are_agreed_on() -> None:
    async with Broker() as broker, peer_of(broker, 1) as peer:
        broker.close_channels(406, "PRECONDITION_FAILED - simulated")
        await peer.send(1, CHANNEL_CLOSE)
        await peer.expect(1, methods.Channel.Close)
        await peer.expect(1, methods.Channel.CloseOk)
        await peer.send(1, build(methods.Channel.CloseOk))
        await peer.call(1, build(methods.Channel.Open), methods.Channel.OpenOk)


async def test_one_channel_can_be_closed_by_its_number() -> None:
    async with Broker() as broker, peer_of(broker, 1, 2) as peer:
        broker.close_channels(406, "PRECONDITION_FAILED - simulated", number=2)
        await peer.expect(2, methods.Channel.Close)
        assert await declare(peer) == "q"


async def test_channels_are_seen_by_connection() -> None:
    async with Broker() as broker, peer_of(broker, 1, 7, name="one"), peer_of(broker, 3, name="other"):
        assert broker.channels == [("one", (1, 7)), ("other", (3,))]
        assert broker.channel_count == 3


async def test_error_text_is_cut_to_what_a_frame_carries() -> None:
    async with Broker() as broker, peer_of(broker, 1) as peer:
        await peer.send(1, build(methods.Queue.Declare, queue="ä" * 120, passive=True))
        assert (await peer.expect(1, methods.Channel.Close)).reply_text.startswith("NOT_FOUND - no queue 'ää")


# --- exchanges and queues -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        build(methods.Exchange.Declare, exchange="", exchange_type="direct"),
        build(methods.Exchange.Delete, exchange=""),
        build(methods.Queue.Bind, queue="q", exchange="", routing_key="k"),
        build(methods.Queue.Unbind, queue="q", exchange="", routing_key="k"),
        build(methods.Exchange.Bind, source="", destination="amq.fanout"),
    ],
    ids=lambda method: method.name,
)
async def test_default_exchange_is_not_to_be_touched(method: Method) -> None:
    async with Broker() as broker, peer_of(broker, 1) as peer:
        await declare(peer)
        await peer.send(1, method)
        close = await peer.expect(1, methods.Channel.Close)
        assert close.reply_code == 403
        assert close.reply_text == "ACCESS_REFUSED - operation not permitted on the default exchange"


async def test_internal_exchange_takes_no_messages_of_clients() -> None:
    async with Broker() as broker, peer_of(broker, 1) as peer:
        declared = build(methods.Exchange.Declare, exchange="x", exchange_type="fanout", internal=True)
        await peer.call(1, declared, methods.Exchange.DeclareOk)
        await peer.publish(1, b"m", exchange="x", routing_key="")
        close = await peer.expect(1, methods.Channel.Close)
        assert close.reply_text == "ACCESS_REFUSED - cannot publish to internal exchange 'x' in vhost '/'"


async def test_inequivalent_argument_is_told_as_rabbitmq_tells_it() -> None:
    async with Broker() as broker, peer_of(broker, 1) as peer:
        await declare(peer, durable=True)
        await peer.send(1, build(methods.Queue.Declare, queue="q"))
        assert (await peer.expect(1, methods.Channel.Close)).reply_text == (
            "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': "
            "received 'false' but current is 'true'"
        )


@pytest.mark.parametrize("was_exclusive", [True, False])
async def test_queue_is_declared_again_as_exclusive_as_it_was(was_exclusive: bool) -> None:
    async with Broker() as broker, peer_of(broker, 1) as peer:
        await declare(peer, exclusive=was_exclusive)
        await peer.send(1, build(methods.Queue.Declare, queue="q", exclusive=not was_exclusive))
        assert (await peer.expect(1, methods.Channel.Close)).reply_code == 405


async def test_queue_without_a_name_is_the_one_declared_last() -> None:
    async with Broker() as broker, peer_of(broker, 1) as peer:
        name = await declare(peer, "")
        bind = build(methods.Queue.Bind, queue="", exchange="amq.direct", routing_key="")
        await peer.call(1, bind, methods.Queue.BindOk)
        await peer.publish(1, b"m", exchange="amq.direct", routing_key=name)
        got = await peer.call(1, build(methods.Basic.Get, queue="", no_ack=True), methods.Basic.GetOk)
        assert got.routing_key == name


async def test_queue_without_a_name_is_not_found_where_none_was_declared() -> None:
    async with Broker() as broker, peer_of(broker, 1) as peer:
        await peer.send(1, build(methods.Queue.Purge, queue=""))
        close = await peer.expect(1, methods.Channel.Close)
        assert (close.reply_code, close.reply_text) == (404, "NOT_FOUND - no previously declared queue")


async def test_exclusive_queue_of_another_cannot_be_deleted() -> None:
    async with Broker() as broker, peer_of(broker, 1) as owner, peer_of(broker, 1) as other:
        await declare(owner, exclusive=True)
        await other.send(1, build(methods.Queue.Delete, queue="q"))
        assert (await other.expect(1, methods.Channel.Close)).reply_code == 405


# --- publish and confirm --------------------------------------------------------------------------------------------


async def test_publish_to_no_exchange_closes_the_channel_and_its_content_is_discarded() -> None:
    async with Broker() as broker, peer_of(broker, 1) as peer:
        await peer.publish(1, b"lost", exchange="gone", routing_key="q")
        close = await peer.expect(1, methods.Channel.Close)
        assert (close.reply_code, close.reply_text) == (404, "NOT_FOUND - no exchange 'gone' in vhost '/'")
        await peer.send(1, build(methods.Channel.CloseOk))
        await peer.call(1, build(methods.Channel.Open), methods.Channel.OpenOk)


async def test_what_came_together_is_confirmed_together() -> None:
    async with Broker() as broker, peer_of(broker, 1) as peer:
        await declare(peer)
        await peer.call(1, build(methods.Confirm.Select), methods.Confirm.SelectOk)
        await peer.publish(1, b"1", b"2", b"3", routing_key="q")
        ack = await peer.expect(1, methods.Basic.Ack)
        assert (ack.delivery_tag, ack.multiple) == (3, True)
        await peer.publish(1, b"4", routing_key="q")
        ack = await peer.expect(1, methods.Basic.Ack)
        assert (ack.delivery_tag, ack.multiple) == (4, False)


async def test_returned_message_comes_before_its_confirm() -> None:
    async with Broker() as broker, peer_of(broker, 1) as peer:
        await peer.call(1, build(methods.Confirm.Select), methods.Confirm.SelectOk)
        await peer.publish(1, b"back", routing_key="nowhere", mandatory=True)
        returned = await peer.expect(1, methods.Basic.Return)
        assert (returned.reply_code, returned.reply_text, returned.routing_key) == (312, "NO_ROUTE", "nowhere")
        assert (await peer.content(1)).body == b"back"
        assert (await peer.expect(1, methods.Basic.Ack)).delivery_tag == 1


async def test_empty_body_is_a_message() -> None:
    async with Broker() as broker, peer_of(broker, 1) as peer:
        await declare(peer)
        await peer.publish(1, b"", routing_key="q")
        await eventually(lambda: broker.queues["q"].bodies() == [b""])


# --- consume and settle ---------------------------------------------------------------------------------------------


async def test_deliveries_without_acks_leave_nothing_to_settle() -> None:
    async with Broker() as broker, peer_of(broker, 1) as peer:
        await declare(peer)
        await consume(peer, no_ack=True)
        await peer.publish(1, b"m", routing_key="q")
        await peer.delivery(1)
        assert broker.queues["q"].unacked == 0
        await peer.call(1, CHANNEL_CLOSE, methods.Channel.CloseOk)
        assert broker.queues["q"].messages == 0


async def test_tags_that_the_broker_chooses_are_new_each_time() -> None:
    async with Broker() as broker, peer_of(broker, 1) as peer:
        await declare(peer)
        first = await consume(peer)
        second = await consume(peer)
        await peer.call(1, build(methods.Basic.Cancel, consumer_tag=first), methods.Basic.CancelOk)
        assert await consume(peer) not in {first, second}


async def test_consumer_tag_cannot_be_used_twice() -> None:
    async with Broker() as broker, peer_of(broker, 1) as peer:
        await declare(peer)
        await consume(peer, tag="mine")
        await peer.send(1, build(methods.Basic.Consume, queue="q", consumer_tag="mine"))
        close = await peer.closed()
        assert (close.reply_code, close.reply_text) == (530, "NOT_ALLOWED - attempt to reuse consumer tag 'mine'")


@pytest.mark.parametrize("is_told", [True, False])
async def test_consumer_of_a_deleted_queue_is_told_if_its_client_asked_for_it(is_told: bool) -> None:
    async with Broker() as broker, peer_of(broker, 1, capabilities={"consumer_cancel_notify": is_told}) as peer:
        await declare(peer)
        await consume(peer, tag="mine")
        await peer.call(1, build(methods.Queue.Delete, queue="q"), methods.Queue.DeleteOk)
        if is_told:
            assert (await peer.expect(1, methods.Basic.Cancel)).consumer_tag == "mine"
        assert await declare(peer) == "q"


@pytest.mark.parametrize(("is_global", "expected"), [(False, 4), (True, 2)])
async def test_prefetch_is_the_consumers_or_if_global_the_channels(is_global: bool, expected: int) -> None:
    async with Broker() as broker, peer_of(broker, 1) as peer:
        await declare(peer)
        qos = build(methods.Basic.Qos, prefetch_count=2, global_=is_global)
        await peer.call(1, qos, methods.Basic.QosOk)
        await consume(peer)
        await consume(peer)
        await peer.publish(1, *[b"m"] * 9, routing_key="q")
        for _ in range(expected):
            await peer.delivery(1)
        assert broker.queues["q"].unacked == expected
        await peer.send(1, build(methods.Basic.Ack, delivery_tag=0, multiple=True))
        for _ in range(expected):
            await peer.delivery(1)
        assert broker.queues["q"].messages == 9 - 2 * expected


async def test_ack_makes_room_for_any_consumer_that_shares_the_prefetch() -> None:
    async with Broker() as broker, peer_of(broker, 1) as peer:
        for name in ("one", "other"):
            await declare(peer, name)
            await peer.publish(1, name.encode(), routing_key=name)
        await peer.call(1, build(methods.Basic.Qos, prefetch_count=1, global_=True), methods.Basic.QosOk)
        await consume(peer, "one")
        assert (await peer.delivery(1))[1] == b"one"
        await consume(peer, "other")
        await peer.send(1, build(methods.Basic.Ack, delivery_tag=1))
        assert (await peer.delivery(1))[1] == b"other"


async def test_nacked_messages_come_again_in_their_order() -> None:
    async with Broker() as broker, peer_of(broker, 1) as peer:
        await declare(peer)
        await peer.publish(1, b"1", b"2", b"3", routing_key="q")
        for _ in range(3):
            await peer.call(1, build(methods.Basic.Get, queue="q"), methods.Basic.GetOk)
            await peer.content(1)
        await peer.send(1, build(methods.Basic.Nack, delivery_tag=2, multiple=True, requeue=True))
        await consume(peer)
        deliveries = [await peer.delivery(1) for _ in range(2)]
        assert [(data, method.redelivered) for method, data in deliveries] == [(b"1", True), (b"2", True)]


async def test_tag_is_settled_once() -> None:
    async with Broker() as broker, peer_of(broker, 1) as peer:
        await declare(peer)
        await peer.publish(1, b"m", routing_key="q")
        await peer.call(1, build(methods.Basic.Get, queue="q"), methods.Basic.GetOk)
        await peer.content(1)
        await peer.send(1, *[build(methods.Basic.Ack, delivery_tag=1)] * 2)
        assert (await peer.expect(1, methods.Channel.Close)).reply_text == (
            "PRECONDITION_FAILED - unknown delivery tag 1"
        )
        assert (broker.queues["q"].messages, broker.queues["q"].unacked) == (0, 0)


async def test_message_whose_headers_do_not_fit_a_consumers_frames_ends_that_consumers_connection_alone() -> None:
    async with Broker() as broker, peer_of(broker, 1) as publisher, await broker.dial() as stream:
        small = RawPeer(stream)
        await small.log_in()
        await small.tune(frame_max=4096)
        await small.open(1)
        await declare(small)
        await consume(small)
        flags = b"\x20\x00" + (5000).to_bytes(4, "big") + b"\x01aS" + (4993).to_bytes(4, "big") + bytes(4993)
        await publisher.say(
            encode_method(1, build(methods.Basic.Publish, routing_key="q")), header(1, 0, properties=flags)
        )
        assert (await small.closed()).reply_code == 541
        assert await declare(publisher, "still-here") == "still-here"
