"""Rolling windows: sums, prices and volatility, by hand and against naive recomputation."""

from __future__ import annotations

from itertools import pairwise
from math import fsum, log, sqrt
from statistics import stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_service.windows import ExactSum, PriceHistory, TradeSums, TradeWindow
from support.market import T0

EMPTY = TradeSums(count=0, buy_volume=0.0, sell_volume=0.0, notional=0.0)


def history(hold: float = 1_000.0) -> PriceHistory:
    return PriceHistory(reach=60, volatility_reach=300, hold=hold)


def prices(*values: float | None) -> PriceHistory:
    """One price on each whole second from T0 on."""
    steps = history()
    for second, price in enumerate(values):
        steps.add(T0 + second, price)
    return steps


# Exact sums


def test_sum_forgets_a_huge_term_completely() -> None:
    total = ExactSum()
    for term in (0.1, 1e18, -1e18):
        total.add(term)
    assert total.value == 0.1  # plain floats: 0.1 + 1e18 - 1e18 = 0


@given(st.lists(st.floats(-1e18, 1e18)))
def test_sum_is_fsum(terms: list[float]) -> None:
    total = ExactSum()
    for term in terms:
        total.add(term)
    assert total.value == fsum(terms)


@given(st.lists(st.floats(-1e18, 1e18)))
def test_sum_of_what_was_added_and_taken_away_is_zero(terms: list[float]) -> None:
    total = ExactSum()
    for term in [*terms, *(-term for term in reversed(terms))]:
        total.add(term)
    assert total.value == 0.0


# Trades


def test_sums_by_hand() -> None:
    window = TradeWindow(3)
    window.add(T0 + 0.5, 100.0, 2.0, buy=True)
    window.add(T0 + 1.0, 110.0, 3.0, buy=False)
    window.add(T0 + 1.5, 120.0, 1.0, buy=True)
    sums = window.sums(T0 + 2)
    assert sums == TradeSums(count=3, buy_volume=3.0, sell_volume=3.0, notional=650.0)  # 200 + 330 + 120
    assert (sums.volume, sums.signed_volume) == (6.0, 0.0)


@pytest.mark.parametrize(("now", "count"), [(3.122, 1), (3.123, 0)])
def test_trade_leaves_when_it_is_exactly_as_old_as_the_window(now: float, count: int) -> None:
    window = TradeWindow(3)
    window.add(T0 + 0.123, 100.0, 1.0, buy=True)
    assert window.sums(T0 + now).count == count


def test_empty_again_means_zero_exactly() -> None:
    window = TradeWindow(3)
    for i in range(1000):
        window.add(T0 + i / 100, 0.1 + i, 0.1, buy=i % 3 == 0)
    assert window.sums(T0 + 20) == EMPTY


def test_trades_of_one_millisecond_share_an_entry() -> None:
    window = TradeWindow(60)
    for _ in range(500):
        window.add(T0, 10.0, 1.0, buy=True)
    assert len(window) == 1
    assert window.sums(T0) == TradeSums(count=500, buy_volume=500.0, sell_volume=0.0, notional=5000.0)


def test_late_trade_counts_where_the_window_still_reaches() -> None:
    window = TradeWindow(3)
    window.add(T0 + 2.0, 100.0, 1.0, buy=True)
    window.add(T0 + 0.5, 100.0, 4.0, buy=True)
    assert window.sums(T0 + 3.0).volume == 1 + 4
    assert window.sums(T0 + 3.5).volume == 1  # T0 + 0.5 is 3 s old now


def test_trade_later_than_the_window_is_not_counted() -> None:
    window = TradeWindow(3)
    window.add(T0 + 5.0, 100.0, 1.0, buy=True)
    window.add(T0 + 2.0, 100.0, 4.0, buy=True)
    assert window.sums(T0 + 4.0).volume == 1


def test_trade_ahead_of_the_clock_counts_at_once() -> None:
    window = TradeWindow(3)
    window.add(T0 + 0.2, 100.0, 1.0, buy=True)
    assert window.sums(T0).count == 1


def test_window_is_bounded_without_being_asked() -> None:
    window = TradeWindow(3)
    for i in range(20_000):
        window.add(T0 + i / 100, 100.0, 1.0, buy=True)
    assert len(window) == 300  # one each 10 ms, 3 s


TRADES = st.lists(
    st.tuples(
        st.integers(0, 9_000),  # ms
        st.floats(1e-9, 1e9),
        st.floats(1e-9, 1e9),
        st.booleans(),
    ),
    max_size=40,
)


@given(TRADES, st.lists(st.integers(0, 13_000), min_size=1, max_size=5).map(sorted))
def test_sums_agree_with_a_naive_recomputation(trades: list[tuple[int, float, float, bool]], times: list[int]) -> None:
    window = TradeWindow(3)
    newest = 0
    counted: list[tuple[int, float, float, bool]] = []
    for ms, price, size, buy in trades:
        window.add(T0 + ms / 1000, price, size, buy=buy)
        newest = max(newest, ms)
        counted.append((ms, price, size, buy))
    for now in times:
        # Before the newest trade, the window stands where that trade has moved it.
        since = max(now, newest) - 3_000
        inside = [trade for trade in counted if trade[0] > since]
        sums = window.sums(T0 + now / 1000)
        assert sums.count == len(inside)
        assert sums.buy_volume == pytest.approx(fsum(size for _, _, size, buy in inside if buy), rel=1e-12)
        assert sums.sell_volume == pytest.approx(fsum(size for _, _, size, buy in inside if not buy), rel=1e-12)
        assert sums.notional == pytest.approx(fsum(price * size for _, price, size, _ in inside), rel=1e-12)


# Prices


def test_price_is_the_last_at_or_before() -> None:
    steps = history()
    steps.add(T0 + 1.0, 100.0)
    steps.add(T0 + 2.0, 200.0)
    assert [steps.at(T0 + at) for at in (0.999, 1.0, 1.999, 2.0, 50.0)] == [None, 100.0, 100.0, 200.0, 200.0]


def test_price_holds_for_its_time_only() -> None:
    steps = history(hold=60)
    steps.add(T0, 100.0)
    assert (steps.at(T0 + 60), steps.at(T0 + 60.001)) == (100.0, None)


def test_price_can_become_unknown() -> None:
    steps = prices(100.0, None, 102.0)
    assert [steps.at(T0 + at) for at in (0.5, 1.5, 2.5)] == [100.0, None, 102.0]


def test_late_price_takes_effect_at_the_newest_time() -> None:
    steps = history()
    steps.add(T0 + 1, 100.0)
    steps.add(T0 + 5, 105.0)
    steps.add(T0 + 3, 103.0)
    assert [steps.at(T0 + at) for at in (3.0, 4.999, 5.0)] == [100.0, 100.0, 103.0]


def test_history_is_bounded_and_still_reaches_back() -> None:
    steps = history()
    for i in range(100_000):  # 1,000 s, a price each 10 ms
        steps.add(T0 + i / 100, 1.0 + i)
    assert len(steps) <= 2 * (6_000 + 300) + 4
    newest = T0 + 999.99
    assert steps.at(newest - 60) == 1.0 + 99_999 - 6_000


# Volatility


def test_volatility_by_hand() -> None:
    # r = ln 2, -ln 2, ln 2, -ln 2: mean 0, sum of squares 4 (ln 2)^2, over n - 1 = 3
    steps = prices(1.0, 2.0, 1.0, 2.0, 1.0)
    assert steps.volatility(T0 + 4, 4) == pytest.approx(sqrt(4 / 3) * log(2), rel=1e-12)


def test_volatility_of_steady_growth_is_zero() -> None:
    # Every return is ln 2: no deviation from the mean.
    assert prices(1.0, 2.0, 4.0, 8.0, 16.0).volatility(T0 + 4, 4) == 0.0


def test_volatility_looks_at_whole_seconds_only() -> None:
    steps = history()
    for second, price in enumerate((1.0, 2.0, 1.0, 2.0, 1.0)):
        steps.add(T0 + second - 0.5, 77.0)
        steps.add(T0 + second, price)
    steps.add(T0 + 4.5, 77.0)
    assert steps.volatility(T0 + 4.9, 4) == pytest.approx(sqrt(4 / 3) * log(2), rel=1e-12)


def test_volatility_has_its_whole_reach_in_the_middle_of_a_second_too() -> None:
    steps = PriceHistory(reach=5, volatility_reach=5, hold=60)
    for second in range(30):
        steps.add(T0 + second, float(1 + second % 2))
        steps.add(T0 + second + 0.5, 77.0)
        if second >= 5:
            # Five returns of +-ln 2 in turn: mean +-ln 2 / 5, so (5 - 5 / 25) / 4 = 1.2; with four it would be 4 / 3.
            assert steps.volatility(T0 + second + 0.5, 5) == pytest.approx(sqrt(1.2) * log(2), rel=1e-12)


def test_volatility_sees_a_silent_second_as_no_change() -> None:
    steps = history()
    for second, price in ((0, 1.0), (1, 2.0), (3, 4.0)):
        steps.add(T0 + second, price)
    # r = ln 2, 0, ln 2 with mean (2/3) ln 2: squares 1/9 + 4/9 + 1/9 = 6/9, over 2 = 1/3
    assert steps.volatility(T0 + 3, 3) == pytest.approx(log(2) / sqrt(3), rel=1e-12)


@pytest.mark.parametrize(("known", "given"), [(30, True), (29, False)])
def test_volatility_needs_half_of_its_returns(known: int, given: bool) -> None:
    steps = prices(*(float(1 + i % 2) for i in range(known + 1)))
    assert (steps.volatility(T0 + known, 60) is not None) is given


def test_volatility_needs_two_returns() -> None:
    steps = prices(1.0, 2.0)
    assert steps.volatility(T0 + 1, 1) is None


def test_volatility_leaves_returns_from_and_to_the_unknown_out() -> None:
    steps = prices(1.0, 2.0, None, 5.0, 10.0, 5.0)
    # Known: ln 2 (0 to 1), ln 2 (3 to 4), -ln 2 (4 to 5); mean ln 2 / 3; squares 4/9 + 4/9 + 16/9 = 24/9, over 2
    assert steps.volatility(T0 + 5, 5) == pytest.approx(sqrt(12 / 9) * log(2), rel=1e-12)


GAPS = st.integers(0, 700) | st.integers(0, 6_000)


@given(st.lists(st.tuples(GAPS, st.floats(0.5, 2.0)), min_size=1, max_size=80), GAPS)
def test_prices_and_volatility_agree_with_a_naive_recomputation(gaps: list[tuple[int, float]], ahead: int) -> None:
    steps = PriceHistory(reach=5, volatility_reach=10, hold=4)
    known: list[tuple[int, float]] = []
    ms = 0
    for gap, price in gaps:
        ms += gap
        steps.add(T0 + ms / 1000, price)
        known.append((ms, price))
    now = ms + ahead

    def naive(at: int) -> float | None:
        before = [(then, price) for then, price in known if then <= at]
        return before[-1][1] if before and at - before[-1][0] <= 4_000 else None

    assert [steps.at(T0 + (now - back) / 1000) for back in (0, 1, 999, 5_000)] == [
        naive(now - back) for back in (0, 1, 999, 5_000)
    ]
    grid = [naive(second * 1000) for second in range(now // 1000 - 10, now // 1000 + 1)]
    returns = [log(b / a) for a, b in pairwise(grid) if a is not None and b is not None]
    volatility = steps.volatility(T0 + now / 1000, 10)
    if len(returns) < 5:
        assert volatility is None
    else:
        assert volatility == pytest.approx(stdev(returns), rel=1e-9, abs=1e-12)
