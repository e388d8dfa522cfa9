"""Dead letters: where dropped messages go, and what their headers say."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from anyamqp import FieldTable, FieldValue, Message
from anyamqp.wire import methods
from anyamqp.wire.frames import build
from support.conformance import Target
from support.queueing import Desk, a_desk
from support.queues import unique

pytestmark = pytest.mark.anyio


def dead_letters_to(queue: str, more: FieldTable | None = None) -> dict[str, FieldValue]:
    """The arguments of a queue whose dead letters go to another."""
    return {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue, **(more or {})}


def reject(tag: int) -> methods.Basic.Reject:
    return build(methods.Basic.Reject, tag, requeue=False)


async def rejected(desk: Desk, queue: str) -> None:
    """Take the next message of a queue and reject it."""
    got = await desk.next(queue, no_ack=False)
    await desk.settle(reject(got.method.delivery_tag))


def deaths(message: Message) -> list[dict[str, FieldValue]]:
    """The entries of x-death, without the time."""
    headers = message.headers
    assert headers is not None
    tables = cast("list[Mapping[str, FieldValue]]", headers["x-death"])
    for table in tables:
        time = table["time"]
        assert isinstance(time, datetime)
        assert abs(datetime.now(UTC) - time) < timedelta(seconds=60)
    return [{key: value for key, value in table.items() if key != "time"} for table in tables]


def others(message: Message) -> dict[str, FieldValue]:
    """The headers without x-death."""
    return {key: value for key, value in (message.headers or {}).items() if key != "x-death"}


def summary(target: Target, first: tuple[str, str, str], last: tuple[str, str, str]) -> dict[str, FieldValue]:
    """The headers beside x-death: reason, queue and exchange of the first death, and on RabbitMQ 4 of the last."""
    told = {"first": first} if target.rules.version == "3.10" else {"first": first, "last": last}
    kinds = ("reason", "queue", "exchange")
    return {
        f"x-{which}-death-{kind}": value
        for which, values in told.items()
        for kind, value in zip(kinds, values, strict=True)
    }


def death(reason: str, queue: str, *keys: str, count: int = 1, exchange: str = "") -> dict[str, FieldValue]:
    return {
        "count": count,
        "reason": reason,
        "queue": queue,
        "exchange": exchange,
        "routing-keys": list(keys),
    }


async def test_a_rejected_message_is_dead_lettered(target: Target) -> None:
    async with a_desk(target) as desk:
        dead = await desk.declare()
        queue = await desk.declare(dead_letters_to(dead))
        await desk.publish(queue, Message(b"x", headers={"z": 1, "a": "b"}, priority=3, message_id="m", type="t"))
        await rejected(desk, queue)
        got = await desk.next(dead)
        assert (got.method.exchange, got.method.routing_key) == ("", dead)
        assert got.method.redelivered == target.rules.failed_dead_letter_is_redelivered
        assert got.message.body == b"x"
        assert (got.message.priority, got.message.message_id, got.message.type) == (3, "m", "t")
        assert got.message.persistent
        assert deaths(got.message) == [death("rejected", queue, queue)]
        told = ("rejected", queue, "")
        assert others(got.message) == {"z": 1, "a": "b", **summary(target, told, told)}


async def test_headers_are_sorted_and_an_entry_has_its_fields_in_order(target: Target) -> None:
    async with a_desk(target) as desk:
        dead = await desk.declare()
        queue = await desk.declare(dead_letters_to(dead))
        await desk.publish(queue, Message(b"x", headers={"z": 1, "a": "b"}, expiration=60))
        await rejected(desk, queue)
        message = (await desk.next(dead)).message
        assert message.headers is not None
        assert list(message.headers) == sorted(message.headers)
        (table,) = cast("list[Mapping[str, FieldValue]]", message.headers["x-death"])
        fields = ["count", "reason", "queue", "time", "exchange", "routing-keys"]
        where = len(fields) if target.rules.version == "3.10" else 0
        fields.insert(where, "original-expiration")
        assert list(table) == fields


async def test_a_nack_without_requeue_dead_letters_in_order(target: Target) -> None:
    async with a_desk(target) as desk:
        dead = await desk.declare()
        queue = await desk.declare(dead_letters_to(dead))
        await desk.publish(queue, b"1", b"2", b"3")
        tags = [(await desk.next(queue, no_ack=False)).method.delivery_tag for _ in range(3)]
        await desk.settle(build(methods.Basic.Nack, tags[-1], multiple=True, requeue=False))
        letters = [await desk.next(dead) for _ in range(3)]
        assert [letter.message.body for letter in letters] == [b"1", b"2", b"3"]
        assert not any(letter.method.redelivered for letter in letters)


async def test_a_requeued_message_is_not_dead_lettered(target: Target) -> None:
    async with a_desk(target) as desk:
        dead = await desk.declare()
        queue = await desk.declare(dead_letters_to(dead))
        await desk.publish(queue, b"x")
        got = await desk.next(queue, no_ack=False)
        await desk.settle(build(methods.Basic.Nack, got.method.delivery_tag, requeue=True))
        assert (await desk.next(queue)).method.redelivered
        assert await desk.count(dead) == 0


@pytest.mark.parametrize("kind", [methods.Basic.Reject, methods.Basic.Nack])
async def test_a_requeued_message_that_expires(target: Target, kind: type[methods.Basic.Reject]) -> None:
    async with a_desk(target) as desk:
        dead = await desk.declare()
        queue = await desk.declare(dead_letters_to(dead, {"x-message-ttl": 300}))
        await desk.publish(queue, b"x")
        got = await desk.next(queue, no_ack=False)
        await desk.settle(build(kind, got.method.delivery_tag, requeue=True))
        has_failed = kind is methods.Basic.Reject and target.rules.failed_dead_letter_is_redelivered
        assert (await desk.next(dead)).method.redelivered == has_failed


@pytest.mark.parametrize(
    ("arguments", "expiration"), [({"x-message-ttl": 1}, None), ({}, 0.001)], ids=["of the queue", "of the message"]
)
async def test_an_expired_message_is_dead_lettered(
    target: Target, arguments: FieldTable, expiration: float | None
) -> None:
    async with a_desk(target) as desk:
        dead = await desk.declare()
        queue = await desk.declare(dead_letters_to(dead, arguments))
        await desk.publish(queue, Message(b"x", expiration=expiration))
        got = await desk.next(dead)
        assert not got.method.redelivered
        message = got.message
        original: dict[str, FieldValue] = {} if expiration is None else {"original-expiration": "1"}
        assert deaths(message) == [death("expired", queue, queue) | original]
        assert message.expiration is None
        told = ("expired", queue, "")
        assert others(message) == summary(target, told, told)


async def test_a_message_beyond_the_length_is_dead_lettered(target: Target) -> None:
    async with a_desk(target) as desk:
        dead = await desk.declare()
        queue = await desk.declare(dead_letters_to(dead, {"x-max-length": 1}))
        await desk.publish(queue, b"old", b"new")
        message = (await desk.next(dead)).message
        assert message.body == b"old"
        assert deaths(message) == [death("maxlen", queue, queue)]
        assert await desk.bodies(queue) == [b"new"]


async def test_a_refused_publish_is_dead_lettered_if_the_queue_says_so(target: Target) -> None:
    async with a_desk(target) as desk:
        dead = await desk.declare()
        queue = await desk.declare(dead_letters_to(dead, {"x-max-length": 1, "x-overflow": "reject-publish-dlx"}))
        await desk.publish(queue, b"old")
        await desk.publish(queue, b"new", is_confirmed=False)
        message = (await desk.next(dead)).message
        assert message.body == b"new"
        assert deaths(message) == [death("maxlen", queue, queue)]
        assert await desk.bodies(queue) == [b"old"]


async def test_without_a_routing_key_a_dead_letter_keeps_its_own(target: Target) -> None:
    async with a_desk(target) as desk:
        name = unique("kept")
        exchange = unique("exchange")
        declare = build(methods.Exchange.Declare, exchange=exchange, exchange_type="fanout", auto_delete=True)
        await desk.peer.call(1, declare, methods.Exchange.DeclareOk)
        dead = await desk.declare()
        bind = build(methods.Queue.Bind, queue=dead, exchange=exchange)
        await desk.peer.call(1, bind, methods.Queue.BindOk)
        queue = await desk.declare({"x-dead-letter-exchange": exchange}, name=name, exclusive=True)
        await desk.publish(queue, b"x")
        await rejected(desk, queue)
        got = await desk.next(dead)
        assert (got.method.exchange, got.method.routing_key) == (exchange, queue)
        assert deaths(got.message) == [death("rejected", queue, queue)]


async def test_without_a_dead_letter_exchange_dropped_messages_are_gone(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare({"x-dead-letter-exchange": unique("nowhere"), "x-dead-letter-routing-key": "k"})
        await desk.publish(queue, b"x")
        await rejected(desk, queue)
        assert await desk.count(queue) == 0


async def test_a_second_death_stands_in_front_of_the_first(target: Target) -> None:
    async with a_desk(target) as desk:
        last = await desk.declare()
        second = await desk.declare(dead_letters_to(last))
        first = await desk.declare(dead_letters_to(second))
        await desk.publish(first, b"x")
        await rejected(desk, first)
        await rejected(desk, second)
        message = (await desk.next(last)).message
        assert deaths(message) == [death("rejected", second, second), death("rejected", first, first)]
        assert others(message) == summary(target, ("rejected", first, ""), ("rejected", second, ""))


async def test_after_three_deaths(target: Target) -> None:
    async with a_desk(target) as desk:
        last = await desk.declare()
        third = await desk.declare(dead_letters_to(last))
        second = await desk.declare(dead_letters_to(third))
        first = await desk.declare(dead_letters_to(second))
        await desk.publish(first, b"x")
        for queue in (first, second, third):
            await rejected(desk, queue)
        message = (await desk.next(last)).message
        earlier = [second, first]
        if target.rules.version == "3.10":
            earlier.reverse()  # RabbitMQ 3.10 turns the earlier deaths round each time
        assert [one["queue"] for one in deaths(message)] == [third, *earlier]


async def test_deaths_for_the_same_reason_in_the_same_queue_are_counted(target: Target) -> None:
    async with a_desk(target) as desk:
        dead = await desk.declare()
        queue = await desk.declare(dead_letters_to(dead))
        back = await desk.declare(dead_letters_to(queue))
        await desk.publish(back, b"x")
        for name in (back, queue):
            await rejected(desk, name)
        message = (await desk.next(dead)).message
        await desk.publish(back, message)
        for name in (back, queue):
            await rejected(desk, name)
        again = (await desk.next(dead)).message
        if target.rules.version == "3.10":
            assert [(one["queue"], one["count"]) for one in deaths(again)] == [(queue, 2), (back, 2)]
        else:
            # A client's x-death header does not count.
            assert [(one["queue"], one["count"]) for one in deaths(again)] == [(queue, 1), (back, 1)]


async def test_a_message_that_a_client_rejects_may_come_back(target: Target) -> None:
    async with a_desk(target) as desk:
        name = unique("circle")
        queue = await desk.declare(dead_letters_to(name), name=name, exclusive=True)
        await desk.publish(queue, b"x")
        for count in (1, 2, 3):
            await rejected(desk, queue)
            got = await desk.next(queue, no_ack=False)
            assert [(one["reason"], one["count"]) for one in deaths(got.message)] == [("rejected", count)]
            await desk.settle(build(methods.Basic.Nack, got.method.delivery_tag, requeue=True))


async def test_a_circle_without_a_reject_ends(target: Target) -> None:
    async with a_desk(target) as desk:
        one, other, witness = unique("one"), unique("other"), await desk.declare()
        await desk.declare(dead_letters_to(other, {"x-message-ttl": 1}), name=one, exclusive=True)
        await desk.declare(dead_letters_to(one, {"x-message-ttl": 1}), name=other, exclusive=True)
        await desk.publish(one, b"round")
        # A message that takes as long, and arrives.
        way = await desk.declare(dead_letters_to(witness, {"x-message-ttl": 100}))
        await desk.publish(way, b"straight")
        await desk.next(witness)
        assert (await desk.count(one), await desk.count(other)) == (0, 0)


async def test_a_dead_letter_may_be_dropped_again(target: Target) -> None:
    async with a_desk(target) as desk:
        last = await desk.declare()
        short = await desk.declare(dead_letters_to(last, {"x-max-length": 1}))
        queue = await desk.declare(dead_letters_to(short, {"x-max-length": 1}))
        await desk.publish(queue, b"1", b"2", b"3")
        message = (await desk.next(last)).message
        assert message.body == b"1"
        assert [(one["reason"], one["queue"]) for one in deaths(message)] == [("maxlen", short), ("maxlen", queue)]
        assert await desk.bodies(short) == [b"2"]


async def test_a_deleted_or_purged_queue_leaves_no_dead_letters(target: Target) -> None:
    async with a_desk(target) as desk:
        dead = await desk.declare()
        queue = await desk.declare(dead_letters_to(dead))
        await desk.publish(queue, b"purged")
        assert (
            await desk.peer.call(1, build(methods.Queue.Purge, queue=queue), methods.Queue.PurgeOk)
        ).message_count == 1
        await desk.publish(queue, b"deleted")
        assert (
            await desk.peer.call(1, build(methods.Queue.Delete, queue=queue), methods.Queue.DeleteOk)
        ).message_count == 1
        assert await desk.count(dead) == 0


async def test_a_header_of_the_publisher_in_place_of_the_deaths(target: Target) -> None:
    async with a_desk(target) as desk:
        dead = await desk.declare()
        queue = await desk.declare(dead_letters_to(dead))
        await desk.publish(queue, Message(b"x", headers={"x-death": "mine", "x-first-death-queue": "mine"}))
        await rejected(desk, queue)
        message = (await desk.next(dead)).message
        assert deaths(message) == [death("rejected", queue, queue)]
        told = ("rejected", queue, "")
        if target.rules.version == "3.10":
            assert others(message) == {"x-first-death-queue": "mine"}
        else:
            assert others(message) == summary(target, told, told)


async def test_copies_are_named_in_a_death_until_a_dead_letter_key_replaces_them(target: Target) -> None:
    async with a_desk(target) as desk:
        dead = await desk.declare()
        second = await desk.declare(dead_letters_to(dead))
        first = await desk.declare(dead_letters_to(second))
        await desk.publish(first, Message(b"x", headers={"CC": ["copy"]}))
        await rejected(desk, first)
        await rejected(desk, second)
        message = (await desk.next(dead)).message
        assert deaths(message) == [death("rejected", second, second), death("rejected", first, first, "copy")]
        assert ("CC" in others(message)) == (target.rules.version != "3.10")


async def test_blind_copies_are_not_named_in_a_death(target: Target) -> None:
    async with a_desk(target) as desk:
        dead, blind = await desk.declare(), await desk.declare()
        queue = await desk.declare(dead_letters_to(dead))
        await desk.publish(queue, Message(b"x", headers={"BCC": [blind]}))
        await rejected(desk, queue)
        assert deaths((await desk.next(dead)).message) == [death("rejected", queue, queue)]
        assert await desk.bodies(blind) == [b"x"]


async def test_without_a_routing_key_a_dead_letter_keeps_the_keys_of_its_copies(target: Target) -> None:
    async with a_desk(target) as desk:
        copy, blind = await desk.declare(), await desk.declare()
        queue = await desk.declare({"x-dead-letter-exchange": "amq.direct"})
        for name in (copy, blind):
            bind = build(methods.Queue.Bind, queue=name, exchange="amq.direct", routing_key=f"key-of-{name}")
            await desk.peer.call(1, bind, methods.Queue.BindOk)
        headers: FieldTable = {"CC": [f"key-of-{copy}"], "BCC": [f"key-of-{blind}"]}
        await desk.publish(queue, Message(b"x", headers=headers))
        await rejected(desk, queue)
        for name in (copy, blind):
            got = await desk.next(name)
            assert got.method.routing_key == queue
            assert deaths(got.message) == [death("rejected", queue, queue, f"key-of-{copy}")]
