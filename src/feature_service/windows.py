"""Rolling windows over trades and prices, in bounded memory.

Time is an argument, in seconds since the epoch. It is rounded to milliseconds, the exchange's own resolution: whether
something lies in a window is then a comparison of integers, and a window of a minute holds at most 60,000 entries
however many trades there are.

A window of length w at time t is the half-open interval (t - w, t]: what is exactly w old has left it.

Late events
    A *trade* that comes late goes to its place: it counts in every window that still reaches back to it, and in no
    other. A *price* that comes late takes effect at the newest time known: prices are the state of a market in the
    order in which it was learned, and an older stamp on newer news is the work of two clocks.

Cost: adding is O(1) amortised in order and O(log n) plus the move of a list's tail out of order; sums are O(1)
amortised; a price is O(log n); a volatility looks at one price for each second of its length.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import pairwise
from math import floor, fsum, log, sqrt
from typing import Final

_MS: Final = 1000


class ExactSum:
    """A running sum of floats without rounding errors: what is added and later taken away leaves nothing behind.

    Shewchuk's partials, as in :func:`math.fsum`: the sum is held as floats that do not overlap. A plain running sum
    would keep the rounding of every trade of the day, and a window without trades would have a volume of 1e-12.
    """

    __slots__ = ("_partials",)

    def __init__(self) -> None:
        self._partials: list[float] = []

    def add(self, term: float) -> None:
        """Add a finite number; a negative one takes away."""
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
    """What was traded in a window."""

    count: int
    buy_volume: float
    sell_volume: float
    notional: float
    """The sum of price times size."""

    @property
    def volume(self) -> float:
        """What was traded on both sides."""
        return self.buy_volume + self.sell_volume

    @property
    def signed_volume(self) -> float:
        """Bought less sold, by who took the initiative."""
        return self.buy_volume - self.sell_volume


class TradeWindow:
    """The trades of the last `span` seconds, as sums.

    Trades of one millisecond share an entry. A trade ahead of the clock counts at once: to hold it back could only lose
    it from the shortest window.
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
        """Count a trade, unless it is so late that the window has moved past it."""
        key = _milliseconds(at)
        newest = self._keys[-1] if len(self) else key
        if key <= newest - self._span:
            return
        place = bisect_left(self._keys, key, lo=self._head)
        if place == len(self._keys) or self._keys[place] != key:
            self._keys.insert(place, key)
            self._entries.insert(place, _Entry())
        entry = self._entries[place]
        # The totals hold the entries as they are, each rounded by itself; hence out and in again.
        self._count_entry(entry, -1)
        entry.add(price, size, buy=buy)
        self._count_entry(entry, 1)
        self._forget(max(newest, key))

    def sums(self, now: float) -> TradeSums:
        """What the window holds at `now`. It only moves on: asked for an earlier time, it leaves out what has left."""
        self._forget(_milliseconds(now))
        return TradeSums(self._count, self._buy.value, self._sell.value, self._notional.value)

    def _forget(self, now: int) -> None:
        end = bisect_right(self._keys, now - self._span, lo=self._head)
        for entry in self._entries[self._head : end]:
            self._count_entry(entry, -1)
        self._head = end
        # Moving the rest to the front costs as much as there is left, so wait until as much has gone.
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

    A price holds until the next one, but no longer than `hold`: after a silence the price is unknown, not unchanged.
    ``None`` in place of a price says that it is unknown from then on.

    Args:
        reach: how far back :meth:`at` is asked, in seconds.
        volatility_reach: the longest window that :meth:`volatility` is asked for, in seconds.
        hold: how long a price holds, in seconds.
    """

    __slots__ = ("_fine", "_seconds")

    def __init__(self, *, reach: float, volatility_reach: float, hold: float) -> None:
        self._fine = _Steps(1, reach, hold)
        self._seconds = _Steps(_MS, volatility_reach, hold)

    def __len__(self) -> int:
        return len(self._fine) + len(self._seconds)

    def add(self, at: float, price: float | None) -> None:
        """The price, above 0, from `at` on."""
        self._fine.add(_milliseconds(at), price)
        self._seconds.add(_milliseconds(at), price)

    def at(self, at: float) -> float | None:
        """The last price at or before `at`; ``None`` when the history does not reach back so far or it was unknown."""
        return self._fine.at(_milliseconds(at))

    def volatility(self, now: float, seconds: int) -> float | None:
        """The sample standard deviation of one-second log returns over the last `seconds` whole seconds.

        With S(k) the last price at or before the whole second k, K the last whole second at or before `now`, and
        r(k) = ln(S(k) / S(k - 1)), it is

            sqrt(sum((r(k) - mean(r))^2) / (n - 1)) over the n returns with K - seconds < k <= K

        of which both prices are known. It is per second, not scaled to a day or a year.

        Returns:
            ``None`` when fewer than half of the returns, or fewer than two, are known.
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
    """A step function that keeps one value for each `grain` milliseconds: the last at or before its end."""

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
        # The newest entry that has left the span stays: it tells the value at the span's beginning. The span is counted
        # from the grain before the key, for the key lies up to a grain ahead of the time that is asked for.
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
