"""How the embedded broker refuses bytes that are not sound AMQP: with RabbitMQ's codes and texts. No I/O."""

from __future__ import annotations

from typing import Final

from anyamqp.errors import FrameError, InternalError, ReplyError, UnexpectedFrame
from anyamqp.wire.methods import Method

_SNIPPET: Final = 16
_PRINTABLE: Final = frozenset([*b"\b\t\n\v\f\r\x1b", *range(0x20, 0x7F), *range(0xA0, 0x100)])


class Violation(Exception):
    """A client breaks the protocol, which costs it the connection.

    Args:
        error: the code and text of connection.close.
        at_fault: the method that is named as the cause.
    """

    def __init__(self, error: ReplyError, at_fault: type[Method] | None = None) -> None:
        super().__init__(str(error))
        self.error: ReplyError = error
        self.at_fault: type[Method] | None = at_fault


class LostSync(Violation):
    """Behind this violation, the stream cannot be divided into frames any more."""


class Crash(Exception):
    """RabbitMQ's process for the connection would fail here: the transport ends without connection.close."""


def bad_frame(kind: int, payload: bytes, reason: str) -> Violation:
    """A frame that cannot be (501)."""
    return Violation(FrameError(f"FRAME_ERROR - {_told(kind, payload)}: {reason}"))


def lost_sync(kind: int, payload: bytes, reason: str) -> LostSync:
    """A frame of wrong size (501)."""
    return LostSync(FrameError(f"FRAME_ERROR - {_told(kind, payload)}: {reason}"))


def unexpected_frame(kind: int, payload: bytes) -> Violation:
    """A frame on a channel that cannot have it (505)."""
    return Violation(UnexpectedFrame(f"UNEXPECTED_FRAME - {_told(kind, payload)}"))


def out_of_order(text: str, at_fault: type[Method] | None = None) -> Violation:
    """Frames of a method and its content in a wrong order (505)."""
    return Violation(UnexpectedFrame(f"UNEXPECTED_FRAME - {text}"), at_fault)


def internal_error() -> Violation:
    """A value at which RabbitMQ's decoder fails (541)."""
    return Violation(InternalError("INTERNAL_ERROR"))


def as_erlang(data: bytes) -> str:
    """Bytes as Erlang prints a binary with ``~p``: as text if all of them are printable."""
    if data and _PRINTABLE.issuperset(data):
        text = data.decode("latin-1").replace("\\", "\\\\").replace('"', '\\"')
        for plain, escaped in (("\b", "b"), ("\t", "t"), ("\n", "n"), ("\v", "v"), ("\f", "f"), ("\r", "r")):
            text = text.replace(plain, f"\\{escaped}")
        return f'<<"{text}">>'.replace("\x1b", "\\e")
    return as_numbers(data)


def as_numbers(data: bytes) -> str:
    """Bytes as Erlang prints a binary with ``~w``."""
    return f"<<{','.join(map(str, data))}>>"


def _told(kind: int, payload: bytes) -> str:
    which = "all" if len(payload) <= _SNIPPET else f"first {_SNIPPET}"
    return f"type {kind}, {which} octets = {as_erlang(payload[:_SNIPPET])}"
