"""The life of a channel pool.

Absent on purpose: a pool lends nothing before its block, and is entered and left once.
"""

from __future__ import annotations

from enum import Enum

from anyamqp.protocol.lifecycle.table import Ignored, Row, Table


class PoolState(Enum):
    """The states of a pool."""

    NEW = "new"
    """The block has not begun."""
    LENDING = "lending"
    """The block runs."""
    CLOSED = "closed"
    """The block has ended; channels may still be lent."""


class PoolEvent(Enum):
    """The events of a pool."""

    ENTERED = "entered"
    BORROWED = "borrowed"
    """A task asks for a channel, or could take one after a wait."""
    RETURNED = "returned"
    """A task gives a channel back."""
    LEFT = "left"


class PoolEffect(Enum):
    """The effects of a step."""

    LEND = "lend"
    """Give the task a channel."""
    KEEP = "keep"
    """Keep the channel, to lend it again."""


_State, _Event, _Effect = PoolState, PoolEvent, PoolEffect

POOL: Table[PoolState, PoolEvent, PoolEffect] = Table(
    "pool",
    _State.NEW,
    Row(_Event.ENTERED, (_State.NEW,), _State.LENDING),
    Row(_Event.BORROWED, (_State.LENDING,), _State.LENDING, (_Effect.LEND,)),
    Ignored(_Event.BORROWED, (_State.CLOSED,), "the task is too late, and gets an error"),
    Row(_Event.RETURNED, (_State.LENDING,), _State.LENDING, (_Effect.KEEP,)),
    Ignored(_Event.RETURNED, (_State.CLOSED,), "nobody can borrow the channel, so it is closed"),
    Row(_Event.LEFT, (_State.LENDING,), _State.CLOSED),
)
