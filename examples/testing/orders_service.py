"""A web service that takes orders over HTTP and publishes them: an ASGI application, as FastAPI and Starlette run them.

``POST /orders`` answers 202 once the broker has confirmed the order, and 503 while the broker accepts none.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import anyamqp
from anyamqp import Connection, ConnectionBlocked, Message, Publisher, PublishTimeout

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class OrdersService:
    """The application.

    Args:
        publisher: publishes the orders.
    """

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (scope["method"], scope["path"]) != ("POST", "/orders"):
            await _answer(send, 404)
            return
        order = Message(await _body(receive), content_type="application/json")
        try:
            await self._publisher.publish(order, exchange="orders", routing_key="order.new", timeout=5)
        except (ConnectionBlocked, PublishTimeout):
            await _answer(send, 503)
        else:
            await _answer(send, 202)


@asynccontextmanager
async def orders_service(connection: Connection) -> AsyncGenerator[OrdersService, None]:
    """The application on a connection; in FastAPI, the part of a lifespan that needs the connection."""
    async with connection.channel() as channel:
        await channel.declare_exchange("orders", "topic")
        await channel.declare_queue("billing")
        await channel.bind_queue("billing", exchange="orders", routing_key="order.*")
    async with connection.publisher(blocked_timeout=0.5) as publisher:
        yield OrdersService(publisher)


@asynccontextmanager
async def lifespan(url: str) -> AsyncGenerator[OrdersService, None]:
    """The application in production."""
    async with anyamqp.connect(url, name="orders service") as connection, orders_service(connection) as service:
        yield service


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        event = await receive()
        parts.append(event.get("body", b""))
        if not event.get("more_body"):
            return b"".join(parts)


async def _answer(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})
