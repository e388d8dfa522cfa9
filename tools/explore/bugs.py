"""Planted bugs, each a small change of a real object. An exploration must find every one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final, NamedTuple
from unittest.mock import patch

from anyamqp.core.link_channel import LinkChannel
from anyamqp.errors import AnyamqpError
from anyamqp.protocol import recovering
from anyamqp.protocol.channel import ChannelCore
from anyamqp.protocol.channel_zero import ChannelZero
from anyamqp.protocol.confirms import Ledger
from anyamqp.protocol.connection import ConnectionCore
from anyamqp.protocol.dispatch import Dispatcher
from anyamqp.protocol.events import Ended
from anyamqp.protocol.lifecycle import CONNECTION, ChannelEvent, ConnectionEffect, ConnectionEvent, ConnectionState
from anyamqp.protocol.lifecycle.table import Row
from anyamqp.protocol.outbox import Outbox
from anyamqp.protocol.pending import CONFIRMED, Confirmed, PendingPublish
from anyamqp.protocol.places import Places
from anyamqp.protocol.recovering import Attach, RecoveryCore
from anyamqp.protocol.settlements import Settlements
from tools.explore.scenarios import CONSUMER_UP, FIRST_DIAL, LINK_STAYS, PUBLISHER_LOST, PUBLISHER_UP
from tools.explore.search import Scenario


class Bug(NamedTuple):
    """A planted bug.

    Attributes:
        name: its name.
        plant: plants it for as long as the context lasts.
        scenario: where it is looked for.
        breaks: a part of the violation's text.
    """

    name: str
    plant: Callable[[], AbstractContextManager[object]]
    scenario: Scenario
    breaks: str


def _second_dial() -> AbstractContextManager[object]:
    """A connection that is lost dials at once, and again after the pause."""
    hasty = Row(
        ConnectionEvent.LOST,
        (ConnectionState.OPEN,),
        ConnectionState.RECONNECTING_WAITING,
        (ConnectionEffect.LOSE_LINK, ConnectionEffect.WAIT, ConnectionEffect.DIAL),
    )
    cells = {**CONNECTION.cells, (ConnectionState.OPEN, ConnectionEvent.LOST): hasty}
    return patch.object(CONNECTION, "cells", cells)


def _stale_ack() -> AbstractContextManager[object]:
    """A channel that leaves its link does not take note of it."""

    def leave(self: Settlements) -> None:
        del self

    return patch.object(Settlements, "leave", leave)


def _counter_not_reset() -> AbstractContextManager[object]:
    """The tags of a new channel go on where those of the last one ended."""
    clear = Ledger[object].clear

    def clear_all_but_the_counter(self: Ledger[object]) -> None:
        following = getattr(self, "_base", 1) + len(getattr(self, "_places", ()))
        clear(self)
        setattr(self, "_base", following)  # noqa: B010 - a private attribute

    return patch.object(Ledger, "clear", clear_all_but_the_counter)


def _channel_before_connection() -> AbstractContextManager[object]:
    """A link that ends tells its channels first."""
    tell: Callable[[Dispatcher, Ended], None] = getattr(Dispatcher, "_ended")  # noqa: B009 - a private method

    def ended(self: Dispatcher, event: Ended) -> None:
        handlers = dict(self.handlers)
        self.handlers.clear()
        for number, handler in handlers.items():
            handler.on_lost(event.error, self.session.unanswered(number))
        tell(self, event)

    return patch.object(Dispatcher, "_ended", ended)


def _settled_twice() -> AbstractContextManager[object]:
    """A publish takes a second outcome as it took the first."""
    first = PendingPublish.settle

    def settle(self: PendingPublish, outcome: Confirmed | AnyamqpError) -> None:
        self.outcome = None
        first(self, outcome)

    return patch.object(PendingPublish, "settle", settle)


def _nack_taken_for_confirm() -> AbstractContextManager[object]:
    def refuse(self: PendingPublish) -> None:
        self.settle(CONFIRMED)

    return patch.object(PendingPublish, "refuse", refuse)


def _wrong_order() -> AbstractContextManager[object]:
    """Publishes whose confirms were lost are sent again with the last one first."""

    def put_first(self: Places, publishes: list[PendingPublish]) -> None:
        self.backlog.extendleft(publishes)

    return patch.object(Places, "_put_first", put_first)


def _silent_close() -> AbstractContextManager[object]:
    """A channel is closed without a word to the broker."""

    def send_close(self: ChannelCore[LinkChannel], error: AnyamqpError | None) -> None:  # noqa: ARG001
        self.link_channel = None
        self.take(ChannelEvent.CLOSED)

    return patch.object(ChannelCore, "_send_close", send_close)


def _channels_left() -> AbstractContextManager[object]:
    """A connection that is closed leaves its channels as they are."""

    def end_channels(self: ConnectionCore[LinkChannel], event: ChannelEvent, reason: Exception | str | None) -> None:
        del self, event, reason

    return patch.object(ConnectionCore, "_end_channels", end_channels)


def _backlog_forgotten() -> AbstractContextManager[object]:
    """A publisher that may publish again does not send the publishes that wait."""

    def send_backlog(self: Outbox, now: float) -> None:
        del self, now

    return patch.object(Outbox, "_send_backlog", send_backlog)


def _end_untold() -> AbstractContextManager[object]:
    """A session does not tell of its end."""

    def end(self: ChannelZero, reason: AnyamqpError | None) -> None:
        del self, reason

    return patch.object(ChannelZero, "_end", end)


def _channel_not_noted() -> AbstractContextManager[object]:
    """A recovery does not note which channels it has opened."""

    def attach(self: RecoveryCore[LinkChannel], channels: Sequence[ChannelCore[LinkChannel]]) -> Sequence[object]:
        del self
        return [Attach(channels)] if channels else []

    return patch.object(RecoveryCore, "_attach", attach)


def _endless_patience() -> AbstractContextManager[object]:
    """A recovery waits for every channel, as long as the broker answers for none."""
    return patch.multiple(recovering, PATIENCE=math.inf, LONGEST_REOPENING=math.inf)


BUGS: Final = (
    Bug("a second dial", _second_dial, PUBLISHER_UP, "invariant 1"),
    Bug("a stale ack", _stale_ack, CONSUMER_UP, "InvalidUse"),
    Bug("a confirm counter that is not reset", _counter_not_reset, LINK_STAYS, "a confirm with tag"),
    Bug("a channel told of a loss before its connection", _channel_before_connection, PUBLISHER_UP, "told of the loss"),
    Bug("a publish settled twice", _settled_twice, PUBLISHER_UP, "invariant 3"),
    Bug("a nack taken for a confirm", _nack_taken_for_confirm, PUBLISHER_UP, "invariant 4"),
    Bug("publishes sent again in the wrong order", _wrong_order, PUBLISHER_LOST, "invariant 5"),
    Bug("a close of a channel that is not sent", _silent_close, PUBLISHER_UP, "invariant 6"),
    Bug("channels that outlive their connection", _channels_left, PUBLISHER_UP, "invariant 7"),
    Bug("a backlog that is forgotten", _backlog_forgotten, PUBLISHER_UP, "invariant 13"),
    Bug("a channel that is not back and not reported", _channel_not_noted, FIRST_DIAL, "nobody is told of it"),
    Bug("a connection that waits for a channel for ever", _endless_patience, FIRST_DIAL, "may wait for one channel"),
    Bug("an end of a link that nobody is told of", _end_untold, PUBLISHER_UP._replace(depth=1), "eventually"),
)
