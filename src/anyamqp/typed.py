"""Publishers, consumers and RPC with values of a type in place of bodies.

They stand in front of the objects that a connection makes::

    orders = TypedPublisher(publisher, MsgspecCodec(Order))
    await orders.publish(Order("tea", 2), routing_key="orders")

    async for item in TypedConsumer(consumer, MsgspecCodec(Order)):
        async with item:
            handle(item.value)

A delivery whose body cannot be decoded has failed: ``on_error`` of the consumer decides about it, and the iteration
goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Generic, Self, TypeVar, Unpack

from anyamqp.codecs import Codec
from anyamqp.consumer import Consumer
from anyamqp.delivery import Delivery
from anyamqp.errors import UndecodableBody
from anyamqp.message import Message, PropertyValues
from anyamqp.on_error import OnError
from anyamqp.publication import UNSET, Publication, Receipt, Unset
from anyamqp.publisher import Publisher
from anyamqp.rpc import RpcClient

T = TypeVar("T")
Q = TypeVar("Q")
R = TypeVar("R")


class TypedPublisher(Generic[T]):
    """Publishes values.

    Args:
        publisher: publishes the messages, inside its block.
        codec: encodes the values.
    """

    def __init__(self, publisher: Publisher, codec: Codec[T]) -> None:
        self._publisher = publisher
        self._codec = codec

    async def publish(
        self,
        value: T,
        *,
        exchange: str | None = None,
        routing_key: str = "",
        mandatory: bool | None = None,
        timeout: float | Unset | None = UNSET,
        **properties: Unpack[PropertyValues],
    ) -> Receipt:
        """Publish a value and wait for the broker's confirm, as :meth:`Publisher.publish` does.

        Args:
            value: the value.
            exchange: as for :meth:`Publisher.publish`, like the next three.
            routing_key: the routing key.
            mandatory: whether it is an error if no queue takes the message.
            timeout: seconds until :class:`PublishTimeout`.
            properties: properties of the message, by name.

        Raises:
            InvalidArgument: the codec cannot encode the value; nothing was sent.
            AnyamqpError: as :meth:`Publisher.publish` raises it.
        """
        message = self._codec.message(value, **properties)
        return await self._publisher.publish(
            message, exchange=exchange, routing_key=routing_key, mandatory=mandatory, timeout=timeout
        )

    async def submit(
        self,
        value: T,
        *,
        exchange: str | None = None,
        routing_key: str = "",
        mandatory: bool | None = None,
        timeout: float | Unset | None = UNSET,
        **properties: Unpack[PropertyValues],
    ) -> Publication:
        """Submit a value, waiting only for room in the window, as :meth:`Publisher.submit` does.

        Raises:
            InvalidArgument: the codec cannot encode the value; nothing was sent.
            AnyamqpError: as :meth:`Publisher.submit` raises it.
        """
        message = self._codec.message(value, **properties)
        return await self._publisher.submit(
            message, exchange=exchange, routing_key=routing_key, mandatory=mandatory, timeout=timeout
        )


class TypedDelivery(Generic[T]):
    """A delivery and its value. As a context manager it settles itself as the delivery does.

    Attributes:
        value: the value of the body.
        delivery: the delivery, with its properties, ``ack``, ``nack``, ``reject`` and ``requeue``.
    """

    __slots__ = ("delivery", "value")

    def __init__(self, value: T, delivery: Delivery) -> None:
        self.value: T = value
        self.delivery: Delivery = delivery

    def __repr__(self) -> str:
        return f"<TypedDelivery of {self.delivery!r}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.delivery.__aexit__(exc_type, exc, traceback)


class TypedConsumer(Generic[T]):
    """Deliveries with values: ``async for item in TypedConsumer(consumer, codec)``.

    Args:
        consumer: delivers the messages, inside its block.
        codec: decodes the bodies.
    """

    def __init__(self, consumer: Consumer, codec: Codec[T]) -> None:
        self._consumer = consumer
        self._codec = codec

    def __aiter__(self) -> Self:
        aiter(self._consumer)
        return self

    async def __anext__(self) -> TypedDelivery[T]:
        while True:
            delivery = await anext(self._consumer)
            try:
                return TypedDelivery(self._codec.value(delivery), delivery)
            except UndecodableBody as error:
                await self._consumer.fail(delivery, error)

    async def process(
        self,
        handler: Callable[[T, Delivery], Awaitable[object]],
        *,
        concurrency: int = 1,
        on_error: OnError | None = None,
    ) -> None:
        """Run ``handler`` with the value of every delivery and the delivery, as :meth:`Consumer.process` does.

        Args:
            handler: an async function of a value and its delivery.
            concurrency: how many handlers run at a time.
            on_error: the policy for failed deliveries, see :data:`OnError`.

        Raises:
            AnyamqpError: as :meth:`Consumer.process` raises it.
        """

        async def handle(delivery: Delivery) -> None:
            await handler(self._codec.value(delivery), delivery)

        await self._consumer.process(handle, concurrency=concurrency, on_error=on_error)


class TypedRpcClient(Generic[Q, R]):
    """Calls with values.

    Args:
        rpc: makes the calls, inside its block.
        request: encodes the requests.
        reply: decodes the replies.
    """

    def __init__(self, rpc: RpcClient, request: Codec[Q], reply: Codec[R]) -> None:
        self._rpc = rpc
        self._request = request
        self._reply = reply

    async def call(
        self,
        value: Q,
        *,
        exchange: str = "",
        routing_key: str = "",
        timeout: float | Unset | None = UNSET,
        **properties: Unpack[PropertyValues],
    ) -> R:
        """Send a request and wait for the value of its reply, as :meth:`RpcClient.call` does.

        Raises:
            InvalidArgument: the codec cannot encode the request; nothing was sent.
            UndecodableBody: the codec cannot decode the reply.
            AnyamqpError: as :meth:`RpcClient.call` raises it.
        """
        message = self._request.message(value, **properties)
        reply = await self._rpc.call(message, exchange=exchange, routing_key=routing_key, timeout=timeout)
        return self._reply.value(reply)


def typed_handler(
    handler: Callable[[Q], Awaitable[R]], request: Codec[Q], reply: Codec[R]
) -> Callable[[Delivery], Awaitable[Message]]:
    """A handler for :func:`serve_rpc` out of one that takes and returns values.

    A request that cannot be decoded is answered with an error, like any error of the handler.

    Args:
        handler: an async function of a request's value that returns the reply's.
        request: decodes the requests.
        reply: encodes the replies.
    """

    async def handle(delivery: Delivery) -> Message:
        return reply.message(await handler(request.value(delivery)))

    return handle
