"""Acknowledgements that leave together: which of them one frame with ``multiple`` can stand for.

The broker numbers the deliveries of a channel from 1 (AMQP 0-9-1, basic.deliver: delivery-tag). ``multiple`` settles
everything up to a tag (basic.ack), so it may stand for several acks only where nothing below it is still open. What is
settled out of order is remembered until the gap below it closes. A gap that stays open, or that the broker made by
leaving out tags, must not cost memory for ever: from 65,536 remembered tags on each ack has a frame of its own.
"""

from __future__ import annotations

import math
from typing import Final

_MOST_APART: Final = 65536
"""Tags settled above one that is open, beyond which each is acknowledged by a frame of its own."""


class Acks:
    """The settled tags of one channel on one link, and the acks that have not left yet."""

    __slots__ = ("_count", "_floor", "_is_exact", "_pending", "_settled")

    def __init__(self) -> None:
        self._is_exact = False
        self._floor = 0
        """Everything up to this tag is settled."""
        self._settled: set[int] = set()
        """What is settled above the floor."""
        self._pending: list[int] = []
        self._count: float = 0
        """How many are settled, once tags are kept apart."""

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def settled_count(self) -> float:
        """How many deliveries are settled by frames that were taken; infinity where that cannot be told."""
        settled = self._count if self._is_exact else self._floor + len(self._settled)
        return settled - len(self._pending)

    def keep_apart(self) -> None:
        """From here on no frame stands for another's tag: what is acknowledged may be open again (tx.rollback)."""
        self._keep_apart(math.inf)

    def _keep_apart(self, count: float) -> None:
        self._is_exact, self._count = True, count
        self._settled.clear()

    def ack(self, tag: int) -> None:
        """Acknowledge one delivery; the frame comes with :meth:`take`."""
        self._pending.append(tag)
        self.settle(tag)

    def settle(self, tag: int) -> None:
        """One delivery is settled by a frame of its own, or needs none."""
        if self._is_exact:
            self._count += 1
            return
        if tag != self._floor + 1:
            if tag > self._floor:
                self._settled.add(tag)
                if len(self._settled) > _MOST_APART:
                    self._keep_apart(self._floor + len(self._settled))
            return
        self._floor = tag
        self._close_gap()

    def settle_up_to(self, tag: int) -> None:
        """Everything up to a tag is settled by a frame of its own, which leaves after what :meth:`take` gives now."""
        if self._is_exact:
            self._count = math.inf
            return
        if tag > self._floor:
            self._floor = tag
            self._settled = {one for one in self._settled if one > tag}
            self._close_gap()

    def take(self) -> list[tuple[int, bool]]:
        """The acks to send now, each a tag and whether it is ``multiple``; at most one is."""
        pending, self._pending = self._pending, []
        if self._is_exact:
            return [(tag, False) for tag in pending]
        covered = [tag for tag in pending if tag <= self._floor]
        frames = [(tag, False) for tag in pending if tag > self._floor]
        if covered:
            frames.append((max(covered), len(covered) > 1))
        return frames

    def _close_gap(self) -> None:
        while self._settled and self._floor + 1 in self._settled:
            self._floor += 1
            self._settled.remove(self._floor)
