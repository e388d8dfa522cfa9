"""Transactions on a channel: AMQP 0-9-1, class tx; RabbitMQ, "Semantics of tx"."""

from __future__ import annotations

from types import TracebackType
from typing import Never, Self

from anyamqp.channel_shell import ChannelShell
from anyamqp.core.waiting import answered_within
from anyamqp.message import Message, check_message, identified
from anyamqp.misuse import Entered, surplus_error
from anyamqp.protocol.lifecycle.transaction import RUNNING, TransactionEffect, TransactionEvent, TransactionState
from anyamqp.protocol.requests import Purpose
from anyamqp.protocol.transactions import TransactionLog
from anyamqp.wire import methods
from anyamqp.wire.basic import Route, encode_properties
from anyamqp.wire.frames import build


class Transaction(Entered):
    """Publishes and acknowledgements that happen together, or not at all. Made by :meth:`Channel.transaction`.

    It covers its own publishes and the acknowledgements on the channel during its block. Leaving the block commits; an
    error rolls back. The channel then stays transactional (AMQP has no way back), even if entering was cancelled, so
    acknowledge on it inside such blocks only. Confirms are as safe and much faster; a transaction is for a publish and
    an acknowledgement that belong together, on one queue.

    A transaction lives on one link: after a loss everything in it raises :class:`ConnectionLost`, and the broker has
    rolled it back, unless the loss caught the commit itself. Entering it raises :class:`InvalidUse` inside the block
    of another one of the channel.

    Args:
        shell: the owner of the channel.
    """

    _kind = "a transaction"
    _block = "async with channel.transaction() as transaction"

    def __init__(self, shell: ChannelShell) -> None:
        self._shell = shell
        self._channel = shell.channel
        self._transactions = shell.transactions
        self._log = TransactionLog()

    @property
    def _is_new(self) -> bool:
        return self._log.state is TransactionState.NEW

    async def __aenter__(self) -> Self:
        self._check_new()
        self._transactions.enter(self._log)
        try:
            await self._begin()
        except BaseException:
            self._transactions.failed(self._log)
            raise
        self._log.fire(TransactionEvent.BEGUN)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for effect in self._transactions.leave(self._log, has_failed=exc_type is not None):
            match effect:
                case TransactionEffect.COMMIT:
                    await self._commit()
                case TransactionEffect.ROLL_BACK:
                    # Without a commit the broker rolls back in any case, so a missing answer changes nothing.
                    await self._channel.last_request(build(methods.Tx.Rollback))
                case TransactionEffect.RAISE_LOST:
                    self._log.check_loss()
                case TransactionEffect.REFUSE_PUBLISHES:
                    pass  # the log does it

    @property
    def is_open(self) -> bool:
        """Whether it has begun and not ended."""
        return self._log.state in RUNNING

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
        self._require_open()
        if surplus:
            raise surplus_error(Transaction.publish)
        self._channel.require_here()
        check_message(message, self._shell.host.max_message_size)
        if (hooks := self._shell.host.hooks) is None:
            await self._publish(message, exchange, routing_key, mandatory=mandatory)
        else:
            with hooks.publishing(message, exchange, routing_key, "publish in transaction") as message:
                await self._publish(message, exchange, routing_key, mandatory=mandatory)

    async def _publish(self, message: Message, exchange: str, routing_key: str, *, mandatory: bool) -> None:
        route = Route(exchange, routing_key, mandatory=mandatory)
        properties = encode_properties(identified(message).properties)
        self._log.check_loss()
        await self._channel.wait_writable("basic.publish")
        self._log.check_loss()
        self._channel.core.publish(route, properties, message.body)
        self._log.published += 1
        self._channel.core.flush()

    async def _begin(self) -> None:
        """Make the channel transactional, and wait until it is open: on a later link, its setup selects again."""
        if not self._transactions.is_selected:
            await self._channel.request(build(methods.Tx.Select), purpose=Purpose.OWNER)
        host = self._shell.host
        await answered_within(host.request_timeout, self._channel.wait_open(), "tx.select", lambda: host.progress)

    async def _commit(self) -> None:
        await self._channel.request(self._log.commit, purpose=Purpose.OWNER, repeat=False)
        if unroutable := self._log.unroutable:
            raise ExceptionGroup(f"{len(unroutable)} messages reached no queue", unroutable)

    def _require_open(self) -> None:
        if not self.is_open:
            raise self._outside_error()
