"""Points of the protocol at which the embedded broker fails on request. No I/O.

A fault strikes one connection. It is armed for a point: before or after a method passes, in either direction. A method
of the client passes when the broker handles it, a method of the broker when it is given to the transport.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from anyamqp.testing.embedded.peer import Peer
from anyamqp.wire.methods import Method

Sender: TypeAlias = Literal["client", "broker"]
"""A side of a connection."""

Edge: TypeAlias = Literal["before", "after"]
"""Whether a fault strikes before or after a method passes."""


@dataclass(slots=True)
class Passing:
    """A method that passes through a connection.

    Attributes:
        sender: who sends it.
        channel: its channel's number.
        method: the method.
        frames: the bytes that are sent for it, the frames of its content included; empty if the client sends it. A
            fault may change them.
        is_dropped: whether a fault has dropped it.
        confirmed: the tags that a confirm of the broker settles.
    """

    sender: Sender
    channel: int
    method: Method
    frames: list[bytes] = field(default_factory=list[bytes])
    is_dropped: bool = False
    confirmed: range = range(0)


class Line(Protocol):
    """A connection, as a fault sees it.

    Attributes:
        peer: the broker's side of it.
    """

    peer: Peer

    def reset(self) -> None:
        """End the transport as by RST; bytes under way are lost."""
        ...

    def finish(self) -> None:
        """End the transport as by FIN, after the bytes that were given to it."""
        ...

    def half_close(self) -> None:
        """End the broker's direction of the transport, and go on reading."""
        ...

    def send(self, data: bytes) -> None:
        """Send bytes behind the output that waits."""
        ...

    def cut(self, count: int, *, resets: bool) -> None:
        """Send so many bytes more, then end the transport as by FIN, or by RST."""
        ...

    def slow(self, *, latency: float, rate: float | None, seconds: float | None) -> None:
        """Delay the broker's bytes.

        Args:
            latency: by how many seconds each frame is delayed.
            rate: the most bytes in a second; None for no limit.
            seconds: for how long; None for ever.
        """
        ...

    def darken(self, seconds: float | None) -> None:
        """Lose the network: bytes are held back in both directions, and neither side learns of it.

        Args:
            seconds: for how long; None for until :meth:`heal`.
        """
        ...

    def heal(self) -> None:
        """End :meth:`darken` and :meth:`slow`: what was held back arrives."""
        ...

    def hang(self, number: int) -> None:
        """Answer nothing on a channel, until :meth:`release`."""
        ...

    def release(self) -> None:
        """End :meth:`hang`: handle what the client sent meanwhile."""
        ...

    def freeze(self, seconds: float | None) -> None:
        """Neither read nor send, for so many seconds; None for until :meth:`thaw`."""
        ...

    def thaw(self) -> None:
        """End :meth:`freeze`."""
        ...


class Fault(Protocol):
    """A fault: something that happens to a connection."""

    def strike(self, line: Line, passing: Passing | None) -> None:
        """Let it happen.

        Args:
            line: the connection.
            passing: the method at which it strikes; None if it strikes at no point of the protocol.
        """
        ...


class Armed:
    """A fault that waits for its point.

    Args:
        fault: the fault.
        edge: before or after the method passes.
        method: AMQP's name of the method; None for any.
        by: who sends it; None for either side.
        where: tells which of these methods; None for all.
        connection: the client's name for the connection; None for any.
        skip: how many times the point passes before the fault strikes.
        times: how often the fault strikes; None for ever.

    Attributes:
        struck: how often the fault has struck.
    """

    def __init__(
        self,
        fault: Fault,
        edge: Edge,
        method: str | None,
        *,
        by: Sender | None,
        where: Callable[[Method], bool] | None,
        connection: str | None,
        skip: int,
        times: int | None,
    ) -> None:
        self.fault: Fault = fault
        self.struck: int = 0
        self._edge = edge
        self._method = method
        self._by = by
        self._where = where
        self._connection = connection
        self._to_skip = skip
        self._times = times

    @property
    def is_spent(self) -> bool:
        """Whether it will not strike again."""
        return self._times is not None and self.struck >= self._times

    def disarm(self) -> None:
        """Never strike again."""
        self._times = 0

    def is_due(self, edge: Edge, name: str, passing: Passing, line: Line) -> bool:
        """Whether it strikes now. Counts the passages that it lets by."""
        if self.is_spent or edge != self._edge or self._method not in (None, name):
            return False
        if self._by not in (None, passing.sender) or self._connection not in (None, line.peer.name):
            return False
        if self._where is not None and not self._where(passing.method):
            return False
        if self._to_skip:
            self._to_skip -= 1
            return False
        self.struck += 1
        return True
