"""The interface of an outbox: the channel that it publishes on, its policy, and its effects."""

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
        """Append a publish to the outgoing buffer. Call it only if :attr:`can_publish`.

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
    """How to treat lost, nacked and blocked publishes.

    Attributes:
        resend: whether to send a publish again when its confirm was lost.
        retry_nacked: whether to send a nacked publish again.
        blocked_timeout: seconds that publishes wait while the connection is blocked; infinity for no limit.
    """

    resend: bool = True
    retry_nacked: bool = False
    blocked_timeout: float = math.inf


class OpenChannel(NamedTuple):
    """Open another channel in ``delay`` seconds."""

    delay: float


class RefuseWaiting(NamedTuple):
    """Fail the publishes that wait for the outgoing buffer: the connection has been blocked for too long."""


class ReportConfirm(NamedTuple):
    """Log a confirm whose tag no publish has."""

    delivery_tag: int


OutboxEffect: TypeAlias = OpenChannel | RefuseWaiting | ReportConfirm
