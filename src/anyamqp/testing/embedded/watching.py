"""Sees the methods of a client pass, so that faults of the embedded broker strike at them. No I/O."""

from __future__ import annotations

from anyamqp.testing.embedded.assembly import Command
from anyamqp.testing.embedded.conditions import Conditions
from anyamqp.testing.embedded.points import Line, Passing
from anyamqp.testing.embedded.violations import Violation
from anyamqp.wire.methods import Method


class Watcher:
    """The watch over one connection: a :class:`~anyamqp.testing.embedded.peer.Watch`.

    Args:
        line: the connection.
        conditions: the faults of the broker.
    """

    def __init__(self, line: Line, conditions: Conditions) -> None:
        self._line = line
        self._conditions = conditions
        self._handled: dict[int, Method] = {}
        self._hung: set[int] = set()
        self._held: list[tuple[int, Command]] = []

    def before(self, channel: int, command: Command) -> bool:
        """A method has come. Returns whether the broker is to handle it."""
        if channel not in self._hung:
            if not self._conditions.armed:
                return True
            passing = Passing("client", channel, command.method)
            self._conditions.strike("before", passing, self._line)
            if not passing.is_dropped:
                self._handled[channel] = command.method
                return True
        if channel in self._hung:
            self._held.append((channel, command))
        return False

    def after(self, channel: int) -> None:
        """The broker has handled the last method of a channel."""
        method = self._handled.pop(channel, None)
        if method is not None:
            self._conditions.strike("after", Passing("client", channel, method), self._line)

    def hang(self, channel: int) -> None:
        """Hold back the methods of a channel."""
        self._hung.add(channel)

    def release(self, now: float) -> None:
        """Handle what was held back."""
        self._hung.clear()
        held, self._held = self._held, []
        for channel, command in held:
            try:
                self._line.peer.handle(channel, command, now)
            except Violation as violation:
                self._line.peer.close(violation.error.code, violation.error.text, violation.at_fault)
