"""Arguments of queue.declare: which values are refused, and when two declarations are equivalent."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from anyamqp import FieldTable, FieldValue
from anyamqp.wire import methods
from anyamqp.wire.frames import build, encode_method, field_table
from support.amqp import METHOD, frame
from support.conformance import Refusal, Target
from support.queues import unique

pytestmark = pytest.mark.anyio


def declare(name: str, arguments: FieldTable, **flags: bool) -> methods.Queue.Declare:
    return build(methods.Queue.Declare, queue=name, arguments=field_table(arguments), **{"exclusive": True, **flags})


def failed(text: str) -> Refusal:
    return Refusal("channel", 406, f"PRECONDITION_FAILED - {text}")


# --- values ---------------------------------------------------------------------------------------------------------

WRONG_TYPES: list[tuple[FieldValue, str]] = [
    ("5", "longstr"),
    (True, "bool"),
    (1.5, "double"),
    (None, "void"),
    ([1], "array"),
    ({"a": 1}, "table"),
    (b"5", "binary"),
    (Decimal("1.5"), "decimal"),
    (datetime(2026, 1, 1, tzinfo=UTC), "timestamp"),
]


@pytest.mark.parametrize(("value", "kind"), WRONG_TYPES, ids=[kind for _, kind in WRONG_TYPES])
async def test_a_number_of_another_type_is_refused(target: Target, value: FieldValue, kind: str) -> None:
    name = unique("q")
    assert await target.refusal(declare(name, {"x-max-length": value})) == failed(
        f"invalid arg 'x-max-length' for queue '{name}' in vhost '/': \"expected integer, got {kind}\""
    )


INVALID: list[tuple[FieldTable, str, str]] = [
    ({"x-expires": 0}, "x-expires", "{value_zero,0}"),
    ({"x-expires": -1}, "x-expires", "{value_negative,-1}"),
    ({"x-expires": 315360000001}, "x-expires", "{value_too_large,315360000001}"),
    ({"x-expires": "1000"}, "x-expires", '"expected integer, got longstr"'),
    ({"x-message-ttl": -1}, "x-message-ttl", "{value_negative,-1}"),
    ({"x-message-ttl": 315360000001}, "x-message-ttl", "{value_too_large,315360000001}"),
    ({"x-message-ttl": False}, "x-message-ttl", '"expected integer, got bool"'),
    ({"x-max-length": -1}, "x-max-length", "{value_negative,-1}"),
    ({"x-max-length-bytes": -1}, "x-max-length-bytes", "{value_negative,-1}"),
    ({"x-max-length-bytes": "1"}, "x-max-length-bytes", '"expected integer, got longstr"'),
    ({"x-max-priority": -1}, "x-max-priority", "{value_negative,-1}"),
    ({"x-max-priority": 256}, "x-max-priority", "{max_value_exceeded,256}"),
    ({"x-max-priority": "5"}, "x-max-priority", '"expected integer, got longstr"'),
    ({"x-overflow": "drop-tail"}, "x-overflow", "invalid_overflow"),
    ({"x-overflow": 1}, "x-overflow", "{unacceptable_type,signedint}"),
    ({"x-overflow": 2**40}, "x-overflow", "{unacceptable_type,long}"),
    ({"x-dead-letter-routing-key": "k"}, "x-dead-letter-routing-key", "routing_key_but_no_dlx_defined"),
    ({"x-dead-letter-routing-key": 1}, "x-dead-letter-routing-key", "{unacceptable_type,signedint}"),
    (
        {"x-dead-letter-exchange": "x", "x-dead-letter-routing-key": 1},
        "x-dead-letter-routing-key",
        "{unacceptable_type,signedint}",
    ),
    ({"x-queue-version": 3}, "x-queue-version", "\"unsupported queue version '3'\""),
    ({"x-queue-version": -1}, "x-queue-version", "{value_negative,-1}"),
    ({"x-single-active-consumer": "yes"}, "x-single-active-consumer", "{unacceptable_type,longstr}"),
    ({"x-queue-type": "fast"}, "x-queue-type", "\"unsupported queue type 'fast'\""),
    ({"x-queue-type": 1}, "x-queue-type", "{unacceptable_type,signedint}"),
    ({"x-max-length": -1, "x-expires": 0}, "x-expires", "{value_zero,0}"),
    ({"x-max-length": -1, "x-queue-type": "fast"}, "x-queue-type", "\"unsupported queue type 'fast'\""),
]


@pytest.mark.parametrize(("arguments", "key", "fault"), INVALID, ids=[repr(arguments) for arguments, _, _ in INVALID])
async def test_an_invalid_argument_is_refused(target: Target, arguments: FieldTable, key: str, fault: str) -> None:
    name = unique("q")
    assert await target.refusal(declare(name, arguments)) == failed(
        f"invalid arg '{key}' for queue '{name}' in vhost '/': {fault}"
    )


async def test_a_dead_letter_exchange_must_be_a_text(target: Target) -> None:
    name = unique("q")
    assert await target.refusal(declare(name, {"x-dead-letter-exchange": 1, "x-queue-type": "fast"})) == failed(
        f"invalid type 'signedint' for arg 'x-dead-letter-exchange' in queue '{name}' in vhost '/'"
    )


@pytest.mark.parametrize("key", ["x-delivery-limit", "x-max-age", "x-dead-letter-strategy"])
async def test_an_argument_of_another_type_of_queue_is_refused(target: Target, key: str) -> None:
    name = unique("q")
    assert await target.refusal(declare(name, {key: "whatever", "x-unknown": 1})) == failed(
        f"invalid arg '{key}' for queue '{name}' in vhost '/' of queue type rabbit_classic_queue"
    )


async def test_an_unknown_queue_mode_is_refused_where_there_are_modes(target: Target) -> None:
    name = unique("q")
    async with target.raw(1) as peer:
        if target.rules.has_queue_modes:
            assert await target.refusal(declare(name, {"x-queue-mode": "fast"})) == failed(
                f"invalid arg 'x-queue-mode' for queue '{name}' in vhost '/': \"unsupported queue mode 'fast'\""
            )
        else:
            await peer.call(1, declare(name, {"x-queue-mode": "fast"}), methods.Queue.DeclareOk)


@pytest.mark.parametrize("kind", ["undefined", ""])
async def test_some_versions_have_names_for_no_type(target: Target, kind: str) -> None:
    name = unique("q")
    if kind in target.rules.names_of_no_queue_type:
        async with target.raw(1) as peer:
            await peer.call(1, declare(name, {"x-queue-type": kind}), methods.Queue.DeclareOk)
    else:
        assert await target.refusal(declare(name, {"x-queue-type": kind})) == failed(
            f"invalid arg 'x-queue-type' for queue '{name}' in vhost '/': \"unsupported queue type '{kind}'\""
        )


async def test_a_master_locator_is_refused_where_it_is_deprecated(target: Target) -> None:
    request = declare(unique("q"), {"x-queue-master-locator": "min-masters"})
    if target.rules.has_queue_master_locators:
        async with target.raw(1) as peer:
            await peer.call(1, request, methods.Queue.DeclareOk)
    else:
        text = (
            "INTERNAL_ERROR - Feature `queue_master_locator` is deprecated.\nBy default, this feature is not permitted "
            "anymore.\nThe feature will be removed from a future major RabbitMQ version, regardless of the "
            "configuration; actual version to be determined.\nTo con..."
        )
        assert await target.refusal(request) == Refusal("connection", 541, text)


VALID: list[FieldTable] = [
    {"x-max-length": 0, "x-max-length-bytes": 0, "x-message-ttl": 0},
    {"x-max-priority": 0},
    {"x-max-priority": 255},
    {"x-expires": 315360000000, "x-message-ttl": 315360000000},
    {"x-dead-letter-exchange": "nowhere", "x-dead-letter-routing-key": ""},
    {"x-dead-letter-exchange": ""},
    {"x-queue-mode": "lazy"},
    {"x-queue-mode": "default"},
    {"x-queue-version": 2},
    {"x-queue-type": "classic"},
    {"x-overflow": "drop-head"},
    {"x-overflow": "reject-publish"},
    {"x-overflow": "reject-publish-dlx"},
    {"x-unknown": ["of", "no", 1]},
]


@pytest.mark.parametrize("arguments", VALID, ids=map(repr, VALID))
async def test_a_valid_argument_is_accepted_twice(target: Target, arguments: FieldTable) -> None:
    name = unique("q")
    async with target.raw(1) as peer:
        for _ in range(2):
            await peer.call(1, declare(name, arguments), methods.Queue.DeclareOk)


# --- equivalence ----------------------------------------------------------------------------------------------------

LENGTH = "x-max-length"
DIFFERENT: list[tuple[FieldTable, FieldTable, str, str, str]] = [
    ({}, {LENGTH: 5}, LENGTH, "the value '5' of type 'signedint'", "none"),
    ({LENGTH: 5}, {}, LENGTH, "none", "the value '5' of type 'signedint'"),
    ({LENGTH: 5}, {LENGTH: 6}, LENGTH, "'6'", "'5'"),
    ({LENGTH: 5}, {LENGTH: "5"}, LENGTH, "'5'", "'5'"),
    ({}, {"x-message-ttl": 2**35}, "x-message-ttl", "the value '34359738368' of type 'long'", "none"),
    ({}, {"x-overflow": "drop-head"}, "x-overflow", "the value 'drop-head' of type 'longstr'", "none"),
    (
        {"x-overflow": "drop-head"},
        {"x-overflow": "reject-publish"},
        "x-overflow",
        "'reject-publish'",
        "'drop-head'",
    ),
    ({}, {"x-single-active-consumer": True}, "x-single-active-consumer", "the value 'true' of type 'bool'", "none"),
    ({}, {LENGTH: 1.5}, LENGTH, "the value '1.5' of type 'double'", "none"),
    (
        {},
        {LENGTH: {"a": 1, "b": "c"}},
        LENGTH,
        'the value \'[{<<"a">>,signedint,1},{<<"b">>,longstr,<<"c">>}]\' of type \'table\'',
        "none",
    ),
    ({}, {LENGTH: [1, "a"]}, LENGTH, "the value '[{signedint,1},{longstr,<<\"a\">>}]' of type 'array'", "none"),
    ({}, {LENGTH: None}, LENGTH, "the value 'undefined' of type 'void'", "none"),
    (
        {},
        {LENGTH: datetime(2026, 1, 1, tzinfo=UTC)},
        LENGTH,
        "the value '1767225600' of type 'timestamp'",
        "none",
    ),
    ({}, {LENGTH: Decimal("1.5")}, LENGTH, "the value '{1,15}' of type 'decimal'", "none"),
    ({}, {LENGTH: 1, "x-message-ttl": 2}, "x-message-ttl", "the value '2' of type 'signedint'", "none"),
    ({"x-queue-type": "classic"}, {"x-queue-type": "quorum"}, "x-queue-type", "'quorum'", "'classic'"),
]


@pytest.mark.parametrize(
    ("first", "second", "key", "received", "current"),
    DIFFERENT,
    ids=[f"{first} {second}" for first, second, *_ in DIFFERENT],
)
async def test_other_arguments_are_refused(
    target: Target, first: FieldTable, second: FieldTable, key: str, received: str, current: str
) -> None:
    name = unique("q")
    assert await target.refusal(declare(name, first), declare(name, second)) == failed(
        f"inequivalent arg '{key}' for queue '{name}' in vhost '/': received {received} but current is {current}"
    )


# Clients of other languages send numbers in more types than this project's does.
TYPED = [
    (b"b", b"\x05", "byte", "5"),
    (b"B", b"\x05", "unsignedbyte", "5"),
    (b"s", b"\x00\x05", "short", "5"),
    (b"u", b"\x00\x05", "unsignedshort", "5"),
    (b"I", b"\x00\x00\x00\x05", "signedint", "5"),
    (b"i", b"\x00\x00\x00\x05", "unsignedint", "5"),
    (b"l", b"\x00\x00\x00\x00\x00\x00\x00\x05", "long", "5"),
    (b"L", b"\x00\x00\x00\x00\x00\x00\x00\x05", "long", "5"),
    (b"f", struct.pack(">f", 1.5), "float", "1.5"),
    (b"d", struct.pack(">d", 1.5), "double", "1.5"),
]


def declare_typed(name: str, code: bytes, value: bytes) -> bytes:
    """The frame of an exclusive declaration with x-max-length in a type of the test's choice."""
    row = b"\x0cx-max-length" + code + value
    plain = encode_method(1, declare(name, {}))
    payload = plain[7:-5] + len(row).to_bytes(4, "big") + row
    return frame(METHOD, 1, payload)


@pytest.mark.parametrize(("code", "value", "kind", "text"), TYPED, ids=[code.decode() for code, *_ in TYPED])
async def test_a_refusal_names_the_type_that_a_client_sent(
    target: Target, code: bytes, value: bytes, kind: str, text: str
) -> None:
    name = unique("q")
    async with target.raw(1) as peer:
        await peer.call(1, declare(name, {}), methods.Queue.DeclareOk)
        await peer.say(declare_typed(name, code, value))
        close = await peer.expect(1, methods.Channel.Close)
        assert Refusal("channel", close.reply_code, close.reply_text) == failed(
            f"inequivalent arg 'x-max-length' for queue '{name}' in vhost '/': received the value '{text}' of type "
            f"'{kind}' but current is none"
        )


async def test_all_types_of_integers_are_equivalent(target: Target) -> None:
    name = unique("q")
    async with target.raw(1) as peer:
        for code, value, *_ in TYPED[:8]:
            await peer.say(declare_typed(name, code, value))
            await peer.expect(1, methods.Queue.DeclareOk)


SAME: list[tuple[FieldTable, FieldTable]] = [
    ({}, {"x-queue-type": "classic"}),
    ({"x-queue-type": "classic"}, {}),
    ({"x-unknown": 1}, {}),
    ({}, {"x-unknown": 1}),
    ({"x-unknown": 1}, {"x-unknown": "other"}),
    ({}, {"x-delivery-limit": 1}),
]


@pytest.mark.parametrize(("first", "second"), SAME, ids=map(repr, SAME))
async def test_arguments_without_effect_may_differ(target: Target, first: FieldTable, second: FieldTable) -> None:
    name = unique("q")
    async with target.raw(1) as peer:
        await peer.call(1, declare(name, first), methods.Queue.DeclareOk)
        await peer.call(1, declare(name, second), methods.Queue.DeclareOk)


async def test_another_auto_delete_is_refused(target: Target) -> None:
    for first in (False, True):
        name, second = unique("q"), not first
        assert await target.refusal(
            declare(name, {}, auto_delete=first), declare(name, {"x-max-length": 1}, auto_delete=second)
        ) == failed(
            f"inequivalent arg 'auto_delete' for queue '{name}' in vhost '/': "
            f"received '{str(second).lower()}' but current is '{str(first).lower()}'"
        )
