"""Readers let other tasks run."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import pairwise
from types import SimpleNamespace
from typing import cast

import anyio
import anyio.lowlevel
import pytest

from anyamqp import Connection, Consumer, Delivery
from feature_service.reader import QueueReader

pytestmark = pytest.mark.anyio


QUEUES = ("trades", "tickers", "books")
EACH = 40


class Backlog:
    """A connection on which messages wait already: iterating over them never lets others run."""

    def __init__(self, size: int) -> None:
        self._body = bytes(size)

    @asynccontextmanager
    async def channel(self) -> AsyncGenerator[Backlog, None]:
        yield self

    async def declare_queue(self, name: str, *, passive: bool) -> None:
        assert passive, name

    @asynccontextmanager
    async def consumer(self, queue: str, *, prefetch: int) -> AsyncGenerator[Consumer, None]:
        async def messages() -> AsyncGenerator[Delivery, None]:
            for _ in range(EACH):
                yield cast(Delivery, SimpleNamespace(body=self._body))
            await anyio.sleep_forever()

        assert queue in QUEUES
        assert prefetch > 0
        yield cast(Consumer, messages())


@pytest.mark.parametrize(("size", "at_once"), [(1_000_000, 2), (70_000, 2), (20_000, 15)])
async def test_others_run_while_a_backlog_is_read(size: int, at_once: int) -> None:
    """From three queues together, so many messages are handled between two turns of others, not all 120."""
    handled: list[str] = []
    turns: list[int] = []
    backlog = cast(Connection, Backlog(size))
    lock = anyio.Lock()
    async with anyio.create_task_group() as tasks:
        for queue in QUEUES:
            reader = QueueReader(
                queue,
                connection=backlog,
                handle=lambda queue, _delivery: handled.append(queue),
                turns=lock,
            )
            tasks.start_soon(reader.run)
        with anyio.fail_after(10):
            while len(handled) < EACH * len(QUEUES):
                turns.append(len(handled))
                await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert max(after - before for before, after in pairwise([*turns, len(handled)])) <= at_once
    assert all(handled.count(queue) == EACH for queue in QUEUES)
