"""A service that answers questions for prices, and its client: remote calls over direct reply-to."""

from __future__ import annotations

import anyamqp
from anyamqp import Connection, Delivery, Message, RpcClient

QUEUE = "prices"


class PriceServer:
    """Answers with the price of an article in cents.

    Args:
        prices: the prices by article.
    """

    def __init__(self, prices: dict[str, int]) -> None:
        self._prices = prices

    async def serve(self, connection: Connection) -> None:
        """Answer until cancelled."""
        async with connection.channel() as channel:
            await channel.declare_queue(QUEUE)
        async with connection.consumer(QUEUE, prefetch=8) as consumer, connection.publisher() as publisher:
            await anyamqp.serve_rpc(consumer, publisher, self._answer, concurrency=8)

    async def _answer(self, request: Delivery) -> Message:
        article = request.body.decode()
        return Message(str(self._prices[article]).encode())


class PriceClient:
    """Asks for prices.

    Args:
        rpc: an RPC client of a connection.
    """

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc

    async def price(self, article: str) -> int:
        """The price of an article in cents.

        Raises:
            anyamqp.RemoteError: there is no such article.
            anyamqp.ReplyTimeout: no server answered in time.
        """
        reply = await self._rpc.call(Message(article.encode()), routing_key=QUEUE, timeout=2)
        return int(reply.body)
