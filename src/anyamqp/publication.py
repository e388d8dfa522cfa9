"""The results of a publish: a receipt, or a handle to wait for it."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import anyio

from anyamqp.errors import InvalidArgument, InvalidUse
from anyamqp.net.event_loop import Loop
from anyamqp.protocol.pending import CONFIRMED, PendingPublish


class Unset(Enum):
    """The type of :data:`UNSET`."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET
"""The default of an argument for which None has a meaning of its own."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The broker confirmed a message: it has taken responsibility for it.

    Attributes:
        message_id: the message's id.
        attempts: how often it was sent; if more than once, a consumer may see it more than once.
    """

    message_id: str
    attempts: int


class Publication:
    """A submitted publish: await it for its receipt, or for the error that ended it."""

    __slots__ = ("_loop", "_pending")

    def __init__(self, pending: PendingPublish, loop: Loop) -> None:
        self._pending = pending
        self._loop = loop

    def __repr__(self) -> str:
        outcome = self._pending.outcome
        state = "waiting" if outcome is None else "confirmed" if outcome is CONFIRMED else repr(outcome)
        return f"<Publication {self.message_id!r} {state}>"

    def __await__(self) -> Generator[Any, Any, Receipt]:
        return self.wait().__await__()

    @property
    def message_id(self) -> str:
        """The message's id."""
        return self._pending.message_id

    @property
    def is_settled(self) -> bool:
        """Whether its outcome is known."""
        return self._pending.outcome is not None

    async def wait(self) -> Receipt:
        """Wait for the outcome, at most until the publish's own deadline.

        Raises:
            AnyamqpError: see :meth:`Publisher.publish`.
        """
        if self._pending.outcome is None:
            self._loop.require_here("a publisher")
            await wait_settled(self._pending)
        return receipt_of(self._pending)


async def wait_settled(pending: PendingPublish) -> None:
    """Wait until a pending publish has its outcome, at its deadline at the latest."""
    settled = pending.settled
    if not isinstance(settled, anyio.Event):
        pending.settled = settled = anyio.Event()
    await settled.wait()


def receipt_of(pending: PendingPublish) -> Receipt:
    """The receipt of a publish that has its outcome. A failure raised here is not raised by ``flush`` again.

    Raises:
        AnyamqpError: the publish failed.
    """
    if pending.outcome is CONFIRMED:
        return Receipt(pending.message_id, pending.attempts)
    pending.counters.forget_failure(pending)
    raise pending.outcome or InvalidUse(f"message {pending.message_id!r} has no outcome yet")


def deadline_after(now: float, seconds: object) -> float:
    """The time ``seconds`` after ``now``; infinity for None.

    Raises:
        InvalidArgument: ``seconds`` is not a number of seconds.
    """
    if seconds is None:
        return math.inf
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
        raise InvalidArgument(f"timeout: {seconds!r} is not a number of seconds from 0 up, or None to wait for ever")
    return now + seconds
