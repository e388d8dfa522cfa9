"""Ten thousand messages over links that are cut again and again do not increase memory."""

from __future__ import annotations

import logging
import tracemalloc
from collections.abc import Iterator
from typing import Final

import anyio
import pytest

from benchmarks.footprint import soak
from support.rabbitmq import Node

pytestmark = pytest.mark.anyio

WARM_UP: Final = 10
ROUNDS: Final = 20
CUT_EVERY: Final = 10
BOUND: Final = 40 * 1024
"""Bytes by which the end may differ. A byte that each message left behind would be a quarter of it."""


@pytest.fixture
def tracing() -> Iterator[None]:
    """Trace memory during the test, without logging: pytest keeps log records."""
    logging.disable()
    tracemalloc.start()
    yield
    tracemalloc.stop()
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("tracing")
async def test_publishing_consuming_and_losing_links_leaves_memory_as_it_was(shared_node: Node) -> None:
    with anyio.fail_after(120):
        soaked = await soak(shared_node.url, warm_up=WARM_UP, rounds=ROUNDS, cut_every=CUT_EVERY)
    assert soaked.losses == ROUNDS // CUT_EVERY
    assert soaked.after - soaked.before < BOUND
