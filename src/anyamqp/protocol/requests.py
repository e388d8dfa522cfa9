"""Requests and their replies.

The broker answers the requests of a channel in order (AMQP 0-9-1, 4.2.3), so one queue of requests per channel matches
them with their replies. The reply to a cancelled caller is taken and dropped.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

from anyamqp.errors import AnyamqpError, ReplyError
from anyamqp.protocol.waking import Wakeable
from anyamqp.wire.basic import Received
from anyamqp.wire.methods import Method


class Purpose(Enum):
    """The use of a reply."""

    CALLER = "caller"
    """A task waits for the reply."""
    DECLARATION = "declaration"
    """A task waits for the reply, and the topology records the request."""
    SETUP = "setup"
    """The request belongs to the setup of a channel."""
    LAST_OF_SETUP = "last of setup"
    """The last request of a channel's setup: its reply opens the channel."""
    RECOVERY = "recovery"
    """Recovery declares an entity again."""
    FAREWELL = "farewell"
    """A task waits for the reply at the end of a channel, as it does for close-ok."""
    OWNER = "owner"
    """The channel's owner sent the request."""


class Request:
    """A method that awaits its reply.

    Args:
        method: the method.
        purpose: the use of the reply.

    Attributes:
        waiter: wakes the task that waits for the reply; None if no task does.
        reply: the reply; None until it comes.
        content: the content of the reply to basic.get.
        error: the reason why no reply will come. If this and the reply are None at the end, the link was lost.
        suspicion: the error that ended the link, if the broker did not name the request that caused it.
        is_over: whether the reply has come or never will.
    """

    __slots__ = ("content", "error", "is_over", "method", "purpose", "reply", "suspicion", "waiter")

    def __init__(self, method: Method, purpose: Purpose = Purpose.CALLER) -> None:
        self.method: Method = method
        self.purpose: Purpose = purpose
        self.waiter: Wakeable | None = None
        self.reply: Method | None = None
        self.content: Received | None = None
        self.error: AnyamqpError | None = None
        self.suspicion: ReplyError | None = None
        self.is_over: bool = False

    def finish(self) -> None:
        """End the request and wake the waiting task."""
        self.is_over = True
        if self.waiter is not None:
            self.waiter.set()


Unanswered = Collection[Request]
"""Requests without a reply, the oldest first."""
