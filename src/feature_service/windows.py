"""Rolling windows over trades and prices, in bounded memory.

Time is an argument, in seconds since the epoch. It is rounded to milliseconds, the exchange's resolution. So windows
compare integers, and a window of a minute holds at most 60,000 entries, however many trades there are.

A window of length w at time t is the half-open interval (t - w, t]: an entry that is exactly w old has left it.

Late events
    A late *trade* counts at its own time, in every window that still reaches back to it. A late *price* takes effect at
    the newest known time: prices describe the market in the order in which they arrived, and an older stamp on a newer
    price comes from a second clock.

Cost: adding is O(1) amortised in order; out of order it is O(log n) plus the move of a list's tail. Sums are O(1)
amortised, a price is O(log n), and a volatility reads one price for each second of its length.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import pairwise
from math import floor, fsum, log, sqrt
from typing import Final

_MS: Final = 1000


class ExactSum:
    """A running sum of floats without rounding errors: adding a term and subtracting it later restores the sum.

    The sum is held as floats that do not overlap (Shewchuk's partials, as in :func:`math.fsum`). A plain running sum
    would accumulate the rounding errors of the whole day, and an empty window could have a volume of 1e-12.
    """

    __slots__ = ("_partials",)

    def __init__(self) -> None:
        self._partials: list[float] = []

    def add(self, term: float) -> None:
        """Add a finite number, which may be negative."""
        partials: list[float] = []
        for partial in self._partials:
            large, small = (term, partial) if abs(term) >= abs(partial) else (partial, term)
            term = large + small
            rest = small - (term - large)
            if rest:
                partials.append(rest)
        if term:
            partials.append(term)
        self._partials = partials

    @property
    def value(self) -> float:
        """The sum, rounded once."""
        return fsum(self._partials)


@dataclass(frozen=True, slots=True)
class TradeSums:
    """The sums of the trades in a window."""

    count: int
    buy_volume: float
    sell_volume: float
    notional: float
    """The sum of price times size."""

    @property
    def volume(self) -> float:
        """The volume of both sides."""
        return self.buy_volume + self.sell_volume

    @property
    def signed_volume(self) -> float:
        """The buy volume minus the sell volume, by the aggressor's side."""
        return self.buy_volume - self.sell_volume


class TradeWindow:
    """The trades of the last `span` seconds, as sums.

    Trades of one millisecond share an entry. A trade ahead of the clock counts at once: if it were held back, the
    shortest window might miss it.
    """

    __slots__ = ("_buy", "_count", "_entries", "_head", "_keys", "_notional", "_sell", "_span")

    def __init__(self, span: float) -> None:
        self._span = _milliseconds(span)
        self._keys: list[int] = []
        self._entries: list[_Entry] = []
        self._head = 0
        self._count = 0
        self._buy = ExactSum()
        self._sell = ExactSum()
        self._notional = ExactSum()

    def __len__(self) -> int:
        return len(self._keys) - self._head

    def add(self, at: float, price: float, size: float, *, buy: bool) -> None:
        """Count a trade, unless the window has already moved past it."""
        key = _milliseconds(at)
        newest = self._keys[-1] if len(self) else key
        if key <= newest - self._span:
            return
        place = bisect_left(self._keys, key, lo=self._head)
        if place == len(self._keys) or self._keys[place] != key:
            self._keys.insert(place, key)
            self._entries.insert(place, _Entry())
        entry = self._entries[place]
        # The totals are sums of the rounded entries, so subtract the old entry and add the new one.
        self._count_entry(entry, -1)
        entry.add(price, size, buy=buy)
        self._count_entry(entry, 1)
        self._forget(max(newest, key))

    def sums(self, now: float) -> TradeSums:
        """The sums at `now`. The window only moves forward: at an earlier time, it lacks the trades that have left."""
        self._forget(_milliseconds(now))
        return TradeSums(self._count, self._buy.value, self._sell.value, self._notional.value)

    def _forget(self, now: int) -> None:
        end = bisect_right(self._keys, now - self._span, lo=self._head)
        for entry in self._entries[self._head : end]:
            self._count_entry(entry, -1)
        self._head = end
        # Moving the rest to the front costs its length, so wait until half of the list is free.
        if self._head > len(self._keys) // 2:
            del self._keys[: self._head]
            del self._entries[: self._head]
            self._head = 0

    def _count_entry(self, entry: _Entry, sign: int) -> None:
        self._count += sign * entry.count
        self._buy.add(sign * entry.buy)
        self._sell.add(sign * entry.sell)
        self._notional.add(sign * entry.notional)


class PriceHistory:
    """The prices of a market as a step function of time.

    A price is valid until the next one, but no longer than `hold`: after a silence the price is unknown, not unchanged.
    A price of ``None`` means that it is unknown from then on.

    Args:
        reach: how far back :meth:`at` may be asked, in seconds.
        volatility_reach: the longest window for :meth:`volatility`, in seconds.
        hold: how long a price is valid, in seconds.
    """

    __slots__ = ("_fine", "_seconds")

    def __init__(self, *, reach: float, volatility_reach: float, hold: float) -> None:
        self._fine = _Steps(1, reach, hold)
        self._seconds = _Steps(_MS, volatility_reach, hold)

    def __len__(self) -> int:
        return len(self._fine) + len(self._seconds)

    def add(self, at: float, price: float | None) -> None:
        """Set the price, above 0, from `at` on."""
        self._fine.add(_milliseconds(at), price)
        self._seconds.add(_milliseconds(at), price)

    def at(self, at: float) -> float | None:
        """The last price at or before `at`; ``None`` if it was unknown or is older than the history."""
        return self._fine.at(_milliseconds(at))

    def volatility(self, now: float, seconds: int) -> float | None:
        """The sample standard deviation of one-second log returns over the last `seconds` whole seconds.

        With S(k) the last price at or before the whole second k, K the last whole second at or before `now`, and
        r(k) = ln(S(k) / S(k - 1)), it is

            sqrt(sum((r(k) - mean(r))^2) / (n - 1)) over the n returns with K - seconds < k <= K

        for which both prices are known. It is per second, not scaled to a day or a year.

        Returns:
            The volatility; ``None`` if fewer than half of the returns, or fewer than two, are known.
        """
        last = floor(now)
        prices = [self._seconds.at(second * _MS) for second in range(last - seconds, last + 1)]
        returns = [log(b / a) for a, b in pairwise(prices) if a is not None and b is not None]
        if len(returns) < max(2, seconds / 2):
            return None
        mean = fsum(returns) / len(returns)
        return sqrt(fsum((r - mean) ** 2 for r in returns) / (len(returns) - 1))


class _Entry:
    """The trades of one millisecond."""

    __slots__ = ("buy", "count", "notional", "sell")

    def __init__(self) -> None:
        self.count = 0
        self.buy = 0.0
        self.sell = 0.0
        self.notional = 0.0

    def add(self, price: float, size: float, *, buy: bool) -> None:
        self.count += 1
        self.notional += price * size
        if buy:
            self.buy += size
        else:
            self.sell += size


class _Steps:
    """A step function with one value per `grain` milliseconds: the last value at or before the grain's end."""

    __slots__ = ("_grain", "_hold", "_keys", "_span", "_times", "_values")

    def __init__(self, grain: int, span: float, hold: float) -> None:
        self._grain = grain
        self._span = _milliseconds(span)
        self._hold = _milliseconds(hold)
        self._keys: list[int] = []
        self._times: list[int] = []
        self._values: list[float | None] = []

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, at: int, value: float | None) -> None:
        key = -(-at // self._grain) * self._grain
        if self._keys and key <= self._keys[-1]:
            self._times[-1] = max(at, self._times[-1])
            self._values[-1] = value
            return
        self._keys.append(key)
        self._times.append(at)
        self._values.append(value)
        # Keep the newest entry that has left the span: it is the value at the span's start. The span is measured from
        # the grain before the key, because the key may be up to a grain ahead of the requested time.
        gone = bisect_right(self._keys, key - self._grain - self._span) - 1
        if gone > len(self._keys) // 2:
            del self._keys[:gone]
            del self._times[:gone]
            del self._values[:gone]

    def at(self, at: int) -> float | None:
        place = bisect_right(self._keys, at) - 1
        if place < 0 or at - self._times[place] > self._hold:
            return None
        return self._values[place]


def _milliseconds(seconds: float) -> int:
    return round(seconds * _MS)
