"""The conditions under which the embedded broker serves its connections: its entities and its faults."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio

from anyamqp.testing.embedded.hosts import Hosts
from anyamqp.testing.embedded.points import Armed, Edge, Line, Passing
from anyamqp.testing.embedded.timers import Timer, Timers
from anyamqp.testing.embedded.versions import Rules
from anyamqp.wire.frames import method_name

_EXCUSE = 1.0
"""Seconds after a freeze in which the broker does not count clients that left because of the freeze."""


class Conditions:
    """The state that all connections of one broker share.

    Args:
        rules: how the version of RabbitMQ behaves that the broker follows.

    Attributes:
        timers: what is to happen later.
        relief: what is to happen later even if the broker is frozen: the ends of its faults.
        hosts: the virtual hosts with their entities.
        blocked: why publishers are blocked; None if they are not.
        is_frozen: whether the broker has stopped answering.
        is_refusing: whether the broker refuses new connections.
        excused_until: the time on the event loop's clock until which a client may leave without a close handshake,
            because the broker was frozen.
        unexpected_closes: names of the connections whose client left without a close handshake.
        errors: the exceptions that the broker's own code raised, which are bugs; each ended one connection at most.
        armed: the faults that wait for a point of the protocol.
    """

    def __init__(self, rules: Rules) -> None:
        self.timers: Timers = Timers(anyio.current_time, self._reschedule)
        self.relief: Timers = Timers(anyio.current_time, self._reschedule)
        self.hosts: Hosts = Hosts(rules, self.timers)
        self.blocked: str | None = None
        self.is_frozen: bool = False
        self.is_refusing: bool = False
        self.excused_until: float = 0.0
        self.unexpected_closes: list[str] = []
        self.errors: list[Exception] = []
        self.armed: list[Armed] = []
        self._changed = anyio.Event()
        self._rescheduled = anyio.Event()

    # --- faults -----------------------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Stop answering."""
        self.is_frozen = True
        self.excused_until = float("inf")

    def thaw(self) -> None:
        """Answer again."""
        if self.is_frozen:
            self.is_frozen = False
            self.excused_until = anyio.current_time() + _EXCUSE
            self.announce()
            self._reschedule()

    def strike(self, edge: Edge, passing: Passing, line: Line) -> None:
        """Let the faults happen that are armed for this point, in the order in which they were armed."""
        name = method_name(passing.method)
        for armed in list(self.armed):
            if armed.is_due(edge, name, passing, line):
                armed.fault.strike(line, passing)
        if line.peer.is_over:
            line.peer.gone()
        self.armed = [armed for armed in self.armed if not armed.is_spent]

    def end_after(self, seconds: float | None, end: Callable[[], None], before: Timer | None) -> Timer | None:
        """End a fault after so many seconds, None for never, instead of when it was to end before."""
        if before is not None:
            before.cancel()
        return None if seconds is None else self.relief.after(seconds, end)

    # --- waiting ----------------------------------------------------------------------------------------------------

    def announce(self) -> None:
        """Wake the tasks that wait for a change."""
        self._changed.set()
        self._changed = anyio.Event()

    async def wait_changed(self) -> None:
        """Wait until a fault or a connection ends."""
        await self._changed.wait()

    async def wait_thawed(self) -> None:
        """Wait until the broker is not frozen."""
        while self.is_frozen:
            await self.wait_changed()

    async def keep_time(self) -> None:
        """Do what is due, for ever; a frozen broker does it when it thaws."""
        self.timers.epoch = time.time() - anyio.current_time()
        while True:
            self._rescheduled = anyio.Event()
            due = [self.relief.next_due, None if self.is_frozen else self.timers.next_due]
            with anyio.CancelScope(deadline=min((one for one in due if one is not None), default=float("inf"))):
                await self._rescheduled.wait()
            try:
                self.relief.run_due()
                if not self.is_frozen:
                    self.timers.run_due()
            except Exception as error:  # noqa: BLE001 - a bug of the broker ends none of its connections
                self.errors.append(error)

    def _reschedule(self) -> None:
        self._rescheduled.set()
