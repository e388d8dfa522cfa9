"""Direct reply-to: requests and replies without a queue, through ``amq.rabbitmq.reply-to``."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest

from anyamqp.message import Message
from anyamqp.wire import methods
from anyamqp.wire.frames import build, encode_content
from support.conformance import Refusal, Target
from support.rawpeer import RawPeer

pytestmark = pytest.mark.anyio

REPLY_TO = "amq.rabbitmq.reply-to"
CONSUME = build(methods.Basic.Consume, queue=REPLY_TO, no_ack=True, consumer_tag="replies")
REQUEST = Message(b"request", reply_to=REPLY_TO, correlation_id="1")


def publish(message: Message, routing_key: str, *, mandatory: bool = False) -> bytes:
    """The frames of a publish to the default exchange on channel 1."""
    method = build(methods.Basic.Publish, routing_key=routing_key, mandatory=mandatory)
    return b"".join(encode_content(1, method, message, 4096))


@asynccontextmanager
async def conversation(target: Target) -> AsyncGenerator[tuple[RawPeer, RawPeer, str], None]:
    """A client that consumes replies, a server, and the address that the client's request has brought to it."""
    async with target.raw(1, 2) as client, target.raw(1, 2) as server:
        queue = (await server.call(1, build(methods.Queue.Declare, exclusive=True), methods.Queue.DeclareOk)).queue
        await server.call(1, build(methods.Basic.Consume, queue=queue, no_ack=True), methods.Basic.ConsumeOk)
        await client.call(1, CONSUME, methods.Basic.ConsumeOk)
        await client.say(publish(REQUEST, queue))
        await server.expect(1, methods.Basic.Deliver)
        request = await server.content(1)
        assert (request.body, request.correlation_id) == (b"request", "1")
        assert request.reply_to is not None
        yield client, server, request.reply_to


async def exists(peer: RawPeer, queue: str) -> bool:
    """Whether a queue can be declared passively, on channel 2. Without messages and with one consumer, if it can."""
    await peer.send(2, build(methods.Queue.Declare, queue=queue, passive=True))
    answer = (await peer.frame()).payload
    if isinstance(answer, methods.Queue.DeclareOk):
        assert answer == build(methods.Queue.DeclareOk, queue, 0, 1)
        return True
    text = f"NOT_FOUND - no queue '{queue}' in vhost '/'"
    assert answer == build(methods.Channel.Close, 404, text, 50, 10)
    await peer.send(2, methods.Channel.CloseOk())
    await peer.call(2, build(methods.Channel.Open), methods.Channel.OpenOk)
    return False


async def test_a_request_carries_an_address_of_its_channel(target: Target) -> None:
    async with conversation(target) as (_, _, address):
        prefix, _, key = address.removeprefix(f"{REPLY_TO}.").partition(".")
        assert address.startswith(f"{REPLY_TO}.")
        assert prefix
        assert key


async def test_a_reply_is_delivered_to_the_channel(target: Target) -> None:
    async with conversation(target) as (client, server, address):
        await server.say(publish(Message(b"one"), address), publish(Message(b"two"), address))
        second = 2 if target.rules.version == "4.3" else 1
        for tag, body in ((1, b"one"), (second, b"two")):
            deliver, delivered = await client.delivery(1)
            assert (deliver, delivered) == (build(methods.Basic.Deliver, "replies", tag, False, "", address), body)


async def test_a_mandatory_reply_is_returned_before_4_3(target: Target) -> None:
    async with conversation(target) as (client, server, address):
        await server.call(1, build(methods.Confirm.Select), methods.Confirm.SelectOk)
        await server.say(publish(Message(b"reply"), address, mandatory=True))
        if target.rules.version != "4.3":
            await server.expect(1, methods.Basic.Return)
            await server.content(1)
        await server.expect(1, methods.Basic.Ack)
        assert (await client.delivery(1))[1] == b"reply"


async def test_an_address_exists_while_its_channel_consumes(target: Target) -> None:
    async with conversation(target) as (client, server, address):
        assert await exists(server, address)
        await client.call(1, build(methods.Basic.Cancel, "replies"), methods.Basic.CancelOk)
        assert not await exists(server, address)
        assert await exists(server, REPLY_TO)


async def test_an_address_ends_with_its_channel(target: Target) -> None:
    async with conversation(target) as (client, server, address):
        await client.call(1, build(methods.Channel.Close, 200, "", 0, 0), methods.Channel.CloseOk)
        with anyio.fail_after(5):
            while await exists(server, address):
                await anyio.lowlevel.checkpoint()


async def test_a_late_reply_is_dropped(target: Target) -> None:
    async with conversation(target) as (client, server, address):
        await server.call(1, build(methods.Confirm.Select), methods.Confirm.SelectOk)
        await client.call(1, build(methods.Basic.Cancel, "replies"), methods.Basic.CancelOk)
        await server.say(publish(Message(b"late"), address))
        await server.expect(1, methods.Basic.Ack)
        await client.call(1, CONSUME, methods.Basic.ConsumeOk)


async def test_an_active_declaration_answers_like_a_passive_one(target: Target) -> None:
    async with conversation(target) as (_, server, address):
        for name in (address, REPLY_TO):
            declared = await server.call(2, build(methods.Queue.Declare, queue=name), methods.Queue.DeclareOk)
            assert declared == build(methods.Queue.DeclareOk, name, 0, 1)


async def test_only_requests_for_direct_replies_get_an_address(target: Target) -> None:
    async with conversation(target) as (client, server, address):
        await client.say(publish(Message(b"x", reply_to=address), address), publish(Message(b"y"), address))
        await client.expect(1, methods.Basic.Deliver)
        assert (await client.content(1)).reply_to == address
        await client.expect(1, methods.Basic.Deliver)
        assert (await client.content(1)).reply_to is None
        assert await exists(server, address)


@pytest.mark.parametrize(
    ("requests", "refusal"),
    [
        (
            [build(methods.Basic.Consume, queue=REPLY_TO)],
            Refusal("channel", 406, "PRECONDITION_FAILED - reply consumer cannot acknowledge"),
        ),
        (
            [CONSUME, build(methods.Basic.Consume, queue=REPLY_TO, no_ack=True)],
            Refusal("channel", 406, "PRECONDITION_FAILED - reply consumer already set"),
        ),
        (
            [
                build(methods.Queue.Declare, exclusive=True),
                build(methods.Basic.Consume, no_ack=True, consumer_tag="replies"),
                CONSUME,
            ],
            Refusal("connection", 530, "NOT_ALLOWED - attempt to reuse consumer tag 'replies'"),
        ),
        (
            [CONSUME, build(methods.Basic.Get, queue=REPLY_TO, no_ack=True)],
            Refusal("channel", 404, f"NOT_FOUND - no queue '{REPLY_TO}' in vhost '/'"),
        ),
        (
            [build(methods.Queue.Purge, queue=REPLY_TO)],
            Refusal("channel", 404, f"NOT_FOUND - no queue '{REPLY_TO}' in vhost '/'"),
        ),
    ],
)
async def test_the_queue_of_replies_is_not_like_others(
    target: Target, requests: list[methods.Method], refusal: Refusal
) -> None:
    assert await target.refusal(*requests) == refusal


@pytest.mark.parametrize("has_cancelled", [False, True])
async def test_a_request_needs_a_consumer_of_replies(target: Target, has_cancelled: bool) -> None:
    async with target.raw(1) as peer:
        if has_cancelled:
            await peer.call(1, CONSUME, methods.Basic.ConsumeOk)
            await peer.call(1, build(methods.Basic.Cancel, "replies"), methods.Basic.CancelOk)
        await peer.say(publish(REQUEST, "nowhere"))
        close = await peer.expect(1, methods.Channel.Close)
        text = "PRECONDITION_FAILED - fast reply consumer does not exist"
        assert close == build(methods.Channel.Close, 406, text, 60, 40)


async def test_a_mandatory_message_to_no_address_is_returned(target: Target) -> None:
    async with target.raw(1) as peer:
        await peer.say(publish(Message(b"x"), REPLY_TO, mandatory=True))
        returned = await peer.expect(1, methods.Basic.Return)
        assert (returned.reply_code, returned.routing_key) == (312, REPLY_TO)
