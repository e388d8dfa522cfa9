"""A publish on its way to its one outcome, and the window that bounds how many are on theirs."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import anyio

from anyamqp.errors import AnyamqpError, InvalidArgument, InvalidUse, Nacked, OutcomeUnknown, PublishTimeout
from anyamqp.net.event_loop import Loop, Waiter
from anyamqp.net.timers import Schedule
from anyamqp.protocol.contents import unroutable_of
from anyamqp.wire import methods
from anyamqp.wire.basic import Route


class Unset(Enum):
    """The type of :data:`UNSET`."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET
"""An argument that was not given, where None means something."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The broker confirmed a message: it has taken responsibility for it.

    Attributes:
        message_id: the message's id.
        attempts: how often it was sent; more than 1 means that a consumer may see it more than once.
    """

    message_id: str
    attempts: int


MOST_FAILURES: Final = 1000
"""Failures that nobody awaited which a publisher keeps for flush, unless its window is larger."""


class Book:
    """What a publisher keeps about its entries, wherever they are.

    Args:
        most_failures: how many failures it keeps, besides the last one.
    """

    __slots__ = ("_dropped", "_failures", "_last_failure", "_most_failures", "loop", "submitted", "unsettled")

    def __init__(self, most_failures: int = MOST_FAILURES) -> None:
        self.loop: Loop = Loop()
        """The event loop that the publisher was entered on."""
        self.submitted: int = 0
        """How many entries were put on their way so far."""
        self.unsettled: int = 0
        """How many of those that are on their way have no outcome."""
        self._most_failures = most_failures
        self._failures: dict[Entry, None] = {}
        """Entries that failed and that nobody awaited, for flush."""
        self._dropped = 0
        """How many more there were."""
        self._last_failure: Entry | None = None
        """The last of those."""

    def add(self, entry: Entry) -> None:
        """The entry is on its way."""
        self.submitted += 1
        self.unsettled += 1
        entry.number = self.submitted

    def failed(self, entry: Entry) -> None:
        """The entry failed, and nobody waits for it."""
        if len(self._failures) < self._most_failures:
            self._failures[entry] = None
        else:
            self._dropped += 1
            self._last_failure = entry

    def awaited(self, entry: Entry) -> None:
        """Somebody was told of the entry's failure."""
        self._failures.pop(entry, None)

    def take_failures(self) -> ExceptionGroup[Exception] | None:
        """The failures since the last call that nobody awaited; None if there are none."""
        kept, dropped, last = self._failures, self._dropped, self._last_failure
        self._failures, self._dropped, self._last_failure = {}, 0, None
        failed = [*kept, *([] if last is None else [last])]
        errors = [entry.outcome for entry in failed if isinstance(entry.outcome, Exception)]
        if not errors:
            return None
        text = f"{len(kept) + dropped} publishes failed"
        if dropped > 1:
            text += f"; here are the first {len(kept)} and the last" if kept else "; here is the last"
        return ExceptionGroup(text, errors)


class Confirmed(Enum):
    """The type of :data:`CONFIRMED`."""

    CONFIRMED = "confirmed"


CONFIRMED: Final = Confirmed.CONFIRMED
"""The outcome of which a receipt tells; that is made for whoever asks."""


class Entry:
    """A publish on its way to its one outcome."""

    __slots__ = (
        "attempts",
        "body",
        "book",
        "closes",
        "deadline",
        "is_observed",
        "message_id",
        "number",
        "outcome",
        "properties",
        "returned",
        "route",
        "settled",
        "size",
        "waiter",
        "was_lost",
    )

    def __init__(
        self,
        book: Book,
        route: Route,
        message_id: str,
        properties: bytes,
        body: bytes,
        deadline: float | None,
    ) -> None:
        self.book: Book = book
        self.number: int = 0
        """Which one it is of those put on their way, from 1."""
        self.route: Route = route
        self.message_id: str = message_id
        self.properties: bytes = properties
        self.body: bytes = body
        self.size: int = len(body)
        self.deadline: float | None = deadline
        self.attempts: int = 0
        self.closes: int = 0
        """How often the broker closed the channel while it was alone on its way."""
        self.was_lost: bool = False
        """Whether its confirm was lost with a link or channel, so that the broker may have it."""
        self.is_observed: bool = False
        """Whether somebody waits for this very outcome, so that flush need not tell of it."""
        self.returned: methods.Basic.Return | None = None
        self.outcome: Confirmed | AnyamqpError | None = None
        self.settled: anyio.Event | None = None
        """Made if somebody waits for it with a handle."""
        self.waiter: Waiter | None = None
        """Of the task that published it, if that waits."""

    def settle(self, outcome: Confirmed | AnyamqpError) -> None:
        """Give the outcome; the first one stays."""
        if self.outcome is not None:
            return
        self.outcome = outcome
        self.book.unsettled -= 1
        if outcome is not CONFIRMED:
            if not hasattr(outcome, "message_id"):
                outcome.add_note(f"while publishing message {self.message_id!r}")
            if not self.is_observed:
                self.book.failed(self)
        if self.waiter is not None:
            self.waiter.set()
        if self.settled is not None:
            self.settled.set()

    def confirm(self, *, is_ack: bool) -> None:
        """Settle by a confirm."""
        if self.returned is not None:
            self.settle(unroutable_of(self.returned, self.message_id))
        else:
            self.settle(CONFIRMED if is_ack else Nacked(self.message_id))
        # Only now can the broker no longer return it. A handle that the caller keeps is not to keep the content alive.
        self.body = self.properties = b""

    def lose(self, error: BaseException | None) -> None:
        """Settle by a loss after which it may not be sent again."""
        unknown = OutcomeUnknown(self.message_id)
        unknown.__cause__ = error
        self.settle(unknown)

    def time_out(self) -> None:
        """Settle by the deadline."""
        self.settle(PublishTimeout(self.message_id, sent=self.attempts > 0))

    def is_finished(self, now: float) -> bool:
        """Whether there is no point in sending it (again): it has an outcome, or its deadline is past."""
        if self.outcome is None and self.deadline is not None and now >= self.deadline:
            self.time_out()
        return self.outcome is not None

    async def wait(self) -> None:
        """Wait until it has an outcome, which its publisher gives it at its deadline at the latest."""
        if self.outcome is None:
            self.book.loop.require_here("a publisher")
            if self.settled is None:
                self.settled = anyio.Event()
            await self.settled.wait()

    def receipt(self) -> Receipt:
        """The outcome, for the one who asked for it.

        Raises:
            AnyamqpError: it is a failure.
        """
        if self.outcome is CONFIRMED:
            return Receipt(self.message_id, self.attempts)
        self.book.awaited(self)
        raise self.outcome or InvalidUse(f"message {self.message_id!r} has no outcome yet")


class Publication:
    """A submitted publish: await it for its receipt, or for the error that ended it."""

    __slots__ = ("_entry",)

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    def __repr__(self) -> str:
        outcome = self._entry.outcome
        state = "waiting" if outcome is None else "confirmed" if outcome is CONFIRMED else repr(outcome)
        return f"<Publication {self.message_id!r} {state}>"

    def __await__(self) -> Generator[Any, Any, Receipt]:
        return self.wait().__await__()

    @property
    def message_id(self) -> str:
        """The message's id."""
        return self._entry.message_id

    @property
    def is_settled(self) -> bool:
        """Whether its outcome is known."""
        return self._entry.outcome is not None

    async def wait(self) -> Receipt:
        """Wait for the outcome, at most until the publish's own deadline.

        Raises:
            AnyamqpError: see :meth:`Publisher.publish`.
        """
        await self._entry.wait()
        return self._entry.receipt()


class Wish:
    """Somebody waits for room in a window.

    Args:
        size: how many bytes of it.
        deadline: until when; None for ever.
        waiter: of the task that waits.

    Attributes:
        is_granted: whether the room was taken for it.
    """

    __slots__ = ("deadline", "is_granted", "size", "waiter")

    def __init__(self, size: int, deadline: float | None, waiter: Waiter) -> None:
        self.size: int = size
        self.deadline: float = math.inf if deadline is None else deadline
        self.waiter: Waiter = waiter
        self.is_granted: bool = False


class Window:
    """Room for unconfirmed messages, by count and by bytes; given to those who wait in their order.

    A message larger than the whole window gets in when it is alone.
    """

    def __init__(self, count: int, size: int) -> None:
        self._count = count
        self._size = size
        self._used_count = 0
        self._used_size = 0
        self._wishes: OrderedDict[Wish, None] = OrderedDict()
        """Those who wait, in their order."""
        self._deadlines: Schedule[Wish] = Schedule()

    def try_take(self, size: int) -> bool:
        """Take room at once, if nobody waits and it is there."""
        return not self._wishes and self._take_if_free(size)

    async def take(self, wish: Wish) -> bool:
        """Wait for room and take it. Returns whether it was granted; if not, :meth:`dismiss` has ended the wait."""
        self._wishes[wish] = None
        self._deadlines.add(wish.deadline, wish)
        self._grant()
        try:
            await wish.waiter.wait()
        except BaseException:
            if wish.is_granted:
                self.give_back(wish.size)
            elif wish in self._wishes:
                del self._wishes[wish]
                self._deadlines.discard(wish)
                self._grant()
            raise
        return wish.is_granted

    def give_back(self, size: int, count: int = 1) -> None:
        """Give back the room of so many messages, which have so many bytes together."""
        self._used_count -= count
        self._used_size -= size
        if self._wishes:
            self._grant()

    def dismiss(self, now: float) -> None:
        """End the wait of those whose deadline is past; of all, if ``now`` is infinity."""
        while (wish := self._deadlines.take_due(now)) is not None:
            del self._wishes[wish]
            wish.waiter.set()
        self._grant()

    @property
    def nearest(self) -> float:
        """The first deadline of those who wait; infinity if there is none."""
        return self._deadlines.nearest

    def _grant(self) -> None:
        while self._wishes and self._take_if_free(next(iter(self._wishes)).size):
            wish, _ = self._wishes.popitem(last=False)
            self._deadlines.discard(wish)
            wish.is_granted = True
            wish.waiter.set()

    def _take_if_free(self, size: int) -> bool:
        fits = self._used_count < self._count and self._used_size + size <= self._size
        if not fits and self._used_count:
            return False
        self._used_count += 1
        self._used_size += size
        return True


def deadline_after(now: float, seconds: object) -> float | None:
    """When so many seconds have passed; None for never.

    Raises:
        InvalidArgument: that is no number of seconds.
    """
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
        raise InvalidArgument(f"timeout: {seconds!r} is not a number of seconds from 0 up, or None to wait for ever")
    return now + seconds


def until(deadline: float | None) -> anyio.CancelScope:
    return anyio.CancelScope(deadline=float("inf") if deadline is None else deadline)
