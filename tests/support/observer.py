"""Checks each move of each publish in the real outbox against the table of a publish (invariant 3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import pytest

from anyamqp.errors import AnyamqpError, ConnectionBlocked, Nacked, OutcomeUnknown, PublishTimeout, Unroutable
from anyamqp.protocol import places as places_module
from anyamqp.protocol.events import Confirm
from anyamqp.protocol.holdups import NackedPublishes
from anyamqp.protocol.lifecycle.publish import PUBLISH, PublishEvent, PublishState
from anyamqp.protocol.lifecycle.table import Lifecycle
from anyamqp.protocol.outbox import Outbox
from anyamqp.protocol.pending import Confirmed, Counters, PendingPublish
from anyamqp.protocol.places import Places
from anyamqp.wire import methods

_EVENTS: Final[Mapping[type, PublishEvent]] = {
    Confirmed: PublishEvent.ACKED,
    Nacked: PublishEvent.NACKED,
    Unroutable: PublishEvent.ACKED,
    PublishTimeout: PublishEvent.EXPIRED,
    OutcomeUnknown: PublishEvent.LOST,
    ConnectionBlocked: PublishEvent.BLOCKED,
}
_OUTCOMES: Final[Mapping[PublishState, type]] = {
    PublishState.CONFIRMED: Confirmed,
    PublishState.UNROUTABLE: Unroutable,
    PublishState.NACKED: Nacked,
    PublishState.TIMED_OUT: PublishTimeout,
    PublishState.UNKNOWN: OutcomeUnknown,
    PublishState.BLOCKED: ConnectionBlocked,
}
_WAITING: Final = frozenset(
    {PublishState.QUEUED, PublishState.SENT, PublishState.RETURNED, PublishState.WAITING_TO_RESEND}
)
_CALLS: Final = (
    "accept",
    "wait_for_room",
    "close",
    "channel_ready",
    "confirmed",
    "returned",
    "blocked",
    "link_lost",
    "channel_failed",
    "channel_refused",
    "due",
)
"""The calls of an outbox that may move publishes."""
_MOST: Final = 64
"""How many publishes are compared with their places after each call."""


class Observer:
    """Follows each publish of a test through the table.

    Attributes:
        lives: the life cycle of each publish, from its events.
    """

    def __init__(self) -> None:
        self.lives: dict[PendingPublish, Lifecycle[Any, Any, Any]] = {}
        self._is_closing = False
        self._is_nacking = False

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Watch all outboxes until the test ends."""

        def wrap(owner: object, name: str, around: Callable[..., Any]) -> None:
            original = getattr(owner, name)

            def watched(*given: Any, **named: Any) -> Any:
                return around(original, *given, **named)

            monkeypatch.setattr(owner, name, watched)

        wrap(Counters, "accept", self._accepted)
        wrap(Outbox, "_send", self._sent)
        wrap(Places, "send_again", self._sent_again)
        wrap(Places, "fail_all", self._failed)
        wrap(NackedPublishes, "add", self._set_aside)
        wrap(NackedPublishes, "take", self._resumed)
        wrap(PendingPublish, "settle", self._settled)
        wrap(places_module, "returned_publish", self._returned)
        wrap(Outbox, "confirmed", self._confirmed)
        for name in _CALLS:
            wrap(Outbox, name, self._compare)

    def fire(self, pending: PendingPublish, event: PublishEvent) -> None:
        """Fire an event of a publish, for which the table must have a cell."""
        if pending in self.lives:  # only after it was accepted
            self.lives[pending].fire(event)

    # --- what the outbox does ---------------------------------------------------------------------------------------

    def _accepted(self, accept: Callable[..., None], counters: Counters, pending: PendingPublish) -> None:
        accept(counters, pending)
        assert pending not in self.lives
        self.lives[pending] = PUBLISH.begin()

    def _sent(self, send: Callable[..., None], outbox: Outbox, pending: PendingPublish) -> None:
        attempts = pending.attempts
        send(outbox, pending)
        if pending.attempts > attempts:
            self.fire(pending, PublishEvent.SENT)

    def _sent_again(self, send: Callable[..., None], places: Places, publishes: list[PendingPublish]) -> None:
        send(places, publishes)
        for pending in publishes:
            self.fire(pending, PublishEvent.RECALLED)

    def _failed(self, fail: Callable[..., None], places: Places, error: Exception) -> None:
        self._is_closing = True
        try:
            fail(places, error)
        finally:
            self._is_closing = False

    def _set_aside(
        self, add: Callable[..., None], nacked: NackedPublishes, publishes: Sequence[PendingPublish], now: float
    ) -> None:
        add(nacked, publishes, now)
        for pending in publishes:
            self.fire(pending, PublishEvent.SET_ASIDE)

    def _resumed(self, take: Callable[..., list[PendingPublish]], nacked: NackedPublishes) -> list[PendingPublish]:
        taken = take(nacked)
        if not self._is_closing:
            for pending in taken:
                self.fire(pending, PublishEvent.PAUSED)
        return taken

    def _settled(self, settle: Callable[..., None], pending: PendingPublish, outcome: object) -> None:
        before = pending.outcome
        settle(pending, outcome)
        assert before is None or pending.outcome is before
        self.fire(pending, self._event_of(outcome))

    def _confirmed(
        self, confirmed: Callable[..., None], outbox: Outbox, confirms: Sequence[Confirm], now: float
    ) -> None:
        self._is_nacking = all(isinstance(one, methods.Basic.Nack) for one in confirms)
        confirmed(outbox, confirms, now)

    def _returned(self, find: Callable[..., Any], *given: Any, **named: Any) -> Any:
        found = find(*given, **named)
        if found is not None:
            self.fire(found[1], PublishEvent.RETURNED)
        return found

    def _event_of(self, outcome: object) -> PublishEvent:
        if self._is_closing:
            return PublishEvent.CLOSED
        if isinstance(outcome, Unroutable) and self._is_nacking:
            return PublishEvent.NACKED
        return _EVENTS.get(type(outcome), PublishEvent.REFUSED)

    # --- where its publishes are ------------------------------------------------------------------------------------

    def _compare(self, call: Callable[..., Any], outbox: Outbox, *given: Any, **named: Any) -> Any:
        try:
            return call(outbox, *given, **named)
        finally:
            if outbox.counters.unsettled <= _MOST:
                self._check(outbox)

    def _check(self, outbox: Outbox) -> None:
        places = outbox.places
        assert {self.lives[one].state for one in places.backlog} <= {PublishState.QUEUED, PublishState.TIMED_OUT}
        assert {self.lives[one].state for one in places.nacked.publishes} <= {
            PublishState.WAITING_TO_RESEND,
            PublishState.TIMED_OUT,
        }
        for pending in places.ledger.outstanding():
            state = self.lives[pending].state
            expected = PublishState.SENT if pending.returned is None else PublishState.RETURNED
            assert state in {expected, PublishState.TIMED_OUT}

    def check_outcomes(self) -> None:
        """Compare each publish's outcome with the state that its events led to."""
        for pending, life in self.lives.items():
            if life.state in _WAITING:
                assert pending.outcome is None
            else:
                assert isinstance(pending.outcome, _OUTCOMES.get(life.state, AnyamqpError))
