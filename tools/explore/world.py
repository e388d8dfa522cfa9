"""A world to explore: one connection, the objects on it, and a broker.

The connection, its recovery, channels, links, publisher and consumer are the real objects. The world stands for the
supervisor (:mod:`anyamqp.core.supervisor`) and the tasks of a link, which are not explored: it carries out effects.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from anyamqp.core.link_channel import LinkChannel
from anyamqp.errors import AnyamqpError, TransportError
from anyamqp.message import FieldTable
from anyamqp.protocol.connection import ConnectionCore
from anyamqp.protocol.events import Tuning
from anyamqp.protocol.leaving import Leaving
from anyamqp.protocol.lifecycle import ConnectionEffect, ConnectionEvent, ConnectionState
from anyamqp.protocol.subscribing import OnCancel
from tools.explore.broker import Broker
from tools.explore.clock import Clock
from tools.explore.consumer import Consumer
from tools.explore.host import CLOSE_TIMEOUT, PlainHost, PlainJournal
from tools.explore.link import PlainLink
from tools.explore.publisher import Publisher
from tools.explore.recovery import PlainRecovery
from tools.explore.user_channel import UserChannel
from tools.explore.violation import Violation

PAUSE: Final = 0.2
"""Seconds before a dial."""


class Parts(NamedTuple):
    """The objects in a world, and how often each kind of accident may happen.

    Attributes:
        channel: whether there is a user's channel.
        publishes: how many publishes the publisher may make; 0 for no publisher.
        consumer: whether there is a consumer.
        losses: how often a link may end that the user has not closed.
        refusals: how often a dial may fail.
        closes: how often the broker may close a channel that it has no reason to.
        blocks: how often the broker may block the connection, or stop a channel.
        on_cancel: the consumer's reaction to basic.cancel.
    """

    channel: bool = True
    publishes: int = 2
    consumer: bool = True
    losses: int = 2
    refusals: int = 1
    closes: int = 1
    blocks: int = 1
    on_cancel: OnCancel = "raise"


class World:
    """One world.

    Args:
        parts: the objects in it.

    Attributes:
        host: the connection's parts.
        core: the connection.
        recovery: its recovery.
        clock: the time.
        journal: the records.
        broker: the other side.
        channel, publisher, consumer: the objects on the connection; None for no such object.
        is_dialing: whether a dial is under way.
        pause_until: when the pause before the next dial ends; infinity for none.
        leaving: decides when closing ends at the latest.
        is_over: whether everybody was told that the connection is closed.
        left: how many accidents may still happen.
    """

    def __init__(self, parts: Parts) -> None:
        self.host: PlainHost = PlainHost()
        self.core: ConnectionCore[LinkChannel] = self.host.core
        self.recovery: PlainRecovery = PlainRecovery(self.host)
        self.core.recovery = self.recovery
        self.clock: Clock = self.host.loop
        self.journal: PlainJournal = self.host.journal
        self.broker: Broker = Broker(messages=1 if parts.consumer else 0)
        self.channel: UserChannel | None = UserChannel(self.host) if parts.channel else None
        self.publisher: Publisher | None = Publisher(self.host) if parts.publishes else None
        self.consumer: Consumer | None = Consumer(self.host, self.broker, parts.on_cancel) if parts.consumer else None
        self.is_dialing: bool = False
        self.pause_until: float = math.inf
        self.leaving: Leaving = Leaving(CLOSE_TIMEOUT)
        self.is_over: bool = False
        self.left: Parts = parts
        self.link_number: int = 0
        self._waits = False
        """Whether the pause begins as soon as the last link is torn down."""
        self.fire(ConnectionEvent.STARTED)
        self.settle()

    @property
    def link(self) -> PlainLink | None:
        """The present link; None between two."""
        return self.host.link

    # --- events of the link ------------------------------------------------------------------------------------------

    def on_link_opened(self, tuning: Tuning, server_properties: FieldTable) -> None:  # noqa: ARG002
        """The handshake is done."""
        self.core.most_channels = tuning.channel_max
        self.fire(ConnectionEvent.CONNECTED)

    def on_link_blocked(self, reason: str) -> None:
        """The broker accepts no publishes."""
        self.fire(ConnectionEvent.BLOCKED, reason)

    def on_link_unblocked(self) -> None:
        """The broker accepts publishes again."""
        was_blocked = self.core.state is ConnectionState.BLOCKED
        self.fire(ConnectionEvent.UNBLOCKED)
        if was_blocked:
            self.journal.note("a block that ended")

    def on_number_free(self) -> None:
        """A channel's close is complete."""

    def on_secret_updated(self, secret: str) -> None:
        """No secret is updated here."""

    def on_link_ended(self, error: AnyamqpError | None) -> None:
        """The link is gone."""
        self.fire(ConnectionEvent.LOST, error)

    # --- effects ------------------------------------------------------------------------------------------------------

    def fire(self, event: ConnectionEvent, reason: Exception | str | None = None) -> None:
        """An event of the connection."""
        for effect in self.core.take(event, self.clock.now(), reason):
            self._carry_out(effect)

    def _carry_out(self, effect: ConnectionEffect) -> None:
        match effect, self.link:
            case ConnectionEffect.WAIT, _:
                self._waits = True
            case ConnectionEffect.DIAL, _:
                self._dial()
            case ConnectionEffect.RUN_LINK, _:
                self.broker.accept(self.link_number)
            case ConnectionEffect.RECOVER, PlainLink() as link:
                self.recovery.start(link)
            case ConnectionEffect.INTERRUPT, _:
                self.leaving.attempt(self.clock.now())
                self.recovery.is_running = self._waits = False
                self.pause_until = math.inf
            case ConnectionEffect.LEAVE_HANDSHAKE, PlainLink() as link:
                if self.leaving.handshake(link.session.bytes_received, self.clock.now()):
                    link.abort(TransportError("the link was dropped"))
            case ConnectionEffect.LEAVE_LINK, PlainLink() as link:
                link.close()
            case ConnectionEffect.CLOSE_LINK, PlainLink() as link:
                link.close()
                self.leaving.link(link.close_deadline(CLOSE_TIMEOUT), self.clock.now())
            case ConnectionEffect.END, _:
                self.is_over = True
                self.pause_until = self.leaving.deadline = math.inf
                self.clock.calls.clear()
            case _:
                raise Violation(f"the connection cannot {effect.value} without a link")

    def _dial(self) -> None:
        if self.is_dialing or self.link is not None:
            raise Violation("invariant 1: a second dial, or a dial while a link lives")
        self.is_dialing = True

    def dialed(self) -> None:
        """The dial has succeeded."""
        if self.link is not None:
            raise Violation("invariant 1: a second link")
        self.is_dialing = False
        self.link_number += 1
        self.host.link = PlainLink(self.link_number, self, self.host, self.clock)
        for effect in self.core.dialed(self.host.link, self.clock.now()):
            self._carry_out(effect)

    def give_up(self) -> None:
        """The policy says that there is to be no other dial."""
        self.pause_until = math.inf
        self.fire(ConnectionEvent.FAILED, TransportError("no broker"))
        self.fire(ConnectionEvent.CLOSED)

    def drop(self) -> None:
        """Closing has taken too long: cancel whatever is under way."""
        self.is_dialing = False
        self.leaving.deadline = math.inf
        if self.link is not None:
            self.link.abort(TransportError("the link was dropped"))

    # --- tasks --------------------------------------------------------------------------------------------------------

    def hear(self, data: bytes) -> None:
        """Bytes come from the broker."""
        if self.link is not None and data:
            self.link.receive(data)

    def settle(self) -> None:
        """Let everything go on until it waits for the next move."""
        for _ in range(2):
            self._go_on()
            while self.link is not None and self.link.session.has_output:
                data = b"".join(self.link.session.output(self.clock.now()))
                if self.broker.link is not None:
                    answer = self.broker.take(data)
                    for heard in self.broker.heard:
                        self.journal.say(f"Client->>Broker: {heard}")
                    self.hear(answer)
                self._go_on()
        self.journal.facts |= self.broker.facts
        self.broker.facts.clear()

    def _go_on(self) -> None:
        link = self.link
        if link is not None:
            link.dispatch()
        for part in (self.channel, self.publisher, self.consumer):
            if part is not None:
                part.go_on()
        if self.recovery.go_on():
            self.fire(ConnectionEvent.OPENED)
        if link is not None and link.has_ended:
            self.host.link = None
            self.broker.lose()
        if self.link is None:
            if self._waits:
                self._waits, self.pause_until = False, self.clock.now() + PAUSE
            if not (self.is_dialing or self.is_over or self.pause_until < math.inf):
                self.fire(ConnectionEvent.CLOSED)  # no step is left, and the supervisor's task ends

    # --- time ---------------------------------------------------------------------------------------------------------

    @property
    def nearest(self) -> float:
        """The next deadline; infinity for none."""
        own = [self.pause_until, self.recovery.deadline, self.leaving.deadline, self.clock.nearest]
        return min(own + [part.deadline for part in (self.publisher, self.consumer) if part is not None])

    def pass_time(self) -> None:
        """Move on to the next deadline, and carry out whatever is due."""
        now = self.clock.time = max(self.clock.now(), self.nearest)
        for call in self.clock.take_due():
            call()
        if now >= self.pause_until:
            self.pause_until = math.inf
            self.fire(ConnectionEvent.DUE)
        if now >= self.leaving.deadline:
            self.drop()
        for part in (self.publisher, self.consumer):
            if part is not None and now >= part.deadline:
                part.due()
