"""The terms of a consumer, and the arguments of basic.consume: which ones a type of queue knows, what they may be.

The rules and the texts are those of RabbitMQ's ``rabbit_amqqueue``. Arguments that no type of queue knows are allowed
and without effect.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from anyamqp.errors import PreconditionFailed
from anyamqp.message import FieldTable
from anyamqp.testing.embedded.typed import amqp_type
from anyamqp.testing.embedded.versions import Rules


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The terms on which a consumer gets messages.

    Attributes:
        no_ack: its deliveries are settled when they are sent.
        exclusive: it admits no other consumer.
        prefetch: the most unsettled messages that it has; 0 for any number.
        shared_prefetch: the most unsettled messages of its channel's consumers together; 0 for any number.
        arguments: the arguments of basic.consume.
    """

    no_ack: bool = False
    exclusive: bool = False
    prefetch: int = 0
    shared_prefetch: int = 0
    arguments: FieldTable = field(default_factory=dict[str, str])

    @property
    def priority(self) -> int:
        """Its ``x-priority``; 0 if it has none."""
        value = self.arguments.get("x-priority")
        return value if isinstance(value, int) else 0


_STREAM_SINCE_4: Final = ("x-stream-filter", "x-stream-match-unfiltered")


def check_consumer_arguments(queue: str, kind: str, arguments: FieldTable, rules: Rules) -> None:
    """Check the arguments of a consumer, except for the value of ``x-stream-offset``.

    Args:
        queue: the queue as error texts name it.
        kind: its type.
        arguments: the arguments.
        rules: how the version of RabbitMQ behaves that the broker follows.

    Raises:
        PreconditionFailed: RabbitMQ refuses one of them.
    """
    known: dict[str, tuple[str, ...]] = {
        "classic": ("x-priority",),
        "quorum": ("x-priority",),
        "stream": ("x-stream-offset",),
    }
    if rules.version == "3.10":
        known["classic"] += ("x-cancel-on-ha-failover",)
    else:
        known["stream"] += _STREAM_SINCE_4
    for key in sorted(arguments):
        value = arguments[key]
        if key not in known[kind]:
            if any(key in keys for keys in known.values()):
                raise PreconditionFailed(
                    f"PRECONDITION_FAILED - invalid arg '{key}' for {queue} of queue type rabbit_{kind}_queue"
                )
        elif key == "x-priority" and (not isinstance(value, int) or isinstance(value, bool)):
            raise PreconditionFailed(
                f"PRECONDITION_FAILED - invalid arg '{key}' for {queue}: \"expected integer, got {amqp_type(value)}\""
            )
        elif key == "x-cancel-on-ha-failover" and not isinstance(value, bool):
            raise PreconditionFailed(
                f"PRECONDITION_FAILED - invalid arg '{key}' for {queue}: {{unacceptable_type,{amqp_type(value)}}}"
            )
