"""The life of a link: one TCP connection, from the first byte to the last.

The session runs it. The events are the methods of AMQP's class ``connection`` (AMQP 0-9-1, 2.2.4), misplaced frames,
and the end of the byte stream. An absent cell means that the *broker* must not send this in that state, so the session
turns :class:`~anyamqp.errors.InvalidTransition` into a protocol error.

A link is never reused, so no row leads back to an earlier state.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeAlias

from anyamqp.protocol.lifecycle.table import Ignored, Row, Table


class LinkState(Enum):
    """The states of a link: AMQP 0-9-1, 2.2.4 "The Connection Class", step by step."""

    AWAITING_START = "awaiting_start"
    AWAITING_TUNE = "awaiting_tune"
    AWAITING_OPEN_OK = "awaiting_open_ok"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class LinkEvent(Enum):
    """The events of a link."""

    STARTED = "started"
    """connection.start came."""
    SECURED = "secured"
    """connection.secure came."""
    TUNED = "tuned"
    """connection.tune came."""
    OPENED = "opened"
    """connection.open-ok came."""
    BLOCKED = "blocked"
    """connection.blocked came (RabbitMQ)."""
    UNBLOCKED = "unblocked"
    """connection.unblocked came (RabbitMQ)."""
    RENEWED = "renewed"
    """connection.update-secret-ok came, the answer to our request (RabbitMQ)."""
    CHANNEL_FRAME = "channel frame"
    """A frame came on a channel."""
    OUT_OF_PLACE = "out of place"
    """Channel 0 received content, or a method that a broker never sends."""
    CLOSE = "close"
    """We close the link."""
    THEIR_CLOSE = "their close"
    """connection.close came."""
    THEIR_CLOSE_OK = "their close-ok"
    """connection.close-ok came."""
    BROKEN = "broken"
    """The broker sent bytes that are not AMQP, or a frame out of turn."""
    DIED = "died"
    """The byte stream ended, the broker was silent for too long, or we could not log in."""


class LinkEffect(Enum):
    """The effects that a session carries out."""

    LOG_IN = "answer connection.start with start-ok"
    ANSWER_CHALLENGE = "answer connection.secure with secure-ok"
    AGREE_AND_OPEN = "answer connection.tune with tune-ok, then send connection.open"
    TELL_OPENED = "report that the link is open"
    TELL_BLOCKED = "report that the broker has stopped reading publishes"
    TELL_UNBLOCKED = "report that the broker reads publishes again"
    TELL_RENEWED = "report that the broker has accepted the oldest pending secret"
    SEND_CLOSE = "send connection.close"
    NAME_FAULT = "send connection.close with the broker's fault; do not await close-ok, which could not be read"
    CONFIRM_CLOSE = "answer connection.close with close-ok"
    TELL_REFUSED = "report that the broker has ended the login"
    TELL_ENDED = "report that the link has ended, and the reason"
    TELL_CLOSED = "report that the link has ended because we closed it"


_S: TypeAlias = LinkState
_E: TypeAlias = LinkEvent
_F: TypeAlias = LinkEffect

LOGIN: Final = (_S.AWAITING_START, _S.AWAITING_TUNE)
"""The states before connection.tune, which agrees on the heartbeat."""
HANDSHAKE: Final = (*LOGIN, _S.AWAITING_OPEN_OK)
"""The states before connection.open-ok."""
_OVER = "events after the end change nothing"
_LEAVING = "once connection.close is sent, all but close and close-ok is discarded (AMQP 0-9-1, 2.2.4)"

LINK: Final[Table[LinkState, LinkEvent, LinkEffect]] = Table(
    "link",
    _S.AWAITING_START,
    Row(_E.STARTED, (_S.AWAITING_START,), _S.AWAITING_TUNE, (_F.LOG_IN,)),
    Row(_E.SECURED, (_S.AWAITING_TUNE,), _S.AWAITING_TUNE, (_F.ANSWER_CHALLENGE,)),
    Row(_E.TUNED, (_S.AWAITING_TUNE,), _S.AWAITING_OPEN_OK, (_F.AGREE_AND_OPEN,)),
    Row(_E.OPENED, (_S.AWAITING_OPEN_OK,), _S.OPEN, (_F.TELL_OPENED,)),
    Row(_E.BLOCKED, (_S.OPEN,), _S.OPEN, (_F.TELL_BLOCKED,)),
    Row(_E.UNBLOCKED, (_S.OPEN,), _S.OPEN, (_F.TELL_UNBLOCKED,)),
    Row(_E.RENEWED, (_S.OPEN,), _S.OPEN, (_F.TELL_RENEWED,)),
    Ignored(_E.CHANNEL_FRAME, (_S.OPEN,), "the channels take it"),
    Row(_E.CLOSE, (_S.OPEN,), _S.CLOSING, (_F.SEND_CLOSE,)),
    Row(_E.THEIR_CLOSE, LOGIN, _S.CLOSED, (_F.CONFIRM_CLOSE, _F.TELL_REFUSED)),
    Row(_E.THEIR_CLOSE, (_S.AWAITING_OPEN_OK, _S.OPEN), _S.CLOSED, (_F.CONFIRM_CLOSE, _F.TELL_ENDED)),
    # If both closes cross, ours counts: the broker has agreed to it.
    Row(_E.THEIR_CLOSE, (_S.CLOSING,), _S.CLOSED, (_F.CONFIRM_CLOSE, _F.TELL_CLOSED)),
    Row(_E.THEIR_CLOSE_OK, (_S.CLOSING,), _S.CLOSED, (_F.TELL_CLOSED,)),
    Row(_E.BROKEN, (_S.OPEN,), _S.CLOSED, (_F.NAME_FAULT, _F.TELL_ENDED)),
    Row(_E.BROKEN, (*HANDSHAKE, _S.CLOSING), _S.CLOSED, (_F.TELL_ENDED,)),
    Row(_E.DIED, (*HANDSHAKE, _S.OPEN, _S.CLOSING), _S.CLOSED, (_F.TELL_ENDED,)),
    *(
        Ignored(event, (_S.CLOSING,), _LEAVING)
        for event in (
            _E.STARTED,
            _E.SECURED,
            _E.TUNED,
            _E.OPENED,
            _E.BLOCKED,
            _E.UNBLOCKED,
            _E.RENEWED,
            _E.CHANNEL_FRAME,
            _E.OUT_OF_PLACE,
        )
    ),
    *(Ignored[_S, _E](event, (_S.CLOSED,), _OVER) for event in LinkEvent),
)
