"""Connecting takes as few round trips as a peer that does only the handshake.

In virtual time, over a distance, so every round trip is exact. The raw handshake has three: header and start, start-ok
and tune, tune-ok with open and open-ok.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
import trio.testing

import anyamqp
from anyamqp import Message
from anyamqp.testing import Broker
from support.distance import Distance
from support.rawpeer import raw_peer

pytestmark = pytest.mark.anyio

URL = "amqp://guest:guest@memory/"
LATENCY = 0.05
HANDSHAKE = 3
MOST_MORE = 2
"""Round trips that connecting may take beyond the handshake."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Virtual time: only trio has a clock that jumps."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


@asynccontextmanager
async def far_away() -> AsyncGenerator[Distance, None]:
    async with Broker() as broker, Distance(broker.dial, LATENCY) as distance:
        yield distance


async def round_trips(distance: Distance, work: Callable[[Distance], Awaitable[float]]) -> float:
    """How many pass from now until the moment that ``work`` gives."""
    began = anyio.current_time()
    return round((await work(distance) - began) / distance.round_trip, 3)


async def shake_hands(distance: Distance) -> float:
    async with raw_peer(await distance.dial()):
        return anyio.current_time()


async def connect(distance: Distance) -> float:
    async with anyamqp.connect(URL, dial=distance.dial):
        return anyio.current_time()


async def connect_and_open_a_channel(distance: Distance) -> float:
    async with anyamqp.connect(URL, dial=distance.dial) as connection, connection.channel():
        return anyio.current_time()


async def connect_and_publish(distance: Distance) -> float:
    async with anyamqp.connect(URL, dial=distance.dial) as connection, connection.publisher() as publisher:
        await publisher.publish(Message(b"first"), routing_key="nowhere", mandatory=False)
        return anyio.current_time()


async def connect_and_consume(distance: Distance) -> float:
    async with anyamqp.connect(URL, dial=distance.dial) as connection:
        async with connection.channel() as channel:
            queue = await channel.declare_queue("q")
        before = anyio.current_time()
        async with connection.consumer(queue, prefetch=7):
            return anyio.current_time() - before


async def test_the_raw_handshake_takes_three_round_trips() -> None:
    async with far_away() as distance:
        assert await round_trips(distance, shake_hands) == HANDSHAKE


async def test_connecting_takes_no_round_trip_more_than_the_raw_handshake() -> None:
    async with far_away() as distance:
        raw = await round_trips(distance, shake_hands)
        taken = await round_trips(distance, connect)
        assert taken <= raw + MOST_MORE
        assert taken == raw


async def test_a_channel_is_open_a_round_trip_later() -> None:
    async with far_away() as distance:
        assert await round_trips(distance, connect_and_open_a_channel) == HANDSHAKE + 1


async def test_the_first_confirm_comes_two_round_trips_later() -> None:
    """channel.open and confirm.select leave together, which is one; the publish is the other."""
    async with far_away() as distance:
        assert await round_trips(distance, connect_and_publish) == HANDSHAKE + 2


async def test_a_consumer_is_there_a_round_trip_after_it_was_asked_for() -> None:
    """channel.open, basic.qos and basic.consume leave together."""
    async with far_away() as distance:
        assert round(await connect_and_consume(distance) / distance.round_trip, 3) == 1
