"""The conditions under which the embedded broker serves its connections: its entities and its faults."""

from __future__ import annotations

import anyio

from anyamqp.testing.model import Model


class Conditions:
    """The state that all connections of one broker share.

    Attributes:
        model: the entities and their messages.
        blocked: why publishers are blocked; None if they are not.
        is_frozen: whether the broker has stopped answering.
        excused_until: the time on the event loop's clock until which a client may leave without a close handshake,
            because the broker was frozen.
        unexpected_closes: names of the connections whose client left without a close handshake.
    """

    def __init__(self) -> None:
        self.model: Model = Model()
        self.blocked: str | None = None
        self.is_frozen: bool = False
        self.excused_until: float = 0.0
        self.unexpected_closes: list[str] = []
        self._changed = anyio.Event()

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
