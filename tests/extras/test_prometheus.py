"""Metrics for Prometheus: what a scrape shows while a connection works, is lost and comes back."""

from __future__ import annotations

import anyio
import anyio.to_thread
import pytest
from prometheus_client import CollectorRegistry, generate_latest

import anyamqp
from anyamqp import Message, State, Unroutable
from anyamqp.extras.prometheus import Prometheus
from anyamqp.testing import Broker
from support.waiting import eventually

pytestmark = pytest.mark.anyio

URL = "amqp://guest:guest@memory/"


class Scraper:
    """A registry with the metrics of anyamqp.

    Attributes:
        registry: the registry.
        hooks: the hooks of connections.
    """

    def __init__(self) -> None:
        self.registry: CollectorRegistry = CollectorRegistry()
        self.hooks: Prometheus = Prometheus(self.registry)

    def value(self, name: str, **labels: str) -> float | None:
        """A sample; None if there is none."""
        return self.registry.get_sample_value(name, labels)


async def test_publishes_and_deliveries_are_counted_by_their_ends() -> None:
    scraper = Scraper()
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial, hooks=scraper.hooks) as connection:
        async with connection.channel() as channel, connection.publisher() as publisher:
            await channel.declare_queue("q")
            broker.faults.before("basic.ack").reset()
            for _ in range(3):
                await publisher.publish(Message(b"x"), routing_key="q")
            with pytest.raises(Unroutable):
                await publisher.publish(Message(b"x"), routing_key="nowhere")
        async with connection.consumer("q", on_error="reject") as consumer:
            (await anext(consumer)).ack()
            with pytest.raises(ValueError, match="no"):
                async with await anext(consumer):
                    raise ValueError("no")
    assert scraper.value("anyamqp_publishes_total", kind="publish", outcome="ok") == 3
    assert scraper.value("anyamqp_publishes_total", kind="publish", outcome="Unroutable") == 1
    assert scraper.value("anyamqp_resends_total") == 1
    assert scraper.value("anyamqp_settlements_total", settlement="ack") == 1
    assert scraper.value("anyamqp_settlements_total", settlement="reject") == 1
    assert scraper.value("anyamqp_failed_deliveries_total") == 1
    assert scraper.value("anyamqp_process_seconds_count") == 2
    assert scraper.value("anyamqp_transitions_total", machine="connection", event="lost", state="RECONNECTING") == 1


async def test_a_scrape_in_another_thread_shows_the_connection_as_it_is() -> None:
    scraper = Scraper()
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, hooks=scraper.hooks, name="billing") as connection,
        connection.publisher(window=50, mandatory=False) as publisher,
    ):
        await publisher.publish(Message(b""), routing_key="nowhere")
        text = (await anyio.to_thread.run_sync(generate_latest, scraper.registry)).decode()
        assert 'anyamqp_state{connection="billing",state="OPEN"} 1.0' in text
        assert 'anyamqp_window{connection="billing"} 50.0' in text
        assert 'anyamqp_silent_seconds{connection="billing"}' in text
        broker.faults.block()
        await eventually(lambda: connection.state is State.BLOCKED)
        assert scraper.value("anyamqp_state", connection="billing", state="BLOCKED") == 1
        await eventually(lambda: (scraper.value("anyamqp_blocked_seconds_total", connection="billing") or 0) > 0)
        broker.faults.unblock()
        await eventually(lambda: connection.state is State.OPEN)
        seconds = connection.stats.blocked_seconds
        assert scraper.value("anyamqp_blocked_seconds_total", connection="billing") == seconds > 0


async def test_connections_of_one_name_have_labels_of_their_own() -> None:
    scraper = Scraper()
    async with Broker() as broker:
        async with (
            anyamqp.connect(URL, dial=broker.dial, hooks=scraper.hooks, name="a"),
            anyamqp.connect(URL, dial=broker.dial, hooks=scraper.hooks, name="a"),
        ):
            assert scraper.value("anyamqp_state", connection="a-2", state="OPEN") == 1
        async with anyamqp.connect(URL, dial=broker.dial, hooks=scraper.hooks, name="a"):
            assert scraper.value("anyamqp_state", connection="a", state="OPEN") == 1
            assert scraper.value("anyamqp_state", connection="a-2", state="OPEN") is None
