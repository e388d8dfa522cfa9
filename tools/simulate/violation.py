"""A broken invariant."""

from __future__ import annotations


class Violation(Exception):
    """An invariant does not hold.

    Args:
        number: the invariant's number in docs/architecture.md.
        text: what was seen.
    """

    def __init__(self, number: int, text: str) -> None:
        super().__init__(f"invariant {number}: {text}")
        self.number: int = number
