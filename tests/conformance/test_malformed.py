"""Bytes that are not sound AMQP: what is accepted, what is refused, and with which code, text and method."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import anyio
import pytest

from anyamqp.wire import methods
from anyamqp.wire.frames import build, encode_method
from support.amqp import BODY, HEADER, HEARTBEAT, METHOD, body, frame, header, method_frame
from support.conformance import Target

pytestmark = pytest.mark.anyio

PUBLISH: Final = encode_method(1, build(methods.Basic.Publish, routing_key="nowhere"))
DECLARE: Final = build(methods.Queue.Declare, queue="nowhere", passive=True)

CONTENT_TYPE, HEADERS, DELIVERY_MODE, TIMESTAMP, CLUSTER_ID = (1 << at for at in (15, 13, 12, 6, 2))
"""Flags of properties."""

NOTHING: Final = (0, 0)
QUEUE_DECLARE: Final = (50, 10)
BASIC_PUBLISH: Final = (60, 40)


class Close(NamedTuple):
    """The connection.close of a broker: code, text, and the method that it names."""

    code: int
    text: str
    at_fault: tuple[int, int] = NOTHING


def table(rows: bytes) -> bytes:
    return struct.pack(">I", len(rows)) + rows


def nested(depth: int) -> bytes:
    rows = b""
    for _ in range(depth):
        rows = b"\x01aF" + table(rows)
    return table(rows)


def publish(flags: int, values: bytes = b"") -> bytes:
    """A message with these properties."""
    return PUBLISH + header(1, 0, properties=struct.pack(">H", flags) + values)


async def close_of(target: Target, data: bytes) -> Close:
    """The connection.close with which a broker answers these bytes."""
    async with target.raw(1) as peer:
        await peer.say(data)
        close = await peer.closed()
        return Close(close.reply_code, close.reply_text, (close.class_id, close.method_id))


async def is_accepted(target: Target, data: bytes) -> bool:
    """Whether the broker goes on after these bytes."""
    async with target.raw(1) as peer:
        await peer.say(data)
        await peer.call(1, build(methods.Basic.Qos, prefetch_count=1), methods.Basic.QosOk)
        return True


# --- properties -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(publish(HEADERS, b"\0\0\0\x50\x01aI\0\0\0\1"), id="table-overruns"),
        pytest.param(publish(HEADERS, table(b"\x01aS\0\0\0\x50abc")), id="value-overruns-table"),
        pytest.param(publish(HEADERS, table(b"\x01aZ\0\0\0\1")), id="unknown-type"),
        pytest.param(publish(HEADERS, table(b"\x01aA" + table(b"Z"))), id="unknown-type-in-array"),
        pytest.param(publish(HEADERS, table(b"\x01ad\x7f\xf8\0\0\0\0\0\0")), id="not-a-number"),
        pytest.param(publish(HEADERS, table(b"\x01af\x7f\x80\0\0")), id="infinity"),
        pytest.param(publish(CONTENT_TYPE, b"\x05ab"), id="truncated"),
        pytest.param(publish(CONTENT_TYPE, b"\x01aXYZ"), id="extra-bytes"),
        pytest.param(publish(1 << 1, b"\x01a"), id="value-of-unknown-flag"),
        pytest.param(PUBLISH + header(1, 0, properties=b"\0"), id="half-of-the-flags"),
    ],
)
async def test_properties_that_cannot_be_read_are_an_internal_error(target: Target, data: bytes) -> None:
    assert await close_of(target, data) == Close(541, "INTERNAL_ERROR")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(publish(1 << 1 | 1), id="unknown-flags"),
        pytest.param(publish(CLUSTER_ID, b"\x01a"), id="cluster-id"),
        pytest.param(publish(CONTENT_TYPE, b"\x02\xff\xfe"), id="no-utf-8"),
        pytest.param(publish(HEADERS, table(b"\x02\xff\xfeV")), id="key-without-utf-8"),
        pytest.param(publish(HEADERS, table(b"\x01aV\x01aV")), id="key-twice"),
        pytest.param(publish(HEADERS, nested(60)), id="nested"),
        pytest.param(publish(TIMESTAMP, b"\xff" * 8), id="time-of-no-calendar"),
        pytest.param(PUBLISH + header(1, 1) + body(1, b"") + body(1, b"x"), id="empty-body-frame"),
    ],
)
async def test_odd_properties_and_bodies_are_accepted(target: Target, data: bytes) -> None:
    assert await is_accepted(target, data)


async def test_unknown_delivery_mode(target: Target) -> None:
    data = publish(DELIVERY_MODE, b"\3")
    if not target.rules.checks_delivery_mode:
        assert await is_accepted(target, data)
        return
    async with target.raw(1) as peer:
        await peer.say(data)
        close = await peer.expect(1, methods.Channel.Close)
        text = "PRECONDITION_FAILED - invalid message: {delivery_mode_unknown,3}"
        assert (close.reply_code, close.reply_text) == (406, text)


# --- the order of frames --------------------------------------------------------------------------------------------

OUT_OF_PLACE = "UNEXPECTED_FRAME - expected method frame, got non method frame instead"
NO_HEADER = "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead"
NO_BODY = "UNEXPECTED_FRAME - expected content body, got non content body frame instead"
OTHER_CLASS = "UNEXPECTED_FRAME - expected content header for class 60, got one for class 50 instead"


@pytest.mark.parametrize(
    ("data", "text", "at_fault"),
    [
        pytest.param(header(1, 1), OUT_OF_PLACE, NOTHING, id="header-alone"),
        pytest.param(body(1, b"x"), OUT_OF_PLACE, NOTHING, id="body-alone"),
        pytest.param(header(7, 0), OUT_OF_PLACE, NOTHING, id="header-on-closed-channel"),
        pytest.param(PUBLISH + encode_method(1, DECLARE), NO_HEADER, BASIC_PUBLISH, id="method-for-header"),
        pytest.param(PUBLISH + body(1, b"x"), NO_HEADER, BASIC_PUBLISH, id="body-for-header"),
        pytest.param(
            PUBLISH + frame(HEADER, 1, struct.pack(">HHQH", 60, 1, 0, 0)), NO_HEADER, BASIC_PUBLISH, id="weight"
        ),
        pytest.param(PUBLISH + header(1, 0, class_id=50), OTHER_CLASS, BASIC_PUBLISH, id="other-class"),
        pytest.param(PUBLISH + header(1, 1) * 2, NO_BODY, BASIC_PUBLISH, id="header-for-body"),
        pytest.param(PUBLISH + header(1, 1) + PUBLISH, NO_BODY, BASIC_PUBLISH, id="method-for-body"),
        pytest.param(body(0, b"x"), 'UNEXPECTED_FRAME - type 3, all octets = <<"x">>', NOTHING, id="body-on-0"),
        pytest.param(frame(HEARTBEAT, 1, b""), "UNEXPECTED_FRAME - type 8, all octets = <<>>", NOTHING, id="heartbeat"),
    ],
)
async def test_frames_out_of_order_are_unexpected(
    target: Target, data: bytes, text: str, at_fault: tuple[int, int]
) -> None:
    assert await close_of(target, data) == Close(505, text, at_fault)


async def test_body_larger_than_announced(target: Target) -> None:
    data = PUBLISH + header(1, 1) + body(1, b"xx")
    if target.rules.checks_body_frames:
        text = "FRAME_ERROR - content body frame exceeds remaining content size"
        assert await close_of(target, data) == Close(501, text, BASIC_PUBLISH)
    else:
        assert await close_of(target, data + PUBLISH) == Close(505, NO_BODY, BASIC_PUBLISH)


async def test_body_announced_as_larger_than_any_may_be(target: Target) -> None:
    data = PUBLISH + header(1, 2**63)
    if target.rules.checks_body_frames:
        text = f"FRAME_ERROR - content body size {2**63} exceeds maximum allowed size {2**29}"
        assert await close_of(target, data) == Close(501, text, BASIC_PUBLISH)
    else:
        assert await close_of(target, data + PUBLISH) == Close(505, NO_BODY, BASIC_PUBLISH)


# --- frames ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "told"),
    [
        pytest.param(
            frame(METHOD, 1, b"\0\x0a\0\x0a", end=b"\xcd"),
            "type 1, all octets = <<0,10,0,10>>: {invalid_frame_end_marker,205}",
            id="end",
        ),
        pytest.param(frame(4, 1, b""), "type 4, all octets = <<>>: unknown_frame", id="type"),
        pytest.param(
            frame(9, 0, b"abc" * 20), 'type 9, first 16 octets = <<"abcabcabcabcabca">>: unknown_frame', id="snippet"
        ),
        pytest.param(frame(HEARTBEAT, 0, b'"\\'), 'type 8, all octets = <<"\\"\\\\">>: unknown_frame', id="heartbeat"),
        pytest.param(frame(METHOD, 1, b"\0\x32"), "type 1, all octets = <<0,50>>: unknown_frame", id="short-method"),
        pytest.param(
            frame(HEADER, 1, b"\0\x3c\0"), "type 2, all octets = <<0,60,0>>: unknown_frame", id="short-header"
        ),
        pytest.param(
            struct.pack(">BHI", BODY, 1, 131073),
            "type 3, all octets = <<>>: {frame_too_large,131073,131064}",
            id="larger-than-agreed",
        ),
        pytest.param(
            b"AMQP\0\0\x09\x01", "type 65, all octets = <<>>: {frame_too_large,1342177289,131064}", id="protocol-header"
        ),
    ],
)
async def test_frames_that_cannot_be_are_frame_errors(target: Target, data: bytes, told: str) -> None:
    assert await close_of(target, data) == Close(501, f"FRAME_ERROR - {told}")


async def test_frame_may_be_larger_than_agreed_by_what_surrounds_it(target: Target) -> None:
    """Many clients do not count the eight bytes around a payload."""
    size = 131072
    assert await is_accepted(target, PUBLISH + header(1, size) + body(1, bytes(size)))


# --- methods --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "close"),
    [
        pytest.param(
            method_frame(1, 50, 10, b"\0\0\x05ab"),
            Close(501, "FRAME_ERROR - cannot decode <<0,0,5,97,98>>", QUEUE_DECLARE),
            id="truncated",
        ),
        pytest.param(
            method_frame(1, 50, 10, b"\0\0\x01x\x01\0\0\0\0y"),
            Close(501, "FRAME_ERROR - cannot decode <<0,0,1,120,1,0,0,0,0,121>>", QUEUE_DECLARE),
            id="extra-bytes",
        ),
        pytest.param(
            method_frame(1, 50, 10, b"\0\0\x01x\0\0\0\0\x50\x01aV"),
            Close(501, "FRAME_ERROR - cannot decode <<0,0,1,120,0,0,0,0,80,1,97,86>>", QUEUE_DECLARE),
            id="table-overruns",
        ),
        pytest.param(
            method_frame(1, 50, 10, b"\0\0\x02\xff\xfe\x01\0\0\0\0"),
            Close(501, "FRAME_ERROR - Malformed UTF-8 in shortstr"),
            id="no-utf-8",
        ),
        pytest.param(method_frame(0, 10, 50), Close(541, "INTERNAL_ERROR"), id="truncated-on-0"),
        pytest.param(
            encode_method(1, build(methods.Queue.DeclareOk, "q", 0, 0)),
            Close(503, "COMMAND_INVALID - unimplemented method", (50, 11)),
            id="method-of-a-broker",
        ),
        pytest.param(
            encode_method(1, build(methods.Basic.Deliver, "t", 1, False, "", "q")) + header(1, 0),
            Close(503, "COMMAND_INVALID - unimplemented method", (60, 60)),
            id="delivery",
        ),
        pytest.param(
            encode_method(1, build(methods.Channel.CloseOk)),
            Close(503, "COMMAND_INVALID - unimplemented method", (20, 41)),
            id="close-ok-unasked",
        ),
        pytest.param(
            encode_method(0, build(methods.Connection.OpenOk)),
            Close(504, "CHANNEL_ERROR - unexpected method in connection state running", (10, 41)),
            id="open-ok",
        ),
        pytest.param(
            encode_method(0, DECLARE),
            Close(504, "CHANNEL_ERROR - unexpected method in connection state running", QUEUE_DECLARE),
            id="declare-on-0",
        ),
        pytest.param(
            encode_method(7, DECLARE),
            Close(504, "CHANNEL_ERROR - expected 'channel.open'", QUEUE_DECLARE),
            id="channel-not-open",
        ),
    ],
)
async def test_methods_that_cannot_be_close_the_connection(target: Target, data: bytes, close: Close) -> None:
    assert await close_of(target, data) == close


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(method_frame(1, 60, 999), id="unknown-method"),
        pytest.param(method_frame(0, 99, 1), id="unknown-class-on-0"),
        pytest.param(method_frame(1, 50, 10, b"\0\0\x01x\0" + table(b"\x01aZ")), id="unknown-type-in-arguments"),
    ],
)
async def test_methods_at_which_rabbitmq_fails_end_the_transport_without_a_word(target: Target, data: bytes) -> None:
    async with target.raw(1) as peer:
        await peer.say(data)
        await peer.ended()


async def test_routing_key_of_a_message_need_not_be_utf_8(target: Target) -> None:
    assert await is_accepted(target, method_frame(1, 60, 40, b"\0\0\0\x02\xff\xfe\0") + header(1, 0))


# --- after a refusal ------------------------------------------------------------------------------------------------


async def test_refusal_ends_no_other_connection(target: Target) -> None:
    async with target.raw(1) as other:
        assert await close_of(target, publish(CONTENT_TYPE, b"\x05ab")) == Close(541, "INTERNAL_ERROR")
        await other.call(1, build(methods.Basic.Qos, prefetch_count=1), methods.Basic.QosOk)


async def test_client_that_still_sends_after_a_refusal_receives_all_of_it(target: Target) -> None:
    """The broker reads on; a transport that it closed over unread input would be reset, and the close might be lost."""
    async with target.raw(1) as peer:
        await peer.say(publish(CONTENT_TYPE, b"\x05ab"), PUBLISH + header(1, 200_000) + body(1, bytes(100_000)) * 2)
        await anyio.wait_all_tasks_blocked()
        assert (await peer.closed()).reply_code == 541
        await peer.send(0, build(methods.Connection.CloseOk))
        await peer.ended()
