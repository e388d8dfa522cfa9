"""The hand-written codec of basic frames against pamqp, byte for byte, in both directions."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pamqp import body as pamqp_body
from pamqp import commands, frame, header

from anyamqp.message import Message, Properties
from anyamqp.wire import methods
from anyamqp.wire.basic import (
    Received,
    Route,
    Routes,
    Template,
    content_parts,
    decode_correlation_id,
    decode_properties,
    decode_reply_address,
    encode_ack,
    encode_properties,
)
from anyamqp.wire.receiving import decode_ack, decode_deliver, decode_header, decode_nack
from support.amqp import decode, ours_of

channels = st.integers(1, 65535)
tags = st.integers(0, 2**63 - 1)  # pamqp's tags are signed
names = st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=60)  # pamqp refuses what RabbitMQ takes
texts = st.text(max_size=40)
given_texts = st.text(min_size=1, max_size=40)  # pamqp drops empty ones
moments = st.datetimes(datetime(1970, 1, 2), datetime(2105, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - aware by timezones
# pamqp sorts keys, and writes small integers in fewer bytes than RabbitMQ's other clients do
headers = st.integers(2**16, 2**31 - 1) | given_texts | st.booleans()
values: dict[str, st.SearchStrategy[Any]] = {
    "content_type": given_texts,
    "content_encoding": given_texts,
    "headers": st.dictionaries(given_texts, headers, max_size=3).map(lambda table: dict(sorted(table.items()))),
    "persistent": st.booleans(),
    "priority": st.integers(0, 255),
    "correlation_id": given_texts,
    "reply_to": given_texts,
    "expiration": st.integers(0, 10**6),
    "message_id": given_texts,
    "timestamp": moments.map(lambda moment: moment.replace(microsecond=0)),
    "type": given_texts,
    "user_id": given_texts,
    "app_id": given_texts,
}
properties = st.fixed_dictionaries({}, optional=values).map(lambda given_: Properties(**given_))


def theirs(ours: Properties) -> commands.Basic.Properties:
    """The same properties, as pamqp has them."""
    expiration = None if ours.expiration is None else str(round(ours.expiration * 1000))
    headers: Any = ours.headers
    return commands.Basic.Properties(
        content_type=ours.content_type,
        content_encoding=ours.content_encoding,
        headers=headers,
        delivery_mode=1 if ours.persistent is False else 2,
        priority=ours.priority,
        correlation_id=ours.correlation_id,
        reply_to=ours.reply_to,
        expiration=expiration,
        message_id=ours.message_id,
        timestamp=ours.timestamp,
        message_type=ours.type,
        user_id=ours.user_id,
        app_id=ours.app_id,
    )


def payload(data: bytes) -> bytes:
    """What is in a frame."""
    return data[7:-1]


@given(channels, names, names, st.booleans())
def test_a_publish_is_what_pamqp_makes_of_it(channel: int, exchange: str, routing_key: str, mandatory: bool) -> None:
    route = Route(exchange, routing_key, mandatory=mandatory)
    method = commands.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=mandatory)
    assert route.frame(channel) == frame.marshal(method, channel)


@given(channels, properties, st.binary(max_size=3000), st.sampled_from([0, 4096, 1000]))
def test_a_content_is_what_pamqp_makes_of_it(channel: int, ours: Properties, body: bytes, frame_max: int) -> None:
    encoded = encode_properties(ours)
    if len(encoded) > 900:
        frame_max = 0
    room = frame_max - 8 if frame_max else len(body) or 1
    pieces = [body[start : start + room] for start in range(0, len(body), room)]
    expected = [frame.marshal(header.ContentHeader(0, len(body), theirs(ours)), channel)]
    expected += [frame.marshal(pamqp_body.ContentBody(piece), channel) for piece in pieces]
    assert b"".join(content_parts(b"", channel, encoded, body, frame_max)) == b"".join(expected)


@given(properties)
def test_properties_come_back_from_pamqps_bytes(ours: Properties) -> None:
    data = frame.marshal(header.ContentHeader(0, 5, theirs(ours)), 1)
    read = decode_header(payload(data))
    assert read.body_size == 5
    assert read.properties == replace(ours, persistent=ours.persistent is not False)


@given(properties)
def test_a_correlation_id_is_found_among_the_other_properties(ours: Properties) -> None:
    assert decode_correlation_id(encode_properties(ours)) == ours.correlation_id
    assert decode_reply_address(encode_properties(ours)) == (ours.correlation_id, ours.reply_to)


@given(properties, st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=255))
def test_a_template_is_what_it_stands_for(ours: Properties, message_id: str) -> None:
    assert Template(ours).with_id(message_id) == encode_properties(replace(ours, message_id=message_id))


@given(properties, st.binary(max_size=100))
def test_a_received_message_equals_the_one_that_was_sent(ours: Properties, body: bytes) -> None:
    sent = Message(body).replace(**asdict(replace(ours, persistent=ours.persistent is not False)))
    assert Received(body, encode_properties(ours)) == sent


@given(channels, names, tags, st.booleans(), names, names)
def test_a_deliver_is_read_as_pamqp_wrote_it(
    channel: int,
    consumer_tag: str,
    tag: int,
    redelivered: bool,
    exchange: str,
    routing_key: str,
) -> None:
    method = commands.Basic.Deliver(consumer_tag, tag, redelivered, exchange, routing_key)
    assert decode_deliver(payload(frame.marshal(method, channel))) == ours_of(method)


@given(channels, tags, st.booleans())
def test_an_ack_is_what_pamqp_makes_of_it_and_reads_from_it(channel: int, tag: int, multiple: bool) -> None:
    written = encode_ack(channel, tag, multiple=multiple)
    method = commands.Basic.Ack(tag, multiple)
    assert written == frame.marshal(method, channel)
    assert decode_ack(payload(written)) == ours_of(method)


@given(channels, tags, st.booleans(), st.booleans())
def test_a_nack_is_read_as_pamqp_wrote_it(channel: int, tag: int, multiple: bool, requeue: bool) -> None:
    method = commands.Basic.Nack(tag, multiple, requeue)
    assert decode_nack(payload(frame.marshal(method, channel))) == ours_of(method)


@given(st.integers(2**63, 2**64 - 1), st.booleans())
def test_tags_of_64_bits_come_back(tag: int, multiple: bool) -> None:
    ((_, read),) = decode(encode_ack(1, tag, multiple=multiple))
    assert read == methods.Basic.Ack(tag, multiple)


@given(st.lists(st.tuples(texts, texts, st.booleans()), max_size=20))
def test_a_route_is_found_again(wanted: list[tuple[str, str, bool]]) -> None:
    routes = Routes()
    for exchange, routing_key, mandatory in wanted:
        route = routes.get(exchange, routing_key, mandatory=mandatory)
        assert (route.exchange, route.routing_key, route.mandatory) == (exchange, routing_key, mandatory)
        assert routes.get(exchange, routing_key, mandatory=mandatory) is route


@given(properties)
def test_encoded_properties_are_read_as_they_were_written(ours: Properties) -> None:
    assert encode_properties(decode_properties(encode_properties(ours))) == encode_properties(ours)
