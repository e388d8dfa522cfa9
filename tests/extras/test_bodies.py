"""Bodies as values: JSON, and codecs for publishers, consumers and RPC."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import anyio
import msgspec
import pydantic
import pytest

import anyamqp
from anyamqp import (
    Codec,
    Connection,
    Delivery,
    InvalidArgument,
    JsonCodec,
    Message,
    RemoteError,
    TypedConsumer,
    TypedPublisher,
    TypedRpcClient,
    UndecodableBody,
    typed_handler,
)
from anyamqp.extras.msgspec import MsgspecCodec
from anyamqp.extras.pydantic import PydanticCodec
from anyamqp.testing import Broker

pytestmark = pytest.mark.anyio


class Order(msgspec.Struct):
    """An order for msgspec."""

    item: str
    count: int


class Bill(pydantic.BaseModel):
    """A bill for pydantic."""

    total: float


CODECS: dict[str, tuple[Codec[object], object, str]] = {
    "json": (JsonCodec(), {"item": "Tee ☕", "count": 2}, "application/json"),
    "msgspec json": (MsgspecCodec[object](Order), Order("tea", 2), "application/json"),
    "msgspec msgpack": (MsgspecCodec[object](Order, format="msgpack"), Order("tea", 2), "application/msgpack"),
    "pydantic": (PydanticCodec[object](Bill), Bill(total=1.5), "application/json"),
}


@asynccontextmanager
async def connected() -> AsyncGenerator[tuple[Broker, Connection], None]:
    with anyio.fail_after(10):
        async with Broker() as broker, anyamqp.connect("amqp://guest:guest@memory/", dial=broker.dial) as connection:
            async with connection.channel() as channel:
                await channel.declare_queue("orders")
            yield broker, connection


# --- messages and deliveries ------------------------------------------------------------------------------------------


async def test_json_goes_out_and_comes_back() -> None:
    async with connected() as (_, connection):
        async with connection.publisher() as publisher:
            await publisher.publish(Message.json({"a": [1, None, "ü"]}, type="order"), routing_key="orders")
        async with connection.consumer("orders") as consumer, await anext(consumer) as delivery:
            assert delivery.body == '{"a":[1,null,"ü"]}'.encode()
            assert (delivery.content_type, delivery.type) == ("application/json", "order")
            assert delivery.json() == {"a": [1, None, "ü"]}


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object()], ids=["nan", "set", "object"])
async def test_what_is_no_json_is_refused(value: object) -> None:
    with pytest.raises(InvalidArgument, match="value: no JSON"):
        Message.json(value)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 200_000], ids=["empty", "cut", "no text", "deep"])
async def test_a_body_that_is_no_json_is_named(body: bytes) -> None:
    delivery = Delivery(Message(body), exchange="", routing_key="q", delivery_tag=1, redelivered=False, settler=None)
    with pytest.raises(UndecodableBody, match=r"<Delivery 1 .*: no JSON"):
        delivery.json()


async def test_a_delivery_shows_each_property_of_its_message() -> None:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    message = Message(
        b"", content_type="text/plain", content_encoding="gzip", persistent=False, priority=3, expiration=4.0,
        timestamp=at, type="t", user_id="u", app_id="a",
    )  # fmt: skip
    delivery = Delivery(message, exchange="", routing_key="q", delivery_tag=1, redelivered=False, settler=None)
    shown = (
        delivery.content_type, delivery.content_encoding, delivery.persistent, delivery.priority, delivery.expiration,
        delivery.timestamp, delivery.type, delivery.user_id, delivery.app_id,
    )  # fmt: skip
    assert shown == ("text/plain", "gzip", False, 3, 4.0, at, "t", "u", "a")


# --- codecs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("codec", "value", "content_type"), CODECS.values(), ids=CODECS)
async def test_values_go_out_and_come_back(codec: Codec[object], value: object, content_type: str) -> None:
    async with connected() as (_, connection):
        async with connection.publisher() as publisher:
            orders = TypedPublisher(publisher, codec)
            await orders.publish(value, routing_key="orders", app_id="shop")
            await (await orders.submit(value, routing_key="orders"))
        async with connection.consumer("orders") as consumer:
            typed = TypedConsumer(consumer, codec)
            for app_id in ("shop", None):
                async with await anext(typed) as item:
                    assert item.value == value
                    assert (item.delivery.content_type, item.delivery.app_id) == (content_type, app_id)
            async with connection.channel() as channel:
                assert (await channel.declare_queue("orders", passive=True)).message_count == 0


async def test_a_value_of_another_type_is_refused_before_it_is_sent() -> None:
    codec: Codec[object] = MsgspecCodec[object](Order)
    async with connected() as (broker, connection), connection.publisher() as publisher:
        with pytest.raises(InvalidArgument, match="value: MsgspecCodec cannot encode it"):
            await TypedPublisher(publisher, codec).publish(object(), routing_key="orders")
        assert not broker.published()


async def test_a_body_that_cannot_be_decoded_fails_and_the_iteration_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with connected() as (broker, connection):
        async with connection.publisher() as publisher:
            await publisher.publish(Message(b'{"item": 1}'), routing_key="orders")
            await publisher.publish(Message(b"{}", content_type="text/plain"), routing_key="orders")
            await publisher.publish(MsgspecCodec(Order).message(Order("tea", 1)), routing_key="orders")
        async with (
            connection.consumer("orders", on_error="reject") as consumer,
            await anext(TypedConsumer(consumer, MsgspecCodec(Order))) as item,
        ):
            assert item.value == Order("tea", 1)
        assert broker.queue("orders").messages == 0
    assert "MsgspecCodec cannot decode it: Expected `str`, got `int`" in caplog.text
    assert "content type 'text/plain' instead of 'application/json'" in caplog.text


async def test_a_handler_gets_values_and_is_spared_what_cannot_be_decoded() -> None:
    handled: list[Order] = []

    async def handle(order: Order, delivery: Delivery) -> None:
        assert delivery.routing_key == "orders"
        handled.append(order)
        await consumer.stop()

    async with connected() as (broker, connection):
        async with connection.publisher() as publisher:
            await publisher.publish(Message(b"rubbish"), routing_key="orders")
            await TypedPublisher(publisher, MsgspecCodec(Order)).publish(Order("tea", 1), routing_key="orders")
        async with connection.consumer("orders", on_error="reject") as consumer:
            await TypedConsumer(consumer, MsgspecCodec(Order)).process(handle)
        assert broker.queue("orders").messages == 0
    assert handled == [Order("tea", 1)]


async def test_calls_take_and_return_values() -> None:
    async def price(order: Order) -> Bill:
        if order.count < 1:
            raise ValueError("nothing ordered")
        return Bill(total=order.count * 1.5)

    requests, bills = MsgspecCodec(Order), PydanticCodec(Bill)
    async with (
        connected() as (_, connection),
        connection.consumer("orders") as consumer,
        connection.publisher() as publisher,
        connection.rpc_client() as rpc,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(anyamqp.serve_rpc, consumer, publisher, typed_handler(price, requests, bills))
        client = TypedRpcClient(rpc, requests, bills)
        assert await client.call(Order("tea", 2), routing_key="orders") == Bill(total=3.0)
        with pytest.raises(RemoteError, match="nothing ordered"):
            await client.call(Order("tea", 0), routing_key="orders")
        with pytest.raises(RemoteError, match="UndecodableBody"):
            await rpc.call(Message(b"rubbish"), routing_key="orders")
        with pytest.raises(UndecodableBody, match="MsgspecCodec cannot decode it"):
            await TypedRpcClient(rpc, requests, requests).call(Order("tea", 2), routing_key="orders")
        await consumer.stop()
