"""The exchanges of the embedded broker: which bindings a message matches. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from anyamqp.message import FieldTable

TYPES = ("direct", "fanout", "topic")


@dataclass(slots=True)
class Exchange:
    """An exchange and its bindings.

    Attributes:
        bindings: pairs of a destination and a routing key, in the order in which they were made.
    """

    name: str
    type: str
    durable: bool
    auto_delete: bool = False
    internal: bool = False
    arguments: FieldTable = field(default_factory=dict[str, str])
    bindings: dict[tuple[str, str, str], None] = field(default_factory=dict[tuple[str, str, str], None])
    """Keys: kind of the destination (queue or exchange), its name, the routing key."""

    def matches(self, routing_key: str) -> Iterator[tuple[str, str]]:
        """The destinations of a message, as kind and name."""
        for kind, name, key in self.bindings:
            if (
                self.type == "fanout"
                or (self.type == "direct" and key == routing_key)
                or (self.type == "topic" and topic_matches(key.split("."), routing_key.split(".")))
            ):
                yield kind, name


def topic_matches(pattern: list[str], words: list[str]) -> bool:
    """Whether a topic pattern matches: ``*`` stands for one word, ``#`` for any number (RabbitMQ, "Topics")."""
    reachable = {0}
    for part in pattern:
        if part == "#":
            reachable = set(range(min(reachable, default=len(words) + 1), len(words) + 1))
        else:
            reachable = {at + 1 for at in reachable if at < len(words) and part in ("*", words[at])}
    return len(words) in reachable
