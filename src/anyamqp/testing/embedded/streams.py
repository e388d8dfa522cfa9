"""Streams of the embedded broker. No I/O.

The rules are those of RabbitMQ's ``rabbit_stream_queue``: messages stay when they are delivered, each consumer reads
from an offset of its own, and an ack makes room in its prefetch. Where RabbitMQ reads chunks, the embedded broker reads
single messages. Whole segments are dropped, when the last one is full; each segment but the first begins with a record
of RabbitMQ's own, which takes an offset.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from anyamqp.errors import InternalError, NotImplementedByBroker, PreconditionFailed
from anyamqp.message import FieldValue, Message
from anyamqp.testing.embedded.consumer_arguments import Terms, check_consumer_arguments
from anyamqp.testing.embedded.intervals import interval
from anyamqp.testing.embedded.queues import Declaration, Host, Outcome, Queue, Subscriber
from anyamqp.testing.embedded.quorum import check_replicated, with_headers
from anyamqp.testing.embedded.ready import Entry
from anyamqp.testing.embedded.typed import erlang

_SEGMENT_SIZE: Final = 500_000_000
"""Bytes of a segment, unless ``x-stream-max-segment-size-bytes`` says otherwise."""

_OVERHEAD: Final = 64
"""Bytes that a message takes beside its body, roughly."""


@dataclass(slots=True)
class _Stored(Entry):
    """A message in a stream; its position is its offset.

    Attributes:
        stored_at: when it came, in seconds on the broker's clock.
    """

    stored_at: float = 0.0


@dataclass(slots=True)
class _Segment:
    """A part of a stream.

    Attributes:
        count: how many messages it holds.
        size: how many bytes.
        newest_at: when the last message came.
    """

    count: int = 0
    size: int = 0
    newest_at: float = 0.0


class StreamQueue(Queue):
    """A stream.

    Args:
        declaration: its name, properties and arguments.
        host: its virtual host.

    Raises:
        PreconditionFailed: a stream cannot have one of the properties, or an argument is out of range.
    """

    def __init__(self, declaration: Declaration, host: Host) -> None:
        check_replicated(declaration, host)
        _check_filter_size(declaration, host)
        super().__init__(declaration, host)
        self._log: list[_Stored] = []
        """What :attr:`ready` holds, too."""
        self._end = 0
        """The offset of the next message."""
        self._segments: deque[_Segment] = deque([_Segment()])
        self._offsets: dict[Subscriber, int] = {}
        """Where each consumer goes on."""
        size, age = (declaration.arguments.get(key) for key in ("x-stream-max-segment-size-bytes", "x-max-age"))
        self._segment_size = size if isinstance(size, int) else _SEGMENT_SIZE
        self._max_age = interval(age) if isinstance(age, str) else None

    @property
    def counts(self) -> tuple[int, int]:
        """The numbers of messages and of consumers that queue.declare-ok names. RabbitMQ counts no consumers."""
        return len(self._log), 0

    @property
    def deletion_count(self) -> int:
        """The number of messages that queue.delete-ok names."""
        return 0

    def check_deletable(self, *, if_unused: bool, if_empty: bool) -> None:
        """Check the conditions of a deletion: a stream ignores them."""

    # --- messages ---------------------------------------------------------------------------------------------------

    def put(
        self,
        message: Message,
        exchange: str,
        routing_key: str,
        routing_keys: Iterable[str] = (),
        *,
        redelivered: bool = False,  # noqa: ARG002 - a stream does not say so
    ) -> bool:
        """Append a message, and deliver it to the consumers that have read all others."""
        now, keys = self.host.timers.now, tuple(routing_keys)
        entry = _Stored(message, exchange, routing_key, self._end, routing_keys=keys, stored_at=now)
        self._end += 1
        self._log.append(entry)
        self.ready.append(entry)
        segment = self._segments[-1]
        segment.count += 1
        segment.size += entry.size + _OVERHEAD
        segment.newest_at = now
        if segment.size >= self._segment_size:
            self._segments.append(_Segment())
            self._end += 1
            self._drop_segments()
        self.pump()
        return True

    def check_settlement(self, outcome: Outcome) -> None:
        """Check that a client may settle a delivery like this.

        Raises:
            NotImplementedByBroker: by basic.nack or basic.reject, on RabbitMQ 3.10.
            InternalError: by basic.recover, on RabbitMQ 3.10.
        """
        if self.host.rules.version != "3.10" or outcome is Outcome.ACKED:
            return
        if outcome is Outcome.RECOVERED:
            raise InternalError("INTERNAL_ERROR")
        raise self._unsupported("basic.nack and basic.reject")

    def settle(self, entry: Entry, outcome: Outcome) -> None:  # noqa: ARG002 - all of them only make room
        """End a delivery. The message stays, and is not delivered again."""
        self._delivery_ended()

    def take(self) -> Entry | None:
        """Refuse basic.get.

        Raises:
            NotImplementedByBroker: always.
        """
        raise self._unsupported("basic.get")

    def purge(self) -> int:
        """Refuse queue.purge.

        Raises:
            NotImplementedByBroker: always.
        """
        raise self._unsupported("queue.purge")

    def outgoing(self, entry: Entry, *, is_get: bool) -> Entry:  # noqa: ARG002 - a stream knows no basic.get
        """A message as it is sent to a consumer: with its offset."""
        return with_headers(entry, {"x-stream-offset": entry.position})

    def pump(self) -> None:
        """Deliver as many messages as possible."""
        for consumer in self.consumers:
            while consumer.can_take() and (place := self._place(self._offsets[consumer])) < len(self._log):
                entry = self._log[place]
                self._offsets[consumer] = entry.position + 1
                consumer.take(self, entry)

    def restart(self) -> None:
        """Lose nothing: a stream keeps all messages, the transient ones as well."""

    # --- consumers --------------------------------------------------------------------------------------------------

    def check_consumer(self, terms: Terms) -> None:
        """Check that a consumer may be added. A stream ignores that a consumer is exclusive.

        Raises:
            PreconditionFailed: there is no prefetch, or an argument is invalid.
            NotImplementedByBroker: there are to be no acks, a filter, or a prefetch that consumers share.
            InternalError: an offset is one with which RabbitMQ cannot deal.
        """
        is_old = self.host.rules.version == "3.10"
        check_consumer_arguments(self.told, "stream", terms.arguments, self.host.rules)
        if not terms.prefetch:
            told = f"'{self.told}'" if is_old else f"stream {self.told}"
            raise PreconditionFailed(f"PRECONDITION_FAILED - consumer prefetch count is not set for {told}")
        if terms.no_ack:
            kind = "stream queues queue" if is_old else "stream queue"
            raise NotImplementedByBroker(
                f"NOT_IMPLEMENTED - automatic acknowledgement not supported by {self.told.replace('queue', kind, 1)}"
            )
        if terms.shared_prefetch:
            raise NotImplementedByBroker(f"NOT_IMPLEMENTED - {self.told} does not support global qos")
        if "x-stream-filter" in terms.arguments and not is_old:
            raise NotImplementedByBroker("NOT_IMPLEMENTED - x-stream-filter")
        self._start(terms)

    def add_consumer(self, consumer: Subscriber, terms: Terms) -> None:
        """Add a consumer that :meth:`check_consumer` has passed; :meth:`pump` begins its deliveries."""
        self._offsets[consumer] = self._start(terms)
        super().add_consumer(consumer, replace(terms, exclusive=False))

    def remove_consumer(self, consumer: Subscriber) -> None:
        """Remove a consumer."""
        del self._offsets[consumer]
        super().remove_consumer(consumer)

    def _start(self, terms: Terms) -> int:
        """The offset of the first message for a consumer (``x-stream-offset``)."""
        value = terms.arguments.get("x-stream-offset", "next")
        if isinstance(value, bytes | bytearray):
            value = value.decode("utf-8", "replace")
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, datetime):
            return self._first_since(self.host.timers.when(value))
        if not isinstance(value, str):
            raise InternalError("INTERNAL_ERROR")
        named = {"first": 0, "last": self._log[-1].position if self._log else 0, "next": self._end}.get(value)
        if named is not None:
            return named
        seconds = interval(value)
        if seconds is None:
            raise self._invalid_offset(value)
        return self._first_since(self.host.timers.now - seconds)

    def _first_since(self, time: float) -> int:
        later = (entry.position for entry in self._log if entry.stored_at >= time)
        return next(later, self._end)

    def _place(self, offset: int) -> int:
        """Where the first message is that has this offset or a later one."""
        return bisect_left(self._log, offset, key=lambda entry: entry.position)

    def _invalid_offset(self, value: FieldValue) -> InternalError | PreconditionFailed:
        text = erlang(value)
        if self.host.rules.version != "4.3" and not text[:1].isdecimal():
            return InternalError("INTERNAL_ERROR")
        told = f'<<"{text}">>' if text else "<<>>"
        return PreconditionFailed(
            f"PRECONDITION_FAILED - invalid arg 'x-stream-offset' for {self.told}: "
            f"{{invalid_stream_offset_arg,{{longstr,{told}}}}}"
        )

    # --- segments ---------------------------------------------------------------------------------------------------

    def _drop_segments(self) -> None:
        """Drop the oldest segments while all of them are too large, or the oldest one is too old."""
        limit, now = self.settings.max_length_bytes, self.host.timers.now
        while len(self._segments) > 1:
            oldest = self._segments[0]
            is_large = limit is not None and sum(segment.size for segment in self._segments) > limit
            is_old = self._max_age is not None and now - oldest.newest_at > self._max_age
            if not is_large and not is_old:
                return
            self._segments.popleft()
            del self._log[: oldest.count]
            for _ in range(oldest.count):
                self.ready.popleft()

    def _unsupported(self, what: str) -> NotImplementedByBroker:
        return NotImplementedByBroker(f"NOT_IMPLEMENTED - {what} not supported by stream queues {self.told}")


def _check_filter_size(declaration: Declaration, host: Host) -> None:
    size = declaration.arguments.get("x-stream-filter-size-bytes")
    if size is None or host.rules.version == "3.10" or (isinstance(size, int) and 16 <= size <= 255):
        return
    space = "  " if host.rules.version == "4.0" else " "
    raise PreconditionFailed(f"PRECONDITION_FAILED - Invalid value for{space}x-stream-filter-size-bytes")
