"""The recovery of one exchange, queue or binding on one link.

:mod:`anyamqp.protocol.declaring` runs it. It may send the request for an entity on a second channel, if the first one
is stuck behind an entity that the broker does not answer. So answers and refusals may come in almost any state, and the
first one counts.

Absent on purpose: only a WAITING entity is sent, so none is sent twice on one channel.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeAlias

from anyamqp.protocol.lifecycle.table import Ignored, Row, Table


class EntityState(Enum):
    """The states of an entity."""

    WAITING = "waiting"
    """Its request will be sent."""
    SENT = "sent"
    """Its request was sent, perhaps behind others."""
    LATE = "late"
    """The broker has not answered in time; its answer may still come."""
    HELD = "held"
    """A binding of an entity that is late, put aside or held up itself."""
    ASIDE = "aside"
    """The broker refused it for now; it will be tried again."""
    DECLARED = "declared"
    FAILED = "failed"
    GONE = "gone"
    """It was deleted or declared anew meanwhile."""


class EntityEvent(Enum):
    """The events of an entity."""

    SENT = "sent"
    """Its request is sent."""
    ANSWERED = "answered"
    """The broker declared it."""
    SILENT = "silent"
    """The broker has sent no answer for a while, and its next answer is this entity's."""
    OVERTAKEN = "overtaken"
    """Its request is behind that of a late entity."""
    UNDONE = "undone"
    """The broker closed the channel of its request because of another entity."""
    HELD_UP = "held_up"
    """It needs an entity that is late or put aside."""
    FREED = "freed"
    """The broker has answered for that entity."""
    NOT_YET = "not_yet"
    """The broker refused it for a reason that passes: a lock of our last link, a node that is down."""
    DUE = "due"
    """The pause before another try is over."""
    VANISHED = "vanished"
    """The broker refused it because an entity that this recovery declared has vanished."""
    REPEATED = "repeated"
    """The pass begins anew."""
    REFUSED = "refused"
    """The broker refused it, or it cannot be sent."""
    REPLACED = "replaced"
    """The topology no longer holds it."""


class EntityEffect(Enum):
    """The consequences of an event."""

    FREE = "free"
    """Free the bindings that it holds up."""
    PUT_ASIDE = "put_aside"
    """Try it again after a pause."""
    REPEAT = "repeat"
    """Begin the pass anew after a pause."""
    TELL_FAILED = "tell_failed"
    """Tell the user that it was not recovered."""


_S: TypeAlias = EntityState
_E: TypeAlias = EntityEvent
_F: TypeAlias = EntityEffect

UNANSWERED: Final = (_S.SENT, _S.LATE)
"""The states of entities whose request has no reply yet."""

OVER: Final = (_S.DECLARED, _S.FAILED, _S.GONE)
"""The states of entities for which nothing more is sent."""

_ELSEWHERE: Final = "the channel that it was sent on first answers last"

ENTITY: Final[Table[EntityState, EntityEvent, EntityEffect]] = Table(
    "entity",
    _S.WAITING,
    Row(_E.SENT, (_S.WAITING,), _S.SENT),
    Row(_E.ANSWERED, (_S.WAITING, *UNANSWERED, _S.HELD, _S.ASIDE), _S.DECLARED, (_F.FREE,)),
    Ignored(_E.ANSWERED, OVER, _ELSEWHERE),
    # --- the broker does not answer
    Row(_E.SILENT, (_S.SENT,), _S.LATE),
    Row(_E.OVERTAKEN, (_S.SENT,), _S.WAITING),
    Row(_E.UNDONE, UNANSWERED, _S.WAITING),
    # --- something that it needs
    Row(_E.HELD_UP, (_S.WAITING,), _S.HELD),
    Row(_E.FREED, (_S.HELD,), _S.WAITING),
    # --- refused for now
    Row(_E.NOT_YET, (_S.WAITING, *UNANSWERED), _S.ASIDE, (_F.PUT_ASIDE,)),
    Ignored(_E.NOT_YET, (_S.HELD, _S.ASIDE, *OVER), _ELSEWHERE),
    Row(_E.DUE, (_S.ASIDE,), _S.WAITING),
    Row(_E.VANISHED, (_S.WAITING, *UNANSWERED), _S.WAITING, (_F.REPEAT,)),
    Ignored(_E.VANISHED, (_S.HELD, _S.ASIDE, *OVER), _ELSEWHERE),
    Row(_E.REPEATED, (_S.DECLARED,), _S.WAITING),
    # --- refused for good
    Row(_E.REFUSED, (_S.WAITING, *UNANSWERED, _S.HELD, _S.ASIDE), _S.FAILED, (_F.TELL_FAILED, _F.FREE)),
    Ignored(_E.REFUSED, OVER, _ELSEWHERE),
    Row(_E.REPLACED, (_S.WAITING,), _S.GONE, (_F.FREE,)),
)
