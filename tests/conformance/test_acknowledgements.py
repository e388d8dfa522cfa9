"""Acknowledgements: unknown tags, several at once, requeueing, basic.recover."""

from __future__ import annotations

import pytest

from anyamqp.wire import methods
from anyamqp.wire.frames import build
from anyamqp.wire.methods import Method
from support.conformance import Refusal, Target
from support.consuming import bodies, consuming

pytestmark = pytest.mark.anyio

UNKNOWN = [
    methods.Basic.Ack(7),
    methods.Basic.Nack(7),
    methods.Basic.Reject(7),
    methods.Basic.Ack(7, multiple=True),
    methods.Basic.Nack(7, multiple=True),
]


@pytest.mark.parametrize("settlement", UNKNOWN, ids=lambda method: f"{method.name} {getattr(method, 'multiple', '')}")
async def test_an_unknown_tag_closes_the_channel(target: Target, settlement: Method) -> None:
    refusal = await target.refusal(settlement)
    assert refusal == Refusal("channel", 406, "PRECONDITION_FAILED - unknown delivery tag 7")


async def test_tag_0_without_multiple_is_unknown(target: Target) -> None:
    refusal = await target.refusal(methods.Basic.Ack(0))
    assert refusal == Refusal("channel", 406, "PRECONDITION_FAILED - unknown delivery tag 0")


async def test_tag_0_with_multiple_may_find_nothing(target: Target) -> None:
    async with consuming(target) as client:
        queue = await client.declare()
        await client.ack(0, multiple=True)
        await client.nack(0, multiple=True)
        assert await client.get(queue) is None


async def test_a_second_ack_is_unknown(target: Target) -> None:
    async with target.raw(1) as peer:
        declare = build(methods.Queue.Declare, exclusive=True)
        queue = (await peer.call(1, declare, methods.Queue.DeclareOk)).queue
        await peer.publish(1, b"x", routing_key=queue)
        await peer.call(1, build(methods.Basic.Get, queue=queue), methods.Basic.GetOk)
        await peer.content(1)
        await peer.send(1, methods.Basic.Ack(1), methods.Basic.Ack(1))
        close = await peer.expect(1, methods.Channel.Close)
        assert (close.reply_code, close.reply_text) == (406, "PRECONDITION_FAILED - unknown delivery tag 1")
        assert (close.class_id, close.method_id) == (60, 80)


async def test_a_tag_is_known_on_its_own_channel_only(target: Target) -> None:
    async with target.raw(1, 2) as peer:
        declare = build(methods.Queue.Declare, exclusive=True)
        queue = (await peer.call(1, declare, methods.Queue.DeclareOk)).queue
        await peer.publish(1, b"x", routing_key=queue)
        await peer.call(1, build(methods.Basic.Get, queue=queue), methods.Basic.GetOk)
        await peer.content(1)
        await peer.send(2, methods.Basic.Ack(1))
        assert (await peer.expect(2, methods.Channel.Close)).reply_code == 406


async def test_a_delivery_without_acks_has_an_unknown_tag(target: Target) -> None:
    async with target.raw(1) as peer:
        declare = build(methods.Queue.Declare, exclusive=True)
        queue = (await peer.call(1, declare, methods.Queue.DeclareOk)).queue
        await peer.publish(1, b"x", routing_key=queue)
        reply = await peer.call(1, build(methods.Basic.Get, queue=queue, no_ack=True), methods.Basic.GetOk)
        assert reply.delivery_tag == 1
        await peer.content(1)
        await peer.send(1, methods.Basic.Ack(1))
        assert (await peer.expect(1, methods.Channel.Close)).reply_code == 406


async def test_multiple_settles_all_up_to_a_tag(target: Target) -> None:
    async with consuming(target) as client:
        queue = await client.declare()
        await client.publish(queue, b"1", b"2", b"3", b"4")
        await client.consume(queue, prefetch=3)
        assert [one.tag for one in await client.take(3)] == [1, 2, 3]
        await client.ack(2)
        assert (await client.take_one()).tag == 4
        await client.ack(3, multiple=True)
        await client.close(1)
        left = await client.get(queue, channel=9)
        assert left is not None
        assert left.body == b"4"


async def test_multiple_takes_a_tag_that_is_settled_already_for_unknown(target: Target) -> None:
    async with target.raw(1) as peer:
        declare = build(methods.Queue.Declare, exclusive=True)
        queue = (await peer.call(1, declare, methods.Queue.DeclareOk)).queue
        await peer.publish(1, b"1", b"2", b"3", routing_key=queue)
        for _ in range(3):
            await peer.call(1, build(methods.Basic.Get, queue=queue), methods.Basic.GetOk)
            await peer.content(1)
        await peer.send(1, methods.Basic.Ack(2), methods.Basic.Ack(2, multiple=True))
        close = await peer.expect(1, methods.Channel.Close)
        assert close.reply_text == "PRECONDITION_FAILED - unknown delivery tag 2"


async def test_requeued_messages_keep_their_places(target: Target) -> None:
    async with consuming(target) as client:
        queue = await client.declare()
        await client.publish(queue, b"1", b"2", b"3", b"4", b"5")
        for _ in range(3):
            await client.get(queue)
        await client.nack(2)
        await client.reject(1)
        await client.reject(3)
        taken = [await client.get(queue, no_ack=True) for _ in range(5)]
        assert [(one.body, one.redelivered) for one in taken if one is not None] == [
            (b"1", True),
            (b"2", True),
            (b"3", True),
            (b"4", False),
            (b"5", False),
        ]


async def test_nack_of_several_requeues_them_in_order(target: Target) -> None:
    async with consuming(target) as client:
        queue = await client.declare()
        await client.publish(queue, b"1", b"2", b"3")
        for _ in range(3):
            await client.get(queue)
        await client.nack(2, multiple=True)
        taken = [await client.get(queue, no_ack=True) for _ in range(2)]
        assert [one.body for one in taken if one is not None] == [b"1", b"2"]
        assert await client.get(queue) is None


async def test_a_discarded_message_is_gone(target: Target) -> None:
    async with consuming(target) as client:
        queue = await client.declare()
        await client.publish(queue, b"1", b"2", b"3")
        for _ in range(3):
            await client.get(queue)
        await client.reject(1, requeue=False)
        await client.nack(3, multiple=True, requeue=False)
        assert await client.get(queue) is None
        await client.close(1)
        assert await client.depth(queue) == 0


async def test_a_requeued_message_goes_to_the_next_consumer(target: Target) -> None:
    async with consuming(target, 1, 2) as client:
        queue = await client.declare()
        await client.consume(queue, "a", prefetch=1)
        await client.consume(queue, "b", channel=2, prefetch=1)
        await client.publish(queue, b"1")
        first = await client.take_one()
        await client.nack(first.tag, channel=first.channel)
        second = await client.take_one()
        assert [first.consumer, second.consumer] == ["a", "b"]
        assert second.redelivered


async def test_a_closed_channel_gives_its_messages_back(target: Target) -> None:
    async with consuming(target, 1, 2) as client:
        queue = await client.declare()
        await client.publish(queue, b"1", b"2", b"3")
        await client.consume(queue, prefetch=2)
        await client.take(2)
        await client.get(queue, no_ack=True)
        await client.close(1)
        taken = [await client.get(queue, channel=2) for _ in range(2)]
        assert [(one.body, one.redelivered) for one in taken if one is not None] == [(b"1", True), (b"2", True)]


async def test_a_cancelled_consumer_keeps_its_messages(target: Target) -> None:
    async with consuming(target) as client:
        queue = await client.declare()
        await client.publish(queue, b"1", b"2", b"3")
        tag = await client.consume(queue, prefetch=2)
        await client.take(2)
        await client.cancel(tag)
        assert await client.depth(queue) == 1
        await client.ack(1)
        await client.nack(2)
        taken = await client.get(queue)
        assert taken is not None
        assert (taken.body, taken.tag) == (b"2", 3)


async def test_recover_requeues_all(target: Target) -> None:
    async with consuming(target) as client:
        queue = await client.declare()
        await client.publish(queue, b"1", b"2", b"3")
        await client.consume(queue, prefetch=2)
        await client.take(2)
        await client.call(methods.Basic.Recover(requeue=True), methods.Basic.RecoverOk)
        again = await client.take(2)
        assert [(one.body, one.tag, one.redelivered) for one in again] == [(b"1", 3, True), (b"2", 4, True)]


async def test_recover_is_answered_before_the_messages_come_again(target: Target) -> None:
    async with target.raw(1) as peer:
        declare = build(methods.Queue.Declare, exclusive=True)
        queue = (await peer.call(1, declare, methods.Queue.DeclareOk)).queue
        await peer.publish(1, b"x", routing_key=queue)
        await peer.call(1, build(methods.Basic.Consume, queue=queue), methods.Basic.ConsumeOk)
        await peer.delivery(1)
        await peer.call(1, methods.Basic.Recover(requeue=True), methods.Basic.RecoverOk)
        assert (await peer.delivery(1))[0].redelivered


async def test_recover_async_requeues_without_an_answer(target: Target) -> None:
    async with consuming(target) as client:
        queue = await client.declare()
        await client.publish(queue, b"1", b"2")
        await client.consume(queue)
        assert bodies(await client.take(2)) == [b"1", b"2"]
        await client.peer.send(1, methods.Basic.RecoverAsync(requeue=True))
        again = await client.take(2)
        assert [(one.body, one.tag, one.redelivered) for one in again] == [(b"1", 3, True), (b"2", 4, True)]


@pytest.mark.parametrize("method", [methods.Basic.Recover(), methods.Basic.RecoverAsync()], ids=["sync", "async"])
async def test_recover_without_requeue_is_not_implemented(target: Target, method: Method) -> None:
    assert await target.refusal(method) == Refusal("connection", 540, "NOT_IMPLEMENTED - requeue=false")
