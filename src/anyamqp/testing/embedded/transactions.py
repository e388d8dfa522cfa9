"""Transactions of a channel (AMQP 0-9-1, class tx): publishes and settlements that wait for tx.commit. No I/O.

As in RabbitMQ, a message is routed when it is published and enters its queues at the commit, in the order of the
publishes and before the settlements. Each transaction begins where the last one ended.
"""

from __future__ import annotations

from collections.abc import Callable

from anyamqp.errors import PreconditionFailed, ResourceError
from anyamqp.testing.embedded.deliveries import Deliveries
from anyamqp.testing.embedded.model import Fate, Model, Routed
from anyamqp.testing.embedded.queues import Outcome
from anyamqp.testing.embedded.reply_to import is_reply_address


class Transaction:
    """The transaction of a channel, if it has selected transactions.

    Args:
        model: the virtual host.
        deliveries: the unsettled deliveries of the channel.
        deliver: puts a message into its queues, and returns it to the client if the second argument demands that.

    Attributes:
        is_selected: whether the channel has selected transactions.
    """

    def __init__(self, model: Model, deliveries: Deliveries, deliver: Callable[[Routed, bool], Fate]) -> None:
        self.is_selected: bool = False
        self._model = model
        self._deliveries = deliveries
        self._deliver = deliver
        self._publishes: list[tuple[Routed, bool]] = []
        self._settlements: list[tuple[list[int], Outcome]] = []

    def publish(self, routed: Routed, *, mandatory: bool) -> None:
        """Keep a publish for the commit."""
        if not self._model.rules.routes_to_missing_queue:
            routed = routed._replace(names=tuple(name for name in routed.names if not self._is_missing(name)))
        self._publishes.append((routed, mandatory))

    def settle(self, tag: int, outcome: Outcome, *, multiple: bool) -> None:
        """Keep a settlement for the commit.

        Raises:
            PreconditionFailed: there is no such delivery, or it is settled in this transaction already.
        """
        self._settlements.append((self._deliveries.set_aside(tag, outcome, multiple=multiple), outcome))

    def commit(self, confirm: Callable[[], None]) -> None:
        """Deliver the messages, and settle the deliveries.

        Args:
            confirm: sends the answer, before the settlements lead to new deliveries.

        Raises:
            PreconditionFailed: the channel has not selected transactions, or a queue refuses a message or is gone.
            ResourceError: a queue is gone, and RabbitMQ closes the connection.
        """
        self._check_selected()
        publishes, self._publishes = self._publishes, []
        settlements, self._settlements = self._settlements, []
        is_partial = False
        for routed, mandatory in publishes:
            has_lost = self._has_lost_a_queue(routed)
            fate = self._deliver(routed, mandatory and not has_lost)
            is_partial |= has_lost or fate is Fate.REFUSED
        if not is_partial:
            confirm()
        for tags, outcome in settlements:
            self._deliveries.settle_set_aside(tags, outcome)
        if is_partial:
            raise PreconditionFailed("PRECONDITION_FAILED - partial tx completion")

    def roll_back(self) -> None:
        """Forget the publishes. The deliveries are unsettled again; they are not delivered anew.

        Raises:
            PreconditionFailed: the channel has not selected transactions.
        """
        self._check_selected()
        self._publishes.clear()
        self._settlements.clear()
        self._deliveries.restore()

    def _has_lost_a_queue(self, routed: Routed) -> bool:
        """Whether a queue is gone since the publish, and that is an error of the commit."""
        missing = [name for name in routed.names if self._is_missing(name)]
        fate = self._model.rules.lost_queue_in_commit
        if missing and fate == "fatal":
            host = self._model.name
            raise ResourceError(
                "RESOURCE_ERROR - failed to deliver message: "
                f'{{not_found,{{resource,<<"{host}">>,queue,<<"{missing[0]}">>}}}}'
            )
        return bool(missing) and fate == "refused"

    def _is_missing(self, name: str) -> bool:
        return name not in self._model.queues and not is_reply_address(name)

    def _check_selected(self) -> None:
        if not self.is_selected:
            raise PreconditionFailed("PRECONDITION_FAILED - channel is not transactional")
