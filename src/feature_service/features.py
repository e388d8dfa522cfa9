"""The state of one symbol, and its features at a time.

Let t be the requested time. The quote at t is the best bid and ask of the order book if it is in sync, else of the
ticker. A source has no quote if its prices cross, if a side is missing, or if its last event is more than 60 s older
than t. The last traded price never replaces a quote. Trades are those with a time in (t - w, t], where w is the window
in the feature's name.

============================  =============================================================  =========================
feature                       definition                                                     left out when
============================  =============================================================  =========================
mid_price                     (bid + ask) / 2                                                there is no quote
spread_abs                    ask - bid                                                      there is no quote
spread_rel                    spread_abs / mid_price                                         there is no quote
return_1s, 3s, 1m             mid_price(t) / mid_price(t - h) - 1, the latter being the      there was no quote then,
                              last at or before t - h                                        or none for 60 s
vwap_3s, 15s, 1m              sum(price * size) / sum(size) of the trades                    the window has no trades
volume_3s, 15s, 1m            sum(size) of the trades, in units of the base asset            no trade was ever seen
volatility_1m, 5m             sample standard deviation of the 1 s log returns of mid_price  fewer than half of the
                              over the last 60 or 300 whole seconds, per second              returns are known
signed_volume_3s, 15s, 1m     volume bought less volume sold, by the side that took the      no trade was ever seen
                              initiative
buy_sell_volume_ratio         volume bought / volume sold, 1 minute                          nothing was sold
trade_count_3s                number of trades, 3 s                                          no trade was ever seen
net_aggressor_pressure        (bought - sold) / (bought + sold), 15 s, from -1 to 1          the window has no trades
depth_bid_top5, top10         sum of the sizes of the best 5 or 10 bids of the order book    there is no order book
depth_ask_top5, top10         the same for the asks                                          there is no order book
depth_imbalance_top5          (depth_bid_top5 - depth_ask_top5) / (their sum), from -1 to 1  both are 0 or left out
funding_rate                  of the ticker, for one funding interval                        not known
time_to_funding               (next funding time - t) / 60, minutes                          not known, or it has passed
time_of_day_sin, cos          sin and cos of 2 pi * (seconds since midnight UTC) / 86400     never
============================  =============================================================  =========================

There is an order book if it is in sync, not crossed, and had an event within 60 s. Volumes count from the first trade
seen, also in a window that began before it. A trade whose ID was counted already is not counted again: a message that
was unacknowledged when a connection failed is delivered twice.

A feature is left out if its inputs are missing or its value is not finite. Every change of a definition needs a new
:data:`FEATURE_REGISTRY_VERSION`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import cos, isfinite, pi, sin
from typing import Final

from feature_service.book import OrderBook, Quote
from feature_service.events import BookDelta, BookSnapshot, Event, Side, Ticker, Trade
from feature_service.windows import PriceHistory, TradeWindow

FEATURE_REGISTRY_VERSION: Final = "1"

FEATURES: Final[tuple[str, ...]] = (
    "mid_price",
    "spread_abs",
    "spread_rel",
    "return_1s",
    "return_3s",
    "return_1m",
    "vwap_3s",
    "vwap_15s",
    "vwap_1m",
    "volume_3s",
    "volume_15s",
    "volume_1m",
    "volatility_1m",
    "volatility_5m",
    "signed_volume_3s",
    "signed_volume_15s",
    "signed_volume_1m",
    "buy_sell_volume_ratio",
    "trade_count_3s",
    "net_aggressor_pressure",
    "depth_bid_top5",
    "depth_bid_top10",
    "depth_ask_top5",
    "depth_ask_top10",
    "depth_imbalance_top5",
    "funding_rate",
    "time_to_funding",
    "time_of_day_sin",
    "time_of_day_cos",
)
"""The names that :meth:`SymbolState.features` may return, in its order."""

HOLD: Final = 60.0
"""How many seconds a quote or a book stays valid after the last event of its source."""

_RETURNS: Final = {"1s": 1.0, "3s": 3.0, "1m": 60.0}
_VOLATILITIES: Final = {"1m": 60, "5m": 300}
_TRADES: Final = {"3s": 3.0, "15s": 15.0, "1m": 60.0}
_REMEMBERED_TRADES: Final = 2_000
"""IDs kept per symbol. Trades come twice only in the messages, 100 at most, that were unacknowledged at a loss."""
_DAY: Final = 86_400


class SymbolState:
    """The state of one symbol."""

    __slots__ = (
        "_ask",
        "_bid",
        "_book",
        "_book_time",
        "_funding_rate",
        "_funding_time",
        "_newest",
        "_prices",
        "_ticker_time",
        "_trades",
    )

    def __init__(self) -> None:
        self._book = OrderBook()
        self._book_time = 0.0
        self._ticker_time = 0.0
        self._newest = 0.0
        self._bid = _Latest()
        self._ask = _Latest()
        self._funding_rate = _Latest()
        self._funding_time = _Latest()
        self._trades = _Trades()
        self._prices = PriceHistory(
            reach=max(_RETURNS.values()), volatility_reach=max(_VOLATILITIES.values()), hold=HOLD
        )

    @property
    def book(self) -> OrderBook:
        """The order book. Do not change it."""
        return self._book

    def apply(self, event: Event) -> None:
        """Apply an event of this symbol."""
        match event:
            case Trade():
                self._trades.add(event)
                return
            case Ticker():
                self._ticker_time = max(self._ticker_time, event.time)
                self._bid.offer(event.bid, event.time)
                self._ask.offer(event.ask, event.time)
                self._funding_rate.offer(event.funding_rate, event.time)
                self._funding_time.offer(event.next_funding_time, event.time)
            case BookSnapshot() | BookDelta():
                if self._book.apply(event):
                    self._book_time = event.time
        # Take the quote at the newest known time: a source that catches up with a backlog must not mix its old prices
        # with the current prices of the other source.
        self._newest = max(self._newest, event.time)
        quote = self._quote(self._newest)
        self._prices.add(self._newest, None if quote is None else quote.mid)

    def features(self, now: float, *, utc: float | None = None) -> dict[str, float]:
        """The features at `now`; see the table above.

        Args:
            now: the time in seconds, on the scale of the events' times. It must not go back.
            utc: the same time in seconds since the epoch; `now` by default.
        """
        utc = now if utc is None else utc
        quote = self._quote(now)
        found: dict[str, float | None] = {}
        if quote is not None:
            found |= {"mid_price": quote.mid, "spread_abs": quote.spread, "spread_rel": quote.spread / quote.mid}
            for name, horizon in _RETURNS.items():
                past = self._prices.at(now - horizon)
                found[f"return_{name}"] = None if past is None else quote.mid / past - 1
        for name, seconds in _VOLATILITIES.items():
            found[f"volatility_{name}"] = self._prices.volatility(now, seconds)
        found |= self._trades.features(now)
        found |= self._depths(now)
        found["funding_rate"] = self._funding_rate.value
        funding_time = self._funding_time.value
        if funding_time is not None and funding_time >= utc:
            found["time_to_funding"] = (funding_time - utc) / 60
        angle = 2 * pi * (utc % _DAY) / _DAY
        found |= {"time_of_day_sin": sin(angle), "time_of_day_cos": cos(angle)}
        values = ((name, found.get(name)) for name in FEATURES)
        return {name: float(value) for name, value in values if value is not None and isfinite(value)}

    def _quote(self, now: float) -> Quote | None:
        quote = self._book.quote if now - self._book_time <= HOLD else None
        if quote is None and now - self._ticker_time <= HOLD:
            quote = Quote.of(self._bid.value, self._ask.value)
        return quote

    def _depths(self, now: float) -> dict[str, float | None]:
        if now - self._book_time > HOLD:
            return {}
        bid, ask = self._book.bid_depth(5), self._book.ask_depth(5)
        total = None if bid is None or ask is None else bid + ask
        return {
            "depth_bid_top5": bid,
            "depth_bid_top10": self._book.bid_depth(10),
            "depth_ask_top5": ask,
            "depth_ask_top10": self._book.ask_depth(10),
            "depth_imbalance_top5": (bid - ask) / total if bid is not None and ask is not None and total else None,
        }


@dataclass(slots=True)
class _Latest:
    """The newest value of a field that is sent only when it changes."""

    value: float | None = None
    time: float = 0.0

    def offer(self, value: float | None, time: float) -> None:
        if value is not None and time >= self.time:
            self.value = value
            self.time = time


class _Trades:
    """The trades of a symbol in all windows. Each trade counts once."""

    __slots__ = ("_any", "_order", "_seen", "_windows")

    def __init__(self) -> None:
        self._windows = {name: TradeWindow(span) for name, span in _TRADES.items()}
        self._any = False
        self._order: deque[str] = deque()
        self._seen: set[str] = set()

    def add(self, trade: Trade) -> None:
        if trade.trade_id is not None and not self._is_new(trade.trade_id):
            return
        self._any = True
        for window in self._windows.values():
            window.add(trade.time, trade.price, trade.size, buy=trade.side is Side.BUY)

    def features(self, now: float) -> dict[str, float | None]:
        if not self._any:
            return {}
        found: dict[str, float | None] = {}
        sums = {name: window.sums(now) for name, window in self._windows.items()}
        for name, of in sums.items():
            found[f"vwap_{name}"] = _ratio(of.notional, of.volume)
            found[f"volume_{name}"] = of.volume
            found[f"signed_volume_{name}"] = of.signed_volume
        found["trade_count_3s"] = sums["3s"].count
        found["buy_sell_volume_ratio"] = _ratio(sums["1m"].buy_volume, sums["1m"].sell_volume)
        found["net_aggressor_pressure"] = _ratio(sums["15s"].signed_volume, sums["15s"].volume)
        return found

    def _is_new(self, trade_id: str) -> bool:
        if trade_id in self._seen:
            return False
        self._seen.add(trade_id)
        self._order.append(trade_id)
        if len(self._order) > _REMEMBERED_TRADES:
            self._seen.discard(self._order.popleft())
        return True


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
