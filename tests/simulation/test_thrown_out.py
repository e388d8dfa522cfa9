"""A channel that the broker closes again and again: its owner pauses for longer each time, then gives up.

In virtual time, with a broker that closes each channel as soon as it is set up.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import cast

import anyio
import pytest
import trio.testing

import anyamqp
from anyamqp import ConnectionClosed, Message, NotFound, PreconditionFailed, ReconnectPolicy
from anyamqp.rpc import REPLY_TO
from anyamqp.testing import Broker
from anyamqp.testing.embedded import channel as server_channel
from anyamqp.testing.embedded.channel import Channel
from anyamqp.testing.embedded.peer import Peer
from anyamqp.testing.embedded.queues import Declaration, Queue
from anyamqp.wire import methods
from anyamqp.wire.methods import Method

pytestmark = pytest.mark.anyio

URL = "amqp://guest:guest@memory/"
TEXT = "PRECONDITION_FAILED - not today"
AT_ONCE = ReconnectPolicy(stable_after=0.0)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Virtual time: only trio has a clock that jumps."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


class WithReplyTo(Broker):
    """The embedded broker has no direct reply-to: a queue of that name stands for it."""

    def __init__(self) -> None:
        super().__init__()
        self.model.queues[REPLY_TO] = Queue(Declaration(REPLY_TO, durable=True), self.model)


class Bouncer:
    """Closes each channel right behind the request that sets it up.

    Args:
        setup: that request.
        monkeypatch: puts it into the embedded broker.

    Attributes:
        is_closing: whether it does so now.
        opened: when, on the event loop's clock, channels were set up.
    """

    def __init__(self, setup: type[Method], monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_closing = False
        self.opened: list[float] = []
        handlers = cast("dict[type[Method], Callable[[Channel, Method], None]]", vars(server_channel)["_HANDLERS"])
        monkeypatch.setitem(handlers, setup, partial(self._set_up, handlers[setup]))

    def begin(self, broker: Broker) -> None:
        """Close the channels that there are, and those to come."""
        self.is_closing = True
        self.opened.clear()
        broker.close_channels(406, TEXT)

    def _set_up(self, handle: Callable[[Channel, Method], None], channel: Channel, method: Method) -> None:
        handle(channel, method)
        self.opened.append(anyio.current_time())
        if self.is_closing:
            cast("Peer", channel.peer).close_channel(channel, 406, TEXT)


@pytest.mark.parametrize("setup", [methods.Confirm.Select, methods.Basic.Consume], ids=["publisher", "rpc"])
async def test_repeated_closes_lead_to_growing_pauses_and_an_end(
    setup: type[Method], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with WithReplyTo() as broker, anyamqp.connect(URL, dial=broker.dial) as connection:
        bouncer = Bouncer(setup, monkeypatch)
        async with connection.publisher() if setup is methods.Confirm.Select else connection.rpc_client():
            bouncer.begin(broker)
            await anyio.sleep(60)
            pauses = [round(later - earlier, 3) for earlier, later in pairwise(bouncer.opened)]
            assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0]
        assert (connection.stats.open_channels, connection.stats.link_number) == (0, 1)


async def test_publishes_of_a_publisher_that_gave_up_end_with_the_brokers_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Invariant 3: those that wait as well as those to come."""
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial) as connection:
        bouncer = Bouncer(methods.Confirm.Select, monkeypatch)
        async with connection.publisher() as publisher:
            bouncer.begin(broker)
            waiting = [await publisher.submit(Message(b"waits"), routing_key="q", timeout=None) for _ in range(3)]
            for publication in waiting:
                with anyio.fail_after(60), pytest.raises(PreconditionFailed, match="not today"):
                    await publication
            await anyio.sleep(60)
            with pytest.raises(PreconditionFailed, match="not today"):
                await publisher.publish(Message(b"comes later"), routing_key="q")
        assert len(bouncer.opened) <= 8


async def test_calls_of_an_rpc_client_that_gave_up_end_with_the_brokers_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async with WithReplyTo() as broker, anyamqp.connect(URL, dial=broker.dial) as connection:
        bouncer = Bouncer(methods.Basic.Consume, monkeypatch)
        async with connection.rpc_client() as rpc:
            bouncer.begin(broker)
            await anyio.sleep(60)
            with anyio.fail_after(5), pytest.raises(PreconditionFailed, match="not today"):
                await rpc.call(Message(b"ping"), routing_key="q", timeout=None)


async def test_a_publisher_goes_on_when_the_broker_lets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial) as connection:
        async with connection.channel() as channel:
            await channel.declare_queue("q")
        bouncer = Bouncer(methods.Confirm.Select, monkeypatch)
        async with connection.publisher() as publisher:
            bouncer.begin(broker)
            await anyio.sleep(1)
            bouncer.is_closing = False
            await publisher.publish(Message(b"at last"), routing_key="q", timeout=5)


async def test_a_pause_ends_with_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next link opens the channel, and the timer of the pause finds it open."""
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, reconnect=AT_ONCE) as connection,
    ):
        async with connection.channel() as channel:
            await channel.declare_queue("q")
        bouncer = Bouncer(methods.Confirm.Select, monkeypatch)
        async with connection.publisher() as publisher:
            bouncer.begin(broker)
            await anyio.sleep(3.5)  # in the last pause, of 2 s
            bouncer.is_closing = False
            count = len(bouncer.opened)
            broker.reset_connections()
            await anyio.sleep(0.5)
            assert len(bouncer.opened) == count + 1
            await publisher.publish(Message(b"after"), routing_key="q", timeout=5)
            await anyio.sleep(10)
            assert len(bouncer.opened) == count + 1
            assert connection.stats.open_channels == broker.channel_count == 1


async def test_publishes_that_the_broker_refuses_one_after_the_other_cost_no_pause_and_no_publisher() -> None:
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial) as connection,
        connection.publisher() as publisher,
    ):
        began = anyio.current_time()
        for _ in range(20):
            with pytest.raises(NotFound):
                await publisher.publish(Message(b"nowhere"), exchange="missing")
        assert anyio.current_time() - began < 0.1


async def test_a_paused_publisher_is_closed_with_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial) as connection:
        bouncer = Bouncer(methods.Confirm.Select, monkeypatch)
        async with connection.publisher() as publisher:
            bouncer.begin(broker)
            await anyio.sleep(1)
            waiting = await publisher.submit(Message(b"waits"), routing_key="q", timeout=None)
            await connection.close()
            with anyio.fail_after(5), pytest.raises(ConnectionClosed):
                await waiting
