"""Transactions on a channel: AMQP 0-9-1, class tx; RabbitMQ, "Semantics of tx"."""

from __future__ import annotations

from types import TracebackType
from typing import Never, Self

from anyamqp.channel_shell import ChannelShell, TransactionLog
from anyamqp.core.link_channel import LinkChannel
from anyamqp.errors import ConnectionLost, InvalidUse
from anyamqp.message import Message, check_message, identified
from anyamqp.misuse import Entered, surplus_error
from anyamqp.protocol.lifecycle.transaction import TransactionEvent, TransactionState
from anyamqp.wire import methods
from anyamqp.wire.basic import Route, encode_properties
from anyamqp.wire.frames import build


class Transaction(Entered):
    """Publishes and acknowledgements that happen together, or not at all. Made by :meth:`Channel.transaction`.

    It covers its own publishes and the acknowledgements on the channel during its block. Leaving the block commits; an
    error rolls back. The channel then stays transactional (AMQP has no way back), so acknowledge on it inside such
    blocks only. Confirms are as safe and much faster; a transaction is for a publish and an acknowledgement that belong
    together, on one queue.

    A transaction lives on one link: after a loss everything in it raises :class:`ConnectionLost`, and the broker has
    rolled it back, unless the loss caught the commit itself. Entering it raises :class:`InvalidUse` while another one
    of the channel has not ended.

    Args:
        shell: the owner of the channel.
    """

    _kind = "a transaction"
    _block = "async with channel.transaction() as transaction"

    _link_channel: LinkChannel
    """Where the transaction is open."""

    def __init__(self, shell: ChannelShell) -> None:
        self._shell = shell
        self._channel = shell.channel
        self._log = TransactionLog()

    @property
    def _is_new(self) -> bool:
        return self._log.state is TransactionState.NEW

    async def __aenter__(self) -> Self:
        self._check_new()
        last = self._shell.transaction
        if last is not None and last.is_under_way:
            raise InvalidUse("the channel's last transaction has not ended yet: AMQP has no nested transactions")
        self._shell.transaction = self._log
        self._log.fire(TransactionEvent.ENTERED)
        try:
            self._link_channel = await self._begin()
        except BaseException:
            self._log.fire(TransactionEvent.FAILED)
            raise
        self._log.fire(TransactionEvent.BEGUN)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        link_channel = self._require_open()
        self._log.fire(TransactionEvent.LEFT)
        if exc_type is None:
            await self._channel.request(build(methods.Tx.Commit), repeat=False, pinned=link_channel)
            if unroutable := self._log.unroutable:
                raise ExceptionGroup(f"{len(unroutable)} messages reached no queue", unroutable)
        elif not link_channel.is_stale:
            # Without a commit the broker rolls back in any case, so a missing answer changes nothing.
            await self._channel.last_request(build(methods.Tx.Rollback))

    @property
    def is_open(self) -> bool:
        """Whether it has begun and not ended."""
        return self._log.state is TransactionState.OPEN

    async def publish(
        self, message: Message, *surplus: Never, exchange: str = "", routing_key: str = "", mandatory: bool = True
    ) -> None:
        """Publish a message when the transaction is committed.

        Args:
            message: the message; without a ``message_id`` it gets a random one, by which an error names it.
            surplus: nothing; the other arguments are given by name.
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
        check_message(message, self._shell.host.max_message_size)
        route = Route(exchange, routing_key, mandatory=mandatory)
        properties = encode_properties(identified(message).properties)
        await self._channel.wait_writable("basic.publish")
        if link_channel.is_stale:
            raise ConnectionLost("the transaction was lost with its link; the broker has rolled it back")
        self._channel.core.publish(route, properties, message.body)
        self._log.published += 1
        self._channel.core.flush()

    async def _begin(self) -> LinkChannel:
        """Make the channel transactional. Returns where it is."""
        if not self._shell.is_transactional:
            request = await self._channel.request(build(methods.Tx.Select))
            self._shell.is_transactional = True
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
