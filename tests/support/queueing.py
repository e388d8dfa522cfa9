"""A client of one channel that declares queues, fills them and looks into them, frame by frame."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import NamedTuple

import anyio

from anyamqp import FieldTable
from anyamqp.message import Message
from anyamqp.wire import methods
from anyamqp.wire.basic import Received, content_parts, encode_properties
from anyamqp.wire.frames import build, encode_method, field_table
from support.conformance import Target
from support.queues import unique
from support.rawpeer import RawPeer

PATIENCE = 20.0
"""Seconds until a broker has done what it does in its own time."""


class Got(NamedTuple):
    """A message that basic.get returned."""

    method: methods.Basic.GetOk
    message: Message


class Desk:
    """A channel in confirm mode, on a connection of its own. Its queues are exclusive unless a test says otherwise.

    Args:
        peer: the connection.
        number: the channel's number.
    """

    def __init__(self, peer: RawPeer, number: int = 1) -> None:
        self.peer = peer
        self.number = number

    async def declare(self, arguments: FieldTable | None = None, *, name: str | None = None, **flags: bool) -> str:
        """Declare a queue. Returns its name."""
        return (await self.declare_ok(arguments, name=name, **flags)).queue

    async def declare_ok(
        self, arguments: FieldTable | None = None, *, name: str | None = None, **flags: bool
    ) -> methods.Queue.DeclareOk:
        """Declare a queue. Returns the broker's answer."""
        name = unique("queue") if name is None else name
        flags = flags or {"exclusive": True}
        method = build(methods.Queue.Declare, queue=name, arguments=field_table(arguments), **flags)
        return await self.peer.call(self.number, method, methods.Queue.DeclareOk)

    async def count(self, queue: str) -> int:
        """How many messages are ready."""
        return (await self.declare_ok(name=queue, passive=True)).message_count

    async def is_there(self, queue: str) -> bool:
        """Whether a queue exists, without a request that would wait for it or be a use of it.

        A queue that is being deleted still counts: RabbitMQ 4.3 routes to it for a moment, and nacks.
        """
        await self.peer.publish(self.number, b"", routing_key=queue, mandatory=True)
        payload = (await self.peer.frame()).payload
        if isinstance(payload, methods.Basic.Ack | methods.Basic.Nack):
            return True
        assert isinstance(payload, methods.Basic.Return)
        await self.peer.content(self.number)
        await self.peer.expect(self.number, methods.Basic.Ack)
        return False

    async def until_gone(self, queue: str) -> None:
        """Wait until a queue no longer exists."""
        with anyio.fail_after(PATIENCE):
            while await self.is_there(queue):  # noqa: ASYNC110 - the broker announces nothing
                await anyio.sleep(0.01)

    async def publish(
        self, queue: str, *contents: bytes | Message, exchange: str = "", is_confirmed: bool = True
    ) -> None:
        """Publish messages to a queue or an exchange, and take a basic.ack for each."""
        method = build(methods.Basic.Publish, exchange=exchange, routing_key=queue)
        for content in contents:
            await self.send(method, content if isinstance(content, Message) else Message(content))
            await self.peer.expect(self.number, methods.Basic.Ack if is_confirmed else methods.Basic.Nack)

    async def send(self, method: methods.Basic.Publish, message: Message) -> None:
        """Publish a message without waiting for an answer; a received one with its properties as they came."""
        encoded = message.encoded if isinstance(message, Received) else encode_properties(message.properties)
        frame = encode_method(self.number, method)
        parts = content_parts(frame, self.number, encoded, message.body, self.peer.tuning.frame_max)
        await self.peer.say(*map(bytes, parts))

    async def get(self, queue: str, *, no_ack: bool = True) -> Got | None:
        """Take the next message; None if there is none."""
        await self.peer.send(self.number, build(methods.Basic.Get, queue=queue, no_ack=no_ack))
        payload = (await self.peer.frame()).payload
        if isinstance(payload, methods.Basic.GetOk):
            return Got(payload, await self.peer.content(self.number))
        assert isinstance(payload, methods.Basic.GetEmpty)
        return None

    async def next(self, queue: str, *, no_ack: bool = True) -> Got:
        """Wait for the next message and take it."""
        with anyio.fail_after(PATIENCE):
            while (got := await self.get(queue, no_ack=no_ack)) is None:  # noqa: ASYNC110 - the broker announces nothing
                await anyio.sleep(0.01)
        return got

    async def bodies(self, queue: str) -> list[bytes]:
        """Take all messages. Returns their bodies."""
        bodies: list[bytes] = []
        while (got := await self.get(queue)) is not None:
            bodies.append(got.message.body)
        return bodies

    async def consume(self, queue: str, *, no_ack: bool = False, exclusive: bool = False) -> str:
        """Begin to consume. Returns the consumer's tag."""
        method = build(methods.Basic.Consume, queue=queue, no_ack=no_ack, exclusive=exclusive)
        return (await self.peer.call(self.number, method, methods.Basic.ConsumeOk)).consumer_tag

    async def delivered(self) -> Got:
        """The next frames, which must be a delivery."""
        method = await self.peer.expect(self.number, methods.Basic.Deliver)
        like_get = build(
            methods.Basic.GetOk, method.delivery_tag, method.redelivered, method.exchange, method.routing_key, 0
        )
        return Got(like_get, await self.peer.content(self.number))

    async def purge(self, queue: str) -> int:
        """Purge a queue. Returns how many messages are gone."""
        method = build(methods.Queue.Purge, queue=queue)
        return (await self.peer.call(self.number, method, methods.Queue.PurgeOk)).message_count

    async def delete(self, queue: str) -> int:
        """Delete a queue. Returns how many messages are gone."""
        method = build(methods.Queue.Delete, queue=queue)
        return (await self.peer.call(self.number, method, methods.Queue.DeleteOk)).message_count

    async def settle(self, *settlements: methods.Method) -> None:
        """Ack, nack or reject, and wait until the broker has read it."""
        await self.peer.send(self.number, *settlements)
        await self.peer.call(self.number, build(methods.Basic.Qos), methods.Basic.QosOk)


@asynccontextmanager
async def a_desk(target: Target) -> AsyncGenerator[Desk, None]:
    """A desk of its own."""
    async with target.raw(1) as peer:
        await peer.call(1, build(methods.Confirm.Select), methods.Confirm.SelectOk)
        yield Desk(peer)
