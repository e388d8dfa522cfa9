"""Invariant 12 for the decoder: no bytes raise anything but a protocol error, and memory and work stay bounded."""

from __future__ import annotations

import re
import struct
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyamqp.errors import FrameError, ReplyError, Side
from anyamqp.message import Message
from anyamqp.protocol.events import Ended
from anyamqp.wire import methods
from anyamqp.wire.basic import Received
from anyamqp.wire.decoder import Decoder
from anyamqp.wire.frames import PROTOCOL_HEADER, Frame, encode_content
from anyamqp.wire.methods import Method
from anyamqp.wire.receiving import Header
from support.amqp import (
    BODY,
    FRAME_MAX,
    HEADER,
    HEARTBEAT,
    METHOD,
    any_method,
    body,
    comparable,
    content,
    contents,
    decode,
    expect,
    frame,
    octets,
    opened,
)
from support.streams import METHODS, any_methods, channels, damaged, frames, split, streams, tables

FRAME_MAX_FLOOR = 8192
DELIVER = methods.Basic.Deliver("c", 1, redelivered=False, exchange="x", routing_key="r")

FAULTS = {501, 502, 503, 505}

CONTENT_START = struct.pack(">HHQ", 60, 0, 5)
"""A content header up to its property flags."""


def held(decoder: Decoder) -> int:
    """Bytes that the decoder keeps."""
    return sum(map(len, vars(decoder)["_chunks"]))


def outcome(chunks: list[bytes], *, limit: int = FRAME_MAX, as_server: bool = False) -> tuple[list[Frame], str | None]:
    """All frames of a stream, and the fault that it ends in; invariant 12 is checked on the way.

    Pieces of body that follow each other are put together: where a large frame is cut depends on how the stream is.
    """
    seen, fault = _outcome(chunks, limit=limit, as_server=as_server)
    joined: list[Frame] = []
    for one in seen:
        last = joined[-1] if joined else None
        if not isinstance(one.payload, bytes | memoryview):
            joined.append(one)
        elif last and isinstance(last.payload, bytes) and one.channel == last.channel:
            joined[-1] = Frame(one.channel, last.payload + octets(one.payload))
        else:
            joined.append(Frame(one.channel, octets(one.payload)))
    return joined, fault


def _outcome(chunks: list[bytes], *, limit: int, as_server: bool) -> tuple[list[Frame], str | None]:
    decoder = Decoder(limit, as_server=as_server)
    seen: list[Frame] = []
    for chunk in chunks:
        before = held(decoder)
        decoder.feed(chunk)
        assert held(decoder) <= before + len(chunk)
        fault = _take(decoder, seen)
        if fault is not None:
            assert fault.found_by is Side.CLIENT
            assert fault.code in FAULTS
            assert held(decoder) == 0
            return seen, str(fault)
        assert held(decoder) < limit
    return seen, None


def _take(decoder: Decoder, seen: list[Frame]) -> ReplyError | None:
    try:
        seen.extend(decoder.frames())
    except ReplyError as error:
        return error
    return None


# --- whole streams --------------------------------------------------------------------------------------------------


@given(channels, any_methods())
def test_a_method_comes_back_as_it_was(channel: int, method: Method) -> None:
    assert comparable(decode(any_method(channel, method))) == comparable([Frame(channel, method)])


@given(streams, st.data())
def test_a_stream_decodes_the_same_however_it_is_split(stream: bytes, data: st.DataObject) -> None:
    whole, fault = outcome([stream])
    assert fault is None
    pieces, fault = outcome(data.draw(split(stream)))
    assert fault is None
    assert comparable(pieces) == comparable(whole)


@given(streams, st.data())
def test_a_servers_stream_decodes_the_same_however_it_is_split(stream: bytes, data: st.DataObject) -> None:
    stream = PROTOCOL_HEADER + stream
    whole, fault = outcome([stream], as_server=True)
    assert fault is None
    pieces, fault = outcome(data.draw(split(stream)), as_server=True)
    assert fault is None
    assert comparable(pieces) == comparable(whole)


@given(st.lists(st.integers(0, 60_000), min_size=1, max_size=4), st.data())
def test_bodies_are_the_same_wherever_their_frames_are_cut(sizes: list[int], data: st.DataObject) -> None:
    bodies = [size.to_bytes(2, "big") * (size // 2) for size in sizes]
    dialogue = opened()
    number = dialogue.open_channel()
    stream = b"".join(content(number, DELIVER, one, frame_max=FRAME_MAX_FLOOR * 4) for one in bodies)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    told = [event for start, end in pairwise([0, *cuts, len(stream)]) for event in dialogue.say(stream[start:end])]
    assert [one.message.body for one in contents(told)] == bodies


def test_a_large_body_whose_frame_does_not_end_is_not_told() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    stream = content(number, DELIVER, bytes(100_000))
    told = [event for part in (stream[:50_000], stream[50_000:-1] + b"\x00") for event in dialogue.say(part)]
    assert contents(told) == []
    assert expect(expect(told[-1], Ended).error, FrameError).found_by is Side.CLIENT


@given(st.lists(frames, min_size=1, max_size=6))
def test_every_frame_of_a_stream_is_given(parts: list[bytes]) -> None:
    each = [only for part in parts for only in decode(part)]
    assert len(each) == len(parts)
    assert comparable(decode(b"".join(parts))) == comparable(each)


@given(
    st.binary(max_size=2000),
    st.integers(256, 700),
    tables.filter(lambda table: len(str(table)) < 40 and not {"inf", "nan"} & set(re.findall(r"\w+", str(table)))),
    st.dictionaries(
        st.sampled_from(["message_id", "correlation_id", "reply_to", "type", "app_id"]), st.text(max_size=10)
    ),
)
def test_content_comes_back_as_it_was(
    data: bytes, frame_max: int, table: dict[str, Any], texts: dict[str, Any]
) -> None:
    message = Message(data, headers=table, persistent=True, **texts)
    parts = encode_content(1, methods.Basic.Publish(routing_key="q"), message, frame_max)
    assert all(len(part) <= frame_max for part in parts)
    _, head, *pieces = decode(b"".join(parts), max_frame_size=frame_max)
    encoded = expect(head.payload, Header).encoded
    assert Received(b"".join(octets(piece.payload) for piece in pieces), encoded) == message


# --- broken streams -------------------------------------------------------------------------------------------------


@st.composite
def _sound_frames(draw: st.DrawFn) -> bytes:
    kind = draw(st.sampled_from([METHOD, HEADER, BODY, HEARTBEAT]))
    payload = draw(st.binary(max_size=60))
    if kind == METHOD and draw(st.booleans()):
        method: type[Method] = draw(st.sampled_from(METHODS))
        payload = method.index.to_bytes(4, "big") + payload
    elif kind == HEADER and draw(st.booleans()):
        payload = CONTENT_START + payload
    return frame(kind, draw(st.integers(0, 3)), payload)


@given(st.binary(max_size=300), st.integers(8, 300), st.booleans(), st.data())
def test_any_bytes_decode_or_end_in_a_protocol_error(
    stream: bytes,
    limit: int,
    as_server: bool,
    data: st.DataObject,
) -> None:
    outcome(data.draw(split(stream)), limit=limit, as_server=as_server)


@given(st.lists(_sound_frames(), max_size=4), st.data())
def test_any_payloads_in_sound_frames_decode_or_end_in_a_protocol_error(
    parts: list[bytes], data: st.DataObject
) -> None:
    outcome(data.draw(split(b"".join(parts))))


@given(damaged(), st.data())
def test_a_damaged_stream_decodes_or_ends_in_a_protocol_error(stream: bytes, data: st.DataObject) -> None:
    outcome(data.draw(split(stream)))


@given(damaged(), st.data())
def test_a_damaged_stream_gives_the_same_frames_and_fault_however_it_is_split(
    stream: bytes, data: st.DataObject
) -> None:
    whole, fault = outcome([stream])
    pieces, same_fault = outcome(data.draw(split(stream)))
    assert repr(comparable(pieces)) == repr(comparable(whole))  # NaN differs from itself
    assert same_fault == fault


@given(streams, st.binary(min_size=7, max_size=7).filter(lambda prefix: prefix[0] not in (1, 2, 3, 8)))
def test_what_precedes_a_fault_is_given(stream: bytes, garbage: bytes) -> None:
    before, _ = outcome([stream])
    given_, fault = outcome([stream + b"\xff" + garbage])
    assert fault is not None
    assert comparable(given_) == comparable(before)


@given(st.integers(57, 2**32 - 1), st.binary(max_size=50))
def test_a_frame_that_is_too_large_is_never_buffered(size: int, start: bytes) -> None:
    limit = 64
    _, fault = outcome([b"\x03\x00\x01" + size.to_bytes(4, "big"), start], limit=limit)
    assert fault is not None
    assert f"frame of {size + 8} bytes" in fault


# --- work -----------------------------------------------------------------------------------------------------------


def copied(stream: bytes) -> int:
    """Bytes that the decoder joins when the stream comes byte by byte."""
    decoder = Decoder(FRAME_MAX)
    total = kept = 0
    for position in range(len(stream)):
        decoder.feed(stream[position : position + 1])
        kept += 1
        before = vars(decoder)["_chunks"]
        list(decoder.frames())
        if vars(decoder)["_chunks"] is not before:
            total += kept
            kept = held(decoder)
    return total


@given(streams)
@settings(max_examples=30)
def test_a_stream_in_single_bytes_is_copied_a_bounded_number_of_times(stream: bytes) -> None:
    assert copied(stream) <= 3 * len(stream)


@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_a_body_that_trickles_in_costs_its_size(size: int) -> None:
    stream = body(1, bytes(size))
    assert copied(stream) <= 2 * len(stream)
