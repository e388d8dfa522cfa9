"""Bodies of a type that msgspec checks: ``pip install 'anyamqp[msgspec]'``."""

from __future__ import annotations

from typing import Generic, Literal, TypeVar

import msgspec

from anyamqp.codecs import Codec

T = TypeVar("T")


class MsgspecCodec(Codec[T], Generic[T]):
    """JSON or MessagePack of a type, such as a :class:`msgspec.Struct`.

    Args:
        kind: the type of the values.
        format: ``json`` or ``msgpack``.
    """

    def __init__(self, kind: type[T], format: Literal["json", "msgpack"] = "json") -> None:  # noqa: A002 - its name
        is_json = format == "json"
        self.content_type: str = "application/json" if is_json else "application/msgpack"
        self._encoder = msgspec.json.Encoder() if is_json else msgspec.msgpack.Encoder()
        self._decoder = msgspec.json.Decoder(kind) if is_json else msgspec.msgpack.Decoder(kind)

    def encode(self, value: T) -> bytes:
        return self._encoder.encode(value)

    def decode(self, body: bytes) -> T:
        return self._decoder.decode(body)
