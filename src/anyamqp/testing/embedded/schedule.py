"""Faults at random times, which a seed reproduces. No I/O."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from anyamqp.testing.embedded.timers import Timer, Timers

FaultT = TypeVar("FaultT")


class Struck(NamedTuple, Generic[FaultT]):
    """A fault of a schedule that has happened.

    Attributes:
        at: when, on the event loop's clock in seconds.
        fault: the fault.
        connection: the place of the connection that it struck, among those that were open; None if it struck none.
    """

    at: float
    fault: FaultT
    connection: int | None


class Schedule(Generic[FaultT]):
    """Lets one fault after the other happen. The same seed gives the same faults at the same times.

    Args:
        seed: the seed.
        faults: the faults, of which one is chosen each time.
        every: the least and the most seconds between two of them.
        count: how many happen; None for any number.
        timers: the broker's timers.
        strike: lets a fault happen, with the given source of randomness. Returns the place of the connection.

    Attributes:
        struck: the faults that have happened, in order.
    """

    def __init__(
        self,
        seed: int,
        faults: Sequence[FaultT],
        *,
        every: tuple[float, float],
        count: int | None,
        timers: Timers,
        strike: Callable[[FaultT, random.Random], int | None],
    ) -> None:
        self.struck: list[Struck[FaultT]] = []
        self._random = random.Random(seed)  # noqa: S311 - not for secrets
        self._faults = faults
        self._every = every
        self._count = count
        self._timers = timers
        self._strike = strike
        self._timer: Timer | None = None
        self._plan()

    def stop(self) -> None:
        """Let no more faults happen."""
        self._count = 0
        if self._timer is not None:
            self._timer.cancel()

    def _plan(self) -> None:
        if self._count is None or len(self.struck) < self._count:
            self._timer = self._timers.after(self._random.uniform(*self._every), self._happen)

    def _happen(self) -> None:
        fault = self._random.choice(self._faults)
        self.struck.append(Struck(self._timers.now, fault, self._strike(fault, self._random)))
        self._plan()
