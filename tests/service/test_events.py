"""Reading the gateway's messages: valid ones are parsed, all others raise a BadBody that names the field."""

from __future__ import annotations

import json
import pickle
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_service.events import (
    MOST_LEVELS,
    BookDelta,
    BookSnapshot,
    Side,
    Ticker,
    Trade,
    parse,
)
from feature_service.fields import MAX_BODY, MOST_OBJECTS, BadBody
from support.market import DELTA_MESSAGE, MESSAGES, SNAPSHOT_MESSAGE, T0, TICKER_MESSAGE, TRADE_MESSAGE, body, only

NOW = T0 + 1
NOTHING_NEW: list[dict[str, str]] = [{}]
"""Of a ticker."""


def edited(message: bytes, path: str, value: object) -> bytes:
    """The message with another value at a dotted path; ``...`` removes the field."""
    root = json.loads(message)
    holder = root
    *parents, last = path.split(".")
    for key in parents:
        holder = holder[key]
    if value is ...:
        del holder[last]
    else:
        holder[last] = value
    return json.dumps(root).encode()


def fault(message: bytes) -> BadBody:
    with pytest.raises(BadBody) as caught:
        parse(message, now=NOW)
    return caught.value


def read_trade(message: bytes) -> Trade:
    event = only(parse(message, now=NOW))
    assert isinstance(event, Trade)
    return event


def read_ticker(message: bytes) -> Ticker:
    event = only(parse(message, now=NOW))
    assert isinstance(event, Ticker)
    return event


# Valid messages


def test_trade_as_the_gateway_sends_it() -> None:
    assert read_trade(TRADE_MESSAGE) == Trade(
        symbol="BTCUSDT",
        time=1763892000.123,
        price=86123.5,
        size=0.013,
        side=Side.BUY,
        trade_id="uuid",
        trace_id="f3a1...",
    )


def test_ticker_as_the_gateway_sends_it() -> None:
    assert read_ticker(TICKER_MESSAGE) == Ticker(
        symbol="BTCUSDT",
        time=NOW,
        last_price=86123.5,
        bid=86123.4,
        ask=86123.5,
        volume_24h=61234.1,
        funding_rate=0.0001,
        next_funding_time=1763913600.0,
    )


def test_snapshot_as_the_gateway_sends_it() -> None:
    assert parse(SNAPSHOT_MESSAGE, now=NOW) == (
        BookSnapshot(
            symbol="BTCUSDT", time=NOW, update_id=100, bids=((86123.4, 1.5),), asks=((86123.5, 0.8),), sequence=9
        ),
    )


def test_delta_as_the_gateway_sends_it() -> None:
    assert parse(DELTA_MESSAGE, now=NOW) == (
        BookDelta(
            symbol="BTCUSDT", time=NOW, update_id=101, bids=((86123.4, 0.0),), asks=((86123.6, 2.0),), sequence=10
        ),
    )


def test_ticker_delta_has_none_for_what_did_not_change() -> None:
    event = read_ticker(body(event_type="ticker", topic="tickers.BTCUSDT", payload={"bid1Price": "86123.3"}))
    assert event == Ticker(symbol="BTCUSDT", time=NOW, bid=86123.3)


def test_ticker_of_a_spot_symbol_has_empty_funding_fields() -> None:
    event = read_ticker(edited(edited(TICKER_MESSAGE, "payload.fundingRate", ""), "payload.nextFundingTime", ""))
    assert (event.funding_rate, event.next_funding_time) == (None, None)


def test_numbers_may_be_json_numbers() -> None:
    event = read_trade(edited(edited(TRADE_MESSAGE, "payload.p", 86123.5), "payload.v", 2))
    assert (event.price, event.size) == (86123.5, 2.0)


@pytest.mark.parametrize(("text", "side"), [("Buy", Side.BUY), ("SELL", Side.SELL), ("sell", Side.SELL)])
def test_side_in_any_case(text: str, side: Side) -> None:
    assert read_trade(edited(TRADE_MESSAGE, "payload.S", text)).side is side


def test_delta_may_leave_an_unchanged_side_out() -> None:
    event = only(parse(edited(DELTA_MESSAGE, "payload.b", ...), now=NOW))
    assert isinstance(event, BookDelta)
    assert event.bids == ()


def test_payload_may_sit_under_data() -> None:
    inner = json.loads(TRADE_MESSAGE)["payload"]
    assert read_trade(edited(TRADE_MESSAGE, "payload", {"data": inner})) == read_trade(TRADE_MESSAGE)


def test_list_under_data_gives_an_event_for_each_item_in_order() -> None:
    inner = json.loads(TRADE_MESSAGE)["payload"]
    items = [inner | {"p": "1"}, inner | {"p": "2", "s": "ETHUSDT"}]
    events = parse(edited(TRADE_MESSAGE, "payload", {"data": items}), now=NOW)
    assert [(event.symbol, event.price) for event in events if isinstance(event, Trade)] == [
        ("BTCUSDT", 1.0),
        ("ETHUSDT", 2.0),
    ]


def test_empty_list_under_data_gives_no_event() -> None:
    assert parse(edited(TRADE_MESSAGE, "payload", {"data": []}), now=NOW) == ()


def test_book_under_data_may_have_its_type_beside_data() -> None:
    inner = json.loads(DELTA_MESSAGE)["payload"]
    del inner["type"]
    event = only(parse(edited(DELTA_MESSAGE, "payload", {"type": "delta", "data": inner}), now=NOW))
    assert isinstance(event, BookDelta)


def test_event_type_may_follow_from_the_topic() -> None:
    assert read_trade(edited(TRADE_MESSAGE, "event_type", ...)) == read_trade(TRADE_MESSAGE)


# Symbol


@pytest.mark.parametrize(
    "fields",
    [
        {"symbol": "ETHUSDT", "payload": {"bid1Price": "1"}},
        {"payload": {"symbol": "ETHUSDT"}},
        {"payload": {"s": "ETHUSDT"}},
        {"topic": "tickers.ETHUSDT", "payload": {"bid1Price": "1"}},
        {"topic": "a.b.ETHUSDT", "payload": {"bid1Price": "1"}},
        {"payload": {"topic": "tickers.ETHUSDT", "data": {"bid1Price": "1"}}},
        {"payload": {"symbol": "ETHUSDT", "data": [{"bid1Price": "1"}]}},
    ],
    ids=["event", "payload.symbol", "payload.s", "topic", "long topic", "payload.topic", "beside data"],
)
def test_symbol_is_found_in(fields: dict[str, object]) -> None:
    assert only(parse(body(event_type="ticker", **fields), now=NOW)).symbol == "ETHUSDT"


@pytest.mark.parametrize("topic", [..., "", "tickers", "tickers."])
def test_symbol_nowhere_is_a_bad_event(topic: object) -> None:
    message = edited(TICKER_MESSAGE, "payload.symbol", ...)
    assert fault(edited(message, "topic", topic)).field == "symbol"


# Time


def test_time_is_the_exchange_s_own_before_the_gateway_s() -> None:
    assert read_trade(edited(TRADE_MESSAGE, "payload.T", 1763892000001)).time == 1763892000.001


def test_time_without_t_is_the_gateway_s_timestamp() -> None:
    assert read_trade(edited(TRADE_MESSAGE, "payload.T", ...)).time == 1763892000.123


def test_time_without_t_and_timestamp_is_received_at_and_naive_means_utc() -> None:
    message = edited(edited(TRADE_MESSAGE, "payload.T", ...), "timestamp", None)
    assert read_trade(message).time == 1763892000.130


def test_time_without_any_stamp_is_now() -> None:
    assert only(parse(TICKER_MESSAGE, now=T0 + 7)).time == T0 + 7


@pytest.mark.parametrize(
    "stamp",
    [
        "2025-11-23T10:00:00.250Z",
        "2025-11-23T12:00:00.250+02:00",
        "2025-11-23 10:00:00.250",
        1763892000250,
        1763892000250.0,
        "1763892000250",
    ],
)
def test_time_forms(stamp: object) -> None:
    assert only(parse(edited(TICKER_MESSAGE, "timestamp", stamp), now=NOW)).time == 1763892000.25


def test_time_ahead_of_the_clock_is_now() -> None:
    assert only(parse(TRADE_MESSAGE, now=T0)).time == T0


# Faults


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (b"", "body"),
        (b"\xff\xfe", "body"),
        ("{}".encode("utf-16"), "body"),
        (b"{", "body"),
        (b"[]", "body"),
        (b"null", "body"),
        (b'{"payload": NaN}', "body"),
        (b'{"payload": -Infinity}', "body"),
        (b"[" * 100_000, "body"),
        (b'{"payload": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", "payload"),
        (b'{"u": ' + b"9" * 5_000 + b"}", "body"),
        (b"{}", "payload"),
    ],
    ids=str,
)
def test_body_that_is_no_message(message: bytes, field: str) -> None:
    # Whether deep nesting is refused by the decoder or by the check of the field depends on the interpreter.
    assert fault(message).field in (field, "body")


@pytest.mark.parametrize(
    "value", ["nan", "inf", "-Infinity", "1_0", "", " 1", "0x1", "1e", "1" * 99, "\uff11", True, [], {}]
)
def test_price_that_is_no_number(value: object) -> None:
    assert fault(edited(TRADE_MESSAGE, "payload.p", value)).field == "payload.p"


@pytest.mark.parametrize("value", ["-1", 0, "0", "1e999", 10**400, 1e300, "1e-300"])
def test_price_that_no_market_knows(value: object) -> None:
    assert fault(edited(TRADE_MESSAGE, "payload.p", value)).field == "payload.p"


def test_number_that_json_reads_as_infinity() -> None:
    assert fault(TRADE_MESSAGE.replace(b'"86123.5"', b"1e999")).field == "payload.p"


@pytest.mark.parametrize(
    ("message", "path", "value", "field"),
    [
        (TRADE_MESSAGE, "payload", [], "payload"),
        (TRADE_MESSAGE, "payload", {"data": "text"}, "payload.data"),
        (TRADE_MESSAGE, "payload", {"data": [1]}, "payload.data[0]"),
        (TRADE_MESSAGE, "payload.v", ..., "payload.v"),
        (TRADE_MESSAGE, "payload.v", "-0.5", "payload.v"),
        (TRADE_MESSAGE, "payload.v", "0", "payload.v"),
        (TRADE_MESSAGE, "payload.S", "Hold", "payload.S"),
        (TRADE_MESSAGE, "payload.S", 1, "payload.S"),
        (TRADE_MESSAGE, "payload.S", ..., "payload.S"),
        (TRADE_MESSAGE, "payload.T", True, "payload.T"),
        (TRADE_MESSAGE, "payload.T", -1, "payload.T"),
        (TRADE_MESSAGE, "payload.T", 10**18, "payload.T"),
        (TRADE_MESSAGE, "payload.T", "yesterday", "payload.T"),
        (TRADE_MESSAGE, "timestamp", "2025-13-01T00:00:00", "timestamp"),
        (TRADE_MESSAGE, "timestamp", "0001-01-01T00:00:00+23:59", "timestamp"),
        (TRADE_MESSAGE, "event_type", "kline", "event_type"),
        (TRADE_MESSAGE, "event_type", 5, "event_type"),
        (TRADE_MESSAGE, "payload.s", ["BTCUSDT"], "payload.s"),
        (TRADE_MESSAGE, "payload.s", "X" * 65, "payload.s"),
        (TRADE_MESSAGE, "payload.s", "BTC\nUSDT", "payload.s"),
        (TRADE_MESSAGE, "payload.s", "\ud800", "payload.s"),
        (TRADE_MESSAGE, "trace_id", 7, "trace_id"),
        (TICKER_MESSAGE, "payload.bid1Price", "-1", "payload.bid1Price"),
        (TICKER_MESSAGE, "payload.nextFundingTime", "soon", "payload.nextFundingTime"),
        (SNAPSHOT_MESSAGE, "payload.type", "full", "payload.type"),
        (SNAPSHOT_MESSAGE, "payload.type", ..., "payload.type"),
        (SNAPSHOT_MESSAGE, "payload.u", ..., "payload.u"),
        (SNAPSHOT_MESSAGE, "payload.u", -1, "payload.u"),
        (SNAPSHOT_MESSAGE, "payload.u", True, "payload.u"),
        (SNAPSHOT_MESSAGE, "payload.u", 1.5, "payload.u"),
        (SNAPSHOT_MESSAGE, "payload.u", 2**63, "payload.u"),
        (SNAPSHOT_MESSAGE, "payload.seq", "x", "payload.seq"),
        (SNAPSHOT_MESSAGE, "payload.b", ..., "payload.b"),
        (SNAPSHOT_MESSAGE, "payload.b", {}, "payload.b"),
        (SNAPSHOT_MESSAGE, "payload.b", [["1", "2"], ["1"]], "payload.b[1]"),
        (SNAPSHOT_MESSAGE, "payload.a", [["1", "2"], "12"], "payload.a[1]"),
        (SNAPSHOT_MESSAGE, "payload.a", [["1", "-2"]], "payload.a[0][1]"),
        (SNAPSHOT_MESSAGE, "payload.a", [[None, "2"]], "payload.a[0][0]"),
    ],
)
def test_fault_names_the_field(message: bytes, path: str, value: object, field: str) -> None:
    assert fault(edited(message, path, value)).field == field


def test_unknown_topic_without_event_type_is_a_bad_event() -> None:
    message = edited(edited(TRADE_MESSAGE, "event_type", ...), "topic", "kline.BTCUSDT")
    assert fault(message).field == "event_type"


def test_bad_event_is_a_value_error_with_a_short_text_and_can_be_pickled() -> None:
    error = fault(edited(TRADE_MESSAGE, "payload.p", "x" * 50))
    assert isinstance(error, ValueError)
    assert str(error) == "payload.p is not a number: 'xxxxxxxxxxxxxxxxxxxx'"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 - our own bytes


# Limits: reading a message is bounded work, whatever is in it


@pytest.mark.parametrize("path", ["timestamp", "received_at", "payload.T", "payload.p", "payload.v"])
@pytest.mark.parametrize(
    "text",
    ["1" * 32_000 + "x", "1" * 32_000, "-" * 32_000, "2025-11-23" * 3_200],
    ids=["digits and a letter", "digits", "signs", "dates"],
)
def test_long_time_or_number_is_refused_at_once(path: str, text: str) -> None:
    message = edited(edited(TRADE_MESSAGE, "timestamp", ...), path, text)
    started = time.process_time()
    error = fault(message)
    assert time.process_time() - started < 1.0  # backtracking over so many digits took 10 s and more
    assert error.field == path
    assert len(str(error)) < 120


def test_body_beyond_a_mebibyte_is_refused_unread() -> None:
    error = fault(b'{"payload": {}}' + b" " * MAX_BODY)
    assert str(error) == "body has 1048591 bytes, more than 1048576"


@pytest.mark.parametrize("values", [["[]"] * 32_768, ["1"] * 32_768, ["{}"] * 20_000, ["[" * 100 + "]" * 100] * 400])
def test_body_of_too_many_values_is_refused_unread(values: list[str]) -> None:
    # Decoded, a mebibyte of empty lists is 20 MB and takes 90 ms.
    message = TICKER_MESSAGE.strip().removesuffix(b"}") + b', "unknown": [' + ",".join(values).encode() + b"]}"
    assert str(fault(message)).startswith("body has ")
    assert str(fault(message)).endswith(" values, more than 32768")


def test_trades_as_many_as_the_exchange_sends_are_within_the_limits() -> None:
    inner = json.loads(TRADE_MESSAGE)["payload"]
    assert len(parse(edited(TRADE_MESSAGE, "payload", {"data": [inner] * MOST_OBJECTS}), now=NOW)) == MOST_OBJECTS


def test_list_of_too_many_events_is_refused_unread() -> None:
    message = edited(TICKER_MESSAGE, "payload", {"symbol": "BTCUSDT", "data": NOTHING_NEW * (MOST_OBJECTS + 1)})
    assert str(fault(message)) == "payload.data has 1025 entries, more than 1024"


def test_list_of_the_most_events_is_read() -> None:
    message = edited(TICKER_MESSAGE, "payload", {"symbol": "BTCUSDT", "data": NOTHING_NEW * MOST_OBJECTS})
    assert len(parse(message, now=NOW)) == MOST_OBJECTS


def test_book_of_too_many_levels_is_refused_unread() -> None:
    message = edited(SNAPSHOT_MESSAGE, "payload.b", [["x", "y"]] * (MOST_LEVELS + 1))
    assert str(fault(message)) == "payload has 4098 levels with those before it, more than 4096"


def test_books_of_too_many_levels_together_are_refused() -> None:
    book = {"type": "delta", "u": 1, "a": [["1", "1"]] * 1_000, "b": [["1", "1"]] * 1_000}
    message = edited(DELTA_MESSAGE, "payload", {"s": "BTCUSDT", "data": [book, book, book]})
    assert fault(message).field == "payload.data[2]"


def test_deepest_book_of_the_exchange_is_read() -> None:
    side = [[f"{100 + i}", "1"] for i in range(1_000)]
    event = only(parse(edited(edited(SNAPSHOT_MESSAGE, "payload.b", side), "payload.a", side), now=NOW))
    assert isinstance(event, BookSnapshot)
    assert (len(event.bids), len(event.asks)) == (1_000, 1_000)


@pytest.mark.parametrize(
    "symbol", ["\N{ROCKET}" * 64, "BTCUSDT\N{EURO SIGN}", "BTC USDT"], ids=["emoji", "euro", "space"]
)
def test_symbol_outside_of_ascii_is_refused(symbol: str) -> None:
    # It becomes a part of the vector's message id, which AMQP holds to 255 bytes.
    assert fault(edited(TRADE_MESSAGE, "payload.s", symbol)).field == "payload.s"
    topic = edited(edited(TRADE_MESSAGE, "payload.s", ...), "topic", f"publicTrade.{symbol}")
    assert fault(topic).field == "topic"


# Any input


def parse_or_refuse(message: bytes) -> None:
    try:
        events = parse(message, now=NOW)
    except BadBody:
        return
    assert all(0 <= event.time <= NOW and event.symbol for event in events)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["1", "nan", 10**40]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(message: bytes) -> None:
    parse_or_refuse(message)


@given(JSON)
def test_any_json_is_read_or_refused(value: object) -> None:
    parse_or_refuse(json.dumps(value).encode())


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A real message in which some fields have any value at all."""
    message = draw(st.sampled_from(MESSAGES))
    root = json.loads(message)
    paths = [*root, *(f"payload.{key}" for key in root["payload"])]
    for path in draw(st.lists(st.sampled_from(paths), max_size=3, unique=True)):
        if path.startswith("payload.") and not isinstance(json.loads(message)["payload"], dict):
            continue
        message = edited(message, path, draw(JSON))
    return message


@given(damaged())
def test_damaged_messages_are_read_or_refused(message: bytes) -> None:
    parse_or_refuse(message)


@given(st.sampled_from(MESSAGES), st.integers(0, 400), st.binary(max_size=3))
def test_messages_with_changed_bytes_are_read_or_refused(message: bytes, place: int, patch: bytes) -> None:
    parse_or_refuse(message[:place] + patch + message[place + len(patch) :])
