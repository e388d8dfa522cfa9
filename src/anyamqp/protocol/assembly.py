"""A method with content, put together from its frames.

Content is a method, a header, and as many body frames as the header announces (AMQP 0-9-1, 4.2.6), with no other
content of the same channel in between.
"""

from __future__ import annotations

from typing import Final

from anyamqp.errors import FrameError, ReplyError, UnexpectedFrame
from anyamqp.protocol.closes import unexpected
from anyamqp.protocol.requests import Request
from anyamqp.wire.basic import Received
from anyamqp.wire.methods import Method
from anyamqp.wire.receiving import Header

_SMALL: Final = 1024
"""Bytes below which a piece of a body is not kept as an object of its own."""


class Assembly:
    """The content of one method, while its frames come in.

    Args:
        number: the channel's number.
        method: the method.
        request: the request that it answers; None for a delivery or a return.

    Attributes:
        method: the method.
        request: the request.
    """

    __slots__ = ("_header", "_number", "_pieces", "_received", "method", "request")

    def __init__(self, number: int, method: Method, request: Request | None = None) -> None:
        self.method: Method = method
        self.request: Request | None = request
        self._number = number
        self._header: Header | None = None
        self._pieces: list[bytes | bytearray | memoryview] = []
        self._received = 0
        """Bytes of the body so far."""

    def add_header(self, header: Header) -> Received | None:
        """Take the content header.

        Returns:
            The content, if it has no body.

        Raises:
            UnexpectedFrame: there is a header already.
        """
        if self._header is not None:
            raise stray_header(self._number)
        self._header = header
        return None if header.body_size else Received(b"", header.encoded)

    def add_body(self, piece: bytes | memoryview) -> Received | None:
        """Take a body frame, or a part of one.

        Returns:
            The content, if it is complete.

        Raises:
            UnexpectedFrame: the header has not come.
            FrameError: the body is longer than the header announces.
        """
        header = self._header
        if header is None:
            raise stray_body(self._number)
        self._received += len(piece)
        if self._received > header.body_size:
            text = f"{self._received} bytes of body on channel {self._number}, but {header.body_size} announced"
            raise unexpected(FrameError, text)
        if len(piece) == header.body_size:
            return Received(bytes(piece), header.encoded)
        if piece:  # AMQP allows empty body frames; kept, a stream of them would grow without end
            self._keep(piece)
        if self._received < header.body_size:
            return None
        return Received(b"".join(self._pieces), header.encoded)

    def _keep(self, piece: bytes | memoryview) -> None:
        """Keep a piece; a copy, if it is small, or small beside the buffer that it would keep alive."""
        alive = memoryview(piece.obj).nbytes if isinstance(piece, memoryview) else len(piece)
        if len(piece) >= _SMALL and 2 * len(piece) >= alive:
            self._pieces.append(piece)
        elif self._pieces and isinstance(latest := self._pieces[-1], bytearray):
            latest += piece
        else:
            self._pieces.append(bytearray(piece))


def stray_header(number: int) -> ReplyError:
    """The error for a content header that follows no method with content."""
    return unexpected(UnexpectedFrame, f"a content header on channel {number} that belongs to no method")


def stray_body(number: int) -> ReplyError:
    """The error for a body frame that follows no content header."""
    return unexpected(UnexpectedFrame, f"a body frame on channel {number} that belongs to no content header")
