"""The stream offset in basic.consume after a loss before the first delivery, in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import anyio
import pytest
import trio.testing

import anyamqp
from anyamqp import Connection, ReconnectPolicy
from anyamqp.testing import Broker
from anyamqp.testing.embedded import channel as server_channel
from anyamqp.testing.embedded import transport
from anyamqp.testing.embedded.channel import Channel
from anyamqp.wire import methods
from anyamqp.wire.methods import Method
from support.distance import Distance
from support.waiting import eventually

pytestmark = pytest.mark.anyio

URL = "amqp://guest:guest@memory/"
AT_ONCE = ReconnectPolicy(stable_after=0.0)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Virtual time: only trio has a clock that jumps."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The stream offsets that the embedded broker was asked for."""
    offsets: list[object] = []
    handlers = cast("dict[type[Method], Callable[[Channel, Method], None]]", vars(server_channel)["_HANDLERS"])
    kind: type[Method] = methods.Basic.Consume
    consume = handlers[kind]

    def note(channel: Channel, method: Method) -> None:
        assert isinstance(method, methods.Basic.Consume)
        offsets.append(method.arguments.get("x-stream-offset"))
        consume(channel, method)

    monkeypatch.setitem(handlers, kind, note)
    return offsets


async def declare_elsewhere(broker: Broker) -> None:
    """Declare the stream ``q`` on another connection, so that the consumer's own does not know what it is."""
    async with anyamqp.connect(URL, dial=broker.dial) as connection, connection.channel() as channel:
        await channel.declare_queue("q", queue_type="stream")


async def lose(broker: Broker, connection: Connection) -> None:
    reconnects = connection.stats.reconnects
    broker.reset_connections()
    await eventually(lambda: connection.stats.reconnects > reconnects, within=120, every=0.1)


async def test_messages_since_the_consumers_start_are_requested_again(asked: list[object]) -> None:
    """By an interval, which the broker counts back on its own clock, with 5 s for what the request takes."""
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, reconnect=AT_ONCE) as connection,
    ):
        await declare_elsewhere(broker)
        async with connection.consumer("q", stream_offset="next"):
            await anyio.sleep(100)
            await lose(broker, connection)
            await anyio.sleep(900)
            await lose(broker, connection)
        assert asked == ["next", "106s", "1006s"]


async def test_a_stream_of_this_connection_is_read_from_next_without_a_word(asked: list[object]) -> None:
    """``next`` is the broker's default; other queues refuse an offset."""
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, reconnect=AT_ONCE) as connection,
        connection.channel() as channel,
    ):
        await channel.declare_queue("stream", queue_type="stream")
        await channel.declare_queue("classic", queue_type="classic")
        async with connection.consumer("stream"), connection.consumer("classic"):
            await anyio.sleep(10)
            await lose(broker, connection)
        assert asked == [None, None, "16s", None]


@pytest.mark.parametrize("offset", ["first", "last", 7, "1h"])
async def test_other_beginnings_are_asked_for_as_they_were(offset: int | str, asked: list[object]) -> None:
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, reconnect=AT_ONCE) as connection,
    ):
        await declare_elsewhere(broker)
        async with connection.consumer("q", stream_offset=offset):
            await anyio.sleep(10)
            await lose(broker, connection)
        assert asked == [offset, offset]


async def test_an_interval_that_took_too_long_to_arrive_is_asked_for_again_with_more_room(
    asked: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker counts it back from when it takes the request."""
    monkeypatch.setattr(transport, "HANDSHAKE_PATIENCE", 60.0)
    async with (
        Broker() as broker,
        Distance(broker.dial, 3.0) as distance,
        anyamqp.connect(URL, dial=distance.dial, reconnect=AT_ONCE, connect_timeout=60) as connection,
    ):
        await declare_elsewhere(broker)
        async with connection.consumer("q", stream_offset="next") as consumer:
            await anyio.sleep(100)
            await lose(broker, connection)
            await eventually(lambda: consumer.is_consuming, within=120, every=0.1)
        first, second, third = asked
        assert first == "next"
        late, later = int(str(second).removesuffix("s")), int(str(third).removesuffix("s"))
        assert later >= late + 6 + 7  # it was sent 6 s later, with 12 s of room instead of 5
