"""Reading leaves room for everybody else, and no message can stop it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import pairwise
from types import SimpleNamespace
from typing import Never, cast

import anyio
import anyio.lowlevel
import pytest

import anyamqp
from anyamqp import Address, Connection, Consumer, Delivery, Message, ReconnectPolicy, Settings
from anyamqp.testing import Broker
from feature_service.events import MAX_BODY
from feature_service.reader import QueueReader
from support.waiting import eventually

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
                connect_for_large=lambda: backlog,
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


class Bench:
    """A reader of one queue, in which an oversized message waits before an ordinary one."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.bodies: list[int] = []
        self.refusals = 0
        """How many connections for large messages come to nothing."""

    def connect_for_large(self) -> Connection:
        if self.refusals:
            self.refusals -= 1
            once = Settings(reconnect=ReconnectPolicy(max_attempts=1))
            return anyamqp.connect(once, dial=self.refuse, ready_timeout=0, fail_fast=False)
        return anyamqp.connect(Settings(), dial=self.broker.dial, ready_timeout=0, fail_fast=False)

    async def refuse(self, address: Address) -> Never:
        raise OSError(111, f"nobody listens at {address}")

    def handle(self, queue: str, delivery: Delivery) -> None:
        assert queue == "trades"
        self.bodies.append(len(delivery.body))
        if len(delivery.body) > MAX_BODY:
            delivery.reject(requeue=False)
        else:
            delivery.ack()


@asynccontextmanager
async def reading(refusals: int = 0) -> AsyncGenerator[tuple[Bench, QueueReader], None]:
    settings = Settings(max_message_size=MAX_BODY)
    async with (
        Broker() as broker,
        anyamqp.connect(Settings(), dial=broker.dial) as gateway,
        anyamqp.connect(settings, dial=broker.dial) as connection,
        gateway.channel() as channel,
        anyio.create_task_group() as tasks,
    ):
        await channel.declare_queue("trades")
        await channel.publish(Message(bytes(MAX_BODY + 1)), routing_key="trades")
        await channel.publish(Message(b"1"), routing_key="trades")
        bench = Bench(broker)
        bench.refusals = refusals
        reader = QueueReader(
            "trades",
            connection=connection,
            connect_for_large=bench.connect_for_large,
            handle=bench.handle,
            turns=anyio.Lock(),
        )
        tasks.start_soon(reader.run)
        with anyio.fail_after(20):
            yield bench, reader
        tasks.cancel_scope.cancel()


async def test_oversized_message_is_handled_once_and_the_next_as_well() -> None:
    async with reading() as (bench, reader):
        await eventually(lambda: len(bench.bodies) == 2 and reader.is_reading)
        assert sorted(bench.bodies) == [1, MAX_BODY + 1]
        assert reader.oversized == 1
        assert isinstance(reader.last_error, anyamqp.ContentTooLarge)
        assert bench.broker.queues["trades"].messages == bench.broker.queues["trades"].unacked == 0


async def test_oversized_message_that_cannot_be_fetched_is_tried_again() -> None:
    async with reading(refusals=2) as (bench, reader):
        await eventually(lambda: reader.oversized == 1 and reader.is_reading)
        assert bench.refusals == 0
        await eventually(lambda: sorted(bench.bodies) == [1, MAX_BODY + 1])
