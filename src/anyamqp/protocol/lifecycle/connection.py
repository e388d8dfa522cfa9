"""The life of a connection, the object that a user keeps for as long as the program runs.

:mod:`anyamqp.protocol.connection` runs it, and the supervisor carries out the effects that wait or do I/O. CONNECTING
and RECONNECTING each consist of four steps, which repeat: wait as the policy says, dial, shake hands, recover. Each
step ends with an event, and the event's effects name the next step. So one task dials, and two dials never overlap
(invariant 1).

Absent on purpose: no row leaves CLOSED, because a closed connection never opens again; CLOSING leads only to CLOSED,
because the close continues without the transport.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeAlias

from anyamqp.protocol.lifecycle.states import State
from anyamqp.protocol.lifecycle.table import Ignored, Row, Table


class ConnectionState(Enum):
    """The states of a connection. :attr:`public` is the state that users see."""

    CONNECTING_NEW = "connecting: new"
    """The user's block has not begun."""
    CONNECTING_WAITING = "connecting: waiting"
    """The policy asks for a pause before the next dial."""
    CONNECTING_DIALING = "connecting: dialing"
    """The supervisor asks for credentials or opens a transport."""
    CONNECTING_HANDSHAKING = "connecting: handshaking"
    CONNECTING_RECOVERING = "connecting: recovering"
    """The link is open; recovery restores topology and channels."""
    OPEN = "open"
    BLOCKED = "blocked"
    RECONNECTING_WAITING = "reconnecting: waiting"
    RECONNECTING_DIALING = "reconnecting: dialing"
    RECONNECTING_HANDSHAKING = "reconnecting: handshaking"
    RECONNECTING_RECOVERING = "reconnecting: recovering"
    CLOSING = "closing"
    CLOSED = "closed"

    @property
    def public(self) -> State:
        """The state that users see."""
        return State[self.name.partition("_")[0]]


class ConnectionEvent(Enum):
    """The events of a connection."""

    STARTED = "started"
    """The user enters the block."""
    DUE = "due"
    """The pause before a dial is over."""
    DIALED = "dialed"
    """A transport is open."""
    REFUSED = "refused"
    """No transport could be opened."""
    CONNECTED = "connected"
    """The handshake is done."""
    OPENED = "opened"
    """Recovery has restored topology and channels."""
    LOST = "lost"
    """The link has ended."""
    BLOCKED = "blocked"
    """The broker stopped accepting publishes."""
    UNBLOCKED = "unblocked"
    """The broker accepts publishes again."""
    CLOSE = "close"
    """The user closes the connection."""
    CLOSED = "closed"
    """The task that serves the connection has ended."""
    FAILED = "failed"
    """The policy gave up, or anyamqp itself is at fault."""


class ConnectionEffect(Enum):
    """The effects of the events. The first three start the supervisor's next step."""

    WAIT = "ask the policy for a pause, and wait"
    DIAL = "dial"
    RUN_LINK = "run a link on the transport until it ends"
    RECOVER = "begin the recovery"
    COUNT_RECONNECT = "count a reconnect"
    REPEAT_BLOCK = "take the block that the broker sent during recovery"
    READY_CHANNELS = "tell the channels that the connection is open"
    BLOCK_CHANNELS = "tell the channels that the broker does not accept publishes"
    UNBLOCK_CHANNELS = "tell the channels that it does again"
    TELL_BLOCKED = "tell the publishers that the broker does not accept publishes"
    TELL_UNBLOCKED = "tell the publishers that it does again"
    EMPTY_CONSUMERS = "cancel the consumers, and give back the deliveries that nobody has taken"
    LEAVE_CHANNELS = "close the channels"
    FAIL_CHANNELS = "close the channels, for the error that ended the connection"
    INTERRUPT = "cut short the wait, the dial or the recovery"
    LEAVE_HANDSHAKE = "drop a transport on which the broker has said nothing"
    LEAVE_LINK = "close the link, and await the answer only as long as an attempt may take to end"
    CLOSE_LINK = "close the link"
    LOSE_LINK = "forget the link, and tell the recovery of its end"
    TELL_OPENED = "tell the recovery that the connection is open"
    END = "tell everybody that the connection is closed"


_S: TypeAlias = ConnectionState
_E: TypeAlias = ConnectionEvent
_F: TypeAlias = ConnectionEffect

_WAITING = (_S.CONNECTING_WAITING, _S.RECONNECTING_WAITING)
_DIALING = (_S.CONNECTING_DIALING, _S.RECONNECTING_DIALING)
_HANDSHAKING = (_S.CONNECTING_HANDSHAKING, _S.RECONNECTING_HANDSHAKING)
_RECOVERING = (_S.CONNECTING_RECOVERING, _S.RECONNECTING_RECOVERING)
_UP = (_S.OPEN, _S.BLOCKED)
_UNFINISHED = (*_WAITING, *_DIALING, *_HANDSHAKING, *_RECOVERING, *_UP)
_LEAVING = "the close continues, whether or not the attempt succeeds"
_AT_ANY_TIME = "the broker may send this at any time; a connection that opens while blocked learns of it then"

CONNECTION: Final[Table[ConnectionState, ConnectionEvent, ConnectionEffect]] = Table(
    "connection",
    _S.CONNECTING_NEW,
    Row(_E.STARTED, (_S.CONNECTING_NEW,), _S.CONNECTING_WAITING, (_F.WAIT,)),
    Row(_E.DUE, (_S.CONNECTING_WAITING,), _S.CONNECTING_DIALING, (_F.DIAL,)),
    Row(_E.DUE, (_S.RECONNECTING_WAITING,), _S.RECONNECTING_DIALING, (_F.DIAL,)),
    Row(_E.REFUSED, (_S.CONNECTING_DIALING,), _S.CONNECTING_WAITING, (_F.WAIT,)),
    Row(_E.REFUSED, (_S.RECONNECTING_DIALING,), _S.RECONNECTING_WAITING, (_F.WAIT,)),
    Row(_E.DIALED, (_S.CONNECTING_DIALING,), _S.CONNECTING_HANDSHAKING, (_F.RUN_LINK,)),
    Row(_E.DIALED, (_S.RECONNECTING_DIALING,), _S.RECONNECTING_HANDSHAKING, (_F.RUN_LINK,)),
    # The dial succeeded just before the close: the link still ends with a close handshake.
    Row(_E.DIALED, (_S.CLOSING,), _S.CLOSING, (_F.RUN_LINK,)),
    Row(_E.CONNECTED, (_S.CONNECTING_HANDSHAKING,), _S.CONNECTING_RECOVERING, (_F.RECOVER,)),
    Row(_E.CONNECTED, (_S.RECONNECTING_HANDSHAKING,), _S.RECONNECTING_RECOVERING, (_F.RECOVER,)),
    # RabbitMQ accepts no connection.close during the handshake, so the close waits for the end of the handshake.
    Row(_E.CONNECTED, (_S.CLOSING,), _S.CLOSING, (_F.LEAVE_LINK,)),
    Row(_E.OPENED, (_S.CONNECTING_RECOVERING,), _S.OPEN, (_F.REPEAT_BLOCK, _F.READY_CHANNELS, _F.TELL_OPENED)),
    Row(
        _E.OPENED,
        (_S.RECONNECTING_RECOVERING,),
        _S.OPEN,
        (_F.COUNT_RECONNECT, _F.REPEAT_BLOCK, _F.READY_CHANNELS, _F.TELL_OPENED),
    ),
    Row(_E.LOST, (_S.CONNECTING_HANDSHAKING, _S.CONNECTING_RECOVERING), _S.CONNECTING_WAITING, (_F.LOSE_LINK, _F.WAIT)),
    Row(
        _E.LOST,
        (_S.RECONNECTING_HANDSHAKING, _S.RECONNECTING_RECOVERING),
        _S.RECONNECTING_WAITING,
        (_F.LOSE_LINK, _F.WAIT),
    ),
    Row(_E.LOST, (_S.OPEN,), _S.RECONNECTING_WAITING, (_F.LOSE_LINK, _F.WAIT)),
    Row(_E.LOST, (_S.BLOCKED,), _S.RECONNECTING_WAITING, (_F.TELL_UNBLOCKED, _F.LOSE_LINK, _F.WAIT)),
    Row(_E.LOST, (_S.CLOSING,), _S.CLOSING, (_F.LOSE_LINK,)),
    Row(_E.BLOCKED, (_S.OPEN,), _S.BLOCKED, (_F.BLOCK_CHANNELS, _F.TELL_BLOCKED)),
    Ignored(_E.BLOCKED, (*_RECOVERING, _S.BLOCKED, _S.CLOSING), _AT_ANY_TIME),
    Row(_E.UNBLOCKED, (_S.BLOCKED,), _S.OPEN, (_F.TELL_UNBLOCKED, _F.UNBLOCK_CHANNELS)),
    Ignored(_E.UNBLOCKED, (*_RECOVERING, _S.OPEN, _S.CLOSING), _AT_ANY_TIME),
    Row(_E.CLOSE, (_S.CONNECTING_NEW, *_WAITING, *_DIALING), _S.CLOSING, (_F.LEAVE_CHANNELS, _F.INTERRUPT)),
    Row(_E.CLOSE, _HANDSHAKING, _S.CLOSING, (_F.LEAVE_CHANNELS, _F.LEAVE_HANDSHAKE)),
    Row(_E.CLOSE, _RECOVERING, _S.CLOSING, (_F.LEAVE_CHANNELS, _F.INTERRUPT, _F.LEAVE_LINK)),
    Row(_E.CLOSE, (_S.OPEN,), _S.CLOSING, (_F.EMPTY_CONSUMERS, _F.LEAVE_CHANNELS, _F.CLOSE_LINK)),
    Row(
        _E.CLOSE,
        (_S.BLOCKED,),
        _S.CLOSING,
        (_F.EMPTY_CONSUMERS, _F.LEAVE_CHANNELS, _F.CLOSE_LINK, _F.TELL_UNBLOCKED),
    ),
    Ignored(_E.CLOSE, (_S.CLOSING, _S.CLOSED), "a second close changes nothing"),
    *(Ignored[_S, _E](event, (_S.CLOSING,), _LEAVING) for event in (_E.STARTED, _E.DUE, _E.REFUSED, _E.OPENED)),
    Row(_E.CLOSED, (*_UNFINISHED, _S.CLOSING), _S.CLOSED, (_F.FAIL_CHANNELS, _F.END)),
    Ignored(_E.CLOSED, (_S.CLOSED,), "the task ends after a failure, too"),
    Row(_E.FAILED, (*_UNFINISHED, _S.CLOSING), _S.CLOSED, (_F.FAIL_CHANNELS, _F.END)),
)
