"""Traces and metrics for OpenTelemetry: ``pip install 'anyamqp[opentelemetry]'``.

    async with anyamqp.connect(url, hooks=OpenTelemetry()) as connection:

The names are those of OpenTelemetry's "Semantic Conventions for RabbitMQ". A publish is a span of its own, and its
context travels in the headers of the message. The process span begins when a delivery is handed to the application,
ends when it is settled, and is the current span in between: in the body of ``async for``, in ``async with delivery``,
and in the handler of ``process`` or ``serve_rpc``. It is a child of the publish, so that a trace shows both, and has a
link to the span that was current before.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Final

from opentelemetry import context, metrics, propagate, trace
from opentelemetry.context import Context
from opentelemetry.metrics import Histogram, MeterProvider
from opentelemetry.propagators.textmap import Setter, TextMapPropagator
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.util.types import AttributeValue

from anyamqp.delivery import Delivery
from anyamqp.endpoint import Address
from anyamqp.errors import AnyamqpError, MalformedProperties
from anyamqp.hooks import DeliveryHook, Hooks, Incoming, Outgoing, PublishHook, Settlement
from anyamqp.protocol.lifecycle import ConnectionEvent, Transition
from anyamqp.settings import VERSION

_NAME: Final = "anyamqp"
_SCHEMA: Final = "https://opentelemetry.io/schemas/1.30.0"
_OPT_IN: Final = "OTEL_SEMCONV_STABILITY_OPT_IN"
_DURATIONS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""The boundaries of the buckets, in seconds, that the conventions ask for."""
_TOLD: Final = (ConnectionEvent.LOST, ConnectionEvent.BLOCKED, ConnectionEvent.UNBLOCKED, ConnectionEvent.OPENED)
"""The events of the connection that its open spans tell of."""

Attributes = dict[str, AttributeValue]


class OpenTelemetry(Hooks):
    """Traces and metrics of one connection; another connection gets an object of its own.

    The environment variable ``OTEL_SEMCONV_STABILITY_OPT_IN`` is honoured: with ``messaging/dup`` among its values,
    spans also have the attributes of the conventions before 1.25. Everything else yields the present names alone.

    Args:
        tracer_provider: makes the spans; the global one if None.
        meter_provider: makes the metrics; the global one if None.
        propagator: writes the context into headers and reads it; the global one if None.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        propagator: TextMapPropagator | None = None,
    ) -> None:
        self._tracer = trace.get_tracer(_NAME, VERSION, tracer_provider, _SCHEMA)
        meter = metrics.get_meter(_NAME, VERSION, meter_provider, _SCHEMA)
        self._propagator = propagator
        self._is_doubled = "messaging/dup" in {value.strip() for value in os.environ.get(_OPT_IN, "").split(",")}
        self._operations: Histogram = meter.create_histogram(
            "messaging.client.operation.duration",
            "s",
            "Duration of a publish, a call or a get.",
            explicit_bucket_boundaries_advisory=_DURATIONS,
        )
        self._processing: Histogram = meter.create_histogram(
            "messaging.process.duration",
            "s",
            "Duration of the processing of a delivery.",
            explicit_bucket_boundaries_advisory=_DURATIONS,
        )
        self._sent = meter.create_counter("messaging.client.sent.messages", "{message}", "Messages published.")
        self._consumed = meter.create_counter(
            "messaging.client.consumed.messages", "{message}", "Messages handed to the application."
        )
        self._open: dict[Span, None] = {}
        """The spans that have not ended."""

    # --- hooks --------------------------------------------------------------------------------------------------------

    def transition(self, transition: Transition) -> None:
        if transition.event not in _TOLD or not self._open:
            return
        told: Attributes = {"anyamqp.connection.state": transition.target.name}
        if transition.reason is not None:
            told["anyamqp.reason"] = transition.reason
        for span in self._open:
            span.add_event(f"connection {transition.event.value}", told)

    def publish(self, outgoing: Outgoing) -> PublishHook:
        name = "call" if outgoing.kind == "call" else "publish"
        destination = ":".join(part for part in (outgoing.exchange, outgoing.routing_key) if part) or "amq.default"
        common = self._common("send", name, destination, outgoing.address)
        attributes = dict(common)
        attributes["messaging.message.body.size"] = len(outgoing.message.body)
        if outgoing.routing_key:
            attributes["messaging.rabbitmq.destination.routing_key"] = outgoing.routing_key
        if outgoing.message.message_id is not None:
            attributes["messaging.message.id"] = outgoing.message.message_id
        if outgoing.message.correlation_id is not None:
            attributes["messaging.message.conversation_id"] = outgoing.message.correlation_id
        kind = SpanKind.CLIENT if outgoing.kind == "call" else SpanKind.PRODUCER
        span = self._start(f"{name} {destination}", kind, attributes)
        carrier: dict[str, str] = {}
        self._propagation.inject(carrier, trace.set_span_in_context(span), _Headers())
        outgoing.add_headers(carrier)
        return _TracedPublish(self, span, common)

    def delivery(self, incoming: Incoming) -> DeliveryHook:
        delivery = incoming.delivery
        queue = "" if incoming.queue == delivery.routing_key else incoming.queue
        destination = ":".join(part for part in (delivery.exchange, delivery.routing_key, queue) if part)
        type_, name = ("receive", "get") if incoming.is_got else ("process", "process")
        common = self._common(type_, name, destination, incoming.address)
        self._consumed.add(1, common)
        attributes = dict(common)
        attributes["messaging.message.body.size"] = len(delivery.body)
        attributes["messaging.rabbitmq.message.delivery_tag"] = delivery.delivery_tag
        if delivery.routing_key:
            attributes["messaging.rabbitmq.destination.routing_key"] = delivery.routing_key
        if delivery.redelivered:
            attributes["anyamqp.redelivered"] = True
        _add_ids(attributes, delivery)
        previous = context.get_current()
        origin = self._propagation.extract(_carrier(delivery), previous)
        ambient = trace.get_current_span(previous).get_span_context()
        links = [Link(ambient)] if ambient.is_valid and origin is not previous else []
        kind = SpanKind.CLIENT if incoming.is_got else SpanKind.CONSUMER
        span = self._start(f"{name} {destination}", kind, attributes, origin, links)
        if not incoming.is_got:
            context.attach(trace.set_span_in_context(span, origin))
        return _TracedDelivery(self, span, common, previous, is_got=incoming.is_got)

    # --- for the application's own spans ------------------------------------------------------------------------------

    def links(self, deliveries: Sequence[Delivery]) -> list[Link]:
        """Links to the publishes of deliveries, for a span that handles many of them together."""
        spans = [
            trace.get_current_span(self._propagation.extract(_carrier(delivery), Context())).get_span_context()
            for delivery in deliveries
        ]
        return [Link(span) for span in spans if span.is_valid]

    # --- inside -------------------------------------------------------------------------------------------------------

    @property
    def _propagation(self) -> TextMapPropagator:
        # Asked for each time: a program may set its global propagator after the connection was made.
        return propagate.get_global_textmap() if self._propagator is None else self._propagator

    def _common(self, type_: str, name: str, destination: str, address: Address) -> Attributes:
        """The attributes that metrics have too: few values, whatever is published."""
        return {
            "messaging.system": "rabbitmq",
            "messaging.operation.type": type_,
            "messaging.operation.name": name,
            "messaging.destination.name": destination,
            "server.address": address.host,
            "server.port": address.port,
        }

    def _start(
        self,
        name: str,
        kind: SpanKind,
        attributes: Attributes,
        parent: Context | None = None,
        links: Sequence[Link] = (),
    ) -> Span:
        if self._is_doubled:
            attributes |= _older(attributes)
        span = self._tracer.start_span(name, parent, kind, attributes, links)
        self._open[span] = None
        return span

    def _end(self, span: Span, error: BaseException | None) -> None:
        self._open.pop(span, None)
        if error is not None:
            span.record_exception(error)
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(Status(StatusCode.ERROR, str(error)))
        span.end()

    def published(self, span: Span, common: Attributes, seconds: float, error: BaseException | None) -> None:
        """A publish has its outcome."""
        self._end(span, error)
        told = _with_error(common, error)
        self._sent.add(1, told)
        self._operations.record(seconds, told)

    def processed(
        self, span: Span, common: Attributes, seconds: float, error: BaseException | None, *, is_got: bool
    ) -> None:
        """A delivery has ended."""
        self._end(span, error)
        (self._operations if is_got else self._processing).record(seconds, _with_error(common, error))


class _Headers(Setter[dict[str, str]]):
    """Writes a context into headers."""

    def set(self, carrier: dict[str, str], key: str, value: str) -> None:
        carrier[key] = value


class _TracedPublish(PublishHook):
    """The span of a publish."""

    def __init__(self, owner: OpenTelemetry, span: Span, common: Attributes) -> None:
        self._owner = owner
        self._span = span
        self._common = common
        self._begun = perf_counter()

    def sent(self, attempt: int) -> None:
        if attempt > 1:
            self._span.add_event("sent again", {"anyamqp.attempt": attempt})

    def ended(self, error: BaseException | None) -> None:
        self._owner.published(self._span, self._common, perf_counter() - self._begun, error)


class _TracedDelivery(DeliveryHook):
    """The span of the processing of a delivery."""

    def __init__(
        self, owner: OpenTelemetry, span: Span, common: Attributes, previous: Context, *, is_got: bool
    ) -> None:
        self._owner = owner
        self._span = span
        self._common = common
        self._previous = previous
        self._is_got = is_got
        self._error: BaseException | None = None
        self._begun = perf_counter()

    def failed(self, error: BaseException) -> None:
        self._error = error

    def ended(self, settlement: Settlement) -> None:
        if not self._is_got:
            self._span.set_attribute("anyamqp.settlement", settlement)
        seconds = perf_counter() - self._begun
        self._owner.processed(self._span, self._common, seconds, self._error, is_got=self._is_got)

    def left(self) -> None:
        if not self._is_got:
            # Not detach(): a handler may settle in a task of its own, whose context is a copy.
            context.attach(self._previous)


def _carrier(delivery: Delivery) -> Mapping[str, str]:
    try:
        headers = delivery.headers
    except MalformedProperties:
        return {}
    return {key: value for key, value in headers.items() if isinstance(value, str)}


def _add_ids(attributes: Attributes, delivery: Delivery) -> None:
    try:
        ids = {
            "messaging.message.id": delivery.message_id,
            "messaging.message.conversation_id": delivery.correlation_id,
        }
    except MalformedProperties:
        return
    attributes |= {key: value for key, value in ids.items() if value is not None}


def _with_error(common: Attributes, error: BaseException | None) -> Attributes:
    if error is None:
        return common
    # A class of the application's could be any; of ours there are few.
    kind = type(error).__qualname__ if isinstance(error, AnyamqpError) else "_OTHER"
    return {**common, "error.type": kind}


def _older(attributes: Attributes) -> Attributes:
    """The attributes of the conventions before 1.25."""
    renamed = {"server.address": "net.peer.name", "server.port": "net.peer.port"}
    older = {renamed[key]: value for key, value in attributes.items() if key in renamed}
    operation = {"send": "publish"}.get(str(attributes["messaging.operation.type"]))
    return {**older, "messaging.operation": operation or attributes["messaging.operation.type"]}
