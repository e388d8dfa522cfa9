"""The synthetic exchange: deterministic, consistent, and readable like the real one."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from feature_service.book import OrderBook
from feature_service.events import BookDelta, BookSnapshot, Event, Ticker, Trade, parse
from feature_service.exchange import BOOKS, TICKERS, TRADES, GatewayMessage, SyntheticExchange
from feature_service.features import FEATURES, SymbolState
from support.market import MESSAGES, T0

SYMBOLS = ["BTCUSDT", "ETHUSDT", "XYZUSDT"]
STEPS = 1_500


def messages(seed: int, steps: int = 100) -> list[tuple[float, GatewayMessage]]:
    exchange = SyntheticExchange(SYMBOLS, seed)
    times = (T0 + i * 0.25 for i in range(steps))
    return [(now, message) for now in times for message in exchange.step(now)]


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return [event for now, message in messages(7, STEPS) for event in parse(message.body, now=now)]


def test_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    assert messages(1) == messages(1)
    assert messages(1) != messages(2)


def test_messages_have_the_fields_of_the_gateway_s_own() -> None:
    # The trade is the one sample that is complete; the others leave the common fields of the envelope out.
    samples = {json.loads(message)["event_type"]: json.loads(message) for message in MESSAGES}
    for _, message in messages(3):
        event = json.loads(message.body)
        sample = samples[event["event_type"]]
        assert set(event) == set(samples["trade"])
        assert event["topic"].split(".")[:-1] == sample["topic"].split(".")[:-1]
        assert set(event["payload"]) <= set(sample["payload"])
        for key, value in event["payload"].items():
            assert type(value) is type(sample["payload"][key]), key


def test_each_kind_goes_to_its_queue() -> None:
    kinds = {(message.queue, json.loads(message.body)["event_type"]) for _, message in messages(3)}
    assert kinds == {(TRADES, "trade"), (TICKERS, "ticker"), (BOOKS, "orderbook")}
    assert (TRADES, TICKERS, BOOKS) == ("ws-gateway.trade", "ws-gateway.ticker", "ws-gateway.orderbook")


def test_every_message_is_one_event_of_a_known_symbol() -> None:
    for now, message in messages(5):
        (event,) = parse(message.body, now=now)
        assert event.symbol in SYMBOLS
        assert event.time == pytest.approx(now, abs=1e-3)


def test_book_never_falls_out_of_step_nor_crosses(events: list[Event]) -> None:
    books = {symbol: OrderBook() for symbol in SYMBOLS}
    for event in events:
        if isinstance(event, BookSnapshot | BookDelta):
            book = books[event.symbol]
            assert book.apply(event)
            assert book.quote is not None
    assert {symbol: book.gaps for symbol, book in books.items()} == dict.fromkeys(SYMBOLS, 0)


def test_first_book_is_a_snapshot_and_fresh_ones_follow_now_and_then(events: list[Event]) -> None:
    kinds = [
        type(event) for event in events if event.symbol == "BTCUSDT" and isinstance(event, BookSnapshot | BookDelta)
    ]
    assert kinds[0] is BookSnapshot
    assert 1 < Counter(kinds)[BookSnapshot] < STEPS / 50


def test_book_keeps_fifty_levels_a_side_whichever_way_the_market_goes(events: list[Event]) -> None:
    book = OrderBook()
    for event in events:
        if isinstance(event, BookSnapshot | BookDelta) and event.symbol == "BTCUSDT":
            book.apply(event)
            for depth in (book.bid_depth, book.ask_depth):
                nearly, all_of_them, more = depth(49), depth(50), depth(1000)
                assert nearly is not None
                assert all_of_them is not None
                assert nearly < all_of_them == more


def test_first_ticker_is_complete_and_later_ones_say_what_changed(events: list[Event]) -> None:
    first, *later = [event for event in events if isinstance(event, Ticker) and event.symbol == "ETHUSDT"]
    told = (first.last_price, first.bid, first.ask, first.volume_24h, first.funding_rate, first.next_funding_time)
    assert None not in told
    assert sum(event.next_funding_time is not None for event in later) == 0  # the hour of funding stays the same
    assert any(event.bid is not None and event.volume_24h is None for event in later)


def test_ticker_and_trades_agree_with_the_book(events: list[Event]) -> None:
    book = OrderBook()
    bid = ask = None
    for event in events:
        if event.symbol != "BTCUSDT":
            continue
        if isinstance(event, BookSnapshot | BookDelta):
            book.apply(event)
        elif isinstance(event, Trade):
            quote = book.quote
            assert quote is None or event.price in (quote.bid, quote.ask)
        else:
            bid, ask = event.bid or bid, event.ask or ask
            assert book.quote is not None
            assert (bid, ask) == (book.quote.bid, book.quote.ask)


def test_five_minutes_of_it_give_every_feature(events: list[Event]) -> None:
    states = {symbol: SymbolState() for symbol in SYMBOLS}
    for event in events:
        states[event.symbol].apply(event)
    for state in states.values():
        assert tuple(state.features(T0 + (STEPS - 1) * 0.25)) == FEATURES


def test_exchange_without_symbols_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one symbol"):
        SyntheticExchange([], 1)
