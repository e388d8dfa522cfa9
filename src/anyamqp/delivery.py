"""Messages that the broker delivers, and their acknowledgement."""

from __future__ import annotations

from datetime import datetime
from threading import get_ident
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

from anyamqp.checks import check_seconds
from anyamqp.errors import InvalidUse, UndecodableBody
from anyamqp.message import FieldTable, Message

_Raised: TypeAlias = type[BaseException] | None


class Settler(Protocol):
    """The channel of a delivery, on the link that it came on."""

    @property
    def is_stale(self) -> bool:
        """Whether that link is gone, so that the broker has requeued the delivery."""
        ...

    @property
    def thread(self) -> int:
        """The only thread that may call the methods below."""
        ...

    @property
    def settled_up_to(self) -> int:
        """The highest tag that was settled together with all tags before it."""
        ...

    def ack(self, delivery_tag: int, *, multiple: bool) -> None:
        """Send basic.ack."""
        ...

    def nack(self, delivery_tag: int, *, multiple: bool, requeue: bool) -> None:
        """Send basic.nack."""
        ...

    def reject(self, delivery_tag: int, *, requeue: bool) -> None:
        """Send basic.reject."""
        ...

    def requeue(self, delivery_tag: int, *, failed: bool, after: float) -> None:
        """Send basic.reject or basic.nack with requeue after a pause of ``after`` seconds."""
        ...

    async def block_failed(self, delivery: Delivery, raised: BaseException) -> None:
        """Settle a delivery whose ``async with`` block raised."""
        ...


class Delivery:
    """A message that the broker delivered.

    As a context manager it settles itself: ``async with delivery:`` acknowledges when the block ends. When the block
    raises, the consumer's ``on_error`` decides about the message, and the error leaves the block as itself; a
    cancellation requeues the message without counting as a failure. Settling appends to the outgoing buffer and never
    waits. A delivery is settled once; a second time raises :class:`InvalidUse`. A delivery from an earlier link is
    stale: the broker has already requeued it, and settling it sends nothing.

    Attributes:
        message: body and properties.
        exchange: the exchange that it was published to.
        routing_key: its routing key.
        delivery_tag: the broker's number for it, unique on its channel and link.
        redelivered: whether the broker may have delivered it before.
        consumer_tag: the consumer it came to; None for one that was fetched with ``get``.
        message_count: messages left in the queue, for one that was fetched with ``get``; None otherwise.
    """

    __slots__ = (
        "_settled",
        "_settler",
        "consumer_tag",
        "delivery_tag",
        "exchange",
        "message",
        "message_count",
        "redelivered",
        "routing_key",
    )

    def __init__(
        self,
        message: Message,
        *,
        exchange: str,
        routing_key: str,
        delivery_tag: int,
        redelivered: bool,
        consumer_tag: str | None = None,
        message_count: int | None = None,
        settler: Settler | None,
    ) -> None:
        self.message: Message = message
        self.exchange: str = exchange
        self.routing_key: str = routing_key
        self.delivery_tag: int = delivery_tag
        self.redelivered: bool = redelivered
        self.consumer_tag: str | None = consumer_tag
        self.message_count: int | None = message_count
        self._settler = settler
        self._settled = False

    def __repr__(self) -> str:
        return (
            f"<Delivery {self.delivery_tag} message_id={self.message.message_id!r} "
            f"routing_key={self.routing_key!r} {len(self.message.body)} bytes>"
        )

    @property
    def body(self) -> bytes:
        """The message's body."""
        return self.message.body

    @property
    def headers(self) -> FieldTable:
        """The message's headers; empty if it has none."""
        return self.message.headers or {}

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            UndecodableBody: it is no JSON in UTF-8. In ``async with delivery`` or a handler, the delivery has failed.
        """
        from json import loads  # here, because few programs that import anyamqp need it

        try:
            return loads(self.body)
        except (ValueError, RecursionError) as error:
            raise UndecodableBody(f"{self!r}: no JSON: {error}") from error

    @property
    def content_type(self) -> str | None:
        """MIME type of the body."""
        return self.message.content_type

    @property
    def content_encoding(self) -> str | None:
        """MIME encoding of the body."""
        return self.message.content_encoding

    @property
    def persistent(self) -> bool | None:
        """Whether a durable queue keeps the message over a broker restart."""
        return self.message.persistent

    @property
    def priority(self) -> int | None:
        """0 to 255, used by priority queues."""
        return self.message.priority

    @property
    def expiration(self) -> float | None:
        """Seconds after which a queue drops the message."""
        return self.message.expiration

    @property
    def timestamp(self) -> datetime | None:
        """When the message was made."""
        return self.message.timestamp

    @property
    def type(self) -> str | None:
        """The application's name for the kind of message."""
        return self.message.type

    @property
    def user_id(self) -> str | None:
        """The user who published it, verified by the broker."""
        return self.message.user_id

    @property
    def app_id(self) -> str | None:
        """The name of the application that made the message."""
        return self.message.app_id

    @property
    def message_id(self) -> str | None:
        """The message's id; it stays the same when its publisher sends the message again."""
        return self.message.message_id

    @property
    def reply_to(self) -> str | None:
        """The queue that an answer should go to."""
        return self.message.reply_to

    @property
    def correlation_id(self) -> str | None:
        """The id that links an answer to its request: an answer has that of its request."""
        return self.message.correlation_id

    @property
    def stream_offset(self) -> int | None:
        """The message's offset in its stream; None if it does not come from one (RabbitMQ, "Streams")."""
        offset = self.headers.get("x-stream-offset")
        return offset if isinstance(offset, int) else None

    @property
    def delivery_count(self) -> int | None:
        """How often it failed before, as counted by a quorum queue (RabbitMQ, "Quorum Queues").

        None if it never failed, or comes from another type of queue. Before RabbitMQ 4.3 every return of the message to
        the queue counts.
        """
        count = self.headers.get("x-delivery-count")
        return count if isinstance(count, int) else None

    @property
    def is_stale(self) -> bool:
        """Whether the link it came on is gone: the broker delivers the message again, and settling it has no effect."""
        return self._settler is not None and self._settler.is_stale

    @property
    def is_settled(self) -> bool:
        """Whether it needs no ack, nack or reject, or no longer needs one."""
        return self._settled or self._settler is None or self.delivery_tag <= self._settler.settled_up_to

    def ack(self, *, multiple: bool = False) -> None:
        """Acknowledge: the broker forgets the message.

        Args:
            multiple: also all earlier deliveries on the same channel.

        Raises:
            InvalidUse: already settled, or delivered with ``no_ack``.
        """
        self._take().ack(self.delivery_tag, multiple=multiple)

    def nack(self, *, requeue: bool = True, multiple: bool = False) -> None:
        """Return the message to the broker (basic.nack; RabbitMQ, "Negative Acknowledgements").

        Args:
            requeue: whether the broker requeues it; otherwise it is dropped or dead-lettered.
            multiple: also all earlier deliveries on the same channel.

        Raises:
            InvalidUse: already settled, or delivered with ``no_ack``.
        """
        self._take().nack(self.delivery_tag, multiple=multiple, requeue=requeue)

    def reject(self, *, requeue: bool = False) -> None:
        """Refuse the message (basic.reject).

        Args:
            requeue: whether the broker requeues it; otherwise it is dropped or dead-lettered.

        Raises:
            InvalidUse: already settled, or delivered with ``no_ack``.
        """
        self._take().reject(self.delivery_tag, requeue=requeue)

    def requeue(self, *, failed: bool = True, after: float = 0.0) -> None:
        """Return the message to its queue after a pause.

        Until then it takes up one place of the prefetch. The pause ends at once when the consumer stops or its block
        ends; after a loss the broker requeues the message itself.

        Args:
            failed: whether the handling failed. A failure counts towards the delivery limit of a quorum queue
                (basic.reject); the return of an unhandled message (basic.nack) does not, from RabbitMQ 4.3 on.
            after: the pause in seconds, shorter than the broker's ``consumer_timeout``.

        Raises:
            InvalidArgument: ``after`` is not a number of seconds from 0 up.
            InvalidUse: already settled, or delivered with ``no_ack``.
        """
        check_seconds("after", after, finite=True)
        self._take().requeue(self.delivery_tag, failed=failed, after=after)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, exc_type: _Raised, exc: BaseException | None, traceback: TracebackType | None) -> None:  # noqa: PYI036 - here "type" is the property
        if self._settler is None or self.is_settled:
            return
        if exc is None:
            self.ack()
        else:
            await self._settler.block_failed(self, exc)

    def _take(self) -> Settler:
        if self._settler is None:
            raise InvalidUse(f"{self!r} came with no_ack: the broker expects no acknowledgement")
        if self.is_settled:
            raise InvalidUse(f"{self!r} is already settled")
        if get_ident() != self._settler.thread:
            raise InvalidUse(
                f"{self!r} is settled in the thread of its event loop; in another one, with "
                "anyio.from_thread.run_sync(delivery.ack)"
            )
        self._settled = True
        return self._settler
