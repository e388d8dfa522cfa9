"""Traces and metrics: the spans of a publish, a loss, a resend and a processing, and the context in between."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import anyamqp
from anyamqp import Connection, Delivery, Message, Unroutable
from anyamqp.extras.opentelemetry import OpenTelemetry
from anyamqp.testing import Broker

pytestmark = pytest.mark.anyio


class Telemetry:
    """Providers that keep what they are given.

    Attributes:
        hooks: the hooks of a connection.
    """

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        tracers = TracerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer: trace.Tracer = tracers.get_tracer("application")
        self.hooks: OpenTelemetry = OpenTelemetry(tracer_provider=tracers, meter_provider=MeterProvider([self._reader]))

    @property
    def spans(self) -> list[ReadableSpan]:
        """The spans that have ended, in the order of their ends."""
        return list(self._exporter.get_finished_spans())

    def span(self, name: str) -> ReadableSpan:
        """The only span with this name."""
        (found,) = (span for span in self.spans if span.name == name)
        return found

    def counts(self) -> dict[str, int]:
        """How often each metric was recorded."""
        data = self._reader.get_metrics_data()
        counts: dict[str, int] = {}
        for metric in data.resource_metrics[0].scope_metrics[0].metrics if data is not None else ():
            for point in metric.data.data_points:
                counts[metric.name] = counts.get(metric.name, 0) + int(getattr(point, "count", 0) or point.value)  # type: ignore[union-attr]  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue, reportUnknownArgumentType]
        return counts


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


@asynccontextmanager
async def connected(telemetry: Telemetry) -> AsyncGenerator[tuple[Broker, Connection], None]:
    with anyio.fail_after(10):
        async with (
            Broker() as broker,
            anyamqp.connect("amqp://guest:guest@memory/", dial=broker.dial, hooks=telemetry.hooks) as connection,
        ):
            async with connection.channel() as channel:
                await channel.declare_queue("orders")
            yield broker, connection


def current() -> str:
    """The id of the current span; empty without one."""
    found = trace.get_current_span().get_span_context()
    return trace.format_span_id(found.span_id) if found.is_valid else ""


def id_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return trace.format_span_id(span.context.span_id)


async def test_a_trace_tells_of_publish_loss_resend_and_processing(telemetry: Telemetry) -> None:
    async with connected(telemetry) as (broker, connection):
        async with connection.publisher() as publisher:
            broker.faults.before("basic.ack").reset()
            await publisher.publish(Message(b"tea", message_id="m-1"), routing_key="orders")
        async with connection.consumer("orders") as consumer, await anext(consumer):
            pass
    publish, process = telemetry.span("publish orders"), telemetry.span("process orders")
    assert (publish.kind, process.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert [event.name for event in publish.events] == ["connection lost", "connection opened", "sent again"]
    assert publish.events[0].attributes is not None
    assert "reset" in str(publish.events[0].attributes["anyamqp.reason"])
    assert process.parent is not None
    assert trace.format_span_id(process.parent.span_id) == id_of(publish)
    assert process.attributes is not None
    assert dict(process.attributes) == {
        "messaging.system": "rabbitmq",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": "orders",
        "messaging.rabbitmq.destination.routing_key": "orders",
        "messaging.rabbitmq.message.delivery_tag": 1,
        "messaging.message.id": "m-1",
        "messaging.message.body.size": 3,
        "server.address": "memory",
        "server.port": 5672,
        "anyamqp.settlement": "ack",
    }


async def test_the_process_span_is_current_in_the_body_of_the_loop(telemetry: Telemetry) -> None:
    seen: list[str] = []
    async with connected(telemetry) as (_, connection), connection.publisher() as publisher:
        for _ in range(2):
            await publisher.publish(Message(b"tea"), routing_key="orders")
        async with connection.consumer("orders") as consumer:
            async for delivery in consumer:
                async with delivery:
                    seen.append(current())
                assert not current()
                if len(seen) == 2:
                    break
    assert seen == [id_of(span) for span in telemetry.spans if span.name == "process orders"]


async def test_the_process_span_is_current_in_handlers_side_by_side(telemetry: Telemetry) -> None:
    seen: list[str] = []

    async def handle(_: Delivery) -> None:
        before = current()
        await anyio.sleep(0.001)
        assert current() == before
        seen.append(before)
        if len(seen) == 6:
            await consumer.stop()

    async with connected(telemetry) as (_, connection), connection.publisher() as publisher:
        for _ in range(6):
            await publisher.publish(Message(b"tea"), routing_key="orders")
        async with connection.consumer("orders") as consumer:
            await consumer.process(handle, concurrency=3)
        assert not current()
    assert len(set(seen)) == 6
    assert set(seen) == {id_of(span) for span in telemetry.spans if span.name == "process orders"}


async def test_a_publish_within_a_processing_belongs_to_its_trace(telemetry: Telemetry) -> None:
    async with connected(telemetry) as (_, connection), connection.publisher(mandatory=False) as publisher:
        await publisher.publish(Message(b"tea"), routing_key="orders")
        async with connection.consumer("orders") as consumer, await anext(consumer):
            await publisher.publish(Message(b"cup"), exchange="amq.topic", routing_key="next")
    publish = telemetry.span("publish amq.topic:next")
    process = telemetry.span("process orders")
    assert publish.parent is not None
    assert trace.format_span_id(publish.parent.span_id) == id_of(process)


async def test_a_span_of_the_application_is_linked_and_comes_back(telemetry: Telemetry) -> None:
    async with connected(telemetry) as (_, connection), connection.publisher() as publisher:
        await publisher.publish(Message(b"tea"), routing_key="orders")
        with telemetry.tracer.start_as_current_span("job") as job:
            async with connection.consumer("orders") as consumer, await anext(consumer):
                assert current() != trace.format_span_id(job.get_span_context().span_id)
            assert current() == trace.format_span_id(job.get_span_context().span_id)
    (link,) = telemetry.span("process orders").links
    assert link.context.span_id == job.get_span_context().span_id


async def test_a_batch_is_linked_to_the_publishes_of_its_deliveries(telemetry: Telemetry) -> None:
    async with connected(telemetry) as (_, connection), connection.publisher() as publisher:
        for _ in range(3):
            await publisher.publish(Message(b"tea"), routing_key="orders")
        async with connection.consumer("orders") as consumer:
            batch = [await anext(consumer) for _ in range(3)]
            links = telemetry.hooks.links(batch)
            batch[-1].ack(multiple=True)
    publishes = [id_of(span) for span in telemetry.spans if span.name == "publish orders"]
    assert [trace.format_span_id(link.context.span_id) for link in links] == publishes
    assert [span.attributes["anyamqp.settlement"] for span in telemetry.spans if span.name == "process orders" and span.attributes] == ["ack"] * 3  # fmt: skip  # noqa: E501


async def test_failures_are_errors_of_their_spans(telemetry: Telemetry) -> None:
    async with connected(telemetry) as (_, connection), connection.publisher() as publisher:
        with pytest.raises(Unroutable):
            await publisher.publish(Message(b"tea"), routing_key="nowhere")
        await publisher.publish(Message(b"tea"), routing_key="orders")
        async with connection.consumer("orders", on_error="reject") as consumer:
            with pytest.raises(ValueError, match="cold"):
                async with await anext(consumer):
                    raise ValueError("cold")
    for name, kind in (("publish nowhere", "Unroutable"), ("process orders", "ValueError")):
        span = telemetry.span(name)
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes is not None
        assert span.attributes["error.type"] == kind


async def test_a_message_without_headers_that_can_be_read_begins_a_trace_of_its_own(telemetry: Telemetry) -> None:
    async with connected(telemetry) as (_, connection), connection.channel() as channel:
        await channel.publish(Message(b"tea", headers={"traceparent": "rubbish"}), routing_key="orders")
        async with connection.consumer("orders") as consumer, await anext(consumer):
            pass
    assert telemetry.span("process orders").parent is None


async def test_calls_and_gets_are_spans_of_a_client(telemetry: Telemetry) -> None:
    async def serve(delivery: Delivery) -> Message:
        return Message(delivery.body)

    async with connected(telemetry) as (_, connection):
        async with (
            connection.consumer("orders") as consumer,
            connection.publisher() as publisher,
            connection.rpc_client() as rpc,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(anyamqp.serve_rpc, consumer, publisher, serve)
            await rpc.call(Message(b"17"), routing_key="orders")
            await consumer.stop()
        async with connection.channel() as channel:
            await channel.publish(Message(b"tea"), routing_key="orders")
            assert await channel.get("orders", no_ack=True) is not None
    assert {telemetry.span(name).kind for name in ("call orders", "get orders")} == {SpanKind.CLIENT}
    process = telemetry.span("process orders")
    assert process.parent is not None
    assert trace.format_span_id(process.parent.span_id) == id_of(telemetry.span("call orders"))


async def test_metrics_count_what_was_sent_and_processed(telemetry: Telemetry) -> None:
    async with connected(telemetry) as (_, connection), connection.publisher() as publisher:
        for _ in range(2):
            await publisher.publish(Message(b"tea"), routing_key="orders")
        async with connection.consumer("orders") as consumer, await anext(consumer):
            pass
    assert telemetry.counts() == {
        "messaging.client.operation.duration": 2,
        "messaging.client.sent.messages": 2,
        "messaging.client.consumed.messages": 1,
        "messaging.process.duration": 1,
    }


@pytest.mark.parametrize(("opted", "is_doubled"), [("", False), ("messaging", False), ("http,messaging/dup", True)])
async def test_older_names_come_beside_the_present_ones_when_asked_for(
    opted: str, is_doubled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", opted)
    telemetry = Telemetry()
    async with connected(telemetry) as (_, connection), connection.publisher() as publisher:
        await publisher.publish(Message(b"tea"), routing_key="orders")
    attributes = telemetry.span("publish orders").attributes or {}
    assert ("messaging.operation" in attributes, "net.peer.name" in attributes) == (is_doubled, is_doubled)
    assert attributes["messaging.operation.name"] == "publish"
