"""Transactions on a channel: AMQP 0-9-1, class tx; RabbitMQ, "Semantics of tx"."""

from __future__ import annotations

from types import TracebackType
from typing import Never, Self

from anyamqp.core.channel import LogicalChannel
from anyamqp.core.link_channel import LinkChannel
from anyamqp.errors import ConnectionLost, InvalidUse, Unroutable
from anyamqp.message import Message, check_message, identified
from anyamqp.misuse import Entered, surplus_error
from anyamqp.protocol.contents import unroutable_of
from anyamqp.protocol.lifecycle.transaction import TRANSACTION, TransactionEvent, TransactionState
from anyamqp.wire import methods
from anyamqp.wire.basic import Route, encode_properties
from anyamqp.wire.frames import build


class Transaction(Entered):
    """Publishes and acknowledgements that happen together, or not at all. Made by :meth:`Channel.transaction`.

    Leaving the block commits; an error rolls back. A transaction lives on one link: after a loss everything in it
    raises :class:`ConnectionLost`, and the broker has rolled it back, unless the loss caught the commit itself.

    Args:
        channel: the channel.
        max_message_size: the largest body that is published, in bytes.
        previous: the channel's transaction before this one.
    """

    _kind = "a transaction"
    _block = "async with channel.transaction() as transaction"

    _link_channel: LinkChannel
    """Where the transaction is open."""

    def __init__(self, channel: LogicalChannel, max_message_size: int, *, previous: Transaction | None) -> None:
        self._channel = channel
        self._max_message_size = max_message_size
        self._previous = previous
        self._lifecycle = TRANSACTION.begin()
        self._published = 0
        self._returned: list[Unroutable] = []
        self.is_selected: bool = previous is not None and previous.is_selected
        """Whether the channel is transactional already."""

    async def __aenter__(self) -> Self:
        previous, self._previous = self._previous, None
        if self._lifecycle.state is not TransactionState.NEW:
            raise InvalidUse("a transaction is entered once; make a new one with channel.transaction()")
        if previous is not None and previous.is_open:
            raise InvalidUse("the channel's last transaction has not ended yet: AMQP has no nested transactions")
        self._lifecycle.fire(TransactionEvent.ENTERED)
        try:
            self._link_channel = await self._begin()
        except BaseException:
            self._lifecycle.fire(TransactionEvent.FAILED)
            raise
        self._lifecycle.fire(TransactionEvent.BEGUN)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        link_channel = self._require_open()
        self._lifecycle.fire(TransactionEvent.LEFT)
        if exc_type is None:
            await self._channel.request(build(methods.Tx.Commit), repeat=False, pinned=link_channel)
            if self._returned:
                raise ExceptionGroup(f"{len(self._returned)} messages reached no queue", self._returned)
        elif not link_channel.is_stale:
            # The broker rolls back what it cannot commit, so an answer that does not come changes nothing.
            await self._channel.last_request(build(methods.Tx.Rollback))

    @property
    def is_open(self) -> bool:
        """Whether it has begun and not ended."""
        return self._lifecycle.state is TransactionState.OPEN

    async def publish(
        self, message: Message, *surplus: Never, exchange: str = "", routing_key: str = "", mandatory: bool = True
    ) -> None:
        """Publish a message when the transaction is committed.

        Args:
            message: the message; without a ``message_id`` it gets a random one, by which an error names it.
            surplus: nothing: all else is given by name.
            exchange: where to publish; empty for the default exchange, which routes to the queue named by the key.
            routing_key: the routing key.
            mandatory: whether the commit raises an ExceptionGroup with :class:`Unroutable` if no queue takes it. The
                rest of the transaction is committed all the same: the broker routes when it commits.

        Raises:
            ConnectionLost: the link on which the transaction began is gone.
            InvalidArgument: AMQP cannot carry the message, or it is larger than ``max_message_size``.
        """
        link_channel = self._require_open()
        if surplus:
            raise surplus_error(Transaction.publish)
        self._channel.require_here()
        check_message(message, self._max_message_size)
        route = Route(exchange, routing_key, mandatory=mandatory)
        properties = encode_properties(identified(message).properties)
        await self._channel.wait_writable("basic.publish")
        if link_channel.is_stale:
            raise ConnectionLost("the transaction was lost with its link; the broker has rolled it back")
        self._channel.publish(route, properties, message.body)
        self._published += 1
        self._channel.flush()

    def on_return(self, method: methods.Basic.Return, message: Message) -> None:
        """A mandatory message reached no queue."""
        if len(self._returned) < self._published:  # or a broken broker could fill the memory
            self._returned.append(unroutable_of(method, message.message_id))

    async def _begin(self) -> LinkChannel:
        """Make the channel transactional. Returns where it is."""
        if not self.is_selected:
            request = await self._channel.request(build(methods.Tx.Select))
            self.is_selected = True
            return request.link_channel
        await self._channel.wait_open()
        link_channel = self._channel.link_channel
        if link_channel is None:
            raise InvalidUse("a transaction on a channel that is on no link")
        return link_channel

    def _require_open(self) -> LinkChannel:
        if not self.is_open:
            raise self._outside_error()
        return self._link_channel
