"""A connection survives a broker that sends wrong methods."""

from __future__ import annotations

import anyio
import anyio.abc
import pytest

import anyamqp
from anyamqp import Message
from anyamqp.testing import Broker
from anyamqp.wire import methods
from anyamqp.wire.frames import encode_method
from support.amqp import body, header

pytestmark = pytest.mark.anyio


class Lying(anyio.abc.ByteStream):
    """A transport that puts ``lies`` before the next bytes of the broker's, which end where a frame ends."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self.lies = b""
        self._stream = stream

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data = await self._stream.receive(max_bytes)
        lies, self.lies = self.lies, b""
        return lies + data

    async def send(self, item: bytes) -> None:
        await self._stream.send(item)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


@pytest.mark.parametrize(
    "lie",
    [methods.Basic.Ack(77), methods.Basic.Nack(77), methods.Basic.Ack(77, multiple=True), methods.Basic.Ack(1)],
    ids=["ack", "nack", "multiple", "once more"],
)
async def test_a_confirm_that_nothing_waits_for_is_logged_and_ignored(
    lie: methods.Basic.Ack | methods.Basic.Nack, caplog: pytest.LogCaptureFixture
) -> None:
    """amqp-client.rb 94: it kills the reader there."""
    links: list[Lying] = []

    async def dial(_: anyamqp.Address) -> anyio.abc.ByteStream:
        links.append(Lying(await broker.dial()))
        return links[-1]

    async with (
        Broker() as broker,
        anyamqp.connect("amqp://guest:guest@memory/", dial=dial) as connection,
        connection.publisher() as publisher,
        connection.channel() as channel,
    ):
        await channel.declare_queue("q")
        await publisher.publish(Message(b"first"), routing_key="q")
        links[0].lies = encode_method(1, lie)
        with anyio.fail_after(5):
            receipts = [await publisher.publish(Message(b"later"), routing_key="q") for _ in range(3)]
        assert [receipt.attempts for receipt in receipts] == [1, 1, 1]
        assert (connection.stats.unknown_confirms, connection.stats.link_number) == (1, 1)
    assert "which nothing waits for" in caplog.text


async def test_a_delivery_whose_properties_cannot_be_read_is_delivered_and_costs_nothing_else() -> None:
    links: list[Lying] = []

    async def dial(_: anyamqp.Address) -> anyio.abc.ByteStream:
        links.append(Lying(await broker.dial()))
        return links[-1]

    async with (
        Broker() as broker,
        anyamqp.connect("amqp://guest:guest@memory/", dial=dial) as connection,
        connection.publisher() as publisher,
        connection.channel() as channel,
    ):
        await channel.declare_queue("q")
        async with connection.consumer("q", no_ack=True, consumer_tag="c") as consumer:
            number = 3  # the publisher's channel is the first, the other one the second
            deliver = methods.Basic.Deliver("c", 1, redelivered=False, exchange="", routing_key="q")
            links[0].lies = (
                encode_method(number, deliver) + header(number, 3, properties=b"\x80\x00\xffabc") + body(number, b"abc")
            )
            await publisher.publish(Message(b"sound", message_id="1"), routing_key="q")
            with anyio.fail_after(5):
                broken, sound = [await anext(consumer), await anext(consumer)]
        assert broken.body == b"abc"
        with pytest.raises(anyamqp.MalformedProperties, match="over the end"):
            _ = broken.message_id
        assert (sound.body, sound.message_id) == (b"sound", "1")
        assert connection.stats.link_number == 1


async def test_a_returned_message_whose_properties_cannot_be_read_costs_the_link_and_nothing_else() -> None:
    links: list[Lying] = []

    async def dial(_: anyamqp.Address) -> anyio.abc.ByteStream:
        links.append(Lying(await broker.dial()))
        return links[-1]

    async with (
        Broker() as broker,
        anyamqp.connect("amqp://guest:guest@memory/", dial=dial) as connection,
        connection.channel() as channel,
        connection.publisher() as publisher,
    ):
        await channel.declare_queue("q")
        number = 2  # the publisher's channel
        returned = methods.Basic.Return(312, "NO_ROUTE", "", "q")
        lies = encode_method(number, returned) + header(number, 3, properties=b"\x80\x00\xffabc") + body(number, b"abc")
        links[0].lies = lies
        with anyio.fail_after(5):
            receipt = await publisher.publish(Message(b"x"), routing_key="q")
        assert (receipt.attempts, connection.stats.link_number) == (2, 2)
        assert isinstance(connection.stats.last_error, anyamqp.FrameError)
        assert "content header on channel 2" in str(connection.stats.last_error)
