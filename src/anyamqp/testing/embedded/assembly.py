"""Assembles methods with their content from the frames of a channel, as RabbitMQ's reader does. No I/O.

A body larger than the broker accepts is counted but not kept.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from anyamqp.errors import FrameError
from anyamqp.testing.embedded.decoding import WITH_CONTENT, decode, kind_of
from anyamqp.testing.embedded.framing import RawFrame
from anyamqp.testing.embedded.versions import Rules
from anyamqp.testing.embedded.violations import (
    Crash,
    Violation,
    bad_frame,
    internal_error,
    out_of_order,
    unexpected_frame,
)
from anyamqp.wire.basic import BASIC_CLASS, BODY, CONTENT, HEADER, HEARTBEAT, METHOD, Received
from anyamqp.wire.methods import Method

_INDEX: Final = 4
"""Bytes that name a method's class and number."""

_LARGEST_BODY: Final = 512 * 1024 * 1024
"""The largest body that a content header may announce, in bytes (rabbit.hrl, MAX_MSG_SIZE)."""


class Command(NamedTuple):
    """A method of a client, with its content.

    Attributes:
        method: the method.
        content: the message; None if the method has none, and without its body if that is too large.
        size: the size of the body, in bytes.
    """

    method: Method
    content: Received | None = None
    size: int = 0


def analyze(frame: RawFrame) -> None:
    """Check the form of a frame.

    Raises:
        Violation: it is no frame of AMQP.
    """
    kind, _, payload = frame
    is_known = (
        (kind == METHOD and len(payload) >= _INDEX)
        or (kind == HEADER and len(payload) >= CONTENT.size)
        or kind == BODY
        or (kind == HEARTBEAT and not payload)
    )
    if not is_known:
        raise bad_frame(kind, payload, "unknown_frame")


def decode_on_zero(frame: RawFrame, *, is_closing: bool) -> Method | None:
    """The method in a frame on channel 0, on which RabbitMQ fails in other ways; None if there is none.

    Args:
        frame: the frame.
        is_closing: whether connection.close was sent, after which only methods are looked at.

    Raises:
        Crash: there is no such method.
        Violation: the frame cannot come on channel 0, or cannot be read.
    """
    kind, _, payload = frame
    if is_closing and (kind != METHOD or len(payload) < _INDEX):
        return None
    analyze(frame)
    if kind == HEARTBEAT:
        return None
    if kind != METHOD:
        raise unexpected_frame(kind, payload)
    named = kind_of(payload)
    try:
        return decode(payload)
    except Crash:
        raise internal_error() from None
    except Violation as violation:
        if violation.at_fault is not None:
            raise internal_error() from None
        raise Violation(violation.error, named) from None


class Assembler:
    """The methods of one channel.

    Args:
        rules: how the version of RabbitMQ behaves that the broker follows.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._method: Method | None = None
        self._encoded: bytes | None = None
        self._size = 0
        self._left = 0
        self._body: list[bytes] = []

    def take(self, frame: RawFrame) -> Command | None:
        """Take a frame. Returns the method that it completes.

        Raises:
            Crash: it names no method, or has arguments that RabbitMQ fails at.
            Violation: it cannot come here, or cannot be read.
        """
        kind, _, payload = frame
        analyze(frame)
        if kind == HEARTBEAT:
            raise unexpected_frame(kind, payload)
        if self._method is None:
            if kind != METHOD:
                raise out_of_order("expected method frame, got non method frame instead")
            method = decode(payload)
            if not isinstance(method, WITH_CONTENT):
                return Command(method)
            self._method = method
            return None
        if self._encoded is None:
            return self._take_header(self._method, kind, payload)
        if kind != BODY:
            raise out_of_order("expected content body, got non content body frame instead", type(self._method))
        return self._take_body(self._method, self._encoded, payload)

    def _take_header(self, method: Method, kind: int, payload: bytes) -> Command | None:
        at_fault = type(method)
        class_id, weight, size = CONTENT.unpack_from(payload) if kind == HEADER else (0, 0, 0)
        if kind != HEADER or weight:
            text = f"expected content header for class {BASIC_CLASS}, got non content header frame instead"
            raise out_of_order(text, at_fault)
        if class_id != BASIC_CLASS:
            text = f"expected content header for class {BASIC_CLASS}, got one for class {class_id} instead"
            raise out_of_order(text, at_fault)
        if self._rules.checks_body_frames and size > _LARGEST_BODY:
            text = f"FRAME_ERROR - content body size {size} exceeds maximum allowed size {_LARGEST_BODY}"
            raise Violation(FrameError(text), at_fault)
        self._encoded, self._size, self._left = payload[CONTENT.size :], size, size
        return None if size else self._complete(method, self._encoded)

    def _take_body(self, method: Method, encoded: bytes, piece: bytes) -> Command | None:
        self._left -= len(piece)
        if self._left < 0:
            # Before 4.3, RabbitMQ goes on waiting for a body that can never be complete.
            self._body.clear()
            if self._rules.checks_body_frames:
                text = "FRAME_ERROR - content body frame exceeds remaining content size"
                raise Violation(FrameError(text), type(method))
        elif self._size <= self._rules.message_size:
            self._body.append(piece)
        return None if self._left else self._complete(method, encoded)

    def _complete(self, method: Method, encoded: bytes) -> Command:
        command = Command(method, Received(b"".join(self._body), encoded), self._size)
        self._method = self._encoded = None
        self._body = []
        return command
