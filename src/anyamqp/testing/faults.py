"""The faults of the embedded broker: how it and the network before it fail, and when.

A fault is something that happens to one connection. It happens at once, to all connections, or at a point of the
protocol, to the connection that has come to it, or at random times, which a seed reproduces::

    broker.faults.reset()
    broker.faults.before("basic.ack", by="broker").reset()
    broker.faults.after("basic.publish", skip=9).close_channel(406, "PRECONDITION_FAILED - simulated")
    broker.faults.before("queue.declare", times=None).strike(Freeze(seconds=2))
    broker.faults.schedule(7, Reset(), BlackHole(seconds=5), Block(seconds=1), every=(1, 10))

A method of the client passes when the broker handles it, with its content; a method of the broker when it is given to
the transport. All times are seconds on the event loop's clock.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from anyamqp.errors import InvalidUse
from anyamqp.testing.embedded.conditions import Conditions
from anyamqp.testing.embedded.moments import Moment, Point
from anyamqp.testing.embedded.points import Armed, Edge, Fault, Line, Sender
from anyamqp.testing.embedded.schedule import Schedule, Struck
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
    RefuseLogin,
    Repeat,
    Reset,
    SendBytes,
    SendMethod,
    Throttle,
    only_before,
)
from anyamqp.testing.embedded.timers import Timer
from anyamqp.wire import methods
from anyamqp.wire.frames import method_name
from anyamqp.wire.methods import Method

__all__ = [
    "CLOSED_BY_FORCE",
    "BlackHole",
    "Block",
    "CancelConsumer",
    "CloseChannel",
    "CloseConnection",
    "Confirms",
    "Cut",
    "Delay",
    "Drop",
    "Fault",
    "Faults",
    "Finish",
    "Freeze",
    "FreezeBroker",
    "HalfClose",
    "Hang",
    "OversizedFrame",
    "Point",
    "Refuse",
    "RefuseLogin",
    "Repeat",
    "Reset",
    "Schedule",
    "SendBytes",
    "SendMethod",
    "Struck",
    "Throttle",
]

_NAMES: Final = frozenset(map(method_name, methods.INDEX_MAPPING.values()))


class Lines(Protocol):
    """The connections of a broker, oldest first."""

    def __call__(self) -> Iterable[Line]: ...


# --- faults of the whole broker ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refuse:
    """The broker refuses new connections.

    Attributes:
        seconds: for how long.
    """

    seconds: float

    def strike_all(self, faults: Faults) -> None:
        faults.refuse(self.seconds)


@dataclass(frozen=True, slots=True)
class Block:
    """The broker blocks publishing clients.

    Attributes:
        seconds: for how long.
    """

    seconds: float

    def strike_all(self, faults: Faults) -> None:
        faults.block(seconds=self.seconds)


@dataclass(frozen=True, slots=True)
class FreezeBroker:
    """The broker stops answering.

    Attributes:
        seconds: for how long.
    """

    seconds: float

    def strike_all(self, faults: Faults) -> None:
        faults.freeze(self.seconds)


AnyFault: TypeAlias = Fault | Refuse | Block | FreezeBroker
"""A fault of a connection, or of the whole broker."""


# --- when they happen -------------------------------------------------------------------------------------------------


class Faults(Moment):
    """The faults of a broker: ``broker.faults``. Its own methods strike all connections at once.

    Args:
        conditions: the state that the connections share.
        lines: the connections.
    """

    def __init__(self, conditions: Conditions, lines: Lines) -> None:
        self._conditions = conditions
        self._lines = lines
        self._ends: dict[str, Timer | None] = {}
        self._down: dict[str, Armed] = {}
        self._schedules: list[Schedule[AnyFault]] = []

    def strike(self, fault: Fault) -> None:
        """Let a fault happen to all connections, now.

        Raises:
            InvalidUse: the fault strikes only before a method.
        """
        if isinstance(fault, ONLY_BEFORE):
            raise only_before(fault)
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

    def schedule(
        self, seed: int, *faults: AnyFault, every: tuple[float, float], count: int | None = None
    ) -> Schedule[AnyFault]:
        """Let faults happen at random times, each to one connection. Under virtual time, the seed reproduces them.

        Args:
            seed: the seed.
            faults: the faults, of which one is chosen each time.
            every: the least and the most seconds between two of them.
            count: how many happen; None for any number, until :meth:`calm` or :meth:`Schedule.stop`.

        Raises:
            InvalidUse: one of the faults strikes only before a method.
        """
        for fault in faults:
            if isinstance(fault, ONLY_BEFORE):
                raise only_before(fault)
        schedule = Schedule(
            seed, faults, every=every, count=count, timers=self._conditions.relief, strike=self._strike_any
        )
        self._schedules.append(schedule)
        return schedule

    def _strike_any(self, fault: AnyFault, source: random.Random) -> int | None:
        if isinstance(fault, Refuse | Block | FreezeBroker):
            fault.strike_all(self)
            return None
        lines = list(self._lines())
        if not lines:
            return None
        place = source.randrange(len(lines))
        fault.strike(lines[place], None)
        if lines[place].peer.is_over:
            lines[place].peer.gone()
        return place

    def calm(self) -> None:
        """End all faults that last, and forget those that wait for a point or a time."""
        self._conditions.armed.clear()
        self._down.clear()
        for schedule in self._schedules:
            schedule.stop()
        self._schedules.clear()
        self.release()
        self.heal()
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

    def heal(self) -> None:
        """End black holes, delays and throttles: what was held back arrives."""
        for line in self._lines():
            line.heal()

    def refuse_logins(self, times: int | None = 1) -> None:
        """Refuse the next logins, whatever the password is.

        Args:
            times: how many; None for all, until :meth:`calm`.
        """
        self.before("connection.start-ok", times=times).strike(RefuseLogin())

    def queue_down(self, name: str) -> None:
        """Behave as if the node of a queue were down: its consumers are cancelled, and requests for it get no answer.

        A channel on which such a request comes answers nothing until :meth:`queue_up`. Messages still reach the queue.

        Args:
            name: the queue's name.
        """

        def is_for_it(method: Method) -> bool:
            return getattr(method, "queue", None) == name

        if name not in self._down:
            armed = Armed(Hang(), "before", None, by="client", where=is_for_it, connection=None, skip=0, times=None)
            self._down[name] = armed
            self._conditions.armed.append(armed)
        for line in self._lines():
            for channel in list(line.peer.channels.values()):
                channel.deliveries.cancel(queue=name)

    def queue_up(self, name: str) -> None:
        """End :meth:`queue_down`: the requests are answered."""
        armed = self._down.pop(name, None)
        if armed is not None:
            armed.disarm()
            self.release()

    def release(self) -> None:
        """Go on with the channels that hang, and answer what came on them."""
        for line in self._lines():
            line.release()

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
        self._ends[fault] = self._conditions.end_after(seconds, end, self._ends.get(fault))

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

        return Point(edge, arm)
