"""The arguments of queue.declare: which ones a type of queue knows, what they may be, and when two sets are equivalent.

The rules and the texts are those of RabbitMQ's ``rabbit_amqqueue`` and ``rabbit_misc``. Arguments that no type of queue
knows are allowed and without effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Final, Self, cast

from anyamqp.errors import InternalError, PreconditionFailed
from anyamqp.message import FieldTable, FieldValue
from anyamqp.testing.embedded.contents import LONGEST
from anyamqp.testing.embedded.intervals import interval, milliseconds
from anyamqp.testing.embedded.typed import amqp_type, erlang
from anyamqp.testing.embedded.versions import Rules

_CLASSIC: Final = (
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-overflow",
    "x-queue-mode",
    "x-queue-version",
    "x-single-active-consumer",
    "x-queue-type",
    "x-queue-master-locator",
)
_QUORUM: Final = (
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-in-memory-length",
    "x-max-in-memory-bytes",
    "x-overflow",
    "x-single-active-consumer",
    "x-queue-type",
    "x-quorum-initial-group-size",
    "x-delivery-limit",
    "x-message-ttl",
    "x-queue-leader-locator",
)
_STREAM: Final = (
    "x-max-length-bytes",
    "x-queue-type",
    "x-max-age",
    "x-stream-max-segment-size-bytes",
    "x-initial-cluster-size",
    "x-queue-leader-locator",
)
_SINCE_4: Final[Mapping[str, tuple[str, ...]]] = {"classic": ("x-queue-leader-locator",)}
_SINCE_4_3: Final[Mapping[str, tuple[str, ...]]] = {
    "quorum": (
        "x-consumer-disconnected-timeout",
        "x-consumer-timeout",
        "x-delayed-retry-type",
        "x-delayed-retry-min",
        "x-delayed-retry-max",
    ),
    "stream": ("x-stream-filter-size-bytes",),
}
_TYPES: Final[Mapping[str, tuple[str, ...]]] = {"classic": _CLASSIC, "quorum": _QUORUM, "stream": _STREAM}


_NO_MASTER_LOCATOR: Final = (
    "INTERNAL_ERROR - Feature `queue_master_locator` is deprecated.\n"
    "By default, this feature is not permitted anymore.\n"
    "The feature will be removed from a future major RabbitMQ version, regardless of the configuration; actual version "
    "to be determined.\n"
    "To continue using this feature when it is not permitted by default, set the following parameter in your "
    "configuration:\n    deprecated_features.permit.queue_master_locator = true"
)


class Overflow(Enum):
    """What a queue that is full does with the next message (``x-overflow``)."""

    DROP_HEAD = "drop-head"
    REJECT_PUBLISH = "reject-publish"
    REJECT_PUBLISH_DLX = "reject-publish-dlx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The arguments of a queue that say what happens to its messages; times are in seconds, None is no limit.

    Attributes:
        message_ttl: how long a message may wait.
        expires: how long the queue may be unused.
        max_length: the most waiting messages.
        max_length_bytes: the most bytes in the bodies of the waiting messages.
        overflow: what happens beyond that.
        dead_letter_exchange: where dropped messages go.
        dead_letter_routing_key: their routing key; None for the one that they had.
        max_priority: the highest priority; 0 for a queue without priorities.
    """

    message_ttl: float | None
    expires: float | None
    max_length: int | None
    max_length_bytes: int | None
    overflow: Overflow
    dead_letter_exchange: str | None
    dead_letter_routing_key: str | None
    max_priority: int

    @classmethod
    def read(cls, arguments: FieldTable, rules: Rules) -> Self:
        """Read arguments that :func:`check_arguments` has passed, as a version of RabbitMQ understands them."""
        highest = _number(arguments, "x-max-priority")
        ttl, expires = _number(arguments, "x-message-ttl"), _number(arguments, "x-expires")
        return cls(
            message_ttl=None if ttl is None else ttl / 1000,
            expires=None if expires is None else expires / 1000,
            max_length=_number(arguments, "x-max-length"),
            max_length_bytes=_number(arguments, "x-max-length-bytes"),
            overflow=Overflow(arguments.get("x-overflow", "drop-head")),
            dead_letter_exchange=_text(arguments, "x-dead-letter-exchange"),
            dead_letter_routing_key=_text(arguments, "x-dead-letter-routing-key"),
            max_priority=0 if highest is None else max(highest, rules.least_max_priority),
        )


def queue_type(arguments: FieldTable) -> str:
    """The type of queue that arguments ask for: ``classic``, ``quorum`` or ``stream``."""
    named = _text(arguments, "x-queue-type")
    return "classic" if named in (None, "", "undefined") else named


def check_arguments(queue: str, arguments: FieldTable, rules: Rules) -> None:
    """Check the arguments of a new queue.

    Args:
        queue: the queue as error texts name it.
        arguments: the arguments.
        rules: how the version of RabbitMQ behaves that the broker follows.

    Raises:
        PreconditionFailed: RabbitMQ refuses one of them.
        InternalError: it refuses the argument as deprecated.
    """
    # The channel looks the exchange up before anything else is checked.
    exchange = arguments.get("x-dead-letter-exchange", "")
    if not isinstance(exchange, str):
        raise PreconditionFailed(
            f"PRECONDITION_FAILED - invalid type '{amqp_type(exchange)}' for arg 'x-dead-letter-exchange' in {queue}"
        )
    if arguments.get("x-queue-type") not in rules.names_of_no_queue_type:
        _check_value(queue, "x-queue-type", arguments, _check_type)
    kind = queue_type(arguments)
    known = _known(kind, rules)
    for key, check in _CHECKS.items():
        if key in known and (key != "x-queue-mode" or rules.has_queue_modes):
            _check_value(queue, key, arguments, check)
    others = {key for name in _TYPES for key in _known(name, rules)}.difference(known)
    for key in sorted(arguments):
        if key in others:
            raise PreconditionFailed(
                f"PRECONDITION_FAILED - invalid arg '{key}' for {queue} of queue type rabbit_{kind}_queue"
            )
    if "x-queue-master-locator" in arguments and not rules.has_queue_master_locators:
        raise InternalError(_NO_MASTER_LOCATOR)


def check_equivalence(queue: str, known: FieldTable, wanted: FieldTable, rules: Rules) -> None:
    """Check that a queue may be declared again.

    Args:
        queue: the queue as error texts name it.
        known: its arguments.
        wanted: the arguments of the new declaration.
        rules: how the version of RabbitMQ behaves that the broker follows.

    Raises:
        PreconditionFailed: an argument that its type of queue knows differs.
    """
    for key in _known(queue_type(known), rules):
        if key == "x-queue-type" and queue_type(known) == queue_type(wanted):
            continue
        if key in known and key in wanted:
            pair = known[key], wanted[key]
            if key == "x-max-age" and rules.version == "4.3":
                pair = milliseconds(pair[0]), milliseconds(pair[1])
            if not _are_equal(*pair):
                raise inequivalent(queue, key, f"'{erlang(pair[1])}'", f"'{erlang(pair[0])}'")
        elif key in known or key in wanted:
            raise inequivalent(queue, key, described(wanted, key), described(known, key))


def inequivalent(what: str, key: str, wanted: str, known: str) -> PreconditionFailed:
    """The refusal of a second declaration that differs from the first."""
    return PreconditionFailed(
        f"PRECONDITION_FAILED - inequivalent arg '{key}' for {what}: received {wanted} but current is {known}"
    )


def _known(kind: str, rules: Rules) -> tuple[str, ...]:
    known = _TYPES[kind]
    if rules.version != "3.10":
        known += _SINCE_4.get(kind, ())
    return known + _SINCE_4_3.get(kind, ()) if rules.version == "4.3" else known


def _are_equal(known: FieldValue, wanted: FieldValue) -> bool:
    return _class_of(known) == _class_of(wanted) and known == wanted


def _class_of(value: FieldValue) -> str:
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return "number"
    return "floating" if isinstance(value, float) else amqp_type(value)


def described(arguments: FieldTable, key: str) -> str:
    """An argument as a text about a difference names it, with its type."""
    if key not in arguments:
        return "none"
    value = arguments[key]
    return f"the value '{erlang(value)}' of type '{amqp_type(value)}'"


def _number(arguments: FieldTable, key: str) -> int | None:
    return cast("int | None", arguments.get(key))


def _text(arguments: FieldTable, key: str) -> str | None:
    return cast("str | None", arguments.get(key))


# --- values -----------------------------------------------------------------------------------------------------------


_Check = Callable[[FieldValue, FieldTable], str | None]
"""The fault of a value as an Erlang term; None if it has none."""


def _check_value(queue: str, key: str, arguments: FieldTable, check: _Check) -> None:
    if key in arguments:
        fault = check(arguments[key], arguments)
        if fault is not None:
            raise PreconditionFailed(f"PRECONDITION_FAILED - invalid arg '{key}' for {queue}: {fault}")


def _whole(value: FieldValue, _: FieldTable) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return None
    return f'"expected integer, got {amqp_type(value)}"'


def _not_negative(value: FieldValue, arguments: FieldTable) -> str | None:
    if isinstance(value, int) and value < 0:
        return f"{{value_negative,{value}}}"
    return _whole(value, arguments)


def _positive(value: FieldValue, arguments: FieldTable) -> str | None:
    return "{value_zero,0}" if value == 0 and _whole(value, arguments) is None else _not_negative(value, arguments)


def _duration(value: FieldValue, arguments: FieldTable) -> str | None:
    if isinstance(value, int) and value > LONGEST:
        return f"{{value_too_large,{value}}}"
    return _not_negative(value, arguments)


def _expiry(value: FieldValue, arguments: FieldTable) -> str | None:
    return _positive(value, arguments) if value == 0 else _duration(value, arguments)


def _priority(value: FieldValue, arguments: FieldTable) -> str | None:
    if isinstance(value, int) and value > 255:
        return f"{{max_value_exceeded,{value}}}"
    return _not_negative(value, arguments)


def _flag(value: FieldValue, _: FieldTable) -> str | None:
    return None if isinstance(value, bool) else _wrong_type(value)


def _string(value: FieldValue, _: FieldTable) -> str | None:
    return None if isinstance(value, str) else _wrong_type(value)


def _dead_letter_key(value: FieldValue, arguments: FieldTable) -> str | None:
    if isinstance(value, str) and "x-dead-letter-exchange" not in arguments:
        return "routing_key_but_no_dlx_defined"
    return _string(value, arguments)


def _max_age(value: FieldValue, _: FieldTable) -> str | None:
    if not isinstance(value, str):
        return _wrong_type(value)
    return None if interval(value) else "invalid_max_age"


def _version(value: FieldValue, arguments: FieldTable) -> str | None:
    fault = _not_negative(value, arguments)
    if fault is None and value not in (1, 2):
        return f"\"unsupported queue version '{erlang(value)}'\""
    return fault


def _one_of(fault: str, *choices: str) -> _Check:
    """A check for one of these texts; ``{}`` in the fault stands for the value."""

    def check(value: FieldValue, _: FieldTable) -> str | None:
        if not isinstance(value, str):
            return _wrong_type(value)
        return None if value in choices else fault.format(value)

    return check


def _wrong_type(value: FieldValue) -> str:
    return f"{{unacceptable_type,{amqp_type(value)}}}"


_check_type: Final = _one_of("\"unsupported queue type '{}'\"", *_TYPES)
_CHECKS: Final[Mapping[str, _Check]] = {
    "x-expires": _expiry,
    "x-message-ttl": _duration,
    "x-dead-letter-exchange": _string,
    "x-dead-letter-routing-key": _dead_letter_key,
    "x-dead-letter-strategy": _one_of("invalid_dlx_strategy", "at-most-once", "at-least-once"),
    "x-max-length": _not_negative,
    "x-max-length-bytes": _not_negative,
    "x-max-in-memory-length": _not_negative,
    "x-max-in-memory-bytes": _not_negative,
    "x-max-priority": _priority,
    "x-overflow": _one_of("invalid_overflow", *(overflow.value for overflow in Overflow)),
    "x-queue-mode": _one_of("\"unsupported queue mode '{}'\"", "default", "lazy"),
    "x-queue-version": _version,
    "x-consumer-timeout": _not_negative,
    "x-consumer-disconnected-timeout": _not_negative,
    "x-single-active-consumer": _flag,
    "x-quorum-initial-group-size": _positive,
    "x-max-age": _max_age,
    "x-stream-max-segment-size-bytes": _not_negative,
    "x-stream-filter-size-bytes": _not_negative,
    "x-initial-cluster-size": _positive,
    "x-queue-leader-locator": _one_of(
        "invalid_queue_locator_arg", "client-local", "balanced", "random", "least-leaders", "min-masters"
    ),
}
"""In RabbitMQ's order: the first fault is reported."""
