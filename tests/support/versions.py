"""Differences between versions of RabbitMQ that matter to the tests.

A test reads ``node.facts`` of its node and asserts that version's behaviour; no test compares versions itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from anyamqp.testing.embedded import versions as embedded

Version: TypeAlias = tuple[int, int]
"""Major and minor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """How a version of RabbitMQ behaves.

    Attributes:
        unknown_exchange_type_costs_link: declaring an exchange of an unknown type closes the connection (503, or 541
            on recovery); otherwise the channel (406).
        expired_token_costs_link: the broker closes the connection (320) when its OAuth 2 token expires; otherwise it
            refuses requests from then on (403).
        late_ack_cancels_consumer: an ack that takes longer than consumer_timeout cancels a quorum queue's consumer;
            otherwise it closes the channel (406).
        nack_counts_towards_limit: basic.nack with requeue counts towards a quorum queue's delivery limit, as
            basic.reject does.
        records_default_queue_type: a queue that was declared without ``x-queue-type`` is listed with it.
        refuses_queue_of_dead_node: declaring a classic queue whose home node was killed is refused at once (404);
            otherwise it is not answered at first.
        has_deprecated_features: its configuration may forbid deprecated features, such as transient queues that are not
            exclusive; using one then closes the connection (541).
    """

    unknown_exchange_type_costs_link: bool
    expired_token_costs_link: bool
    late_ack_cancels_consumer: bool
    nack_counts_towards_limit: bool
    records_default_queue_type: bool
    has_deprecated_features: bool
    refuses_queue_of_dead_node: bool


_3_10: Final = Facts(
    unknown_exchange_type_costs_link=True,
    expired_token_costs_link=False,
    late_ack_cancels_consumer=False,
    nack_counts_towards_limit=True,
    records_default_queue_type=False,
    has_deprecated_features=False,
    refuses_queue_of_dead_node=True,
)
_4_0: Final = replace(
    _3_10,
    unknown_exchange_type_costs_link=False,
    records_default_queue_type=True,
    has_deprecated_features=True,
    refuses_queue_of_dead_node=False,
)
_4_3: Final = replace(
    _4_0,
    expired_token_costs_link=True,
    late_ack_cancels_consumer=True,
    nack_counts_towards_limit=False,
)

_SINCE: Final[dict[Version, Facts]] = {(3, 10): _3_10, (4, 0): _4_0, (4, 3): _4_3}
"""The versions that changed something, oldest first."""


def facts_of(version: Version) -> Facts:
    """The facts of a version; if it is not listed, those of the newest listed version before it.

    Raises:
        LookupError: the version is older than all listed ones.
    """
    known = [facts for since, facts in _SINCE.items() if since <= version]
    if not known:
        raise LookupError(f"the tests know no RabbitMQ before {'.'.join(map(str, min(_SINCE)))}, and this is {version}")
    return known[-1]


def version_of(version: Version) -> embedded.Version:
    """The version as which the embedded broker follows a RabbitMQ: the newest one that is not newer.

    Raises:
        LookupError: the version is older than all that the embedded broker can follow.
    """
    known: list[embedded.Version] = [
        one for one in embedded.RULES if tuple(int(part) for part in one.split(".")) <= version
    ]
    if not known:
        raise LookupError(f"the embedded broker follows no RabbitMQ as old as {version}")
    return known[-1]
