"""Calls the hooks of a connection. Nothing that a hook raises reaches the connection."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Generic, TypeVar

from anyamqp.core.journal import Journal
from anyamqp.core.stats import Stats
from anyamqp.delivery import Delivery, Settler
from anyamqp.endpoint import Address
from anyamqp.hooks import DeliveryHook, Hooks, Incoming, Outgoing, PublishHook, PublishKind, Settlement
from anyamqp.message import FieldValue, Message
from anyamqp.protocol.lifecycle import Transition

H = TypeVar("H", PublishHook, DeliveryHook)


class _Guarded(Generic[H]):
    """The hooks of one publish or delivery.

    Args:
        hooks: these hooks.
        journal: logs the exceptions that they raise.
    """

    __slots__ = ("_hooks", "_journal")

    def __init__(self, hooks: Sequence[H], journal: Journal) -> None:
        self._hooks: Sequence[H] = hooks
        self._journal = journal

    def _each(self, call: Callable[[H], None]) -> None:
        for hook in self._hooks:
            guarded(self._journal, call, hook)


def guarded(journal: Journal, call: Callable[..., Any], *arguments: object) -> Any:
    """Call a hook. An exception is logged, and None returned; an interrupt is raised."""
    try:
        return call(*arguments)
    except Exception as error:  # noqa: BLE001 - the user's code may raise anything
        journal.hook_failed("a hook", error)
        return None


class ObservedPublish(_Guarded[PublishHook]):
    """A publish with hooks."""

    __slots__ = ()

    def sent(self, attempt: int) -> None:
        """It was handed to a link."""
        self._each(lambda hook: hook.sent(attempt))

    def ended(self, error: BaseException | None) -> None:
        """It has its outcome. Only the first outcome counts."""
        self._each(lambda hook: hook.ended(error))
        self._hooks = ()


class ObservedDelivery(_Guarded[DeliveryHook]):
    """A delivery with hooks.

    Args:
        hooks: the hooks that observe it.
        journal: logs the exceptions that they raise.
        delivery: the delivery.
        consumer: the consumer that hands it out.
        settler: settles it; None if it came with ``no_ack``.

    Attributes:
        delivery: the delivery.
        consumer: the consumer that handed it out.
        outer: the delivery in whose body it was handed out; None if there is none.
    """

    __slots__ = ("_has_ended", "_settler", "consumer", "delivery", "outer")

    def __init__(
        self,
        hooks: Sequence[DeliveryHook],
        journal: Journal,
        delivery: Delivery,
        consumer: ConsumerHooks,
        settler: _ObservedSettler | None,
    ) -> None:
        super().__init__(hooks, journal)
        self.delivery: Delivery = delivery
        self.consumer: ConsumerHooks = consumer
        self.outer: ObservedDelivery | None = _PRESENT.get()
        self._settler = settler
        self._has_ended = False

    def failed(self, error: BaseException) -> None:
        """Its handler or block raised."""
        self._each(lambda hook: hook.failed(error))

    def ended(self, settlement: Settlement) -> None:
        """It is settled, or will not be. Only the first call counts. In its body, the code that follows is left."""
        if self._has_ended:
            return
        self._has_ended = True
        if self._settler is not None:
            self._settler.open.pop(self.delivery.delivery_tag, None)
        self._each(lambda hook: hook.ended(settlement))
        if _PRESENT.get() is self:
            self.left()

    def left(self) -> None:
        """Its body is left."""
        _PRESENT.set(self.outer)
        self._each(lambda hook: hook.left())


_PRESENT: Final[ContextVar[ObservedDelivery | None]] = ContextVar("anyamqp.delivery", default=None)
"""The delivery in whose body or handler the code runs."""


class ConsumerHooks:
    """The hooks of one consumer's deliveries.

    Args:
        host: calls the hooks of the connection.
        queue: tells the present name of the queue.
    """

    __slots__ = ("_host", "_queue", "_settlers")

    def __init__(self, host: ConnectionHooks, queue: Callable[[], str]) -> None:
        self._host = host
        self._queue = queue
        self._settlers: list[_ObservedSettler] = []
        """The settler of the present channel, behind those of earlier ones whose deliveries have not ended."""

    def settler(self, settler: Settler) -> Settler:
        """The settler of the deliveries of a channel, which tells the hooks."""
        if not self._settlers or self._settlers[-1].settler is not settler:
            self._settlers = [one for one in self._settlers if one.open]
            self._settlers.append(_ObservedSettler(settler, self))
        return self._settlers[-1]

    def handed_out(self, delivery: Delivery) -> None:
        """A delivery of the present channel is handed to the application."""
        incoming = Incoming(delivery, self._queue(), is_got=False, address=self._host.address)
        settler = None if delivery.is_settled else self._settlers[-1]  # with no_ack it is settled from the beginning
        observed = ObservedDelivery(self._host.delivery(incoming), self._host.journal, delivery, self, settler)
        if settler is not None:
            settler.open[delivery.delivery_tag] = observed
        _PRESENT.set(observed)

    def next(self) -> None:
        """The application asks for the next delivery: the body of the last one is left."""
        present = _PRESENT.get()
        while present is not None and present.consumer is not self:
            present = present.outer  # a loop within, which was left by break
        if present is None:
            return
        while _PRESENT.get() is not present.outer and (inner := _PRESENT.get()) is not None:
            inner.left()
        if present.delivery.is_stale:
            present.ended("stale")
        elif present.delivery.is_settled:
            present.ended("none")

    def failed(self, delivery: Delivery, error: BaseException) -> None:
        """The handler or block of a delivery raised."""
        for settler in self._settlers:
            observed = settler.open.get(delivery.delivery_tag)
            if observed is not None and observed.delivery is delivery:
                observed.failed(error)

    def close(self) -> None:
        """The consumer's block ends: no delivery of it will be settled any more."""
        self.next()
        for settler in self._settlers:
            for observed in list(settler.open.values()):
                observed.ended("none")


class _ObservedSettler:
    """Settles the deliveries of one channel, and tells the hooks.

    Attributes:
        settler: settles them.
        open: the deliveries that have not ended, by their tags.
    """

    __slots__ = ("_consumer", "open", "settler")

    def __init__(self, settler: Settler, consumer: ConsumerHooks) -> None:
        self.settler: Settler = settler
        self.open: dict[int, ObservedDelivery] = {}
        self._consumer = consumer

    @property
    def is_stale(self) -> bool:
        return self.settler.is_stale

    @property
    def thread(self) -> int:
        return self.settler.thread

    @property
    def settled_up_to(self) -> int:
        return self.settler.settled_up_to

    def ack(self, delivery_tag: int, *, multiple: bool) -> None:
        self._ended(delivery_tag, "ack", multiple=multiple)
        self.settler.ack(delivery_tag, multiple=multiple)

    def nack(self, delivery_tag: int, *, multiple: bool, requeue: bool) -> None:
        self._ended(delivery_tag, "nack", multiple=multiple)
        self.settler.nack(delivery_tag, multiple=multiple, requeue=requeue)

    def reject(self, delivery_tag: int, *, requeue: bool) -> None:
        self._ended(delivery_tag, "reject")
        self.settler.reject(delivery_tag, requeue=requeue)

    def requeue(self, delivery_tag: int, *, failed: bool, after: float) -> None:
        self._ended(delivery_tag, "requeue")
        self.settler.requeue(delivery_tag, failed=failed, after=after)

    async def block_failed(self, delivery: Delivery, raised: BaseException) -> None:
        self._consumer.failed(delivery, raised)
        await self.settler.block_failed(delivery, raised)

    def _ended(self, delivery_tag: int, settlement: Settlement, *, multiple: bool = False) -> None:
        settlement = "stale" if self.settler.is_stale else settlement
        tags = [tag for tag in self.open if tag <= delivery_tag] if multiple else [delivery_tag]
        for tag in tags:
            if (observed := self.open.get(tag)) is not None:
                observed.ended(settlement)


class ConnectionHooks:
    """The hooks of a connection.

    Args:
        hooks: the user's hooks.
        journal: logs the exceptions that they raise.
        address: tells the broker's address.
    """

    def __init__(self, hooks: Sequence[Hooks], journal: Journal, address: Callable[[], Address]) -> None:
        self.journal: Journal = journal
        self._hooks = tuple(hooks)
        self._address = address

    @property
    def address(self) -> Address:
        """The broker's address."""
        return self._address()

    def begun(self, name: str | None, stats: Callable[[], Stats]) -> None:
        """The connection begins."""
        for hooks in self._hooks:
            guarded(self.journal, hooks.begun, name, stats)

    def consumer(self, queue: Callable[[], str]) -> ConsumerHooks:
        """The hooks of a new consumer, whose queue has the name that ``queue`` tells."""
        return ConsumerHooks(self, queue)

    def transition(self, transition: Transition) -> None:
        """A machine changed its state."""
        for hooks in self._hooks:
            guarded(self.journal, hooks.transition, transition)

    def publish(
        self, message: Message, exchange: str, routing_key: str, kind: PublishKind
    ) -> tuple[ObservedPublish, Message]:
        """A publish begins.

        Returns:
            What observes it, and the message with the headers that the hooks added.
        """
        added: dict[str, FieldValue] = {}
        outgoing = Outgoing(message, exchange, routing_key, kind, self._address(), added.update)
        hooks = [guarded(self.journal, one.publish, outgoing) for one in self._hooks]
        if added:
            message = message.replace(headers={**added, **(message.headers or {})})
        return ObservedPublish([hook for hook in hooks if hook is not None], self.journal), message

    @contextmanager
    def publishing(
        self, message: Message, exchange: str, routing_key: str, kind: PublishKind
    ) -> Generator[Message, None, None]:
        """Around a publish without a confirm, or around a call. Yields the message with the headers of the hooks."""
        observed, message = self.publish(message, exchange, routing_key, kind)
        try:
            yield message
        except BaseException as error:
            observed.ended(error)
            raise
        observed.ended(None)

    def delivery(self, incoming: Incoming) -> list[DeliveryHook]:
        """A delivery is handed out. Returns the hooks that observe it."""
        hooks = [guarded(self.journal, one.delivery, incoming) for one in self._hooks]
        return [hook for hook in hooks if hook is not None]

    def got(self, delivery: Delivery, queue: str) -> None:
        """A delivery was fetched with basic.get."""
        incoming = Incoming(delivery, queue, is_got=True, address=self._address())
        for hook in self.delivery(incoming):
            guarded(self.journal, hook.ended, "none")
            guarded(self.journal, hook.left)
