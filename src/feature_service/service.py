"""The service: market events in, feature vectors out.

The service has two connections: RabbitMQ blocks publishing connections when it is short of memory, and the service goes
on reading then. It has three kinds of tasks: one reader per source queue, one task that computes vectors at each
interval, and one that publishes them. They share only the states of the symbols and the outbox, so the computing task
never waits for a broker.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from math import isfinite
from typing import Final

import anyio
import anyio.lowlevel

import anyamqp
from anyamqp import Connection, Delivery, Message, State
from feature_service.clock import Clock, Moment
from feature_service.events import Event, Trade, parse
from feature_service.features import FEATURE_REGISTRY_VERSION, HOLD
from feature_service.fields import MAX_BODY, BadBody
from feature_service.outbox import Outbox, Parcel
from feature_service.pause import GrowingPause
from feature_service.reader import QueueReader
from feature_service.settings import ServiceSettings
from feature_service.symbols import Symbol, Symbols
from feature_service.vector import FeatureVector

LOGGER: Final = logging.getLogger("feature_service")

_BATCH: Final = 256
_LOG_EVERY: Final = 1000


@dataclass(slots=True)
class Counters:
    """Counts of events and messages.

    Attributes:
        events: how many events were read, by queue.
        bad_events: how many messages could not be read; they are rejected, not requeued.
        oversized: how many of these were larger than ``MAX_BODY``.
        faults: how many of these failed because of a bug in the service; the log has its traceback.
    """

    events: dict[str, int] = field(default_factory=dict[str, int])
    bad_events: int = 0
    oversized: int = 0
    faults: int = 0


class FeatureService:
    """Reads market events, keeps the state of each symbol, and publishes a vector per symbol and interval.

    Args:
        settings: the settings of the service.
        dial_reading: opens transports for the reading connection.
        dial_publishing: opens transports for the publishing connection.
        outbox: holds the accepted vectors; by default, one with room for ``settings.buffer``.
        clock: the system clock, in seconds since the epoch; see :class:`Clock`.

    Attributes:
        readers: the readers of the source queues.
        publishing_error: why no vectors could be published; None once they are published again.
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
        self.reading = _connect(settings.broker, "reading", dial_reading)
        self.publishing = _connect(settings.broker, "publishing", dial_publishing)
        turns = anyio.Lock()
        self.readers = [
            QueueReader(source, connection=self.reading, handle=self._handle, turns=turns)
            for source in settings.sources
        ]
        self.publishing_error: anyamqp.AnyamqpError | None = None
        self._clock = Clock(clock)
        self._symbols = Symbols(settings.max_symbols)
        self._has_publisher = False
        self._accepted = anyio.Event()
        self._sent = anyio.Event()
        self._input = anyio.CancelScope()
        self._stopping = anyio.Event()
        self._was_full = False

    async def run(self) -> None:
        """Work until :meth:`stop`, then publish the waiting vectors within ``shutdown_timeout``, and close.

        Raises:
            ConnectionClosed: a connection gave up, which the service's own policy never does.
        """
        LOGGER.info(
            "a vector per symbol each %g s: from %s to %s, at %s, virtual host %r",
            self.settings.interval,
            ", ".join(self.settings.sources),
            self.settings.queue,
            ", ".join(map(str, self.settings.broker.addresses)),
            self.settings.broker.virtual_host,
        )
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.reading)
            await stack.enter_async_context(self.publishing)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._publish)
                with self._input:
                    async with anyio.create_task_group() as inputs:
                        for reader in self.readers:
                            inputs.start_soon(reader.run)
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

    @property
    def is_publishing(self) -> bool:
        """Whether vectors are published now: the queue is declared, and the broker accepts publishes."""
        return self._has_publisher and self.publishing.state is State.OPEN

    @property
    def is_ready(self) -> bool:
        """Whether the service is fully working: it reads every source, publishes vectors, and is not stopping."""
        is_reading = all(reader.is_reading for reader in self.readers)
        return is_reading and self.reading.state is State.OPEN and self.is_publishing and not self.is_stopping

    @property
    def symbol_count(self) -> int:
        """How many symbols are kept now."""
        return len(self._symbols)

    @property
    def displaced_symbols(self) -> int:
        """How many symbols were displaced because there are more than ``max_symbols``."""
        return self._symbols.displaced

    # --- reading ----------------------------------------------------------------------------------------------------

    def _handle(self, source: str, delivery: Delivery) -> None:
        moment = self._clock.now()
        try:
            events = parse(delivery.body, now=moment.steady, shift=moment.shift)
            for event in events:
                self._apply(event, moment)
        except BadBody as error:
            self._refuse(source, delivery, str(error))
        except Exception as error:
            # Reject the message, or this bug would end the service, which would then receive the message again.
            if self.counters.faults % _LOG_EVERY == 0:
                LOGGER.exception("fault %d: an event from %s could not be taken in", self.counters.faults + 1, source)
            self.counters.faults += 1
            self._refuse(source, delivery, repr(error))
        else:
            self.counters.events[source] = self.counters.events.get(source, 0) + len(events)
            delivery.ack()

    def _apply(self, event: Event, moment: Moment) -> None:
        if event.stamp is not None:
            self._clock.heard(event.stamp, moment)
        displaced = self._symbols.displaced
        symbol = self._symbols.heard(event.symbol, traded=isinstance(event, Trade))
        symbol.state.apply(event)
        symbol.heard_at = moment.steady
        symbol.trace_id = event.trace_id or symbol.trace_id
        if self._symbols.displaced > displaced and displaced % _LOG_EVERY == 0:
            LOGGER.warning(
                "more than %d symbols: %s took the place of one heard less (see FEATURE_MAX_SYMBOLS); %d so far",
                self.settings.max_symbols,
                event.symbol,
                self._symbols.displaced,
            )

    def _refuse(self, source: str, delivery: Delivery, reason: str) -> None:
        if self.counters.bad_events % _LOG_EVERY == 0:
            LOGGER.warning("bad event %d, from %s: %s", self.counters.bad_events + 1, source, reason)
        self.counters.bad_events += 1
        self.counters.oversized += len(delivery.body) > MAX_BODY
        # A requeued message would come back for ever and delay the messages behind it.
        delivery.reject(requeue=False)

    # --- computing --------------------------------------------------------------------------------------------------

    async def _compute(self) -> None:
        interval = self.settings.interval
        due = anyio.current_time()
        while True:
            # After a delay, compute once: no burst of vectors for past moments.
            due = max(due + interval, anyio.current_time())
            await anyio.sleep_until(due)
            moment = self._clock.now()
            for name, symbol in self._symbols.items():
                if moment.steady - symbol.heard_at > HOLD:
                    self._symbols.remove(name)
                    continue
                self._offer(self._vector(name, symbol, moment))
                await anyio.lowlevel.checkpoint()  # so that many symbols do not delay heartbeats

    def _vector(self, name: str, symbol: Symbol, moment: Moment) -> FeatureVector:
        found = symbol.state.features(moment.steady, utc=moment.utc)
        features = {key: value for key, value in found.items() if isfinite(value)}
        return FeatureVector(moment.utc, name, features, FEATURE_REGISTRY_VERSION, symbol.trace_id)

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
        pause = GrowingPause()
        while True:
            try:
                async with self.publishing.channel() as channel:
                    await channel.declare_queue(self.settings.queue, durable=True)
                async with self.publishing.publisher(window=_BATCH) as publisher:
                    LOGGER.info("publishing to %s", self.settings.queue)
                    self._has_publisher = True
                    self.publishing_error = None
                    while True:
                        while not len(self.outbox):
                            self._accepted = anyio.Event()
                            await self._accepted.wait()
                        await self._send(publisher)
                        pause.reset()
            except anyamqp.ConnectionClosed:
                raise
            except anyamqp.AnyamqpError as error:
                self.publishing_error = error
                LOGGER.warning(
                    "cannot publish to %s: %s; trying again within %.0f s", self.settings.queue, error, pause.seconds
                )
            finally:
                self._has_publisher = False
            await pause()

    async def _send(self, publisher: anyamqp.Publisher) -> None:
        """Publish a batch and await every outcome. Put failed vectors back and raise the first failure."""
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
        else:
            LOGGER.info("every accepted vector is confirmed")


def _connect(broker: anyamqp.Settings, purpose: str, dial: anyamqp.Dial | None) -> Connection:
    return anyamqp.connect(broker, name=f"feature-service ({purpose})", ready_timeout=0, fail_fast=False, dial=dial)
