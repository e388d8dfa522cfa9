"""Divides the bytes of a client into frames, as RabbitMQ does: AMQP 0-9-1, 4.2.3 "General Frame Format". No I/O.

The client's own decoder is not used here: it refuses other streams than RabbitMQ does, with other codes and texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from anyamqp.testing.embedded.violations import lost_sync
from anyamqp.wire.basic import END_OCTET, FRAME_OVERHEAD, PREFIX
from anyamqp.wire.frames import PROTOCOL_HEADER

_FUDGE: Final = FRAME_OVERHEAD
"""RabbitMQ accepts frames that are larger than frame_max by so many bytes, because many clients count wrong."""

PROTOCOL: Final = -1
"""The kind of the protocol header, which is no frame."""


class RawFrame(NamedTuple):
    """A frame, undecoded.

    Attributes:
        kind: its type; :data:`PROTOCOL` for the eight bytes that open a stream.
        channel: its channel's number.
        payload: its payload.
    """

    kind: int
    channel: int
    payload: bytes


class Framing:
    """Divides a stream into frames. It buffers one frame at most, besides the last chunk that was fed.

    Args:
        frame_max: the largest frame, in bytes.

    Attributes:
        frame_max: the largest frame, in bytes; may be changed between frames.
    """

    def __init__(self, frame_max: int) -> None:
        self.frame_max: int = frame_max
        self._chunks: list[bytes] = []
        self._size = 0
        self._needed = len(PROTOCOL_HEADER)
        self._at_start = True
        self._is_lost = False

    def feed(self, data: bytes) -> None:
        """Add bytes."""
        if not self._is_lost:
            self._chunks.append(data)
            self._size += len(data)

    def frames(self) -> Iterator[RawFrame]:
        """The frames that are complete.

        Raises:
            LostSync: the rest of the stream is not AMQP. It is discarded.
        """
        if self._size < self._needed:
            return
        buffer, self._chunks = b"".join(self._chunks), []
        position, length = 0, len(buffer)
        while length - position >= self._needed:
            if self._at_start:
                self._at_start = False
                self._needed = PREFIX.size
                position = len(PROTOCOL_HEADER)
                yield RawFrame(PROTOCOL, 0, buffer[:position])
                continue
            kind, channel, size = PREFIX.unpack_from(buffer, position)
            if size > self.frame_max - FRAME_OVERHEAD + _FUDGE:
                self._lose()
                reason = f"{{frame_too_large,{size},{self.frame_max - FRAME_OVERHEAD}}}"
                raise lost_sync(kind, b"", reason)
            self._needed = size + FRAME_OVERHEAD
            if length - position < self._needed:
                break
            payload, end = buffer[position + PREFIX.size : position + PREFIX.size + size], position + size + PREFIX.size
            if buffer[end] != END_OCTET:
                self._lose()
                raise lost_sync(kind, payload, f"{{invalid_frame_end_marker,{buffer[end]}}}")
            position = end + 1
            self._needed = PREFIX.size
            yield RawFrame(kind, channel, payload)
        if position < length:
            self._chunks.append(buffer[position:])
        self._size = length - position

    def _lose(self) -> None:
        self._is_lost = True
        self._size = 0
