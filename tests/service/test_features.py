"""The features of one symbol: each definition by example, and when each is left out."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_service import features
from feature_service.events import Event, parse
from feature_service.features import FEATURES, SymbolState
from support.market import MESSAGES, SNAPSHOT_MESSAGE, T0, TICKER_MESSAGE, TRADE_MESSAGE, delta, snapshot, ticker, trade

TIME_OF_DAY = {"time_of_day_sin", "time_of_day_cos"}
QUOTE = {"mid_price", "spread_abs", "spread_rel"}
DEPTHS = {name for name in FEATURES if name.startswith("depth_")}

TRADES = (
    trade(0.0, 100.0, 5.0, "buy"),
    trade(50.0, 102.0, 2.0, "sell"),
    trade(58.0, 104.0, 1.0, "buy"),
    trade(59.0, 106.0, 3.0, "sell"),
)


def state_of(*events: Event) -> SymbolState:
    state = SymbolState()
    for event in events:
        state.apply(event)
    return state


def features_at(at: float, events: Iterable[Event]) -> dict[str, float]:
    return state_of(*events).features(T0 + at)


def mids(*points: tuple[float, float]) -> list[Event]:
    """Snapshots, `at` seconds after T0, whose mid price is as given: bid one below, ask one above."""
    return [snapshot(u, [(mid - 1, 1.0)], [(mid + 1, 1.0)], at=at) for u, (at, mid) in enumerate(points, start=1)]


# Names


def test_names_are_those_of_the_service_each_once() -> None:
    windows = ("3s", "15s", "1m")
    assert sorted(FEATURES) == sorted(
        [
            *("mid_price", "spread_abs", "spread_rel"),
            *("return_1s", "return_3s", "return_1m"),
            *(f"vwap_{window}" for window in windows),
            *(f"volume_{window}" for window in windows),
            *("volatility_1m", "volatility_5m"),
            *(f"signed_volume_{window}" for window in windows),
            *("buy_sell_volume_ratio", "trade_count_3s", "net_aggressor_pressure"),
            *("depth_bid_top5", "depth_bid_top10", "depth_ask_top5", "depth_ask_top10", "depth_imbalance_top5"),
            *("funding_rate", "time_to_funding", "time_of_day_sin", "time_of_day_cos"),
        ]
    )


def test_table_of_definitions_has_every_feature_in_order() -> None:
    assert features.__doc__ is not None
    table = features.__doc__.split("\n====")[2]
    cells = [line[:29].strip() for line in table.splitlines()[1:] if not line.startswith(" ")]
    documented: list[str] = []
    for cell in cells:
        first, *others = cell.split(", ")
        documented += [first, *(f"{first.rpartition('_')[0]}_{other}" for other in others)]
    assert tuple(documented) == FEATURES


def test_with_five_minutes_of_everything_all_features_are_there_in_order() -> None:
    events: list[Event] = [
        ticker(0, bid=99, ask=101, funding_rate=0.0001, next_funding_time=T0 + 3600),
        *mids(*((float(second), 100.0 + second % 7) for second in range(300))),
        trade(299, 100, 1, "buy"),
        trade(299, 100, 1, "sell"),
    ]
    assert list(features_at(300, events)) == list(FEATURES)


def test_without_events_only_the_time_of_day_is_known() -> None:
    assert set(features_at(0, [])) == TIME_OF_DAY


def test_samples_of_the_gateway() -> None:
    found = features_at(
        1,
        [
            event
            for message in (TRADE_MESSAGE, TICKER_MESSAGE, SNAPSHOT_MESSAGE)
            for event in parse(message, now=T0 + 1)
        ],
    )
    assert found["mid_price"] == pytest.approx((86123.4 + 86123.5) / 2)
    assert found["volume_3s"] == 0.013
    assert found["vwap_3s"] == pytest.approx(86123.5)
    assert (found["depth_bid_top5"], found["depth_ask_top5"]) == (1.5, 0.8)
    assert found["funding_rate"] == 0.0001
    assert found["time_to_funding"] == pytest.approx(21599 / 60)  # 16:00:00 less 10:00:01


# Quote


def test_mid_and_spread_come_from_the_book() -> None:
    found = features_at(0, [snapshot(1, [(99.0, 1.0)], [(101.0, 1.0)])])
    assert found["mid_price"] == 100.0  # (99 + 101) / 2
    assert found["spread_abs"] == 2.0  # 101 - 99
    assert found["spread_rel"] == 0.02  # 2 / 100


def test_book_goes_before_the_ticker() -> None:
    found = features_at(0, [snapshot(1, [(99.0, 1.0)], [(101.0, 1.0)]), ticker(0, bid=49, ask=51)])
    assert found["mid_price"] == 100.0


def test_ticker_stands_in_while_the_book_is_out_of_step_and_depths_are_left_out() -> None:
    found = features_at(0, [ticker(0, bid=49, ask=51), snapshot(1, [(99.0, 1.0)], [(101.0, 1.0)]), delta(3)])
    assert (found["mid_price"], found["spread_abs"]) == (50.0, 2.0)
    assert not DEPTHS & set(found)


def test_last_price_never_stands_in() -> None:
    assert not QUOTE & set(features_at(0, [ticker(0, last=50), trade(0, 50, 1)]))


def test_crossed_book_without_a_ticker_gives_neither_quote_nor_depths() -> None:
    found = features_at(0, [snapshot(1, [(101.0, 1.0)], [(101.0, 1.0)])])
    assert not (QUOTE | DEPTHS) & set(found)


def test_ticker_keeps_what_a_delta_does_not_mention() -> None:
    assert features_at(1, [ticker(0, bid=49, ask=51), ticker(1, ask=53)])["mid_price"] == 51.0  # (49 + 53) / 2


def test_ticker_with_one_side_gives_no_quote() -> None:
    assert not QUOTE & set(features_at(0, [ticker(0, bid=49)]))


def test_ticker_with_an_emptied_side_gives_no_quote() -> None:
    assert not QUOTE & set(features_at(1, [ticker(0, bid=49, ask=51), ticker(1, bid=0)]))


def test_older_ticker_does_not_undo_a_newer_one() -> None:
    assert features_at(2, [ticker(2, bid=49, ask=51), ticker(1, bid=39, ask=41)])["mid_price"] == 50.0


@pytest.mark.parametrize(("at", "known"), [(60.0, True), (60.1, False)])
def test_quote_and_depths_hold_for_a_minute(at: float, known: bool) -> None:
    found = features_at(at, [snapshot(1, [(99.0, 1.0)], [(101.0, 1.0)])])
    assert (found.keys() >= QUOTE, found.keys() >= DEPTHS) == (known, known)


def test_ticker_without_prices_confirms_those_known() -> None:
    assert features_at(100, [ticker(0, bid=49, ask=51), ticker(90, last=50)])["mid_price"] == 50.0


def test_book_that_catches_up_with_a_backlog_leaves_the_present_to_the_ticker() -> None:
    events = [ticker(3600, bid=49, ask=51), *mids((10.0, 100.0), (20.0, 200.0))]
    found = features_at(3601, [*events, ticker(3601, bid=49, ask=51)])
    assert found["mid_price"] == 50.0
    assert found["return_1s"] == 0.0


# Returns and volatility


def test_returns_by_hand() -> None:
    found = features_at(60, mids((0, 100.0), (57, 120.0), (59, 150.0), (60, 300.0)))
    assert found["return_1s"] == 1.0  # 300 / 150 - 1
    assert found["return_3s"] == 1.5  # 300 / 120 - 1
    assert found["return_1m"] == 2.0  # 300 / 100 - 1


def test_return_is_left_out_when_history_does_not_reach_back() -> None:
    found = features_at(3, mids((1, 100.0), (3, 110.0)))
    assert found["return_1s"] == pytest.approx(0.1)  # 110 / 100 - 1
    assert "return_3s" not in found
    assert "return_1m" not in found


def test_return_is_left_out_when_the_price_was_unknown_then() -> None:
    lost, found_again = delta(9, at=1), snapshot(20, [(99.0, 1.0)], [(101.0, 1.0)], at=3)
    found = features_at(3, [*mids((0, 100.0)), lost, found_again])
    assert found["return_3s"] == 0.0  # 100 / 100 - 1
    assert "return_1s" not in found


def test_return_is_left_out_while_there_is_no_quote_now() -> None:
    found = features_at(2, [*mids((0, 100.0)), delta(9, at=2)])
    assert "return_1s" not in found


def test_volatility_by_hand() -> None:
    # 100, 200, 100, ... over 60 s: returns +-ln 2 in turn, mean 0, so sqrt(60 (ln 2)^2 / 59)
    found = features_at(60, mids(*((float(second), 100.0 * (1 + second % 2)) for second in range(61))))
    assert found["volatility_1m"] == pytest.approx(math.sqrt(60 / 59) * math.log(2))
    assert "volatility_5m" not in found  # 60 of 300 returns are known


# Trades


def test_trade_sums_by_hand() -> None:
    found = features_at(60, TRADES)  # the first is exactly a minute old: it has left
    assert found["trade_count_3s"] == 2.0
    assert (found["volume_3s"], found["volume_15s"], found["volume_1m"]) == (1 + 3, 2 + 1 + 3, 2 + 1 + 3)
    assert (found["signed_volume_3s"], found["signed_volume_15s"]) == (1 - 3, 1 - 2 - 3)
    assert found["vwap_3s"] == (1 * 104 + 3 * 106) / 4
    assert found["vwap_15s"] == (2 * 102 + 1 * 104 + 3 * 106) / 6
    assert found["net_aggressor_pressure"] == (1 - 5) / (1 + 5)
    assert found["buy_sell_volume_ratio"] == 1 / 5


def test_windows_differ_where_the_trades_do() -> None:
    found = features_at(59, TRADES)
    assert (found["volume_3s"], found["volume_15s"], found["volume_1m"]) == (4.0, 6.0, 11.0)
    assert found["signed_volume_1m"] == 5 - 2 + 1 - 3
    assert found["vwap_1m"] == (5 * 100 + 2 * 102 + 1 * 104 + 3 * 106) / 11
    assert found["buy_sell_volume_ratio"] == 6 / 5
    assert found["net_aggressor_pressure"] == (1 - 5) / 6  # 15 s only


def test_before_the_first_trade_volumes_are_unknown() -> None:
    found = features_at(0, mids((0, 100.0)))
    assert not [name for name in found if "volume" in name or "vwap" in name or "trade_count" in name]


def test_without_recent_trades_volumes_are_zero_and_ratios_unknown() -> None:
    found = features_at(100, TRADES)
    assert (found["volume_3s"], found["signed_volume_15s"], found["trade_count_3s"]) == (0.0, 0.0, 0.0)
    assert not {"vwap_3s", "vwap_15s", "net_aggressor_pressure"} & set(found)


def test_ratio_is_left_out_when_nothing_was_sold() -> None:
    found = features_at(1, [trade(0, 100, 1, "buy")])
    assert "buy_sell_volume_ratio" not in found
    assert found["net_aggressor_pressure"] == 1.0


def test_ratio_is_zero_when_nothing_was_bought() -> None:
    assert features_at(1, [trade(0, 100, 1, "sell")])["buy_sell_volume_ratio"] == 0.0


def test_trade_delivered_twice_counts_once() -> None:
    first, second = trade(0, 100, 1, trade_id="a"), trade(0, 100, 1, trade_id="b")
    assert features_at(1, [first, second, first])["volume_3s"] == 2.0


def test_trades_without_an_id_all_count() -> None:
    assert features_at(1, [trade(0, 100, 1), trade(0, 100, 1)])["volume_3s"] == 2.0


def test_memory_of_trade_ids_is_bounded() -> None:
    flood = (trade(0, 1, 1, trade_id=str(i)) for i in range(2_001))
    # The ID "0" was forgotten for the sake of "2000", so it counts again; "2000" does not.
    again = [trade(0, 1, 1, trade_id="0"), trade(0, 1, 1, trade_id="2000")]
    assert features_at(1, [*flood, *again])["trade_count_3s"] == 2_002.0


# Depth


def test_depths_by_hand() -> None:
    bids = [(100.0 - i, 1.0) for i in range(12)]
    asks = [(101.0 + i, 3.0) for i in range(7)]
    found = features_at(0, [snapshot(1, bids, asks)])
    assert (found["depth_bid_top5"], found["depth_bid_top10"]) == (5.0, 10.0)
    assert (found["depth_ask_top5"], found["depth_ask_top10"]) == (15.0, 21.0)  # 5 x 3, 7 x 3
    assert found["depth_imbalance_top5"] == -0.5  # (5 - 15) / (5 + 15)


def test_one_sided_book_has_depths_but_no_quote() -> None:
    found = features_at(0, [snapshot(1, [(100.0, 2.0)], [])])
    assert (found["depth_bid_top5"], found["depth_ask_top5"], found["depth_imbalance_top5"]) == (2.0, 0.0, 1.0)
    assert not QUOTE & set(found)


def test_empty_book_has_no_imbalance() -> None:
    found = features_at(0, [snapshot(1)])
    assert found["depth_bid_top5"] == 0.0
    assert "depth_imbalance_top5" not in found


# Funding and time of day


def test_time_to_funding_is_in_minutes() -> None:
    found = features_at(90, [ticker(0, funding_rate=-0.0002, next_funding_time=T0 + 600)])
    assert found["funding_rate"] == -0.0002
    assert found["time_to_funding"] == 8.5  # (600 - 90) / 60


def test_time_to_a_funding_that_has_passed_is_left_out() -> None:
    found = features_at(601, [ticker(0, funding_rate=0.0, next_funding_time=T0 + 600)])
    assert found["funding_rate"] == 0.0
    assert "time_to_funding" not in found


def test_time_of_day_by_hand() -> None:
    midnight = T0 - 10 * 3600
    six = SymbolState().features(midnight + 6 * 3600)
    assert six["time_of_day_sin"] == pytest.approx(1.0)  # a quarter of a turn
    assert six["time_of_day_cos"] == pytest.approx(0.0, abs=1e-12)
    ten = SymbolState().features(T0)
    assert ten["time_of_day_sin"] == pytest.approx(math.sin(2 * math.pi * 10 / 24))
    assert ten["time_of_day_cos"] == pytest.approx(math.cos(2 * math.pi * 10 / 24))


# Any input

MOMENTS = st.floats(0, 120)
AMOUNTS = st.sampled_from([0.0, 1e-18, 0.5, 1.0, 3.0, 1e18])
POSITIVE = st.sampled_from([1e-18, 0.5, 1.0, 3.0, 1e18])
LEVELS = st.lists(st.tuples(POSITIVE, AMOUNTS), max_size=4)
EVENTS = st.one_of(
    st.builds(trade, MOMENTS, POSITIVE, POSITIVE, st.sampled_from(["buy", "sell"])),
    st.builds(ticker, MOMENTS, bid=st.none() | AMOUNTS, ask=st.none() | AMOUNTS, funding_rate=st.none() | AMOUNTS),
    st.builds(snapshot, st.integers(0, 5), LEVELS, LEVELS, at=MOMENTS),
    st.builds(delta, st.integers(0, 9), LEVELS, LEVELS, at=MOMENTS),
)


@given(st.lists(EVENTS, max_size=30), st.floats(0, 200))
def test_features_are_always_finite_and_known_by_name(events: list[Event], at: float) -> None:
    found = features_at(at, events)
    assert set(found) <= set(FEATURES)
    assert all(type(value) is float and math.isfinite(value) for value in found.values())


def test_value_that_is_not_finite_is_left_out() -> None:
    found = features_at(0, [ticker(0, bid=1.0e308, ask=1.5e308)])  # their sum is beyond the largest float
    assert "mid_price" not in found
    assert found["spread_abs"] == pytest.approx(0.5e308)


def test_messages_of_the_gateway_in_any_order_do_no_harm() -> None:
    state = state_of(*(event for message in reversed(MESSAGES) for event in parse(message, now=T0)))
    assert state.features(T0).keys() >= TIME_OF_DAY


# Time


def test_utc_may_differ_from_the_time_of_the_windows() -> None:
    state = SymbolState()
    state.apply(trade(0, 1.0, 1.0))
    state.apply(ticker(0, next_funding_time=T0 + 3600 + 120))
    features = state.features(T0 + 1, utc=T0 + 3600)
    assert features["volume_3s"] == 1.0
    assert features["time_to_funding"] == 2.0
    assert features["time_of_day_sin"] == state.features(T0 + 3600)["time_of_day_sin"]
