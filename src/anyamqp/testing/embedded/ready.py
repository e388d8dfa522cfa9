"""The messages of a queue that wait for delivery. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from anyamqp.message import Message


@dataclass(slots=True)
class Entry:
    """A message in a queue.

    Attributes:
        position: its place in the queue, which it takes again when it is requeued.
        redelivered: whether it was delivered before.
        expires_at: when the queue drops it, in seconds on the broker's clock; None for never.
        priority: its level in a priority queue; 0 in all others.
        routing_keys: the keys that it was published with, the first of them in basic.publish; empty for that key only.
        has_failed: whether a consumer rejected it or left it behind.
        delivery_count: how often it was given back to a quorum queue, as far as that counts towards the limit.
        acquired_count: how often it was given back to a quorum queue.
    """

    message: Message
    exchange: str
    routing_key: str
    position: int
    redelivered: bool = False
    expires_at: float | None = None
    priority: int = 0
    routing_keys: tuple[str, ...] = ()
    has_failed: bool = False
    delivery_count: int = 0
    acquired_count: int = 0

    @property
    def size(self) -> int:
        """The bytes that count towards ``x-max-length-bytes``: those of the body."""
        return len(self.message.body)


class Ready:
    """Waiting messages: the highest priority first, and the oldest first within a priority.

    Args:
        max_priority: the highest priority; 0 for a queue without priorities.

    Attributes:
        size: the bytes of all bodies.
    """

    __slots__ = ("_levels", "size")

    def __init__(self, max_priority: int = 0) -> None:
        self.size: int = 0
        self._levels: list[deque[Entry]] = [deque() for _ in range(max_priority + 1)]
        """From the highest priority to the lowest."""

    def __len__(self) -> int:
        return sum(map(len, self._levels))

    def __bool__(self) -> bool:
        return any(self._levels)

    def __iter__(self) -> Iterator[Entry]:
        for level in self._levels:
            yield from level

    @property
    def head(self) -> Entry | None:
        """The next message to deliver, to expire and to drop; None if there is none."""
        for level in self._levels:
            if level:
                return level[0]
        return None

    def append(self, entry: Entry) -> None:
        """Add a message behind all others of its priority."""
        self._level(entry).append(entry)
        self._added(entry)

    def put_back(self, entry: Entry) -> None:
        """Add a message at its old place."""
        level = self._level(entry)
        ahead: list[Entry] = []
        while level and level[0].position < entry.position:
            ahead.append(level.popleft())
        level.appendleft(entry)
        level.extendleft(reversed(ahead))
        self._added(entry)

    def popleft(self) -> Entry:
        """Remove the head.

        Raises:
            IndexError: there is none.
        """
        for level in self._levels:
            if level:
                return self._taken(level.popleft())
        raise IndexError("no message is ready")

    def _added(self, entry: Entry) -> None:
        self.size += entry.size

    def _taken(self, entry: Entry) -> Entry:
        self.size -= entry.size
        return entry

    def keep(self, entries: list[Entry]) -> None:
        """Replace all messages by some of them, in their order."""
        self.clear()
        for entry in entries:
            self.append(entry)

    def clear(self) -> None:
        """Remove all messages."""
        for level in self._levels:
            level.clear()
        self.size = 0

    def _level(self, entry: Entry) -> deque[Entry]:
        highest = len(self._levels) - 1
        return self._levels[highest - min(entry.priority, highest)]
