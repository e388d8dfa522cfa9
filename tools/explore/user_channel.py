"""A user's channel in the explored world."""

from __future__ import annotations

from anyamqp.core.link_channel import LinkChannel
from anyamqp.errors import AnyamqpError
from anyamqp.protocol.channel import ChannelCore
from anyamqp.protocol.lifecycle.channel import OVER, USABLE, ChannelEvent
from anyamqp.protocol.requests import Request
from anyamqp.wire import methods
from tools.explore.broker import QUEUE
from tools.explore.surroundings import Surroundings


class UserChannel:
    """A user's channel with one request, which is sent again if a loss caught it.

    Attributes:
        core: the channel.
        request: the request that was sent last.
        is_asking: whether a task waits for the reply.
        error: the error that ended the request.
    """

    def __init__(self, world: Surroundings) -> None:
        self.core: ChannelCore[LinkChannel] = world.core.new_channel(None)
        self.request: Request | None = None
        self.is_asking: bool = False
        self.error: AnyamqpError | None = None
        self._world = world

    def open(self) -> None:
        """The user enters the channel's block."""
        self._world.core.register(self.core)

    def ask(self) -> None:
        """The user declares a queue."""
        self.is_asking = True

    def close(self) -> None:
        """The user leaves the channel's block."""
        self.core.take(ChannelEvent.CLOSE)

    def go_on(self) -> None:
        """The task that waits for the reply."""
        if not self.is_asking:
            return
        request, core = self.request, self.core
        if request is not None and not request.is_over:
            return
        if request is not None and (request.reply is not None or request.error is not None):
            self.is_asking, self.error = False, request.error
        elif core.state in OVER:
            self.is_asking, self.error = False, core.closed_error()
        elif core.state in USABLE:
            if request is not None:
                self._world.note("a request that was sent again")
            self.request = core.send(methods.Queue.Declare(queue=QUEUE))
