"""Decodes a byte stream to frames: AMQP 0-9-1, 4.2 "AMQP Wire-Level Format".

This module does the framing itself, because pamqp does not tell a partial frame from a broken one. For any bytes,
decoding ends in a frame, in waiting for more bytes, or in one of these errors:

* 501 frame error: no end byte, larger than frame_max, an unknown type, content that is not well-formed;
* 502 syntax error: a known method whose arguments cannot be read;
* 503 command invalid: an unknown method, a heartbeat outside channel 0 (4.2.3);
* 505 unexpected frame: a protocol header in the middle of a stream.

The decoder buffers at most one frame, besides the last chunk that was fed; it checks the size of a frame before it
waits for the payload. It does not buffer a large body frame, but returns its pieces as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from anyamqp.errors import CommandInvalid, CommandSyntaxError, FrameError, ReplyError, Side, UnexpectedFrame
from anyamqp.wire import methods
from anyamqp.wire.basic import BODY, END_OCTET, FRAME_OVERHEAD, HEADER, HEARTBEAT, METHOD, PREFIX, new_record
from anyamqp.wire.fields import Malformed, Reader
from anyamqp.wire.frames import PROTOCOL_HEADER, Frame, HeartbeatFrame, Payload, ProtocolHeader, method_name
from anyamqp.wire.methods import Method
from anyamqp.wire.receiving import IS_DELIVER, decode_ack, decode_deliver, decode_header, decode_nack, delivered_at

_PIECEWISE: Final = 16 * 1024
"""A body frame larger than this many bytes is returned in pieces as they come."""

_NO_LIMIT: Final = 2**63

_DECODERS: Final[Mapping[str, Callable[[Reader], object]]] = {
    "octet": Reader.octet,
    "short": Reader.short,
    "long": Reader.long,
    "longlong": Reader.longlong,
    "shortstr": Reader.shortstr,
    "longstr": Reader.longstr,
    "table": Reader.table,
}
_BY_HAND: Final[Mapping[int, Callable[[bytes], Method]]] = {
    methods.Basic.Deliver.index: decode_deliver,
    methods.Basic.Ack.index: decode_ack,
    methods.Basic.Nack.index: decode_nack,
}


class Decoder:
    """Decodes a byte stream, fed in any chunks, to frames.

    Args:
        max_frame_size: the largest frame accepted, in bytes, overhead included. May be changed between feeds.
        as_server: expect a protocol header first, as a server does.
        joins_deliveries: return a delivery whose frames have all come as one :class:`Delivered`.
    """

    def __init__(self, max_frame_size: int, *, as_server: bool = False, joins_deliveries: bool = False) -> None:
        self.max_frame_size = max_frame_size
        self.frames_decoded: int = 0
        self._as_server = as_server
        self._joins_deliveries = joins_deliveries
        self._at_start = True
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._needed = PREFIX.size
        self._body_channel = 0
        self._left_of_body = 0
        """Bytes still to come of a body frame that is given in pieces."""
        self._error: ReplyError | None = None

    def feed(self, data: bytes) -> None:
        """Add bytes, which :meth:`frames` will decode."""
        if self._error is None:
            self._chunks.append(data)
            self._buffered += len(data)

    def frames(self) -> Iterator[Frame]:
        """Yield the complete frames.

        Raises:
            ReplyError: the rest of the stream is not AMQP. Every later call raises the error again.
        """
        if self._error is not None:
            raise self._error
        if self._buffered < self._needed:
            return
        # Chunks are joined only when they complete a frame, so that the time for a body that comes in many small chunks
        # grows with its size and not with the square.
        chunks, self._chunks = self._chunks, []
        buffer: bytes = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        position, length = 0, len(buffer)
        joins_deliveries = self._joins_deliveries
        unpack, largest = PREFIX.unpack_from, (self.max_frame_size or _NO_LIMIT) - FRAME_OVERHEAD
        try:
            while True:
                if self._left_of_body:
                    piece, position = self._piece(buffer, position)
                    if piece:
                        yield new_record(Frame, (self._body_channel, piece))
                    if self._left_of_body:
                        break
                    continue
                if length - position < PREFIX.size:
                    self._needed = PREFIX.size
                    break
                kind, channel, size = unpack(buffer, position)
                start = position + PREFIX.size
                end: int = start + size
                if self._at_start or not METHOD <= kind <= BODY or size > largest:
                    if self._at_start and buffer[position : position + 4] == PROTOCOL_HEADER[:4]:
                        if length - position < len(PROTOCOL_HEADER):
                            self._needed = len(PROTOCOL_HEADER)
                            break
                        header = self._protocol_header(buffer[position : position + len(PROTOCOL_HEADER)])
                        position += len(PROTOCOL_HEADER)
                        self._at_start = False
                        self.frames_decoded += 1
                        yield Frame(0, header)
                        continue
                    self._check_prefix(kind, channel, size, buffer[position : position + 8])
                if end >= length:
                    if kind == BODY and size > _PIECEWISE:
                        self._body_channel, self._left_of_body, position = channel, size, start
                        continue
                    self._needed = size + FRAME_OVERHEAD
                    break
                if kind == METHOD and joins_deliveries and buffer.startswith(IS_DELIVER, start):
                    joined = delivered_at(buffer, channel, start, end, largest)
                    if joined is not None:
                        delivered, position = joined
                        self.frames_decoded += 3 if delivered.body else 2
                        yield new_record(Frame, (channel, delivered))
                        continue
                if buffer[end] != END_OCTET:
                    raise _no_end(buffer[end])
                if kind != BODY:
                    payload = _payload(kind, channel, buffer[start:end])
                else:
                    payload = buffer[start:end] if size <= _PIECEWISE else memoryview(buffer)[start:end]
                position = end + 1
                self._at_start = False
                self.frames_decoded += 1
                yield new_record(Frame, (channel, payload))
        except ReplyError as error:
            self._error = error
            self._chunks.clear()
            raise
        if position < length:
            self._chunks.insert(0, buffer[position:])
        self._buffered -= position

    def _piece(self, buffer: bytes, position: int) -> tuple[memoryview, int]:
        """The received part of a large body frame, as a view of the buffer, and the position behind it.

        The last piece completes the content, so it is returned only with the frame's end byte.
        """
        end = position + self._left_of_body
        if end < len(buffer):
            if buffer[end] != END_OCTET:
                raise _no_end(buffer[end])
            self._left_of_body = 0
            self._at_start = False
            self.frames_decoded += 1
            return memoryview(buffer)[position:end], end + 1
        end = min(len(buffer), end - 1)
        self._left_of_body -= end - position
        self._needed = len(buffer) - end + 1
        return memoryview(buffer)[position:end], end

    def _protocol_header(self, data: bytes) -> ProtocolHeader:
        if self._as_server:
            return ProtocolHeader(data)
        raise _fault(
            FrameError,
            f"the peer refuses AMQP 0-9-1 and offers protocol {data[4]}-{data[5]}-{data[6]}-{data[7]}",
        )

    def _check_prefix(self, kind: int, channel: int, size: int, start: bytes) -> None:
        if self._at_start and self._as_server:
            raise _fault(FrameError, f"stream opens with {start!r} instead of a protocol header")
        if start[:4] == PROTOCOL_HEADER[:4]:
            raise _fault(UnexpectedFrame, "a protocol header in the middle of the stream")
        if kind not in (METHOD, HEADER, BODY, HEARTBEAT):
            seen = _not_amqp(start) if self._at_start else ""
            raise _fault(FrameError, f"unknown frame type {kind}{seen}")
        if self.max_frame_size and size + FRAME_OVERHEAD > self.max_frame_size:
            raise _fault(
                FrameError, f"frame of {size + FRAME_OVERHEAD} bytes, but at most {self.max_frame_size} agreed"
            )
        if kind == HEARTBEAT:
            if channel != 0:
                raise _fault(CommandInvalid, f"heartbeat on channel {channel}")
            if size != 0:
                raise _fault(FrameError, f"heartbeat with a payload of {size} bytes")


def _no_end(octet: int) -> ReplyError:
    return _fault(FrameError, f"frame ends with byte 0x{octet:02x} instead of 0xce")


def _not_amqp(start: bytes) -> str:
    # A TLS listener answers our protocol header with an alert (RFC 8446, 5.1): record type 21, version 3.x.
    if start[:2] == b"\x15\x03":
        return " (this is a port for TLS: its URL begins with amqps://)"
    return " (is this an AMQP port?)"


def _fault(error: type[ReplyError], text: str) -> ReplyError:
    return error(text, found_by=Side.CLIENT)


def _payload(kind: int, channel: int, data: bytes) -> Payload:
    if kind == METHOD:
        return decode_method(data)
    if kind == HEADER:
        try:
            return decode_header(data)
        except Malformed as error:
            raise _fault(FrameError, f"content header on channel {channel}: {error}") from error
    return HeartbeatFrame()


def decode_method(data: bytes) -> Method:
    """A method, from the payload of its frame.

    Raises:
        FrameError: the payload is too short.
        CommandInvalid: there is no such method.
        CommandSyntaxError: its arguments cannot be read.
    """
    if len(data) < 4:
        raise _fault(FrameError, f"method frame with a payload of {len(data)} bytes")
    index = int.from_bytes(data[:4], "big")
    decode = _BY_HAND.get(index)
    if decode is not None:
        try:
            return decode(data)
        except Malformed as error:
            raise _fault(CommandSyntaxError, f"{method_name(methods.INDEX_MAPPING[index])}: {error}") from error
    kind = methods.INDEX_MAPPING.get(index)
    if kind is None:
        raise _fault(CommandInvalid, f"unknown method {index >> 16}.{index & 0xFFFF}")
    reader = Reader(data, 4)
    values: list[object] = []
    bits, count = 0, 8
    try:
        for _, domain in kind.parameters:
            if domain == "bit":
                if count == 8:
                    bits, count = reader.octet(), 0
                values.append(bool(bits >> count & 1))
                count += 1
            else:
                count = 8
                values.append(_DECODERS[domain](reader))
        reader.finish()
    except Malformed as error:
        raise _fault(CommandSyntaxError, f"{method_name(kind)}: {error}") from error
    return kind(*values)
