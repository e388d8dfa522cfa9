"""Find the publish that a returned message belongs to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain, takewhile

from anyamqp.protocol.confirms import Ledger
from anyamqp.protocol.contents import SAME, Returned
from anyamqp.protocol.pending import PendingPublish
from anyamqp.wire import methods
from anyamqp.wire.basic import Received


def returned_publish(
    ledger: Ledger[PendingPublish], method: methods.Basic.Return, message: Received, *, after: int
) -> tuple[int, PendingPublish] | None:
    """Find the publish that the broker returned.

    A return comes before its confirm, so its publish is still in the ledger, even if it has timed out. The broker may
    have changed the headers, so the most similar of the matching publishes is taken.

    Args:
        ledger: the unconfirmed publishes.
        method: the return.
        message: its content.
        after: the tag of the last publish that was returned.

    Returns:
        The publish and its tag; None if none matches.

    Raises:
        MalformedProperties: the message's properties cannot be read.
    """
    returned = Returned(message)
    closest: tuple[int, PendingPublish] | None = None
    least: tuple[float, float] = (math.inf, math.inf)
    for tag, pending in _candidates(ledger, method, returned.message_id, after):
        distance = returned.distance(pending.properties, pending.body)
        if distance < least:
            closest, least = (tag, pending), distance
        if distance == SAME:
            break
    return closest


def _candidates(
    ledger: Ledger[PendingPublish], method: methods.Basic.Return, message_id: str, after: int
) -> Iterator[tuple[int, PendingPublish]]:
    """The publishes with the same route and id, beginning with those after the last one returned.

    Returns come in the order of the publishes (RabbitMQ, "Publisher Confirms").
    """
    earlier = takewhile(lambda tagged: tagged[0] <= after, ledger.tagged())
    for tag, pending in chain(ledger.tagged(after), earlier):
        route = pending.route
        if (
            pending.returned is None
            and pending.message_id == message_id
            and route.mandatory
            and route.exchange == method.exchange
            and route.routing_key == method.routing_key
        ):
            yield tag, pending
