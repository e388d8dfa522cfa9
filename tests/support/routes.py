"""Exchanges, queues and bindings of one test, and where messages go over them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import NamedTuple

from anyamqp import FieldTable, Message
from anyamqp.wire import methods
from anyamqp.wire.frames import build, encode_content, field_table
from support.conformance import Refusal, Target
from support.queues import unique
from support.rawpeer import RawPeer


class Arrival(NamedTuple):
    """A message that came out of a queue, or came back.

    Attributes:
        exchange: the exchange that it was published to.
        routing_key: its routing key.
        message: its body and properties.
    """

    exchange: str
    routing_key: str
    message: Message


def declare_exchange(
    name: str, kind: str = "direct", arguments: FieldTable | None = None, **flags: bool
) -> methods.Exchange.Declare:
    """A request."""
    return build(methods.Exchange.Declare, exchange=name, exchange_type=kind, arguments=field_table(arguments), **flags)


def is_declared(name: str) -> methods.Exchange.Declare:
    """A request that is refused (404) if there is no such exchange."""
    return build(methods.Exchange.Declare, exchange=name, passive=True)


def delete_exchange(name: str, *, if_unused: bool = False) -> methods.Exchange.Delete:
    """A request."""
    return build(methods.Exchange.Delete, exchange=name, if_unused=if_unused)


def bind_queue(queue: str, exchange: str, key: str = "", arguments: FieldTable | None = None) -> methods.Queue.Bind:
    """A request."""
    table = field_table(arguments)
    return build(methods.Queue.Bind, queue=queue, exchange=exchange, routing_key=key, arguments=table)


def unbind_queue(queue: str, exchange: str, key: str = "", arguments: FieldTable | None = None) -> methods.Queue.Unbind:
    """A request."""
    table = field_table(arguments)
    return build(methods.Queue.Unbind, queue=queue, exchange=exchange, routing_key=key, arguments=table)


def bind_exchange(
    destination: str, source: str, key: str = "", arguments: FieldTable | None = None
) -> methods.Exchange.Bind:
    """A request."""
    table = field_table(arguments)
    return build(methods.Exchange.Bind, destination=destination, source=source, routing_key=key, arguments=table)


def unbind_exchange(
    destination: str, source: str, key: str = "", arguments: FieldTable | None = None
) -> methods.Exchange.Unbind:
    """A request."""
    table = field_table(arguments)
    return build(methods.Exchange.Unbind, destination=destination, source=source, routing_key=key, arguments=table)


async def refused_publish(target: Target, exchange: str, headers: FieldTable | None = None) -> Refusal:
    """How the broker refuses a message."""
    async with target.raw(1) as peer:
        request = build(methods.Basic.Publish, exchange=exchange)
        await peer.say(*encode_content(1, request, Message(b"", headers=headers), peer.tuning.frame_max))
        close = await peer.expect(1, methods.Channel.Close)
        assert (close.class_id << 16) + close.method_id == methods.Basic.Publish.index
        return Refusal("channel", close.reply_code, close.reply_text)


class Routes:
    """The entities of a test, on channel 1 of a client.

    Args:
        peer: the client; it does nothing else on the channel.

    Attributes:
        peer: the client.
    """

    def __init__(self, peer: RawPeer) -> None:
        self.peer: RawPeer = peer
        self._exchanges: list[str] = []
        self._queues: list[str] = []

    async def exchange(
        self, kind: str = "direct", *, name: str = "", alternate: str | None = None, **flags: bool
    ) -> str:
        """Declare an exchange. Returns its name, which is a new one if it is not given."""
        name = name or unique("x")
        arguments = {} if alternate is None else {"alternate-exchange": alternate}
        await self.peer.call(1, declare_exchange(name, kind, arguments, **flags), methods.Exchange.DeclareOk)
        self._exchanges.append(name)
        return name

    async def queue(self) -> str:
        """Declare an exclusive queue. Returns its name."""
        name = unique("q")
        request = build(methods.Queue.Declare, queue=name, exclusive=True)
        await self.peer.call(1, request, methods.Queue.DeclareOk)
        self._queues.append(name)
        return name

    async def bind(self, queue: str, exchange: str, key: str = "", arguments: FieldTable | None = None) -> None:
        """Bind a queue to an exchange."""
        await self.peer.call(1, bind_queue(queue, exchange, key, arguments), methods.Queue.BindOk)

    async def unbind(self, queue: str, exchange: str, key: str = "", arguments: FieldTable | None = None) -> None:
        """Undo :meth:`bind`."""
        await self.peer.call(1, unbind_queue(queue, exchange, key, arguments), methods.Queue.UnbindOk)

    async def link(self, destination: str, source: str, key: str = "", arguments: FieldTable | None = None) -> None:
        """Bind an exchange to an exchange."""
        await self.peer.call(1, bind_exchange(destination, source, key, arguments), methods.Exchange.BindOk)

    async def unlink(self, destination: str, source: str, key: str = "", arguments: FieldTable | None = None) -> None:
        """Undo :meth:`link`."""
        await self.peer.call(1, unbind_exchange(destination, source, key, arguments), methods.Exchange.UnbindOk)

    async def send(self, exchange: str, key: str = "", headers: FieldTable | None = None) -> None:
        """Publish a mandatory message, without waiting for an answer."""
        request = build(methods.Basic.Publish, exchange=exchange, routing_key=key, mandatory=True)
        message = Message(b"routed", headers=headers)
        await self.peer.say(*encode_content(1, request, message, self.peer.tuning.frame_max))

    async def publish(self, exchange: str, key: str = "", headers: FieldTable | None = None) -> Arrival | None:
        """Publish a mandatory message. Returns it if it comes back, None if it reaches a queue."""
        await self.send(exchange, key, headers)
        payload = (await self.peer.frame()).payload
        if isinstance(payload, methods.Basic.Ack):
            return None
        assert isinstance(payload, methods.Basic.Return), payload
        assert (payload.reply_code, payload.reply_text) == (312, "NO_ROUTE")
        returned = Arrival(payload.exchange, payload.routing_key, await self.peer.content(1))
        await self.peer.expect(1, methods.Basic.Ack)
        return returned

    async def get(self, queue: str) -> Arrival | None:
        """The next message of a queue; None if there is none."""
        await self.peer.send(1, build(methods.Basic.Get, queue=queue, no_ack=True))
        payload = (await self.peer.frame()).payload
        if isinstance(payload, methods.Basic.GetEmpty):
            return None
        assert isinstance(payload, methods.Basic.GetOk), payload
        return Arrival(payload.exchange, payload.routing_key, await self.peer.content(1))

    async def reached(self, exchange: str, key: str = "", headers: FieldTable | None = None) -> list[str]:
        """The queues that a message reaches, once for each copy. It comes back if and only if there are none."""
        returned = await self.publish(exchange, key, headers)
        found: list[str] = []
        for queue in self._queues:
            while await self.get(queue) is not None:
                found.append(queue)
        assert (returned is None) is bool(found)
        return found

    async def exists(self, exchange: str) -> bool:
        """Whether there is an exchange. If there is none, the channel is closed and opened again."""
        await self.peer.send(1, is_declared(exchange))
        payload = (await self.peer.frame()).payload
        if isinstance(payload, methods.Exchange.DeclareOk):
            return True
        assert isinstance(payload, methods.Channel.Close), payload
        assert payload.reply_text == f"NOT_FOUND - no exchange '{exchange}' in vhost '/'"
        await self.peer.send(1, methods.Channel.CloseOk())
        await self.begin(is_new=True)
        return False

    async def begin(self, *, is_new: bool = False) -> None:
        """Ask for confirms, on a channel that is open or will be."""
        if is_new:
            await self.peer.call(1, build(methods.Channel.Open), methods.Channel.OpenOk)
        await self.peer.call(1, build(methods.Confirm.Select), methods.Confirm.SelectOk)

    async def end(self) -> None:
        """Delete the exchanges."""
        for name in self._exchanges:
            await self.peer.call(1, delete_exchange(name), methods.Exchange.DeleteOk)


@asynccontextmanager
async def routes(target: Target) -> AsyncGenerator[Routes, None]:
    """The entities of a test; they are deleted on exit."""
    async with target.raw(1) as peer:
        one = Routes(peer)
        await one.begin()
        yield one
        await one.end()
