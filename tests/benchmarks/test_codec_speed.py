"""How long the codec takes for the frames of one message."""

from __future__ import annotations

from anyamqp.message import Message, Properties
from anyamqp.wire import methods
from anyamqp.wire.basic import Received, Route, Template, content_parts, encode_ack, encode_properties
from anyamqp.wire.decoder import Decoder
from anyamqp.wire.frames import Frame, build, encode_method
from anyamqp.wire.receiving import Delivered
from support.amqp import FRAME_MAX, content
from support.benchmark import Benchmark

BODY = bytes(1024)
LARGE = bytes(1 << 20)
MESSAGES = 100
ROUTE = Route("", "features.live", mandatory=True)
DELIVER = build(methods.Basic.Deliver, "anyamqp-0", 1, exchange="", routing_key="features.live")


def decode(data: bytes) -> list[Frame]:
    decoder = Decoder(FRAME_MAX, joins_deliveries=True)
    decoder.feed(data)
    return list(decoder.frames())


def test_encode_a_publish(benchmark: Benchmark) -> None:
    template = Template(Properties(persistent=True))

    def encode() -> bytes:
        return b"".join(content_parts(ROUTE.frame(1), 1, template.with_id("0" * 34), BODY, FRAME_MAX))

    assert BODY in benchmark(encode)


def test_encode_a_publish_of_a_mebibyte(benchmark: Benchmark) -> None:
    parts = benchmark(content_parts, ROUTE.frame(1), 1, encode_properties(Properties()), LARGE, FRAME_MAX)
    assert sum(map(len, parts)) > len(LARGE)


def test_encode_all_properties(benchmark: Benchmark) -> None:
    message = Message(
        BODY,
        content_type="application/json",
        content_encoding="identity",
        headers={"tenant": "north", "attempt": 3},
        priority=4,
        correlation_id="c" * 32,
        reply_to="replies",
        expiration=2.5,
        message_id="m" * 32,
        type="feature.vector",
        app_id="feature_service",
    )
    assert b"feature.vector" in benchmark(encode_properties, message.properties)


def test_encode_an_ack(benchmark: Benchmark) -> None:
    frame = benchmark(encode_ack, 1, 7, multiple=False)
    assert frame == encode_method(1, build(methods.Basic.Ack, 7))


def test_decode_a_hundred_deliveries(benchmark: Benchmark) -> None:
    frames = benchmark(decode, content(1, DELIVER, BODY, message_id="0" * 32) * MESSAGES)
    assert len(frames) == MESSAGES
    assert all(isinstance(frame.payload, Delivered) for frame in frames)


def test_decode_the_properties_of_a_delivery(benchmark: Benchmark) -> None:
    encoded = encode_properties(Properties(message_id="0" * 32, headers={"tenant": "north"}))

    def decode_one() -> str | None:
        return Received(BODY, encoded).message_id

    assert benchmark(decode_one) == "0" * 32


def test_decode_a_hundred_confirms(benchmark: Benchmark) -> None:
    frames = benchmark(decode, encode_ack(1, 1, multiple=False) * MESSAGES)
    assert len(frames) == MESSAGES


def test_decode_a_delivery_of_a_mebibyte(benchmark: Benchmark) -> None:
    frames = benchmark(decode, content(1, DELIVER, LARGE))
    assert sum(len(frame.payload) for frame in frames if isinstance(frame.payload, bytes | memoryview)) == len(LARGE)
