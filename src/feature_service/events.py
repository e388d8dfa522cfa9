"""Market events, read from the bodies of the gateway's messages.

A body comes from the network. Whatever is wrong with it ends in :class:`BadEvent`, which names the field, and in
nothing else. Known fields are checked strictly, unknown ones are not looked at.

The time of an event is the exchange's own (``T``), else the gateway's ``timestamp``, else ``received_at``, else the
moment of reading. It is never later than the moment of reading: what has arrived has happened, and a stamp from a clock
that runs ahead would push everything after it out of the rolling windows.

Reading a body is bounded work. The limits lie well above what the exchange sends:

=========================================================  ==============================================
a body                                                     1 MiB (``MAX_BODY``)
values in one body, counted as its ``[``, ``{`` and ``,``   32,768 (``MOST_VALUES``)
events in one body (``payload.data`` as a list)            1,024 (``MOST_EVENTS``)
levels of all books in one body, both sides together       4,096 (``MOST_LEVELS``)
a number or a time, written as a string                    64 characters
a price or a size                                          from 1e-18 to 1e18
an integer (``u``, ``seq``)                                from 0 to 2^63 - 1
a time                                                     from 1970 to 9999
a symbol                                                   64 characters of ASCII, printable, no spaces
another name (``event_type``, ``S``, ``type``)             64 printable characters
a topic, a trade's id, a ``trace_id``                      256 printable characters
=========================================================  ==============================================
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Final, Never, TypeAlias, cast

Level: TypeAlias = tuple[float, float]
"""A price and the size that stands there; a size of 0 in a delta deletes the level."""

MAX_BODY: Final = 1024 * 1024
MOST_VALUES: Final = 32_768
MOST_EVENTS: Final = 1024
MOST_LEVELS: Final = 4096

_SMALLEST: Final = 1e-18
_LARGEST: Final = 1e18
"""Beyond these no price or size is real, and within them no product or sum of theirs overflows."""
_LONGEST_NUMBER: Final = 64
"""Characters of a number or a time. Nothing longer is given to a regular expression or a converter."""
_LONGEST_NAME: Final = 64
_LONGEST_ID: Final = 256
_LAST_SECOND: Final = 253402300799.0
"""9999-12-31T23:59:59Z, the end of the calendar."""
_MAX_INTEGER: Final = 2**63 - 1

_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_INTEGER: Final = re.compile(r"[0-9]{1,19}")


class BadEvent(ValueError):
    """A message body is not what it should be.

    Attributes:
        field: where the fault is, as a path such as ``payload.b[2][0]``; ``body`` when it is the whole.
        problem: what is wrong there.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field = field
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.field} {self.problem}"


class Side(Enum):
    """Who took the initiative in a trade."""

    BUY = "buy"
    SELL = "sell"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trade:
    """One trade.

    Times are in seconds. Here and below, ``time`` is on the reader's own scale, and ``stamp`` is the UTC that the
    message bears, if it bears any.
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
    """What a ticker message says; ``None`` is what it does not mention, a quote of 0 an empty side."""

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
    """The whole book; it replaces whatever was known."""

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
    """The levels that changed since the update before."""

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
        now: the present time, in seconds since the epoch less `shift`; so are the times of the events.
        shift: how far UTC is ahead of `now`, in seconds.

    Returns:
        the events in their order: one as a rule, as many as ``payload.data`` has when that is a list.

    Raises:
        BadEvent: the body is not such a message.
    """
    message = Fields.decode(body)
    payload = message.child("payload")
    reader = _reader(message, payload)
    time = _first_time(message, ("timestamp", "received_at"))
    trace_id = message.optional_text("trace_id", _LONGEST_ID)
    items = payload.items("data")
    if reader is _book:
        _check_levels(items)
    events: list[Event] = []
    for item in items:
        stamp = next((t for t in (item.optional_time("T"), payload.optional_time("T"), time) if t is not None), None)
        at = now if stamp is None else min(stamp - shift, now)
        events.append(reader(item, payload, _Head(_symbol(message, payload, item), at, stamp, trace_id)))
    return tuple(events)


class Fields:
    """A JSON object from the network: every look at it is checked, every fault is named.

    ``null`` and the empty string count as absent: the exchange sends both for what it has nothing to say about.
    """

    __slots__ = ("_path", "_values")

    def __init__(self, values: dict[str, object], path: str = "") -> None:
        self._values = values
        self._path = path

    @classmethod
    def decode(cls, body: bytes) -> Fields:
        """Read a body that must be one JSON object in UTF-8."""
        if len(body) > MAX_BODY:
            raise BadEvent("body", f"has {len(body)} bytes, more than {MAX_BODY}")
        values = body.count(b"[") + body.count(b"{") + body.count(b",")
        if values > MOST_VALUES:
            raise BadEvent("body", f"has {values} values, more than {MOST_VALUES}")
        try:
            value: object = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
        except UnicodeDecodeError:
            raise BadEvent("body", "is not UTF-8") from None
        except RecursionError:
            raise BadEvent("body", "is nested too deeply") from None
        except ValueError as error:
            raise BadEvent("body", f"is not JSON: {error}") from None
        return cls(_object(value, "body"))

    @property
    def path(self) -> str:
        """The path of the object itself, for messages; empty for the whole body."""
        return self._path

    def where(self, key: str) -> str:
        """The path of a field, for messages."""
        return f"{self._path}.{key}" if self._path else key

    def get(self, key: str) -> object:
        """The raw value; ``None`` when absent."""
        value = self._values.get(key)
        return None if value == "" else value

    def names(self) -> list[str]:
        """The keys, in their order."""
        return list(self._values)

    def missing(self, key: str) -> BadEvent:
        """The error for a field that must be there."""
        return BadEvent(self.where(key), "is missing")

    def child(self, key: str) -> Fields:
        """The object under `key`, which must be there."""
        value = self.get(key)
        if value is None:
            raise self.missing(key)
        return Fields(_object(value, self.where(key)), self.where(key))

    def items(self, key: str) -> list[Fields]:
        """The object or the list of at most ``MOST_EVENTS`` objects under `key`; without that key, this object."""
        value = self.get(key)
        path = self.where(key)
        if value is None:
            return [self]
        if isinstance(value, list):
            entries = cast("list[object]", value)
            if len(entries) > MOST_EVENTS:
                raise BadEvent(path, f"has {len(entries)} entries, more than {MOST_EVENTS}")
            return [Fields(_object(entry, f"{path}[{i}]"), f"{path}[{i}]") for i, entry in enumerate(entries)]
        return [Fields(_object(value, path), path)]

    def length(self, key: str) -> int:
        """How many entries the list under `key` has; 0 if there is no list."""
        value = self.get(key)
        return len(cast("list[object]", value)) if isinstance(value, list) else 0

    def optional_text(self, key: str, longest: int = _LONGEST_NAME) -> str | None:
        """A printable string of at most `longest` characters."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise BadEvent(self.where(key), f"must be a string, not {type(value).__name__}")
        if len(value) > longest or not value.isprintable():
            raise BadEvent(self.where(key), f"must be at most {longest} printable characters")
        return value

    def optional_symbol(self, key: str) -> str | None:
        """A market's symbol: printable ASCII without spaces."""
        value = self.optional_text(key)
        return None if value is None else _checked_symbol(value, self.where(key))

    def text(self, key: str, longest: int = _LONGEST_NAME) -> str:
        """The same, required."""
        value = self.optional_text(key, longest)
        if value is None:
            raise self.missing(key)
        return value

    def optional_number(self, key: str, least: float = -_LARGEST) -> float | None:
        """A number of at least `least`."""
        value = self.get(key)
        return None if value is None else read_number(value, self.where(key), least)

    def number(self, key: str, least: float = -_LARGEST) -> float:
        """The same, required."""
        value = self.optional_number(key, least)
        if value is None:
            raise self.missing(key)
        return value

    def optional_integer(self, key: str) -> int | None:
        """An integer from 0 to 2^63 - 1, or a string of its digits."""
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value, str) and _INTEGER.fullmatch(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_INTEGER:
            raise BadEvent(self.where(key), "must be an integer from 0 to 2^63 - 1")
        return value

    def optional_time(self, key: str) -> float | None:
        """A time: milliseconds since the epoch or ISO 8601, UTC when it names no offset; returned in seconds."""
        value = self.get(key)
        return None if value is None else read_time(value, self.where(key))


def read_number(value: object, field: str, least: float = -_LARGEST) -> float:
    """Read a number that came as a JSON number or as a string.

    Raises:
        BadEvent: it is no number, not finite, below `least`, or of a size that no market knows.
    """
    if isinstance(value, str):
        if len(value) > _LONGEST_NUMBER or not _NUMBER.fullmatch(value):
            raise BadEvent(field, f"is not a number: {value[:20]!r}")
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise BadEvent(field, f"must be a number, not {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if number != 0 and not _SMALLEST <= abs(number) <= _LARGEST:
        raise BadEvent(field, "is out of range")
    if number < least:
        raise BadEvent(field, "must not be negative" if least == 0 else "is too small")
    return number


def read_time(value: object, field: str) -> float:
    """Read a time, in milliseconds since the epoch or ISO 8601, as seconds since the epoch.

    Raises:
        BadEvent: it is neither, or it lies before 1970 or after 9999.
    """
    if isinstance(value, str) and len(value) > _LONGEST_NUMBER:
        raise BadEvent(field, f"is not a time: {value[:40]!r}")
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        try:
            moment = datetime.fromisoformat(value)
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            raise BadEvent(field, f"is not a time: {value[:40]!r}") from None
    else:
        seconds = read_number(value, field) / 1000
    if not 0 <= seconds <= _LAST_SECOND:
        raise BadEvent(field, "is not a time between 1970 and 9999")
    return seconds


@dataclass(frozen=True, slots=True)
class _Head:
    symbol: str
    time: float
    stamp: float | None
    trace_id: str | None


def _trade(item: Fields, _payload: Fields, head: _Head) -> Trade:
    side = item.text("S").lower()
    if side not in ("buy", "sell"):
        raise BadEvent(item.where("S"), "must be Buy or Sell")
    return Trade(
        symbol=head.symbol,
        time=head.time,
        price=item.number("p", _SMALLEST),
        size=item.number("v", _SMALLEST),
        side=Side(side),
        trade_id=item.optional_text("i", _LONGEST_ID),
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
        raise BadEvent(holder.where("type"), "must be snapshot or delta")
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
            raise BadEvent(item.path, f"has {levels} levels with those before it, more than {MOST_LEVELS}")


def _levels(item: Fields, key: str, *, required: bool) -> tuple[Level, ...]:
    value = item.get(key)
    path = item.where(key)
    if value is None:
        if required:
            raise item.missing(key)
        return ()
    if not isinstance(value, list):
        raise BadEvent(path, f"must be a list, not {type(value).__name__}")
    return tuple(_level(entry, f"{path}[{i}]") for i, entry in enumerate(cast("list[object]", value)))


def _level(value: object, path: str) -> Level:
    pair = cast("list[object]", value) if isinstance(value, list) else []
    if len(pair) != 2:
        raise BadEvent(path, "must be a price and a size")
    return read_number(pair[0], f"{path}[0]", _SMALLEST), read_number(pair[1], f"{path}[1]", 0)


_Reader: TypeAlias = Callable[[Fields, Fields, _Head], Event]
_READERS: Final[dict[str, _Reader]] = {"trade": _trade, "ticker": _ticker, "orderbook": _book}
_TOPICS: Final = {"publicTrade": "trade", "tickers": "ticker", "orderbook": "orderbook"}


def _reader(message: Fields, payload: Fields) -> _Reader:
    """Go by ``event_type``, or where that is absent by the head of the topic."""
    kind = message.optional_text("event_type")
    if kind is None:
        kind = _TOPICS.get(_topic(message, payload).partition(".")[0])
        if kind is None:
            raise message.missing("event_type")
    if kind not in _READERS:
        raise BadEvent("event_type", "must be trade, ticker or orderbook")
    return _READERS[kind]


def _symbol(message: Fields, payload: Fields, item: Fields) -> str:
    for fields, key in ((message, "symbol"), (item, "symbol"), (item, "s"), (payload, "symbol"), (payload, "s")):
        symbol = fields.optional_symbol(key)
        if symbol is not None:
            return symbol
    symbol = _topic(message, payload).partition(".")[2].rpartition(".")[2]
    if not symbol:
        raise message.missing("symbol")
    return _checked_symbol(symbol, message.where("topic"))


def _checked_symbol(symbol: str, field: str) -> str:
    # It becomes a part of the vector's message id, which AMQP holds to 255 bytes.
    if len(symbol) > _LONGEST_NAME or not symbol.isascii() or not symbol.isprintable() or " " in symbol:
        raise BadEvent(field, f"must be at most {_LONGEST_NAME} printable ASCII characters without spaces")
    return symbol


def _topic(message: Fields, payload: Fields) -> str:
    return message.optional_text("topic", _LONGEST_ID) or payload.optional_text("topic", _LONGEST_ID) or ""


def _first_time(fields: Fields, keys: tuple[str, ...]) -> float | None:
    return next((time for key in keys if (time := fields.optional_time(key)) is not None), None)


def _object(value: object, path: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise BadEvent(path, f"must be an object, not {type(value).__name__}")
    return cast("dict[str, object]", value)


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is not a JSON value")
