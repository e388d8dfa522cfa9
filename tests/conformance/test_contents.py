"""Messages pass through the broker: byte for byte, but that RabbitMQ 4 writes their properties anew."""

from __future__ import annotations

import struct
from typing import Final

import pytest

from anyamqp.wire import methods
from anyamqp.wire.basic import Received
from anyamqp.wire.frames import build, encode_method
from anyamqp.wire.receiving import Header
from support.amqp import body, expect, header, octets
from support.conformance import Target
from support.queues import unique
from support.rawpeer import RawPeer

pytestmark = pytest.mark.anyio

EVERY_TYPE: Final = (
    *(b"\x01tt\x02", b"\x01bb\xff", b"\x01BB\xff", b"\x01ss\xff\xfe", b"\x01uu\xff\xfe"),
    *(b"\x01II\xff\xff\xff\xfe", b"\x01ii\xff\xff\xff\xfe", b"\x01ll" + b"\xff" * 8, b"\x01LL" + b"\xff" * 8),
    *(b"\x01ff\x3f\x80\0\0", b"\x01dd\x3f\xf0\0\0\0\0\0\0", b"\x01DD\x02\0\0\0\x05", b"\x01TT" + b"\xff" * 8),
    *(b"\x01SS\0\0\0\x02\xff\xfe", b"\x01xx\0\0\0\x01\0", b"\x01VV", b"\x01AA\0\0\0\x02VV", b"\x01FF\0\0\0\x02\0V"),
)
LONG: Final = b"L" + bytes(8), b"l" + bytes(8)


def table(rows: bytes) -> bytes:
    return struct.pack(">I", len(rows)) + rows


PROPERTIES: Final = {
    "none": b"\0\0",
    "transient": struct.pack(">H", 1 << 12) + b"\1",
    "persistent": struct.pack(">H", 1 << 12) + b"\2",
    "unknown-flags": b"\0\3",
    "unknown-flag": b"\0\2",
    "cluster-id": b"\0\4\x02\xff\xfe",
    "no-utf-8": b"\x80\0\x02\xff\xfe",
    "empty-headers": b"\x20\0" + table(b""),
    "unsorted-headers": b"\x20\0" + table(b"\x01zV\x01aV\x01zV"),
    "every-type": b"\x20\0" + table(b"".join(EVERY_TYPE)),
    "time": b"\x00\x40" + b"\xff" * 8,
    "one-name": b"\x20\0" + table(b"\x01zb\1\x01ab\2\x01zb\3"),
    "no-utf-8-names": b"\x20\0" + table(b"\x02\xff\xfeV\x01aV"),
    "nested": b"\x20\0" + table(b"\x01aF" + table(b"\x01zV\x01at\2\x01aA" + table(LONG[0] + b"S\0\0\0\1LI\0\0\0\1"))),
    "expiration": b"\x01\0\x06060000",
    "signed-expiration": b"\x01\0\x06+60000",
    "several": b"\xb9\xc8\x01t" + table(b"\x01aI\0\0\0\1") + b"\2\xff" + b"\x0560000" + b"\x01i" + bytes(8) + b"\x01a",
}

REWRITTEN: Final = {
    "unknown-flags": b"\0\0",
    "unknown-flag": b"\0\0",
    "unsorted-headers": b"\x20\0" + table(b"\x01aV\x01zV"),
    "every-type": b"\x20\0"
    + table(b"".join(sorted(EVERY_TYPE)).replace(b"\x01LL", b"\x01Ll").replace(b"tt\x02", b"tt\x01")),
    "one-name": b"\x20\0" + table(b"\x01ab\2\x01zb\1"),
    "no-utf-8-names": b"\x20\0" + table(b"\x01aV\x02\xff\xfeV"),
    "nested": b"\x20\0" + table(b"\x01aF" + table(b"\x01zV\x01at\1\x01aA" + table(LONG[1] + b"S\0\0\0\1LI\0\0\0\1"))),
    "expiration": b"\x01\0\x0560000",
    "signed-expiration": b"\x01\0\x0560000",
}
"""As RabbitMQ 4 hands them on, where that differs."""


async def content_of(peer: RawPeer) -> Received:
    """The header and the body that come next, undecoded."""
    head = expect((await peer.frame()).payload, Header)
    data = b""
    while len(data) < head.body_size:
        data += octets((await peer.frame()).payload)
    return Received(data, head.encoded)


async def publish(peer: RawPeer, key: str, encoded: bytes, *pieces: bytes, mandatory: bool = False) -> None:
    """Publish a message on channel 1, its body in these pieces."""
    method = encode_method(1, build(methods.Basic.Publish, routing_key=key, mandatory=mandatory))
    await peer.say(method, header(1, sum(map(len, pieces)), properties=encoded), *(body(1, one) for one in pieces))


@pytest.mark.parametrize("case", PROPERTIES)
async def test_properties_arrive_as_they_were_sent(target: Target, case: str) -> None:
    name, encoded = unique("bytes"), PROPERTIES[case]
    arriving = REWRITTEN.get(case, encoded) if target.rules.rewrites_properties else encoded
    async with target.raw(1) as peer:
        await peer.call(1, build(methods.Queue.Declare, queue=name, exclusive=True), methods.Queue.DeclareOk)
        await publish(peer, name, encoded, b"x")
        await peer.call(1, build(methods.Basic.Get, queue=name, no_ack=True), methods.Basic.GetOk)
        assert (await content_of(peer)).encoded == arriving
        await publish(peer, name, encoded)
        await peer.call(1, build(methods.Basic.Consume, queue=name, no_ack=True), methods.Basic.ConsumeOk)
        await peer.expect(1, methods.Basic.Deliver)
        delivered = await content_of(peer)
        assert (delivered.encoded, delivered.body) == (arriving, b"")


async def test_body_in_pieces_arrives_whole(target: Target) -> None:
    name = unique("bytes")
    pieces = [bytes([number]) * 1000 * number for number in range(60)]
    async with target.raw(1) as peer:
        await peer.call(1, build(methods.Queue.Declare, queue=name, exclusive=True), methods.Queue.DeclareOk)
        await publish(peer, name, b"\0\0", *pieces)
        await peer.call(1, build(methods.Basic.Get, queue=name, no_ack=True), methods.Basic.GetOk)
        assert (await content_of(peer)).body == b"".join(pieces)


async def test_returned_message_comes_back_as_it_was_sent(target: Target) -> None:
    rows, in_order = b"\x01zV\x01aV", b"\x01aV\x01zV"
    async with target.raw(1) as peer:
        await publish(peer, unique("nowhere"), b"\x20\0" + table(rows), b"x", mandatory=True)
        await peer.expect(1, methods.Basic.Return)
        returned = await content_of(peer)
        told = in_order if target.rules.rewrites_properties else rows
        assert (returned.encoded, returned.body) == (b"\x20\0" + table(told), b"x")


async def test_body_larger_than_the_broker_accepts_closes_the_channel(target: Target) -> None:
    limit = target.rules.message_size
    if limit > 2**25:
        pytest.skip("it would take seconds to send one that is larger than this version accepts")
    size, frame_size = limit + 1, 100_000
    async with target.raw(1) as peer:
        pieces = [bytes(frame_size)] * (size // frame_size) + [bytes(size % frame_size)]
        await publish(peer, "nowhere", b"\0\0", *pieces)
        close = await peer.expect(1, methods.Channel.Close)
        text = f"PRECONDITION_FAILED - message size {size} is larger than configured max size {limit}"
        assert (close.reply_code, close.reply_text) == (406, text)
