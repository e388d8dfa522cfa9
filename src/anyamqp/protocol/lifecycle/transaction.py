"""The life of a transaction on a channel.

A transaction lives on one link: the broker rolls it back when the link ends, unless the commit was on its way. After
the block has ended with tx.commit, the transaction is COMMITTING until the broker answers or the link ends, even if the
caller was cancelled meanwhile.

Absent on purpose: nothing leaves ENDED, because each transaction has a block of its own; a transaction that is NEW or
ENDED is not told of a loss; only a sent tx.commit is answered.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from anyamqp.protocol.lifecycle.table import Ignored, Row, Table


class TransactionState(Enum):
    """The states of a transaction."""

    NEW = "new"
    BEGINNING = "beginning"
    """The block has begun; the channel is not open and transactional yet."""
    OPEN = "open"
    """The block runs."""
    LOST = "lost"
    """The block runs, but the link or the channel has ended: the broker has rolled the transaction back."""
    COMMITTING = "committing"
    """The block has ended, and tx.commit awaits its answer."""
    ENDED = "ended"
    """The transaction is committed, rolled back, or lost."""


class TransactionEvent(Enum):
    """The events of a transaction."""

    ENTERED = "entered"
    BEGUN = "begun"
    """The channel is open and transactional."""
    FAILED = "failed"
    """The channel could not be made transactional, or the caller was cancelled."""
    LOST = "lost"
    """The link or the channel has ended."""
    LEFT = "left"
    """The block has ended without an error."""
    LEFT_WITH_ERROR = "left_with_error"
    COMMITTED = "committed"
    """The broker answered tx.commit."""


class TransactionEffect(Enum):
    """The effects of a step."""

    REFUSE_PUBLISHES = "refuse_publishes"
    """Refuse to publish, with the error of the loss."""
    COMMIT = "commit"
    """Send tx.commit, and wait for the answer."""
    ROLL_BACK = "roll_back"
    """Send tx.rollback."""
    RAISE_LOST = "raise_lost"
    """Raise the error of the loss to the caller, who expects a commit."""


_State, _Event, _Effect = TransactionState, TransactionEvent, TransactionEffect

RUNNING: Final = (_State.OPEN, _State.LOST)
"""The states in which the block runs."""

TRANSACTION: Table[TransactionState, TransactionEvent, TransactionEffect] = Table(
    "transaction",
    _State.NEW,
    Row(_Event.ENTERED, (_State.NEW,), _State.BEGINNING),
    Row(_Event.BEGUN, (_State.BEGINNING,), _State.OPEN),
    Row(_Event.FAILED, (_State.BEGINNING,), _State.NEW),
    Ignored(_Event.LOST, (_State.BEGINNING,), "tx.select is sent again on the next link; if there is none, it fails"),
    Row(_Event.LOST, (_State.OPEN,), _State.LOST, (_Effect.REFUSE_PUBLISHES,)),
    Row(_Event.LOST, (_State.COMMITTING,), _State.ENDED),
    Row(_Event.LEFT, (_State.OPEN,), _State.COMMITTING, (_Effect.COMMIT,)),
    Row(_Event.LEFT, (_State.LOST,), _State.ENDED, (_Effect.RAISE_LOST,)),
    Row(_Event.LEFT_WITH_ERROR, (_State.OPEN,), _State.ENDED, (_Effect.ROLL_BACK,)),
    Row(_Event.LEFT_WITH_ERROR, (_State.LOST,), _State.ENDED),
    Row(_Event.COMMITTED, (_State.COMMITTING,), _State.ENDED),
)
