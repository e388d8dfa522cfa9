"""Queues of limited length: the oldest messages go, or the newest are refused."""

from __future__ import annotations

import pytest

from anyamqp import FieldTable, Message
from anyamqp.wire import methods
from anyamqp.wire.frames import build
from support.conformance import Target
from support.queueing import Desk, a_desk

pytestmark = pytest.mark.anyio


async def test_beyond_max_length_the_oldest_are_dropped(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare({"x-max-length": 2})
        await desk.publish(queue, b"1", b"2", b"3", b"4")
        assert await desk.count(queue) == 2
        assert await desk.bodies(queue) == [b"3", b"4"]


async def test_beyond_max_length_bytes_the_oldest_are_dropped(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare({"x-max-length-bytes": 10})
        await desk.publish(queue, b"1234", b"5678", b"abc", b"d")
        assert await desk.bodies(queue) == [b"5678", b"abc", b"d"]


async def test_only_bodies_count_towards_max_length_bytes(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare({"x-max-length-bytes": 2})
        await desk.publish(queue, *(Message(b"x", headers={"long": "y" * 100}, message_id="z" * 100),) * 2)
        assert await desk.count(queue) == 2


async def test_a_message_that_alone_is_too_large_is_dropped(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare({"x-max-length-bytes": 3})
        await desk.publish(queue, b"ok", b"large")
        assert await desk.count(queue) == 0


async def test_both_limits_count(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare({"x-max-length": 2, "x-max-length-bytes": 3})
        await desk.publish(queue, b"12", b"34")
        assert await desk.bodies(queue) == [b"34"]
        await desk.publish(queue, b"1", b"2", b"3")
        assert await desk.bodies(queue) == [b"2", b"3"]


async def test_unacknowledged_messages_do_not_count(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare({"x-max-length": 1})
        await desk.publish(queue, b"1")
        got = await desk.next(queue, no_ack=False)
        await desk.publish(queue, b"2")
        assert await desk.count(queue) == 1
        await desk.settle(build(methods.Basic.Ack, got.method.delivery_tag))


async def test_a_requeued_message_has_to_fit(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare({"x-max-length": 1})
        await desk.publish(queue, b"old")
        got = await desk.next(queue, no_ack=False)
        await desk.publish(queue, b"new")
        await desk.settle(build(methods.Basic.Reject, got.method.delivery_tag, requeue=True))
        assert await desk.bodies(queue) == [b"new"]


REFUSING: list[FieldTable] = [{"x-overflow": "reject-publish"}, {"x-overflow": "reject-publish-dlx"}]


@pytest.mark.parametrize("arguments", REFUSING, ids=[str(one["x-overflow"]) for one in REFUSING])
async def test_a_full_queue_refuses_publishes(target: Target, arguments: FieldTable) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare({"x-max-length": 2, **arguments})
        await desk.publish(queue, b"1", b"2")
        await desk.publish(queue, b"3", is_confirmed=False)
        assert await desk.bodies(queue) == [b"1", b"2"]
        await desk.publish(queue, b"4")


async def test_a_queue_refuses_publishes_that_exceed_its_bytes(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare({"x-max-length-bytes": 5, "x-overflow": "reject-publish"})
        await desk.publish(queue, b"1234")
        await desk.publish(queue, b"56", is_confirmed=False)
        await desk.publish(queue, b"5")


async def test_a_refused_publish_carries_its_number(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare({"x-max-length": 0, "x-overflow": "reject-publish"})
        method = build(methods.Basic.Publish, routing_key=queue)
        for number in (1, 2):
            await desk.send(method, Message(b"x"))
            nack = await desk.peer.expect(1, methods.Basic.Nack)
            assert (nack.delivery_tag, nack.multiple, nack.requeue) == (number, True, True)


async def test_a_publish_that_one_of_two_queues_refuses_is_refused(target: Target) -> None:
    async with a_desk(target) as desk:
        full = await desk.declare({"x-max-length": 0, "x-overflow": "reject-publish"})
        other = await desk.declare()
        for queue in (full, other):
            bind = build(methods.Queue.Bind, queue=queue, exchange="amq.direct", routing_key=full)
            await desk.peer.call(1, bind, methods.Queue.BindOk)
        await desk.publish(full, b"x", exchange="amq.direct", is_confirmed=False)
        assert await desk.bodies(other) == [b"x"]


async def test_a_refused_mandatory_publish_is_not_returned(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare({"x-max-length": 0, "x-overflow": "reject-publish"})
        await desk.peer.publish(1, b"x", routing_key=queue, mandatory=True)
        await desk.peer.expect(1, methods.Basic.Nack)


async def test_a_channel_without_confirms_hears_nothing_of_a_refusal(target: Target) -> None:
    async with target.raw(1) as peer:
        desk = Desk(peer)
        queue = await desk.declare({"x-max-length": 0, "x-overflow": "reject-publish"})
        await peer.publish(1, b"x", routing_key=queue)
        assert await desk.count(queue) == 0


async def test_a_queue_without_room_still_serves_its_consumers(target: Target) -> None:
    async with target.raw(1) as peer:
        desk = Desk(peer)
        queue = await desk.declare({"x-max-length": 0})
        await desk.consume(queue, no_ack=True)
        await peer.publish(1, b"x", routing_key=queue)
        assert (await desk.delivered()).message.body == b"x"


async def test_a_queue_that_refuses_all_does_not_serve_its_consumers(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare({"x-max-length": 0, "x-overflow": "reject-publish"})
        await desk.consume(queue, no_ack=True)
        await desk.publish(queue, b"x", is_confirmed=False)
