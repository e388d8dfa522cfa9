"""Streams: their properties, offsets, credit, and the requests that they refuse."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import anyio
import pytest

from anyamqp.message import FieldValue
from anyamqp.wire import methods
from anyamqp.wire.frames import build
from anyamqp.wire.methods import Method
from support.conformance import Refusal, Target
from support.consuming import Consuming, bodies, consume, consuming, summary
from support.queues import unique

pytestmark = pytest.mark.anyio

STREAM: Final[Mapping[str, FieldValue]] = {"x-queue-type": "stream"}
PREFETCH: Final = build(methods.Basic.Qos, prefetch_count=10)


async def declare(client: Consuming, **arguments: FieldValue) -> str:
    return await client.declare("stream", arguments={**STREAM, **arguments})


async def read(client: Consuming, stream: str, tag: str, *, offset: FieldValue = "first", prefetch: int = 10) -> None:
    """Start a consumer."""
    await client.consume(stream, tag, prefetch=prefetch, arguments={"x-stream-offset": offset})


def not_implemented(what: str, stream: str) -> Refusal:
    text = f"NOT_IMPLEMENTED - {what} not supported by stream queues queue '{stream}' in vhost '/'"
    return Refusal("connection", 540, text)


# --- properties -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [("x-max-length", 5), ("x-message-ttl", 5), ("x-single-active-consumer", True), ("x-dead-letter-exchange", "x")],
)
async def test_an_argument_of_other_types_is_refused(target: Target, key: str, value: FieldValue) -> None:
    name = unique("stream")
    request = build(methods.Queue.Declare, queue=name, durable=True, arguments={**STREAM, key: value})
    text = f"invalid arg '{key}' for queue '{name}' in vhost '/' of queue type rabbit_stream_queue"
    assert await target.refusal(request) == Refusal("channel", 406, f"PRECONDITION_FAILED - {text}")


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("5", "invalid_max_age"),
        ("0s", "invalid_max_age"),
        ("5x", "invalid_max_age"),
        (5, "{unacceptable_type,signedint}"),
    ],
)
async def test_an_age_is_a_number_with_a_unit(target: Target, value: FieldValue, fault: str) -> None:
    name = unique("stream")
    request = build(methods.Queue.Declare, queue=name, durable=True, arguments={**STREAM, "x-max-age": value})
    text = f"PRECONDITION_FAILED - invalid arg 'x-max-age' for queue '{name}' in vhost '/': {fault}"
    assert await target.refusal(request) == Refusal("channel", 406, text)


async def test_a_filter_has_16_to_255_bytes_since_4(target: Target) -> None:
    async with consuming(target) as client:
        await declare(client, **{"x-stream-filter-size-bytes": 255})
        if target.rules.version == "3.10":
            await declare(client, **{"x-stream-filter-size-bytes": 10})
            return
        arguments = {**STREAM, "x-stream-filter-size-bytes": 10}
        refusal = await target.refusal(
            build(methods.Queue.Declare, queue=unique("stream"), durable=True, arguments=arguments)
        )
        space = "  " if target.rules.version == "4.0" else " "
        text = f"PRECONDITION_FAILED - Invalid value for{space}x-stream-filter-size-bytes"
        assert refusal == Refusal("channel", 406, text)


async def test_a_stream_may_be_declared_again(target: Target) -> None:
    async with consuming(target) as client:
        stream = await declare(client, **{"x-max-age": "1h"})
        arguments = {**STREAM, "x-max-age": "1h"}
        again = build(methods.Queue.Declare, queue=stream, durable=True, arguments=arguments)
        assert (await client.call(again, methods.Queue.DeclareOk)).queue == stream
        refusal = await target.refusal(
            build(methods.Queue.Declare, queue=stream, durable=True, arguments={**STREAM, "x-max-age": "2h"})
        )
        wanted, current = ("7200000", "3600000") if target.rules.version == "4.3" else ("2h", "1h")
        told = f"queue '{stream}' in vhost '/': received '{wanted}' but current is '{current}'"
        text = f"PRECONDITION_FAILED - inequivalent arg 'x-max-age' for {told}"
        assert refusal == Refusal("channel", 406, text)


async def test_a_deletion_knows_no_conditions_and_counts_nothing(target: Target) -> None:
    async with consuming(target) as client:
        stream = await declare(client)
        await client.publish(stream, b"1")
        await read(client, stream, "c")
        assert bodies(await client.take()) == [b"1"]
        declared = build(methods.Queue.Declare, queue=stream, passive=True)
        assert (await client.call(declared, methods.Queue.DeclareOk)).consumer_count == 0
        request = methods.Queue.Delete(queue=stream, if_unused=True, if_empty=True)
        assert (await client.call(request, methods.Queue.DeleteOk)).message_count == 0
        assert await client.until_cancelled() == ["c"]


# --- refused requests -------------------------------------------------------------------------------------------------


async def test_a_get_is_not_implemented(target: Target) -> None:
    async with consuming(target) as client:
        stream = await declare(client)
        refusal = await target.refusal(build(methods.Basic.Get, queue=stream))
        assert refusal == not_implemented("basic.get", stream)


async def test_a_purge_is_not_implemented(target: Target) -> None:
    async with consuming(target) as client:
        stream = await declare(client)
        refusal = await target.refusal(build(methods.Queue.Purge, queue=stream))
        assert refusal == not_implemented("queue.purge", stream)


async def test_a_consumer_needs_a_prefetch(target: Target) -> None:
    async with consuming(target) as client:
        stream = await declare(client)
        name = f"queue '{stream}' in vhost '/'"
        told = f"'{name}'" if target.rules.version == "3.10" else f"stream {name}"
        text = f"PRECONDITION_FAILED - consumer prefetch count is not set for {told}"
        assert await target.refusal(consume(stream)) == Refusal("channel", 406, text)
        assert await target.refusal(consume(stream, no_ack=True)) == Refusal("channel", 406, text)


async def test_a_consumer_has_to_ack(target: Target) -> None:
    async with consuming(target) as client:
        stream = await declare(client)
        kind = "stream queues queue" if target.rules.version == "3.10" else "stream queue"
        text = f"NOT_IMPLEMENTED - automatic acknowledgement not supported by {kind} '{stream}' in vhost '/'"
        assert await target.refusal(PREFETCH, consume(stream, no_ack=True)) == Refusal("connection", 540, text)


async def test_a_shared_prefetch_is_not_implemented(target: Target) -> None:
    async with consuming(target) as client:
        stream = await declare(client)
        shared = build(methods.Basic.Qos, prefetch_count=10, global_=True)
        if not target.rules.shares_prefetch:
            await client.prefetch(10, shared=True)
            await client.consume(stream)
            return
        refusal = await target.refusal(PREFETCH, shared, consume(stream))
        text = f"NOT_IMPLEMENTED - queue '{stream}' in vhost '/' does not support global qos"
        assert refusal == Refusal("connection", 540, text)


async def test_consumers_have_no_priority(target: Target) -> None:
    async with consuming(target) as client:
        stream = await declare(client)
        refusal = await target.refusal(PREFETCH, consume(stream, arguments={"x-priority": 5}))
        text = f"invalid arg 'x-priority' for queue '{stream}' in vhost '/' of queue type rabbit_stream_queue"
        assert refusal == Refusal("channel", 406, f"PRECONDITION_FAILED - {text}")


@pytest.mark.parametrize("offset", ["5", "1x", "foo", "", 1.5, True, None])
async def test_an_invalid_offset_is_refused(target: Target, offset: FieldValue) -> None:
    async with consuming(target) as client:
        stream = await declare(client)
        refusal = await target.refusal(PREFETCH, consume(stream, arguments={"x-stream-offset": offset}))
        if offset in ("5", "1x") or (isinstance(offset, str) and target.rules.version == "4.3"):
            told = f'<<"{offset}">>' if offset else "<<>>"
            term = f"{{invalid_stream_offset_arg,{{longstr,{told}}}}}"
            text = f"invalid arg 'x-stream-offset' for queue '{stream}' in vhost '/': {term}"
            assert refusal == Refusal("channel", 406, f"PRECONDITION_FAILED - {text}")
        else:
            assert refusal == Refusal("connection", 541, "INTERNAL_ERROR")


NEGATIVE: Final = [methods.Basic.Nack(1), methods.Basic.Nack(1, requeue=False), methods.Basic.Reject(1)]


@pytest.mark.parametrize("settlement", NEGATIVE, ids=["nack", "discard", "reject"])
async def test_3_10_refuses_a_nack_which_is_as_an_ack_since_4(target: Target, settlement: Method) -> None:
    async with consuming(target) as client:
        stream = await declare(client)
        await client.publish(stream, b"1", b"2")
        async with consuming(target) as other:
            await read(other, stream, "c", prefetch=1)
            assert bodies(await other.take()) == [b"1"]
            await other.peer.send(1, settlement)
            if target.rules.version == "3.10":
                closed = await other.peer.closed()
                refusal = Refusal("connection", closed.reply_code, closed.reply_text)
                assert refusal == not_implemented("basic.nack and basic.reject", stream)
            else:
                second = await other.take_one()
                assert (second.body, second.redelivered) == (b"2", False)


async def test_recovering_costs_the_connection_on_3_10_and_makes_room_since_4(target: Target) -> None:
    async with consuming(target) as client:
        stream = await declare(client)
        await client.publish(stream, b"1", b"2")
        async with consuming(target) as other:
            await read(other, stream, "c", prefetch=1)
            assert bodies(await other.take()) == [b"1"]
            await other.peer.send(1, methods.Basic.RecoverAsync(requeue=True))
            if target.rules.version == "3.10":
                assert (await other.peer.closed()).reply_code == 541
            else:
                assert bodies(await other.take()) == [b"2"]


# --- reading ----------------------------------------------------------------------------------------------------------

LONG_AGO: Final = datetime(2020, 1, 1, tzinfo=UTC)
YEARS: Final = timedelta(days=10_000)


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        ("first", [0, 1, 2, 3]),
        ("last", [2, 3]),
        ("next", [3]),
        (0, [0, 1, 2, 3]),
        (1, [1, 2, 3]),
        (-1, [0, 1, 2, 3]),
        (3, [3]),
        (LONG_AGO, [0, 1, 2, 3]),
        (LONG_AGO + YEARS, [3]),
        ("1h", [0, 1, 2, 3]),
    ],
)
async def test_a_consumer_begins_at_its_offset(target: Target, offset: FieldValue, expected: list[int]) -> None:
    async with consuming(target) as client:
        stream = await declare(client)
        await client.publish(stream, b"0", b"1", b"2")
        await read(client, stream, "c", offset=offset)
        await client.publish(stream, b"3")
        taken = await client.take(len(expected))
        assert [one.headers["x-stream-offset"] for one in taken] == expected
        assert [int(one.body) for one in taken] == expected


async def test_a_consumer_without_an_offset_begins_at_the_end(target: Target) -> None:
    async with consuming(target) as client:
        stream = await declare(client)
        await client.publish(stream, b"0")
        await client.consume(stream, prefetch=10)
        await client.publish(stream, b"1")
        assert bodies(await client.take()) == [b"1"]


async def test_an_offset_ahead_of_the_end_is_waited_for(target: Target) -> None:
    async with consuming(target) as client:
        stream = await declare(client)
        await client.publish(stream, b"0")
        await read(client, stream, "c", offset=3)
        await client.publish(stream, b"1", b"2", b"3")
        assert bodies(await client.take()) == [b"3"]


async def test_each_consumer_reads_everything(target: Target) -> None:
    async with consuming(target, 1, 2) as client:
        stream = await declare(client)
        await client.publish(stream, b"0", b"1")
        await client.consume(stream, "a", prefetch=5, exclusive=True, arguments={"x-stream-offset": "first"})
        await client.consume(stream, "b", channel=2, prefetch=5, arguments={"x-stream-offset": "first"})
        taken = sorted(summary(await client.take(4)))
        assert taken == [("a", b"0"), ("a", b"1"), ("b", b"0"), ("b", b"1")]


async def test_messages_stay_after_an_ack(target: Target) -> None:
    async with consuming(target) as client:
        stream = await declare(client)
        await client.publish(stream, b"0", b"1")
        await read(client, stream, "a", prefetch=1)
        first = await client.take_one()
        await client.cancel("a")
        await client.ack(first.tag)
        await read(client, stream, "b")
        again = await client.take(2)
        assert [(one.body, one.redelivered) for one in again] == [(b"0", False), (b"1", False)]


async def test_unsettled_messages_are_not_delivered_again(target: Target) -> None:
    async with consuming(target, 1, 2) as client:
        stream = await declare(client)
        await client.publish(stream, b"0", b"1")
        await read(client, stream, "a", prefetch=1)
        await client.take_one()
        await client.close(1)
        await client.consume(stream, "b", channel=2, prefetch=5)
        await client.publish(stream, b"2")
        assert summary(await client.take()) == [("b", b"2")]


async def test_an_ack_makes_room_for_one_message(target: Target) -> None:
    async with consuming(target) as client:
        stream = await declare(client)
        await client.publish(stream, *[b"%d" % number for number in range(9)])
        await read(client, stream, "c", prefetch=2)
        assert bodies(await client.take(2)) == [b"0", b"1"]
        await client.ack(2)
        assert bodies(await client.take()) == [b"2"]
        await client.ack(3, multiple=True)
        assert bodies(await client.take(2)) == [b"3", b"4"]


async def test_a_delivery_tells_its_offset_and_keeps_its_properties(target: Target) -> None:
    async with consuming(target) as client:
        stream = await declare(client)
        headers: dict[str, FieldValue] = {"z": 1, "a": "x", "x-stream-offset": 77}
        await client.publish(stream, b"x", headers=headers, message_id="m", priority=3, content_type="text/plain")
        await client.publish(stream, b"y", persistent=False)
        await read(client, stream, "c")
        first, second = await client.take(2)
        assert list(first.headers.items()) == [("a", "x"), ("x-stream-offset", 0), ("z", 1)]
        properties = first.message.properties
        assert (properties.message_id, properties.priority, properties.content_type) == ("m", 3, "text/plain")
        assert (first.message.persistent, second.message.persistent) == (True, False)


async def test_the_oldest_segments_are_dropped_when_a_stream_is_too_long(target: Target) -> None:
    limits: dict[str, FieldValue] = {"x-max-length-bytes": 50_000, "x-stream-max-segment-size-bytes": 20_000}
    async with consuming(target) as client:
        stream = await declare(client, **limits)
        for number in range(20):
            await client.publish(stream, bytes([number]) * 10_000)
        with anyio.fail_after(20):
            while True:
                await read(client, stream, "c", prefetch=4)
                taken = await client.take(4)
                await client.cancel("c")
                if taken[0].headers["x-stream-offset"] == 24:  # RabbitMQ drops segments in its own time
                    break
        # Each of the ten segments takes two messages, and each but the first begins with a record of RabbitMQ's own.
        expected = [(24, 16), (25, 17), (27, 18), (28, 19)]
        assert [(one.headers["x-stream-offset"], one.body[0]) for one in taken] == expected
