"""The interface of a subscription: the objects that it asks, its effects, and its reaction to basic.cancel."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Literal, NamedTuple, Protocol, TypeAlias

from anyamqp.delivery import Delivery
from anyamqp.errors import AnyamqpError, ReplyError
from anyamqp.protocol.lifecycle.consumer import ConsumerEffect

OnCancel: TypeAlias = Literal["raise", "resubscribe", "end"]
"""The reaction of a consumer when the broker cancels it: raise :class:`ConsumerCancelled`, wait for its queue to come
back, or end the iteration."""


class Unsettled(Protocol):
    """The counts of the deliveries on a channel on one link."""

    delivered: int

    @property
    def unsettled(self) -> float:
        """How many of them are not settled."""
        ...


class ClosedChannel(Protocol):
    """A channel that is closed for good."""

    def closed_error(self) -> AnyamqpError:
        """The error of every call on it."""
        ...


class Declares(Protocol):
    """The connection, which recovers queues."""

    def will_declare(self, queue: str) -> bool:
        """Whether a queue that is missing is declared once more in the current recovery."""
        ...


class Reading(Enum):
    """Effects on the reader of the link."""

    PAUSE = "pause"
    RESUME = "resume"


class GiveBack(NamedTuple):
    """Requeue these deliveries, except for stale ones, and those that wait for their return after a failure."""

    deliveries: Sequence[Delivery]


class Refuse(NamedTuple):
    """Close the channel, because its deliveries violate the protocol."""

    error: ReplyError


SubscriptionEffect: TypeAlias = ConsumerEffect | Reading | GiveBack | Refuse
Effects: TypeAlias = Sequence[SubscriptionEffect]
