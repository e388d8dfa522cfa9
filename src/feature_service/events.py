"""Market events, read from the bodies of the gateway's messages.

The time of an event is the exchange's own (``T``), else the gateway's ``timestamp``, else ``received_at``, else the
moment of reading. It is never later than the moment of reading: an event that has arrived has happened, and a stamp
from a clock that runs ahead would push all later events out of the rolling windows.

:mod:`feature_service.fields` bounds the work of reading a body. In addition, all books in one body have 4,096 levels at
most, both sides together (``MOST_LEVELS``). All limits lie well above the exchange's messages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeAlias, cast

from feature_service.fields import LONGEST_ID, SMALLEST, BadBody, Fields, checked_symbol, read_number

Level: TypeAlias = tuple[float, float]
"""A price and the size at it; a size of 0 in a delta deletes the level."""

MOST_LEVELS: Final = 4096


class Side(Enum):
    """Who took the initiative in a trade."""

    BUY = "buy"
    SELL = "sell"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trade:
    """One trade.

    Times are in seconds. Here and below, ``time`` is on the reader's own scale; ``stamp`` is the message's own time in
    UTC, None if it has none.
    """

    symbol: str
    time: float
    price: float
    size: float
    side: Side
    trade_id: str | None = None
    trace_id: str | None = None
    stamp: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticker:
    """A ticker message. A field is None if the message does not have it; a quote of 0 is an empty side."""

    symbol: str
    time: float
    last_price: float | None = None
    bid: float | None = None
    ask: float | None = None
    volume_24h: float | None = None
    funding_rate: float | None = None
    next_funding_time: float | None = None
    trace_id: str | None = None
    stamp: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class BookSnapshot:
    """The whole book; it replaces the earlier one."""

    symbol: str
    time: float
    update_id: int
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]
    sequence: int | None = None
    trace_id: str | None = None
    stamp: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class BookDelta:
    """The levels that changed since the last update."""

    symbol: str
    time: float
    update_id: int
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]
    sequence: int | None = None
    trace_id: str | None = None
    stamp: float | None = field(default=None, compare=False)


Event: TypeAlias = Trade | Ticker | BookSnapshot | BookDelta


def parse(body: bytes, *, now: float, shift: float = 0.0) -> tuple[Event, ...]:
    """Read one message of the gateway.

    Args:
        body: the message's body, JSON in UTF-8.
        now: the present time, in seconds since the epoch less `shift`, as are the times of the events.
        shift: how far UTC is ahead of `now`, in seconds.

    Returns:
        The events in their order: one as a rule; if ``payload.data`` is a list, one for each entry.

    Raises:
        BadBody: the body is not a message of the gateway's.
    """
    message = Fields.decode(body)
    payload = message.child("payload")
    reader = _reader(message, payload)
    time = _first_time(message, ("timestamp", "received_at"))
    trace_id = message.optional_text("trace_id", LONGEST_ID)
    items = payload.items("data")
    if reader is _book:
        _check_levels(items)
    events: list[Event] = []
    for item in items:
        stamp = next((t for t in (item.optional_time("T"), payload.optional_time("T"), time) if t is not None), None)
        at = now if stamp is None else min(stamp - shift, now)
        events.append(reader(item, payload, _Head(_symbol(message, payload, item), at, stamp, trace_id)))
    return tuple(events)


@dataclass(frozen=True, slots=True)
class _Head:
    symbol: str
    time: float
    stamp: float | None
    trace_id: str | None


def _trade(item: Fields, _payload: Fields, head: _Head) -> Trade:
    side = item.text("S").lower()
    if side not in ("buy", "sell"):
        raise BadBody(item.where("S"), "must be Buy or Sell")
    return Trade(
        symbol=head.symbol,
        time=head.time,
        price=item.number("p", SMALLEST),
        size=item.number("v", SMALLEST),
        side=Side(side),
        trade_id=item.optional_text("i", LONGEST_ID),
        trace_id=head.trace_id,
        stamp=head.stamp,
    )


def _ticker(item: Fields, _payload: Fields, head: _Head) -> Ticker:
    return Ticker(
        symbol=head.symbol,
        time=head.time,
        last_price=item.optional_number("lastPrice", 0),
        bid=item.optional_number("bid1Price", 0),
        ask=item.optional_number("ask1Price", 0),
        volume_24h=item.optional_number("volume24h", 0),
        funding_rate=item.optional_number("fundingRate"),
        next_funding_time=item.optional_time("nextFundingTime"),
        trace_id=head.trace_id,
        stamp=head.stamp,
    )


def _book(item: Fields, payload: Fields, head: _Head) -> BookSnapshot | BookDelta:
    holder = payload if item.get("type") is None else item
    kind = holder.text("type")
    if kind not in ("snapshot", "delta"):
        raise BadBody(holder.where("type"), "must be snapshot or delta")
    whole = kind == "snapshot"
    update_id = item.optional_integer("u")
    if update_id is None:
        raise item.missing("u")
    return (BookSnapshot if whole else BookDelta)(
        symbol=head.symbol,
        time=head.time,
        update_id=update_id,
        bids=_levels(item, "b", required=whole),
        asks=_levels(item, "a", required=whole),
        sequence=item.optional_integer("seq"),
        trace_id=head.trace_id,
        stamp=head.stamp,
    )


def _check_levels(items: list[Fields]) -> None:
    levels = 0
    for item in items:
        levels += item.length("b") + item.length("a")
        if levels > MOST_LEVELS:
            raise BadBody(item.path, f"has {levels} levels with those before it, more than {MOST_LEVELS}")


def _levels(item: Fields, key: str, *, required: bool) -> tuple[Level, ...]:
    value = item.get(key)
    path = item.where(key)
    if value is None:
        if required:
            raise item.missing(key)
        return ()
    if not isinstance(value, list):
        raise BadBody(path, f"must be a list, not {type(value).__name__}")
    return tuple(_level(entry, f"{path}[{i}]") for i, entry in enumerate(cast("list[object]", value)))


def _level(value: object, path: str) -> Level:
    pair = cast("list[object]", value) if isinstance(value, list) else []
    if len(pair) != 2:
        raise BadBody(path, "must be a price and a size")
    return read_number(pair[0], f"{path}[0]", SMALLEST), read_number(pair[1], f"{path}[1]", 0)


_Reader: TypeAlias = Callable[[Fields, Fields, _Head], Event]
_READERS: Final[dict[str, _Reader]] = {"trade": _trade, "ticker": _ticker, "orderbook": _book}
_TOPICS: Final = {"publicTrade": "trade", "tickers": "ticker", "orderbook": "orderbook"}


def _reader(message: Fields, payload: Fields) -> _Reader:
    """The reader for ``event_type``, or if that is absent, for the first part of the topic."""
    kind = message.optional_text("event_type")
    if kind is None:
        kind = _TOPICS.get(_topic(message, payload).partition(".")[0])
        if kind is None:
            raise message.missing("event_type")
    if kind not in _READERS:
        raise BadBody("event_type", "must be trade, ticker or orderbook")
    return _READERS[kind]


def _symbol(message: Fields, payload: Fields, item: Fields) -> str:
    for fields, key in ((message, "symbol"), (item, "symbol"), (item, "s"), (payload, "symbol"), (payload, "s")):
        symbol = fields.optional_symbol(key)
        if symbol is not None:
            return symbol
    symbol = _topic(message, payload).partition(".")[2].rpartition(".")[2]
    if not symbol:
        raise message.missing("symbol")
    return checked_symbol(symbol, message.where("topic"))


def _topic(message: Fields, payload: Fields) -> str:
    return message.optional_text("topic", LONGEST_ID) or payload.optional_text("topic", LONGEST_ID) or ""


def _first_time(fields: Fields, keys: tuple[str, ...]) -> float | None:
    return next((time for key in keys if (time := fields.optional_time(key)) is not None), None)
