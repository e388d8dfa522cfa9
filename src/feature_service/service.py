"""The service: market events in, feature vectors out.

Two connections, because RabbitMQ blocks those that publish when it is short of memory, and reading should go on then.
Three kinds of tasks, which know nothing of each other but the states of the symbols and the outbox between them: one
reader a source queue, one that computes at each interval, one that publishes. The one that computes never waits for a
broker.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from math import isfinite
from random import Random
from typing import Final

import anyio
import anyio.lowlevel

import anyamqp
from anyamqp import Connection, Delivery, Message
from feature_service.events import BadEvent, parse
from feature_service.features import FEATURE_REGISTRY_VERSION, HOLD, SymbolState
from feature_service.outbox import Outbox, Parcel
from feature_service.settings import ServiceSettings
from feature_service.vector import FeatureVector

LOGGER: Final = logging.getLogger("feature_service")

_BATCH: Final = 256
_MOST_SYMBOLS: Final = 10_000
_FIRST_RETRY, _LONGEST_RETRY = 1.0, 10.0
"""Seconds between looks for a queue that is not there."""
_LOG_EVERY: Final = 1000


@dataclass(slots=True)
class Counters:
    """What the service has seen.

    Attributes:
        events: events read, by the queue they came from.
        bad_events: events that could not be read; they are dropped, not requeued.
        ignored_symbols: events of symbols beyond the most that are kept.
    """

    events: dict[str, int] = field(default_factory=dict[str, int])
    bad_events: int = 0
    ignored_symbols: int = 0


@dataclass(slots=True)
class _Symbol:
    state: SymbolState
    heard_at: float
    trace_id: str | None = None


class FeatureService:
    """Reads market events, keeps a state for each symbol, publishes a vector for each symbol and interval.

    Args:
        settings: what it is told.
        dial_reading: opens the transport of the connection that reads.
        dial_publishing: opens the transport of the connection that publishes.
        outbox: where accepted vectors wait; one of ``settings.buffer`` by default.
        clock: seconds since the epoch, for events and vectors.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        *,
        dial_reading: anyamqp.Dial | None = None,
        dial_publishing: anyamqp.Dial | None = None,
        outbox: Outbox | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.counters = Counters()
        self.outbox = Outbox(settings.buffer) if outbox is None else outbox
        self.reading = _connect(settings, "reading", dial_reading)
        self.publishing = _connect(settings, "publishing", dial_publishing)
        self._clock = clock
        self._symbols: dict[str, _Symbol] = {}
        self._random = Random()  # noqa: S311 - spreads retries, guards nothing
        self._accepted = anyio.Event()
        self._sent = anyio.Event()
        self._input = anyio.CancelScope()
        self._stopping = anyio.Event()
        self._was_full = False

    async def run(self) -> None:
        """Work until :meth:`stop`, then publish what waits, within ``shutdown_timeout``, and close.

        Raises:
            ConnectionClosed: a connection gave up; with the service's own policy none does.
        """
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.reading)
            await stack.enter_async_context(self.publishing)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._publish)
                with self._input:
                    async with anyio.create_task_group() as inputs:
                        for source in self.settings.sources:
                            inputs.start_soon(self._read, source)
                        inputs.start_soon(self._compute)
                await self._drain()
                tasks.cancel_scope.cancel()

    def stop(self) -> None:
        """Stop reading and computing; :meth:`run` then ends."""
        self._stopping.set()
        self._input.cancel()

    @property
    def is_stopping(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stopping.is_set()

    # --- reading ----------------------------------------------------------------------------------------------------

    async def _read(self, source: str) -> None:
        retry = _FIRST_RETRY
        while True:
            try:
                async with self.reading.channel() as channel:
                    await channel.declare_queue(source, passive=True)
                async with self.reading.consumer(source) as consumer:
                    LOGGER.info("reading %s", source)
                    retry = _FIRST_RETRY
                    async for delivery in consumer:
                        self._handle(source, delivery)
            except (anyamqp.ReplyError, anyamqp.ConsumerCancelled) as error:
                LOGGER.warning("cannot read %s: %s; trying again in %.0f s at most", source, error, retry)
            await anyio.sleep(retry * self._random.uniform(0.5, 1.0))
            retry = min(retry * 2, _LONGEST_RETRY)

    def _handle(self, source: str, delivery: Delivery) -> None:
        now = self._clock()
        try:
            events = parse(delivery.body, now=now)
        except BadEvent as error:
            self.counters.bad_events += 1
            if self.counters.bad_events % _LOG_EVERY == 1:
                LOGGER.warning("bad event %d from %s: %s", self.counters.bad_events, source, error)
            # Requeued, it would come back for ever and hold up what is behind it.
            delivery.reject(requeue=False)
            return
        for event in events:
            self.counters.events[source] = self.counters.events.get(source, 0) + 1
            symbol = self._symbols.get(event.symbol)
            if symbol is None:
                if len(self._symbols) >= _MOST_SYMBOLS:
                    self.counters.ignored_symbols += 1
                    continue
                symbol = self._symbols[event.symbol] = _Symbol(SymbolState(), now)
            symbol.state.apply(event)
            symbol.heard_at = now
            symbol.trace_id = event.trace_id or symbol.trace_id
        delivery.ack()

    # --- computing --------------------------------------------------------------------------------------------------

    async def _compute(self) -> None:
        interval = self.settings.interval
        due = anyio.current_time()
        while True:
            # A late turn is made up for once, not by a burst of vectors for moments that are past.
            due = max(due + interval, anyio.current_time())
            await anyio.sleep_until(due)
            now = self._clock()
            for name, symbol in list(self._symbols.items()):
                if now - symbol.heard_at > HOLD:
                    del self._symbols[name]
                    continue
                self._offer(self._vector(name, symbol, now))
                await anyio.lowlevel.checkpoint()  # many symbols must not keep the heartbeats waiting

    def _vector(self, name: str, symbol: _Symbol, now: float) -> FeatureVector:
        features = {key: value for key, value in symbol.state.features(now).items() if isfinite(value)}
        return FeatureVector(now, name, features, FEATURE_REGISTRY_VERSION, symbol.trace_id)

    def _offer(self, vector: FeatureVector) -> None:
        if self.outbox.offer(vector):
            self._was_full = False
            self._accepted.set()
        elif not self._was_full:
            self._was_full = True
            LOGGER.error(
                "the buffer of %d vectors is full: new ones are refused until some are confirmed", len(self.outbox)
            )

    # --- publishing -------------------------------------------------------------------------------------------------

    async def _publish(self) -> None:
        retry = _FIRST_RETRY
        while True:
            try:
                async with self.publishing.channel() as channel:
                    await channel.declare_queue(self.settings.queue, durable=True)
                async with self.publishing.publisher(window=_BATCH) as publisher:
                    while True:
                        while not len(self.outbox):
                            self._accepted = anyio.Event()
                            await self._accepted.wait()
                        await self._send(publisher)
                        retry = _FIRST_RETRY
            except anyamqp.ConnectionClosed:
                raise
            except anyamqp.AnyamqpError as error:
                LOGGER.warning("publishing failed: %s; trying again in %.0f s at most", error, retry)
            await anyio.sleep(retry * self._random.uniform(0.5, 1.0))
            retry = min(retry * 2, _LONGEST_RETRY)

    async def _send(self, publisher: anyamqp.Publisher) -> None:
        """Publish a batch and wait for every outcome; what failed goes back, and the first failure is raised."""
        parcels = self.outbox.take(_BATCH)
        failed: list[Parcel] = []
        failure: anyamqp.AnyamqpError | None = None
        settled = 0
        try:
            publications = [
                await publisher.submit(self._message(parcel), routing_key=self.settings.queue, timeout=None)
                for parcel in parcels
            ]
            for parcel, publication in zip(parcels, publications, strict=True):
                try:
                    await publication
                except (anyamqp.Unroutable, anyamqp.Nacked, anyamqp.ReplyError) as error:
                    failed.append(parcel)
                    failure = failure or error
                else:
                    self.outbox.confirm(parcel)
                settled += 1
        finally:
            self.outbox.put_back([*failed, *parcels[settled:]])
            self._sent.set()
        if failure is not None:
            raise failure

    def _message(self, parcel: Parcel) -> Message:
        return Message(
            parcel.body,
            content_type="application/json",
            type="feature_vector",
            app_id="feature-service",
            message_id=parcel.message_id,
            headers={"symbol": parcel.vector.symbol, "feature_registry_version": FEATURE_REGISTRY_VERSION},
        )

    async def _drain(self) -> None:
        LOGGER.info("stopping: %d vectors wait for their confirm", len(self.outbox))
        with anyio.move_on_after(self.settings.shutdown_timeout):
            while len(self.outbox):
                self._sent = anyio.Event()
                await self._sent.wait()
        if len(self.outbox):
            LOGGER.error(
                "%d accepted vectors could not be published within %.0f s and are lost with this process",
                len(self.outbox),
                self.settings.shutdown_timeout,
            )


def _connect(settings: ServiceSettings, purpose: str, dial: anyamqp.Dial | None) -> Connection:
    name = f"feature-service ({purpose})"
    if dial is None:
        return anyamqp.connect(settings.broker, name=name, ready_timeout=0, fail_fast=False)
    return anyamqp.connect(settings.broker, name=name, ready_timeout=0, fail_fast=False, dial=dial)
