"""The recovery of the explored world."""

from __future__ import annotations

import math
from typing import cast

from anyamqp.core.journal import Journal
from anyamqp.core.link_channel import LinkChannel
from anyamqp.core.recovery import Recovery
from anyamqp.core.recovery_hooks import RecoveryHooks
from anyamqp.entities import TopologyRecovery
from anyamqp.errors import AnyamqpError
from anyamqp.net.link import Link
from anyamqp.protocol.channel import ChannelCore
from anyamqp.protocol.lifecycle.channel import OPENING
from anyamqp.protocol.lifecycle.recovery import RecoveryState
from anyamqp.protocol.recovering import RecoveryCore
from tools.explore.clock import NoTimer
from tools.explore.host import PlainHost
from tools.explore.link import PlainLink


class PlainRecovery(Recovery):
    """The real recovery, without the task that waits for the end of it.

    Attributes:
        is_running: whether a task waits until the connection may open.
        begun_at: when that began.
        left_behind: the channels without which the connection has opened on the present link.
    """

    def __init__(self, host: PlainHost) -> None:
        hooks = RecoveryHooks(TopologyRecovery(), host.core, cast("Journal", host.journal))
        super().__init__(host.for_shells, hooks.wanted, hooks.failed)
        self._deadlines = NoTimer()
        self._notes = host.journal
        self.is_running: bool = False
        self.begun_at: float = math.inf
        self.left_behind: list[ChannelCore[LinkChannel]] = []

    @property
    def core(self) -> RecoveryCore[LinkChannel]:
        """Its decisions."""
        return self._core

    @property
    def deadline(self) -> float:
        """When :meth:`go_on` has something to do."""
        return self._core.deadline if self.is_running or self._core.is_open else math.inf

    def start(self, link: PlainLink) -> None:
        """A task begins to recover on a link."""
        self.is_running = True
        self.begun_at = self._host.loop.now()
        self.begin(cast("Link", link))  # PlainLink has all members that it uses

    def opened(self) -> None:
        self.is_running = False
        self.left_behind = [channel for channel in self._host.core.unopened if channel.state in OPENING]
        if self.left_behind:
            self._notes.note("a connection that opened while a channel was opening")
        super().opened()

    def lost(self, error: AnyamqpError | None) -> None:
        self.is_running = False
        self.left_behind = []
        super().lost(error)

    def go_on(self) -> bool:
        """Act as long as there is something to do. Returns whether the connection may open."""
        now = self._host.loop.now()
        while self.deadline <= now:
            self._act(now)
        return self.is_running and self._core.state is RecoveryState.SETTLED
