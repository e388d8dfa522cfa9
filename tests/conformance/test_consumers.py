"""Consumers: tags, exclusive ones, priorities, prefetch, single active consumers, cancellation."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from anyamqp.message import FieldValue
from anyamqp.wire import methods
from anyamqp.wire.frames import build
from support.conformance import Refusal, Target
from support.consuming import bodies, consume, consuming, summary
from support.rawpeer import raw_peer

pytestmark = pytest.mark.anyio

SINGLE = {"x-single-active-consumer": True}


# --- tags -------------------------------------------------------------------------------------------------------------


async def test_the_broker_names_a_consumer_without_a_tag(target: Target) -> None:
    async with consuming(target) as client:
        queue = await client.declare()
        first, second = await client.consume(queue), await client.consume(queue)
        assert first.startswith("amq.ctag-")
        assert second.startswith("amq.ctag-")
        assert first != second


async def test_a_tag_in_use_closes_the_connection(target: Target) -> None:
    refusal = await target.refusal(build(methods.Queue.Declare, exclusive=True), consume("", "c"), consume("", "c"))
    assert refusal == Refusal("connection", 530, "NOT_ALLOWED - attempt to reuse consumer tag 'c'")


async def test_each_channel_has_tags_of_its_own(target: Target) -> None:
    async with consuming(target, 1, 2) as client:
        queue = await client.declare()
        await client.consume(queue, "c")
        await client.consume(queue, "c", channel=2)
        await client.publish(queue, b"1", b"2")
        assert [(one.channel, one.body) for one in await client.take(2)] == [(1, b"1"), (2, b"2")]


async def test_a_tag_is_free_again_after_its_consumer_is_cancelled(target: Target) -> None:
    async with consuming(target) as client:
        queue = await client.declare()
        await client.consume(queue, "c")
        await client.cancel("c")
        assert await client.consume(queue, "c") == "c"


async def test_cancelling_an_unknown_consumer_is_answered(target: Target) -> None:
    async with target.raw(1) as peer:
        cancel = build(methods.Basic.Cancel, consumer_tag="nobody")
        assert (await peer.call(1, cancel, methods.Basic.CancelOk)).consumer_tag == "nobody"


async def test_a_consumer_without_a_wait_is_not_answered(target: Target) -> None:
    async with consuming(target) as client:
        queue = await client.declare()
        await client.publish(queue, b"1")
        await client.peer.send(1, build(methods.Basic.Consume, queue=queue, consumer_tag="c", nowait=True))
        assert summary(await client.take()) == [("c", b"1")]
        await client.peer.send(1, build(methods.Basic.Cancel, consumer_tag="c", nowait=True))
        assert await client.consume(queue, "c") == "c"


async def test_a_consumer_of_a_missing_queue_is_refused(target: Target) -> None:
    refusal = await target.refusal(consume("nowhere"))
    assert refusal == Refusal("channel", 404, "NOT_FOUND - no queue 'nowhere' in vhost '/'")


async def test_consumers_are_counted(target: Target) -> None:
    async with consuming(target) as client:
        queue = await client.declare()
        declare = build(methods.Queue.Declare, queue=queue, passive=True)
        counts: list[int] = []
        for step in (client.consume(queue, "a"), client.consume(queue, "b"), client.cancel("a"), client.close(1)):
            await step
            counts.append((await client.call(declare, methods.Queue.DeclareOk, channel=9)).consumer_count)
        assert counts == [1, 2, 1, 0]


# --- cancellation by the broker ---------------------------------------------------------------------------------------


async def test_consumers_are_cancelled_when_their_queue_is_deleted(target: Target) -> None:
    async with consuming(target, 1, 2) as client:
        queue = await client.declare()
        await client.consume(queue, "a")
        await client.consume(queue, "b", channel=2)
        await client.publish(queue, b"1")
        taken = await client.take_one()
        await client.call(build(methods.Queue.Delete, queue=queue), methods.Queue.DeleteOk, channel=9)
        assert await client.until_cancelled(2) == ["a", "b"]
        await client.ack(taken.tag, channel=taken.channel)
        await client.cancel("a")
        other = await client.declare()
        assert await client.consume(other, "a") == "a"


async def test_a_client_without_the_capability_is_not_told_of_a_cancelled_consumer(target: Target) -> None:
    with anyio.fail_after(20):
        async with raw_peer(await target.dial(None), 1, capabilities={}) as peer:
            queue = (await peer.call(1, build(methods.Queue.Declare), methods.Queue.DeclareOk)).queue
            await peer.call(1, consume(queue, "c"), methods.Basic.ConsumeOk)
            await peer.call(1, build(methods.Queue.Delete, queue=queue), methods.Queue.DeleteOk)
            await peer.call(1, build(methods.Basic.Qos), methods.Basic.QosOk)
            await peer.call(1, build(methods.Basic.Qos), methods.Basic.QosOk)


# --- exclusive consumers ----------------------------------------------------------------------------------------------


async def test_an_exclusive_consumer_keeps_others_out(target: Target) -> None:
    async with consuming(target) as client:
        queue = await client.declare()
        expected = Refusal("channel", 403, f"ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use")
        await client.consume(queue, "a", exclusive=True)
        assert await target.refusal(consume(queue)) == expected
        assert await target.refusal(consume(queue, exclusive=True)) == expected
        await client.cancel("a")
        await client.consume(queue, "b")
        assert await target.refusal(consume(queue, exclusive=True)) == expected
        await client.consume(queue, "c")


async def test_a_get_takes_from_a_queue_with_an_exclusive_consumer(target: Target) -> None:
    async with consuming(target, 1, 2) as client:
        queue = await client.declare()
        await client.consume(queue, "a", prefetch=1, exclusive=True)
        await client.publish(queue, b"1", b"2")
        await client.take_one()
        taken = await client.get(queue, channel=2)
        assert taken is not None
        assert taken.body == b"2"


# --- priorities -------------------------------------------------------------------------------------------------------


async def test_the_highest_priority_is_served_first_while_it_has_room(target: Target) -> None:
    async with consuming(target, 1, 2, 3) as client:
        queue = await client.declare()
        await client.consume(queue, "none", prefetch=2)
        await client.consume(queue, "high", channel=2, prefetch=2, arguments={"x-priority": 10})
        await client.consume(queue, "low", channel=3, prefetch=2, arguments={"x-priority": -1})
        await client.publish(queue, b"1", b"2", b"3", b"4", b"5", b"6")
        taken = await client.take(6)
        assert sorted(summary(taken)) == [
            ("high", b"1"),
            ("high", b"2"),
            ("low", b"5"),
            ("low", b"6"),
            ("none", b"3"),
            ("none", b"4"),
        ]
        await client.ack(1, channel=1)
        await client.ack(1, channel=2)
        assert await client.nothing_came(queue)
        await client.publish(queue, b"7", b"8")
        assert sorted(summary(await client.take(2))) == [("high", b"7"), ("none", b"8")]


@pytest.mark.parametrize(("value", "name"), [("high", "longstr"), (1.5, "double"), (True, "bool")])
@pytest.mark.parametrize("kind", ["classic", "quorum"])
async def test_a_priority_has_to_be_an_integer(target: Target, kind: str, value: FieldValue, name: str) -> None:
    async with consuming(target) as client:
        queue = await client.declare(arguments={"x-queue-type": kind})
        refusal = await target.refusal(consume(queue, arguments={"x-priority": value}))
        text = f"invalid arg 'x-priority' for queue '{queue}' in vhost '/': \"expected integer, got {name}\""
        assert refusal == Refusal("channel", 406, f"PRECONDITION_FAILED - {text}")


async def test_only_3_10_knows_the_cancellation_on_failover(target: Target) -> None:
    async with consuming(target) as client:
        queue = await client.declare()
        if target.rules.version == "3.10":
            refusal = await target.refusal(consume(queue, arguments={"x-cancel-on-ha-failover": 1}))
            text = f"invalid arg 'x-cancel-on-ha-failover' for queue '{queue}' in vhost '/'"
            assert refusal == Refusal("channel", 406, f"PRECONDITION_FAILED - {text}: {{unacceptable_type,signedint}}")
        else:
            await client.consume(queue, arguments={"x-cancel-on-ha-failover": 1})


@pytest.mark.parametrize("kind", ["classic", "quorum"])
async def test_an_argument_for_another_type_of_queue_is_refused(target: Target, kind: str) -> None:
    async with consuming(target) as client:
        queue = await client.declare(arguments={"x-queue-type": kind})
        refusal = await target.refusal(consume(queue, arguments={"x-stream-offset": "first"}))
        text = f"invalid arg 'x-stream-offset' for queue '{queue}' in vhost '/' of queue type rabbit_{kind}_queue"
        assert refusal == Refusal("channel", 406, f"PRECONDITION_FAILED - {text}")


async def test_an_unknown_argument_is_ignored(target: Target) -> None:
    async with consuming(target) as client:
        queue = await client.declare()
        await client.consume(queue, arguments={"x-unheard-of": "x"})


# --- who is next ------------------------------------------------------------------------------------------------------


async def test_consumers_take_turns(target: Target) -> None:
    async with consuming(target) as client:
        queue = await client.declare()
        for tag in ("a", "b", "c"):
            await client.consume(queue, tag)
        await client.publish(queue, b"1", b"2", b"3", b"4", b"5")
        taken = summary(await client.take(5))
        assert taken == [("a", b"1"), ("b", b"2"), ("c", b"3"), ("a", b"4"), ("b", b"5")]


async def test_a_consumer_with_room_again_is_last_in_turn(target: Target) -> None:
    async with consuming(target, 1, 2, 3) as client:
        queue = await client.declare()
        for channel, tag in enumerate(("a", "b", "c"), 1):
            await client.consume(queue, tag, channel=channel, prefetch=1)
        await client.publish(queue, b"1", b"2", b"3", b"4", b"5", b"6")
        assert sorted(summary(await client.take(3))) == [("a", b"1"), ("b", b"2"), ("c", b"3")]
        for channel, tag, body in ((3, "c", b"4"), (1, "a", b"5"), (2, "b", b"6")):
            await client.ack(1, channel=channel)
            assert summary(await client.take()) == [(tag, body)]
        await client.ack(2, channel=2)
        await client.ack(2, channel=1)
        assert await client.nothing_came(queue)
        await client.publish(queue, b"7", b"8")
        assert summary(await client.take(2)) == [("b", b"7"), ("a", b"8")]


# --- prefetch ---------------------------------------------------------------------------------------------------------


async def test_prefetch_holds_for_each_consumer_that_comes_after_it(target: Target) -> None:
    async with consuming(target) as client:
        queue = await client.declare()
        await client.consume(queue, "a", prefetch=1)
        await client.consume(queue, "b", prefetch=2)
        await client.publish(queue, b"1", b"2", b"3", b"4")
        assert summary(await client.take(3)) == [("a", b"1"), ("b", b"2"), ("b", b"3")]
        assert await client.nothing_came(queue)
        assert await client.depth(queue) == 1


async def test_prefetch_does_not_hold_without_acks(target: Target) -> None:
    async with consuming(target) as client:
        queue = await client.declare()
        await client.consume(queue, "a", prefetch=1, no_ack=True)
        await client.publish(queue, b"1", b"2", b"3")
        assert bodies(await client.take(3)) == [b"1", b"2", b"3"]


async def test_a_get_does_not_count_towards_prefetch(target: Target) -> None:
    async with consuming(target) as client:
        queue = await client.declare()
        await client.publish(queue, b"1", b"2")
        await client.get(queue)
        await client.consume(queue, "a", prefetch=1)
        assert bodies(await client.take()) == [b"2"]


async def test_shared_prefetch_holds_for_all_consumers_together(target: Target) -> None:
    if not target.rules.shares_prefetch:
        pytest.skip("this version takes a shared prefetch for one of each consumer")
    async with consuming(target) as client:
        queue = await client.declare()
        await client.consume(queue, "a")
        await client.prefetch(2, shared=True)
        await client.consume(queue, "b")
        await client.publish(queue, b"1", b"2", b"3", b"4")
        assert summary(await client.take(2)) == [("a", b"1"), ("b", b"2")]
        assert await client.nothing_came(queue)
        await client.ack(1)
        assert bodies(await client.take()) == [b"3"]
        await client.prefetch(0, shared=True)
        assert bodies(await client.take()) == [b"4"]


async def test_a_shared_prefetch_may_be_taken_for_one_of_each_consumer(target: Target) -> None:
    if target.rules.shares_prefetch:
        pytest.skip("this version shares it")
    async with consuming(target) as client:
        queue = await client.declare()
        await client.consume(queue, "a", prefetch=1)
        await client.prefetch(2, shared=True)
        await client.consume(queue, "b")
        await client.publish(queue, b"1", b"2", b"3", b"4")
        assert sorted(summary(await client.take(3))) == [("a", b"1"), ("b", b"2"), ("b", b"3")]
        assert await client.nothing_came(queue)


async def test_a_prefetch_size_is_not_implemented(target: Target) -> None:
    refusal = await target.refusal(build(methods.Basic.Qos, prefetch_size=1000))
    assert refusal == Refusal("connection", 540, "NOT_IMPLEMENTED - prefetch_size!=0 (1000)")


# --- single active consumer -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["classic", "quorum"])
class TestSingleActive:
    def arguments(self, kind: str) -> dict[str, Any]:
        return SINGLE | {"x-queue-type": kind}

    async def test_the_first_consumer_gets_all(self, target: Target, kind: str) -> None:
        async with consuming(target, 1, 2) as client:
            queue = await client.declare(arguments=self.arguments(kind))
            await client.consume(queue, "a")
            await client.consume(queue, "b", channel=2)
            await client.publish(queue, b"1", b"2", b"3")
            assert summary(await client.take(3)) == [("a", b"1"), ("a", b"2"), ("a", b"3")]

    async def test_no_other_steps_in_while_it_has_no_room(self, target: Target, kind: str) -> None:
        async with consuming(target, 1, 2) as client:
            queue = await client.declare(arguments=self.arguments(kind))
            await client.consume(queue, "a", prefetch=1)
            await client.consume(queue, "b", channel=2)
            await client.publish(queue, b"1", b"2")
            taken = await client.take_one()
            await client.ack(taken.tag)
            assert summary(await client.take()) == [("a", b"2")]

    async def test_the_next_takes_over_when_it_is_cancelled(self, target: Target, kind: str) -> None:
        async with consuming(target, 1, 2, 3) as client:
            queue = await client.declare(arguments=self.arguments(kind))
            await client.consume(queue, "a")
            await client.consume(queue, "b", channel=2)
            await client.consume(queue, "c", channel=3)
            await client.publish(queue, b"1")
            assert summary(await client.take()) == [("a", b"1")]
            await client.cancel("a")
            await client.publish(queue, b"2")
            assert summary(await client.take()) == [("b", b"2")]
            await client.nack(1)
            assert summary(await client.take()) == [("b", b"1")]

    async def test_waiting_messages_are_handed_over(self, target: Target, kind: str) -> None:
        if target.rules.version == "3.10" and kind == "classic":
            pytest.skip("3.10's queue crashes when it loses its active consumer while that has no room")
        async with consuming(target, 1, 2) as client:
            queue = await client.declare(arguments=self.arguments(kind))
            await client.consume(queue, "a", prefetch=1)
            await client.consume(queue, "b", channel=2)
            await client.publish(queue, b"1", b"2")
            assert summary(await client.take()) == [("a", b"1")]
            await client.cancel("a")
            assert summary(await client.take()) == [("b", b"2")]

    async def test_the_next_takes_over_when_its_channel_closes(self, target: Target, kind: str) -> None:
        async with consuming(target, 1, 2) as client:
            queue = await client.declare(arguments=self.arguments(kind))
            await client.consume(queue, "a", prefetch=1)
            await client.consume(queue, "b", channel=2)
            await client.publish(queue, b"1", b"2")
            assert summary(await client.take()) == [("a", b"1")]
            await client.close(1)
            assert summary(await client.take(2)) == [("b", b"1"), ("b", b"2")]


async def test_an_exclusive_consumer_is_refused_where_one_is_active(target: Target) -> None:
    async with consuming(target) as client:
        queue = await client.declare(arguments=SINGLE)
        refusal = await target.refusal(consume(queue, exclusive=True))
        assert refusal == Refusal("channel", 403, f"ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use")


async def test_the_highest_priority_is_the_next_to_be_active(target: Target) -> None:
    async with consuming(target, 1, 2, 3) as client:
        queue = await client.declare(arguments=SINGLE)
        await client.consume(queue, "a")
        await client.consume(queue, "b", channel=2)
        await client.consume(queue, "c", channel=3, arguments={"x-priority": 5})
        await client.publish(queue, b"1")
        assert summary(await client.take()) == [("a", b"1")]
        await client.close(1)
        assert summary(await client.take()) == [("c", b"1")]
