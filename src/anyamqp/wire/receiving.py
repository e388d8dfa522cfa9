"""The frames that a broker sends with every message, decoded by hand: basic.deliver, basic.ack, basic.nack, headers.

:mod:`anyamqp.wire.decoder` decodes all other methods, from tables, in ten times the time. The property tests compare
the results with pamqp's. The names in basic.deliver are the same for most deliveries of a consumer; they are decoded
once.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any, Final, NamedTuple

from anyamqp.message import Properties
from anyamqp.wire import methods
from anyamqp.wire.basic import (
    ACK_SIZE,
    BASIC_CLASS,
    BODY,
    CONTENT,
    CONTENT_PREFIX,
    END_OCTET,
    FRAME_OVERHEAD,
    HEADER,
    METHOD_INDEX,
    PREFIX,
    decode_properties,
    new_record,
)
from anyamqp.wire.fields import Malformed, Reader

_CONTENT_PREFIX_SIZE: Final = CONTENT_PREFIX.size
_LEAST_HEADER: Final = CONTENT.size + 2
"""Bytes of a content header without properties."""
_PREFIX_SIZE: Final = PREFIX.size
_prefix: Final = PREFIX.unpack_from
_content_prefix: Final = CONTENT_PREFIX.unpack_from
_tag_and_bits: Final = struct.Struct(">QB").unpack_from


def _draft_of(kind: type[methods.Method]) -> type[Any]:
    """A mutable class with the layout of a method's class: its instances are filled and then given that class.

    Filling a frozen method through ``object.__setattr__`` would double the time that decoding basic.deliver takes.
    """
    namespace = {"__slots__": kind.__slots__, "__setattr__": object.__setattr__, "__delattr__": object.__delattr__}
    return type(f"{kind.__name__}Draft", kind.__bases__, namespace)


_new: Final = object.__new__
_Deliver, _Ack, _Nack = methods.Basic.Deliver, methods.Basic.Ack, methods.Basic.Nack
_DeliverDraft, _AckDraft, _NackDraft = _draft_of(_Deliver), _draft_of(_Ack), _draft_of(_Nack)


class Header(NamedTuple):
    """A content header: the size of the body that follows, and the properties as they came."""

    body_size: int
    encoded: bytes

    @property
    def properties(self) -> Properties:
        """The properties.

        Raises:
            MalformedProperties: they cannot be read.
        """
        return decode_properties(self.encoded)


def decode_header(data: bytes) -> Header:
    """A content header.

    Raises:
        Malformed: it cannot be decoded, or is not of class basic.
    """
    if len(data) < _LEAST_HEADER:
        raise Malformed(f"{len(data)} bytes")
    class_id, _weight, body_size = CONTENT.unpack_from(data)
    if class_id != BASIC_CLASS:
        raise Malformed(f"of class {class_id}, but only basic ({BASIC_CLASS}) carries content")
    return new_record(Header, (body_size, data[CONTENT.size :]))


def decode_deliver(data: bytes) -> methods.Basic.Deliver:
    """basic.deliver, from the payload of its frame.

    Raises:
        Malformed: it cannot be decoded.
    """
    try:
        at = data[4] + 5
        tag, redelivered = _tag_and_bits(data, at)
    except (IndexError, struct.error):
        raise Malformed("a value runs over the end of the frame") from None
    draft = _new(_DeliverDraft)
    draft.consumer_tag, draft.exchange, draft.routing_key = _names(data[4:at], data[at + 9 :])
    draft.delivery_tag = tag
    draft.redelivered = redelivered & 1 == 1
    draft.__class__ = _Deliver
    method: methods.Basic.Deliver = draft
    return method


class Delivered(NamedTuple):
    """A whole delivery: method, content header and body in one."""

    method: methods.Basic.Deliver
    encoded: bytes
    body: bytes


IS_DELIVER: Final = METHOD_INDEX.pack(methods.Basic.Deliver.index)
"""The first bytes of the payload of basic.deliver."""


def delivered_at(buffer: bytes, channel: int, start: int, end: int, largest: int) -> tuple[Delivered, int] | None:
    """A whole delivery from a stream, if all of it has come, it is sound, and its body is one frame at most.

    Most deliveries are like that, and to read their three frames in one go takes half the time. The decoder reads all
    others frame by frame, and reports their faults.

    Args:
        buffer: the stream.
        channel: the channel of the frame whose payload begins like basic.deliver.
        start: where that payload begins.
        end: where it ends.
        largest: the most bytes in a payload.

    Returns:
        The delivery, and where it ends; None if it must be read frame by frame.
    """
    try:
        kind, on, size, class_id, _, body_size = _content_prefix(buffer, end + 1)
        head_end = end + FRAME_OVERHEAD + size
        if (
            kind != HEADER
            or on != channel
            or class_id != BASIC_CLASS
            or not _LEAST_HEADER <= size <= largest
            or not buffer[end] == buffer[head_end] == END_OCTET
        ):
            return None
        body, after = b"", head_end + 1
        if body_size:
            kind, on, size = _prefix(buffer, after)
            start_of_body = after + _PREFIX_SIZE
            body_end = start_of_body + body_size
            if kind != BODY or on != channel or size != body_size or size > largest or buffer[body_end] != END_OCTET:
                return None
            body, after = buffer[start_of_body:body_end], body_end + 1
        method = decode_deliver(buffer[start:end])
    except (struct.error, IndexError, Malformed):
        return None
    return new_record(Delivered, (method, buffer[end + 1 + _CONTENT_PREFIX_SIZE : head_end], body)), after


@lru_cache(maxsize=4096)
def _names(consumer_tag: bytes, rest: bytes) -> tuple[str, str, str]:
    # Only the delivery tag and one bit differ between most deliveries of a consumer.
    first, second = Reader(consumer_tag), Reader(rest)
    names = first.shortstr(), second.shortstr(), second.shortstr()
    second.finish()
    return names


def decode_ack(data: bytes) -> methods.Basic.Ack:
    """basic.ack, from the payload of its frame.

    Raises:
        Malformed: it cannot be decoded.
    """
    if len(data) != ACK_SIZE:
        raise _wrong_size(data)
    draft = _new(_AckDraft)
    draft.delivery_tag, bits = _tag_and_bits(data, 4)
    draft.multiple = bits & 1 == 1
    draft.__class__ = _Ack
    method: methods.Basic.Ack = draft
    return method


def decode_nack(data: bytes) -> methods.Basic.Nack:
    """basic.nack, from the payload of its frame.

    Raises:
        Malformed: it cannot be decoded.
    """
    if len(data) != ACK_SIZE:
        raise _wrong_size(data)
    draft = _new(_NackDraft)
    draft.delivery_tag, bits = _tag_and_bits(data, 4)
    draft.multiple = bits & 1 == 1
    draft.requeue = bits & 2 == 2
    draft.__class__ = _Nack
    method: methods.Basic.Nack = draft
    return method


def _wrong_size(data: bytes) -> Malformed:
    if len(data) < ACK_SIZE:
        return Malformed("a value runs over the end of the frame")
    return Malformed(f"{len(data) - ACK_SIZE} bytes too many")
