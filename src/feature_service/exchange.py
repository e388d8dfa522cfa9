"""A synthetic exchange and its gateway: market events for the demo, in the gateway's JSON.

It is deterministic: the same symbols, seed and times give the same bytes. The price of each symbol is a random walk on
its price grid. Each step gives trades, a book update and a ticker update of one consistent market: trades happen at the
best prices, the ticker quotes the book, the book never crosses, and ``u`` has no gaps.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeAlias
from uuid import UUID

TRADES: Final = "ws-gateway.trade"
TICKERS: Final = "ws-gateway.ticker"
BOOKS: Final = "ws-gateway.orderbook"

_LEVELS: Final = 50
_SNAPSHOT_EVERY: Final = 250
"""How many steps lie between two snapshots, on average."""
_FUNDING_INTERVAL: Final = 8 * 3600
_PRICES: Final = {"BTCUSDT": (861_235, 1), "ETHUSDT": (282_540, 2), "SOLUSDT": (12_911, 2)}
"""The start of a walk, in steps of the price grid, and the decimals of the grid."""
_OTHER_PRICE: Final = (100_000, 3)

_Sizes: TypeAlias = dict[int, int]
"""The size of each level in thousandths, by price in steps of the grid."""


@dataclass(frozen=True, slots=True)
class GatewayMessage:
    """A message from the gateway: its queue and its body."""

    queue: str
    body: bytes


class SyntheticExchange:
    """Market events of some symbols.

    Args:
        symbols: such as ``["BTCUSDT", "ETHUSDT"]``.
        seed: the seed of the random walk.

    Raises:
        ValueError: there is no symbol.
    """

    def __init__(self, symbols: Iterable[str], seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - prices for a demo, no secrets
        self._markets = [_Market(symbol, self._random) for symbol in dict.fromkeys(symbols)]
        if not self._markets:
            raise ValueError("an exchange needs at least one symbol")

    def step(self, now: float) -> list[GatewayMessage]:
        """Move every market once.

        Args:
            now: the current time in seconds since the epoch, which stamps the events. It must not go back.

        Returns:
            the messages, in the order in which the gateway publishes them.
        """
        return [message for market in self._markets for message in market.step(now)]


class _Market:
    """The market of one symbol. Its book has integer prices, which compare exactly."""

    def __init__(self, symbol: str, source: random.Random) -> None:
        self._symbol = symbol
        self._random = source
        self._best_bid, self._decimals = _PRICES.get(symbol, _OTHER_PRICE)
        self._spread = 1
        self._last = self._best_bid
        self._bids: _Sizes = {}
        self._asks: _Sizes = {}
        self._update_id = source.randrange(1, 1_000_000)
        self._sequence = source.randrange(1, 1_000_000_000)
        self._volume = source.randrange(10_000_000, 100_000_000)
        self._funding_rate = source.randrange(-300, 300)
        self._told: dict[str, str] = {}

    def step(self, now: float) -> list[GatewayMessage]:
        trades = [self._trade(now) for _ in range(self._random.choice((0, 0, 1, 1, 2, 4)))]
        self._walk()
        messages = [*trades, self._book(now)]
        ticker = self._ticker(now)
        return [*messages, ticker] if ticker else messages

    def _walk(self) -> None:
        move = round(self._random.gauss(0, 1.5))
        # A hundred steps above zero leave room for fifty bids.
        self._best_bid = max(self._best_bid + move, 100)
        self._spread = self._random.choice((1, 1, 1, 2, 3))

    def _trade(self, now: float) -> GatewayMessage:
        buy = self._random.random() < 0.5
        previous, self._last = self._last, self._best_bid + (self._spread if buy else 0)
        size = self._size()
        self._volume += size
        tick = "PlusTick" if self._last > previous else "MinusTick" if self._last < previous else "ZeroPlusTick"
        payload: dict[str, object] = {
            "T": int(now * 1000),
            "s": self._symbol,
            "S": "Buy" if buy else "Sell",
            "v": _decimal(size, 3),
            "p": self._price(self._last),
            "L": tick,
            "i": self._uuid(),
            "BT": False,
        }
        return self._message(TRADES, "trade", f"publicTrade.{self._symbol}", payload, now)

    def _book(self, now: float) -> GatewayMessage:
        bids = self._side(self._bids, range(self._best_bid, self._best_bid - _LEVELS, -1))
        best_ask = self._best_bid + self._spread
        asks = self._side(self._asks, range(best_ask, best_ask + _LEVELS))
        whole = not self._bids or self._random.random() < 1 / _SNAPSHOT_EVERY
        payload: dict[str, object] = {
            "s": self._symbol,
            "type": "snapshot" if whole else "delta",
            "b": self._levels(bids if whole else _changes(self._bids, bids)),
            "a": self._levels(asks if whole else _changes(self._asks, asks)),
            "u": self._update_id,
            "seq": self._sequence,
        }
        self._bids, self._asks = bids, asks
        self._update_id += 1
        self._sequence += self._random.randrange(1, 50)
        return self._message(BOOKS, "orderbook", f"orderbook.{_LEVELS}.{self._symbol}", payload, now)

    def _ticker(self, now: float) -> GatewayMessage | None:
        """All fields at first, then the changed ones; None if no field has changed."""
        funding_time = (int(now) // _FUNDING_INTERVAL + 1) * _FUNDING_INTERVAL
        if self._random.random() < 0.01:
            self._funding_rate += self._random.randrange(-5, 6)
        present = {
            "lastPrice": self._price(self._last),
            "bid1Price": self._price(self._best_bid),
            "ask1Price": self._price(self._best_bid + self._spread),
            "volume24h": _decimal(self._volume, 3),
            "fundingRate": _decimal(self._funding_rate, 6),
            "nextFundingTime": str(funding_time * 1000),
        }
        changed = {key: value for key, value in present.items() if self._told.get(key) != value}
        self._told = present
        if not changed:
            return None
        payload: dict[str, object] = {"symbol": self._symbol, **changed}
        return self._message(TICKERS, "ticker", f"tickers.{self._symbol}", payload, now)

    def _side(self, known: _Sizes, prices: range) -> _Sizes:
        """The levels at `prices`, with mostly the old sizes."""
        return {
            price: known[price] if price in known and self._random.random() < 0.9 else self._size() for price in prices
        }

    def _size(self) -> int:
        return 1 + int(self._random.expovariate(1 / 800))

    def _levels(self, sizes: _Sizes) -> list[list[str]]:
        return [[self._price(price), _decimal(size, 3) if size else "0"] for price, size in sizes.items()]

    def _price(self, steps: int) -> str:
        return _decimal(steps, self._decimals)

    def _uuid(self) -> str:
        return str(UUID(int=self._random.getrandbits(128), version=4))

    def _message(
        self, queue: str, event_type: str, topic: str, payload: dict[str, object], now: float
    ) -> GatewayMessage:
        stamp = datetime.fromtimestamp(now, UTC)
        event = {
            "event_id": self._uuid(),
            "event_type": event_type,
            "topic": topic,
            "timestamp": stamp.isoformat(timespec="microseconds"),
            "received_at": stamp.replace(tzinfo=None).isoformat(timespec="microseconds"),
            "trace_id": self._uuid(),
            "payload": payload,
        }
        return GatewayMessage(queue, json.dumps(event).encode())


def _changes(before: _Sizes, after: _Sizes) -> _Sizes:
    """The update from one side to the other: the new sizes, and 0 for each deleted level."""
    gone = dict.fromkeys((price for price in before if price not in after), 0)
    return gone | {price: size for price, size in after.items() if before.get(price) != size}


def _decimal(units: int, places: int) -> str:
    """Write an integer as a decimal number with ``places`` decimals: ``_decimal(861235, 1)`` is ``86123.5``."""
    sign = "-" if units < 0 else ""
    whole, fraction = divmod(abs(units), 10**places)
    return f"{sign}{whole}.{fraction:0{places}d}"
