"""Recovery takes few round trips: counted in virtual time with latency, so that the counts are exact.

Of a recovery, 3 round trips are the handshake. Each kind of entity that there is takes one, all its declares sent one
behind the other; the close of the channel that declared takes one, and all channels together, with qos, confirm mode
and consumers, take one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
import trio.testing

import anyamqp
from anyamqp import Connection, Message, ReconnectPolicy, State
from anyamqp.testing import Broker
from support.distance import Distance
from support.waiting import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.no_cover]  # long, and it covers nothing that others do not

URL = "amqp://guest:guest@memory/"
LATENCY = 0.05
AT_ONCE = ReconnectPolicy(first=0.0, stable_after=0.0)
NEWS = 0.5
"""Round trips until the loss is known."""
HANDSHAKE, QUEUES, BINDINGS, CLOSE, CHANNELS = 3, 1, 1, 1, 1
"""Round trips of each step."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Virtual time: only trio has a clock that jumps."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


class Far:
    """A connection to a broker that is far away."""

    def __init__(self, broker: Broker, distance: Distance, connection: Connection) -> None:
        self.broker = broker
        self.connection = connection
        self._distance = distance

    async def round_trips(self, then: Callable[[], Awaitable[object]]) -> float:
        """Lose the link, and count the round trips until it is recovered and ``then`` is done."""
        began = anyio.current_time()
        self.broker.reset_connections()
        await eventually(lambda: self.connection.state is State.RECONNECTING)
        await then()
        return round((anyio.current_time() - began) / self._distance.round_trip, 3)


@asynccontextmanager
async def far_away() -> AsyncGenerator[Far, None]:
    async with (
        Broker() as broker,
        Distance(broker.dial, LATENCY) as distance,
        anyamqp.connect(URL, dial=distance.dial, reconnect=AT_ONCE) as connection,
    ):
        yield Far(broker, distance, connection)


async def all_of(calls: Sequence[Callable[[], Coroutine[Any, Any, object]]]) -> None:
    async with anyio.create_task_group() as tasks:
        for call in calls:
            tasks.start_soon(call)


@pytest.mark.parametrize("count", [10, 1000])
async def test_queues_and_bindings_take_as_many_round_trips_however_many_there_are(count: int) -> None:
    names = [f"q{number}" for number in range(count)]
    async with far_away() as far, far.connection.channel() as channel:
        await all_of([partial(channel.declare_queue, name) for name in names])
        await all_of([partial(channel.bind_queue, name, "amq.topic", name) for name in names])
        far.broker.model.queues.clear()
        taken = await far.round_trips(far.connection.wait_ready)
        assert taken == NEWS + HANDSHAKE + QUEUES + BINDINGS + CLOSE + CHANNELS
        assert far.broker.queues.keys() == set(names)


@pytest.mark.parametrize("count", [1, 300])
async def test_queues_that_the_broker_names_take_as_many_round_trips_however_many_there_are(count: int) -> None:
    async with far_away() as far, far.connection.channel() as channel:
        queues = [await channel.declare_queue(exclusive=True) for _ in range(count)]
        await all_of([partial(channel.bind_queue, queue, "amq.topic", "all") for queue in queues])
        before = set(far.broker.queues)
        taken = await far.round_trips(far.connection.wait_ready)
        assert taken == NEWS + HANDSHAKE + QUEUES + BINDINGS + CLOSE + CHANNELS
        assert len(far.broker.queues) == count
        assert before.isdisjoint(far.broker.queues)


@pytest.mark.parametrize("count", [1, 300])
async def test_consumers_and_their_prefetch_take_as_many_round_trips_however_many_there_are(count: int) -> None:
    async with far_away() as far, AsyncExitStack() as consumers:
        async with far.connection.channel() as channel:
            await channel.declare_queue("q")
        await all_of(
            [partial(consumers.enter_async_context, far.connection.consumer("q", prefetch=7)) for _ in range(count)]
        )
        assert await far.round_trips(far.connection.wait_ready) == NEWS + HANDSHAKE + QUEUES + CLOSE + CHANNELS
        assert far.broker.queues["q"].consumers == count


async def test_a_new_publish_is_confirmed_a_round_trip_after_the_recovery() -> None:
    async with far_away() as far, far.connection.channel() as channel, far.connection.publisher() as publisher:
        await channel.declare_queue("q")
        publish = partial(publisher.publish, Message(b"new"), routing_key="q")
        assert await far.round_trips(publish) == NEWS + HANDSHAKE + QUEUES + CLOSE + CHANNELS + 1


async def test_unconfirmed_publishes_are_sent_again_before_new_ones() -> None:
    async with far_away() as far, far.connection.channel() as channel:
        await channel.declare_queue("q")
        async with far.connection.publisher(window=1000) as publisher:
            for number in range(500):
                await publisher.submit(Message(b"%d" % number), routing_key="q")
            publish = partial(publisher.publish, Message(b"new"), routing_key="q")
            assert await far.round_trips(publish) == NEWS + HANDSHAKE + QUEUES + CLOSE + CHANNELS + 1
        assert far.broker.queues["q"].bodies() == [*(b"%d" % number for number in range(500)), b"new"]


async def test_refused_queues_do_not_redeclare_all_others() -> None:
    count = 300
    names = [f"q{number}" for number in range(count)]
    async with far_away() as far, far.connection.channel() as channel:
        await all_of([partial(channel.declare_queue, name) for name in names])
        for queue in far.broker.model.queues.values():
            queue.durable = False
        sent = far.connection.stats.frames_sent
        await far.round_trips(far.connection.wait_ready)
        assert far.connection.stats.frames_sent - sent < 20 * count  # all the rest each time would be 45,000


async def test_entities_after_a_refused_one_recover_soon() -> None:
    names = [f"q{number}" for number in range(1000)]
    async with far_away() as far, far.connection.channel() as channel:
        for name in names:
            await channel.declare_queue(name)
        refused = far.broker.model.queues["q0"]
        far.broker.model.queues.clear()
        far.broker.model.queues["q0"] = refused
        refused.durable = False
        assert await far.round_trips(far.connection.wait_ready) <= NEWS + HANDSHAKE + QUEUES + CLOSE + CHANNELS + 8
        assert far.broker.queues.keys() == set(names)
