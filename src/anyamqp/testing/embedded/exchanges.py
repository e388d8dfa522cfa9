"""The exchanges of the embedded broker: which bindings a message matches. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from anyamqp.message import FieldTable, Message
from anyamqp.testing.embedded.header_matching import headers_match
from anyamqp.testing.embedded.versions import Rules
from anyamqp.wire import fields


class Binding(NamedTuple):
    """What one binding of an exchange differs in from its others.

    Attributes:
        kind: of the destination: ``"queue"`` or ``"exchange"``.
        name: the destination's.
        routing_key: the routing key or pattern.
        arguments: encoded, sorted by name. RabbitMQ, too, compares types as well as values, and the order of nested
            tables.
    """

    kind: str
    name: str
    routing_key: str
    arguments: bytes

    @classmethod
    def of(cls, kind: str, name: str, routing_key: str, arguments: FieldTable) -> Binding:
        """The binding with these arguments."""
        return cls(kind, name, routing_key, fields.table("arguments", dict(sorted(arguments.items()))))


@dataclass(slots=True)
class Exchange:
    """An exchange and its bindings.

    Attributes:
        bindings: its bindings with their arguments, in the order in which they were made.
    """

    name: str
    type: str
    durable: bool
    auto_delete: bool = False
    internal: bool = False
    arguments: FieldTable = field(default_factory=dict[str, str])
    bindings: dict[Binding, FieldTable] = field(default_factory=dict[Binding, FieldTable])
    _turns: int = 0

    @property
    def alternate(self) -> str | None:
        """The exchange that gets the messages that match no binding; None if they are dropped."""
        name = self.arguments.get("alternate-exchange")
        return name if isinstance(name, str) else None

    def matches(self, routing_keys: Sequence[str], message: Message, rules: Rules) -> list[Binding]:
        """The bindings that a message matches.

        Args:
            routing_keys: its routing key, and those of its headers ``CC`` and ``BCC``.
            message: the message.
            rules: how the version of RabbitMQ behaves that the broker follows.
        """
        match self.type:
            case "fanout":
                return list(self.bindings)
            case "direct":
                return [binding for binding in self.bindings if binding.routing_key in routing_keys]
            case "topic":
                return list(self._topics(routing_keys))
            case "headers":
                headers = message.headers or {}
                return [one for one, arguments in self.bindings.items() if headers_match(arguments, headers, rules)]
            case _:
                return self._next()

    def _topics(self, routing_keys: Sequence[str]) -> Iterator[Binding]:
        keys = [topic_words(key) for key in routing_keys]
        for binding in self.bindings:
            pattern = topic_words(binding.routing_key)
            if any(topic_matches(pattern, words) for words in keys):
                yield binding

    def _next(self) -> list[Binding]:
        """The next binding in turn, where RabbitMQ takes a random one: a program then does the same in each run."""
        bindings = list(self.bindings)
        self._turns += 1
        return [bindings[self._turns % len(bindings)]] if bindings else []


def own_exchanges(virtual_host: str, rules: Rules) -> Iterator[Exchange]:
    """The exchanges that a virtual host has from the beginning, but for the default one."""
    for kind in ("direct", "fanout", "topic", "headers"):
        yield Exchange(f"amq.{kind}", kind, durable=True)
    yield Exchange("amq.match", "headers", durable=True)
    yield Exchange("amq.rabbitmq.trace", "topic", durable=True, internal=True)
    if rules.has_log_exchange and virtual_host == "/":
        yield Exchange("amq.rabbitmq.log", "topic", durable=True, internal=True)


def topic_words(key: str) -> list[str]:
    """The words of a routing key or a pattern. An empty one has none, so that ``*`` does not match it."""
    return key.split(".") if key else []


def topic_matches(pattern: list[str], words: list[str]) -> bool:
    """Whether a topic pattern matches: ``*`` stands for one word, ``#`` for any number (RabbitMQ, "Topics")."""
    reachable = {0}
    for part in pattern:
        if part == "#":
            reachable = set(range(min(reachable, default=len(words) + 1), len(words) + 1))
        else:
            reachable = {at + 1 for at in reachable if at < len(words) and part in ("*", words[at])}
    return len(words) in reachable
