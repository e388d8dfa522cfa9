"""The faults of the embedded broker: how it and the network before it fail, and when.

A :class:`Fault` is something that happens to one connection. It happens at once, to all connections, or at a point of
the protocol, to the connection that has come to it::

    broker.faults.reset()
    broker.faults.before("basic.ack", by="broker").reset()
    broker.faults.after("basic.publish", skip=9).close_channel(406, "PRECONDITION_FAILED - simulated")
    broker.faults.before("queue.declare", times=None).strike(Freeze(seconds=2))

A method of the client passes when the broker handles it, with its content; a method of the broker when it is given to
the transport. All times are seconds on the event loop's clock.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from anyamqp.errors import InvalidUse
from anyamqp.testing.embedded.conditions import Conditions
from anyamqp.testing.embedded.points import Armed, Edge, Fault, Line, Passing, Sender
from anyamqp.testing.embedded.timers import Timer
from anyamqp.wire import methods
from anyamqp.wire.frames import method_name
from anyamqp.wire.methods import Method

_NAMES: Final = frozenset(map(method_name, methods.INDEX_MAPPING.values()))

CLOSED_BY_FORCE: Final = "CONNECTION_FORCED - broker forced connection closure"


class Lines(Protocol):
    """The connections of a broker, oldest first."""

    def __call__(self) -> Iterable[Line]: ...


# --- faults -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reset:
    """The transport ends as by RST; bytes under way are lost, in both directions."""

    def strike(self, line: Line, passing: Passing | None) -> None:  # noqa: ARG002
        line.reset()


@dataclass(frozen=True, slots=True)
class Finish:
    """The transport ends as by FIN: the client receives all that was sent to it, then the end of the stream."""

    def strike(self, line: Line, passing: Passing | None) -> None:  # noqa: ARG002
        line.finish()


@dataclass(frozen=True, slots=True)
class HalfClose:
    """The broker's direction ends: the client receives an end of the stream, and the broker goes on reading."""

    def strike(self, line: Line, passing: Passing | None) -> None:  # noqa: ARG002
        line.half_close()


@dataclass(frozen=True, slots=True)
class Freeze:
    """The broker neither reads from the connection nor sends on it, not even heartbeats.

    Attributes:
        seconds: for how long; None for ever, or until ``broker.faults.thaw()``.
    """

    seconds: float | None = None

    def strike(self, line: Line, passing: Passing | None) -> None:  # noqa: ARG002
        line.freeze(self.seconds)


@dataclass(frozen=True, slots=True)
class CloseConnection:
    """The broker sends connection.close; a client that does not answer is dropped after 5 s.

    Attributes:
        code: the reply code.
        text: the reply text.
    """

    code: int = 320
    text: str = CLOSED_BY_FORCE

    def strike(self, line: Line, passing: Passing | None) -> None:
        line.peer.close(self.code, self.text, _cause(passing))


@dataclass(frozen=True, slots=True)
class CloseChannel:
    """The broker sends channel.close.

    Attributes:
        code: the reply code.
        text: the reply text.
        number: the channel's number; None for the channel on which a method passes, or for all channels.
    """

    code: int
    text: str
    number: int | None = None

    def strike(self, line: Line, passing: Passing | None) -> None:
        number = passing.channel if self.number is None and passing is not None else self.number
        for channel in list(line.peer.channels.values()):
            if number in (None, channel.number):
                line.peer.close_channel(channel, self.code, self.text, _cause(passing))


@dataclass(frozen=True, slots=True)
class Drop:
    """The method does not arrive: the broker does not handle it, or does not send it."""

    def strike(self, line: Line, passing: Passing | None) -> None:  # noqa: ARG002
        _passing(self, passing).is_dropped = True


def _cause(passing: Passing | None) -> Method | None:
    """The method that a close names as its cause."""
    return passing.method if passing is not None and passing.sender == "client" else None


def _passing(fault: Fault, passing: Passing | None) -> Passing:
    if passing is None:
        raise InvalidUse(f"{fault}: this fault strikes only before a method: broker.faults.before(...)")
    return passing


# --- when they happen -------------------------------------------------------------------------------------------------


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

    def close_connection(self, code: int = 320, text: str = CLOSED_BY_FORCE) -> None:
        """Send connection.close: :class:`CloseConnection`."""
        self.strike(CloseConnection(code, text))

    def close_channel(self, code: int, text: str, *, number: int | None = None) -> None:
        """Send channel.close: :class:`CloseChannel`."""
        self.strike(CloseChannel(code, text, number))


class Point(Moment):
    """A point of the protocol: before or after a method passes.

    Args:
        arm: arms a fault for it.
    """

    def __init__(self, arm: Callable[[Fault], None]) -> None:
        self._arm = arm

    def strike(self, fault: Fault) -> None:
        """Let a fault happen at this point, to the connection that comes to it."""
        self._arm(fault)

    def drop(self) -> None:
        """Do not let the method through: :class:`Drop`."""
        self.strike(Drop())


class Faults(Moment):
    """The faults of a broker: ``broker.faults``. Its own methods strike all connections at once.

    Args:
        conditions: the state that the connections share.
        lines: the connections.
    """

    def __init__(self, conditions: Conditions, lines: Lines) -> None:
        self._conditions = conditions
        self._lines = lines
        self._ends: dict[str, Timer] = {}

    def strike(self, fault: Fault) -> None:
        """Let a fault happen to all connections, now."""
        lines = list(self._lines())
        for line in lines:
            fault.strike(line, None)
        # Not before all are struck: a delivery that one of them gives back must not go to another.
        for line in lines:
            if line.peer.is_over:
                line.peer.gone()

    def before(
        self,
        method: str | None,
        *,
        by: Sender | None = None,
        where: Callable[[Method], bool] | None = None,
        connection: str | None = None,
        skip: int = 0,
        times: int | None = 1,
    ) -> Point:
        """The point before a method passes.

        Args:
            method: AMQP's name of the method, such as ``"basic.ack"``; None for any.
            by: who sends it, ``"client"`` or ``"broker"``; None for either side.
            where: tells which of these methods; None for all.
            connection: the client's name for the connection; None for any.
            skip: how many times the point passes before a fault strikes.
            times: how often a fault strikes; None for ever.

        Raises:
            InvalidUse: there is no such method.
        """
        return self._point("before", method, by, where, connection, skip, times)

    def after(
        self,
        method: str | None,
        *,
        by: Sender | None = None,
        where: Callable[[Method], bool] | None = None,
        connection: str | None = None,
        skip: int = 0,
        times: int | None = 1,
    ) -> Point:
        """The point after a method passes: its arguments are those of :meth:`before`.

        Raises:
            InvalidUse: there is no such method.
        """
        return self._point("after", method, by, where, connection, skip, times)

    def calm(self) -> None:
        """End all faults that last, and forget those that wait for a point."""
        self._conditions.armed.clear()
        self.thaw()
        self.accept()
        self.unblock()

    # --- the broker as a whole --------------------------------------------------------------------------------------

    def freeze(self, seconds: float | None = None) -> None:
        """Stop answering: connections stay, new ones are accepted, but nothing is read or sent, not even heartbeats."""
        self._conditions.freeze()
        self._lasts("freeze", seconds, self.thaw)

    def thaw(self) -> None:
        """End all freezes: go on with the same connections."""
        self._conditions.thaw()
        for line in self._lines():
            line.thaw()

    def refuse(self, seconds: float | None = None) -> None:
        """Refuse new connections, for so many seconds; None for until :meth:`accept`."""
        self._conditions.is_refusing = True
        self._lasts("refuse", seconds, self.accept)

    def accept(self) -> None:
        """Accept new connections again."""
        self._conditions.is_refusing = False

    def block(self, reason: str = "low on memory", seconds: float | None = None) -> None:
        """Block publishing clients: send connection.blocked, now or at the next publish, and stop reading from them.

        Args:
            reason: the reason that they are told.
            seconds: for how long; None for until :meth:`unblock`.
        """
        self._conditions.blocked = reason
        for line in self._lines():
            line.peer.set_blocked(reason)
        self._lasts("block", seconds, self.unblock)

    def unblock(self) -> None:
        """Send connection.unblocked, and go on reading."""
        self._conditions.blocked = None
        for line in self._lines():
            line.peer.set_blocked(None)
        self._conditions.announce()

    def _lasts(self, fault: str, seconds: float | None, end: Callable[[], None]) -> None:
        """End a fault after so many seconds; of two faults of a kind, the later one decides."""
        before = self._ends.pop(fault, None)
        if before is not None:
            before.cancel()
        if seconds is not None:
            self._ends[fault] = self._conditions.relief.after(seconds, end)

    def _point(
        self,
        edge: Edge,
        method: str | None,
        by: Sender | None,
        where: Callable[[Method], bool] | None,
        connection: str | None,
        skip: int,
        times: int | None,
    ) -> Point:
        if method is not None and method not in _NAMES:
            raise InvalidUse(f"{method!r} is no method of AMQP 0-9-1; their names are like 'basic.ack'")

        def arm(fault: Fault) -> None:
            armed = Armed(fault, edge, method, by=by, where=where, connection=connection, skip=skip, times=times)
            self._conditions.armed.append(armed)

        return Point(arm)
