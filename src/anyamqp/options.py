"""The optional arguments of queues, exchanges and consumers as typed keywords.

Names and meanings: RabbitMQ, "Queues", section "Optional Arguments", and the pages on TTL, queue length, dead
lettering, priorities, single active consumers, quorum queues and streams.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Final, Literal, TypeAlias, TypedDict

from anyamqp.checks import check_choice, check_flag, check_text, check_whole
from anyamqp.errors import InvalidArgument
from anyamqp.message import FieldTable, FieldValue

QueueType: TypeAlias = Literal["classic", "quorum", "stream"]
Overflow: TypeAlias = Literal["drop-head", "reject-publish", "reject-publish-dlx"]
LeaderLocator: TypeAlias = Literal["client-local", "balanced"]
DeadLetterStrategy: TypeAlias = Literal["at-most-once", "at-least-once"]
DelayedRetry: TypeAlias = Literal["disabled", "all", "returned", "failed"]
StreamOffset: TypeAlias = int | datetime | str
"""Where to begin to read a stream: ``first``, ``last`` (the last chunk), ``next`` (messages from now on), the offset
of a message, a time with a time zone, or an interval back from now such as ``1h`` (units Y, M, D, h, m, s)."""

_QUEUE_TYPES = ("classic", "quorum", "stream")
_OVERFLOWS = ("drop-head", "reject-publish", "reject-publish-dlx")
_LEADER_LOCATORS = ("client-local", "balanced")
_DEAD_LETTER_STRATEGIES = ("at-most-once", "at-least-once")
_DELAYED_RETRIES = ("disabled", "all", "returned", "failed")


class QueueOptions(TypedDict, total=False):
    """The options of a queue.

    Keys:
        queue_type: ``classic``, ``quorum`` or ``stream``; the virtual host's default if absent.
        message_ttl: seconds after which a message is dropped or dead-lettered.
        expires: seconds without use after which the queue is deleted.
        max_length: how many messages it holds.
        max_length_bytes: how many bytes of bodies it holds.
        overflow: how it refuses more: ``drop-head`` (the default), ``reject-publish`` (publishers get a nack) or
            ``reject-publish-dlx``.
        dead_letter_exchange: the exchange that dropped and rejected messages are published to.
        dead_letter_routing_key: their routing key there; they keep their own if absent.
        max_priority: the highest priority, 1 to 255, of a classic queue with priorities.
        single_active_consumer: whether only one consumer at a time receives messages.
        delivery_limit: how often a quorum queue delivers a message before it drops or dead-letters it.
        dead_letter_strategy: ``at-most-once`` (the default), or ``at-least-once`` for a quorum queue that keeps a
            message until the dead letter queue has it; the latter needs ``overflow="reject-publish"``.
        queue_leader_locator: where the leader of a new queue is placed: ``client-local`` (the default), on the node of
            the client, or ``balanced``.
        quorum_initial_group_size: on how many nodes a quorum queue begins.
        quorum_target_group_size: to how many nodes it grows (RabbitMQ 4.0 or later).
        initial_cluster_size: on how many nodes a stream begins.
        max_age: whole seconds for which a stream keeps its messages.
        stream_max_segment_size_bytes: the size of a stream's segments in bytes; whole segments are dropped.
        delayed_retry_type: which returned messages a quorum queue holds back before it delivers them again (RabbitMQ
            4.3 or later): ``all``, those ``returned`` without a failure, those that ``failed``, or none (``disabled``,
            the default).
        delayed_retry_min: for how many seconds at the first return; times the number of returns for later ones.
        delayed_retry_max: for how many seconds at most.
    """

    queue_type: QueueType
    message_ttl: float
    expires: float
    max_length: int
    max_length_bytes: int
    overflow: Overflow
    dead_letter_exchange: str
    dead_letter_routing_key: str
    max_priority: int
    single_active_consumer: bool
    delivery_limit: int
    dead_letter_strategy: DeadLetterStrategy
    queue_leader_locator: LeaderLocator
    quorum_initial_group_size: int
    quorum_target_group_size: int
    initial_cluster_size: int
    max_age: int
    stream_max_segment_size_bytes: int
    delayed_retry_type: DelayedRetry
    delayed_retry_min: float
    delayed_retry_max: float


def queue_arguments(arguments: FieldTable | None, options: QueueOptions) -> FieldTable:
    """The table of ``options`` and ``arguments`` together.

    Raises:
        InvalidArgument: a value is wrong, or an option is in ``arguments`` as well; the text names it.
    """
    table: dict[str, FieldValue] = {}
    for name, value in options.items():
        key = "x-" + name.replace("_", "-")
        if value is None:
            continue
        if arguments is not None and key in arguments:
            raise InvalidArgument(f"{name}: given as a keyword and as {key!r} in arguments; one of them is enough")
        table[key] = _checked(name, value)
    return {**table, **(arguments or {})}


def stream_offset_argument(offset: object) -> FieldValue:
    """The value of ``x-stream-offset``.

    Raises:
        InvalidArgument: it is not a valid offset.
    """
    if isinstance(offset, bool) or not isinstance(offset, int | datetime | str):
        raise InvalidArgument(f"stream_offset: {offset!r} is not first, last, next, an offset, a time or an interval")
    if isinstance(offset, int) and offset < 0:
        raise InvalidArgument(f"stream_offset: {offset} is less than 0")
    if isinstance(offset, str) and offset not in ("first", "last", "next") and not _is_interval(offset):
        raise InvalidArgument(
            f"stream_offset: {offset!r} is not 'first', 'last', 'next' or an interval such as '1h' "
            "(units Y, M, D, h, m, s)"
        )
    if isinstance(offset, datetime) and offset.tzinfo is None:
        raise InvalidArgument(f"stream_offset: {offset} has no time zone; one that has is datetime.now(UTC)")
    return offset


def _is_interval(text: str) -> bool:
    return len(text) > 1 and text[:-1].isascii() and text[:-1].isdecimal() and text[-1] in "YMDhms"


_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "queue_type": _QUEUE_TYPES,
    "overflow": _OVERFLOWS,
    "dead_letter_strategy": _DEAD_LETTER_STRATEGIES,
    "queue_leader_locator": _LEADER_LOCATORS,
    "delayed_retry_type": _DELAYED_RETRIES,
}
_SECONDS: Final = {"message_ttl": 0, "expires": 1, "delayed_retry_min": 0, "delayed_retry_max": 0}
"""The options in seconds, each with its least number of milliseconds."""
_WHOLE: Final[Mapping[str, tuple[int, int]]] = {
    "max_length": (0, 2**63 - 1),
    "max_length_bytes": (0, 2**63 - 1),
    "delivery_limit": (0, 2**63 - 1),
    "max_priority": (1, 255),
    "quorum_initial_group_size": (1, 2**31 - 1),
    "quorum_target_group_size": (1, 2**31 - 1),
    "initial_cluster_size": (1, 2**31 - 1),
    "stream_max_segment_size_bytes": (1, 3_000_000_000),
}
"""The options that are whole numbers, each with the least and the greatest."""
_TEXTS: Final = ("dead_letter_exchange", "dead_letter_routing_key")


def _checked(name: str, value: object) -> FieldValue:
    if name in _SECONDS:
        return _milliseconds(name, value, least=_SECONDS[name])
    if name in _CHOICES:
        return check_choice(name, value, _CHOICES[name])
    if name in _WHOLE:
        return check_whole(name, value, *_WHOLE[name])
    if name in _TEXTS:
        return check_text(name, value)
    if name == "single_active_consumer":
        return check_flag(name, value)
    if name == "max_age":
        return f"{check_whole(name, value, 1, unit='seconds')}s"
    known = ", ".join(QueueOptions.__annotations__)
    raise InvalidArgument(f"{name}: no option of queues; known are {known}; everything else goes into arguments")


def _milliseconds(name: str, value: object, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidArgument(f"{name}: {value!r} is not a number of seconds")
    milliseconds = round(value * 1000)
    # RabbitMQ's timers are 32 bits wide (RabbitMQ, "Time-to-Live and Expiration").
    if not least <= milliseconds < 2**32:
        raise InvalidArgument(f"{name}: {value!r} is not between {least / 1000:g} and {2**32 // 1000} seconds")
    return milliseconds
