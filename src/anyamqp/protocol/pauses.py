"""Growing pauses between attempts."""

from __future__ import annotations


class Pauses:
    """Pauses before each attempt, doubled from ``first`` up to ``longest`` seconds.

    Args:
        first: the first pause, in seconds.
        longest: the longest pause, in seconds.
        free: how many attempts have no pause before them.

    Attributes:
        taken: how many pauses were taken since the last reset.
    """

    __slots__ = ("_first", "_free", "_longest", "taken")

    def __init__(self, first: float, longest: float, *, free: int = 0) -> None:
        self._first = first
        self._longest = longest
        self._free = free
        self.taken: int = 0

    def next(self) -> float:
        """The pause before the next attempt, in seconds."""
        doubled = self.taken - self._free
        self.taken += 1
        return 0.0 if doubled < 0 else min(self._first * 2.0 ** min(doubled, 60), self._longest)

    def reset(self) -> None:
        """An attempt succeeded: start again with the first pause."""
        self.taken = 0
