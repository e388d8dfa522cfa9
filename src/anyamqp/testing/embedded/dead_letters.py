"""Dead letters: the messages that queues drop, published to their dead letter exchanges. No I/O.

The headers follow RabbitMQ's ``rabbit_dead_letter`` (3.10) and ``mc`` (4.x). RabbitMQ 3.10 reads the earlier deaths of
a message from its ``x-death`` header, even if a client wrote it; 4.x keeps them beside the message, and replaces the
header of a client.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from anyamqp.message import FieldValue, Message
from anyamqp.testing.embedded.contents import Content, encoded_field
from anyamqp.testing.embedded.queues import Queue, Reason
from anyamqp.testing.embedded.ready import Entry
from anyamqp.testing.embedded.timers import Timers
from anyamqp.testing.embedded.versions import Rules
from anyamqp.wire import fields
from anyamqp.wire.basic import Received
from anyamqp.wire.fields import Reader

Death = dict[str, FieldValue]
"""An entry of ``x-death``."""

Router = Callable[[str, Sequence[str], Message], list[Queue]]
"""Finds the queues for an exchange, routing keys and a message; none if there is no such exchange."""


class DeadLetter(Received):
    """A message that was dead-lettered on RabbitMQ 4.

    Attributes:
        deaths: the entries of ``x-death``, the latest first.
    """

    __slots__ = ("deaths",)

    deaths: list[Death]

    def __init__(self, message: Received, deaths: list[Death]) -> None:
        super().__init__(message.body, message.encoded)
        object.__setattr__(self, "deaths", deaths)


class DeadLetters:
    """The dead letters of a virtual host.

    Args:
        rules: how the version of RabbitMQ behaves that the broker follows.
        timers: what is to happen later.
        route: the routing of the virtual host.
    """

    def __init__(self, rules: Rules, timers: Timers, route: Router) -> None:
        self._is_old = rules.version == "3.10"
        self._failed_is_redelivered = rules.failed_dead_letter_is_redelivered
        self._timers = timers
        self._route = route
        self._waiting: deque[tuple[Queue, Entry, Reason]] = deque()
        self._is_publishing = False

    def publish(self, queue: Queue, entry: Entry, reason: Reason) -> None:
        """Publish a message that a queue has dropped, if the queue has a dead letter exchange.

        A dead letter that drops another is published first: each queue is done with one before the next comes.
        """
        if queue.settings.dead_letter_exchange is None:
            return
        self._waiting.append((queue, entry, reason))
        if self._is_publishing:
            return
        self._is_publishing = True
        try:
            while self._waiting:
                self._publish(*self._waiting.popleft())
        finally:
            self._is_publishing = False

    def _publish(self, queue: Queue, entry: Entry, reason: Reason) -> None:
        exchange, key = queue.settings.dead_letter_exchange or "", queue.settings.dead_letter_routing_key
        content = Content(entry.message)
        death = self._death(queue, entry, reason, content)
        if self._is_old:
            has_died = "x-death" in content.headers
            earlier = _deaths_in(content)
            deaths = _with_death(earlier[::-1], _sorted(death)) if earlier else [death]
            if key is not None:
                content.drop_header("CC")
        else:
            earlier = entry.message.deaths if isinstance(entry.message, DeadLetter) else []
            has_died = bool(earlier)
            deaths = _with_death(earlier, death)
            for name in ("reason", "queue", "exchange"):
                content.set_header(f"x-last-death-{name}", death[name])
        if not has_died:
            for name in ("reason", "queue", "exchange"):
                content.set_header(f"x-first-death-{name}", death[name])
        content.headers["x-death"] = _encoded(deaths)
        content.sort_headers()
        content.drop_expiration()
        message: Received = content.message()
        if not self._is_old:
            message = DeadLetter(message, deaths)
        keys = (key,) if key is not None else entry.routing_keys or (entry.routing_key,)
        for found in self._route(exchange, keys, message):
            if reason is Reason.REJECTED or not _is_cycle(found.name, deaths):
                redelivered = entry.has_failed and self._failed_is_redelivered
                found.put(message, exchange, keys[0], keys, redelivered=redelivered)

    def _death(self, queue: Queue, entry: Entry, reason: Reason, content: Content) -> Death:
        copied = _copied_to(entry.message)
        if not self._is_old:
            # Those that the message has now: a dead letter routing key has replaced the keys of its earlier life.
            copied = [key for key in entry.routing_keys[1:] if key in copied]
        keys: FieldValue = [entry.routing_key, *copied]
        death: Death = {
            "count": 1,
            "reason": reason.value,
            "queue": queue.name,
            "time": self._timers.time_of_day,
            "exchange": entry.exchange,
            "routing-keys": keys,
        }
        expiration = content.expiration
        if expiration is None:
            return death
        if self._is_old:
            return {**death, "original-expiration": expiration}
        return {"original-expiration": expiration, **death}


def _copied_to(message: Message) -> list[str]:
    keys = (message.headers or {}).get("CC")
    return [key for key in keys if isinstance(key, str)] if isinstance(keys, list) else []


def _deaths_in(content: Content) -> list[Death]:
    encoded = content.headers.get("x-death")
    value = None if encoded is None else Reader(encoded).value()
    deaths = value if isinstance(value, list) else []
    return [dict(death) for death in deaths if isinstance(death, dict)]


def _with_death(deaths: list[Death], death: Death) -> list[Death]:
    """The deaths with one more: in front, or counted with those for the same reason in the same queue."""
    same = [one for one in deaths if (one.get("queue"), one.get("reason")) == (death["queue"], death["reason"])]
    others = [one for one in deaths if one not in same]
    if not same:
        return [death, *others]
    count = same[0].get("count")
    return [{**same[0], "count": (count if isinstance(count, int) else 0) + 1}, *others]


def _sorted(death: Death) -> Death:
    return dict(sorted(death.items()))


def _is_cycle(queue: str, deaths: list[Death]) -> bool:
    """Whether a message comes to a queue again without that a client rejected it since."""
    reasons: list[FieldValue] = []
    for death in deaths:
        reasons.append(death.get("reason"))
        if death.get("queue") == queue:
            return Reason.REJECTED.value not in reasons
    return False


_LONG: Final = struct.Struct(">q")


def _encoded(deaths: list[Death]) -> bytes:
    """The deaths as an array of tables."""
    tables: list[bytes] = []
    for death in deaths:
        rows = b"".join(fields.shortstr(name, name) + _encoded_value(name, value) for name, value in death.items())
        tables.append(b"F" + fields.long("x-death", len(rows)) + rows)
    data = b"".join(tables)
    return b"A" + fields.long("x-death", len(data)) + data


def _encoded_value(name: str, value: FieldValue) -> bytes:
    # RabbitMQ sends the count with 64 bits; clients of typed languages see the difference.
    return b"l" + _LONG.pack(value) if name == "count" and isinstance(value, int) else encoded_field(value)
