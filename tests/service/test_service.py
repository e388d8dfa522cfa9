"""The service on the embedded broker: what it accepts is delivered, whatever happens in between."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest

import anyamqp
from anyamqp import Connection, Message, ReconnectPolicy, Settings, State
from anyamqp.testing import Broker
from feature_service import service as service_module
from feature_service.exchange import SyntheticExchange
from feature_service.features import FEATURE_REGISTRY_VERSION, FEATURES
from feature_service.health import report
from feature_service.outbox import Outbox, Parcel
from feature_service.service import FeatureService
from feature_service.settings import QUEUE, SOURCES, ServiceSettings, for_service
from feature_service.vector import FeatureVector
from support.waiting import eventually

pytestmark = pytest.mark.anyio

SYMBOLS = ("BTCUSDT", "ETHUSDT")


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks for missing queues without a second's patience."""
    monkeypatch.setattr(service_module, "_FIRST_RETRY", 0.02)


class Ledger(Outbox):
    """An outbox that remembers what it accepted."""

    def __init__(self, bound: int) -> None:
        super().__init__(bound)
        self.accepted_ids: set[str] = set()

    def offer(self, vector: FeatureVector) -> Parcel | None:
        parcel = super().offer(vector)
        if parcel is not None:
            self.accepted_ids.add(parcel.message_id)
        return parcel


class Scene:
    """A broker, a gateway's connection, and the service between them."""

    def __init__(self, broker: Broker, gateway: Connection, buffer: int, shutdown_timeout: float) -> None:
        broker_settings = for_service(Settings(reconnect=ReconnectPolicy(initial=0.01, maximum=0.05)))
        settings = ServiceSettings(
            broker=broker_settings, interval=0.02, buffer=buffer, shutdown_timeout=shutdown_timeout
        )
        self.broker = broker
        self.gateway = gateway
        self.outbox = Ledger(buffer)
        self.service = FeatureService(
            settings, dial_reading=broker.dial, dial_publishing=broker.dial, outbox=self.outbox
        )
        self.exchange = SyntheticExchange(SYMBOLS, 1)
        self.delivered: list[anyamqp.Delivery] = []

    async def declare_sources(self, *names: str) -> None:
        async with self.gateway.channel() as channel:
            for name in names or SOURCES:
                await channel.declare_queue(name)

    async def feed(self, steps: int = 3) -> None:
        async with self.gateway.publisher() as publisher:
            for _ in range(steps):
                for event in self.exchange.step(time.time()):
                    await publisher.submit(Message(event.body), routing_key=event.queue, mandatory=False)

    async def read(self) -> None:
        while True:
            try:
                async with self.gateway.consumer(QUEUE) as consumer:
                    async for delivery in consumer:
                        self.delivered.append(delivery)
                        delivery.ack()
            except (anyamqp.ConsumerCancelled, anyamqp.NotFound):
                await anyio.sleep(0.01)  # deleted, and not yet declared again

    @property
    def delivered_ids(self) -> set[str]:
        return {delivery.message_id or "" for delivery in self.delivered}

    def has_accepted_more_than(self, count: int) -> bool:
        return self.outbox.accepted > count

    async def until_all_arrived(self, at_least: int = 1) -> None:
        await eventually(lambda: len(self.outbox.accepted_ids) >= at_least)
        self.service.stop()
        await eventually(lambda: self.outbox.accepted_ids == self.delivered_ids)


@asynccontextmanager
async def scene(*, buffer: int = 1000, shutdown_timeout: float = 5.0) -> AsyncGenerator[Scene, None]:
    async with (
        Broker() as broker,
        anyamqp.connect(
            "amqp://guest:guest@memory/", dial=broker.dial, reconnect=ReconnectPolicy(initial=0.01, maximum=0.05)
        ) as gateway,
    ):
        async with gateway.channel() as channel:
            await channel.declare_queue(QUEUE)
        one = Scene(broker, gateway, buffer, shutdown_timeout)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.read)
            with anyio.fail_after(30):
                yield one
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def running(one: Scene) -> AsyncGenerator[None, None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one.service.run)
        yield
        one.service.stop()


async def test_vectors_of_every_symbol_reach_the_queue_as_documented() -> None:
    async with scene() as one, running(one):
        await one.declare_sources()
        await one.feed(5)
        await eventually(lambda: len(one.delivered) > 10)
        await one.until_all_arrived()
    message = one.delivered[-1].message
    vector = json.loads(message.body)
    assert message.persistent
    assert message.content_type == "application/json"
    assert vector["timestamp"].endswith("+00:00")
    assert vector["feature_registry_version"] == FEATURE_REGISTRY_VERSION
    assert vector["features"].keys() <= set(FEATURES)
    assert vector["features"]["mid_price"] > 0
    assert {json.loads(delivery.body)["symbol"] for delivery in one.delivered} == set(SYMBOLS)


async def test_source_queues_that_come_later_are_read_when_they_are_there() -> None:
    async with scene() as one, running(one):
        await eventually(lambda: one.service.reading.state is State.OPEN)
        assert one.service.counters.events == {}
        await one.declare_sources()
        await eventually(lambda: all(one.broker.queues[name].consumers == 1 for name in SOURCES))
        await one.feed()
        await eventually(lambda: set(one.service.counters.events) == set(SOURCES))


async def test_source_queue_that_was_deleted_is_read_again_when_it_is_back() -> None:
    async with scene() as one:
        await one.declare_sources()
        async with running(one):
            await eventually(lambda: one.broker.queues[SOURCES[0]].consumers == 1)
            async with one.gateway.channel() as channel:
                await channel.delete_queue(SOURCES[0])
            await one.declare_sources(SOURCES[0])
            await eventually(lambda: one.broker.queues[SOURCES[0]].consumers == 1)


async def test_broker_that_is_away_at_the_start_is_waited_for() -> None:
    async with scene() as one:
        await one.declare_sources()
        await one.feed()
        one.broker.refuse()
        async with running(one):
            await anyio.wait_all_tasks_blocked()
            assert one.service.reading.state is State.CONNECTING
            assert report(one.service)[0] == 503
            one.broker.accept()
            await one.until_all_arrived()


async def test_resets_lose_nothing_that_was_accepted() -> None:
    async with scene() as one:
        await one.declare_sources()
        await one.feed()
        async with running(one):
            for _ in range(5):
                accepted = one.outbox.accepted
                await eventually(partial(one.has_accepted_more_than, accepted + 10))
                one.broker.reset_connections()
            await one.until_all_arrived(60)
        assert one.service.publishing.stats.reconnects > 0


async def test_computing_goes_on_while_the_broker_is_down_and_everything_arrives_later() -> None:
    async with scene() as one:
        await one.declare_sources()
        await one.feed()
        async with running(one):
            await eventually(lambda: one.outbox.accepted > 4)
            one.broker.stop()
            before = one.outbox.accepted
            await eventually(lambda: one.outbox.accepted > before + 20)
            assert len(one.outbox) >= 20
            await one.broker.start()
            await one.until_all_arrived()


async def test_blocked_broker_makes_vectors_wait_not_vanish() -> None:
    async with scene() as one:
        await one.declare_sources()
        await one.feed()
        async with running(one):
            await eventually(lambda: one.outbox.confirmed > 4)
            one.broker.block()
            await eventually(lambda: one.service.publishing.state is State.BLOCKED and len(one.outbox) > 10)
            assert report(one.service)[1]["status"] == "degraded"
            one.broker.unblock()
            await one.until_all_arrived()


async def test_full_buffer_refuses_and_says_so_but_drops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with scene(buffer=10) as one:
        await one.declare_sources()
        await one.feed()
        async with running(one):
            await eventually(lambda: one.outbox.confirmed > 0)
            one.broker.freeze()
            await eventually(lambda: one.outbox.refused > 5)
            status, body = report(one.service)
            assert status == 503
            assert body["vectors"]["buffer_full"] is True  # type: ignore[index]  # pyright: ignore[reportIndexIssue]
            one.broker.thaw()
            await one.until_all_arrived()
    assert caplog.text.count("is full") >= 1


async def test_target_queue_that_was_deleted_is_declared_again_and_nothing_is_lost() -> None:
    async with scene() as one:
        await one.declare_sources()
        await one.feed()
        async with running(one):
            await eventually(lambda: len(one.delivered_ids) > 4)
            async with one.gateway.channel() as channel:
                await channel.delete_queue(QUEUE)
            await eventually(lambda: one.outbox.retried > 0)
            await eventually(lambda: QUEUE in one.broker.queues)
            refused_once = one.outbox.accepted_ids - one.delivered_ids
            await eventually(lambda: refused_once <= one.delivered_ids)


async def test_event_that_cannot_be_read_is_dropped_counted_and_holds_nothing_up() -> None:
    async with scene() as one:
        await one.declare_sources()
        async with running(one):
            async with one.gateway.publisher() as publisher:
                await publisher.publish(Message(b"not JSON"), routing_key=SOURCES[0])
            await eventually(lambda: one.service.counters.bad_events == 1)
            await one.feed()
            await eventually(lambda: one.service.counters.events.get(SOURCES[0], 0) > 0)
            await eventually(lambda: one.broker.queues[SOURCES[0]].unacked == 0)


async def test_stop_publishes_what_waits() -> None:
    async with scene() as one:
        await one.declare_sources()
        await one.feed()
        async with running(one):
            await eventually(lambda: one.outbox.accepted > 4)
            one.broker.freeze()
            await eventually(lambda: len(one.outbox) > 4)
            one.service.stop()
            one.broker.thaw()
        assert len(one.outbox) == 0
        await eventually(lambda: one.outbox.accepted_ids == one.delivered_ids)
        assert one.service.publishing.state is State.CLOSED


async def test_stop_while_the_broker_is_away_ends_in_time_and_says_what_is_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with scene(shutdown_timeout=0.2) as one:
        await one.declare_sources()
        await one.feed()
        async with running(one):
            await eventually(lambda: one.outbox.accepted > 4)
            one.broker.stop()
            await eventually(lambda: len(one.outbox) > 4)
        assert len(one.outbox) > 4
        assert f"{len(one.outbox)} accepted vectors could not be published" in caplog.text
        await one.broker.start()
