"""Every error that holdfast raises, in one tree.

::

    HoldfastError
    ├── SettingsError               a URL, an argument or an environment variable is wrong (also a ValueError)
    ├── InvalidArgument             an argument that AMQP cannot carry (also a ValueError)
    ├── InvalidUse                  the API was used in a way that cannot work (also a RuntimeError)
    ├── InvalidTransition           a life cycle was asked for what its table does not allow
    ├── TransportError              the bytes stopped: refused, reset, end of stream, broken TLS
    │   └── HeartbeatTimeout        the peer said nothing for two heartbeat intervals
    ├── CredentialsUnavailable      the caller's credentials function or SASL mechanism raised, or gave what is none
    ├── ConnectionLost              a request was caught by a loss and cannot be repeated safely
    ├── ConnectionClosed            the connection is closed for good; ``__cause__`` says why
    ├── ChannelClosed               the channel is closed for good; ``__cause__`` says why
    ├── ChannelLimitReached         ``channel_max`` channels are open already
    ├── ConsumerCancelled           the broker ended a consumer (queue deleted, node gone)
    ├── DeadlineExceeded            also a TimeoutError
    │   ├── ConnectTimeout          one attempt (TCP and handshake) took longer than ``connect_timeout``
    │   ├── ReadyTimeout            the connection was not ready in time
    │   ├── RequestTimeout          the broker did not answer a request in time
    │   └── PublishTimeout          no outcome in time; ``sent`` says whether the broker may have the message
    ├── Unroutable                  mandatory message returned: no queue took it
    ├── Nacked                      the broker refused the message
    └── ReplyError                  an AMQP reply code, theirs or ours
        ├── ContentTooLarge 311, NoRoute 312, NoConsumers 313
        ├── ConnectionForced 320, InvalidPath 402
        ├── AccessRefused 403       └── LoginRefused: the same code during the handshake
        ├── NotFound 404, ResourceLocked 405, PreconditionFailed 406
        └── FrameError 501, CommandSyntaxError 502, CommandInvalid 503, ChannelError 504, UnexpectedFrame 505,
            ResourceError 506, NotAllowed 530, NotImplementedByBroker 540, InternalError 541

Each class answers two questions: :class:`Blame` (whose fault) and :class:`Cure` (whether the same thing may succeed
when it is tried again). Reply codes: AMQP 0-9-1 specification, section 1.4 "Constants".
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar


class Blame(Enum):
    """Whose fault an error is."""

    CALLER = "caller"
    LIBRARY = "library"
    BROKER = "broker"
    NETWORK = "network"


class Cure(Enum):
    """What can make the same operation succeed."""

    RETRY = "retry"
    """Trying again may be enough."""
    CHANGE = "change"
    """Nothing will help until somebody changes settings, rights, topology or code."""


class Side(Enum):
    """Who found the fault that an AMQP reply code names."""

    BROKER = "broker"
    CLIENT = "client"


class HoldfastError(Exception):
    """Root of everything that holdfast raises."""

    blame: Blame = Blame.LIBRARY
    cure: Cure = Cure.CHANGE


class SettingsError(HoldfastError, ValueError):
    """A setting is wrong; the text names it and says what would be right."""

    blame = Blame.CALLER


class InvalidArgument(HoldfastError, ValueError):
    """An argument that AMQP cannot carry; nothing was sent."""

    blame = Blame.CALLER


class InvalidUse(HoldfastError, RuntimeError):
    """The API was used in a way that cannot work."""

    blame = Blame.CALLER


class InvalidTransition(HoldfastError):
    """A life cycle was asked for an event that its table does not allow in that state."""

    def __init__(self, machine: str, state: str, event: str) -> None:
        super().__init__(f"{machine}: no transition for '{event}' in state {state}")
        self.machine = machine
        self.state = state
        self.event = event


class TransportError(HoldfastError):
    """The transport failed: connection refused, reset, end of stream, broken TLS."""

    blame = Blame.NETWORK
    cure = Cure.RETRY


class HeartbeatTimeout(TransportError):
    """The peer was silent for two heartbeat intervals (AMQP 0-9-1, 4.2.7)."""


class CredentialsUnavailable(HoldfastError):
    """The caller's credentials function or SASL mechanism raised, or gave something else than it should.

    ``__cause__`` is what it raised. The text names types and never a value.
    """

    blame = Blame.CALLER
    cure = Cure.RETRY


class ConnectionLost(HoldfastError):
    """A request was in flight when its link died and cannot be repeated safely."""

    blame = Blame.NETWORK
    cure = Cure.RETRY


class ConnectionClosed(HoldfastError):
    """The connection is closed for good; ``__cause__`` is the error that closed it, if one did."""

    blame = Blame.CALLER


class ChannelClosed(HoldfastError):
    """The channel is closed for good; ``__cause__`` is the error that closed it, if one did."""

    blame = Blame.CALLER


class ChannelLimitReached(HoldfastError):
    """As many channels are open as client and broker agreed on (``channel_max``, AMQP 0-9-1 connection.tune)."""

    blame = Blame.CALLER
    cure = Cure.RETRY


class ConsumerCancelled(HoldfastError):
    """The broker ended a consumer: its queue was deleted, or the node that held the queue is gone.

    Source: RabbitMQ, "Consumer Cancel Notification".
    """

    blame = Blame.BROKER
    cure = Cure.RETRY


class DeadlineExceeded(HoldfastError, TimeoutError):
    """Something took longer than the caller allows."""

    blame = Blame.NETWORK
    cure = Cure.RETRY


class ConnectTimeout(DeadlineExceeded):
    """One connection attempt, TCP and handshake together, took longer than ``connect_timeout``."""


class ReadyTimeout(DeadlineExceeded):
    """The connection was not ready in time; ``__cause__`` is the last error that kept it from being so."""


class RequestTimeout(DeadlineExceeded):
    """The broker did not answer a request in time."""


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


class Unroutable(HoldfastError):
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


class Nacked(HoldfastError):
    """The broker answered basic.nack: it could not take responsibility for the message."""

    blame = Blame.BROKER
    cure = Cure.RETRY

    def __init__(self, message_id: str | None) -> None:
        super().__init__(f"message {message_id!r} was refused by the broker (basic.nack)")
        self.message_id = message_id


class ReplyError(HoldfastError):
    """An AMQP reply code, with the facts of the close that carried it.

    Attributes:
        code: the AMQP reply code.
        text: the reply text, as its sender wrote it.
        method: the AMQP method that caused it (such as ``queue.declare``), if known.
        found_by: who found the fault: the broker, in what we sent, or we, in what the broker sent.
    """

    code: ClassVar[int] = 0
    hard: ClassVar[bool] = False
    """Whether AMQP closes the whole connection for this code, rather than one channel."""

    def __init__(self, text: str, *, method: str | None = None, found_by: Side = Side.BROKER) -> None:
        at = f" ({method})" if method else ""
        super().__init__(f"{self.code} {text}{at}")
        self.text = text
        self.method = method
        self.found_by = found_by
        if found_by is Side.CLIENT:
            self.blame = Blame.BROKER


class ContentTooLarge(ReplyError):
    code = 311
    blame = Blame.CALLER


class NoRoute(ReplyError):
    code = 312
    blame = Blame.CALLER


class NoConsumers(ReplyError):
    code = 313
    blame = Blame.BROKER
    cure = Cure.RETRY


class ConnectionForced(ReplyError):
    code = 320
    hard = True
    blame = Blame.BROKER
    cure = Cure.RETRY


class InvalidPath(ReplyError):
    code = 402
    hard = True
    blame = Blame.CALLER


class AccessRefused(ReplyError):
    code = 403
    blame = Blame.CALLER


class LoginRefused(AccessRefused):
    """The broker refused the credentials (403 as connection.close during the handshake)."""

    hard = True


class NotFound(ReplyError):
    code = 404
    blame = Blame.CALLER


class ResourceLocked(ReplyError):
    code = 405
    blame = Blame.CALLER
    cure = Cure.RETRY


class PreconditionFailed(ReplyError):
    code = 406
    blame = Blame.CALLER


class FrameError(ReplyError):
    code = 501
    hard = True
    blame = Blame.LIBRARY


class CommandSyntaxError(ReplyError):
    code = 502
    hard = True
    blame = Blame.LIBRARY


class CommandInvalid(ReplyError):
    code = 503
    hard = True
    blame = Blame.LIBRARY


class ChannelError(ReplyError):
    code = 504
    hard = True
    blame = Blame.LIBRARY


class UnexpectedFrame(ReplyError):
    code = 505
    hard = True
    blame = Blame.LIBRARY


class ResourceError(ReplyError):
    code = 506
    hard = True
    blame = Blame.BROKER
    cure = Cure.RETRY


class NotAllowed(ReplyError):
    code = 530
    hard = True
    blame = Blame.CALLER


class NotImplementedByBroker(ReplyError):
    code = 540
    hard = True
    blame = Blame.CALLER


class InternalError(ReplyError):
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


def reply_error(code: int, text: str, *, method: str | None = None) -> ReplyError:
    """The error for a reply code that the broker sent.

    A code outside the AMQP 0-9-1 specification becomes an :class:`InternalError` whose text keeps the number.
    """
    known = REPLY_ERRORS.get(code)
    if known is None:
        return InternalError(f"unknown reply code {code}: {text}", method=method)
    return known(text, method=method)
