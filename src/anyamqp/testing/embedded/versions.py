"""How the versions of RabbitMQ differ that the embedded broker can follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

Version: TypeAlias = Literal["3.10", "4.0", "4.3"]
"""A version of RabbitMQ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How a version of RabbitMQ behaves.

    Attributes:
        version: which one.
        unknown_exchange_type_costs_link: declaring an exchange of an unknown type closes the connection (503);
            otherwise the channel (406).
        exchange_types: the types of exchanges.
        has_modulus_hash_exchange: there is the type ``x-modulus-hash``, which the embedded broker does not support.
        has_log_exchange: there is an exchange ``amq.rabbitmq.log`` in the virtual host ``/``.
        headers_exchange_compares_numbers: a headers exchange finds 1 equal to 1.0, and equal times equal; otherwise
            numbers of different types differ, and a time in a header counts milliseconds, one in a binding seconds.
        rewrites_properties: the broker reads the properties of each message and writes them anew, in their normal
            form; otherwise it hands on the publisher's bytes.
        nack_counts_towards_limit: basic.nack with requeue counts towards a quorum queue's delivery limit, as
            basic.reject does.
        delivery_limit: of a quorum queue that names none; None for no limit.
        tells_acquired_count: a quorum queue's deliveries say in ``x-acquired-count`` how often the message was given
            back.
        shares_prefetch: basic.qos with ``global`` holds for all consumers of the channel together; otherwise it is as
            without.
        message_size: the largest body, in bytes.
        least_frame_max: the smallest frame_max that a client may ask for, in bytes.
        mechanisms: the SASL mechanisms that it offers.
        names_refused_access: a refusal names the permission that the user lacks.
        passive_needs_permission: a passive declaration needs one of the permissions.
        lost_queue_in_commit: how tx.commit ends when a queue is gone that a message was routed to: the message is
            dropped, or returned if it was mandatory; the commit is refused (406); or the connection is closed (506).
        routes_to_missing_queue: a message for a missing queue that was published in a transaction to the default
            exchange reaches a queue that is declared before the commit.
        replies_have_a_queue: direct replies go through a kind of queue: each has a delivery tag of its own, and a
            mandatory one is not returned although it is delivered.
        has_queue_modes: ``x-queue-mode`` is checked.
        has_queue_master_locators: ``x-queue-master-locator`` is permitted; otherwise it closes the connection (541).
        names_of_no_queue_type: values of ``x-queue-type`` that stand for the default.
        least_max_priority: the highest priority of a queue whose ``x-max-priority`` is 0.
        failed_dead_letter_is_redelivered: a message that basic.reject or a closed channel gave back comes out of its
            dead letter queue as redelivered.
        checks_body_frames: a body larger than its header says, or announced as larger than 512 MiB, is refused (501);
            otherwise the broker waits for its end.
        checks_delivery_mode: a delivery mode other than 1 and 2 is refused (406).
    """

    version: Version
    unknown_exchange_type_costs_link: bool
    exchange_types: tuple[str, ...]
    has_modulus_hash_exchange: bool
    has_log_exchange: bool
    headers_exchange_compares_numbers: bool
    rewrites_properties: bool
    nack_counts_towards_limit: bool
    delivery_limit: int | None
    tells_acquired_count: bool
    shares_prefetch: bool
    message_size: int
    least_frame_max: int
    mechanisms: tuple[str, ...]
    names_refused_access: bool
    passive_needs_permission: bool
    lost_queue_in_commit: Literal["dropped", "refused", "fatal"]
    routes_to_missing_queue: bool
    replies_have_a_queue: bool
    has_queue_modes: bool
    has_queue_master_locators: bool
    names_of_no_queue_type: tuple[str, ...]
    least_max_priority: int
    failed_dead_letter_is_redelivered: bool
    checks_body_frames: bool
    checks_delivery_mode: bool


_TYPES: Final = ("direct", "fanout", "topic", "headers")

RULES: Final[Mapping[Version, Rules]] = MappingProxyType(
    {
        "3.10": Rules(
            version="3.10",
            unknown_exchange_type_costs_link=True,
            exchange_types=_TYPES,
            has_modulus_hash_exchange=False,
            has_log_exchange=False,
            headers_exchange_compares_numbers=True,
            rewrites_properties=False,
            nack_counts_towards_limit=True,
            delivery_limit=None,
            tells_acquired_count=False,
            shares_prefetch=True,
            message_size=128 * 1024 * 1024,
            least_frame_max=4096,
            mechanisms=("AMQPLAIN", "PLAIN"),
            names_refused_access=False,
            passive_needs_permission=False,
            lost_queue_in_commit="dropped",
            routes_to_missing_queue=True,
            replies_have_a_queue=False,
            has_queue_modes=True,
            has_queue_master_locators=True,
            names_of_no_queue_type=(),
            least_max_priority=0,
            failed_dead_letter_is_redelivered=False,
            checks_body_frames=False,
            checks_delivery_mode=True,
        ),
        "4.0": Rules(
            version="4.0",
            unknown_exchange_type_costs_link=False,
            exchange_types=(*_TYPES, "x-local-random"),
            has_modulus_hash_exchange=False,
            has_log_exchange=False,
            headers_exchange_compares_numbers=False,
            rewrites_properties=True,
            nack_counts_towards_limit=True,
            delivery_limit=20,
            tells_acquired_count=False,
            shares_prefetch=True,
            message_size=16 * 1024 * 1024,
            least_frame_max=4096,
            mechanisms=("AMQPLAIN", "ANONYMOUS", "PLAIN"),
            names_refused_access=True,
            passive_needs_permission=False,
            lost_queue_in_commit="refused",
            routes_to_missing_queue=False,
            replies_have_a_queue=False,
            has_queue_modes=True,
            has_queue_master_locators=True,
            names_of_no_queue_type=("undefined",),
            least_max_priority=1,
            failed_dead_letter_is_redelivered=False,
            checks_body_frames=False,
            checks_delivery_mode=False,
        ),
        "4.3": Rules(
            version="4.3",
            unknown_exchange_type_costs_link=False,
            exchange_types=(*_TYPES, "x-local-random"),
            has_modulus_hash_exchange=True,
            has_log_exchange=True,
            headers_exchange_compares_numbers=False,
            rewrites_properties=True,
            nack_counts_towards_limit=False,
            delivery_limit=20,
            tells_acquired_count=True,
            shares_prefetch=False,
            message_size=16 * 1024 * 1024,
            least_frame_max=8192,
            mechanisms=("AMQPLAIN", "PLAIN", "ANONYMOUS"),
            names_refused_access=True,
            passive_needs_permission=True,
            lost_queue_in_commit="fatal",
            routes_to_missing_queue=False,
            replies_have_a_queue=True,
            has_queue_modes=False,
            has_queue_master_locators=False,
            names_of_no_queue_type=("undefined", ""),
            least_max_priority=1,
            failed_dead_letter_is_redelivered=True,
            checks_body_frames=True,
            checks_delivery_mode=False,
        ),
    }
)
