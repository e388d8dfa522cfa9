"""Messages that expire, and queues that expire."""

from __future__ import annotations

import anyio
import pytest

from anyamqp import Message
from anyamqp.wire import methods
from anyamqp.wire.basic import Received
from anyamqp.wire.fields import shortstr
from anyamqp.wire.frames import build
from support.conformance import Refusal, Target
from support.queueing import PATIENCE, Desk, a_desk
from support.queues import unique

pytestmark = pytest.mark.anyio

ATTEMPTS = 5
"""How often a test looks for the moment between two events, which a busy machine may miss."""

SOON = 0.05
"""Seconds that a test can wait."""


async def until_empty(desk: Desk, queue: str) -> None:
    with anyio.fail_after(PATIENCE):
        while await desk.count(queue):  # noqa: ASYNC110 - the broker announces nothing
            await anyio.sleep(0.01)


# --- messages -------------------------------------------------------------------------------------------------------


async def test_a_message_expires_after_the_time_of_its_queue(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare({"x-message-ttl": 50})
        await desk.publish(queue, b"x", b"y")
        await until_empty(desk, queue)


async def test_a_message_expires_after_its_own_time(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare()
        await desk.publish(queue, Message(b"x", expiration=SOON))
        await until_empty(desk, queue)


@pytest.mark.parametrize(("of_queue", "of_message"), [(60_000, SOON), (50, 60)])
async def test_the_shorter_of_both_times_counts(target: Target, of_queue: int, of_message: float) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare({"x-message-ttl": of_queue})
        await desk.publish(queue, Message(b"x", expiration=of_message))
        await until_empty(desk, queue)


async def test_a_message_behind_the_head_expires_only_when_it_is_the_head(target: Target) -> None:
    async with a_desk(target) as desk:
        queue, witness = await desk.declare(), await desk.declare()
        await desk.publish(queue, b"head", Message(b"behind", expiration=0.001))
        await desk.publish(witness, Message(b"x", expiration=SOON))
        await until_empty(desk, witness)
        assert await desk.count(queue) == 2
        assert await desk.bodies(queue) == [b"head"]


@pytest.mark.parametrize("expiration", [None, 0.0])
async def test_a_time_of_zero_drops_a_message_that_no_consumer_takes(target: Target, expiration: float | None) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare({} if expiration is not None else {"x-message-ttl": 0})
        await desk.publish(queue, Message(b"x", expiration=expiration))
        assert await desk.get(queue) is None


@pytest.mark.parametrize("expiration", [None, 0.0])
async def test_a_time_of_zero_lets_a_ready_consumer_take_the_message(target: Target, expiration: float | None) -> None:
    async with target.raw(1) as peer:
        desk = Desk(peer)
        queue = await desk.declare({} if expiration is not None else {"x-message-ttl": 0})
        await desk.consume(queue)
        method = build(methods.Basic.Publish, routing_key=queue)
        await desk.send(method, Message(b"x", expiration=expiration))
        got = await desk.delivered()
        assert got.message.body == b"x"
        assert got.message.expiration == expiration


async def test_a_requeued_message_that_has_expired_is_gone(target: Target) -> None:
    async with a_desk(target) as desk:
        queue, witness = await desk.declare({"x-message-ttl": 300}), await desk.declare({"x-message-ttl": 310})
        await desk.publish(queue, b"x")
        await desk.publish(witness, b"x")
        got = await desk.next(queue, no_ack=False)
        await until_empty(desk, witness)
        await desk.settle(build(methods.Basic.Reject, got.method.delivery_tag, requeue=True))
        assert await desk.get(queue) is None


async def test_an_unacknowledged_message_does_not_expire(target: Target) -> None:
    async with a_desk(target) as desk:
        queue, witness = await desk.declare({"x-message-ttl": 1}), await desk.declare({"x-message-ttl": 50})
        await desk.consume(queue)
        method = build(methods.Basic.Publish, routing_key=queue)
        await desk.send(method, Message(b"x"))
        frames = [await desk.peer.frame() for _ in range(4)]  # the delivery and the confirm, in any order
        (delivery,) = [one.payload for one in frames if isinstance(one.payload, methods.Basic.Deliver)]
        await desk.publish(witness, b"x")
        await until_empty(desk, witness)
        await desk.settle(build(methods.Basic.Ack, delivery.delivery_tag))


FAULTS = [
    ("abc", "no_integer"),
    ("", "no_integer"),
    (" 5", "no_integer"),
    ("1.5", '{leftover_string,".5"}'),
    ("5s", '{leftover_string,"s"}'),
    ("-1", "{value_negative,-1}"),
    ("315360000001", "{value_too_large,315360000001}"),
]


@pytest.mark.parametrize(("expiration", "fault"), FAULTS, ids=[repr(text) for text, _ in FAULTS])
async def test_a_time_that_is_none_is_refused(target: Target, expiration: str, fault: str) -> None:
    async with target.raw(1) as peer:
        message = Received(b"x", b"\x01\x00" + shortstr("expiration", expiration))
        method = build(methods.Basic.Publish, routing_key=unique("nowhere"))
        desk = Desk(peer)
        await desk.send(method, message)
        close = await peer.expect(1, methods.Channel.Close)
        assert Refusal("channel", close.reply_code, close.reply_text) == Refusal(
            "channel", 406, f"PRECONDITION_FAILED - invalid expiration '{expiration}': {fault}"
        )


@pytest.mark.parametrize("expiration", ["+60000", "007000", "315360000000"])
async def test_a_time_that_erlang_reads_is_accepted(target: Target, expiration: str) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare()
        await desk.publish(queue, Received(b"x", b"\x01\x00" + shortstr("expiration", expiration)))
        assert await desk.count(queue) == 1


# --- queues ---------------------------------------------------------------------------------------------------------


async def test_an_unused_queue_expires_with_its_messages(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare({"x-expires": 100})
        await desk.publish(queue, b"x")
        await desk.until_gone(queue)


async def test_a_queue_with_a_consumer_does_not_expire_until_the_consumer_is_gone(target: Target) -> None:
    async with a_desk(target) as desk:
        queue, witness = await desk.declare({"x-expires": 300}), await desk.declare({"x-expires": 350})
        tag = await desk.consume(queue)
        await desk.until_gone(witness)
        assert await desk.count(queue) == 0
        await desk.peer.call(1, build(methods.Basic.Cancel, tag), methods.Basic.CancelOk)
        await desk.until_gone(queue)


@pytest.mark.parametrize("use", ["get", "declare", "declare passively"])
async def test_a_use_puts_the_end_of_a_queue_off(target: Target, use: str) -> None:
    async with a_desk(target) as desk:
        arguments = {"x-expires": 500}
        for _ in range(ATTEMPTS):
            unused, used = await desk.declare(arguments), await desk.declare(arguments)
            await desk.until_gone(await desk.declare({"x-expires": 100}))
            if use == "get":
                await desk.get(used)
            elif use == "declare":
                await desk.declare(arguments, name=used)
            else:
                await desk.count(used)
            await desk.until_gone(unused)
            if await desk.is_there(used):
                return
        pytest.fail("both queues expired at once")


async def test_a_publish_does_not_put_the_end_of_a_queue_off(target: Target) -> None:
    async with a_desk(target) as desk:
        queue, step = await desk.declare({"x-expires": 100}), await desk.declare({"x-expires": 50})
        await desk.until_gone(step)
        await desk.publish(queue, b"x")
        limit = await desk.declare({"x-expires": 1000})
        await desk.until_gone(queue)
        assert await desk.is_there(limit)
