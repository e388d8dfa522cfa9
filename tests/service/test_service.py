"""The service on the embedded broker: every accepted vector is delivered, whatever happens to the broker."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest

import anyamqp
from anyamqp import Connection, Message, ReconnectPolicy, Settings, State
from anyamqp.testing import Broker
from feature_service.events import Event
from feature_service.exchange import SyntheticExchange
from feature_service.features import FEATURE_REGISTRY_VERSION, FEATURES
from feature_service.fields import MAX_BODY
from feature_service.health import report
from feature_service.outbox import Outbox, Parcel
from feature_service.service import FeatureService
from feature_service.settings import QUEUE, SOURCES, ServiceSettings, for_service
from feature_service.vector import FeatureVector
from support.waiting import eventually

pytestmark = pytest.mark.anyio

SYMBOLS = ("BTCUSDT", "ETHUSDT")


class Ledger(Outbox):
    """An outbox that records the accepted vectors."""

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

    def __init__(
        self,
        broker: Broker,
        gateway: Connection,
        *,
        buffer: int,
        shutdown_timeout: float,
        interval: float,
        max_symbols: int,
        clock: Callable[[], float],
    ) -> None:
        broker_settings = for_service(Settings(reconnect=ReconnectPolicy(initial=0.01, maximum=0.05)))
        settings = ServiceSettings(
            broker=broker_settings,
            interval=interval,
            buffer=buffer,
            shutdown_timeout=shutdown_timeout,
            max_symbols=max_symbols,
        )
        self.broker = broker
        self.gateway = gateway
        self.outbox = Ledger(buffer)
        self.service = FeatureService(
            settings, dial_reading=broker.dial, dial_publishing=broker.dial, outbox=self.outbox, clock=clock
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
async def scene(
    *,
    buffer: int = 1000,
    shutdown_timeout: float = 5.0,
    interval: float = 0.02,
    max_symbols: int = 1000,
    clock: Callable[[], float] = time.time,
) -> AsyncGenerator[Scene, None]:
    async with (
        Broker() as broker,
        anyamqp.connect(
            "amqp://guest:guest@memory/", dial=broker.dial, reconnect=ReconnectPolicy(initial=0.01, maximum=0.05)
        ) as gateway,
    ):
        async with gateway.channel() as channel:
            await channel.declare_queue(QUEUE)
        one = Scene(
            broker,
            gateway,
            buffer=buffer,
            shutdown_timeout=shutdown_timeout,
            interval=interval,
            max_symbols=max_symbols,
            clock=clock,
        )
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


@pytest.mark.parametrize("size", [MAX_BODY + 1, 3 * MAX_BODY])
async def test_oversized_message_is_rejected_and_the_queue_read_on(size: int) -> None:
    async with scene() as one:
        await one.declare_sources()
        await one.feed(1)
        async with one.gateway.publisher() as publisher:
            await publisher.publish(Message(b" " * size), routing_key=SOURCES[0])
            await publisher.publish(Message(b" " * size), routing_key=SOURCES[0])
        await one.feed(3)
        async with running(one):
            queues = one.broker.queues
            await eventually(lambda: all(queues[name].messages == queues[name].unacked == 0 for name in SOURCES))
            assert one.service.counters.oversized == one.service.counters.bad_events == 2
            assert one.service.reading.stats.open_channels == len(SOURCES)


async def test_fault_of_our_own_costs_one_message(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(body: bytes, **_times: float) -> tuple[Event, ...]:
        raise KeyError(len(body))

    async with scene() as one:
        await one.declare_sources()
        async with running(one):
            with monkeypatch.context() as patch:
                patch.setattr("feature_service.service.parse", broken)
                await one.feed(1)
                await eventually(lambda: one.service.counters.bad_events > 1)
            await one.feed(1)
            await eventually(lambda: len(one.delivered) > 0)
        assert one.service.counters.faults == one.service.counters.bad_events > 1
    assert caplog.text.count("could not be taken in") == 1
    assert "KeyError" in caplog.text


class WallClock:
    """A system's clock that somebody sets."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def latest(one: Scene) -> FeatureVector:
    """The last vector of BTCUSDT that was delivered."""
    vectors = [FeatureVector.from_json(delivery.body) for delivery in one.delivered]
    return [vector for vector in vectors if vector.symbol == "BTCUSDT"][-1]


def volume(one: Scene) -> float:
    return latest(one).features.get("volume_1m", 0.0)


@pytest.mark.parametrize("hours", [1, -1], ids=["forward", "backward"])
@pytest.mark.parametrize("is_stamped", [True, False], ids=["stamped events", "events without a stamp"])
async def test_windows_outlive_a_clock_that_is_set_and_set_back(hours: int, is_stamped: bool) -> None:
    wall = WallClock()
    async with scene(clock=wall) as one:
        await one.declare_sources()

        async def trade(price: str) -> None:
            fields: dict[str, object] = {"s": "BTCUSDT", "S": "Buy", "v": "1", "p": price}
            if is_stamped:
                fields["T"] = int(time.time() * 1000)
            async with one.gateway.publisher() as publisher:
                event = json.dumps({"event_type": "trade", "payload": fields}).encode()
                await publisher.publish(Message(event), routing_key=SOURCES[0])
            before = len(one.delivered)
            await eventually(lambda: len(one.delivered) > before + 2)

        async with running(one):
            await trade("1")
            assert volume(one) == 1
            wall.ahead = hours * 3600
            await trade("2")
            assert volume(one) == 2
            wall.ahead = 0
            await trade("3")
            assert volume(one) == 3
            assert abs(latest(one).timestamp - time.time()) < 30


async def test_symbol_that_trades_gets_a_place_among_junk_and_keeps_it() -> None:
    def trade(symbol: str) -> Message:
        payload = {"s": symbol, "S": "Buy", "v": "1", "p": "1"}
        return Message(json.dumps({"event_type": "trade", "payload": payload}).encode())

    def is_heard() -> bool:
        return any(json.loads(delivery.body)["symbol"] == "BTCUSDT" for delivery in one.delivered)

    async with scene(interval=0.2, max_symbols=200) as one:
        await one.declare_sources()
        async with running(one), one.gateway.publisher() as publisher:
            for i in range(2_000):
                await publisher.submit(trade(f"JUNK{i}"), routing_key=SOURCES[0])
            for _ in range(3):
                await publisher.submit(trade("BTCUSDT"), routing_key=SOURCES[0])
            for i in range(2_000):
                await publisher.submit(trade(f"MORE{i}"), routing_key=SOURCES[0])
            await publisher.flush()
            await eventually(lambda: one.service.counters.events.get(SOURCES[0]) == 4_003, within=20)
            one.delivered.clear()
            await eventually(is_heard, within=20)
            assert volume(one) == 3


async def test_symbol_that_falls_silent_gives_its_place_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene() as one:
        await one.declare_sources()
        async with running(one):
            await one.feed(1)
            await eventually(lambda: one.service.symbol_count == len(SYMBOLS))
            monkeypatch.setattr("feature_service.service.HOLD", 0.0)
            await eventually(lambda: one.service.symbol_count == 0)


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
            # Confirms that had arrived by then still count.
            await eventually(lambda: one.service.publishing.state is State.RECONNECTING)
            await eventually(lambda: len(one.outbox) > 4)
        assert len(one.outbox) > 4
        assert f"{len(one.outbox)} accepted vectors could not be published" in caplog.text
        await one.broker.start()
