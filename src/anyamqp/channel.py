"""A user's channel: ``async with connection.channel() as channel``.

Declarations, single messages, transactions. Publishing with confirms and consuming have channels of their own:
:class:`anyamqp.publisher.Publisher` and :class:`anyamqp.consumer.Consumer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Never, Self, Unpack

from anyamqp.checks import check_seconds, check_text, check_whole
from anyamqp.core.channel import ChannelHost, ChannelOwner, LogicalChannel, Recorder
from anyamqp.core.link_channel import LinkChannel
from anyamqp.delivery import Delivery
from anyamqp.errors import AnyamqpError, InvalidArgument
from anyamqp.message import FieldTable, Message, check_message
from anyamqp.misuse import Entered, explained, surplus_error
from anyamqp.options import QueueOptions, queue_arguments
from anyamqp.protocol.contents import delivery_of
from anyamqp.protocol.events import Content
from anyamqp.protocol.lifecycle import State
from anyamqp.protocol.requests import Purpose
from anyamqp.transaction import Transaction
from anyamqp.wire import methods
from anyamqp.wire.basic import Routes, encode_properties
from anyamqp.wire.frames import build, field_table, method_name
from anyamqp.wire.methods import Method


class Queue:
    """A declared queue.

    A queue that the broker named comes back under a new name after a reconnect; :attr:`name` follows.

    Attributes:
        message_count: messages that were ready when it was declared.
        consumer_count: consumers that it had when it was declared.
    """

    __slots__ = ("_declared_name", "_recorder", "consumer_count", "message_count")

    def __init__(self, name: str, message_count: int, consumer_count: int, recorder: Recorder) -> None:
        self._declared_name = name
        self._recorder = recorder
        self.message_count: int = message_count
        self.consumer_count: int = consumer_count

    @property
    def name(self) -> str:
        """Its present name."""
        return self._recorder.present_name(self._declared_name)

    def __repr__(self) -> str:
        return f"<Queue {self.name!r}>"


def checked_name(queue: object) -> str:
    """A queue's name, as a caller gave it.

    Raises:
        InvalidArgument: it is no text.
    """
    if not isinstance(queue, str):
        raise InvalidArgument(f"queue: {type(queue).__name__} instead of a Queue or its name")
    return queue


class Channel(Entered, ChannelOwner):
    """A channel of a connection: ``async with connection.channel() as channel``.

    Made by the connection. It survives reconnects. An error that the broker finds in a request closes it for good
    (AMQP 0-9-1, 4.9: soft errors); the request raises that error, every later one raises :class:`ChannelClosed`.

    All requests wait while the connection is away, and are sent again if a loss caught them. They raise
    :class:`RequestTimeout` after ``request_timeout``, :class:`ChannelClosed`, :class:`ConnectionClosed`,
    :class:`InvalidArgument` for what AMQP cannot carry, and the :class:`ReplyError` that the broker names.

    Args:
        host: the connection.
        wait: seconds to wait for a free channel number on entering, when ``channel_max`` channels are open.
    """

    _block = "async with connection.channel() as channel"

    def __init__(self, host: ChannelHost, *, wait: float = 0.0) -> None:
        check_seconds("wait", wait)
        self._host = host
        self._wait = wait
        self._core = LogicalChannel(host, self)
        self._routes = Routes()
        self._prefetch: int | None = None
        self._transaction: Transaction | None = None

    def __repr__(self) -> str:
        return f"<Channel {str(self._core).removeprefix('channel ')} {self.state.name}>"

    @property
    def state(self) -> State:
        """Where its life cycle is."""
        return self._core.state

    async def __aenter__(self) -> Self:
        self._host.loop.require_here("a channel")
        try:
            await self.open()
        except BaseException:
            self.begin_close()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Begin to live, and wait until the channel is open. Entering the block does it.

        Raises:
            ChannelLimitReached: as many are open as was agreed, and none was closed in time.
            RequestTimeout: it took longer than ``request_timeout``.
            ConnectionClosed: the connection is closed.
        """
        self._host.loop.require_here("a channel")
        await self._core.open_within(self._wait)

    async def close(self) -> None:
        """Close the channel and wait for the broker's close-ok.

        All closes of a connection share one ``close_timeout``: a broker that has not answered one in time is not waited
        for again.
        """
        self._host.loop.require_here("a channel")
        await self._core.close()

    def begin_close(self) -> None:
        """Send channel.close and wait for nothing; the number is free again when the broker's close-ok comes."""
        self._core.begin_close()

    # --- queues, exchanges, bindings --------------------------------------------------------------------------------

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
        """Declare a queue (queue.declare); it is declared again after every reconnect.

        Args:
            name: its name; empty lets the broker choose one.
            passive: only check that it exists. Such a declaration is not repeated after a reconnect.
            durable: it survives a restart of the broker.
            exclusive: only this connection may use it, and it goes with the connection.
            auto_delete: it goes when its last consumer does.
            arguments: what no keyword says, such as ``{"x-queue-leader-locator": "balanced"}``.
            options: what keywords say, such as ``queue_type="quorum"``: see :class:`QueueOptions`.

        Raises:
            InvalidArgument: an option is wrong, or cannot be had together with another.
            NotFound: passive, and there is no such queue.
            PreconditionFailed: it exists with other settings.
            ResourceLocked: it is another connection's exclusive queue.
        """
        queue_type = options.get("queue_type")
        if queue_type in ("quorum", "stream") and (not durable or exclusive or auto_delete) and not passive:
            raise InvalidArgument(f"queue_type: a {queue_type} queue is durable, never exclusive, never auto_delete")
        method = build(
            methods.Queue.Declare,
            queue=name,
            passive=passive,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            arguments=field_table(queue_arguments(field_table(arguments), options)),
        )
        reply = await self._change(method)
        if not isinstance(reply, methods.Queue.DeclareOk):
            raise TypeError(f"queue.declare was answered by {method_name(reply)}")
        recorder = self._host.recorder
        name = recorder.first_name(reply.queue)
        return Queue(name, reply.message_count, reply.consumer_count, recorder)

    @explained
    async def delete_queue(self, queue: Queue | str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete a queue (queue.delete); RabbitMQ takes the deletion of no queue for a success.

        Args:
            queue: the queue or its name.
            if_unused: only if it has no consumers.
            if_empty: only if it has no messages.

        Returns:
            How many messages went with it.

        Raises:
            PreconditionFailed: it is in use, or not empty.
        """
        method = build(methods.Queue.Delete, queue=self._name(queue), if_unused=if_unused, if_empty=if_empty)
        reply = await self._change(method)
        return reply.message_count if isinstance(reply, methods.Queue.DeleteOk) else 0

    @explained
    async def purge_queue(self, queue: Queue | str) -> int:
        """Drop the messages that are ready in a queue (queue.purge).

        Returns:
            How many there were.

        Raises:
            NotFound: there is no such queue.
        """
        reply = (await self._core.request(build(methods.Queue.Purge, queue=self._name(queue)))).reply
        return reply.message_count if isinstance(reply, methods.Queue.PurgeOk) else 0

    @explained
    async def bind_queue(
        self, queue: Queue | str, exchange: str, routing_key: str = "", *, arguments: FieldTable | None = None
    ) -> None:
        """Bind a queue to an exchange (queue.bind); it is bound again after every reconnect.

        Raises:
            NotFound: there is no such queue or exchange.
        """
        await self._change(
            build(
                methods.Queue.Bind,
                queue=self._name(queue),
                exchange=exchange,
                routing_key=routing_key,
                arguments=field_table(arguments),
            )
        )

    @explained
    async def unbind_queue(
        self, queue: Queue | str, exchange: str, routing_key: str = "", *, arguments: FieldTable | None = None
    ) -> None:
        """Undo :meth:`bind_queue` (queue.unbind); RabbitMQ takes the removal of no binding for a success."""
        await self._change(
            build(
                methods.Queue.Unbind,
                queue=self._name(queue),
                exchange=exchange,
                routing_key=routing_key,
                arguments=field_table(arguments),
            )
        )

    @explained
    async def bind_exchange(
        self, destination: str, source: str, routing_key: str = "", *, arguments: FieldTable | None = None
    ) -> None:
        """Bind an exchange to another (exchange.bind; RabbitMQ, "Exchange to Exchange Bindings").

        Args:
            destination: the exchange that messages go to.
            source: the exchange that they come from.
            routing_key: which ones.
            arguments: for exchange types that route by them.

        Raises:
            NotFound: there is no such exchange.
        """
        await self._change(
            build(
                methods.Exchange.Bind,
                destination=destination,
                source=source,
                routing_key=routing_key,
                arguments=field_table(arguments),
            )
        )

    @explained
    async def unbind_exchange(
        self, destination: str, source: str, routing_key: str = "", *, arguments: FieldTable | None = None
    ) -> None:
        """Undo :meth:`bind_exchange` (exchange.unbind)."""
        await self._change(
            build(
                methods.Exchange.Unbind,
                destination=destination,
                source=source,
                routing_key=routing_key,
                arguments=field_table(arguments),
            )
        )

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
        """Declare an exchange (exchange.declare); it is declared again after every reconnect.

        Args:
            name: its name.
            type: ``direct``, ``fanout``, ``topic``, ``headers``, or a plugin's.
            passive: only check that it exists. Such a declaration is not repeated after a reconnect.
            durable: it survives a restart of the broker.
            auto_delete: it goes when the last binding from it does.
            internal: only other exchanges may publish to it.
            alternate_exchange: where messages go that it cannot route (RabbitMQ, "Alternate Exchanges").
            arguments: what a plugin's type asks for, such as ``{"x-delayed-type": "direct"}``.

        Raises:
            InvalidArgument: the alternate exchange is given in ``arguments`` as well.
            NotFound: passive, and there is no such exchange.
            PreconditionFailed: it exists with other settings.
            CommandInvalid: the broker knows no such type; RabbitMQ closes the connection for it.
        """
        table = field_table(arguments)
        if alternate_exchange is not None:
            check_text("alternate_exchange", alternate_exchange)
            if "alternate-exchange" in table:
                raise InvalidArgument("alternate_exchange: given as a keyword and in arguments; one of them is enough")
            table["alternate-exchange"] = alternate_exchange
        await self._change(
            build(
                methods.Exchange.Declare,
                exchange=name,
                exchange_type=type,
                passive=passive,
                durable=durable,
                auto_delete=auto_delete,
                internal=internal,
                arguments=table,
            )
        )

    @explained
    async def delete_exchange(self, name: str, *, if_unused: bool = False) -> None:
        """Delete an exchange (exchange.delete).

        Args:
            name: its name.
            if_unused: only if nothing is bound to it.

        Raises:
            PreconditionFailed: it is in use.
        """
        await self._change(build(methods.Exchange.Delete, exchange=name, if_unused=if_unused))

    # --- messages ---------------------------------------------------------------------------------------------------

    @explained
    async def set_qos(self, prefetch: int) -> None:
        """Limit unacknowledged deliveries for each consumer of the channel (basic.qos); kept over reconnects.

        Args:
            prefetch: at most so many; 0 for no limit.

        Raises:
            InvalidArgument: it is not a whole number from 0 to 65535.
        """
        check_whole("prefetch", prefetch, 0, 65535)
        await self._core.request(build(methods.Basic.Qos, prefetch_count=prefetch))
        self._prefetch = prefetch

    @explained
    async def get(self, queue: Queue | str, *, no_ack: bool = False) -> Delivery | None:
        """Fetch one message (basic.get).

        Args:
            queue: the queue or its name.
            no_ack: the broker forgets the message as it sends it.

        Returns:
            The message, or None if the queue is empty.

        Raises:
            NotFound: there is no such queue.
            ConnectionLost: a loss caught a ``get`` with ``no_ack``: a message may be gone.
        """
        method = build(methods.Basic.Get, queue=self._name(queue), no_ack=no_ack)
        answer = await self._core.request(method, repeat=not no_ack)
        if answer.content is None or not isinstance(answer.reply, methods.Basic.GetOk):
            return None
        return delivery_of(answer.reply, answer.content, None if no_ack else answer.link_channel)

    async def recover(self) -> None:
        """Give everything that was fetched with :meth:`get` and not settled back to its queue (basic.recover).

        RabbitMQ does not have the other form, redelivery to the same consumer ("AMQP 0-9-1 Errata", basic.recover).
        """
        answer = await self._core.request(build(methods.Basic.Recover, requeue=True))
        answer.link_channel.taken_back()

    async def publish(self, message: Message, *surplus: Never, exchange: str = "", routing_key: str = "") -> None:
        """Publish without a confirm: the broker may lose the message, and nobody tells (basic.publish).

        For what may get lost. What must not goes through :meth:`Connection.publisher`, or through
        :meth:`transaction`. Waits while the connection is away or blocked and while the outgoing buffer is full.

        Args:
            message: the message.
            surplus: nothing: all else is given by name.
            exchange: where to publish; empty for the default exchange, which routes to the queue named by the key.
            routing_key: the routing key.

        Raises:
            InvalidArgument: AMQP cannot carry the message, or it is larger than ``max_message_size``.
            RequestTimeout: it could not be sent within ``request_timeout``.
        """
        if surplus:
            raise surplus_error(Channel.publish)
        self._host.loop.require_here("a channel")
        check_message(message, self._host.max_message_size)
        route = self._routes.get(exchange, routing_key, mandatory=False)
        properties = encode_properties(message.properties)
        if not self._core.is_writable:
            await self._core.wait_writable("basic.publish")
        self._core.publish(route, properties, message.body)
        self._core.flush()

    def transaction(self) -> Transaction:
        """A transaction: ``async with channel.transaction() as transaction`` (AMQP 0-9-1, class tx).

        What is published through it and what is acknowledged on this channel meanwhile happens when the block ends, or
        not at all. The channel is transactional from then on (AMQP has no way back), so acknowledge on it inside such
        blocks only. Confirms say as much and cost a fraction; a transaction is for a publish and an ack that belong
        together, on one queue (RabbitMQ, "Semantics of tx").

        Raises:
            InvalidUse: a transaction of the channel has not ended yet.
        """
        transaction = Transaction(self._core, self._host.max_message_size, previous=self._transaction)
        self._transaction = transaction
        return transaction

    # --- what its core tells ----------------------------------------------------------------------------------------

    def setup(self) -> Sequence[Method]:
        requests: list[Method] = []
        if self._prefetch is not None:
            requests.append(methods.Basic.Qos(prefetch_count=self._prefetch))
        if self._transaction is not None and self._transaction.is_selected:
            requests.append(methods.Tx.Select())
        return requests

    def on_opened(self) -> None:
        """Nothing waits for it but the requests themselves."""

    def on_ready(self) -> None:
        """Whoever publishes waits for it by himself."""

    def on_contents(self, contents: Sequence[Content], link_channel: LinkChannel) -> None:  # noqa: ARG002
        for method, message in contents:
            if isinstance(method, methods.Basic.Return) and self._transaction is not None:
                self._transaction.on_return(method, message)

    def on_method(self, method: Method) -> None:
        """There is neither a consumer here nor a confirm."""

    def on_lost(self, error: AnyamqpError | None) -> None:
        """Requests are sent again; what was fetched on the lost link is stale."""

    def on_failed(self, error: AnyamqpError) -> None:
        """Calls raise it by themselves."""

    # --- inside -----------------------------------------------------------------------------------------------------

    def _name(self, queue: Queue | str) -> str:
        # The first name, because the present one may be gone by the time the request is sent.
        return self._host.recorder.first_name(queue.name if isinstance(queue, Queue) else checked_name(queue))

    async def _change(self, method: Method) -> Method:
        # Recorded when the reply comes, not when the caller goes on: a caller that was cancelled meanwhile has
        # changed the broker all the same.
        return (await self._core.request(method, purpose=Purpose.DECLARATION)).reply
