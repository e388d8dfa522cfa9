"""The conditions under which the embedded broker serves its connections: its entities and its faults."""

from __future__ import annotations

import time

import anyio

from anyamqp.testing.embedded.model import Hosts
from anyamqp.testing.embedded.timers import Timers
from anyamqp.testing.embedded.versions import Rules


class Conditions:
    """The state that all connections of one broker share.

    Args:
        rules: how the version of RabbitMQ behaves that the broker follows.

    Attributes:
        timers: what is to happen later.
        hosts: the virtual hosts with their entities.
        blocked: why publishers are blocked; None if they are not.
        is_frozen: whether the broker has stopped answering.
        excused_until: the time on the event loop's clock until which a client may leave without a close handshake,
            because the broker was frozen.
        unexpected_closes: names of the connections whose client left without a close handshake.
    """

    def __init__(self, rules: Rules) -> None:
        self.timers: Timers = Timers(anyio.current_time, self._reschedule, time.time() - anyio.current_time())
        self.hosts: Hosts = Hosts(rules, self.timers)
        self.blocked: str | None = None
        self.is_frozen: bool = False
        self.excused_until: float = 0.0
        self.unexpected_closes: list[str] = []
        self._changed = anyio.Event()
        self._rescheduled = anyio.Event()

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
        while True:
            self._rescheduled = anyio.Event()
            due = self.timers.next_due
            with anyio.CancelScope(deadline=float("inf") if due is None else due):
                await self._rescheduled.wait()
            await self.wait_thawed()
            self.timers.run_due()

    def _reschedule(self) -> None:
        self._rescheduled.set()
