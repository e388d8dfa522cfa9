"""The publisher of the explored world."""

from __future__ import annotations

import math
from typing import Final

from anyamqp.core.link_channel import LinkChannel
from anyamqp.core.publishing import OutboxShell
from anyamqp.errors import AnyamqpError
from anyamqp.message import Properties
from anyamqp.protocol.channel import ChannelCore
from anyamqp.protocol.lifecycle.channel import OVER, USABLE, ChannelState
from anyamqp.protocol.pending import PendingPublish
from anyamqp.protocol.publishing import PublishPolicy
from anyamqp.wire.basic import Route, encode_properties
from tools.explore.clock import NoTimer
from tools.explore.host import PlainHost

_PUBLISH_TIMEOUT: Final = 60.0
_BLOCKED_TIMEOUT: Final = 30.0
"""Seconds."""


class Outcome:
    """Stands for the task that waits for a publish, and counts how often it is woken."""

    def __init__(self) -> None:
        self.count: int = 0

    def set(self) -> None:
        """There is an outcome."""
        self.count += 1


class Publisher(OutboxShell):
    """The real shell of an outbox. In place of tasks that wait, :meth:`go_on` looks at the end of each step.

    Attributes:
        publishes: the publishes so far, each with its outcome.
        is_entering: whether a task waits for the first opening of the channel.
        is_leaving: whether a task waits for the close of the channel.
        leave_by: when it stops waiting for that.
        reopenings: how many channels it has had in place of closed ones.
        opened_at: when the channel was opened last.
    """

    def __init__(self, host: PlainHost) -> None:
        policy = PublishPolicy(blocked_timeout=_BLOCKED_TIMEOUT)
        super().__init__(host.for_shells, host.core.publishers, window=100, window_bytes=1 << 20, policy=policy)
        self._deadlines = NoTimer()
        self.publishes: list[tuple[PendingPublish, Outcome]] = []
        self.is_entering: bool = False
        self.is_leaving: bool = False
        self.leave_by: float = math.inf
        self.reopenings: int = 0
        self.opened_at: float = -math.inf

    @property
    def channel(self) -> ChannelCore[LinkChannel]:
        """Its present channel."""
        return self._channel.core

    # --- the user -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """The user enters the publisher's block."""
        self.is_entering = True
        self.outbox.enter()
        self._registry.add(self)
        self.on_blocked()
        self._channel.register()

    def cancel_entering(self) -> None:
        """The user is cancelled while it enters the publisher's block, or entering fails."""
        self.is_entering = False
        self.give_up()
        self.outbox.closed()

    def publish(self) -> None:
        """The user publishes the next message."""
        now = self._host.loop.now()
        identity, outcome = str(len(self.publishes) + 1), Outcome()
        pending = PendingPublish(
            self.outbox.counters,
            Route("x", "key", mandatory=True),
            identity,
            encode_properties(Properties(message_id=identity)),
            identity.encode(),
            now + _PUBLISH_TIMEOUT,
        )
        pending.waiter, pending.is_observed = outcome, True
        self.publishes.append((pending, outcome))
        error: AnyamqpError | None = self.outbox.block.error(now)
        if error is None and self.outbox.window.try_take(pending.size):
            try:
                self.accept(pending, now, is_awaited=True)
            except AnyamqpError as refused:
                error = refused
        if error is not None:
            pending.outcome = error  # raised to the user, who has it as the only outcome
            outcome.set()

    def leave(self) -> None:
        """The user leaves the publisher's block."""
        self.is_leaving = True
        self.give_up()
        self.leave_by = self.channel.close_deadline(self._host.close_timeout)

    # --- waiting ------------------------------------------------------------------------------------------------------

    def go_on(self) -> None:
        """The tasks that wait for the channel's opening and for its close."""
        if self.is_entering and self.channel.state in USABLE:
            self.is_entering = False
        elif self.is_entering and self.channel.state in OVER:
            self.cancel_entering()
        if self.is_leaving and (
            self.channel.state is not ChannelState.CLOSING or self._host.loop.now() >= self.leave_by
        ):
            self.is_leaving, self.leave_by = False, math.inf
            self.outbox.closed()

    @property
    def deadline(self) -> float:
        """When :meth:`due` is to be called."""
        return min(self.outbox.deadline, self.leave_by)

    def due(self) -> None:
        """Its deadline has passed."""
        self._due(self._host.loop.now())

    # --- for the fingerprint ------------------------------------------------------------------------------------------

    def on_opened(self) -> None:
        self.opened_at = self._host.loop.now()
        super().on_opened()

    def _open_another(self, delay: float) -> None:
        self.reopenings += 1
        super()._open_another(delay)
