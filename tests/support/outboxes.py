"""An outbox without an event loop, on a channel that only records calls."""

from __future__ import annotations

import math
from itertools import count

from anyamqp.errors import AnyamqpError, ChannelClosed, InvalidArgument
from anyamqp.message import Properties
from anyamqp.protocol.lifecycle.publisher import PublisherState
from anyamqp.protocol.outbox import Outbox
from anyamqp.protocol.pending import PendingPublish
from anyamqp.protocol.publishing import OpenChannel, OutboxEffect, PublishPolicy
from anyamqp.protocol.window import Window
from anyamqp.wire import methods
from anyamqp.wire.basic import Received, Route, encode_properties

TOO_LARGE = b"x" * 101


class PlainChannel:
    """A channel that records publishes.

    Attributes:
        can_publish: whether it accepts publishes.
        bodies: the bodies that it accepted, in order.
        flushes: whether each flush was awaited.
    """

    def __init__(self) -> None:
        self.can_publish = False
        self.bodies: list[bytes] = []
        self.flushes: list[bool] = []

    def publish(self, route: Route, properties: bytes, body: bytes) -> None:  # noqa: ARG002
        assert self.can_publish
        if len(body) >= len(TOO_LARGE):
            raise InvalidArgument("too large for a frame")
        self.bodies.append(body)

    def flush(self, *, is_awaited: bool = False) -> None:
        self.flushes.append(is_awaited)

    def closed_error(self) -> AnyamqpError:
        return ChannelClosed("the channel is closed")


class Publishing:
    """A publisher's outbox, its current channel, and the time.

    Attributes:
        effects: the outbox's effects so far.
        now: the time in seconds.
    """

    def __init__(
        self,
        *,
        window: int = 100,
        policy: PublishPolicy | None = None,
        is_open: bool = True,
        is_entered: bool = True,
    ) -> None:
        self.channel = PlainChannel()
        self.window = Window(window, 1000)
        self.outbox = Outbox(self.channel, window=self.window, policy=policy or PublishPolicy())
        self.effects: list[OutboxEffect] = []
        self.now = 0.0
        self._ids = count(1)
        if is_entered:
            self.outbox.enter()
        if is_entered and is_open:
            self.open()

    def state(self) -> PublisherState:
        """The publisher's state."""
        return self.outbox.state

    def open(self) -> None:
        """The channel opens, and becomes ready at once."""
        self.outbox.channel_opened(self.now)
        self.ready()

    def ready(self) -> None:
        self.channel.can_publish = True
        self.outbox.channel_ready(self.now)

    def hold(self) -> None:
        """The broker stops the channel."""
        self.channel.can_publish = False
        self.outbox.held()

    def publish(
        self,
        body: bytes,
        *,
        exchange: str = "",
        message_id: str | None = None,
        deadline: float = math.inf,
        is_awaited: bool = False,
    ) -> PendingPublish:
        """Submit a publish that has room in the window."""
        identity = message_id or f"m{next(self._ids)}"
        pending = PendingPublish(
            self.outbox.counters,
            Route(exchange, "key", mandatory=True),
            identity,
            encode_properties(Properties(message_id=identity)),
            body,
            deadline,
        )
        assert self.window.try_take(pending.size)
        self.outbox.accept(pending, self.now, is_awaited=is_awaited)
        return pending

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        self.outbox.confirmed([methods.Basic.Ack(tag, multiple)], self.now)
        self.effects += self.outbox.take_effects()

    def nack(self, tag: int) -> None:
        self.outbox.confirmed([methods.Basic.Nack(tag, False, False)], self.now)
        self.effects += self.outbox.take_effects()

    def send_back(self, body: bytes, message_id: str) -> None:
        """The broker returns a publish."""
        method = methods.Basic.Return(312, "NO_ROUTE", "", "key")
        self.outbox.returned(method, Received(body, encode_properties(Properties(message_id=message_id))))

    def lose(self, error: AnyamqpError | None = None) -> None:
        """The link ends."""
        self.channel.can_publish = False
        self.outbox.link_lost(error, self.now)

    def fail(self, error: AnyamqpError) -> None:
        """The channel is closed; another one replaces it if the outbox asks for one."""
        self.channel.can_publish = False
        self.outbox.channel_failed(error, self.now)
        effects = self.outbox.take_effects()
        self.effects += effects
        if any(isinstance(effect, OpenChannel) for effect in effects):
            self.channel = self.outbox.channel = PlainChannel()

    def advance(self, seconds: float) -> None:
        """Advance the time, and call the outbox at its deadlines."""
        end = self.now + seconds
        while self.outbox.deadline <= end:
            self.now = max(self.now, self.outbox.deadline)
            self.outbox.due(self.now)
            self.effects += self.outbox.take_effects()
        self.now = end
