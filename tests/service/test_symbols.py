"""Which symbols keep their places when there are more symbols than places."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_service.symbols import LEAST_SYMBOLS, Symbols


def trade(symbols: Symbols, name: str, times: int = 1) -> None:
    for _ in range(times):
        symbols.heard(name, traded=True)


def junk(symbols: Symbols, count: int, *, trades: int = 1, prefix: str = "JUNK") -> None:
    for i in range(count):
        trade(symbols, f"{prefix}{i}", trades)


def test_symbol_keeps_its_state_while_it_has_its_place() -> None:
    symbols = Symbols(10)
    first = symbols.heard("BTCUSDT", traded=False)
    trade(symbols, "BTCUSDT", 5)
    assert symbols.heard("BTCUSDT", traded=False) is first


@pytest.mark.parametrize("flood", [100, 10_000])
def test_symbol_that_trades_outlives_a_flood(flood: int) -> None:
    symbols = Symbols(100)
    trade(symbols, "BTCUSDT", 3)
    junk(symbols, flood)
    assert "BTCUSDT" in symbols
    assert len(symbols) == 100


def test_symbol_that_trades_gets_a_place_after_a_flood() -> None:
    symbols = Symbols(100)
    junk(symbols, 10_000)
    trade(symbols, "BTCUSDT", 3)
    junk(symbols, 10_000, prefix="MORE")
    assert "BTCUSDT" in symbols


def test_junk_that_trades_too_cannot_have_every_place() -> None:
    symbols = Symbols(100)
    junk(symbols, 10_000, trades=3)
    trade(symbols, "BTCUSDT", 3)
    junk(symbols, 79, trades=3, prefix="MORE")
    assert "BTCUSDT" in symbols  # the 80th further one that is established before it trades again sends it back


def test_established_symbol_that_stopped_trading_gives_way() -> None:
    symbols = Symbols(10)
    trade(symbols, "OLDUSDT", 3)
    junk(symbols, 8, trades=3)
    junk(symbols, 2, prefix="MORE")
    assert "OLDUSDT" not in symbols


def test_newcomers_that_do_not_trade_displace_newcomers_only() -> None:
    symbols = Symbols(10)
    trade(symbols, "BTCUSDT", 3)
    for i in range(100):
        symbols.heard(f"QUIET{i}", traded=False)
    assert "BTCUSDT" in symbols
    assert symbols.displaced == 91


def test_the_newcomer_heard_least_recently_is_displaced() -> None:
    symbols = Symbols(2)
    for name in ("A", "B", "A", "C"):
        symbols.heard(name, traded=False)
    assert [name for name, _ in symbols.items()] == ["A", "C"]


def test_symbol_that_trades_outlives_junk_in_the_fewest_places() -> None:
    symbols = Symbols(LEAST_SYMBOLS)
    trade(symbols, "BTCUSDT", 3)
    junk(symbols, 100)
    assert [name for name, _ in symbols.items()] == ["BTCUSDT", "JUNK99"]


def test_removed_symbol_frees_its_place() -> None:
    symbols = Symbols(2)
    trade(symbols, "A", 3)
    trade(symbols, "B")
    symbols.remove("A")
    symbols.remove("B")
    symbols.remove("NEVER")
    assert len(symbols) == 0
    trade(symbols, "C")
    assert symbols.displaced == 0


@given(st.integers(LEAST_SYMBOLS, 8), st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=200))
def test_there_are_never_more_than_the_places_and_the_latest_has_one(most: int, events: list[tuple[int, bool]]) -> None:
    symbols, again = Symbols(most), Symbols(most)
    for number, traded in events:
        symbols.heard(str(number), traded=traded)
        again.heard(str(number), traded=traded)
        assert str(number) in symbols
        assert len(symbols) <= most
    names = [name for name, _ in symbols.items()]
    assert len(set(names)) == len(names)
    assert names == [name for name, _ in again.items()]
