"""Who is to blame for a close.

The broker names the method that it closes a channel or a link for, never the message: there is no reply to a publish
that could carry the error. The rest is inferred here, from the publishes and calls that were on their way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

from anyamqp.errors import AnyamqpError, ConnectionForced, ReplyError, Side, printable

CLOSES_BEFORE_BLAME: Final = 3
"""An error that names no request is blamed on the one that was under way each time it came, so many times."""

_PUBLISH: Final = "basic.publish"


class SentCall(Protocol):
    """A call whose request was sent."""

    @property
    def exchange(self) -> str:
        """The exchange that the request went through."""
        ...

    @property
    def attempts(self) -> int:
        """How often the request was sent."""
        ...


C = TypeVar("C", bound=SentCall)


def is_for_a_publish(error: AnyamqpError | None) -> bool:
    """Whether the broker names a publish as the cause."""
    return isinstance(error, ReplyError) and error.method == _PUBLISH


def may_be_for_a_publish(error: AnyamqpError | None) -> bool:
    """Whether the broker may have closed the link because of a publish.

    A publish that the broker cannot even read costs the whole link (501, 502, 541, ...), and would cost every link to
    come.
    """
    return (
        isinstance(error, ReplyError)
        and error.hard
        and error.found_by is Side.BROKER
        and not isinstance(error, ConnectionForced)
        and error.method in (None, _PUBLISH)
    )


def is_guilty_alone(error: AnyamqpError, closes: int) -> bool:
    """Whether the only publish on its way is to blame.

    RabbitMQ names basic.publish when it means a publish. A close for another reason is no publish's fault, unless it
    comes each time that the same one is sent.

    Args:
        error: the broker's error.
        closes: how often the broker closed while this publish was the only one, this close included.
    """
    return is_for_a_publish(error) or closes >= CLOSES_BEFORE_BLAME


def guilty_calls(error: ReplyError, sent: Sequence[C], most_attempts: int) -> list[C]:
    """The calls for which the broker closed the channel.

    Its text names the exchange, if that is the fault. The default exchange is always there: a call through it is guilty
    only if no other can be, or after ``most_attempts``.
    """
    through_exchange = [call for call in sent if call.exchange]
    named = [call for call in through_exchange if f"'{printable(call.exchange)}'" in error.text]
    alone = list(sent) if len(sent) == 1 and is_for_a_publish(error) else []
    at_last = [call for call in sent if call.attempts >= most_attempts]
    return named or through_exchange or alone or at_last
