"""The border of an outbox: the channel that it publishes on, its policy, and the effects that it asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from anyamqp.errors import AnyamqpError
from anyamqp.wire.basic import Route


class PublishChannel(Protocol):
    """The channel that an outbox publishes on."""

    @property
    def can_publish(self) -> bool:
        """Whether the broker accepts publishes on it now."""
        ...

    def publish(self, route: Route, properties: bytes, body: bytes) -> None:
        """Append a publish to the outgoing buffer. Only if :attr:`can_publish`.

        Raises:
            InvalidArgument: the properties do not fit a frame; nothing was appended.
        """
        ...

    def flush(self, *, is_awaited: bool = False) -> None:
        """Send the outgoing buffer; at once if ``is_awaited``."""
        ...

    def closed_error(self) -> AnyamqpError:
        """The error that calls on the channel raise once it is closed."""
        ...


@dataclass(frozen=True, slots=True)
class PublishPolicy:
    """What becomes of publishes in trouble.

    Attributes:
        resend: whether a publish that a loss caught is sent again.
        retry_nacked: whether a publish that the broker nacked is sent again.
        blocked_timeout: seconds that the broker may accept no publishes; infinity for ever.
    """

    resend: bool = True
    retry_nacked: bool = False
    blocked_timeout: float = math.inf


class OpenChannel(NamedTuple):
    """Make another channel, to be opened in so many seconds."""

    delay: float


class RefuseWaiting(NamedTuple):
    """End the wait of those that wait for the outgoing buffer: the broker has been blocked for too long."""


class ReportConfirm(NamedTuple):
    """The broker confirmed a tag that no publish has."""

    delivery_tag: int


OutboxEffect: TypeAlias = OpenChannel | RefuseWaiting | ReportConfirm
