"""The differences on purpose: where the embedded broker and RabbitMQ answer otherwise, with the answers of both."""

from __future__ import annotations

import struct
from decimal import Decimal

import anyio
import pytest

from anyamqp.message import FieldValue
from anyamqp.wire import methods
from anyamqp.wire.frames import build, encode_method
from support.amqp import header
from support.conformance import Refusal, Target
from support.consuming import consume, consuming
from support.queues import unique
from support.rawpeer import RawPeer
from support.routes import declare_exchange, routes

pytestmark = pytest.mark.anyio


async def test_a_modulus_hash_exchange_is_not_supported(target: Target) -> None:
    """It would have to hash routing keys as Erlang does, to send each message to the same queue as RabbitMQ."""
    if not target.rules.has_modulus_hash_exchange:
        pytest.skip("this version has no such exchange")
    if target.is_embedded:
        refusal = await target.refusal(declare_exchange(unique("x"), "x-modulus-hash"))
        assert refusal == Refusal("connection", 540, "NOT_IMPLEMENTED - exchange type 'x-modulus-hash'")
    else:
        async with routes(target) as route:
            assert await route.exists(await route.exchange("x-modulus-hash"))


async def test_a_type_that_is_an_atom_of_erlang_is_unknown(target: Target) -> None:
    """RabbitMQ tells unknown types that happen to be atoms from others, in the wording only."""
    refusal = await target.refusal(declare_exchange(unique("x"), "queue"))
    word = "unknown" if target.is_embedded else "invalid"
    assert refusal.text.partition(" - ")[2] == f"{word} exchange type 'queue'"


async def test_a_decimal_as_another_alternate_exchange_is_refused(target: Target) -> None:
    """RabbitMQ fails while it writes the error text, and closes the connection."""
    async with routes(target) as route:
        name = await route.exchange(alternate="first")
        refusal = await target.refusal(declare_exchange(name, arguments={"alternate-exchange": Decimal("1.5")}))
    if target.is_embedded:
        assert refusal.text.endswith("received '{1,15}' but current is 'first'")
    else:
        assert refusal == Refusal("connection", 541, "INTERNAL_ERROR")


# --- handshake --------------------------------------------------------------------------------------------------------

NOT_PLAIN = "SYNTAX_ERROR - the response of PLAIN is not NUL, user name, NUL, password"
FAULTY_LOGINS = {
    ("EXTERNAL", ""): (503, "COMMAND_INVALID - unknown authentication mechanism 'EXTERNAL'"),
    ("PLAIN", "guest"): (502, NOT_PLAIN),
    ("PLAIN", "guest\0guest\0guest"): (
        502,
        "SYNTAX_ERROR - the response of PLAIN is not NUL, user name, NUL, password",
    ),
    ("AMQPLAIN", "\xff"): (502, "SYNTAX_ERROR - the response of AMQPLAIN is not a table"),
    ("AMQPLAIN", ""): (502, "SYNTAX_ERROR - the response of AMQPLAIN is missing LOGIN or PASSWORD"),
}
NO_LIMITS: dict[str, int] = {}
FAULTY_LIMITS = {
    ("channel_max", 0): "channel_max = 0 (no limit) is higher than the maximum allowed value (2047)",
    ("channel_max", 2048): "channel_max = 2048 is higher than the maximum allowed value (2047)",
    ("frame_max", 0): "frame_max = 0 is higher than the maximum allowed value (131072)",
    ("frame_max", 131073): "frame_max = 131073 is higher than the maximum allowed value (131072)",
}


async def _shake_hands(
    target: Target, mechanism: str, response: str, limits: dict[str, int], code: int, text: str
) -> None:
    async with await target.dial(None) as stream:
        peer = RawPeer(stream)
        await peer.log_in(mechanism=mechanism, response=response)
        if limits:
            await peer.tune(**limits)
        if target.is_embedded:
            close = await peer.closed()
            assert (close.reply_code, close.reply_text) == (code, text)
        else:
            await peer.ended(within=10)


async def test_a_fault_in_the_handshake_is_told(target: Target) -> None:
    """RabbitMQ says nothing, and drops the transport after 3 s."""
    async with anyio.create_task_group() as tasks:
        for (mechanism, response), (code, text) in FAULTY_LOGINS.items():
            tasks.start_soon(_shake_hands, target, mechanism, response, NO_LIMITS, code, text)
        for (name, value), text in FAULTY_LIMITS.items():
            told = f"NOT_ALLOWED - negotiated {text}"
            tasks.start_soon(_shake_hands, target, "PLAIN", "\0guest\0guest", {name: value}, 530, told)
        least = target.rules.least_frame_max
        told = f"NOT_ALLOWED - negotiated frame_max = {least - 1} is lower than the minimum allowed value ({least})"
        tasks.start_soon(_shake_hands, target, "PLAIN", "\0guest\0guest", {"frame_max": least - 1}, 530, told)


# --- queues -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "value"), [("x-consumer-timeout", 60_000), ("x-delayed-retry-type", "all")])
async def test_an_argument_of_4_3_is_not_supported(target: Target, key: str, value: FieldValue) -> None:
    """They would change when messages come again, so they are refused rather than ignored."""
    if target.rules.version != "4.3":
        pytest.skip("this version ignores it")
    async with consuming(target) as client:
        if target.is_embedded:
            arguments: dict[str, FieldValue] = {"x-queue-type": "quorum", key: value}
            declare = build(methods.Queue.Declare, queue=unique("q"), durable=True, arguments=arguments)
            assert await target.refusal(declare) == Refusal("connection", 540, f"NOT_IMPLEMENTED - {key}")
        else:
            await client.declare(arguments={"x-queue-type": "quorum", key: value})


async def test_a_stream_has_no_filter(target: Target) -> None:
    """A filter would hold back messages, chunk by chunk."""
    if target.rules.version == "3.10":
        pytest.skip("this version ignores it")
    async with consuming(target) as client:
        stream = await client.declare(arguments={"x-queue-type": "stream"})
        arguments = {"x-stream-filter": "a"}
        if target.is_embedded:
            refusal = await target.refusal(
                build(methods.Basic.Qos, prefetch_count=1), consume(stream, arguments=arguments)
            )
            assert refusal == Refusal("connection", 540, "NOT_IMPLEMENTED - x-stream-filter")
        else:
            await client.consume(stream, prefetch=1, arguments=arguments)


async def test_a_stream_counts_its_messages_at_once(target: Target) -> None:
    """RabbitMQ counts them every five seconds."""
    async with consuming(target) as client:
        stream = await client.declare(arguments={"x-queue-type": "stream"})
        await client.publish(stream, b"1", b"2")
        count = await client.depth(stream)
        assert count == 2 if target.is_embedded else count in (0, 2)


# --- contents ---------------------------------------------------------------------------------------------------------


async def test_tables_nested_deeper_than_we_decode_are_refused_by_name(target: Target) -> None:
    """RabbitMQ decodes them, however deep they are."""
    rows = b""
    for _ in range(100):
        rows = b"\x01aF" + struct.pack(">I", len(rows)) + rows
    headers = b"\x20\0" + struct.pack(">I", len(rows)) + rows
    async with target.raw(1) as peer:
        publish = encode_method(1, build(methods.Basic.Publish, routing_key="nowhere"))
        await peer.say(publish, header(1, 0, properties=headers))
        await peer.send(1, build(methods.Basic.Qos, prefetch_count=1))
        if target.is_embedded:
            close = await peer.closed()
            told = (540, "NOT_IMPLEMENTED - tables nested deeper than 64")
            assert (close.reply_code, close.reply_text) == told
        else:
            await peer.expect(1, methods.Basic.QosOk)
