"""When faults of the embedded broker happen, with a method for each fault that may. No I/O."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from anyamqp.testing.embedded.points import Edge, Fault
from anyamqp.testing.embedded.strikes import (
    CLOSED_BY_FORCE,
    ONLY_BEFORE,
    BlackHole,
    CancelConsumer,
    CloseChannel,
    CloseConnection,
    Confirms,
    Cut,
    Delay,
    Drop,
    Finish,
    Freeze,
    HalfClose,
    Hang,
    OversizedFrame,
    Repeat,
    Reset,
    SendBytes,
    SendMethod,
    Style,
    Throttle,
    only_before,
)
from anyamqp.wire.methods import Method

_GARBAGE: Final = bytes.fromhex("deadbeef") * 8


class Moment(ABC):
    """When a fault happens, and a method for each fault that may."""

    @abstractmethod
    def strike(self, fault: Fault) -> None:
        """Let a fault happen."""

    def reset(self) -> None:
        """End the transport as by RST: :class:`Reset`."""
        self.strike(Reset())

    def finish(self) -> None:
        """End the transport as by FIN: :class:`Finish`."""
        self.strike(Finish())

    def half_close(self) -> None:
        """End the broker's direction of the transport: :class:`HalfClose`."""
        self.strike(HalfClose())

    def freeze(self, seconds: float | None = None) -> None:
        """Neither read nor send: :class:`Freeze`."""
        self.strike(Freeze(seconds))

    def black_hole(self, seconds: float | None = None) -> None:
        """Lose the network: :class:`BlackHole`."""
        self.strike(BlackHole(seconds))

    def delay(self, latency: float, *, seconds: float | None = None) -> None:
        """Delay each frame: :class:`Delay`."""
        self.strike(Delay(latency, seconds))

    def throttle(self, rate: float, *, seconds: float | None = None) -> None:
        """Send so many bytes in a second: :class:`Throttle`."""
        self.strike(Throttle(rate, seconds))

    def cut(self, count: int, *, resets: bool = False) -> None:
        """End the transport after so many bytes: :class:`Cut`."""
        self.strike(Cut(count, resets))

    def garbage(self, data: bytes = _GARBAGE) -> None:
        """Send bytes that are not AMQP: :class:`SendBytes`."""
        self.strike(SendBytes(data))

    def oversized_frame(self) -> None:
        """Announce a frame that is larger than was agreed: :class:`OversizedFrame`."""
        self.strike(OversizedFrame())

    def send(self, method: Method, *, channel: int | None = None, body: bytes | None = None) -> None:
        """Send a method that the broker would not send: :class:`SendMethod`."""
        self.strike(SendMethod(method, channel, body))

    def cancel_consumer(self, tag: str | None = None) -> None:
        """Cancel consumers: :class:`CancelConsumer`."""
        self.strike(CancelConsumer(tag))

    def close_connection(self, code: int = 320, text: str = CLOSED_BY_FORCE) -> None:
        """Send connection.close: :class:`CloseConnection`."""
        self.strike(CloseConnection(code, text))

    def close_channel(self, code: int, text: str, *, number: int | None = None) -> None:
        """Send channel.close: :class:`CloseChannel`."""
        self.strike(CloseChannel(code, text, number))


class Point(Moment):
    """A point of the protocol: before or after a method passes.

    Args:
        edge: before or after the method.
        arm: arms a fault for it.
    """

    def __init__(self, edge: Edge, arm: Callable[[Fault], None]) -> None:
        self._edge = edge
        self._arm = arm

    def strike(self, fault: Fault) -> None:
        """Let a fault happen at this point, to the connection that comes to it.

        Raises:
            InvalidUse: the fault strikes only before a method, and this is after one.
        """
        if self._edge == "after" and isinstance(fault, ONLY_BEFORE):
            raise only_before(fault)
        self._arm(fault)

    def drop(self) -> None:
        """Do not let the method through: :class:`Drop`."""
        self.strike(Drop())

    def repeat(self, times: int = 1) -> None:
        """Send a method of the broker again: :class:`Repeat`."""
        self.strike(Repeat(times))

    def confirms(self, style: Style) -> None:
        """Send confirms in another way: :class:`Confirms`."""
        self.strike(Confirms(style))

    def hang(self) -> None:
        """Answer nothing on the channel: :class:`Hang`."""
        self.strike(Hang())
