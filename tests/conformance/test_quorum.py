"""Quorum queues: their properties, the order of returned messages, delivery limits, priorities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pytest

from anyamqp.message import FieldValue
from anyamqp.wire import methods
from anyamqp.wire.frames import build
from support.conformance import Refusal, Target
from support.consuming import Consuming, Taken, bodies, consume, consuming, summary
from support.queues import unique

pytestmark = pytest.mark.anyio

QUORUM: Final[Mapping[str, FieldValue]] = {"x-queue-type": "quorum"}


async def declare(client: Consuming, limit: int | None = None, dead_letters: str | None = None) -> str:
    arguments: dict[str, FieldValue] = {**QUORUM}
    if limit is not None:
        arguments["x-delivery-limit"] = limit
    if dead_letters is not None:
        arguments |= {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead_letters}
    return await client.declare("quorum", arguments=arguments)


async def fetch(client: Consuming, queue: str, *, no_ack: bool = False) -> Taken:
    taken = await client.get(queue, no_ack=no_ack)
    assert taken is not None
    return taken


async def fetch_all(client: Consuming, queue: str, *, channel: int = 1) -> list[tuple[bytes, bool]]:
    found: list[tuple[bytes, bool]] = []
    while (taken := await client.get(queue, channel=channel, no_ack=True)) is not None:
        found.append((taken.body, taken.redelivered))
    return found


# --- properties -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["quorum", "stream"])
@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        ({"durable": False}, "non-durable"),
        ({"durable": True, "exclusive": True}, "exclusive-owner"),
        ({"durable": True, "auto_delete": True}, "auto-delete"),
    ],
)
async def test_a_queue_with_replicas_is_durable_and_shared(
    target: Target, kind: str, flags: dict[str, bool], fault: str
) -> None:
    name = unique("replicated")
    request = methods.Queue.Declare(queue=name, arguments={"x-queue-type": kind}, **flags)
    text = f"PRECONDITION_FAILED - invalid property '{fault}' for queue '{name}' in vhost '/'"
    assert await target.refusal(request) == Refusal("channel", 406, text)


@pytest.mark.parametrize(("key", "value"), [("x-max-priority", 5), ("x-queue-mode", "lazy"), ("x-max-age", "1h")])
async def test_an_argument_of_other_types_is_refused(target: Target, key: str, value: FieldValue) -> None:
    name = unique("quorum")
    request = build(methods.Queue.Declare, queue=name, durable=True, arguments={**QUORUM, key: value})
    text = f"invalid arg '{key}' for queue '{name}' in vhost '/' of queue type rabbit_quorum_queue"
    assert await target.refusal(request) == Refusal("channel", 406, f"PRECONDITION_FAILED - {text}")


@pytest.mark.parametrize("flag", ["if-unused", "if-empty"])
async def test_a_conditional_deletion_is_not_implemented(target: Target, flag: str) -> None:
    async with consuming(target) as client:
        queue = await declare(client)
        request = methods.Queue.Delete(queue=queue, if_unused=flag == "if-unused", if_empty=flag == "if-empty")
        text = (
            f"cannot delete queue '{queue}' in vhost '/'. queue.delete operations with {flag} flag set are not "
            "supported by quorum queues"
        )
        assert await target.refusal(request) == Refusal("connection", 540, f"NOT_IMPLEMENTED - {text}")


async def test_purging_and_deleting_count_the_waiting_messages(target: Target) -> None:
    async with consuming(target) as client:
        queue = await declare(client)
        await client.publish(queue, b"1", b"2", b"3", b"4")
        await fetch(client, queue)
        await fetch(client, queue)
        await client.nack(2)
        reply = await client.call(build(methods.Queue.Purge, queue=queue), methods.Queue.PurgeOk)
        assert reply.message_count == 3
        await client.nack(1)
        assert await fetch_all(client, queue) == [(b"1", True)]
        await client.publish(queue, b"5", b"6")
        await fetch(client, queue)
        deleted = await client.call(build(methods.Queue.Delete, queue=queue), methods.Queue.DeleteOk)
        assert deleted.message_count == 1


async def test_a_get_tells_how_many_messages_are_left(target: Target) -> None:
    async with consuming(target) as client:
        queue = await declare(client)
        await client.publish(queue, b"1", b"2", b"3")
        await client.peer.send(1, build(methods.Basic.Get, queue=queue))
        assert (await client.peer.expect(1, methods.Basic.GetOk)).message_count == 2
        await client.peer.content(1)


# --- consumers --------------------------------------------------------------------------------------------------------


async def test_an_exclusive_consumer_admits_others(target: Target) -> None:
    async with consuming(target, 1, 2) as client:
        queue = await declare(client)
        await client.consume(queue, "a", exclusive=True)
        await client.consume(queue, "b", channel=2, exclusive=True)
        await client.publish(queue, b"1", b"2")
        assert sorted(summary(await client.take(2))) == [("a", b"1"), ("b", b"2")]


async def test_a_shared_prefetch_is_not_implemented(target: Target) -> None:
    if not target.rules.shares_prefetch:
        pytest.skip("this version takes a shared prefetch for one of each consumer")
    async with consuming(target) as client:
        queue = await declare(client)
        request = build(methods.Basic.Qos, prefetch_count=2, global_=True)
        refusal = await target.refusal(request, consume(queue))
        text = f"NOT_IMPLEMENTED - queue '{queue}' in vhost '/' does not support global qos"
        assert refusal == Refusal("connection", 540, text)


async def test_consumers_take_turns_by_priority(target: Target) -> None:
    async with consuming(target, 1, 2) as client:
        queue = await declare(client)
        await client.consume(queue, "a", arguments={"x-priority": -1})
        await client.consume(queue, "b", prefetch=2)
        await client.consume(queue, "c", prefetch=1)
        await client.publish(queue, b"1", b"2", b"3", b"4")
        assert summary(await client.take(4)) == [("b", b"1"), ("c", b"2"), ("b", b"3"), ("a", b"4")]


async def test_an_active_consumer_gives_way_to_a_higher_priority(target: Target) -> None:
    single = {**QUORUM, "x-single-active-consumer": True}
    async with consuming(target, 1, 2) as client:
        queue = await client.declare("quorum", arguments=single)
        await client.consume(queue, "a", prefetch=2)
        await client.publish(queue, b"1", b"2", b"3")
        assert summary(await client.take(2)) == [("a", b"1"), ("a", b"2")]
        await client.consume(queue, "b", channel=2, arguments={"x-priority": 5})
        await client.ack(1)
        await client.ack(2)
        next_one = "a" if target.rules.version == "3.10" else "b"
        assert summary(await client.take()) == [(next_one, b"3")]


async def test_3_10_activates_the_oldest_consumer_and_4_the_highest_priority(target: Target) -> None:
    single = {**QUORUM, "x-single-active-consumer": True}
    async with consuming(target, 1, 2, 3) as client:
        queue = await client.declare("quorum", arguments=single)
        await client.consume(queue, "a", arguments={"x-priority": 9})
        await client.consume(queue, "b", channel=2)
        await client.consume(queue, "c", channel=3, arguments={"x-priority": 5})
        await client.publish(queue, b"1")
        assert summary(await client.take()) == [("a", b"1")]
        await client.close(1)
        next_one = "b" if target.rules.version == "3.10" else "c"
        assert summary(await client.take()) == [(next_one, b"1")]


# --- order ------------------------------------------------------------------------------------------------------------


async def test_returned_messages_go_ahead_in_the_order_of_their_return(target: Target) -> None:
    async with consuming(target) as client:
        queue = await declare(client, limit=5)
        await client.publish(queue, b"1", b"2", b"3", b"4", b"5")
        for _ in range(4):
            await fetch(client, queue)
        await client.nack(2)
        await client.reject(1)
        await client.nack(4, multiple=True)
        assert await fetch_all(client, queue) == [(b"2", True), (b"1", True), (b"3", True), (b"4", True), (b"5", False)]


async def test_3_10_requeues_at_the_end_where_no_limit_is_set(target: Target) -> None:
    async with consuming(target) as client:
        queue = await declare(client)
        await client.publish(queue, b"1", b"2", b"3")
        await fetch(client, queue)
        await fetch(client, queue)
        await client.nack(2, multiple=True)
        returned, waiting = [(b"1", True), (b"2", True)], [(b"3", False)]
        expected = waiting + returned if target.rules.version == "3.10" else returned + waiting
        assert await fetch_all(client, queue) == expected


async def test_a_closed_channel_returns_its_messages_to_the_front(target: Target) -> None:
    async with consuming(target, 1, 2) as client:
        queue = await declare(client)
        await client.publish(queue, b"1", b"2", b"3")
        await client.consume(queue, prefetch=2)
        await client.take(2)
        await client.close(1)
        assert await fetch_all(client, queue, channel=2) == [(b"1", True), (b"2", True), (b"3", False)]


async def test_messages_have_priorities_since_4(target: Target) -> None:
    async with consuming(target) as client:
        queue = await declare(client)
        for priority in (None, 0, 3, 4, 5, 6, 9, 255, 5, 2, None):
            await client.publish(queue, str(priority).encode(), priority=priority)
        expected = {
            "3.10": "None 0 3 4 5 6 9 255 5 2 None",
            "4.0": "5 6 None 9 255 0 5 3 4 2 None",
            "4.3": "255 9 6 5 5 None 4 None 3 2 0",
        }[target.rules.version]
        assert [body.decode() for body, _ in await fetch_all(client, queue)] == expected.split()


async def test_a_returned_message_goes_ahead_of_higher_priorities(target: Target) -> None:
    async with consuming(target) as client:
        queue = await declare(client, limit=5)
        await client.publish(queue, b"low", priority=0)
        await fetch(client, queue)
        await client.publish(queue, b"high", priority=9)
        await client.reject(1)
        assert await fetch_all(client, queue) == [(b"low", True), (b"high", False)]


# --- counts and limits ------------------------------------------------------------------------------------------------


async def test_deliveries_are_counted(target: Target) -> None:
    async with consuming(target) as client:
        queue = await declare(client, limit=9)
        await client.publish(queue, b"x", headers={"z": 1, "a": 2})
        await fetch(client, queue)
        await client.nack(1)
        await fetch(client, queue)
        await client.reject(2)
        await fetch(client, queue)
        await client.call(methods.Basic.Recover(requeue=True), methods.Basic.RecoverOk)
        counts = {"x-acquired-count": 3, "x-delivery-count": 1} if target.rules.tells_acquired_count else {}
        expected = {"a": 2, "x-delivery-count": 3, "z": 1} | counts
        taken = await fetch(client, queue)
        assert taken.headers == expected
        assert list(taken.headers) == sorted(expected)


async def test_a_first_delivery_is_not_counted_but_3_10_tells_a_get(target: Target) -> None:
    async with consuming(target) as client:
        queue = await declare(client)
        await client.publish(queue, b"1", b"2", headers={"x": 1})
        fetched = await fetch(client, queue)
        assert fetched.headers == {"x": 1} | ({"x-delivery-count": 0} if target.rules.version == "3.10" else {})
        await client.consume(queue)
        assert (await client.take_one()).headers == {"x": 1}


@pytest.mark.parametrize("how", ["nack", "reject", "recover", "close"])
async def test_a_message_beyond_the_limit_is_dead_lettered(target: Target, how: str) -> None:
    async with consuming(target, 1, 2) as client:
        dead_letters = await client.declare("dead")
        queue = await declare(client, 1, dead_letters)
        await client.publish(queue, b"x")
        returns = 0
        while returns < 3 and (taken := await client.get(queue)) is not None:
            returns += 1
            if how == "nack":
                await client.nack(taken.tag)
            elif how == "reject":
                await client.reject(taken.tag)
            elif how == "recover":
                await client.call(methods.Basic.Recover(requeue=True), methods.Basic.RecoverOk)
            else:
                await client.close(1)
                await client.call(build(methods.Channel.Open), methods.Channel.OpenOk)
        if how in ("nack", "recover") and not target.rules.nack_counts_towards_limit:
            assert returns == 3
            return
        assert returns == 2
        await client.consume(dead_letters, channel=2)
        dead = await client.take_one()
        assert dead.redelivered == target.rules.failed_dead_letter_is_redelivered
        assert dead.headers["x-first-death-reason"] == "delivery_limit"
        assert "x-delivery-count" not in dead.headers


async def test_a_default_limit_came_with_4(target: Target) -> None:
    async with consuming(target) as client:
        queue = await declare(client)
        await client.publish(queue, b"x")
        returns = 0
        while returns < 25 and (taken := await client.get(queue)) is not None:
            returns += 1
            await client.reject(taken.tag)
        assert returns == (25 if target.rules.delivery_limit is None else target.rules.delivery_limit + 1)


async def test_a_negative_limit_is_no_limit_since_4(target: Target) -> None:
    async with consuming(target) as client:
        queue = await declare(client, limit=-1)
        await client.publish(queue, b"x")
        taken = await fetch(client, queue)
        await client.reject(taken.tag)
        assert (await client.get(queue) is None) == (target.rules.version == "3.10")


async def test_a_rejected_message_is_dead_lettered(target: Target) -> None:
    async with consuming(target, 1, 2) as client:
        dead_letters = await client.declare("dead")
        queue = await declare(client, dead_letters=dead_letters)
        await client.publish(queue, b"x")
        await fetch(client, queue)
        await client.nack(1, requeue=False)
        await client.consume(dead_letters, channel=2)
        assert (await client.take_one()).headers["x-first-death-reason"] == "rejected"


async def test_a_returned_message_goes_to_the_next_consumer(target: Target) -> None:
    async with consuming(target, 1, 2) as client:
        queue = await declare(client, limit=5)
        await client.consume(queue, "a", prefetch=1)
        await client.consume(queue, "b", channel=2, prefetch=1)
        await client.publish(queue, b"1")
        first = await client.take_one()
        await client.nack(first.tag)
        second = await client.take_one()
        assert (first.consumer, second.consumer) == ("a", "b")
        assert bodies([first, second]) == [b"1", b"1"]


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [{"x-max-length": 2}, {"x-max-length-bytes": 250}], ids=["length", "bytes"])
@pytest.mark.parametrize("overflow", ["drop-head", "reject-publish-dlx"])
async def test_a_full_queue_dead_letters_its_head_even_with_reject_publish_dlx(
    target: Target, limit: dict[str, FieldValue], overflow: str
) -> None:
    async with consuming(target, 1, 2) as client:
        dead_letters = await client.declare("dead")
        dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead_letters}
        queue = await client.declare("quorum", arguments={**QUORUM, **limit, **dead, "x-overflow": overflow})
        await client.publish(queue, *(str(number).encode() * 100 for number in range(4)))
        await client.consume(dead_letters, channel=2)
        assert [one.body[:1] for one in await client.take(2)] == [b"0", b"1"]
        assert [body[:1] for body, _ in await fetch_all(client, queue)] == [b"2", b"3"]


@pytest.mark.parametrize("limit", [{"x-max-length": 2}, {"x-max-length-bytes": 250}], ids=["length", "bytes"])
async def test_reject_publish_begins_with_the_message_after_the_first_too_many(
    target: Target, limit: dict[str, FieldValue]
) -> None:
    async with consuming(target) as client:
        queue = await client.declare("quorum", arguments={**QUORUM, **limit, "x-overflow": "reject-publish"})
        bodies_sent = [str(number).encode() * 100 for number in range(5)]
        assert [await client.try_publish(queue, body) for body in bodies_sent] == [True, True, True, False, False]
        assert [body[:1] for body, _ in await fetch_all(client, queue)] == [b"0", b"1", b"2"]
        assert [await client.try_publish(queue, body) for body in bodies_sent] == [True, True, True, False, False]


async def test_a_returned_message_counts_towards_the_limit(target: Target) -> None:
    async with consuming(target) as client:
        queue = await client.declare("quorum", arguments={**QUORUM, "x-max-length": 2, "x-delivery-limit": 5})
        await client.publish(queue, b"1", b"2")
        await fetch(client, queue)
        await client.publish(queue, b"3")
        await client.nack(1)
        assert await fetch_all(client, queue) == [(b"2", False), (b"3", False)]


async def test_messages_expire(target: Target) -> None:
    async with consuming(target, 1, 2) as client:
        dead_letters = await client.declare("dead")
        dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead_letters}
        queue = await client.declare("quorum", arguments={**QUORUM, **dead, "x-message-ttl": 1})
        await client.publish(queue, b"x")
        await client.consume(dead_letters, channel=2)
        assert (await client.take_one()).headers["x-first-death-reason"] == "expired"
