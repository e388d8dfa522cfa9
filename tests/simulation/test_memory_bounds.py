"""The most memory of a connection, a channel and a pending message, on each event loop.

Weighed by tracemalloc, the embedded broker's own memory left out. docs/memory.md has the same on a real broker; the
bounds are about one and a half times what is measured.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import pytest

import anyamqp
import anyamqp.testing
from anyamqp.testing import Broker
from anyamqp.wire.basic import Route
from benchmarks import footprint
from benchmarks.footprint import BODY_SIZE, Connect, Scale
from support.amqp import opened

pytestmark = [pytest.mark.anyio, pytest.mark.no_cover]  # long, and it covers nothing that others do not

URL = "amqp://guest:guest@memory/"

CONNECTION: Final = 65_000
CHANNEL: Final = 6_000
PUBLISHER: Final = 12_000
CONSUMER: Final = 8_000
RECORDED_QUEUE: Final = 1_500
UNCONFIRMED: Final = 700
"""Bytes of each at most. An unconfirmed message's body is not in it."""

PIECES: Final = 256 * 1024
"""Bytes beside a body on its way out at most: one piece of output, and what is between the pieces."""

BODY_OBJECT: Final = sys.getsizeof(bytes(BODY_SIZE))
MIB: Final = 1024 * 1024

_BROKER: Final = str(Path(anyamqp.testing.__file__).parent)
_DEPTH: Final = 16
"""Calls from the allocation up to the embedded broker's code, at the most."""


def _is_not_ours(frame: tracemalloc.Frame) -> bool:
    return frame.filename.startswith((_BROKER, tracemalloc.__file__))


@pytest.fixture
def weigh() -> Iterator[Scale]:
    """A scale for the client's memory alone, of what was allocated after its first use."""

    def scale() -> int:
        gc.collect()
        if not tracemalloc.is_tracing():  # not earlier, or imports would be traced
            tracemalloc.start(_DEPTH)
            return 0
        # By place, of which there are few, and not trace by trace, of which there are many.
        places = tracemalloc.take_snapshot().statistics("traceback")
        return sum(place.size for place in places if not any(map(_is_not_ours, place.traceback)))

    yield scale
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("thing", "count", "bound"),
    [
        (footprint.connections, 4, CONNECTION),
        (footprint.channels, 20, CHANNEL),
        (footprint.publishers, 20, PUBLISHER),
        (footprint.consumers, 20, CONSUMER),
        (footprint.queues, 40, RECORDED_QUEUE),
    ],
    ids=["connection", "channel", "publisher", "consumer", "recorded queue"],
)
async def test_one_more_weighs_no_more_than_its_bound(
    weigh: Scale, thing: Callable[[Connect, Scale, int], Awaitable[float]], count: int, bound: int
) -> None:
    async with Broker() as broker:
        weight = await thing(partial(anyamqp.connect, URL, dial=broker.dial), weigh, count)
    assert bound / 4 < weight < bound


async def test_an_unconfirmed_message_weighs_no_more_than_its_bound(weigh: Scale) -> None:
    async with Broker() as broker:
        weight = await footprint.unconfirmed(URL, broker.dial, weigh, 800, own_bodies=False)
    assert UNCONFIRMED / 4 < weight < UNCONFIRMED


async def test_the_body_of_an_unconfirmed_message_is_held_once(weigh: Scale) -> None:
    async with Broker() as broker:
        weight = await footprint.unconfirmed(URL, broker.dial, weigh, 800, own_bodies=True)
    assert BODY_OBJECT < weight < BODY_OBJECT + UNCONFIRMED


def test_a_body_of_64_mib_leaves_piece_by_piece_and_is_never_there_twice() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    session, body, left = dialogue.session, bytes(64 * MIB), 0
    tracemalloc.start()
    try:
        session.publish(number, Route("", "features.live", mandatory=True), b"\0\0", body)
        while session.has_output:
            left += sum(map(len, session.output(dialogue.now)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert left > len(body)
    assert peak < PIECES
