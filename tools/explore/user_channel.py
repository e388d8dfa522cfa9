"""A user's channel in the explored world."""

from __future__ import annotations

from anyamqp.core.link_channel import LinkChannel
from anyamqp.errors import AnyamqpError
from anyamqp.protocol.blame import Tries
from anyamqp.protocol.channel import ChannelCore
from anyamqp.protocol.lifecycle.channel import OVER, USABLE, ChannelEvent
from anyamqp.protocol.requests import Request
from anyamqp.wire import methods
from tools.explore.broker import QUEUE
from tools.explore.host import PlainHost


class UserChannel:
    """A user's channel with one request, which is sent again if a loss caught it.

    Attributes:
        core: the channel.
        request: the request that was sent; None while it is still to be sent.
        is_asking: whether a task waits for the reply.
        is_repeating: whether a loss caught the request.
        error: the error that ended the request.
    """

    def __init__(self, host: PlainHost) -> None:
        self.core: ChannelCore[LinkChannel] = host.new_channel(None)
        self.request: Request | None = None
        self.is_asking: bool = False
        self.is_repeating: bool = False
        self.error: AnyamqpError | None = None
        self._host = host
        self._tries = Tries(repeat=True)

    def open(self) -> None:
        """The user enters the channel's block."""
        self._host.register(self.core)

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
        if self.request is not None and not self._is_to_send(self.request):
            return
        if self.core.state in OVER:
            self.is_asking, self.error = False, self.core.closed_error()
        elif self.core.state in USABLE:
            if self.is_repeating:
                self._host.journal.note("a request that was sent again")
            self.request = self.core.send(methods.Queue.Declare(queue=QUEUE))

    def _is_to_send(self, request: Request) -> bool:
        """Whether the request has to be sent again."""
        if not request.is_over:
            return False
        if request.reply is None:
            self.error = self._tries.failed(request)
        self.is_asking = self.is_repeating = request.reply is None and self.error is None
        if self.is_repeating:
            self.request = None
        return self.is_repeating
