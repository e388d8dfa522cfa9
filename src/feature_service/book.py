"""An order book, which knows whether it is in sync with the exchange.

=====================================  ===============================================================================
update                                 effect
=====================================  ===============================================================================
snapshot, any ``u``                    replaces the book; in sync (after a restart the exchange counts from 1 again)
delta, out of sync                     ignored: the book that it changes is unknown
delta, ``u`` = last + 1                applied
delta, ``u`` > last + 1                a gap: out of sync until the next snapshot
delta, ``u`` <= last                   ignored: delivered twice, or part of the snapshot already
delta, ``u`` < last, newer ``seq``     the count restarted and its snapshot was lost: a gap, too
=====================================  ===============================================================================

While out of sync, the book is empty and has no prices: its levels may be gone.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from math import fsum
from typing import Final

from feature_service.events import BookDelta, BookSnapshot, Level

MAX_LEVELS: Final = 1_000
"""How many levels each side keeps; those farthest from the market are dropped."""


@dataclass(frozen=True, slots=True)
class Quote:
    """The best prices of both sides, never crossed."""

    bid: float
    ask: float

    @classmethod
    def of(cls, bid: float | None, ask: float | None) -> Quote | None:
        """A quote from two prices; ``None`` if a price is absent or 0, or if the prices cross or touch.

        A matching engine trades crossing orders at once, so at least one of two such prices is out of date. Their mid
        price and spread would describe a market that never existed.
        """
        if not bid or not ask or bid >= ask:
            return None
        return cls(bid, ask)

    @property
    def mid(self) -> float:
        """The mean of both prices."""
        return (self.bid + self.ask) / 2

    @property
    def spread(self) -> float:
        """Ask minus bid, above 0."""
        return self.ask - self.bid


class OrderBook:
    """The book of one symbol.

    Args:
        max_levels: how many levels each side keeps. A dropped level does not come back when nearer ones are deleted;
            with the default, this takes hundreds of deletions without a snapshot.
    """

    __slots__ = ("_asks", "_bids", "_gaps", "_sequence", "_update_id")

    def __init__(self, max_levels: int = MAX_LEVELS) -> None:
        self._bids = _Side(-1, max_levels)
        self._asks = _Side(1, max_levels)
        self._update_id: int | None = None
        self._sequence: int | None = None
        self._gaps = 0

    @property
    def in_sync(self) -> bool:
        """Whether the book equals the exchange's: there was a snapshot, and no gap since then."""
        return self._update_id is not None

    @property
    def update_id(self) -> int | None:
        """The ``u`` of the last update; ``None`` while out of sync."""
        return self._update_id

    @property
    def gaps(self) -> int:
        """How often the book fell out of sync."""
        return self._gaps

    @property
    def best_bid(self) -> Level | None:
        """The highest bid."""
        return self._bids.best

    @property
    def best_ask(self) -> Level | None:
        """The lowest ask."""
        return self._asks.best

    @property
    def quote(self) -> Quote | None:
        """Both best prices; ``None`` while out of sync, if a side is empty, or if they cross."""
        bid, ask = self._bids.best, self._asks.best
        return Quote.of(bid and bid[0], ask and ask[0])

    @property
    def crossed(self) -> bool:
        """Whether both sides have a price, but these make no quote."""
        return self.best_bid is not None and self.best_ask is not None and self.quote is None

    def bid_depth(self, levels: int) -> float | None:
        """The total size of the best `levels` bids; ``None`` while out of sync or crossed."""
        return self._bids.depth(levels) if self.in_sync and not self.crossed else None

    def ask_depth(self, levels: int) -> float | None:
        """The total size of the best `levels` asks; ``None`` while out of sync or crossed."""
        return self._asks.depth(levels) if self.in_sync and not self.crossed else None

    def apply(self, event: BookSnapshot | BookDelta) -> bool:
        """Apply an update, as the table above says.

        Returns:
            whether the update was applied; ``False`` if it was ignored or showed a gap.
        """
        if isinstance(event, BookSnapshot):
            self._bids.replace(event.bids)
            self._asks.replace(event.asks)
        elif self._update_id is None:
            return False
        elif event.update_id == self._update_id + 1:
            self._bids.update(event.bids)
            self._asks.update(event.asks)
        else:
            if event.update_id > self._update_id or self._count_began_anew(event):
                self._lose()
            return False
        self._update_id = event.update_id
        self._sequence = event.sequence
        return True

    def _count_began_anew(self, event: BookDelta) -> bool:
        if event.update_id == self._update_id or event.sequence is None or self._sequence is None:
            return False
        return event.sequence > self._sequence

    def _lose(self) -> None:
        self._bids.replace(())
        self._asks.replace(())
        self._update_id = None
        self._sequence = None
        self._gaps += 1


class _Side:
    """One side: sizes by price, and the prices in order, best first.

    Prices are multiplied by `sign`, so that the best is the least on both sides. They are in a list, because moving a
    thousand pointers at most costs less than any tree.
    """

    __slots__ = ("_limit", "_order", "_sign", "_sizes")

    def __init__(self, sign: int, limit: int) -> None:
        self._sign = sign
        self._limit = limit
        self._order: list[float] = []
        self._sizes: dict[float, float] = {}

    @property
    def best(self) -> Level | None:
        if not self._order:
            return None
        key = self._order[0]
        return self._sign * key, self._sizes[key]

    def depth(self, levels: int) -> float:
        return fsum(self._sizes[key] for key in islice(self._order, levels))

    def replace(self, levels: Iterable[Level]) -> None:
        sizes = {self._sign * price: size for price, size in levels}
        self._sizes = {key: size for key, size in sizes.items() if size}
        self._order = sorted(self._sizes)
        self._cut()

    def update(self, levels: Iterable[Level]) -> None:
        for price, size in levels:
            key = self._sign * price
            if size:
                if key not in self._sizes:
                    insort(self._order, key)
                self._sizes[key] = size
            elif self._sizes.pop(key, None) is not None:
                del self._order[bisect_left(self._order, key)]
        # Only after the loop: a later deletion in the same update may make room for a level over the limit.
        self._cut()

    def _cut(self) -> None:
        for key in self._order[self._limit :]:
            del self._sizes[key]
        del self._order[self._limit :]
