"""A broken invariant."""

from __future__ import annotations

from typing import cast


class Violation(Exception):
    """An invariant does not hold.

    Args:
        number: the invariant's number in docs/architecture.md.
        text: what was seen.
    """

    def __init__(self, number: int, text: str) -> None:
        super().__init__(f"invariant {number}: {text}")
        self.number: int = number
        self.text: str = text

    def __reduce__(self) -> tuple[type[Violation], tuple[int, str]]:
        """Let it cross between processes."""
        return Violation, (self.number, self.text)


def innermost(error: BaseException) -> BaseException:
    """The first exception in a group and in the groups within it; an exception that is no group is its own."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
