"""The life of a transaction on a channel.

Absent on purpose: nothing leaves ENDED, because each transaction has a block of its own; the loss of the link is no
event, because publish and commit check that the link of the transaction is still there.
"""

from __future__ import annotations

from enum import Enum
from typing import Never

from anyamqp.protocol.lifecycle.table import Row, Table


class TransactionState(Enum):
    """The states of a transaction."""

    NEW = "new"
    BEGINNING = "beginning"
    """The block has begun; the channel is not open and transactional yet."""
    OPEN = "open"
    """The block runs."""
    ENDED = "ended"
    """The block has ended: the transaction is committed, rolled back, or lost."""


class TransactionEvent(Enum):
    """The events of a transaction."""

    ENTERED = "entered"
    BEGUN = "begun"
    """The channel is open and transactional."""
    FAILED = "failed"
    """The channel could not be made transactional, or the caller was cancelled."""
    LEFT = "left"


_State, _Event = TransactionState, TransactionEvent

TRANSACTION: Table[TransactionState, TransactionEvent, Never] = Table(
    "transaction",
    _State.NEW,
    Row(_Event.ENTERED, (_State.NEW,), _State.BEGINNING),
    Row(_Event.BEGUN, (_State.BEGINNING,), _State.OPEN),
    Row(_Event.FAILED, (_State.BEGINNING,), _State.NEW),
    Row(_Event.LEFT, (_State.OPEN,), _State.ENDED),
)
