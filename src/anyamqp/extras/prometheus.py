"""Metrics for Prometheus: ``pip install 'anyamqp[prometheus]'``.

    async with anyamqp.connect(url, name="billing", hooks=Prometheus()) as connection:

One object may serve all connections of a program; the label ``connection`` is the connection's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Final

from prometheus_client import Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import REGISTRY, Collector, CollectorRegistry

from anyamqp.core.stats import Stats
from anyamqp.errors import AnyamqpError
from anyamqp.hooks import DeliveryHook, Hooks, Incoming, Outgoing, PublishHook, PublishKind, Settlement
from anyamqp.protocol.lifecycle import State, Transition

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Prometheus(Hooks):
    """Metrics of connections, registered when it is made.

    Args:
        registry: where to register them; the global one if None.

    Raises:
        ValueError: the registry has such an object already: one is enough for all connections.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        target = REGISTRY if registry is None else registry
        self._connections = _Connections()
        target.register(self._connections)
        self._transitions = Counter(
            "anyamqp_transitions_total",
            "Transitions of connections, channels and links.",
            ("machine", "event", "state"),
            registry=target,
        )
        self._publishes = Counter(
            "anyamqp_publishes_total", "Publishes and calls by outcome.", ("kind", "outcome"), registry=target
        )
        self._resends = Counter(
            "anyamqp_resends_total", "Publishes that were sent again, each time counted.", registry=target
        )
        self._publish_seconds = Histogram(
            "anyamqp_publish_seconds",
            "Seconds from a publish or call to its outcome.",
            ("kind",),
            buckets=_SECONDS,
            registry=target,
        )
        self._deliveries = Counter(
            "anyamqp_deliveries_total", "Deliveries handed to the application.", ("redelivered",), registry=target
        )
        self._settlements = Counter(
            "anyamqp_settlements_total", "Deliveries by how they ended.", ("settlement",), registry=target
        )
        self._failures = Counter(
            "anyamqp_failed_deliveries_total", "Deliveries whose handler or block raised.", registry=target
        )
        self._process_seconds = Histogram(
            "anyamqp_process_seconds",
            "Seconds from the hand-out of a delivery to its end.",
            buckets=_SECONDS,
            registry=target,
        )

    def begun(self, name: str | None, stats: Callable[[], Stats]) -> None:
        self._connections.add(name or "anyamqp", stats)

    def transition(self, transition: Transition) -> None:
        machine = transition.machine.partition(" ")[0]
        self._transitions.labels(machine, transition.event.value, transition.target.name).inc()

    def publish(self, outgoing: Outgoing) -> PublishHook:
        return _CountedPublish(self, outgoing.kind)

    def delivery(self, incoming: Incoming) -> DeliveryHook:
        self._deliveries.labels("yes" if incoming.delivery.redelivered else "no").inc()
        return _CountedDelivery(self)

    # --- for the hooks of messages ------------------------------------------------------------------------------------

    def sent_again(self) -> None:
        """A publish was sent again."""
        self._resends.inc()

    def published(self, kind: PublishKind, seconds: float, error: BaseException | None) -> None:
        """A publish has its outcome."""
        outcome = "ok" if error is None else type(error).__name__ if isinstance(error, AnyamqpError) else "cancelled"
        self._publishes.labels(kind, outcome).inc()
        self._publish_seconds.labels(kind).observe(seconds)

    def failed(self) -> None:
        """A handler or a block raised."""
        self._failures.inc()

    def processed(self, settlement: Settlement, seconds: float) -> None:
        """A delivery has ended."""
        self._settlements.labels(settlement).inc()
        self._process_seconds.observe(seconds)


class _CountedPublish(PublishHook):
    """Counts one publish."""

    __slots__ = ("_begun", "_kind", "_owner")

    def __init__(self, owner: Prometheus, kind: PublishKind) -> None:
        self._owner = owner
        self._kind: PublishKind = kind
        self._begun = perf_counter()

    def sent(self, attempt: int) -> None:
        if attempt > 1:
            self._owner.sent_again()

    def ended(self, error: BaseException | None) -> None:
        self._owner.published(self._kind, perf_counter() - self._begun, error)


class _CountedDelivery(DeliveryHook):
    """Counts one delivery."""

    __slots__ = ("_begun", "_owner")

    def __init__(self, owner: Prometheus) -> None:
        self._owner = owner
        self._begun = perf_counter()

    def failed(self, error: BaseException) -> None:  # noqa: ARG002
        self._owner.failed()

    def ended(self, settlement: Settlement) -> None:
        self._owner.processed(settlement, perf_counter() - self._begun)


_GAUGES: Final[tuple[tuple[str, str, Callable[[Stats], float]], ...]] = (
    ("anyamqp_open_channels", "Channels in use.", lambda stats: stats.open_channels),
    ("anyamqp_unconfirmed", "Publishes that wait for an outcome.", lambda stats: stats.unconfirmed),
    ("anyamqp_window", "Publishes that may wait, in all windows together.", lambda stats: stats.window),
    ("anyamqp_not_back", "Entities, consumers and channels not back after a loss.", lambda stats: len(stats.not_back)),
    (
        "anyamqp_silent_seconds",
        "Seconds since bytes came from the broker; a silent one is given up after two heartbeat intervals.",
        lambda stats: stats.silent_for or 0.0,
    ),
)
_COUNTERS: Final[tuple[tuple[str, str, Callable[[Stats], float]], ...]] = (
    ("anyamqp_dials", "Attempts to connect.", lambda stats: stats.dials),
    ("anyamqp_reconnects", "How often a lost connection came back.", lambda stats: stats.reconnects),
    ("anyamqp_stale_acks", "Settlements not sent because their link was gone.", lambda stats: stats.stale_acks),
    ("anyamqp_unknown_confirms", "Confirms that nothing waited for.", lambda stats: stats.unknown_confirms),
    ("anyamqp_stalls", "How often the event loop was blocked for long.", lambda stats: stats.stalls),
    ("anyamqp_blocked_seconds", "Seconds in state BLOCKED.", lambda stats: stats.blocked_seconds),
    ("anyamqp_sent_bytes", "Bytes sent.", lambda stats: stats.bytes_sent),
    ("anyamqp_received_bytes", "Bytes received.", lambda stats: stats.bytes_received),
)


class _Connections(Collector):
    """Asks the connections for their statistics when Prometheus asks."""

    def __init__(self) -> None:
        self._stats: dict[str, Callable[[], Stats]] = {}

    def add(self, name: str, stats: Callable[[], Stats]) -> None:
        """A connection begins. One that has ended gives its name away."""
        self._stats = {key: one for key, one in self._stats.items() if one().state is not State.CLOSED}
        label, number = name, 1
        while label in self._stats:
            number += 1
            label = f"{name}-{number}"
        self._stats[label] = stats

    def collect(self) -> Iterator[Metric]:
        """The metrics of this moment."""
        snapshots = [(name, stats()) for name, stats in list(self._stats.items())]
        state = GaugeMetricFamily("anyamqp_state", "1 for the state of the connection.", labels=("connection", "state"))
        for name, stats in snapshots:
            for one in State:
                state.add_metric((name, one.name), float(stats.state is one))
        yield state
        for metric, text, value in _GAUGES:
            gauge = GaugeMetricFamily(metric, text, labels=("connection",))
            for name, stats in snapshots:
                gauge.add_metric((name,), value(stats))
            yield gauge
        for metric, text, value in _COUNTERS:
            counter = CounterMetricFamily(metric, text, labels=("connection",))
            for name, stats in snapshots:
                counter.add_metric((name,), value(stats))
            yield counter
