"""A channel for declarations, single messages and transactions.

Publishing with confirms and consuming have channels of their own: :class:`anyamqp.publisher.Publisher` and
:class:`anyamqp.consumer.Consumer`.
"""

from __future__ import annotations

from types import TracebackType
from typing import Never, Self, Unpack

from anyamqp.channel_shell import ChannelShell
from anyamqp.checks import check_seconds, check_whole
from anyamqp.core.channel import Answer
from anyamqp.declarations import (
    exchange_arguments,
    exchange_binding,
    exchange_declaration,
    queue_binding,
    queue_declaration,
    queue_unbinding,
)
from anyamqp.delivery import Delivery
from anyamqp.message import FieldTable, Message, check_message
from anyamqp.misuse import Entered, explained, surplus_error
from anyamqp.options import QueueOptions
from anyamqp.protocol.contents import delivery_of
from anyamqp.protocol.lifecycle import State
from anyamqp.protocol.requests import Purpose
from anyamqp.queue import Queue
from anyamqp.transaction import Transaction
from anyamqp.wire import methods
from anyamqp.wire.frames import build, method_name
from anyamqp.wire.methods import Method


class Channel(Entered):
    """A channel of a connection: ``async with connection.channel() as channel``. Made by :meth:`Connection.channel`.

    It survives reconnects. An error that the broker finds in a request closes it for good (AMQP 0-9-1, 4.9: soft
    errors); the request raises that error, every later one raises :class:`ChannelClosed`.

    All requests wait while the connection is away, and are sent again if a loss caught them. They raise
    :class:`RequestTimeout` after ``request_timeout``, :class:`ChannelClosed`, :class:`ConnectionClosed`,
    :class:`InvalidArgument` for arguments that AMQP cannot carry, and the :class:`ReplyError` that the broker names.
    """

    _kind = "a channel"
    _block = "async with connection.channel() as channel"

    def __init__(self, shell: ChannelShell, *, wait: float = 0.0) -> None:
        check_seconds("wait", wait)
        self._shell = shell
        self._core = shell.channel
        self._wait = wait

    def __repr__(self) -> str:
        return f"<Channel {str(self._core).removeprefix('channel ')} {self.state.name}>"

    @property
    def _is_new(self) -> bool:
        return self._shell.is_new

    @property
    def state(self) -> State:
        """The state of its life cycle."""
        return self._core.state

    async def __aenter__(self) -> Self:
        self._core.require_here()
        self._check_new()
        try:
            await self._shell.open(self._wait)
        except BaseException:
            self._core.begin_close()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channel and wait for the broker's close-ok. The end of the block does it as well.

        All closes of a connection share one ``close_timeout``: once the broker has left one unanswered for that long,
        the others do not wait for it again.
        """
        self._check_entered()
        self._core.require_here()
        await self._core.close()

    @explained
    async def declare_queue(
        self,
        name: str = "",
        *,
        passive: bool = False,
        durable: bool = True,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: FieldTable | None = None,
        **options: Unpack[QueueOptions],
    ) -> Queue:
        """Declare a queue (queue.declare), now and after every reconnect.

        Args:
            name: its name; if it is empty, the broker chooses one.
            passive: only check that it exists; this is not repeated after a reconnect.
            durable: it survives a restart of the broker.
            exclusive: only this connection may use it, and it is deleted with the connection.
            auto_delete: it is deleted with its last consumer.
            arguments: arguments that are not among the options, such as ``{"x-queue-leader-locator": "balanced"}``.
            options: the options of :class:`QueueOptions`, such as ``queue_type="quorum"``.

        Raises:
            InvalidArgument: an option is wrong, or cannot be combined with another.
            NotFound: passive, and there is no such queue.
            PreconditionFailed: it exists with other settings.
            ResourceLocked: it is another connection's exclusive queue.
        """
        method = queue_declaration(
            name, arguments, options, passive=passive, durable=durable, exclusive=exclusive, auto_delete=auto_delete
        )
        reply = await self._change(method)
        if not isinstance(reply, methods.Queue.DeclareOk):
            raise TypeError(f"queue.declare was answered by {method_name(reply)}")
        topology = self._shell.host.topology
        return Queue(topology.declared_name(reply.queue), reply.message_count, reply.consumer_count, topology)

    @explained
    async def delete_queue(self, queue: Queue | str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete a queue (queue.delete). RabbitMQ reports success even if there is no such queue.

        Args:
            queue: the queue or its name.
            if_unused: only if it has no consumers.
            if_empty: only if it has no messages.

        Returns:
            How many messages were in it.

        Raises:
            PreconditionFailed: ``if_unused`` and it has consumers, or ``if_empty`` and it has messages.
        """
        method = build(methods.Queue.Delete, queue=self._shell.name_of(queue), if_unused=if_unused, if_empty=if_empty)
        reply = await self._change(method)
        return reply.message_count if isinstance(reply, methods.Queue.DeleteOk) else 0

    @explained
    async def purge_queue(self, queue: Queue | str) -> int:
        """Drop the messages that are ready in a queue (queue.purge).

        Returns:
            How many were dropped.

        Raises:
            NotFound: there is no such queue.
        """
        reply = (await self._request(build(methods.Queue.Purge, queue=self._shell.name_of(queue)))).reply
        return reply.message_count if isinstance(reply, methods.Queue.PurgeOk) else 0

    @explained
    async def bind_queue(
        self, queue: Queue | str, exchange: str, routing_key: str = "", *, arguments: FieldTable | None = None
    ) -> None:
        """Bind a queue to an exchange (queue.bind), now and after every reconnect.

        Raises:
            NotFound: there is no such queue or exchange.
        """
        await self._change(queue_binding(self._shell.name_of(queue), exchange, routing_key, arguments))

    @explained
    async def unbind_queue(
        self, queue: Queue | str, exchange: str, routing_key: str = "", *, arguments: FieldTable | None = None
    ) -> None:
        """Undo :meth:`bind_queue` (queue.unbind). RabbitMQ reports success even if there is no such binding."""
        await self._change(queue_unbinding(self._shell.name_of(queue), exchange, routing_key, arguments))

    @explained
    async def bind_exchange(
        self, destination: str, source: str, routing_key: str = "", *, arguments: FieldTable | None = None
    ) -> None:
        """Bind an exchange to another (exchange.bind; RabbitMQ, "Exchange to Exchange Bindings").

        Args:
            destination: the exchange that messages go to.
            source: the exchange that they come from.
            routing_key: the key that selects them, as the type of ``source`` reads it.
            arguments: for exchange types that route by them.

        Raises:
            NotFound: there is no such exchange.
        """
        await self._change(exchange_binding(methods.Exchange.Bind, destination, source, routing_key, arguments))

    @explained
    async def unbind_exchange(
        self, destination: str, source: str, routing_key: str = "", *, arguments: FieldTable | None = None
    ) -> None:
        """Undo :meth:`bind_exchange` (exchange.unbind)."""
        await self._change(exchange_binding(methods.Exchange.Unbind, destination, source, routing_key, arguments))

    @explained
    async def declare_exchange(
        self,
        name: str,
        type: str = "direct",  # noqa: A002 - AMQP's name
        *,
        passive: bool = False,
        durable: bool = True,
        auto_delete: bool = False,
        internal: bool = False,
        alternate_exchange: str | None = None,
        arguments: FieldTable | None = None,
    ) -> None:
        """Declare an exchange (exchange.declare), now and after every reconnect.

        Args:
            name: its name.
            type: ``direct``, ``fanout``, ``topic``, ``headers``, or a plugin's.
            passive: only check that it exists; this is not repeated after a reconnect.
            durable: it survives a restart of the broker.
            auto_delete: it is deleted with the last binding from it.
            internal: only other exchanges may publish to it.
            alternate_exchange: gets the messages that it cannot route (RabbitMQ, "Alternate Exchanges").
            arguments: the arguments of a plugin's type, such as ``{"x-delayed-type": "direct"}``.

        Raises:
            InvalidArgument: the alternate exchange is given in ``arguments`` as well.
            NotFound: passive, and there is no such exchange.
            PreconditionFailed: it exists with other settings.
            CommandInvalid: the broker does not know the type; RabbitMQ closes the connection.
        """
        table = exchange_arguments(arguments, alternate_exchange)
        method = exchange_declaration(
            name, type, table, passive=passive, durable=durable, auto_delete=auto_delete, internal=internal
        )
        await self._change(method)

    @explained
    async def delete_exchange(self, name: str, *, if_unused: bool = False) -> None:
        """Delete an exchange (exchange.delete).

        Args:
            name: its name.
            if_unused: only if nothing is bound to it.

        Raises:
            PreconditionFailed: ``if_unused``, and something is bound to it.
        """
        await self._change(build(methods.Exchange.Delete, exchange=name, if_unused=if_unused))

    @explained
    async def set_qos(self, prefetch: int) -> None:
        """Limit unacknowledged deliveries for each consumer of the channel (basic.qos), also after reconnects.

        Args:
            prefetch: 1 to 65535; 0 for no limit.
        """
        check_whole("prefetch", prefetch, 0, 65535)
        await self._request(build(methods.Basic.Qos, prefetch_count=prefetch))
        self._shell.prefetch = prefetch

    @explained
    async def get(self, queue: Queue | str, *, no_ack: bool = False) -> Delivery | None:
        """Fetch one message (basic.get).

        Args:
            queue: the queue or its name.
            no_ack: the broker forgets the message when it sends it.

        Returns:
            The message, or None if the queue is empty.

        Raises:
            NotFound: there is no such queue.
            ConnectionLost: the link was lost before the answer to a ``get`` with ``no_ack``; a message may be gone.
        """
        method = build(methods.Basic.Get, queue=self._shell.name_of(queue), no_ack=no_ack)
        answer = await self._request(method, repeat=not no_ack)
        if answer.content is None or not isinstance(answer.reply, methods.Basic.GetOk):
            return None
        delivery = delivery_of(answer.reply, answer.content, None if no_ack else answer.link_channel)
        if (hooks := self._shell.host.hooks) is not None:
            hooks.got(delivery, method.queue)
        return delivery

    async def recover(self) -> None:
        """Return the unsettled messages that :meth:`get` fetched to their queues (basic.recover).

        RabbitMQ does not have the other form, redelivery to the same consumer ("AMQP 0-9-1 Errata", basic.recover).
        """
        answer = await self._request(build(methods.Basic.Recover, requeue=True))
        answer.link_channel.taken_back()

    async def publish(self, message: Message, *surplus: Never, exchange: str = "", routing_key: str = "") -> None:
        """Publish without a confirm (basic.publish): the message may be lost without notice.

        A message that must not be lost goes through :meth:`Connection.publisher` or :meth:`transaction`. Waits while
        the connection is away or blocked, and while the outgoing buffer is full.

        Args:
            message: the message.
            surplus: nothing; the other arguments are given by name.
            exchange: where to publish; empty for the default exchange, which routes to the queue named by the key.
            routing_key: the routing key.

        Raises:
            InvalidArgument: AMQP cannot carry the message, or it is larger than ``max_message_size``.
            RequestTimeout: it could not be sent within ``request_timeout``.
        """
        if surplus:
            raise surplus_error(Channel.publish)
        self._check_entered()
        self._core.require_here()
        check_message(message, self._shell.host.max_message_size)
        if (hooks := self._shell.host.hooks) is None:
            await self._shell.publish(message, exchange, routing_key)
        else:
            with hooks.publishing(message, exchange, routing_key, "publish without confirm") as message:
                await self._shell.publish(message, exchange, routing_key)

    def transaction(self) -> Transaction:
        """A transaction on this channel: ``async with channel.transaction() as transaction``."""
        return Transaction(self._shell)

    async def _request(self, method: Method, *, purpose: Purpose = Purpose.CALLER, repeat: bool = True) -> Answer:
        self._check_entered()
        return await self._core.request(method, purpose=purpose, repeat=repeat)

    async def _change(self, method: Method) -> Method:
        # The topology records it when the reply comes, also for a caller that was cancelled meanwhile.
        return (await self._request(method, purpose=Purpose.DECLARATION)).reply
