"""The publisher of the explored world."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from anyamqp.core.link_channel import LinkChannel
from anyamqp.errors import AnyamqpError
from anyamqp.message import Properties
from anyamqp.protocol.channel import ChannelCore
from anyamqp.protocol.events import Confirm, Content
from anyamqp.protocol.lifecycle.channel import OVER, USABLE, ChannelEvent, ChannelState
from anyamqp.protocol.outbox import Outbox
from anyamqp.protocol.pending import PendingPublish
from anyamqp.protocol.ports import ChannelOwner
from anyamqp.protocol.publishing import OpenChannel, PublishPolicy, ReportConfirm
from anyamqp.protocol.window import Window
from anyamqp.wire import methods
from anyamqp.wire.basic import Route, encode_properties
from anyamqp.wire.methods import Method
from tools.explore.surroundings import CLOSE_TIMEOUT, Surroundings
from tools.explore.violation import Violation

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


class Publisher(ChannelOwner):
    """Stands for :class:`anyamqp.core.publishing.OutboxShell`.

    Attributes:
        outbox: decides.
        channel: its present channel.
        publishes: the publishes so far, each with its outcome.
        is_entering: whether a task waits for the first opening of the channel.
        is_leaving: whether a task waits for the close of the channel.
        leave_by: when it stops waiting for that.
        reopenings: how many channels it has had in place of closed ones.
        opened_at: when the channel was opened last.
    """

    def __init__(self, world: Surroundings) -> None:
        self.channel: ChannelCore[LinkChannel] = world.core.new_channel(self)
        self.outbox: Outbox = Outbox(
            self.channel, window=Window(100, 1 << 20), policy=PublishPolicy(blocked_timeout=_BLOCKED_TIMEOUT)
        )
        self.publishes: list[tuple[PendingPublish, Outcome]] = []
        self.is_entering: bool = False
        self.is_leaving: bool = False
        self.leave_by: float = math.inf
        self.reopenings: int = 0
        self.opened_at: float = -math.inf
        self._world = world

    @property
    def unconfirmed(self) -> int:
        return self.outbox.counters.unsettled

    def enter(self) -> None:
        """The user enters the publisher's block."""
        self.is_entering = True
        self.outbox.enter()
        self._world.core.publishers.add(self)
        self.on_blocked()
        self._world.core.register(self.channel)

    def publish(self) -> None:
        """The user publishes the next message."""
        now = self._world.clock.now
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
                self.outbox.accept(pending, now, is_awaited=True)
            except AnyamqpError as refused:
                error = refused
        if error is not None:
            pending.outcome = error  # raised to the user, who has it as the only outcome
            outcome.set()

    def leave(self) -> None:
        """The user leaves the publisher's block."""
        self.is_entering, self.is_leaving = False, True
        self._world.core.publishers.discard(self)
        self.outbox.close()
        self.channel.take(ChannelEvent.CLOSE)
        link = self.channel.closing_on
        self.leave_by = math.inf if link is None else link.close_deadline(CLOSE_TIMEOUT)

    def cancel_entering(self) -> None:
        """The user is cancelled while it enters the publisher's block."""
        self.leave()
        self.is_leaving, self.leave_by = False, math.inf
        self.outbox.closed()

    def go_on(self) -> None:
        """The tasks that wait for the channel's opening and for its close."""
        if self.is_entering and self.channel.state in USABLE:
            self.is_entering = False
        elif self.is_entering and self.channel.state in OVER:
            self.cancel_entering()
        if self.is_leaving and (
            self.channel.state is not ChannelState.CLOSING
            or self.channel.closing_on is None
            or self._world.clock.now >= self.leave_by
        ):
            self.is_leaving, self.leave_by = False, math.inf
            self.outbox.closed()

    @property
    def deadline(self) -> float:
        """When :meth:`due` is to be called."""
        return min(self.outbox.deadline, self.leave_by)

    def due(self) -> None:
        """Its deadline has passed."""
        self.outbox.due(self._world.clock.now)
        self._carry_out()

    def _carry_out(self) -> None:
        for effect in self.outbox.take_effects():
            if isinstance(effect, OpenChannel):
                self._open_another(effect.delay)
            elif isinstance(effect, ReportConfirm):
                raise Violation(f"a confirm with tag {effect.delivery_tag}, which the outbox does not know")

    def _open_another(self, delay: float) -> None:
        self.reopenings += 1
        self.channel = self.outbox.channel = self._world.core.new_channel(self)
        try:
            self._world.register(self.channel, delay=delay)
        except AnyamqpError as refused:
            self.outbox.channel_refused(refused)

    # --- events of the channel and the connection ---------------------------------------------------------------------

    @property
    def awaits_answer(self) -> bool:
        return len(self.outbox.ledger) > 0

    def setup(self) -> Sequence[Method]:
        return [methods.Confirm.Select()]

    def on_opened(self) -> None:
        self.opened_at = self._world.clock.now
        self.outbox.channel_opened(self._world.clock.now)

    def on_ready(self) -> None:
        self.outbox.channel_ready(self._world.clock.now)

    def on_confirms(self, confirms: Sequence[Confirm]) -> None:
        self.outbox.confirmed(confirms, self._world.clock.now)
        self._carry_out()

    def on_contents(self, contents: Sequence[Content]) -> None:
        for method, message in contents:
            if isinstance(method, methods.Basic.Return):
                self.outbox.returned(method, message)

    def on_held(self) -> None:
        self.outbox.held()

    def on_lost(self, error: AnyamqpError | None) -> None:
        self.outbox.link_lost(error, self._world.clock.now)

    def on_failed(self, error: AnyamqpError) -> None:
        self.outbox.channel_failed(error, self._world.clock.now)
        self._carry_out()

    def on_blocked(self) -> None:
        block = self._world.core.block
        if block is not None:
            self.outbox.blocked(block.reason, block.since, self._world.clock.now)
            self._carry_out()

    def on_unblocked(self) -> None:
        self.outbox.unblocked()
