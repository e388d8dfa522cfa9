"""Requests and their replies.

Replies come in the order of the requests of a channel (AMQP 0-9-1, 4.2.3), so one queue of requests a channel is all
the matching there is. A cancelled caller leaves nothing behind: its reply is taken and dropped.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

from anyamqp.errors import AnyamqpError, ReplyError
from anyamqp.protocol.waking import Wakeable
from anyamqp.wire.basic import Received
from anyamqp.wire.methods import Method


class Purpose(Enum):
    """For whom a reply is."""

    CALLER = "caller"
    """A task waits for it."""
    DECLARATION = "declaration"
    """A task waits for it, and the topology records the request."""
    SETUP = "setup"
    """It brings a channel into shape."""
    LAST_OF_SETUP = "last of setup"
    """It does so, and the channel is open with its reply."""
    RECOVERY = "recovery"
    """Recovery declares an entity again."""
    FAREWELL = "farewell"
    """A task that leaves waits for it, as for the reply to a close."""
    OWNER = "owner"
    """The owner of the channel asked."""


class Request:
    """A method that awaits its reply.

    Args:
        method: the method.
        purpose: for whom the reply is.

    Attributes:
        waiter: of the task that waits; None if none does.
        reply: the reply, once it is there.
        content: the content that came with the reply to basic.get.
        error: why no reply will come. None without a reply: the link was lost.
        suspicion: the error that cost the link, if the broker did not say which request it means.
        is_over: whether nothing will come any more, for any of these reasons.
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
        """Nothing will come any more: let the task that waits go on."""
        self.is_over = True
        if self.waiter is not None:
            self.waiter.set()


Unanswered = Collection[Request]
"""Requests without a reply, the oldest first."""
