"""A client that consumes from several channels and keeps what is delivered apart from what is answered."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeVar, Unpack

from anyamqp.message import FieldTable, FieldValue, Message, PropertyValues
from anyamqp.wire import methods
from anyamqp.wire.frames import Frame, build, encode_content, field_table
from anyamqp.wire.methods import Method
from support.conformance import Target
from support.queues import unique
from support.rawpeer import RawPeer

M = TypeVar("M", bound=Method)

PUBLISHING = 9
"""The number of the channel that publishes."""


class Taken(NamedTuple):
    """A message that the broker delivered.

    Attributes:
        channel: the channel's number.
        consumer: its consumer's tag.
        tag: its delivery tag.
        redelivered: whether the broker says that it was delivered before.
        message: the message.
    """

    channel: int
    consumer: str
    tag: int
    redelivered: bool
    message: Message

    @property
    def body(self) -> bytes:
        """The body."""
        return self.message.body

    @property
    def headers(self) -> FieldTable:
        """The headers; an empty table if there are none."""
        return self.message.headers or {}


class Consuming:
    """A raw client on several channels.

    Args:
        peer: the client after its handshake, with its channels and :data:`PUBLISHING` open.

    Attributes:
        peer: the client.
        cancelled: tags of the consumers that the broker cancelled.
    """

    def __init__(self, peer: RawPeer) -> None:
        self.peer: RawPeer = peer
        self.cancelled: list[str] = []
        self._taken: list[Taken] = []
        self._confirms = 0
        self._queues: list[str] = []

    # --- requests ---------------------------------------------------------------------------------------------------

    async def call(self, request: Method, reply: type[M], *, channel: int = 1) -> M:
        """Send a request and wait for its answer; deliveries that come before are kept."""
        await self.peer.send(channel, request)
        while True:
            frame = await self.peer.frame()
            if isinstance(frame.payload, reply) and frame.channel == channel:
                return frame.payload
            await self._keep(frame)

    async def declare(
        self,
        kind: str = "queue",
        *,
        arguments: Mapping[str, FieldValue] | None = None,
        durable: bool = True,
        exclusive: bool = False,
        auto_delete: bool = False,
    ) -> str:
        """Declare a queue with a name of its own, which is deleted at the end. Returns the name."""
        name = unique(kind)
        request = build(
            methods.Queue.Declare,
            queue=name,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            arguments=field_table(arguments or {}),
        )
        await self.call(request, methods.Queue.DeclareOk, channel=PUBLISHING)
        self._queues.append(name)
        return name

    async def depth(self, queue: str) -> int:
        """The number of ready messages that queue.declare-ok names."""
        request = build(methods.Queue.Declare, queue=queue, passive=True)
        return (await self.call(request, methods.Queue.DeclareOk, channel=PUBLISHING)).message_count

    async def consume(
        self,
        queue: str,
        tag: str = "",
        *,
        channel: int = 1,
        prefetch: int | None = None,
        no_ack: bool = False,
        exclusive: bool = False,
        arguments: Mapping[str, FieldValue] | None = None,
    ) -> str:
        """Start a consumer. Returns its tag."""
        if prefetch is not None:
            await self.prefetch(prefetch, channel=channel)
        request = consume(queue, tag, no_ack=no_ack, exclusive=exclusive, arguments=arguments)
        return (await self.call(request, methods.Basic.ConsumeOk, channel=channel)).consumer_tag

    async def prefetch(self, count: int, *, channel: int = 1, shared: bool = False) -> None:
        """Set the prefetch of the consumers to come, or of the channel."""
        request = build(methods.Basic.Qos, prefetch_count=count, global_=shared)
        await self.call(request, methods.Basic.QosOk, channel=channel)

    async def cancel(self, tag: str, *, channel: int = 1) -> None:
        """End a consumer."""
        await self.call(build(methods.Basic.Cancel, consumer_tag=tag), methods.Basic.CancelOk, channel=channel)

    async def close(self, channel: int) -> None:
        """Close a channel."""
        request = build(methods.Channel.Close, reply_code=200, reply_text="")
        await self.call(request, methods.Channel.CloseOk, channel=channel)

    async def publish(self, queue: str, *bodies: bytes, **properties: Unpack[PropertyValues]) -> None:
        """Publish persistent messages to a queue, one after the other, each confirmed before the next."""
        properties.setdefault("persistent", True)
        for body in bodies:
            message = Message(body, **properties)
            method = build(methods.Basic.Publish, routing_key=queue)
            await self.peer.say(*encode_content(PUBLISHING, method, message, self.peer.tuning.frame_max))
            confirms = self._confirms + 1
            while self._confirms < confirms:
                await self._keep(await self.peer.frame())

    async def try_publish(self, queue: str, body: bytes) -> bool:
        """Publish a message. Returns whether the broker confirms it, or refuses it."""
        method = build(methods.Basic.Publish, routing_key=queue)
        message = Message(body, persistent=True)
        await self.peer.say(*encode_content(PUBLISHING, method, message, self.peer.tuning.frame_max))
        while True:
            frame = await self.peer.frame()
            if frame.channel == PUBLISHING and isinstance(frame.payload, methods.Basic.Ack | methods.Basic.Nack):
                self._confirms = frame.payload.delivery_tag
                return isinstance(frame.payload, methods.Basic.Ack)
            await self._keep(frame)

    async def get(self, queue: str, *, channel: int = 1, no_ack: bool = False) -> Taken | None:
        """Fetch a message; None if there is none."""
        await self.peer.send(channel, build(methods.Basic.Get, queue=queue, no_ack=no_ack))
        while True:
            frame = await self.peer.frame()
            payload = frame.payload
            if isinstance(payload, methods.Basic.GetEmpty):
                return None
            if isinstance(payload, methods.Basic.GetOk):
                message = await self.peer.content(channel)
                return Taken(channel, "", payload.delivery_tag, payload.redelivered, message)
            await self._keep(frame)

    async def ack(self, tag: int, *, channel: int = 1, multiple: bool = False) -> None:
        """Acknowledge."""
        await self.peer.send(channel, methods.Basic.Ack(tag, multiple))

    async def nack(self, tag: int, *, channel: int = 1, multiple: bool = False, requeue: bool = True) -> None:
        """Give back, or discard."""
        await self.peer.send(channel, methods.Basic.Nack(tag, multiple, requeue))

    async def reject(self, tag: int, *, channel: int = 1, requeue: bool = True) -> None:
        """Give back or discard one message."""
        await self.peer.send(channel, methods.Basic.Reject(tag, requeue))

    # --- deliveries -------------------------------------------------------------------------------------------------

    async def take(self, count: int = 1) -> list[Taken]:
        """The next deliveries, in the order in which they came, on all channels."""
        while len(self._taken) < count:
            await self._keep(await self.peer.frame())
        taken, self._taken = self._taken[:count], self._taken[count:]
        return taken

    async def take_one(self) -> Taken:
        """The next delivery."""
        return (await self.take())[0]

    async def nothing_came(self, queue: str) -> bool:
        """Whether the broker has delivered nothing, as a classic queue's answers to two requests show.

        The first answer may overtake a delivery in the broker's channel, the second one cannot.
        """
        await self.depth(queue)
        await self.depth(queue)
        return not self._taken

    async def until_cancelled(self, count: int = 1) -> list[str]:
        """The tags of so many consumers that the broker cancelled, sorted."""
        while len(self.cancelled) < count:
            await self._keep(await self.peer.frame())
        return sorted(self.cancelled)

    async def clean_up(self) -> None:
        """Delete the queues that it declared."""
        for name in self._queues:
            await self.call(build(methods.Queue.Delete, queue=name), methods.Queue.DeleteOk, channel=PUBLISHING)

    async def _keep(self, frame: Frame) -> None:
        payload = frame.payload
        if isinstance(payload, methods.Basic.Deliver):
            message = await self.peer.content(frame.channel)
            taken = Taken(frame.channel, payload.consumer_tag, payload.delivery_tag, payload.redelivered, message)
            self._taken.append(taken)
        elif isinstance(payload, methods.Basic.Ack) and frame.channel == PUBLISHING:
            self._confirms = payload.delivery_tag
        elif isinstance(payload, methods.Basic.Cancel):
            self.cancelled.append(payload.consumer_tag)
        else:
            raise AssertionError(f"an unexpected frame came: {frame}")


def consume(
    queue: str,
    tag: str = "",
    *,
    no_ack: bool = False,
    exclusive: bool = False,
    arguments: Mapping[str, FieldValue] | None = None,
) -> methods.Basic.Consume:
    """A request for a consumer."""
    return build(
        methods.Basic.Consume,
        queue=queue,
        consumer_tag=tag,
        no_ack=no_ack,
        exclusive=exclusive,
        arguments=field_table(arguments or {}),
    )


@asynccontextmanager
async def consuming(target: Target, *channels: int) -> AsyncGenerator[Consuming, None]:
    """A client with channels of these numbers, 1 if none is named, and one more that publishes with confirms."""
    async with target.raw(*(channels or (1,)), PUBLISHING) as peer:
        client = Consuming(peer)
        await client.call(build(methods.Confirm.Select), methods.Confirm.SelectOk, channel=PUBLISHING)
        yield client
        await client.clean_up()


def summary(taken: list[Taken]) -> list[tuple[str, bytes]]:
    """Who got which message."""
    return [(one.consumer, one.body) for one in taken]


def bodies(taken: list[Taken]) -> list[bytes]:
    """The bodies."""
    return [one.body for one in taken]
