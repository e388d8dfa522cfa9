"""The pause before something that failed is tried again."""

from __future__ import annotations

from random import Random
from typing import Final

import anyio

FIRST, LONGEST = 1.0, 10.0
"""Seconds."""
_RANDOM: Final = Random()  # noqa: S311 - spreads attempts, guards nothing


class GrowingPause:
    """Doubles from :data:`FIRST` to :data:`LONGEST`; each pause takes a random part of it, half at least."""

    def __init__(self) -> None:
        self.seconds = FIRST

    def reset(self) -> None:
        """It worked: begin with the shortest again."""
        self.seconds = FIRST

    async def __call__(self) -> None:
        """Pause, and make the next one longer."""
        seconds, self.seconds = self.seconds, min(self.seconds * 2, LONGEST)
        await anyio.sleep(seconds * _RANDOM.uniform(0.5, 1.0))
