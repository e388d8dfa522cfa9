"""The demo's parties (gateway, service and model service) with their records, and the account."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import Final

import anyio
import anyio.abc

import anyamqp
from anyamqp import Address, Connection, Message, Settings, State
from feature_service.demo_stage import Schedule, Stage
from feature_service.exchange import SyntheticExchange
from feature_service.outbox import Outbox, Parcel
from feature_service.service import FeatureService
from feature_service.settings import QUEUE, SOURCES, ServiceSettings, for_service
from feature_service.vector import FeatureVector

SYMBOLS: Final = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT")
_DAY_MS: Final = 86_400_000
_FEED_EVERY: Final = 0.05
_INTERVAL: Final = 0.1
"""Seconds between two vectors of a symbol. The default has a tenth as many, so the demo has more to lose."""
PATIENCE: Final = 30.0
"""Seconds that the demo waits for any expected event."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """The options of the demo.

    Attributes:
        broker: a running RabbitMQ; None for the embedded broker.
        seed: makes a run repeatable; None for a random one.
        duration: seconds of faults.
        live: whether to show the live view, if there is a terminal.
        backend: the event loop.
    """

    broker: Settings | None = None
    seed: int | None = None
    duration: float = 20.0
    live: bool = True
    backend: str = "asyncio"


class CountingDialer:
    """Opens TCP connections, and counts the attempts in progress at once."""

    def __init__(self) -> None:
        self.dials = 0
        self.most_at_once = 0
        self._now = 0

    async def __call__(self, address: Address) -> anyio.abc.ByteStream:
        self.dials += 1
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            return await anyio.connect_tcp(address.host, address.port)
        finally:
            self._now -= 1


class AuditedOutbox(Outbox):
    """An outbox that records which vectors were accepted and confirmed."""

    def __init__(self, bound: int) -> None:
        super().__init__(bound)
        self.accepted_ids: set[str] = set()
        self.confirmed_ids: set[str] = set()

    def offer(self, vector: FeatureVector) -> Parcel | None:
        parcel = super().offer(vector)
        if parcel is not None:
            self.accepted_ids.add(parcel.message_id)
        return parcel

    def confirm(self, parcel: Parcel) -> None:
        super().confirm(parcel)
        self.confirmed_ids.add(parcel.message_id)


@dataclass(slots=True)
class ModelService:
    """The reader of the vectors. It records their ids and checks their order.

    Attributes:
        seen: the message ids so far.
        duplicates: how many deliveries repeated an earlier one.
        disordered: how many first deliveries were older than an earlier vector of the same symbol.
    """

    seen: set[str] = field(default_factory=set[str])
    duplicates: int = 0
    disordered: int = 0
    _latest: dict[str, float] = field(default_factory=dict[str, float])

    def take(self, message_id: str, vector: FeatureVector) -> None:
        """A vector was delivered."""
        if message_id in self.seen:
            self.duplicates += 1
            return
        self.seen.add(message_id)
        if vector.timestamp < self._latest.get(vector.symbol, 0.0):
            self.disordered += 1
        self._latest[vector.symbol] = max(vector.timestamp, self._latest.get(vector.symbol, 0.0))

    async def read(self, connection: Connection, queue: str) -> None:
        """Read the queue until cancelled."""
        async with connection.consumer(queue, prefetch=64) as consumer:
            async for delivery in consumer:
                async with delivery:
                    self.take(delivery.message_id or "", FeatureVector.from_json(delivery.body))


@dataclass(frozen=True, slots=True)
class Account:
    """The records of all parties at the end of the demo."""

    accepted: set[str]
    confirmed: set[str]
    delivered: set[str]
    refused: int
    duplicates: int
    disordered: int
    dials_at_once: int
    channels_at_start: int
    channels_now: int
    unexpected_closes: int | None
    reconnects: int

    @property
    def lost(self) -> list[str]:
        """The vectors that were accepted but never delivered."""
        return sorted(self.accepted - self.delivered)

    def lines(self) -> list[tuple[str, str, bool]]:
        """One line per check: its name, the finding, and whether the finding is right."""
        counts = f"{len(self.accepted)} = {len(self.confirmed)} = {len(self.delivered)}"
        lost = f"{len(self.lost)}{': ' + ', '.join(self.lost[:3]) if self.lost else ''}"
        lines = [
            ("accepted = confirmed = delivered", counts, self.accepted == self.confirmed == self.delivered != set()),
            ("lost", lost, not self.lost),
            ("first deliveries out of order", str(self.disordered), self.disordered == 0),
            ("dials in progress at once, at most", str(self.dials_at_once), self.dials_at_once <= 1),
            (
                "channels at the start and now",
                f"{self.channels_at_start} and {self.channels_now}",
                self.channels_at_start == self.channels_now,
            ),
        ]
        if self.unexpected_closes is not None:
            closes = self.unexpected_closes
            lines.append(("closes without a handshake, as the broker saw it", str(closes), closes == 0))
        return lines

    @property
    def adds_up(self) -> bool:
        """Whether every check is right."""
        return all(is_right for _, _, is_right in self.lines())


class Cast:
    """All parties, and their connections by name."""

    def __init__(self, stage: Stage, seed: int, prefix: str, backend: str) -> None:
        self.stage = stage
        self.prefix = prefix
        self.queue = prefix + QUEUE
        self.sources = tuple(prefix + source for source in SOURCES)
        self.exchange = SyntheticExchange(SYMBOLS, seed)
        self.schedule = Schedule(stage.faults, random.Random(seed))  # noqa: S311 - a script, not a secret
        self.model = ModelService()
        self.outbox = AuditedOutbox(10_000)
        self.dialers = {name: CountingDialer() for name in ("gateway", "reading", "publishing", "model")}
        settings = for_service(stage.settings)
        self.service = FeatureService(
            ServiceSettings(
                broker=settings,
                sources=self.sources,
                queue=self.queue,
                interval=_INTERVAL,
                shutdown_timeout=PATIENCE,
                backend=backend,
            ),
            dial_reading=self.dialers["reading"],
            dial_publishing=self.dialers["publishing"],
            outbox=self.outbox,
        )
        self.connections: dict[str, Connection] = {
            "gateway": anyamqp.connect(settings, name="demo gateway", dial=self.dialers["gateway"]),
            "reading": self.service.reading,
            "publishing": self.service.publishing,
            "model": anyamqp.connect(settings, name="demo model service", dial=self.dialers["model"]),
        }

    @property
    def channels(self) -> int:
        """How many channels are open: the broker's count if it is known, else the clients'."""
        if self.stage.channel_count is not None:
            return self.stage.channel_count()
        return sum(connection.stats.open_channels for connection in self.connections.values())

    @property
    def is_calm(self) -> bool:
        """Whether all parties are connected and have the right number of channels."""
        expected = {"gateway": 1, "reading": len(self.sources), "publishing": 1, "model": 1}
        return all(
            connection.state is State.OPEN and connection.stats.open_channels == expected[name]
            for name, connection in self.connections.items()
        ) and self.channels == sum(expected.values())

    async def feed(self) -> None:
        """Publish market events, as the gateway, until cancelled."""
        async with self.connections["gateway"].publisher() as publisher:
            while True:
                for event in self.exchange.step(time.time()):
                    await publisher.submit(Message(event.body), routing_key=self.prefix + event.queue, timeout=None)
                await anyio.sleep(_FEED_EVERY)

    async def declare(self) -> None:
        """Declare the gateway's queues, and the queue that both services share."""
        async with self.connections["gateway"].channel() as channel:
            for source in self.sources:
                await channel.declare_queue(source, durable=True, arguments={"x-message-ttl": _DAY_MS})
            await channel.declare_queue(self.queue, durable=True)

    async def remove(self) -> None:
        """Delete the queues."""
        async with self.connections["gateway"].channel() as channel:
            for queue in (*self.sources, self.queue):
                await channel.delete_queue(queue)

    def account(self, channels_at_start: int, channels_now: int) -> Account:
        """Draw up the account."""
        closes = self.stage.unexpected_closes
        return Account(
            accepted=self.outbox.accepted_ids,
            confirmed=self.outbox.confirmed_ids,
            delivered=self.model.seen,
            refused=self.outbox.refused,
            duplicates=self.model.duplicates,
            disordered=self.model.disordered,
            dials_at_once=max(dialer.most_at_once for dialer in self.dialers.values()),
            channels_at_start=channels_at_start,
            channels_now=channels_now,
            unexpected_closes=None if closes is None else closes(),
            reconnects=sum(connection.stats.reconnects for connection in self.connections.values()),
        )
