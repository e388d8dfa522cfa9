"""Bodies of a type that pydantic checks: ``pip install 'anyamqp[pydantic]'``."""

from __future__ import annotations

from typing import Generic, TypeVar

import pydantic

from anyamqp.codecs import Codec

T = TypeVar("T")


class PydanticCodec(Codec[T], Generic[T]):
    """JSON of a type, such as a :class:`pydantic.BaseModel`.

    Args:
        kind: the type of the values.
    """

    content_type = "application/json"

    def __init__(self, kind: type[T]) -> None:
        self._adapter: pydantic.TypeAdapter[T] = pydantic.TypeAdapter(kind)

    def encode(self, value: T) -> bytes:
        return self._adapter.dump_json(value)

    def decode(self, body: bytes) -> T:
        return self._adapter.validate_json(body)
