"""Priority queues: the highest first."""

from __future__ import annotations

import anyio
import pytest

from anyamqp import Message
from anyamqp.wire import methods
from anyamqp.wire.frames import build
from support.conformance import Target
from support.queueing import PATIENCE, Desk, a_desk

pytestmark = pytest.mark.anyio


def messages(*priorities: int | None) -> list[Message]:
    """A message for each priority, whose body is its number and its priority."""
    return [Message(f"{at}:{priority}".encode(), priority=priority) for at, priority in enumerate(priorities)]


async def test_the_highest_priority_comes_first_and_equals_in_their_order(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare({"x-max-priority": 5})
        await desk.publish(queue, *messages(0, 3, 5, 3, 1, 0))
        assert await desk.bodies(queue) == [b"2:5", b"1:3", b"3:3", b"4:1", b"0:0", b"5:0"]


async def test_a_priority_above_the_highest_is_the_highest(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare({"x-max-priority": 5})
        await desk.publish(queue, *messages(5, 200, 5))
        got = [await desk.next(queue) for _ in range(3)]
        assert [one.message.body for one in got] == [b"0:5", b"1:200", b"2:5"]
        assert [one.message.priority for one in got] == [5, 200, 5]


async def test_no_priority_is_the_lowest(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare({"x-max-priority": 5})
        await desk.publish(queue, *messages(None, 0, 1, None))
        assert await desk.bodies(queue) == [b"2:1", b"0:None", b"1:0", b"3:None"]


async def test_without_levels_priorities_do_not_count(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare()
        await desk.publish(queue, *messages(0, 5, 1))
        assert await desk.bodies(queue) == [b"0:0", b"1:5", b"2:1"]


async def test_a_highest_priority_of_zero_makes_one_level_or_two(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare({"x-max-priority": 0})
        await desk.publish(queue, *messages(0, 5, 1))
        levels = {0: [b"0:0", b"1:5", b"2:1"], 1: [b"1:5", b"2:1", b"0:0"]}
        assert await desk.bodies(queue) == levels[target.rules.least_max_priority]


async def test_a_requeued_message_takes_its_place_among_its_priority(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare({"x-max-priority": 5})
        await desk.publish(queue, *messages(1, 1, 2))
        taken = [await desk.next(queue, no_ack=False) for _ in range(3)]
        for got in taken:
            await desk.settle(build(methods.Basic.Nack, got.method.delivery_tag, requeue=True))
        assert await desk.bodies(queue) == [b"2:2", b"0:1", b"1:1"]


async def test_a_consumer_gets_the_highest_first(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare({"x-max-priority": 5})
        await desk.publish(queue, *messages(0, 5, 1))
        await desk.consume(queue, no_ack=True)
        assert [(await desk.delivered()).message.body for _ in range(3)] == [b"1:5", b"2:1", b"0:0"]


async def test_a_full_consumer_waits_for_the_highest(target: Target) -> None:
    async with target.raw(1) as peer:
        desk = Desk(peer)
        queue = await desk.declare({"x-max-priority": 5})
        await peer.call(1, build(methods.Basic.Qos, prefetch_count=1), methods.Basic.QosOk)
        await desk.consume(queue)
        method = build(methods.Basic.Publish, routing_key=queue)
        for message in messages(0, 1, 5):
            await desk.send(method, message)
        first = await desk.delivered()
        with anyio.fail_after(PATIENCE):
            while await desk.count(queue) != 2:  # noqa: ASYNC110 - a publish without a confirm is not queued at once
                await anyio.sleep(0.01)
        await peer.send(1, build(methods.Basic.Ack, first.method.delivery_tag))
        assert [first.message.body, (await desk.delivered()).message.body] == [b"0:0", b"2:5"]


async def test_beyond_the_length_the_head_is_dropped_whatever_its_priority(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare({"x-max-priority": 5, "x-max-length": 2})
        await desk.publish(queue, *messages(5, 0, 1))
        assert await desk.bodies(queue) == [b"2:1", b"1:0"]


async def test_a_low_priority_behind_a_high_one_does_not_expire(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare({"x-max-priority": 5})
        await desk.publish(queue, Message(b"high", priority=5))
        await desk.publish(queue, Message(b"low", priority=0, expiration=0.0))
        assert await desk.count(queue) == 2
        assert await desk.bodies(queue) == [b"high"]


async def test_the_counts_are_of_all_levels(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare({"x-max-priority": 5})
        await desk.publish(queue, *messages(0, 5, 1))
        got = await desk.next(queue)
        assert got.method.message_count == 2
        assert await desk.purge(queue) == 2
