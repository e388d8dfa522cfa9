"""Planted bugs, each a small change of a real object. An exploration must find every one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, NamedTuple
from unittest.mock import patch

from anyamqp.errors import AnyamqpError
from anyamqp.protocol.confirms import Ledger
from anyamqp.protocol.dispatch import Dispatcher
from anyamqp.protocol.events import Ended
from anyamqp.protocol.lifecycle import CONNECTION, ConnectionEffect, ConnectionEvent, ConnectionState
from anyamqp.protocol.lifecycle.table import Row
from anyamqp.protocol.pending import Confirmed, PendingPublish
from anyamqp.protocol.settlements import Settlements
from tools.explore.scenarios import CONSUMER_UP, PUBLISHER_UP
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
        (ConnectionEffect.WAIT, ConnectionEffect.DIAL),
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


BUGS: Final = (
    Bug("a second dial", _second_dial, PUBLISHER_UP, "invariant 1"),
    Bug("a stale ack", _stale_ack, CONSUMER_UP, "InvalidUse"),
    Bug("a confirm counter that is not reset", _counter_not_reset, PUBLISHER_UP, "a confirm with tag"),
    Bug("a channel told of a loss before its connection", _channel_before_connection, PUBLISHER_UP, "told of the loss"),
    Bug("a publish settled twice", _settled_twice, PUBLISHER_UP, "invariant 3"),
)
