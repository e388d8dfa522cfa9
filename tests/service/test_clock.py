"""The service's clock: steady time never jumps; UTC follows the system clock unless the events disagree."""

from __future__ import annotations

import logging

import pytest

from feature_service.clock import Clock
from support.market import T0


class Bench:
    """A clock whose two sources the test moves."""

    def __init__(self) -> None:
        self.wall = T0
        self.monotonic = 5.0
        self.clock = Clock(lambda: self.wall, lambda: self.monotonic)

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds

    def stamped(self, stamp: float) -> None:
        self.clock.heard(stamp, self.clock.now())

    @property
    def steady(self) -> float:
        return self.clock.now().steady

    @property
    def utc(self) -> float:
        return self.clock.now().utc


def test_both_times_are_the_system_s_while_nobody_sets_it() -> None:
    bench = Bench()
    bench.pass_(10)
    assert (bench.steady, bench.utc) == (T0 + 10, T0 + 10)


@pytest.mark.parametrize("step", [3600, -3600, 2, -2])
def test_utc_follows_a_set_clock_and_steady_time_does_not(step: float) -> None:
    bench = Bench()
    bench.wall += step
    bench.pass_(1)
    assert (bench.steady, bench.utc) == (T0 + 1, T0 + 1 + step)


def test_utc_follows_a_clock_that_is_slewed() -> None:
    bench = Bench()
    for _ in range(100):
        bench.stamped(bench.utc)
        bench.pass_(1)
        bench.wall += 0.5
    assert (bench.steady, bench.utc) == (T0 + 100, T0 + 150)


@pytest.mark.parametrize("step", [3600, -3600, 5, -5])
def test_utc_is_kept_while_stamps_agree_with_it(step: float) -> None:
    bench = Bench()
    bench.stamped(T0 - 0.2)
    bench.wall += step
    for second in range(1, 31):
        bench.pass_(1)
        assert bench.utc == T0 + second
        bench.stamped(T0 + second - 0.2)
    bench.wall -= step
    assert (bench.steady, bench.utc) == (T0 + 30, T0 + 30)


def test_utc_follows_a_set_clock_once_no_stamp_has_agreed_for_10_s() -> None:
    bench = Bench()
    bench.stamped(T0)
    bench.wall += 3600
    bench.pass_(10)
    assert bench.utc == T0 + 10
    bench.pass_(0.5)
    assert bench.utc == T0 + 3610.5


@pytest.mark.parametrize("step", [3600, -3600, 5, -5])
def test_utc_follows_a_clock_that_is_set_right(step: float) -> None:
    # It was wrong at the start: the stamps agree with the time that it is set to.
    bench = Bench()
    bench.stamped(T0 + step - 0.2)
    bench.wall += step
    assert bench.utc == T0 + step


def test_stamps_of_a_backlog_and_from_the_far_future_say_nothing() -> None:
    bench = Bench()
    bench.stamped(T0 - 7200)
    bench.stamped(T0 + 1e9)
    bench.wall += 3600
    assert bench.utc == T0 + 3600


def test_a_clock_that_was_set_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    with caplog.at_level(logging.WARNING, "feature_service"):
        bench.stamped(T0)
        bench.wall += 3600
        for _ in range(30):
            bench.pass_(1)
            bench.clock.now()
    assert [record.message.split(",")[0].split(":")[0] for record in caplog.records] == [
        "the system's clock was set by +3600.0 s",
        "the system's clock was set by +3600.0 s",
    ]
    assert "is kept" in caplog.records[0].message
    assert "follow it" in caplog.records[1].message
