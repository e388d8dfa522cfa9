"""Messages: :class:`Message` to publish, :class:`Delivery` as received."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import FrozenInstanceError, dataclass, fields, replace
from datetime import datetime
from decimal import Decimal
from threading import get_ident
from types import TracebackType
from typing import Final, NoReturn, Protocol, Self, TypeAlias, TypedDict, Unpack

from anyamqp.checks import check_seconds
from anyamqp.errors import InvalidArgument, InvalidUse
from anyamqp.misuse import unknown_error

FieldValue: TypeAlias = (
    "bool | int | float | Decimal | str | bytes | bytearray | datetime | Sequence[FieldValue] | FieldTable | None"
)
"""A value that an AMQP field table can carry (RabbitMQ, "AMQP 0-9-1 Errata", section 3); times have a time zone."""

FieldTable: TypeAlias = "Mapping[str, FieldValue]"
"""An AMQP field table: message headers, arguments of queues, exchanges, bindings and consumers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Properties:
    """The properties of a message: AMQP 0-9-1, class ``basic``, and RabbitMQ's reading of them.

    Attributes:
        content_type: MIME type of the body.
        content_encoding: MIME encoding of the body.
        headers: application headers.
        persistent: whether a durable queue keeps the message over a broker restart (delivery mode 2). None in a message
            to publish stands for its publisher's default, which is True unless it was set.
        priority: 0 to 255, used by priority queues.
        correlation_id: which request this message answers.
        reply_to: the queue that answers should go to.
        expiration: seconds after which a queue drops the message, with the precision of a millisecond.
        message_id: the application's id of the message; a publisher fills it in when it is absent.
        timestamp: when the message was made, with a time zone and the precision of a second.
        type: the application's name of the kind of message.
        user_id: RabbitMQ refuses the message unless this is the user of the connection.
        app_id: the name of the application that made the message.
    """

    content_type: str | None = None
    content_encoding: str | None = None
    headers: FieldTable | None = None
    persistent: bool | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: float | None = None
    message_id: str | None = None
    timestamp: datetime | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None


class PropertyValues(TypedDict, total=False):
    """The fields of :class:`Properties`, as keyword arguments."""

    content_type: str | None
    content_encoding: str | None
    headers: FieldTable | None
    persistent: bool | None
    priority: int | None
    correlation_id: str | None
    reply_to: str | None
    expiration: float | None
    message_id: str | None
    timestamp: datetime | None
    type: str | None
    user_id: str | None
    app_id: str | None


NO_PROPERTIES: Final = Properties()
"""The properties of a message that was made without any."""


class Message:
    """A message: a body and its properties. Persistent unless it or its publisher's defaults say otherwise.

    Immutable. The properties are attributes as well: ``message.headers`` is ``message.properties.headers``.

    Args:
        body: the body, any bytes.
        properties: any of :class:`Properties`, by name.

    Raises:
        InvalidArgument: the body is not bytes.
        InvalidUse: there is no such property.
    """

    __slots__ = ("_properties", "body")

    body: bytes
    _properties: Properties | None

    def __init__(self, body: bytes, **properties: Unpack[PropertyValues]) -> None:
        if type(body) is not bytes:
            raise InvalidArgument(f"body: {type(body).__name__} instead of bytes; encode it first")
        _set(self, "body", body)
        try:
            _set(self, "_properties", Properties(**properties) if properties else NO_PROPERTIES)
        except TypeError:
            _refuse_unknown("Message", properties)
            raise

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise FrozenInstanceError(f"cannot assign to {name!r}: make another message, with replace()")

    def __delattr__(self, name: str) -> NoReturn:
        raise FrozenInstanceError(f"cannot delete {name!r}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return self.body == other.body and self.properties == other.properties

    def __hash__(self) -> int:
        return hash((self.body, self.properties))

    def __repr__(self) -> str:
        named = ((one.name, getattr(self, one.name)) for one in fields(Properties))
        given = "".join(f", {name}={value!r}" for name, value in named if value is not None)
        return f"Message({self.body!r}{given})"

    def __reduce__(self) -> tuple[object, ...]:
        return _remade, (self.body, self.properties)

    def replace(self, **changes: Unpack[PropertyValues]) -> Message:
        """The same body with other properties: those named are changed."""
        _refuse_unknown("Message.replace", changes)
        return _remade(self.body, replace(self.properties, **changes))

    @property
    def properties(self) -> Properties:
        """All of the properties."""
        return self._properties or NO_PROPERTIES

    @property
    def content_type(self) -> str | None:
        """MIME type of the body."""
        return self.properties.content_type

    @property
    def content_encoding(self) -> str | None:
        """MIME encoding of the body."""
        return self.properties.content_encoding

    @property
    def headers(self) -> FieldTable | None:
        """Application headers."""
        return self.properties.headers

    @property
    def persistent(self) -> bool | None:
        """Whether a durable queue keeps the message over a broker restart."""
        return self.properties.persistent

    @property
    def priority(self) -> int | None:
        """0 to 255, used by priority queues."""
        return self.properties.priority

    @property
    def correlation_id(self) -> str | None:
        """Which request this message answers."""
        return self.properties.correlation_id

    @property
    def reply_to(self) -> str | None:
        """The queue that answers should go to."""
        return self.properties.reply_to

    @property
    def expiration(self) -> float | None:
        """Seconds after which a queue drops the message."""
        return self.properties.expiration

    @property
    def message_id(self) -> str | None:
        """The application's id of the message."""
        return self.properties.message_id

    @property
    def timestamp(self) -> datetime | None:
        """When the message was made."""
        return self.properties.timestamp

    @property
    def type(self) -> str | None:
        """The application's name of the kind of message."""
        return self.properties.type

    @property
    def user_id(self) -> str | None:
        """The user who published it, verified by the broker."""
        return self.properties.user_id

    @property
    def app_id(self) -> str | None:
        """The name of the application that made the message."""
        return self.properties.app_id


_set: Final = object.__setattr__


_NAMES: Final = tuple(one.name for one in fields(Properties))


def _refuse_unknown(call: str, properties: Mapping[str, object]) -> None:
    for name in properties:
        if name not in _NAMES:
            raise unknown_error(call, name, _NAMES) from None


def _remade(body: bytes, properties: Properties) -> Message:
    message = Message(body)
    _set(message, "_properties", properties)
    return message


def random_id() -> str:
    """A unique id, as random as a UUID, without the imports of the uuid module."""
    return os.urandom(16).hex()


def identified(message: Message) -> Message:
    """The message with an id, a random one if it has none. It marks resends and names the message in errors."""
    return message if message.message_id is not None else message.replace(message_id=random_id())


def check_message(message: object, limit: int) -> None:
    """Refuse anything but a message of at most ``max_message_size`` bytes.

    Raises:
        InvalidArgument: it is something else, or larger.
    """
    if not isinstance(message, Message):
        raise InvalidArgument(f"message: {type(message).__name__} instead of Message; make one: Message(b'...')")
    if len(message.body) > limit:
        raise InvalidArgument(f"a body of {len(message.body)} bytes, but max_message_size is {limit}")


class Settler(Protocol):
    """The channel that a delivery came on, on that link."""

    @property
    def is_stale(self) -> bool:
        """Whether that link is gone, so that the broker has taken the delivery back."""
        ...

    @property
    def thread(self) -> int:
        """The only thread that may call the methods below."""
        ...

    @property
    def settled_up_to(self) -> int:
        """The highest tag that was settled together with everything before it."""
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
        """Send basic.reject or basic.nack with requeue after so many seconds."""
        ...

    async def block_failed(self, delivery: Delivery, raised: BaseException) -> None:
        """Settle a delivery whose ``async with`` block raised."""
        ...


class Delivery:
    """A message that the broker delivered.

    As a context manager it settles itself: ``async with delivery:`` acknowledges when the block ends. When the block
    raises, ``on_error`` of its consumer decides about the message, and the error leaves the block as itself; a
    cancellation gives the message back without counting as a failure. Settling appends to the outgoing buffer and
    never waits. It is done once; a second time raises :class:`InvalidUse`. A delivery from an earlier link is stale:
    the broker has already put it back, settling it sends nothing.

    Attributes:
        message: body and properties.
        exchange: where it was published.
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

    @property
    def message_id(self) -> str | None:
        """The message's id: the same for a message that its publisher had to send again."""
        return self.message.message_id

    @property
    def reply_to(self) -> str | None:
        """The queue that an answer should go to."""
        return self.message.reply_to

    @property
    def correlation_id(self) -> str | None:
        """The mark that an answer must carry, or the request that this answers."""
        return self.message.correlation_id

    @property
    def stream_offset(self) -> int | None:
        """The message's offset in its stream; None if it does not come from one (RabbitMQ, "Streams")."""
        offset = self.headers.get("x-stream-offset")
        return offset if isinstance(offset, int) else None

    @property
    def delivery_count(self) -> int | None:
        """How often a quorum queue saw it fail before (RabbitMQ, "Quorum Queues"); None for never, or another queue.

        Before RabbitMQ 4.3 it counts every return of the message to the queue.
        """
        count = self.headers.get("x-delivery-count")
        return count if isinstance(count, int) else None

    @property
    def is_stale(self) -> bool:
        """Whether the link it came on is gone: the broker delivers the message again, settling it does nothing."""
        return self._settler is not None and self._settler.is_stale

    @property
    def is_settled(self) -> bool:
        """Whether it needs no ack, nack or reject (any more)."""
        return self._settled or self._settler is None or self.delivery_tag <= self._settler.settled_up_to

    def ack(self, *, multiple: bool = False) -> None:
        """Acknowledge: the broker forgets the message.

        Args:
            multiple: also everything delivered earlier on the same channel.

        Raises:
            InvalidUse: already settled, or delivered with ``no_ack``.
        """
        self._take().ack(self.delivery_tag, multiple=multiple)

    def nack(self, *, requeue: bool = True, multiple: bool = False) -> None:
        """Give the message back (RabbitMQ, "Negative Acknowledgements").

        Args:
            requeue: back to the queue; otherwise it is dropped or dead-lettered.
            multiple: also everything delivered earlier on the same channel.

        Raises:
            InvalidUse: already settled, or delivered with ``no_ack``.
        """
        self._take().nack(self.delivery_tag, multiple=multiple, requeue=requeue)

    def reject(self, *, requeue: bool = False) -> None:
        """Refuse the message.

        Args:
            requeue: back to the queue; otherwise it is dropped or dead-lettered.

        Raises:
            InvalidUse: already settled, or delivered with ``no_ack``.
        """
        self._take().reject(self.delivery_tag, requeue=requeue)

    def requeue(self, *, failed: bool = True, after: float = 0.0) -> None:
        """Give the message back to the queue after a pause.

        Until then it takes up one place of the prefetch. The pause ends at once when the consumer stops or its block
        ends; with a loss the broker takes the message back by itself.

        Args:
            failed: whether the message could not be handled. That counts towards the delivery limit of a quorum queue
                (basic.reject); giving it back unhandled (basic.nack) does not, from RabbitMQ 4.3 on.
            after: the pause in seconds, shorter than the broker's ``consumer_timeout``.

        Raises:
            InvalidArgument: ``after`` is not a number of seconds from 0 up.
            InvalidUse: already settled, or delivered with ``no_ack``.
        """
        check_seconds("after", after, finite=True)
        self._take().requeue(self.delivery_tag, failed=failed, after=after)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
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
