"""The state that a user's channel keeps from link to link, and that of its transactions."""

from __future__ import annotations

from collections.abc import Sequence

from anyamqp.core.channel import LogicalChannel
from anyamqp.core.host import ChannelHost
from anyamqp.errors import Unroutable
from anyamqp.message import Message
from anyamqp.protocol.contents import unroutable_of
from anyamqp.protocol.events import Content
from anyamqp.protocol.lifecycle import ChannelState
from anyamqp.protocol.lifecycle.transaction import TRANSACTION, TransactionEvent, TransactionState
from anyamqp.protocol.ports import ChannelOwner
from anyamqp.queue import Queue, lasting_name
from anyamqp.wire import methods
from anyamqp.wire.methods import Method


class TransactionLog:
    """One transaction: its state, and the messages in it that no queue took.

    Attributes:
        published: how many messages were published in it.
        unroutable: an error for each message that no queue took.
    """

    def __init__(self) -> None:
        self._lifecycle = TRANSACTION.begin()
        self.published: int = 0
        self.unroutable: list[Unroutable] = []

    @property
    def state(self) -> TransactionState:
        """Its state."""
        return self._lifecycle.state

    @property
    def is_under_way(self) -> bool:
        """Whether it has begun and not ended."""
        return self.state in (TransactionState.BEGINNING, TransactionState.OPEN)

    def fire(self, event: TransactionEvent) -> None:
        """Take an event."""
        self._lifecycle.fire(event)

    def returned(self, method: methods.Basic.Return, message: Message) -> None:
        """The broker returned a mandatory message."""
        if len(self.unroutable) < self.published:  # or a broken broker could fill the memory
            self.unroutable.append(unroutable_of(method, message.message_id))


class ChannelShell(ChannelOwner):
    """Owns a user's channel.

    Args:
        host: the connection.

    Attributes:
        channel: the channel.
        prefetch: the limit of basic.qos; None if it was never set.
        is_transactional: whether tx.select succeeded, which AMQP cannot undo.
        transaction: the transaction that began last.
    """

    def __init__(self, host: ChannelHost) -> None:
        self.host: ChannelHost = host
        self.channel: LogicalChannel = LogicalChannel(host, self)
        self.prefetch: int | None = None
        self.is_transactional: bool = False
        self.transaction: TransactionLog | None = None

    @property
    def is_new(self) -> bool:
        """Whether it was never opened."""
        return self.channel.core.state is ChannelState.CONNECTING_NEW

    def name_of(self, queue: Queue | str) -> str:
        """The name under which requests keep a queue.

        Raises:
            InvalidArgument: ``queue`` is neither a queue nor text.
        """
        return lasting_name(queue, self.host.topology)

    async def open(self, wait: float = 0.0) -> None:
        """Open the channel.

        Args:
            wait: seconds to wait for a free channel number.

        Raises:
            ChannelLimitReached: ``channel_max`` channels are open, and none was closed in time.
            RequestTimeout: it took longer than ``request_timeout``.
            ConnectionClosed: the connection is closed.
        """
        await self.channel.open_within(wait)

    # --- events of the channel --------------------------------------------------------------------------------------

    def setup(self) -> Sequence[Method]:
        requests: list[Method] = []
        if self.prefetch is not None:
            requests.append(methods.Basic.Qos(prefetch_count=self.prefetch))
        if self.is_transactional:
            requests.append(methods.Tx.Select())
        return requests

    def on_contents(self, contents: Sequence[Content]) -> None:
        for method, message in contents:
            if isinstance(method, methods.Basic.Return) and self.transaction is not None:
                self.transaction.returned(method, message)
