"""Every cell of a publisher's table, through the real outbox, against a plan that was written by hand (invariant 2)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from anyamqp.errors import ConnectionClosed, FrameError, InvalidTransition, NotFound, PreconditionFailed
from anyamqp.protocol.lifecycle.publisher import PUBLISHER, PublisherEvent, PublisherState
from anyamqp.protocol.publishing import OpenChannel
from support.outboxes import Publishing
from support.plans import cells_of

PLAN = """
                   ENTERED  OPENED             READY   BLOCKED            LOST               LINK_CLOSED        CHANNEL_CLOSED     CHANNEL_GONE GAVE_UP CLOSE   CLOSED
NEW                STARTING -                  -       -                  -                  -                  -                  -            -       -       -
STARTING           -        HELD               -       -                  STARTING           STARTING           CLOSED             CLOSED       -       CLOSING -
AWAY               -        HELD               -       -                  AWAY               AWAY               CLOSED             CLOSED       CLOSED  CLOSING -
AWAY_WITH_SUSPECTS -        HELD_WITH_SUSPECTS -       -                  AWAY_WITH_SUSPECTS AWAY_WITH_SUSPECTS CLOSED             CLOSED       CLOSED  CLOSING -
HELD               -        -                  FLOWING -                  AWAY               AWAY_WITH_SUSPECTS AWAY_WITH_SUSPECTS CLOSED       -       CLOSING -
HELD_WITH_SUSPECTS -        -                  PROBING -                  AWAY_WITH_SUSPECTS AWAY_WITH_SUSPECTS AWAY_WITH_SUSPECTS CLOSED       -       CLOSING -
FLOWING            -        -                  -       HELD               AWAY               AWAY_WITH_SUSPECTS AWAY_WITH_SUSPECTS CLOSED       -       CLOSING -
PROBING            -        -                  -       HELD_WITH_SUSPECTS AWAY_WITH_SUSPECTS AWAY_WITH_SUSPECTS AWAY_WITH_SUSPECTS CLOSED       -       CLOSING -
CLOSING            -        -                  -       -                  -                  -                  -                  -            -       -       CLOSED
CLOSED             -        -                  -       -                  -                  -                  -                  -            -       CLOSED  CLOSED
"""  # noqa: E501
"""Where each event leads while two publishes wait for their outcome; "-" if it cannot happen."""
INNER = {
    ("AWAY", "SUSPECTED"),
    ("AWAY_WITH_SUSPECTS", "PROBED"),
    ("HELD_WITH_SUSPECTS", "PROBED"),
    ("PROBING", "PROBED"),
}
"""The cells of events that only the outbox itself can bring about."""

ACTS: dict[str, Callable[[Publishing], None]] = {
    "ENTERED": lambda p: p.outbox.enter(),
    "OPENED": lambda p: p.outbox.channel_opened(p.now),
    "READY": lambda p: p.ready(),
    "BLOCKED": lambda p: p.hold(),
    "LOST": lambda p: p.lose(),
    "LINK_CLOSED": lambda p: p.lose(FrameError("FRAME_ERROR")),
    "CHANNEL_CLOSED": lambda p: p.fail(PreconditionFailed("PRECONDITION_FAILED")),
    "CHANNEL_GONE": lambda p: p.fail(ConnectionClosed("closed")),
    "GAVE_UP": lambda p: p.outbox.channel_refused(ConnectionClosed("closed")),
    "CLOSE": lambda p: p.outbox.close(),
    "CLOSED": lambda p: p.outbox.closed(),
}
WAYS: dict[str, tuple[str, ...]] = {
    "NEW": (),
    "STARTING": ("ENTERED", "publish"),
    "AWAY": ("ENTERED", "OPENED", "READY", "publish", "LOST"),
    "AWAY_WITH_SUSPECTS": ("ENTERED", "OPENED", "READY", "publish", "CHANNEL_CLOSED"),
    "HELD": ("ENTERED", "OPENED", "READY", "publish", "BLOCKED"),
    "HELD_WITH_SUSPECTS": ("ENTERED", "OPENED", "READY", "publish", "CHANNEL_CLOSED", "OPENED", "READY", "BLOCKED"),
    "FLOWING": ("ENTERED", "OPENED", "READY", "publish"),
    "PROBING": ("ENTERED", "OPENED", "READY", "publish", "CHANNEL_CLOSED", "OPENED", "READY"),
    "CLOSING": ("ENTERED", "CLOSE"),
    "CLOSED": ("ENTERED", "CHANNEL_GONE"),
}
"""How to come to each state."""

AWAY = {"AWAY", "AWAY_WITH_SUSPECTS"}
FAILED = {"CLOSING", "CLOSED"}


def at(state: str) -> Publishing:
    """A publisher in a state, with two publishes that wait for their outcome where that can be."""
    p = Publishing(is_entered=False)
    for step in WAYS[state]:
        if step == "publish":
            p.publish(b"1")
            p.publish(b"2")
        else:
            ACTS[step](p)
    p.effects.clear()
    assert p.state().name == state
    return p


def test_the_plan_is_whole() -> None:
    assert {state for state, _, _ in cells_of(PLAN)} == {state.name for state in PublisherState}
    assert {event for _, event, _ in cells_of(PLAN)} | {event for _, event in INNER} == {
        event.name for event in PublisherEvent
    }


@pytest.mark.parametrize(("state", "event", "target"), list(cells_of(PLAN)))
def test_cell(state: str, event: str, target: str) -> None:
    p = at(state)
    outbox = p.outbox
    before = {id(pending) for pending in outbox.places.unsettled()}
    if target == "-":
        with pytest.raises(InvalidTransition):
            ACTS[event](p)
        assert p.state().name == state
        return
    ACTS[event](p)
    assert p.state().name == target
    if target in FAILED:
        assert outbox.counters.unsettled == 0
    else:
        assert {id(pending) for pending in outbox.places.unsettled()} == before
    if target in AWAY:
        assert len(outbox.ledger) == 0
    is_reopened = event == "CHANNEL_CLOSED" and target in AWAY
    assert p.effects == ([OpenChannel(0.0 if state in {"HELD", "FLOWING"} else 0.1)] if is_reopened else [])


@pytest.mark.parametrize(
    ("state", "target"),
    [("AWAY_WITH_SUSPECTS", "AWAY"), ("HELD_WITH_SUSPECTS", "HELD"), ("PROBING", "FLOWING")],
)
def test_last_suspect_ends_the_suspicion(state: str, target: str) -> None:
    p = at(state)
    suspects = p.outbox.places.unsettled()
    for pending in suspects:
        pending.time_out()
    if len(p.outbox.ledger):
        p.ack(1)
    p.outbox.wait_for_room(suspects[0], Silent(), p.now)  # which drops those that nobody waits for
    assert p.state().name == target


@pytest.mark.parametrize("state", ["FLOWING", "HELD", "HELD_WITH_SUSPECTS", "PROBING"])
def test_next_channel_comes_at_once_after_a_close_for_a_named_publish(state: str) -> None:
    """Any other young end of a channel makes the next one wait a little longer each time."""
    p = Publishing()
    p.fail(PreconditionFailed("PRECONDITION_FAILED"))
    p.effects.clear()
    p.open()
    p.publish(b"1")
    if "SUSPECTS" in state or state == "PROBING":
        p.publish(b"2")
        p.fail(NotFound("NOT_FOUND", method="basic.publish"))
        p.effects.clear()
        p.open()
    if "HELD" in state:
        ACTS["BLOCKED"](p)
    assert p.state().name == state
    p.fail(NotFound("NOT_FOUND", method="basic.publish"))
    assert p.effects == [OpenChannel(0.0)]


@pytest.mark.parametrize(
    ("state", "event"),
    [(state, event) for state in WAYS for event in ("SUSPECTED", "PROBED") if (state, event) not in INNER],
)
def test_suspicion_that_cannot_be_is_refused(state: str, event: str) -> None:
    p = at(state)
    waiting = p.outbox.places.unsettled()
    with pytest.raises(InvalidTransition):
        p.outbox._fire(PublisherEvent[event])  # pyright: ignore[reportPrivateUsage] - where its events are fired
    assert p.state().name == state
    assert p.outbox.places.unsettled() == waiting


class Silent:
    """Wakes nobody."""

    def set(self) -> None:
        """Nobody is woken."""


@pytest.mark.parametrize("state", ["AWAY", "AWAY_WITH_SUSPECTS", "HELD", "HELD_WITH_SUSPECTS", "FLOWING", "PROBING"])
def test_everything_is_confirmed_in_its_order_from_each_state(state: str) -> None:
    """Invariants 3 and 5."""
    p = at(state)
    publishes = p.outbox.places.unsettled()
    p.channel.bodies.clear()
    if state in AWAY:
        p.outbox.channel_opened(p.now)
    if state not in {"FLOWING", "PROBING"}:
        p.ready()
    for tag in range(1, 5):
        p.ack(tag)
    assert p.outbox.counters.unsettled == 0
    assert p.state() is PublisherState.FLOWING
    assert len(publishes) == 2
    assert p.channel.bodies == sorted(p.channel.bodies)


def test_no_cell_is_left_out_of_the_plan() -> None:
    cells = {(state.name, event.name) for state, event in PUBLISHER.cells}
    assert cells - INNER == {(state, event) for state, event, target in cells_of(PLAN) if target != "-"}
    assert cells >= INNER


def test_guilty_publish_leaves_no_suspicion() -> None:
    p = Publishing()
    p.publish(b"1", exchange="gone")
    p.fail(NotFound("no exchange", method="basic.publish"))
    assert p.state() is PublisherState.AWAY
