"""The feature service reads a queue of a real broker whatever messages it holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import pytest

import anyamqp
from anyamqp import Message, Settings
from feature_service.fields import MAX_BODY
from feature_service.service import FeatureService
from feature_service.settings import ServiceSettings, for_service
from support.market import TRADE_MESSAGE
from support.queues import unique
from support.rabbitmq import Node
from support.waiting import eventually

pytestmark = pytest.mark.anyio

DELIVERY_LIMIT = 3
OVERSIZED = TRADE_MESSAGE + b" " * (MAX_BODY + 1 - len(TRADE_MESSAGE))


@dataclass
class Bench:
    """A source queue with a delivery limit and dead letters, and the service that reads it."""

    service: FeatureService
    publisher: anyamqp.Publisher
    source: str
    dead: Counter[tuple[str, int]]
    """How many messages were dead-lettered, by the reason and their size."""

    async def publish(self, *bodies: bytes) -> None:
        for body in bodies:
            await self.publisher.submit(Message(body), routing_key=self.source)
        await self.publisher.flush()

    @property
    def read(self) -> int:
        return self.service.counters.events.get(self.source, 0)

    async def collect_dead(self, consumer: anyamqp.Consumer) -> None:
        async for delivery in consumer:
            reason = delivery.headers["x-first-death-reason"]
            assert isinstance(reason, str)
            self.dead[reason, len(delivery.body)] += 1
            delivery.ack()


@asynccontextmanager
async def a_bench(node: Node) -> AsyncGenerator[Bench, None]:
    source, dead, target = (unique(kind) for kind in ("source", "dead", "target"))
    settings = ServiceSettings(broker=for_service(Settings.from_urls(node.url)), sources=(source,), queue=target)
    with anyio.fail_after(60):
        async with anyamqp.connect(node.url) as connection, connection.channel() as channel:
            await channel.declare_queue(dead)
            await channel.declare_queue(
                source,
                queue_type="quorum",
                delivery_limit=DELIVERY_LIMIT,
                dead_letter_exchange="",
                dead_letter_routing_key=dead,
            )
            async with (
                connection.publisher() as publisher,
                connection.consumer(dead) as consumer,
                anyio.create_task_group() as tasks,
            ):
                bench = Bench(FeatureService(settings), publisher, source, Counter())
                tasks.start_soon(bench.collect_dead, consumer)
                yield bench
                bench.service.stop()
                tasks.cancel_scope.cancel()
            for name in (source, dead, target):
                await channel.delete_queue(name)


async def test_oversized_messages_are_rejected_and_cost_the_others_nothing(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, anyio.create_task_group() as tasks:
        await bench.publish(*[OVERSIZED, TRADE_MESSAGE] * 30)
        tasks.start_soon(bench.service.run)
        await eventually(lambda: bench.read + bench.dead.total() == 60, within=40)
        assert bench.dead == {("rejected", len(OVERSIZED)): 30}
        assert bench.read == 30
        assert bench.service.counters.oversized == 30
        bench.service.stop()
