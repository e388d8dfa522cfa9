"""Finds the request, publish or call that caused a close.

The broker names the method for which it closes a channel or a link, never the message: a publish has no reply that
could carry the error. These functions infer the rest from the publishes and calls in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

from anyamqp.errors import (
    AnyamqpError,
    ConnectionForced,
    ConnectionLost,
    InvalidArgument,
    PreconditionFailed,
    ReplyError,
    Side,
    is_unexplained_close,
    printable,
)
from anyamqp.protocol.requests import Request, Unanswered
from anyamqp.wire.frames import describe, method_name

CLOSES_BEFORE_BLAME: Final = 3
"""Closes that name no request, after which the one that was in flight each time is blamed."""

_PUBLISH: Final = "basic.publish"


def is_for_every_link(error: AnyamqpError) -> bool:
    """Whether a declaration that got this error would cost every link to come."""
    return isinstance(error, ReplyError) and error.hard


def is_for_an_entity_that_exists(error: AnyamqpError) -> bool:
    """Whether an entity may exist although its declaration got this error: refused for its settings, or not sent."""
    return isinstance(error, PreconditionFailed | InvalidArgument)


class SentCall(Protocol):
    """A call whose request was sent."""

    @property
    def exchange(self) -> str:
        """The exchange to which the request was published."""
        ...

    @property
    def attempts(self) -> int:
        """How often the request was sent."""
        ...


C = TypeVar("C", bound=SentCall)


def guilty_request(error: AnyamqpError | None, unanswered: Unanswered) -> Request | None:
    """The request among these for which the broker may have closed the whole connection; None if there is none.

    A hard error names the method, not the channel (AMQP 0-9-1, connection.close). If several channels wait for an
    answer to that method, each of them is blamed, with any code: sent again, the request would end the next link as
    well.
    """
    if not isinstance(error, ReplyError) or error.method is None:
        return None
    return next((one for one in unanswered if method_name(one.method) == error.method), None)


def refused_request(error: AnyamqpError | None, unanswered: Unanswered) -> Request | None:
    """The request of a channel for which the broker closed the channel.

    The broker executes a channel's methods in order, so it is the oldest of that name; no later one was executed.
    """
    if not isinstance(error, ReplyError):
        return None
    return next((one for one in unanswered if error.method in (None, method_name(one.method))), None)


def return_requests(error: AnyamqpError | None, unanswered: Unanswered) -> None:
    """End the requests without a reply, so that their callers send them again. One that ended the link fails."""
    guilty = guilty_request(error, unanswered)
    for request in unanswered:
        if request is guilty:
            _accuse(request, error)
        elif is_unexplained_close(error):
            request.suspicion = error
        request.finish()


def fail_requests(error: AnyamqpError | None, unanswered: Unanswered, closed_error: Callable[[], AnyamqpError]) -> None:
    """Fail the requests of a channel that is closed for good: one with the error, the others with ``closed_error``."""
    refused = refused_request(error, unanswered)
    for request in unanswered:
        if request is refused:
            _accuse(request, error)
        else:
            request.error = closed_error()
        request.finish()


def _accuse(request: Request, error: AnyamqpError | None) -> None:
    if isinstance(error, ReplyError):
        error.request = describe(request.method)
    request.error = error


class Tries:
    """Decides whether a request without a reply is sent again.

    Args:
        repeat: whether it may be sent again after a loss.
    """

    def __init__(self, *, repeat: bool) -> None:
        self._repeat = repeat
        self._suspicions = 0

    def failed(self, request: Request) -> AnyamqpError | None:
        """The request got no reply. Returns the error that its caller gets; None to send the request again."""
        if request.error is not None:
            return request.error
        if request.suspicion is not None:
            self._suspicions += 1
            if self._suspicions >= CLOSES_BEFORE_BLAME:
                return request.suspicion
        if self._repeat:
            return None
        return ConnectionLost(f"{describe(request.method)} was in flight when the link died")


def is_for_a_publish(error: AnyamqpError | None) -> bool:
    """Whether the broker names a publish as the cause."""
    return isinstance(error, ReplyError) and error.method == _PUBLISH


def may_be_for_a_publish(error: AnyamqpError | None) -> bool:
    """Whether the broker may have closed the link because of a publish.

    The broker ends the link for a publish that it cannot even read (501, 502, 541, ...). Sent again, the publish
    would end every later link as well.
    """
    return (
        isinstance(error, ReplyError)
        and error.hard
        and error.found_by is Side.BROKER
        and not isinstance(error, ConnectionForced)
        and error.method in (None, _PUBLISH)
    )


def is_guilty_alone(error: AnyamqpError, closes: int) -> bool:
    """Whether the only publish in flight caused the close.

    RabbitMQ names basic.publish when it means a publish. No publish causes a close for another reason, unless the close
    comes each time that the same publish is sent.

    Args:
        error: the broker's error.
        closes: how often the broker closed while this publish was the only one, this close included.
    """
    return is_for_a_publish(error) or closes >= CLOSES_BEFORE_BLAME


def guilty_calls(error: ReplyError, sent: Sequence[C], most_attempts: int) -> list[C]:
    """The calls for which the broker closed the channel.

    The error's text names the exchange if that is missing. The default exchange always exists: a call through it is
    guilty only if no other call can be, or after ``most_attempts``.
    """
    through_exchange = [call for call in sent if call.exchange]
    named = [call for call in through_exchange if f"'{printable(call.exchange)}'" in error.text]
    alone = list(sent) if len(sent) == 1 and is_for_a_publish(error) else []
    at_last = [call for call in sent if call.attempts >= most_attempts]
    return named or through_exchange or alone or at_last
