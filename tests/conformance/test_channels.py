"""Channels: their opening, their number, and methods that cannot come on them."""

from __future__ import annotations

import pytest

from anyamqp.message import Message
from anyamqp.wire import methods
from anyamqp.wire.frames import build, encode_content
from anyamqp.wire.methods import Method
from support.conformance import Refusal, Target
from support.rawpeer import RawPeer

pytestmark = pytest.mark.anyio

OPEN = build(methods.Channel.Open)
CLOSE = build(methods.Channel.Close, 200, "", 0, 0)
UNIMPLEMENTED = "COMMAND_INVALID - unimplemented method"


async def test_a_channel_is_opened_once(target: Target) -> None:
    text = "CHANNEL_ERROR - second 'channel.open' seen"
    assert await target.refusal(OPEN) == Refusal("connection", 504, text)


@pytest.mark.parametrize(
    ("method", "class_and_method"),
    [
        (build(methods.Queue.Declare, queue="q"), (50, 10)),
        (build(methods.Basic.Ack, 1), (60, 80)),
        (CLOSE, (20, 40)),
        (methods.Channel.CloseOk(), (20, 41)),
    ],
)
async def test_a_channel_is_opened_first(target: Target, method: Method, class_and_method: tuple[int, int]) -> None:
    async with target.raw() as peer:
        await peer.send(1, method)
        text = "CHANNEL_ERROR - expected 'channel.open'"
        assert await peer.closed() == build(methods.Connection.Close, 504, text, *class_and_method)


async def test_a_publish_needs_an_open_channel(target: Target) -> None:
    async with target.raw() as peer:
        method = build(methods.Basic.Publish, routing_key="q")
        await peer.say(*encode_content(1, method, Message(b"x"), 4096))
        text = "CHANNEL_ERROR - expected 'channel.open'"
        assert await peer.closed() == build(methods.Connection.Close, 504, text, 60, 40)


async def test_channels_have_any_number(target: Target) -> None:
    async with target.raw(2048, 65535) as peer:
        await peer.call(65535, CLOSE, methods.Channel.CloseOk)


async def test_the_limit_is_for_the_count_of_channels(target: Target) -> None:
    async with await target.dial(None) as stream:
        peer = RawPeer(stream)
        await peer.log_in()
        await peer.tune(channel_max=2)
        await peer.open(7, 9)
        await peer.send(1, OPEN)
        text = "NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2)"
        assert await peer.closed() == build(methods.Connection.Close, 530, text, 0, 0)


async def test_a_closed_channel_makes_room(target: Target) -> None:
    async with await target.dial(None) as stream:
        peer = RawPeer(stream)
        await peer.log_in()
        await peer.tune(channel_max=1)
        await peer.open(1)
        await peer.call(1, CLOSE, methods.Channel.CloseOk)
        await peer.call(1, OPEN, methods.Channel.OpenOk)


@pytest.mark.parametrize(
    "method",
    [
        methods.Channel.OpenOk(),
        methods.Channel.CloseOk(),
        build(methods.Channel.FlowOk, active=True),
        build(methods.Queue.DeclareOk, "q", 0, 0),
        build(methods.Basic.GetEmpty),
        methods.Confirm.SelectOk(),
        methods.Tx.SelectOk(),
        build(methods.Connection.Close, 200, "", 0, 0),
    ],
    ids=lambda method: method.name,
)
async def test_a_method_of_the_broker_is_unimplemented(target: Target, method: Method) -> None:
    async with target.raw(1) as peer:
        await peer.send(1, method)
        numbers = method.index >> 16, method.index & 0xFFFF
        assert await peer.closed() == build(methods.Connection.Close, 503, UNIMPLEMENTED, *numbers)


async def test_a_method_of_a_channel_cannot_come_on_channel_0(target: Target) -> None:
    async with target.raw() as peer:
        await peer.send(0, build(methods.Queue.Declare, queue="q"))
        text = "CHANNEL_ERROR - unexpected method in connection state running"
        assert await peer.closed() == build(methods.Connection.Close, 504, text, 50, 10)


async def test_flow_can_be_asked_for_but_not_stopped(target: Target) -> None:
    async with target.raw(1) as peer:
        flow = await peer.call(1, build(methods.Channel.Flow, active=True), methods.Channel.FlowOk)
        assert flow.active
    refusal = await target.refusal(build(methods.Channel.Flow, active=False))
    assert refusal == Refusal("connection", 540, "NOT_IMPLEMENTED - active=false")


async def test_confirms_are_selected_any_number_of_times(target: Target) -> None:
    async with target.raw(1) as peer:
        for _ in range(2):
            await peer.call(1, build(methods.Confirm.Select), methods.Confirm.SelectOk)


async def test_an_immediate_message_is_not_implemented(target: Target) -> None:
    async with target.raw(1) as peer:
        method = build(methods.Basic.Publish, exchange="nowhere", immediate=True)
        await peer.say(*encode_content(1, method, Message(b"x"), 4096))
        text = "NOT_IMPLEMENTED - immediate=true"
        assert await peer.closed() == build(methods.Connection.Close, 540, text, 60, 40)


async def test_get_needs_a_queue(target: Target) -> None:
    refusal = await target.refusal(build(methods.Basic.Get, queue="nowhere"))
    assert refusal == Refusal("channel", 404, "NOT_FOUND - no queue 'nowhere' in vhost '/'")
