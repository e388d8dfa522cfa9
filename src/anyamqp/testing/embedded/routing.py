"""The way of a message from an exchange to queues, over bindings between exchanges and alternate exchanges. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from anyamqp.message import Message
from anyamqp.testing.embedded.exchanges import Exchange
from anyamqp.testing.embedded.versions import Rules


def queues_reached(
    exchanges: Mapping[str, Exchange], start: Exchange, routing_keys: Sequence[str], message: Message, rules: Rules
) -> list[str]:
    """The names of the queues that a message goes to, each once.

    Each exchange is asked once, so that cycles end. An alternate exchange is asked only if the message matches no
    binding of its exchange, wherever those lead.

    Args:
        exchanges: all exchanges by name.
        start: the exchange that the message was published to.
        routing_keys: its routing key, and those of its headers ``CC`` and ``BCC``.
        message: the message.
        rules: how the version of RabbitMQ behaves that the broker follows.
    """
    found: dict[str, None] = {}
    seen = {start.name}
    waiting = [start]
    while waiting:
        exchange = waiting.pop()
        bindings = exchange.matches(routing_keys, message, rules)
        found.update((binding.name, None) for binding in bindings if binding.kind == "queue")
        following = [binding.name for binding in bindings if binding.kind == "exchange"]
        if not bindings and exchange.alternate is not None:
            following.append(exchange.alternate)
        for name in following:
            if name not in seen and name in exchanges:
                seen.add(name)
                waiting.append(exchanges[name])
    return list(found)
