"""Market events for tests: sample messages of the gateway, and functions that make events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from feature_service.events import BookDelta, BookSnapshot, Event, Level, Side, Ticker, Trade

T0: Final = 1763892000.0
"""2025-11-23T10:00:00Z."""

SYMBOL: Final = "BTCUSDT"

TRADE_MESSAGE: Final = b"""
{"event_id": "0b2c...", "event_type": "trade", "topic": "publicTrade.BTCUSDT", "timestamp": "2025-11-23T10:00:00.123000+00:00",
 "received_at": "2025-11-23T10:00:00.130000", "trace_id": "f3a1...",
 "payload": {"T": 1763892000123, "s": "BTCUSDT", "S": "Buy", "v": "0.013", "p": "86123.5", "L": "PlusTick", "i": "uuid", "BT": false}}
"""  # noqa: E501 - as the gateway sends it
TICKER_MESSAGE: Final = b"""
{"event_type": "ticker", "topic": "tickers.BTCUSDT", "payload": {"symbol": "BTCUSDT", "lastPrice": "86123.5", "bid1Price": "86123.4", "ask1Price": "86123.5",
 "volume24h": "61234.1", "fundingRate": "0.0001", "nextFundingTime": "1763913600000"}}
"""  # noqa: E501 - as the gateway sends it
SNAPSHOT_MESSAGE: Final = b"""
{"event_type": "orderbook", "topic": "orderbook.50.BTCUSDT", "payload": {"s": "BTCUSDT", "type": "snapshot", "b": [["86123.4", "1.5"]], "a": [["86123.5", "0.8"]], "u": 100, "seq": 9}}
"""  # noqa: E501 - as the gateway sends it
DELTA_MESSAGE: Final = b"""
{"event_type": "orderbook", "topic": "orderbook.50.BTCUSDT", "payload": {"s": "BTCUSDT", "type": "delta", "b": [["86123.4", "0"]], "a": [["86123.6", "2"]], "u": 101, "seq": 10}}
"""  # noqa: E501 - as the gateway sends it
MESSAGES: Final = (TRADE_MESSAGE, TICKER_MESSAGE, SNAPSHOT_MESSAGE, DELTA_MESSAGE)


def body(**fields: object) -> bytes:
    """A message body with these fields."""
    return json.dumps(fields).encode()


def trade(at: float, price: float, size: float, side: str = "buy", trade_id: str | None = None) -> Trade:
    """A trade of BTCUSDT, `at` seconds after T0."""
    return Trade(symbol=SYMBOL, time=T0 + at, price=price, size=size, side=Side(side), trade_id=trade_id)


def ticker(
    at: float,
    *,
    last: float | None = None,
    bid: float | None = None,
    ask: float | None = None,
    funding_rate: float | None = None,
    next_funding_time: float | None = None,
) -> Ticker:
    """A ticker of BTCUSDT, `at` seconds after T0."""
    return Ticker(
        symbol=SYMBOL,
        time=T0 + at,
        last_price=last,
        bid=bid,
        ask=ask,
        funding_rate=funding_rate,
        next_funding_time=next_funding_time,
    )


def snapshot(
    u: int, bids: Sequence[Level] = (), asks: Sequence[Level] = (), *, at: float = 0, seq: int | None = None
) -> BookSnapshot:
    """A whole book of BTCUSDT, `at` seconds after T0."""
    return BookSnapshot(symbol=SYMBOL, time=T0 + at, update_id=u, bids=tuple(bids), asks=tuple(asks), sequence=seq)


def delta(
    u: int, bids: Sequence[Level] = (), asks: Sequence[Level] = (), *, at: float = 0, seq: int | None = None
) -> BookDelta:
    """A change of the book of BTCUSDT, `at` seconds after T0."""
    return BookDelta(symbol=SYMBOL, time=T0 + at, update_id=u, bids=tuple(bids), asks=tuple(asks), sequence=seq)


def only(events: tuple[Event, ...]) -> Event:
    """The only event."""
    assert len(events) == 1
    return events[0]
