"""Codecs: the bodies of messages as values of a type.

:class:`JsonCodec` needs nothing; :mod:`anyamqp.extras.msgspec` and :mod:`anyamqp.extras.pydantic` check types. A codec
of your own is a subclass of :class:`Codec`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar, Unpack

from anyamqp.delivery import Delivery
from anyamqp.errors import InvalidArgument, UndecodableBody
from anyamqp.message import Message, PropertyValues

T = TypeVar("T")


class Codec(ABC, Generic[T]):
    """Turns values into bodies, and bodies into values.

    Attributes:
        content_type: the MIME type of the bodies.
    """

    content_type: str

    @abstractmethod
    def encode(self, value: T) -> bytes:
        """The body of a value. Whatever is raised becomes :class:`InvalidArgument`."""

    @abstractmethod
    def decode(self, body: bytes) -> T:
        """The value of a body. Whatever is raised becomes :class:`UndecodableBody`."""

    def message(self, value: T, **properties: Unpack[PropertyValues]) -> Message:
        """A message with a value.

        Args:
            value: the value.
            properties: any of :class:`Properties`, by name.

        Raises:
            InvalidArgument: the codec cannot encode the value.
        """
        try:
            body = self.encode(value)
        except Exception as error:
            raise InvalidArgument(f"value: {type(self).__name__} cannot encode it: {error}") from error
        properties.setdefault("content_type", self.content_type)
        return Message(body, **properties)

    def value(self, delivery: Delivery) -> T:
        """The value of a delivery's body.

        Raises:
            UndecodableBody: the codec cannot decode the body, or it has another content type.
        """
        content_type = delivery.content_type
        if content_type is not None and content_type.partition(";")[0].strip().lower() != self.content_type:
            raise UndecodableBody(f"{delivery!r}: content type {content_type!r} instead of {self.content_type!r}")
        try:
            return self.decode(delivery.body)
        except Exception as error:
            raise UndecodableBody(f"{delivery!r}: {type(self).__name__} cannot decode it: {error}") from error


class JsonCodec(Codec[Any]):
    """JSON in UTF-8, without a check of types."""

    content_type = "application/json"

    def encode(self, value: Any) -> bytes:
        return Message.json(value).body

    def decode(self, body: bytes) -> Any:
        from json import loads  # here, because few programs that import anyamqp need it

        return loads(body)
