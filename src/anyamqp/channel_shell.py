"""The state that a user's channel keeps from link to link."""

from __future__ import annotations

from collections.abc import Sequence

from anyamqp.core.channel import LogicalChannel
from anyamqp.core.host import ChannelHost
from anyamqp.errors import AnyamqpError, ConnectionLost
from anyamqp.message import Message
from anyamqp.protocol.events import Content
from anyamqp.protocol.lifecycle import ChannelState
from anyamqp.protocol.ports import ChannelOwner
from anyamqp.protocol.transactions import Transactions
from anyamqp.queue import Queue, lasting_name
from anyamqp.wire import methods
from anyamqp.wire.basic import Routes, encode_properties
from anyamqp.wire.methods import Method


class ChannelShell(ChannelOwner):
    """Owns a user's channel.

    Args:
        host: the connection.

    Attributes:
        channel: the channel.
        prefetch: the limit of basic.qos; None if it was never set.
        transactions: the transactions on the channel.
    """

    def __init__(self, host: ChannelHost) -> None:
        self.host: ChannelHost = host
        self.channel: LogicalChannel = LogicalChannel(host, self)
        self.prefetch: int | None = None
        self.transactions: Transactions = Transactions()
        self._routes = Routes()

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

    async def publish(self, message: Message, exchange: str, routing_key: str) -> None:
        """Publish without a confirm.

        Raises:
            InvalidArgument: AMQP cannot carry the message.
            RequestTimeout: it could not be sent within ``request_timeout``.
        """
        route = self._routes.get(exchange, routing_key, mandatory=False)
        properties = encode_properties(message.properties)
        if not self.channel.is_writable:
            await self.channel.wait_writable("basic.publish")
        self.channel.core.publish(route, properties, message.body)
        self.channel.core.flush()

    # --- events of the channel --------------------------------------------------------------------------------------

    def setup(self) -> Sequence[Method]:
        requests: list[Method] = []
        if self.prefetch is not None:
            requests.append(methods.Basic.Qos(prefetch_count=self.prefetch))
        if self.transactions.is_selected:
            requests.append(methods.Tx.Select())
        return requests

    def on_contents(self, contents: Sequence[Content]) -> None:
        for method, message in contents:
            if isinstance(method, methods.Basic.Return):
                self.transactions.returned(method, message)

    def on_reply(self, request: Method, reply: Method) -> None:
        self.transactions.answered(request, reply)

    def on_lost(self, error: AnyamqpError | None) -> None:
        lost = ConnectionLost("the transaction was lost with its link before tx.commit; the broker has rolled it back")
        lost.__cause__ = error
        self.transactions.lost(lost)

    def on_failed(self, error: AnyamqpError) -> None:  # noqa: ARG002 - the channel knows it
        self.transactions.lost(self.channel.core.closed_error())
