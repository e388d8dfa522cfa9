"""Entering a consumer whose queue is missing, or vanishes at that moment, in virtual time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import cast

import anyio
import pytest
import trio.testing

import anyamqp
from anyamqp import Connection, Consumer, ConsumerCancelled, InvalidUse, Message, NotFound
from anyamqp.testing import Broker
from anyamqp.testing.embedded import channel as server_channel
from anyamqp.testing.embedded.channel import Channel
from anyamqp.wire import methods
from anyamqp.wire.methods import Method

pytestmark = pytest.mark.anyio

URL = "amqp://guest:guest@memory/"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Virtual time: only trio has a clock that jumps."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


async def declare_and_publish(connection: Connection, body: bytes) -> None:
    async with connection.channel() as channel, connection.publisher() as publisher:
        await channel.declare_queue("q")
        await publisher.publish(Message(body), routing_key="q")


def cancel_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the broker delete a queue as it is consumed from, so that basic.cancel comes right behind consume-ok."""
    handlers = cast("dict[type[Method], Callable[[Channel, Method], None]]", vars(server_channel)["_HANDLERS"])
    kind: type[Method] = methods.Basic.Consume
    consume = handlers[kind]

    def consume_and_delete(channel: Channel, method: Method) -> None:
        consume(channel, method)
        channel.peer.model.delete_queue(channel.peer.model.queues["q"])

    monkeypatch.setitem(handlers, kind, consume_and_delete)


async def test_a_queue_that_is_not_there_is_waited_for_when_told_so() -> None:
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial) as connection:
        async with connection.consumer("q", on_cancel="resubscribe") as consumer:
            assert not consumer.is_consuming
            await anyio.sleep(600)
            await declare_and_publish(connection, b"at last")
            with anyio.fail_after(11):
                delivery = await anext(consumer)
            assert delivery.body == b"at last"
            delivery.ack()
        assert connection.stats.open_channels == 0


@pytest.mark.parametrize("on_cancel", ["raise", "end"])
async def test_a_queue_that_is_not_there_is_not_found_otherwise(on_cancel: anyamqp.OnCancel) -> None:
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial) as connection:
        with pytest.raises(NotFound):
            async with connection.consumer("q", on_cancel=on_cancel):
                pytest.fail("consumes from nothing")


async def test_a_queue_that_goes_at_entering_is_waited_for_when_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial) as connection:
        await declare_and_publish(connection, b"goes with its queue")
        consumer = connection.consumer("q", on_cancel="resubscribe")
        with monkeypatch.context() as patched:
            cancel_at_once(patched)
            await consumer.__aenter__()
        try:
            await declare_and_publish(connection, b"after")
            with anyio.fail_after(11):
                delivery = await anext(consumer)
            assert delivery.body == b"after"
            delivery.ack()
        finally:
            await consumer.__aexit__(None, None, None)


async def test_a_queue_that_goes_at_entering_ends_the_iteration_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial) as connection:
        await declare_and_publish(connection, b"goes with its queue")
        cancel_at_once(monkeypatch)
        async with connection.consumer("q") as consumer:
            assert (await anext(consumer)).body == b"goes with its queue"
            with anyio.fail_after(5), pytest.raises(ConsumerCancelled):
                await anext(consumer)


async def test_leaving_while_the_queue_is_waited_for_leaves_nothing() -> None:
    """Invariant 7."""
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial) as connection:
        async with connection.consumer("q", on_cancel="resubscribe"):
            await anyio.sleep(1)
        await declare_and_publish(connection, b"nobody's")
        await anyio.sleep(60)
        assert (broker.queues["q"].consumers, broker.queues["q"].messages) == (0, 1)
        assert connection.stats.open_channels == 0


OUTSIDE: list[Callable[[Consumer], Awaitable[object]]] = [
    Consumer.__anext__,
    Consumer.stop,
    lambda consumer: consumer.process(print),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
]


@pytest.mark.parametrize("call", OUTSIDE)
async def test_a_consumer_works_inside_its_block(call: Callable[[Consumer], Awaitable[object]]) -> None:
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial) as connection:
        with pytest.raises(InvalidUse, match="a consumer works inside its block"):
            await call(connection.consumer("q"))


async def test_a_consumer_is_entered_once_and_goes_on() -> None:
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial) as connection:
        await declare_and_publish(connection, b"still")
        async with connection.consumer("q") as consumer:
            with pytest.raises(InvalidUse, match="a consumer is entered once"):
                async with consumer:
                    pytest.fail("entered twice")
            assert (await anext(consumer)).body == b"still"
