"""The order book: levels, sequence, bounds, and a naive model that it must agree with."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_service.book import MAX_LEVELS, OrderBook, Quote
from feature_service.events import BookDelta, BookSnapshot, Level, parse
from support.market import DELTA_MESSAGE, SNAPSHOT_MESSAGE, T0, delta, only, snapshot

BIDS: Sequence[Level] = [(100.0, 1.0), (99.0, 2.0), (98.0, 4.0)]
ASKS: Sequence[Level] = [(101.0, 8.0), (102.0, 16.0), (103.0, 32.0)]


def book_of(u: int = 10, seq: int | None = None) -> OrderBook:
    book = OrderBook()
    book.apply(snapshot(u, BIDS, ASKS, seq=seq))
    return book


def test_new_book_is_out_of_sync_and_answers_nothing() -> None:
    book = OrderBook()
    assert not book.in_sync
    assert (book.quote, book.best_bid, book.best_ask, book.bid_depth(5), book.ask_depth(5)) == (None,) * 5


def test_snapshot_gives_best_prices_and_depths_whatever_its_order() -> None:
    book = OrderBook()
    assert book.apply(snapshot(10, BIDS[::-1], ASKS[::-1]))
    assert (book.in_sync, book.update_id) == (True, 10)
    assert book.best_bid == (100.0, 1.0)
    assert book.best_ask == (101.0, 8.0)
    assert (book.bid_depth(2), book.bid_depth(5)) == (1 + 2, 1 + 2 + 4)
    assert (book.ask_depth(2), book.ask_depth(5)) == (8 + 16, 8 + 16 + 32)


def test_quote_has_mid_and_spread() -> None:
    quote = Quote(100.0, 101.0)
    assert book_of().quote == quote
    assert (quote.mid, quote.spread) == (100.5, 1.0)  # (100 + 101) / 2 and 101 - 100


def test_delta_changes_adds_and_deletes_levels() -> None:
    book = book_of()
    assert book.apply(delta(11, bids=[(100.0, 0.0), (99.5, 3.0), (98.0, 5.0)]))
    assert book.best_bid == (99.5, 3.0)
    assert book.bid_depth(10) == 3 + 2 + 5


def test_gateway_s_own_messages_leave_a_book_without_bids() -> None:
    book = OrderBook()
    for message in (SNAPSHOT_MESSAGE, DELTA_MESSAGE):
        event = only(parse(message, now=T0))
        assert isinstance(event, BookSnapshot | BookDelta)
        assert book.apply(event)
    assert (book.best_bid, book.best_ask, book.quote) == (None, (86123.5, 0.8), None)
    assert (book.bid_depth(5), book.ask_depth(5)) == (0.0, 0.8 + 2)


def test_deleting_an_unknown_level_changes_nothing() -> None:
    book = book_of()
    assert book.apply(delta(11, bids=[(50.0, 0.0)]))
    assert book.bid_depth(10) == 7


def test_snapshot_replaces_everything() -> None:
    book = book_of()
    book.apply(snapshot(500, [(7.0, 1.0)], [(8.0, 1.0)]))
    assert (book.quote, book.bid_depth(10), book.update_id) == (Quote(7.0, 8.0), 1.0, 500)


def test_snapshot_with_a_lower_number_restarts_the_count() -> None:
    book = book_of(u=1000)
    book.apply(snapshot(1, BIDS, ASKS))
    assert book.apply(delta(2, bids=[(100.5, 1.0)]))
    assert book.best_bid == (100.5, 1.0)


def test_level_of_size_zero_in_a_snapshot_is_none() -> None:
    book = OrderBook()
    book.apply(snapshot(1, [(100.0, 0.0), (99.0, 1.0)], ASKS))
    assert book.best_bid == (99.0, 1.0)


# Sequence


def test_delta_before_any_snapshot_is_ignored() -> None:
    book = OrderBook()
    assert not book.apply(delta(1, BIDS, ASKS))
    assert (book.in_sync, book.best_bid, book.gaps) == (False, None, 0)


def test_gap_puts_the_book_out_of_sync_until_the_next_snapshot() -> None:
    book = book_of(u=10)
    assert not book.apply(delta(12, bids=[(100.5, 1.0)]))
    assert (book.in_sync, book.gaps, book.quote, book.best_bid, book.bid_depth(5)) == (False, 1, None, None, None)
    assert not book.apply(delta(13))
    assert not book.in_sync
    assert book.apply(snapshot(14, BIDS, ASKS))
    assert (book.in_sync, book.gaps) == (True, 1)


@pytest.mark.parametrize("u", [10, 9, 1])
def test_repeated_or_older_delta_is_ignored(u: int) -> None:
    book = book_of(u=10, seq=50)
    assert not book.apply(delta(u, bids=[(100.5, 1.0)], seq=50))
    assert (book.in_sync, book.best_bid, book.update_id) == (True, (100.0, 1.0), 10)


def test_older_number_with_a_newer_sequence_means_that_a_snapshot_was_lost() -> None:
    book = book_of(u=1000, seq=50)
    assert not book.apply(delta(2, bids=[(100.5, 1.0)], seq=51))
    assert (book.in_sync, book.gaps) == (False, 1)


# Crossed


@pytest.mark.parametrize("bid", [101.0, 102.5])
def test_crossed_or_touching_book_is_in_sync_but_gives_no_quote_and_no_depth(bid: float) -> None:
    book = book_of()
    book.apply(delta(11, bids=[(bid, 1.0)]))
    assert (book.in_sync, book.crossed, book.quote, book.bid_depth(5), book.ask_depth(5)) == (
        True,
        True,
        None,
        None,
        None,
    )


def test_book_recovers_when_the_crossing_level_goes() -> None:
    book = book_of()
    book.apply(delta(11, bids=[(101.0, 1.0)]))
    book.apply(delta(12, bids=[(101.0, 0.0)]))
    assert (book.crossed, book.quote) == (False, Quote(100.0, 101.0))


@pytest.mark.parametrize(("bid", "ask"), [(None, 1.0), (1.0, None), (0.0, 1.0), (1.0, 0.0), (2.0, 1.0), (1.0, 1.0)])
def test_no_quote_from(bid: float | None, ask: float | None) -> None:
    assert Quote.of(bid, ask) is None


# Bounds


def test_side_is_bounded_and_the_farthest_levels_go() -> None:
    book = OrderBook(max_levels=3)
    book.apply(snapshot(1, [(float(price), 1.0) for price in range(1, 7)], [(float(p), 1.0) for p in range(10, 16)]))
    assert (book.bid_depth(100), book.ask_depth(100)) == (3.0, 3.0)
    assert (book.best_bid, book.best_ask) == ((6.0, 1.0), (10.0, 1.0))


def test_level_over_the_limit_stays_when_the_same_delta_makes_room() -> None:
    book = OrderBook(max_levels=2)
    book.apply(snapshot(1, [(9.0, 1.0), (8.0, 1.0)], ASKS))
    book.apply(delta(2, bids=[(7.0, 4.0), (9.0, 0.0)]))
    assert book.bid_depth(10) == 1 + 4


def test_default_bound_holds_under_a_flood_of_levels() -> None:
    book = book_of()
    for u in range(11, 31):
        book.apply(delta(u, asks=[(200.0 + u + i / 1000, 1.0) for i in range(500)]))
    assert book.ask_depth(10**6) == 8 + 16 + 32 + (MAX_LEVELS - 3) * 1.0


# Against a naive model


class Model:
    """Two dictionaries and a rule for each kind of message."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.last: int | None = None
        self.bids: dict[float, float] = {}
        self.asks: dict[float, float] = {}

    def apply(self, whole: bool, u: int, bids: list[Level], asks: list[Level]) -> None:
        if whole:
            self.bids, self.asks = {}, {}
        elif self.last is None or u <= self.last:
            return
        elif u > self.last + 1:
            self.last, self.bids, self.asks = None, {}, {}
            return
        self.last = u
        self.bids = self.changed(self.bids, bids, best_first=True)
        self.asks = self.changed(self.asks, asks, best_first=False)

    def changed(self, side: dict[float, float], levels: list[Level], *, best_first: bool) -> dict[float, float]:
        merged = {price: size for price, size in (side | dict(levels)).items() if size > 0}
        return {price: merged[price] for price in sorted(merged, reverse=best_first)[: self.limit]}


LEVELS = st.lists(
    st.tuples(st.integers(1, 12).map(float), st.integers(0, 3).map(float)), max_size=6, unique_by=lambda level: level[0]
)
UPDATES = st.lists(st.tuples(st.booleans(), st.sampled_from([1, 1, 1, 1, 0, -1, 2]), LEVELS, LEVELS), max_size=25)


@given(UPDATES, st.integers(1, 6))
def test_book_agrees_with_the_naive_model(
    updates: list[tuple[bool, int, list[Level], list[Level]]], limit: int
) -> None:
    book, model = OrderBook(limit), Model(limit)
    u = 10
    for whole, step, bids, asks in updates:
        u = max((model.last if model.last is not None else u) + step, 0)
        book.apply((snapshot if whole else delta)(u, bids, asks))
        model.apply(whole, u, bids, asks)

        assert book.update_id == model.last
        assert book.in_sync is (model.last is not None)
        best_bid, best_ask = max(model.bids.items(), default=None), min(model.asks.items(), default=None)
        assert (book.best_bid, book.best_ask) == (best_bid, best_ask)
        crossed = best_bid is not None and best_ask is not None and best_bid[0] >= best_ask[0]
        assert book.crossed is crossed
        for n in (1, 3, 10):
            known = model.last is not None and not crossed
            assert book.bid_depth(n) == (sum(list(model.bids.values())[:n]) if known else None)
            assert book.ask_depth(n) == (sum(list(model.asks.values())[:n]) if known else None)
