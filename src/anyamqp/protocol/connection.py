"""The decisions of a connection: its life cycle, and its consequences for channels, publishers and consumers.

The connection follows :data:`~anyamqp.protocol.lifecycle.connection.CONNECTION`. It carries out the effects on
channels, publishers and consumers itself, and leaves the others to its caller, who dials, waits and moves bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from anyamqp.errors import (
    AnyamqpError,
    ChannelLimitReached,
    CloseFacts,
    ConnectionClosed,
    InvalidUse,
    copy_of,
    reason_of,
)
from anyamqp.protocol import blame
from anyamqp.protocol.channel import ChannelCore
from anyamqp.protocol.channel_numbers import HIGHEST_CHANNEL
from anyamqp.protocol.coupling import ENDS_CHANNELS, FOR_CHANNELS, ON_JOINING, ON_OPENING, Joining
from anyamqp.protocol.events import BlockNotice
from anyamqp.protocol.lifecycle import ConnectionEffect, ConnectionEvent, ConnectionState, State
from anyamqp.protocol.lifecycle.channel import UNOPENED, ChannelEvent
from anyamqp.protocol.lifecycle.connection import CONNECTION
from anyamqp.protocol.ports import ChannelLink, ChannelOnLink, ChannelOwner, Consuming, Publishing
from anyamqp.protocol.topology import Recorded, Topology
from anyamqp.protocol.waking import Wakers

P = TypeVar("P", bound=ChannelOnLink)
Effects = list[ConnectionEffect]


class Changes(Protocol):
    """Records changes of the public states of connection and channels."""

    def changed(
        self, machine: str, source: State, event: ConnectionEvent | ChannelEvent, target: State, reason: str | None
    ) -> None:
        """The state of ``connection`` or ``channel 3`` changed."""
        ...


class Recovering(Protocol):
    """The recovery of the present link."""

    @property
    def not_back(self) -> tuple[str, ...]:
        """The entities, consumers and channels that are not back, each with the reason."""
        ...

    def will_declare(self, queue: str) -> bool:
        """Whether a queue that is missing is declared once more. The call itself requests that."""
        ...

    def changed(self) -> None:
        """The public state of the connection or of a channel changed, or there is another channel to open."""
        ...

    def opened(self) -> None:
        """The connection is OPEN on the link."""
        ...

    def lost(self, error: AnyamqpError | None) -> None:
        """The link has ended with ``error``; None if we closed it. Told before any channel hears of it."""
        ...


class ConnectionCore(Generic[P]):
    """One connection.

    Args:
        topology: records the entities that were declared.
        changes: records the changes of public states.
        new_link_channel: makes a channel of the current link.

    Attributes:
        link: the current link; None between two links.
        most_channels: the most channels that may be open; 0 for as many as AMQP can number.
        channels: the registered channels, in the order of their recovery.
        publishers, consumers: the open publishers and consumers.
        opened_at: the time at which recovery on the current link was complete; None before.
        reconnects: how often the connection was open again after a loss.
        failure: the error for which the connection gave up; None if it did not.
        close_facts: the close frames of the last link.
        recovery: recovers the entities and channels on each new link; set once by the caller.
        wakers: woken when the public state changes.
        number_wakers: woken when a channel is closed or a channel number is free.
    """

    def __init__(self, topology: Topology, changes: Changes, new_link_channel: Callable[[int], P]) -> None:
        self.topology: Topology = topology
        self.link: ChannelLink | None = None
        self.most_channels: int = 0
        self.channels: dict[ChannelCore[P], None] = {}
        self.publishers: set[Publishing] = set()
        self.consumers: set[Consuming] = set()
        self.opened_at: float | None = None
        self.reconnects: int = 0
        self.failure: Exception | None = None
        self.close_facts: CloseFacts | None = None
        self.wakers: Wakers = Wakers()
        self.number_wakers: Wakers = Wakers()
        self.recovery: Recovering | None = None
        self._changes = changes
        self._new_link_channel = new_link_channel
        self._last_channel_id = 0
        self._lifecycle = CONNECTION.begin()

    @property
    def state(self) -> ConnectionState:
        """The state of its life cycle."""
        return self._lifecycle.state

    def take(self, event: ConnectionEvent, now: float, reason: Exception | str | None = None) -> Effects:
        """Take an event.

        Args:
            event: the event.
            now: the current time in seconds, on any clock that does not go back.
            reason: the error behind the event, or the broker's words.

        Returns:
            The effects that the caller has to carry out, in this order.
        """
        step = self._lifecycle.fire(event)
        source, target = step.source.public, step.target.public
        if source is not target:
            text = reason_of(reason) if isinstance(reason, Exception) else reason
            self._changed("connection", source, event, target, text)
            self.wakers.wake()
        left: Effects = []
        for effect in step.effects:
            left += self._carry_out(effect, now, reason)
        return left

    def dialed(self, link: ChannelLink, now: float) -> Effects:
        """A transport is open, on which ``link`` is to run. Returns effects as :meth:`take` does."""
        effects = self.take(ConnectionEvent.DIALED, now)
        self.link, self.opened_at = link, None
        return effects

    @property
    def block(self) -> BlockNotice | None:
        """The broker's notice while the connection is BLOCKED; None otherwise."""
        is_blocked = self.state is ConnectionState.BLOCKED
        return self.link.session.block if is_blocked and self.link is not None else None

    @property
    def not_back(self) -> tuple[str, ...]:
        """The entities, consumers and channels that are not back after the last loss, each with the reason."""
        return () if self.recovery is None else self.recovery.not_back

    def will_declare(self, queue: str) -> bool:
        """Whether a queue that is missing is declared once more in the recovery that is under way."""
        return self.recovery is not None and self.recovery.will_declare(queue)

    def closed_error(self) -> ConnectionClosed:
        """The error of every call on the closed connection."""
        why = f": {self.failure}" if self.failure is not None else ""
        error = ConnectionClosed(f"the connection is closed{why}")
        error.close = self.close_facts
        error.__cause__ = self.failure
        return error

    def raise_if_closed(self) -> None:
        """Refuse a call on a connection that is closed or closing.

        Raises:
            ConnectionClosed: the connection is closed or closing.
        """
        if self.state in (ConnectionState.CLOSING, ConnectionState.CLOSED):
            raise self.closed_error()

    # --- channels ---------------------------------------------------------------------------------------------------

    def new_channel(self, owner: ChannelOwner | None) -> ChannelCore[P]:
        """Make a channel, without registering it."""
        self._last_channel_id += 1
        return ChannelCore(f"channel {self._last_channel_id}", self, owner)

    def register(self, channel: ChannelCore[P], *, is_postponed: bool = False) -> None:
        """Keep a channel until it is closed, and attach it to each link.

        Args:
            channel: the channel.
            is_postponed: do not attach it to the current link before its event DUE.

        Raises:
            ChannelLimitReached: no channel number is free.
            ConnectionClosed: the connection is closed.
            InvalidArgument: a request of the channel's setup does not fit a frame of the link.
            InvalidUse: the connection's block was not entered.
        """
        match ON_JOINING[self.state]:
            case Joining.NOT_ENTERED:
                raise InvalidUse("a connection works inside its block: async with connect(...) as connection")
            case Joining.CLOSED:
                raise self.closed_error()
            case _:
                channel.take(ChannelEvent.POSTPONED if is_postponed else ChannelEvent.REGISTERED)
        self.channels[channel] = None

    def join(self, channel: ChannelCore[P]) -> None:
        """Attach a channel to the current link, or leave that to the recovery.

        Raises:
            ChannelLimitReached: no channel number is free.
            InvalidArgument: a request of the channel's setup does not fit a frame of the link.
        """
        if ON_JOINING[self.state] is Joining.NOW and self.link is not None:
            channel.attach(self.link)
            return
        most = self.most_channels or HIGHEST_CHANNEL
        if channel not in self.channels and len(self.channels) >= most:
            raise ChannelLimitReached(f"all {most} channels that the connection may have are open")
        channel.take(ChannelEvent.DEFERRED)
        self._tell_recovery()

    def forget(self, channel: ChannelCore[P]) -> None:
        """Remove a closed channel."""
        self.channels.pop(channel, None)
        self.number_wakers.wake()

    def new_link_channel(self, number: int) -> P:
        """Make a channel of the current link."""
        return self._new_link_channel(number)

    @property
    def missed(self) -> tuple[ChannelEvent, ...]:
        """The events of the connection that a channel has missed if it opens now."""
        return ON_OPENING[self.state.public]

    def record(
        self,
        channel: ChannelCore[P],
        source: State,
        event: ChannelEvent,
        target: State,
        error: AnyamqpError | None,
    ) -> None:
        """Record that a channel's public state changed."""
        reason = None if error is None else reason_of(error)
        self._changed(channel.name, source, event, target, reason)

    def entity_failed(self, recorded: Recorded, error: AnyamqpError) -> None:
        """An entity could not be declared again: end the channel that declared it, and the consumers that need it."""
        if blame.is_for_every_link(error):
            self.topology.forget(recorded)
        queue = self.topology.current_name(recorded.entity.name)
        owner = recorded.owner()
        if owner is not None:
            owner.fail(error)
        if recorded.entity.kind == "queue" and not blame.is_for_an_entity_that_exists(error):
            for consumer in list(self.consumers):
                if consumer.queue == queue:
                    consumer.fail(error)

    @property
    def unopened(self) -> list[ChannelCore[P]]:
        """The channels that are not open on the current link yet."""
        return [channel for channel in self.channels if channel.state in UNOPENED]

    def _changed(
        self, machine: str, source: State, event: ConnectionEvent | ChannelEvent, target: State, reason: str | None
    ) -> None:
        self._changes.changed(machine, source, event, target, reason)
        self._tell_recovery()

    def _tell_recovery(self) -> None:
        if self.recovery is not None:
            self.recovery.changed()

    # --- effects ----------------------------------------------------------------------------------------------------

    def _carry_out(self, effect: ConnectionEffect, now: float, reason: Exception | str | None) -> Effects:
        """Carry out an effect. Returns the effects that the caller has to carry out."""
        if (event := FOR_CHANNELS.get(effect)) is not None:
            for channel in list(self.channels):
                channel.take(event)
            return []
        if (event := ENDS_CHANNELS.get(effect)) is not None:
            self._end_channels(event, reason)
            return []
        match effect:
            case ConnectionEffect.COUNT_RECONNECT:
                self.reconnects += 1
            case ConnectionEffect.REPEAT_BLOCK:
                self.opened_at = now
                return self._repeat_block(now)
            case ConnectionEffect.TELL_BLOCKED:
                for publisher in list(self.publishers):
                    publisher.on_blocked()
            case ConnectionEffect.TELL_UNBLOCKED:
                for publisher in list(self.publishers):
                    publisher.on_unblocked()
            case ConnectionEffect.EMPTY_CONSUMERS:
                self._empty_consumers()
            case ConnectionEffect.LOSE_LINK:
                self._lose_link(reason if isinstance(reason, AnyamqpError) else None)
            case ConnectionEffect.TELL_OPENED:
                if self.recovery is not None:
                    self.recovery.opened()
            case _:
                return [effect]
        return []

    def _repeat_block(self, now: float) -> Effects:
        block = None if self.link is None else self.link.session.block
        return [] if block is None else self.take(ConnectionEvent.BLOCKED, now, block.reason)

    def _lose_link(self, error: AnyamqpError | None) -> None:
        link, self.link = self.link, None
        if link is not None:
            self.close_facts = link.session.close_facts
        if self.recovery is not None:
            self.recovery.lost(error)

    def _empty_consumers(self) -> None:
        # First cancel all: the broker would deliver requeued messages to another consumer of ours.
        for consumer in list(self.consumers):
            consumer.cancel()
        for consumer in list(self.consumers):
            consumer.give_back()

    def _end_channels(self, event: ChannelEvent, reason: Exception | str | None) -> None:
        self.failure = reason if isinstance(reason, Exception) else None
        error = self.closed_error()
        for channel in list(self.channels):
            channel.take(event, error)
        for consumer in list(self.consumers):
            consumer.on_connection_closed(copy_of(error))
