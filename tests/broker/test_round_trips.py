"""Every property and every type of a field table, sent to RabbitMQ and fetched back."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import anyio
import pytest

import anyamqp
from anyamqp import FieldTable, FieldValue, InvalidArgument, Message
from support.queues import unique
from support.rabbitmq import Node

pytestmark = pytest.mark.anyio

LIMIT = 60.0
NOON = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)

SAME: dict[str, FieldValue] = {
    "true": True,
    "false": False,
    "zero": 0,
    "the least of 32 bits": -(2**31),
    "the most of 32 bits": 2**31 - 1,
    "beyond 32 bits, unsigned": 2**32 - 1,
    "the least of 64 bits": -(2**63),
    "the most of 64 bits": 2**63 - 1,
    "a float that 32 bits cannot hold": 1.1,
    "a tiny float": 5e-324,
    "a decimal": Decimal("-12.345"),
    "a large decimal": Decimal(2**31 - 1),
    "text": "grüße 你好 \x00",
    "no text": "",
    "bytes": bytes(range(256)),
    "no bytes": b"",
    "a time": NOON,
    "nothing": None,
    "a list": [1, "two", 3.0, None, [b"4", {"five": True}]],
    "no list": [],
    "a table": {"a": {"b": {"c": [{"d": NOON}]}}},
    "no table": {},
    "k" * 255: "a long key",
}


async def round_trip(node: Node, message: Message) -> Message:
    queue = unique("round-trip")
    with anyio.fail_after(LIMIT):
        async with (
            anyamqp.connect(node.url) as connection,
            connection.channel() as channel,
            connection.publisher() as publisher,
        ):
            await channel.declare_queue(queue, exclusive=True)
            await publisher.publish(message, routing_key=queue)
            delivery = await channel.get(queue, no_ack=True)
    assert delivery is not None
    return delivery.message


@pytest.mark.parametrize("name", SAME)
async def test_a_value_in_a_table_comes_back_as_it_was(shared_node: Node, name: str) -> None:
    headers = (await round_trip(shared_node, Message(b"x", headers={name: SAME[name]}))).headers or {}
    assert headers == {name: SAME[name]}
    assert type(headers[name]) is type(SAME[name])


async def test_all_values_in_one_table_come_back_in_their_order(shared_node: Node) -> None:
    headers = (await round_trip(shared_node, Message(b"x", headers=SAME))).headers or {}
    assert headers == SAME


@pytest.mark.parametrize(
    ("sent", "back"),
    [
        (bytearray(b"x"), b"x"),
        ((1, 2), [1, 2]),
        (NOON.astimezone(timezone(timedelta(hours=5))), NOON),
        (NOON + timedelta(milliseconds=900), NOON),
    ],
    ids=["bytearray", "tuple", "a time in another zone", "a fraction of a second"],
)
async def test_a_value_comes_back_as_its_plainest_form(shared_node: Node, sent: Any, back: FieldValue) -> None:
    headers: FieldTable = {"value": sent}
    assert (await round_trip(shared_node, Message(b"x", headers=headers))).headers == {"value": back}


async def test_every_property_comes_back(shared_node: Node) -> None:
    message = Message(
        b"x",
        content_type="application/json",
        content_encoding="gzip",
        headers={"a": 1},
        persistent=False,
        priority=9,
        correlation_id="c" * 255,
        reply_to="somebody",
        expiration=60.5,
        message_id="m",
        timestamp=NOON,
        type="t",
        user_id="guest",
        app_id="",
    )
    assert await round_trip(shared_node, message) == message


async def test_unset_properties_are_absent_except_id_and_persistence(shared_node: Node) -> None:
    message = await round_trip(shared_node, Message(b"x"))
    assert message.message_id is not None
    assert message == Message(b"x", message_id=message.message_id, persistent=True)


@pytest.mark.parametrize("size", [0, 1, 131063, 131064, 131065, 262128, 16 * 1024 * 1024])
async def test_a_body_of_any_size_comes_back(shared_node: Node, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert (await round_trip(shared_node, Message(body))).body == body


class Unknown:
    pass


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"outer": {"inner": Unknown()}}, "headers.outer.inner: AMQP tables cannot carry Unknown"),
        ({"list": [1, {2, 3}]}, r"headers.list\[1\]: AMQP tables cannot carry set"),
        ({"huge": 2**63}, "headers.huge: 9223372036854775808 does not fit"),
        ({"fine": Decimal("0.00000000001")}, None),
        ({"wide": Decimal(2**31)}, "headers.wide: 2147483648 does not fit"),
        ({"infinite": math.inf}, "headers.infinite: inf is no number that RabbitMQ can carry"),
        ({"nan": math.nan}, "headers.nan: nan is no number"),
        ({"nan": Decimal("NaN")}, "headers.nan: AMQP's decimals cannot carry NaN"),
        ({"early": datetime(1969, 1, 1, tzinfo=UTC)}, "headers.early: .* is before 1970"),
        ({"k" * 256: 1}, "256 bytes, but AMQP's short strings hold at most 255"),
        ({1: "x"}, "headers.1: int instead of text"),
        ({"text": "\ud800"}, "headers.text: text that UTF-8 cannot carry"),
    ],
)
async def test_a_value_that_amqp_cannot_carry_is_refused_before_anything_is_sent(
    shared_node: Node, value: Any, named: str | None
) -> None:
    with anyio.fail_after(LIMIT):
        async with anyamqp.connect(shared_node.url) as connection, connection.publisher() as publisher:
            sent = connection.stats.frames_sent
            message = Message(b"x", headers=value)
            if named is None:
                await publisher.publish(message, routing_key="nowhere", mandatory=False)
                return
            with pytest.raises(InvalidArgument, match=named):
                await publisher.publish(message, routing_key="nowhere", mandatory=False)
            assert connection.stats.frames_sent == sent
            await publisher.publish(Message(b"goes on"), routing_key="nowhere", mandatory=False)
