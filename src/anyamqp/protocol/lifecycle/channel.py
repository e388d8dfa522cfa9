"""The life of a logical channel, which moves from link to link.

A channel on a link is first *opening*: channel.open and the requests of its setup are sent together. The last reply
opens it. It is then *held* until its connection is open as well, so that nothing is published before recovery is done.
If the last reply comes after that, the channel is ready at once.

Two methods stop publishes: channel.flow stops one channel, connection.blocked (RabbitMQ) stops all. Either may come
first and end first, hence the states inside BLOCKED.

Absent on purpose: no event leaves CLOSED, because a channel never opens again after its close; channel.flow does not
reach a channel that we close, because the session discards all its input but close-ok.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeAlias

from anyamqp.protocol.lifecycle.states import State
from anyamqp.protocol.lifecycle.table import Ignored, Row, Table


class ChannelState(Enum):
    """The states of a channel. Users see only :attr:`public`."""

    CONNECTING_NEW = "connecting: new"
    """Not registered."""
    CONNECTING_PAUSED = "connecting: paused"
    """Waiting for the end of a pause; then it opens on the current link."""
    CONNECTING_DETACHED = "connecting: detached"
    """On no link."""
    CONNECTING_OPENING = "connecting: opening"
    """channel.open was sent."""
    OPEN_HELD = "open: held"
    """Open on a link whose connection is not open yet."""
    OPEN = "open"
    BLOCKED_HELD = "blocked: held"
    """Held, and stopped by channel.flow."""
    BLOCKED_STOPPED = "blocked: stopped"
    """Stopped by channel.flow."""
    BLOCKED_CONNECTION = "blocked: connection"
    """The connection is blocked."""
    BLOCKED_TWICE = "blocked: twice"
    """Stopped by channel.flow, and the connection is blocked."""
    RECONNECTING_DETACHED = "reconnecting: detached"
    RECONNECTING_OPENING = "reconnecting: opening"
    CLOSING = "closing"
    """channel.close was sent."""
    CLOSED = "closed"

    @property
    def public(self) -> State:
        """The state that users see."""
        return State[self.name.partition("_")[0]]


class ChannelEvent(Enum):
    """The events of a channel."""

    REGISTERED = "registered"
    """The connection registers the channel."""
    POSTPONED = "postponed"
    """The connection registers the channel, which is to be opened on the current link after a pause."""
    DUE = "due"
    """The pause is over."""
    DEFERRED = "deferred"
    """The recovery of the connection will open the channel."""
    ATTACHED = "attached"
    """channel.open was sent on a link."""
    OPENED = "opened"
    """The broker answered the last request of the setup."""
    READY = "ready"
    """The connection is open."""
    STOPPED = "stopped"
    """channel.flow: the broker accepts no publishes on the channel."""
    STARTED = "started"
    """channel.flow: the broker accepts publishes again."""
    BLOCKED = "blocked"
    """The broker accepts no publishes on the connection."""
    UNBLOCKED = "unblocked"
    """The broker accepts publishes on the connection again."""
    LOST = "lost"
    """The link has ended."""
    CLOSE = "close"
    """The owner closes the channel."""
    LEAVE = "leave"
    """The user closes the connection."""
    CLOSED = "closed"
    """The close is complete."""
    ENDED = "ended"
    """The channel on the link has ended with an error: the broker or the session closed it, or its setup ended the
    link."""
    FAILED = "failed"
    """We end the channel, because of an error of ours or of the connection. Users see it in place of ENDED, too."""

    @property
    def public(self) -> ChannelEvent:
        """The event that users see."""
        return ChannelEvent.FAILED if self is ChannelEvent.ENDED else self


class ChannelEffect(Enum):
    """The actions of a channel at a step."""

    JOIN = "have the connection open the channel, now or in its recovery; raise if it refuses"
    JOIN_LATE = "the same; if it refuses, fail the channel"
    ADMIT = "take the events of the connection that the channel missed"
    TELL_OPENED = "tell the owner that the channel is open"
    TELL_READY = "tell the owner that the broker accepts publishes"
    TELL_HELD = "tell the owner that the broker accepts no publishes"
    TELL_LOST = "tell the owner that the link has ended"
    TELL_FAILED = "tell the owner that the channel is closed for good"
    DETACH = "leave the link"
    SEND_CLOSE = "send channel.close, and leave the link"
    COMPLETE_CLOSE = "complete the close"
    RETURN_REQUESTS = "end the requests without a reply, to be sent again"
    FAIL_REQUESTS = "end the requests that come with the event, and all later ones, with an error"
    FAIL_UNANSWERED = "end the unanswered requests on the link, and all later ones, with an error"
    FORGET = "remove the channel from the connection"


_S: TypeAlias = ChannelState
_E: TypeAlias = ChannelEvent
_F: TypeAlias = ChannelEffect

USABLE: Final = (
    _S.OPEN_HELD,
    _S.OPEN,
    _S.BLOCKED_HELD,
    _S.BLOCKED_STOPPED,
    _S.BLOCKED_CONNECTION,
    _S.BLOCKED_TWICE,
)
"""States in which requests may be sent."""

OVER: Final = (_S.CLOSING, _S.CLOSED)
"""States in which the channel accepts no more calls."""

UNOPENED: Final = (
    _S.CONNECTING_PAUSED,
    _S.CONNECTING_DETACHED,
    _S.CONNECTING_OPENING,
    _S.RECONNECTING_DETACHED,
    _S.RECONNECTING_OPENING,
)
"""States of a registered channel that is not open on a link."""

OPENING: Final = (_S.CONNECTING_OPENING, _S.RECONNECTING_OPENING)
_OFF_LINK = (_S.CONNECTING_PAUSED, _S.CONNECTING_DETACHED, _S.RECONNECTING_DETACHED)
_ON_LINK = (*OPENING, *USABLE)

_LATER = "the channel gets the missed events when it opens"
_AGAIN = "the broker may repeat channel.flow"

CHANNEL: Final[Table[ChannelState, ChannelEvent, ChannelEffect]] = Table(
    "channel",
    _S.CONNECTING_NEW,
    # The connection answers with DEFERRED, ATTACHED or an error. After an error the channel may be registered again.
    Row(_E.REGISTERED, (_S.CONNECTING_NEW,), _S.CONNECTING_NEW, (_F.JOIN,)),
    Row(_E.POSTPONED, (_S.CONNECTING_NEW,), _S.CONNECTING_PAUSED),
    Row(_E.DUE, (_S.CONNECTING_PAUSED,), _S.CONNECTING_PAUSED, (_F.JOIN_LATE,)),
    Row(_E.DEFERRED, (_S.CONNECTING_NEW, _S.CONNECTING_PAUSED), _S.CONNECTING_DETACHED),
    Ignored(_E.DUE, (*_ON_LINK, _S.RECONNECTING_DETACHED, *OVER), "the channel was opened or closed meanwhile"),
    Row(
        _E.ATTACHED,
        (_S.CONNECTING_NEW, _S.CONNECTING_PAUSED, _S.CONNECTING_DETACHED),
        _S.CONNECTING_OPENING,
    ),
    Row(_E.ATTACHED, (_S.RECONNECTING_DETACHED,), _S.RECONNECTING_OPENING),
    Row(_E.OPENED, OPENING, _S.OPEN_HELD, (_F.TELL_OPENED, _F.ADMIT)),
    # --- publishes
    Row(_E.READY, (_S.OPEN_HELD,), _S.OPEN, (_F.TELL_READY,)),
    Row(_E.READY, (_S.BLOCKED_HELD,), _S.BLOCKED_STOPPED),
    Ignored(_E.READY, (_S.BLOCKED_CONNECTION, _S.BLOCKED_TWICE), "BLOCKED implied that the connection is open"),
    Ignored(_E.READY, (*UNOPENED, _S.CLOSING), _LATER),
    Row(_E.STOPPED, (_S.OPEN_HELD,), _S.BLOCKED_HELD),
    Row(_E.STOPPED, (_S.OPEN,), _S.BLOCKED_STOPPED, (_F.TELL_HELD,)),
    Row(_E.STOPPED, (_S.BLOCKED_CONNECTION,), _S.BLOCKED_TWICE),
    Ignored(_E.STOPPED, (_S.BLOCKED_HELD, _S.BLOCKED_STOPPED, _S.BLOCKED_TWICE), _AGAIN),
    Ignored(_E.STOPPED, OPENING, "no broker is known to stop a channel before it has answered its first requests"),
    Row(_E.STARTED, (_S.BLOCKED_HELD,), _S.OPEN_HELD),
    Row(_E.STARTED, (_S.BLOCKED_STOPPED,), _S.OPEN, (_F.TELL_READY,)),
    Row(_E.STARTED, (_S.BLOCKED_TWICE,), _S.BLOCKED_CONNECTION),
    Ignored(_E.STARTED, (*OPENING, _S.OPEN_HELD, _S.OPEN, _S.BLOCKED_CONNECTION), _AGAIN),
    Row(_E.BLOCKED, (_S.OPEN,), _S.BLOCKED_CONNECTION, (_F.TELL_HELD,)),
    # The broker blocked the connection during recovery.
    Row(_E.BLOCKED, (_S.OPEN_HELD,), _S.BLOCKED_CONNECTION),
    Row(_E.BLOCKED, (_S.BLOCKED_HELD, _S.BLOCKED_STOPPED), _S.BLOCKED_TWICE),
    Ignored(_E.BLOCKED, (*UNOPENED, _S.CLOSING), _LATER),
    Row(_E.UNBLOCKED, (_S.BLOCKED_CONNECTION,), _S.OPEN, (_F.TELL_READY,)),
    Row(_E.UNBLOCKED, (_S.BLOCKED_TWICE,), _S.BLOCKED_STOPPED),
    Ignored(_E.UNBLOCKED, (*UNOPENED, _S.CLOSING), _LATER),
    # --- the link is lost
    Row(
        _E.LOST,
        _ON_LINK,
        _S.RECONNECTING_DETACHED,
        (_F.DETACH, _F.RETURN_REQUESTS, _F.TELL_LOST),
    ),
    Row(_E.LOST, (_S.CLOSING,), _S.CLOSING, (_F.COMPLETE_CLOSE,)),
    Ignored(_E.LOST, (_S.CLOSED,), "the channel is closed, and only close-ok was missing"),
    # --- its end
    Row(_E.CLOSE, (_S.CONNECTING_NEW, *_OFF_LINK), _S.CLOSING, (_F.COMPLETE_CLOSE,)),
    Row(_E.CLOSE, _ON_LINK, _S.CLOSING, (_F.FAIL_UNANSWERED, _F.SEND_CLOSE)),
    Ignored(_E.CLOSE, OVER, "closing twice is closing once"),
    Row(_E.LEAVE, _OFF_LINK, _S.CLOSING, (_F.FAIL_REQUESTS, _F.COMPLETE_CLOSE, _F.TELL_FAILED)),
    Row(
        _E.LEAVE,
        _ON_LINK,
        _S.CLOSING,
        (_F.FAIL_UNANSWERED, _F.SEND_CLOSE, _F.COMPLETE_CLOSE, _F.TELL_FAILED),
    ),
    Row(_E.LEAVE, (_S.CLOSING,), _S.CLOSING, (_F.COMPLETE_CLOSE,)),
    Row(_E.ENDED, _ON_LINK, _S.CLOSED, (_F.DETACH, _F.FAIL_REQUESTS, _F.FORGET, _F.TELL_FAILED)),
    Row(_E.ENDED, (_S.CLOSING,), _S.CLOSING, (_F.COMPLETE_CLOSE,)),
    Ignored(_E.ENDED, (_S.CLOSED,), "the channel is closed, and only close-ok was missing"),
    Row(_E.FAILED, _OFF_LINK, _S.CLOSED, (_F.FAIL_REQUESTS, _F.FORGET, _F.TELL_FAILED)),
    Row(_E.FAILED, _ON_LINK, _S.CLOSED, (_F.FAIL_UNANSWERED, _F.SEND_CLOSE, _F.FORGET, _F.TELL_FAILED)),
    Row(_E.FAILED, (_S.CLOSING,), _S.CLOSING, (_F.COMPLETE_CLOSE,)),
    Ignored(_E.FAILED, (_S.CONNECTING_NEW,), "its consumer, for which no number was free, tries again by itself"),
    Ignored(_E.FAILED, (_S.CLOSED,), "the channel was closed before, for another reason"),
    Row(_E.CLOSED, (_S.CLOSING,), _S.CLOSED, (_F.FORGET,)),
    Ignored(_E.CLOSED, (_S.CLOSED,), "a late close-ok"),
)
