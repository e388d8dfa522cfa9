"""Growing pauses between attempts."""

from __future__ import annotations

from random import Random
from typing import Final

import anyio

FIRST, LONGEST = 1.0, 10.0
"""The first and the longest pause, in seconds."""
_RANDOM: Final = Random()  # noqa: S311 - spreads attempts, guards nothing


class GrowingPause:
    """Pauses that double from :data:`FIRST` to :data:`LONGEST` seconds, each shortened at random by up to a half."""

    def __init__(self) -> None:
        self.seconds = FIRST

    def reset(self) -> None:
        """An attempt succeeded: start again with the first pause."""
        self.seconds = FIRST

    async def __call__(self) -> None:
        """Pause; the next pause is longer."""
        seconds, self.seconds = self.seconds, min(self.seconds * 2, LONGEST)
        await anyio.sleep(seconds * _RANDOM.uniform(0.5, 1.0))
