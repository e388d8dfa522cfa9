"""Messages, their properties, and the values that headers can have."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import FrozenInstanceError, dataclass, fields, replace
from datetime import datetime
from decimal import Decimal
from typing import Final, NoReturn, TypeAlias, TypedDict, Unpack

from anyamqp.errors import InvalidArgument
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
        correlation_id: the id of the request that this message answers.
        reply_to: the queue that answers should go to.
        expiration: seconds after which a queue drops the message, with the precision of a millisecond.
        message_id: the application's id of the message; a publisher sets a random one if it is absent.
        timestamp: when the message was made, with a time zone and the precision of a second.
        type: the application's name for the kind of message.
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
"""The properties of a message without any."""


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

    @classmethod
    def json(cls, value: object, **properties: Unpack[PropertyValues]) -> Message:
        """A message with a value as JSON, in UTF-8, and the content type ``application/json``.

        Args:
            value: what :func:`json.dumps` takes; NaN and infinities are no JSON.
            properties: any of :class:`Properties`, by name.

        Raises:
            InvalidArgument: the value is no JSON.
        """
        from json import dumps  # here, because few programs that import anyamqp need it

        try:
            body = dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidArgument(f"value: no JSON: {error}") from error
        properties.setdefault("content_type", "application/json")
        return cls(body, **properties)

    def replace(self, **changes: Unpack[PropertyValues]) -> Message:
        """A message with the same body, and the same properties but for those given."""
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
        """The id of the request that this message answers."""
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
        """The application's name for the kind of message."""
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
    """The message with an id, by which errors name it; it gets a random one if it has none."""
    return message if message.message_id is not None else message.replace(message_id=random_id())


def check_message(message: object, limit: int) -> None:
    """Refuse anything but a message whose body has at most ``limit`` bytes, the ``max_message_size``.

    Raises:
        InvalidArgument: it is no message, or larger.
    """
    if not isinstance(message, Message):
        raise InvalidArgument(f"message: {type(message).__name__} instead of Message; make one: Message(b'...')")
    if len(message.body) > limit:
        raise InvalidArgument(f"a body of {len(message.body)} bytes, but max_message_size is {limit}")
