"""The transactions of a channel (AMQP 0-9-1, class tx; RabbitMQ, "Semantics of tx").

Their blocks do not overlap. A block may begin before the commit of the last one is answered, because the broker
executes the methods of a channel in order. It routes when it commits, so a message that it returns before commit-ok
belongs to the oldest unanswered commit.

A channel is transactional once the broker has answered tx.select, also if the caller was cancelled meanwhile: AMQP has
no way back. Until then it does not count as transactional. Another transaction sends tx.select again, which changes
nothing at the broker, and a link that replaces a lost one begins with a plain channel.
"""

from __future__ import annotations

from anyamqp.errors import AnyamqpError, InvalidUse, Unroutable, copy_of
from anyamqp.message import Message
from anyamqp.protocol.contents import unroutable_of
from anyamqp.protocol.lifecycle.transaction import TRANSACTION, TransactionEffect, TransactionEvent, TransactionState
from anyamqp.wire import methods
from anyamqp.wire.methods import Method


class TransactionLog:
    """One transaction: its state, and the messages in it that no queue took.

    Attributes:
        commit: its tx.commit.
        published: how many messages were published in it.
        unroutable: an error for each message that no queue took.
    """

    def __init__(self) -> None:
        self.commit: Method = methods.Tx.Commit()
        self.published: int = 0
        self.unroutable: list[Unroutable] = []
        self._lifecycle = TRANSACTION.begin()
        self._loss: AnyamqpError | None = None

    @property
    def state(self) -> TransactionState:
        """Its state."""
        return self._lifecycle.state

    def fire(self, event: TransactionEvent) -> tuple[TransactionEffect, ...]:
        """Take an event. Returns the effects."""
        return self._lifecycle.fire(event).effects

    def lost(self, error: AnyamqpError) -> None:
        """The link or the channel has ended, with an error for the calls of a block that still runs."""
        if TransactionEffect.REFUSE_PUBLISHES in self.fire(TransactionEvent.LOST):
            self._loss = error

    def check_loss(self) -> None:
        """Refuse to publish or to commit after a loss.

        Raises:
            AnyamqpError: the error of the loss.
        """
        if self._loss is not None:
            raise copy_of(self._loss)

    def returned(self, method: methods.Basic.Return, message: Message) -> None:
        """The broker returned a mandatory message."""
        if len(self.unroutable) < self.published:  # or a broken broker could fill the memory
            self.unroutable.append(unroutable_of(method, message.message_id))


class Transactions:
    """The transactions of one channel.

    Attributes:
        is_selected: whether the channel is transactional, which AMQP cannot undo.
    """

    def __init__(self) -> None:
        self.is_selected: bool = False
        self._current: TransactionLog | None = None
        """The transaction whose block runs."""
        self._committing: list[TransactionLog] = []
        """The transactions whose commit is not answered yet, oldest first."""

    # --- blocks -----------------------------------------------------------------------------------------------------

    def enter(self, log: TransactionLog) -> None:
        """A block begins.

        Raises:
            InvalidUse: the block of another transaction has not ended.
        """
        if self._current is not None:
            raise InvalidUse("the channel's last transaction has not ended yet: AMQP has no nested transactions")
        log.fire(TransactionEvent.ENTERED)
        self._current = log

    def failed(self, log: TransactionLog) -> None:
        """The transaction could not begin."""
        log.fire(TransactionEvent.FAILED)
        self._current = None

    def leave(self, log: TransactionLog, *, has_failed: bool) -> tuple[TransactionEffect, ...]:
        """The block ends, with an error if it ``has_failed``. Returns the effects for the caller."""
        effects = log.fire(TransactionEvent.LEFT_WITH_ERROR if has_failed else TransactionEvent.LEFT)
        self._current = None
        if TransactionEffect.COMMIT in effects:
            self._committing.append(log)
        return effects

    # --- events of the channel --------------------------------------------------------------------------------------

    def answered(self, request: Method, reply: Method) -> None:
        """The broker answered tx.select or tx.commit."""
        if isinstance(reply, methods.Tx.SelectOk):
            self.is_selected = True
        elif isinstance(reply, methods.Tx.CommitOk):
            committed = next(log for log in self._committing if log.commit is request)
            self._committing.remove(committed)
            committed.fire(TransactionEvent.COMMITTED)

    def returned(self, method: methods.Basic.Return, message: Message) -> None:
        """The broker returned a mandatory message."""
        log = self._committing[0] if self._committing else self._current
        if log is not None:
            log.returned(method, message)

    def lost(self, error: AnyamqpError) -> None:
        """The link or the channel has ended; ``error`` is for the transaction whose block runs."""
        committing, self._committing = self._committing, []
        for log in committing:
            log.lost(error)
        if self._current is not None:
            self._current.lost(error)
