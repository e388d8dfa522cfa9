"""Every error that anyamqp raises, in one tree.

::

    AnyamqpError
    ├── SettingsError               a URL, an argument or an environment variable is wrong (also a ValueError)
    ├── InvalidArgument             an argument that AMQP cannot carry (also a ValueError)
    ├── InvalidUse                  the API was used in a way that cannot work (also a RuntimeError)
    ├── InvalidTransition           a table does not allow an event in a state: a bug of ours
    ├── TransportError              the bytes stopped: refused, reset, end of stream, broken TLS
    │   ├── TLSError                certificates, names or TLS versions do not go together, or the port is not for TLS
    │   └── HeartbeatTimeout        the peer said nothing for two heartbeat intervals
    ├── CredentialsUnavailable      a credentials function or SASL mechanism raised, or returned something else
    ├── UnexpectedFailure           an exception that nobody expected ended an attempt or a link; ``__cause__`` has it
    ├── ConnectionLost              a request was caught by a loss and cannot be repeated safely
    │   └── OutcomeUnknown          so was a publish that may not be sent again: the broker may have it
    ├── ConnectionBlocked           the broker is not accepting publishes, and the publisher does not wait
    ├── ConnectionClosed            the connection is closed for good; ``__cause__`` and ``close`` say why
    ├── ChannelClosed               the channel is closed for good; ``__cause__`` and ``close`` say why
    ├── ChannelLimitReached         ``channel_max`` channels are open already
    ├── ConsumerCancelled           the broker ended a consumer (queue deleted, node gone)
    ├── DeadlineExceeded            also a TimeoutError
    │   ├── ConnectTimeout          one attempt (DNS to handshake) took longer than ``connect_timeout``
    │   ├── ReadyTimeout            the connection was not ready in time
    │   ├── RequestTimeout          the broker did not answer a request in time
    │   ├── ReplyTimeout            an RPC server did not answer in time
    │   └── PublishTimeout          no outcome in time; ``sent`` says whether the broker may have the message
    ├── MalformedProperties         a delivered message has properties that cannot be read
    ├── UndecodableBody             the body of a message is not what a codec can read
    ├── Unroutable                  mandatory message returned: no queue took it
    ├── Nacked                      the broker refused the message
    ├── RemoteError                 an RPC server answered with an error
    └── ReplyError                  an AMQP reply code, theirs or ours
        ├── ContentTooLarge 311, NoRoute 312, NoConsumers 313
        ├── ConnectionForced 320, InvalidPath 402
        ├── AccessRefused 403       └── LoginRefused: the same code during the handshake
        ├── NotFound 404, ResourceLocked 405, PreconditionFailed 406
        └── FrameError 501, CommandSyntaxError 502, CommandInvalid 503, ChannelError 504, UnexpectedFrame 505,
            ResourceError 506, NotAllowed 530, NotImplementedByBroker 540, InternalError 541

Each class answers two questions: :class:`Blame` (whose fault) and :class:`Cure` (whether the same thing may succeed
when it is tried again). Reply codes: AMQP 0-9-1 specification, section 1.4 "Constants"; RabbitMQ's use of them:
"AMQP 0-9-1 Complete Reference Guide" and "Channels", section "Channel Exceptions".

The file is long because the tree is in one place: users read it as a whole, and each class is a few lines of facts.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, NamedTuple, TypeGuard


class Blame(Enum):
    """Whose fault an error is."""

    CALLER = "caller"
    LIBRARY = "library"
    BROKER = "broker"
    NETWORK = "network"


class Cure(Enum):
    """Whether the same operation can succeed later."""

    RETRY = "retry"
    """Trying again may be enough."""
    CHANGE = "change"
    """Nothing will help until somebody changes settings, rights, topology or code."""


class Side(Enum):
    """Who found the fault that an AMQP reply code names."""

    BROKER = "broker"
    CLIENT = "client"


def printable(text: str) -> str:
    """A broker's text as terminals and logs may show it.

    Characters that are not printable are escaped: line feeds, commands to a terminal, changes of direction, bytes that
    are not UTF-8.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":  # a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


class CloseFrame(NamedTuple):
    """The contents of a close: AMQP 0-9-1, connection.close and channel.close.

    Attributes:
        code: the reply code; 200 for a close without an error.
        text: the reply text, with unprintable characters escaped.
        method: the AMQP method that caused it (such as ``queue.declare``), if the close names one.
    """

    code: int
    text: str
    method: str | None

    def __str__(self) -> str:
        return f"{self.code} {self.text}" + (f" ({self.method})" if self.method else "")


@dataclass(frozen=True, slots=True)
class CloseFacts:
    """How a connection or a channel was closed on the wire.

    Attributes:
        received: the broker's close; None if it sent none.
        sent: our close; None if we sent none.
        first: whose close came first, as seen from here.
    """

    received: CloseFrame | None
    sent: CloseFrame | None
    first: Side

    def __str__(self) -> str:
        theirs = f"the broker closed: {self.received}" if self.received else ""
        ours = f"we closed: {self.sent}" if self.sent else ""
        order = (theirs, ours) if self.first is Side.BROKER else (ours, theirs)
        return "; then ".join(part for part in order if part)


class AnyamqpError(Exception):
    """Root of everything that anyamqp raises."""

    blame: Blame = Blame.LIBRARY
    cure: Cure = Cure.CHANGE


class SettingsError(AnyamqpError, ValueError):
    """A setting is wrong; the text names it and a right value."""

    blame = Blame.CALLER


class InvalidArgument(AnyamqpError, ValueError):
    """An argument that AMQP cannot carry; nothing was sent."""

    blame = Blame.CALLER


class InvalidUse(AnyamqpError, RuntimeError):
    """The API was used in a way that cannot work."""

    blame = Blame.CALLER


class InvalidTransition(AnyamqpError):
    """A life cycle was asked for an event that its table does not allow in that state."""

    def __init__(self, machine: str, state: str, event: str) -> None:
        super().__init__(f"{machine}: no transition for '{event}' in state {state}")
        self.machine = machine
        self.state = state
        self.event = event


class TransportError(AnyamqpError):
    """The transport failed: unknown name, connection refused, reset, end of stream, broken TLS."""

    blame = Blame.NETWORK
    cure = Cure.RETRY


class TLSError(TransportError):
    """TLS was refused, by us or by the broker; the text says how to repair it.

    The broker's certificate or host name was not verified, the broker refused our certificate or TLS version, or the
    port is not for TLS. A connection that merely breaks during the TLS handshake, as it does while a broker boots, is
    a plain :class:`TransportError`.
    """

    blame = Blame.CALLER
    cure = Cure.CHANGE


class HeartbeatTimeout(TransportError):
    """The peer was silent for two heartbeat intervals (AMQP 0-9-1, 4.2.7)."""


class CredentialsUnavailable(AnyamqpError):
    """The caller's credentials function or SASL mechanism raised, or returned the wrong type.

    ``__cause__`` is the exception that it raised. The text names types and never a value.
    """

    blame = Blame.CALLER
    cure = Cure.RETRY


class UnexpectedFailure(AnyamqpError):
    """A connection attempt or a link was ended by an exception that nobody expected.

    The caller's dial function raised an exception other than :class:`OSError`, or anyamqp has a bug.
    ``__cause__`` is the exception; the log has its traceback.
    """


class ConnectionLost(AnyamqpError):
    """A request was in flight when its link died and cannot be repeated safely."""

    blame = Blame.NETWORK
    cure = Cure.RETRY


class OutcomeUnknown(ConnectionLost):
    """A message was sent, its confirm never came, and its publisher was told not to send again.

    The broker may have it or not. ``__cause__`` is the loss that prevented the confirm.

    Attributes:
        message_id: the message's id.
    """

    def __init__(self, message_id: str) -> None:
        super().__init__(f"message {message_id!r}: sent, but its link or channel ended before the broker's confirm")
        self.message_id = message_id


class ConnectionBlocked(AnyamqpError):
    """The broker is not accepting publishes (connection.blocked), for longer than the caller waits.

    A publish that raises it was not sent, or was sent and refused (basic.nack).

    Source: RabbitMQ, "Blocked Connections".

    Attributes:
        reason: the broker's word for it, such as ``low on memory``.
    """

    blame = Blame.BROKER
    cure = Cure.RETRY

    def __init__(self, reason: str) -> None:
        super().__init__(f"the broker is not accepting publishes: {reason}")
        self.reason = reason


class ConnectionClosed(AnyamqpError):
    """The connection is closed for good; ``__cause__`` is the error that closed it, if one did.

    Attributes:
        close: the close frames of both sides, if there were any.
    """

    blame = Blame.CALLER
    close: CloseFacts | None = None


class ChannelClosed(AnyamqpError):
    """The channel is closed for good; ``__cause__`` is the error that closed it, if one did.

    Attributes:
        close: the close frames of both sides, if there were any.
    """

    blame = Blame.CALLER
    close: CloseFacts | None = None


class ChannelLimitReached(AnyamqpError):
    """As many channels are open as client and broker agreed on (``channel_max``, AMQP 0-9-1 connection.tune)."""

    blame = Blame.CALLER
    cure = Cure.RETRY


class ConsumerCancelled(AnyamqpError):
    """The broker ended a consumer: its queue was deleted, or the node that held the queue is gone.

    Source: RabbitMQ, "Consumer Cancel Notification".
    """

    blame = Blame.BROKER
    cure = Cure.RETRY


class MalformedProperties(AnyamqpError):
    """A delivered message has properties that cannot be read; its body and its delivery are sound.

    Brokers pass properties on unread, so the fault is its publisher's. Give the message away with ``reject``.
    """

    blame = Blame.BROKER


class DeadlineExceeded(AnyamqpError, TimeoutError):
    """Something took longer than the caller allows."""

    blame = Blame.NETWORK
    cure = Cure.RETRY


class ConnectTimeout(DeadlineExceeded):
    """One connection attempt, from DNS to the end of the handshake, took longer than ``connect_timeout``."""


class ReadyTimeout(DeadlineExceeded):
    """The connection was not ready in time; ``__cause__`` is the last error that kept it from being so."""


class RequestTimeout(DeadlineExceeded):
    """The broker did not answer a request in time."""


class ReplyTimeout(DeadlineExceeded):
    """No reply to an RPC request came in time."""


class PublishTimeout(DeadlineExceeded):
    """A publish had no outcome before its deadline.

    Attributes:
        message_id: the message's id.
        sent: whether the message may have reached the broker. If it is False, the broker cannot have it.
    """

    def __init__(self, message_id: str | None, *, sent: bool) -> None:
        known = "it was sent, so the broker may have it" if sent else "it was never sent"
        super().__init__(f"message {message_id!r}: no outcome before the deadline; {known}")
        self.message_id = message_id
        self.sent = sent


class Unroutable(AnyamqpError):
    """A mandatory message came back: no queue was bound where it went (basic.return).

    Attributes:
        message_id: the message's id.
        exchange: where it was published.
        routing_key: its routing key.
        code: the broker's reply code, 312 or 313.
    """

    blame = Blame.CALLER

    def __init__(self, message_id: str | None, *, exchange: str, routing_key: str, code: int, text: str) -> None:
        super().__init__(
            f"message {message_id!r} to exchange {exchange!r} with routing key {routing_key!r} "
            f"reached no queue ({code} {text})"
        )
        self.message_id = message_id
        self.exchange = exchange
        self.routing_key = routing_key
        self.code = code


class Nacked(AnyamqpError):
    """The broker answered basic.nack: it could not take responsibility for the message."""

    blame = Blame.BROKER
    cure = Cure.RETRY

    def __init__(self, message_id: str | None) -> None:
        super().__init__(f"message {message_id!r} was refused by the broker (basic.nack)")
        self.message_id = message_id


class UndecodableBody(AnyamqpError):
    """The body of a message is no JSON, or not what the codec of a typed consumer or client reads.

    The program that published it is at fault. A delivery whose body cannot be decoded has failed, and ``on_error``
    decides about it.
    """

    blame = Blame.CALLER
    cure = Cure.CHANGE


class RemoteError(AnyamqpError):
    """The handler of an RPC server raised; the server answered with the error (see :func:`anyamqp.serve_rpc`).

    Both attributes are as the server sent them; the text of the error itself has unprintable characters escaped. Only
    the application knows whether the request took effect, and whether it may succeed later.

    Attributes:
        type: the name of the error's type, such as ``LookupError``.
        text: the error's text.
    """

    blame = Blame.CALLER

    def __init__(self, type: str, text: str) -> None:  # noqa: A002 - named like the attribute
        super().__init__(printable(f"the server raised {type}: {text}" if text else f"the server raised {type}"))
        self.type = type
        self.text = text


_SYMBOL = re.compile(r"[A-Z_]+ - ")
"""RabbitMQ opens its texts with the name of the code, which the class says already."""


class ReplyError(AnyamqpError):
    """An AMQP reply code, with the facts of the close that carried it.

    Attributes:
        code: the AMQP reply code.
        text: the reply text, with unprintable characters escaped.
        method: the AMQP method that caused it (such as ``queue.declare``), if known.
        request: the method with its flags, where it is known, such as ``queue.declare passive``.
        found_by: the side that found the fault in the frames of the other.
        close: the close frames and their order; None if the fault was reported without a close.
    """

    code: ClassVar[int] = 0
    hard: ClassVar[bool] = False
    """Whether AMQP closes the whole connection for this code, rather than one channel."""

    def __init__(
        self,
        text: str,
        *,
        method: str | None = None,
        found_by: Side = Side.BROKER,
        close: CloseFacts | None = None,
    ) -> None:
        super().__init__(text)
        self.text = text
        self.method = method
        self.request = method
        self.found_by = found_by
        self.close = close
        if found_by is Side.CLIENT:
            self.blame = Blame.BROKER

    def __str__(self) -> str:
        reason = _SYMBOL.sub("", self.text, count=1)
        return f"{reason} ({self.request})" if self.request else reason


class ContentTooLarge(ReplyError):
    """A message is larger than the receiver takes: the broker's ``max_message_size``, or ours."""

    code = 311
    blame = Blame.CALLER


class NoRoute(ReplyError):
    """A mandatory message reached no queue. RabbitMQ says so with basic.return, see :class:`Unroutable`."""

    code = 312
    blame = Blame.CALLER


class NoConsumers(ReplyError):
    """An immediate message found no consumer. RabbitMQ has given up immediate messages."""

    code = 313
    blame = Blame.BROKER
    cure = Cure.RETRY


class ConnectionForced(ReplyError):
    """An operator or a shutdown closed the connection."""

    code = 320
    hard = True
    blame = Blame.BROKER
    cure = Cure.RETRY


class InvalidPath(ReplyError):
    """The virtual host is not known. RabbitMQ says :class:`NotAllowed` instead."""

    code = 402
    hard = True
    blame = Blame.CALLER


class AccessRefused(ReplyError):
    """The user has no permission for that, or the name is reserved (``amq.``), or a consumer is exclusive."""

    code = 403
    blame = Blame.CALLER


class LoginRefused(AccessRefused):
    """The broker refused the credentials (403 as connection.close during the handshake).

    Attributes:
        login: the user, or the mechanisms of a login without a user's name, and the address; never a password.
    """

    hard = True
    login: str = ""

    def __str__(self) -> str:
        reason = super().__str__()
        return f"{self.login}: {reason}" if self.login else reason


class NotFound(ReplyError):
    """There is no such queue or exchange."""

    code = 404
    blame = Blame.CALLER


class ResourceLocked(ReplyError):
    """The queue is exclusive to another connection, which may be an earlier one of ours."""

    code = 405
    blame = Blame.CALLER
    cure = Cure.RETRY


class PreconditionFailed(ReplyError):
    """The entity or the delivery is not in the state that the request assumes.

    An entity exists with other settings, is in use or is not empty; a delivery tag is unknown; a delivery was not
    acknowledged in the broker's ``consumer_timeout``; the message is too large.
    """

    code = 406
    blame = Blame.CALLER


class FrameError(ReplyError):
    """A frame that cannot be read."""

    code = 501
    hard = True
    blame = Blame.LIBRARY


class CommandSyntaxError(ReplyError):
    """A frame with values that cannot be read."""

    code = 502
    hard = True
    blame = Blame.LIBRARY


class CommandInvalid(ReplyError):
    """A method that cannot be used here. RabbitMQ also says it for an unknown exchange type."""

    code = 503
    hard = True
    blame = Blame.LIBRARY


class ChannelError(ReplyError):
    """A method on a channel that is not open."""

    code = 504
    hard = True
    blame = Blame.LIBRARY


class UnexpectedFrame(ReplyError):
    """A frame in the middle of another method's content."""

    code = 505
    hard = True
    blame = Blame.LIBRARY


class ResourceError(ReplyError):
    """The broker lacks the resources."""

    code = 506
    hard = True
    blame = Blame.BROKER
    cure = Cure.RETRY


class NotAllowed(ReplyError):
    """The broker's settings forbid it: unknown virtual host, too many connections or channels, exceeded limits."""

    code = 530
    hard = True
    blame = Blame.CALLER


class NotImplementedByBroker(ReplyError):
    """The broker does not have this part of AMQP."""

    code = 540
    hard = True
    blame = Blame.CALLER


class InternalError(ReplyError):
    """The broker failed, or closed with a code that AMQP does not know."""

    code = 541
    hard = True
    blame = Blame.BROKER
    cure = Cure.RETRY


REPLY_ERRORS: dict[int, type[ReplyError]] = {
    error.code: error
    for error in (
        ContentTooLarge,
        NoRoute,
        NoConsumers,
        ConnectionForced,
        InvalidPath,
        AccessRefused,
        NotFound,
        ResourceLocked,
        PreconditionFailed,
        FrameError,
        CommandSyntaxError,
        CommandInvalid,
        ChannelError,
        UnexpectedFrame,
        ResourceError,
        NotAllowed,
        NotImplementedByBroker,
        InternalError,
    )
}


def reply_error(
    code: int, text: str, *, method: str | None = None, found_by: Side = Side.BROKER, close: CloseFacts | None = None
) -> ReplyError:
    """The error for a reply code.

    A code outside the AMQP 0-9-1 specification becomes an :class:`InternalError` whose text keeps the number.
    """
    known = REPLY_ERRORS.get(code)
    if known is None:
        known, text = InternalError, f"unknown reply code {code}: {text}"
    return known(text, method=method, found_by=found_by, close=close)


def is_unexplained_close(error: BaseException | None) -> TypeGuard[ReplyError]:
    """Whether the broker closed the connection for an error, and named neither a method nor an operator's order."""
    return (
        isinstance(error, ReplyError)
        and error.hard
        and error.found_by is Side.BROKER
        and error.method is None
        and not isinstance(error, ConnectionForced)
    )


def reason_of(error: BaseException | None) -> str:
    """An error for a log, where its class does not show: a reply code is told by its number."""
    return f"{error.code} {error}" if isinstance(error, ReplyError) else str(error)


def copy_of(error: AnyamqpError) -> AnyamqpError:
    """The same error for another caller: a shared one would collect the traceback of each."""
    mine = copy.copy(error)
    mine.__cause__ = error.__cause__
    return mine
