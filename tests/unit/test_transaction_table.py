"""Every cell of the table of a transaction, through the real objects, against a plan written by hand (invariant 2)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from anyamqp.errors import ConnectionLost, InvalidTransition, InvalidUse
from anyamqp.message import Message
from anyamqp.protocol.lifecycle.transaction import TRANSACTION, TransactionEffect, TransactionEvent, TransactionState
from anyamqp.protocol.transactions import TransactionLog, Transactions
from anyamqp.wire import methods
from support.plans import cells_of

PLAN = """
           ENTERED   BEGUN FAILED LOST      LEFT       LEFT_WITH_ERROR COMMITTED
NEW        BEGINNING -     -      -         -          -               -
BEGINNING  -         OPEN  NEW    BEGINNING -          -               -
OPEN       -         -     -      LOST      COMMITTING ENDED           -
LOST       -         -     -      -         ENDED      ENDED           -
COMMITTING -         -     -      ENDED     -          -               ENDED
ENDED      -         -     -      -         -          -               -
"""
"""The target of each event; "-" if it cannot happen."""

WAYS = {
    "NEW": "",
    "BEGINNING": "ENTERED",
    "OPEN": "ENTERED BEGUN",
    "LOST": "ENTERED BEGUN LOST",
    "COMMITTING": "ENTERED BEGUN LEFT",
    "ENDED": "ENTERED BEGUN LEFT COMMITTED",
}
"""The events that lead to each state."""

EFFECTS = {
    ("OPEN", "LEFT"): (TransactionEffect.COMMIT,),
    ("OPEN", "LEFT_WITH_ERROR"): (TransactionEffect.ROLL_BACK,),
    ("LOST", "LEFT"): (TransactionEffect.RAISE_LOST,),
}
"""The effects that the caller gets."""


class Channel:
    """The transactions of a channel, one of them, and the events that lead to it."""

    def __init__(self, way: str = "") -> None:
        self.transactions = Transactions()
        self.log = TransactionLog()
        self.effects: tuple[TransactionEffect, ...] = ()
        self.acts: dict[str, Callable[[], object]] = {
            "ENTERED": lambda: self.transactions.enter(self.log),
            "BEGUN": lambda: self.log.fire(TransactionEvent.BEGUN),
            "FAILED": lambda: self.transactions.failed(self.log),
            "LOST": lambda: self.transactions.lost(ConnectionLost("lost")),
            "LEFT": lambda: self.leave(has_failed=False),
            "LEFT_WITH_ERROR": lambda: self.leave(has_failed=True),
            "COMMITTED": lambda: self.answer(self.log),
        }
        for event in way.split():
            self.acts[event]()

    def leave(self, *, has_failed: bool) -> None:
        self.effects = self.transactions.leave(self.log, has_failed=has_failed)

    def answer(self, log: TransactionLog) -> None:
        """The broker answers the commit of a transaction."""
        self.transactions.answered(log.commit, methods.Tx.CommitOk())

    def return_one(self) -> None:
        """The broker returns a message."""
        self.transactions.returned(methods.Basic.Return(312, "NO_ROUTE", "", "key"), Message(b"", message_id="id"))


def test_the_plan_is_whole() -> None:
    assert {state for state, _, _ in cells_of(PLAN)} == {state.name for state in TransactionState}
    assert {event for _, event, _ in cells_of(PLAN)} == {event.name for event in TransactionEvent}
    cells = {(state.name, event.name) for state, event in TRANSACTION.cells}
    assert cells == {(state, event) for state, event, target in cells_of(PLAN) if target != "-"}


@pytest.mark.parametrize(("state", "event", "target"), list(cells_of(PLAN)))
def test_cell(state: str, event: str, target: str) -> None:
    channel = Channel(WAYS[state])
    log = channel.log
    assert log.state.name == state
    channel.effects = ()
    if target == "-":
        with pytest.raises(InvalidTransition):
            log.fire(TransactionEvent[event])
        assert log.state.name == state
        return
    channel.acts[event]()
    assert log.state.name == target
    assert channel.effects == EFFECTS.get((state, event), ())


@pytest.mark.parametrize(("way", "is_refused"), [(WAYS["OPEN"], False), (WAYS["LOST"], True)])
def test_only_a_transaction_that_was_lost_refuses_publishes(way: str, *, is_refused: bool) -> None:
    log = Channel(way).log
    if not is_refused:
        log.check_loss()
        return
    with pytest.raises(ConnectionLost):
        log.check_loss()


def test_loss_before_the_begin_does_not_matter_to_it() -> None:
    channel = Channel("ENTERED LOST BEGUN")
    channel.log.check_loss()
    assert channel.log.state is TransactionState.OPEN


@pytest.mark.parametrize("way", [WAYS["BEGINNING"], WAYS["OPEN"], WAYS["LOST"]])
def test_block_inside_another_is_refused(way: str) -> None:
    channel = Channel(way)
    inner = TransactionLog()
    with pytest.raises(InvalidUse, match="not ended yet"):
        channel.transactions.enter(inner)
    assert inner.state is TransactionState.NEW


@pytest.mark.parametrize("way", ["ENTERED FAILED", WAYS["COMMITTING"], "ENTERED BEGUN LEFT_WITH_ERROR"])
def test_block_may_begin_when_the_last_one_is_left(way: str) -> None:
    channel = Channel(way)
    following = TransactionLog()
    channel.transactions.enter(following)
    assert following.state is TransactionState.BEGINNING


def test_returned_message_belongs_to_the_oldest_unanswered_commit() -> None:
    channel = Channel("ENTERED BEGUN")
    first = channel.log
    first.published = 1
    channel.acts["LEFT"]()
    channel.log = second = TransactionLog()
    second.published = 1
    for event in ("ENTERED", "BEGUN"):
        channel.acts[event]()
    channel.return_one()
    assert (len(first.unroutable), len(second.unroutable)) == (1, 0)
    channel.answer(first)
    channel.return_one()
    assert (len(first.unroutable), len(second.unroutable)) == (1, 1)


def test_answer_ends_the_transaction_whose_commit_it_answers() -> None:
    channel = Channel(WAYS["COMMITTING"])
    first, channel.log = channel.log, TransactionLog()
    for event in ("ENTERED", "BEGUN", "LEFT", "COMMITTED"):
        channel.acts[event]()
    assert (first.state, channel.log.state) == (TransactionState.COMMITTING, TransactionState.ENDED)


def test_returned_message_of_no_transaction_is_dropped() -> None:
    channel = Channel(WAYS["ENDED"])
    channel.return_one()
    assert channel.log.unroutable == []


def test_loss_ends_every_commit_under_way() -> None:
    channel = Channel("ENTERED BEGUN LEFT")
    first, channel.log = channel.log, TransactionLog()
    for event in ("ENTERED", "BEGUN", "LEFT", "LOST"):
        channel.acts[event]()
    assert (first.state, channel.log.state) == (TransactionState.ENDED, TransactionState.ENDED)
