"""Hooks: observe a connection's transitions, publishes and deliveries, for traces, metrics or your own records.

Subclass :class:`Hooks`, override the methods that you need, and give an object to ``connect(hooks=...)``. The methods
are called on the connection's event loop, in the task of the caller where there is one, and must not block. If one
raises, the exception is logged and nothing else happens. Without hooks, a message costs nothing more.

:mod:`anyamqp.extras.opentelemetry` and :mod:`anyamqp.extras.prometheus` are made of nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from anyamqp.core.stats import Stats
from anyamqp.delivery import Delivery
from anyamqp.endpoint import Address
from anyamqp.message import FieldTable, Message
from anyamqp.protocol.lifecycle import Transition

PublishKind: TypeAlias = Literal["publish", "publish without confirm", "publish in transaction", "call"]
"""The method that published: ``Publisher.publish`` or ``submit``; ``Channel.publish``; ``Transaction.publish``;
``RpcClient.call``."""

Settlement: TypeAlias = Literal["ack", "nack", "reject", "requeue", "stale", "none"]
"""How a delivery ended: settled as named; ``stale`` if its link had gone; ``none`` if it was not settled, as with
``no_ack`` or when the consumer's block ends."""


class PublishHook:
    """Observes one publish. All methods do nothing unless they are overridden."""

    def sent(self, attempt: int) -> None:
        """The message was handed to a link.

        Args:
            attempt: 1 for the first time; more if it is sent again after a loss or a nack.
        """

    def ended(self, error: BaseException | None) -> None:
        """The publish has its outcome. Called once, and last.

        Args:
            error: the error that its caller gets; None if the broker confirmed it, or if it was sent without confirms.
        """


class DeliveryHook:
    """Observes one delivery. All methods do nothing unless they are overridden."""

    def failed(self, error: BaseException) -> None:
        """The handler, or the ``async with delivery`` block, raised; ``on_error`` decides next."""

    def ended(self, settlement: Settlement) -> None:
        """The delivery is settled, or will not be. Called once."""

    def left(self) -> None:
        """The body of ``async for``, or the handler, is left, in the task and context of its beginning.

        This is where a context variable that :meth:`Hooks.delivery` has set is set back. It comes once the delivery is
        settled, or with the next delivery, whichever is first; not if the body never goes on.
        """


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message about to be published.

    Attributes:
        message: the message as the caller gave it; the publisher's defaults and its ``message_id`` come later.
        exchange: the exchange; empty for the default exchange.
        routing_key: the routing key.
        kind: the method that published it.
        address: the broker's address at this moment, or the last one.
        add_headers: adds headers to the message, under those that it has; may be called during
            :meth:`Hooks.publish` only.
    """

    message: Message
    exchange: str
    routing_key: str
    kind: PublishKind
    address: Address
    add_headers: Callable[[FieldTable], None]


@dataclass(frozen=True, slots=True)
class Incoming:
    """A delivery that is handed to the application.

    Attributes:
        delivery: the delivery.
        queue: the queue that it came from.
        is_got: whether it was fetched with ``Channel.get``. Such a delivery has no body of a loop: its hook ends at
            once, with ``none``.
        address: the broker's address.
    """

    delivery: Delivery
    queue: str
    is_got: bool
    address: Address


class Hooks:
    """Observes a connection: subclass it, and override the methods that you need."""

    def begun(self, name: str | None, stats: Callable[[], Stats]) -> None:
        """A connection begins.

        Args:
            name: the connection's name.
            stats: gives a snapshot of the connection, at any time, also after its end.
        """

    def transition(self, transition: Transition) -> None:
        """The connection, a channel or a link changed its state."""

    def publish(self, outgoing: Outgoing) -> PublishHook | None:
        """A publish or a call begins, in the task of its caller.

        Returns:
            A hook that observes it; None for none.
        """
        del outgoing
        return None

    def delivery(self, incoming: Incoming) -> DeliveryHook | None:
        """A delivery is handed to the application, in the task that will process it.

        Context variables that are set here hold in the body of ``async for``, in the ``async with delivery`` block and
        in the handler.

        Returns:
            A hook that observes it; None for none.
        """
        del incoming
        return None
