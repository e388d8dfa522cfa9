"""The table of one publish: against a plan written by hand, and walked by the real outbox (invariants 2 and 3)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from anyamqp.errors import FrameError, InvalidTransition, NotFound
from anyamqp.protocol.lifecycle.publish import PUBLISH, PublishEvent, PublishState
from anyamqp.protocol.pending import PendingPublish
from anyamqp.protocol.publishing import PublishPolicy
from support.observer import Observer
from support.outboxes import TOO_LARGE, Publishing
from support.plans import cells_of

PLAN = """
                  SENT RETURNED  ACKED      NACKED     SET_ASIDE         PAUSED    RECALLED LOST    EXPIRED    BLOCKED REFUSED   CLOSED
QUEUED            SENT -         -          -          -                 -         -        -       TIMED_OUT  BLOCKED REFUSED   CLOSED
SENT              -    RETURNED  CONFIRMED  NACKED     WAITING_TO_RESEND -         QUEUED   UNKNOWN TIMED_OUT  -       REFUSED   CLOSED
RETURNED          -    -         UNROUTABLE UNROUTABLE WAITING_TO_RESEND -         QUEUED   UNKNOWN TIMED_OUT  -       REFUSED   CLOSED
WAITING_TO_RESEND -    -         -          -          -                 QUEUED    -        -       TIMED_OUT  -       -         CLOSED
CONFIRMED         -    -         -          -          -                 -         -        -       CONFIRMED  -       -         -
UNROUTABLE        -    -         -          -          -                 -         -        -       UNROUTABLE -       -         -
NACKED            -    -         -          -          -                 -         -        -       NACKED     -       -         -
TIMED_OUT         -    TIMED_OUT TIMED_OUT  TIMED_OUT  -                 TIMED_OUT -        -       TIMED_OUT  -       TIMED_OUT TIMED_OUT
UNKNOWN           -    -         -          -          -                 -         -        -       UNKNOWN    -       -         -
BLOCKED           -    -         -          -          -                 -         -        -       BLOCKED    -       -         -
CLOSED            -    -         -          -          -                 -         -        -       CLOSED     -       -         -
REFUSED           -    -         -          -          -                 -         -        -       REFUSED    -       -         -
"""  # noqa: E501
"""Where each event leads; "-" if it cannot happen."""

NO_EXCHANGE = NotFound("NOT_FOUND", method="basic.publish")


def test_the_table_is_as_planned() -> None:
    cells = PUBLISH.cells.items()
    table = {(state.name, event.name, getattr(cell, "target", state).name) for (state, event), cell in cells}
    assert table == {cell for cell in cells_of(PLAN) if cell[2] != "-"}


def leave(p: Publishing) -> None:
    p.outbox.close()


def be_blocked(p: Publishing) -> None:
    if p.channel.can_publish:
        p.hold()
    p.outbox.blocked("memory", p.now, p.now)
    p.advance(60)


STEPS: dict[str, Callable[[Publishing], object]] = {
    "return": lambda p: p.send_back(b"x", "id"),
    "ack": lambda p: p.ack(1),
    "nack": lambda p: p.nack(1),
    "lose": lambda p: p.lose(),
    "open": lambda p: p.open(),
    "pause": lambda p: p.advance(0.05),
    "expire": lambda p: p.advance(30),
    "cancel": lambda p: p.outbox.places.unsettled()[0].time_out(),
    "blocked": be_blocked,
    "refuse": lambda p: p.fail(NO_EXCHANGE),
    "refuse link": lambda p: p.lose(FrameError("FRAME_ERROR", method="basic.publish")),
    "close": leave,
}
WALKS = {
    "ack": "CONFIRMED",
    "nack": "NACKED",
    "return, ack": "UNROUTABLE",
    "return, nack": "UNROUTABLE",
    "lose": "UNKNOWN",
    "return, lose": "UNKNOWN",
    "expire": "TIMED_OUT",
    "return, expire": "TIMED_OUT",
    "refuse": "REFUSED",
    "return, refuse": "REFUSED",
    "refuse link": "REFUSED",
    "close": "CLOSED",
    "return, close": "CLOSED",
    "expire, ack": "TIMED_OUT",
    "expire, nack": "TIMED_OUT",
    "expire, return, ack": "TIMED_OUT",
    "expire, refuse": "TIMED_OUT",
    "expire, close": "TIMED_OUT",
    "retry: nack": "WAITING_TO_RESEND",
    "retry: return, nack": "WAITING_TO_RESEND",
    "retry: nack, pause": "SENT",
    "retry: nack, expire": "TIMED_OUT",
    "retry: nack, cancel, pause": "TIMED_OUT",
    "retry: nack, close": "CLOSED",
    "retry: nack, blocked": "BLOCKED",
    "resend: lose": "QUEUED",
    "resend: return, lose": "QUEUED",
    "resend: lose, open, ack": "CONFIRMED",
    "resend: lose, expire": "TIMED_OUT",
    "resend: lose, close": "CLOSED",
}
"""Where a sent publish comes by these steps; without "resend" a loss ends it, without "retry" a nack does."""


def state_after(observer: Observer, pending: PendingPublish) -> str:
    state: PublishState = observer.lives[pending].state
    return state.name


@pytest.fixture
def observer(monkeypatch: pytest.MonkeyPatch) -> Observer:
    observer = Observer()
    observer.watch(monkeypatch)
    return observer


def walked(walk: str) -> PendingPublish:
    """A publish after these steps."""
    kind, _, steps = walk.rpartition(": ")
    p = Publishing(policy=PublishPolicy(resend=kind == "resend", retry_nacked=kind == "retry", blocked_timeout=10.0))
    pending = p.publish(b"x", message_id="id", deadline=20.0)
    for step in filter(None, steps.split(", ")):
        STEPS[step](p)
    return pending


@pytest.mark.parametrize(("walk", "end"), list(WALKS.items()))
def test_walk(observer: Observer, walk: str, end: str) -> None:
    pending = walked(walk)
    assert state_after(observer, pending) == end
    pending.time_out()  # as its caller does, who has the outcome or is cancelled
    observer.check_outcomes()


WAYS = {"SENT": "", "RETURNED": "return", **{end: walk for walk, end in WALKS.items() if end != "SENT"}}
"""A walk to each state."""


@pytest.mark.parametrize(("state", "event"), [cell[:2] for cell in cells_of(PLAN) if cell[2] == "-"])
def test_event_that_cannot_be_is_refused(observer: Observer, state: str, event: str) -> None:
    pending = walked(WAYS[state])
    assert state_after(observer, pending) == state
    with pytest.raises(InvalidTransition):
        observer.fire(pending, PublishEvent[event])
    assert state_after(observer, pending) == state


def test_publish_that_cannot_be_sent_is_refused(observer: Observer) -> None:
    p = Publishing()
    pending = p.publish(TOO_LARGE)
    assert state_after(observer, pending) == "REFUSED"
    observer.check_outcomes()


def test_publish_that_was_never_sent_is_blocked(observer: Observer) -> None:
    p = Publishing(policy=PublishPolicy(blocked_timeout=1.0))
    p.hold()
    pending = p.publish(b"x")
    be_blocked(p)
    assert state_after(observer, pending) == "BLOCKED"
    observer.check_outcomes()
