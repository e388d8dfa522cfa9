"""Invariant 9 in virtual time: never silent for longer than the interval, a dead peer found within two, no false alarm.

The wire is a list of times at which bytes arrive. A program polls when it was told to, a bit later when its event loop
is busy, and much later when the loop stalls. The reader runs after a late poll as well as before it: both were waiting.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyamqp.protocol.heartbeat import Heartbeat

pytestmark = pytest.mark.no_cover  # long, and it covers nothing that others do not

DAY = 24 * 3600.0

intervals = st.sampled_from([0.5, 1.0, 5.0, 10.0, 60.0, 580.0])
fractions = st.floats(0.01, 1.0)


@dataclass
class Program:
    """A client in virtual time.

    Attributes:
        arrivals: when bytes come in, in order; the peer is dead once they end.
        now: the time.
        sent: when a heartbeat went out.
        died: when the peer was given up.
    """

    interval: float
    arrivals: Iterator[float]
    now: float = 0.0
    sent: list[float] = field(default_factory=list[float])
    died: float | None = None
    last_read: float = 0.0

    def __post_init__(self) -> None:
        self.beat = Heartbeat(self.interval, 0.0)
        self._next = next(self.arrivals, math.inf)
        self.wake_at = self.beat.poll(0.0).wake_at

    def step(self, late: float = 0.0) -> None:
        """Read what arrives until the next poll, then poll, so much later than was asked for."""
        while self._next <= self.wake_at:
            self._read(self._next)
        self.now = self.wake_at + late
        verdict = self.beat.poll(self.now)
        if verdict.send:
            self.sent.append(self.now)
        if verdict.dead:
            self.died = self.now
        self.wake_at = verdict.wake_at
        while self._next <= self.now:
            self._read(self.now)

    def _read(self, at: float) -> None:
        self.beat.read(at)
        self.last_read = at
        self._next = next(self.arrivals, math.inf)


def every(period: float, *, until: float = math.inf) -> Iterator[float]:
    """Times at which a peer that is alive sends something."""
    count = 1
    while count * period <= until:
        yield count * period
        count += 1


def gaps(times: list[float]) -> list[float]:
    """How long it was silent before each of them."""
    return [later - earlier for earlier, later in zip([0.0, *times], times, strict=False)]


@pytest.mark.parametrize("interval", [1.0, 60.0, 580.0])
def test_a_day_passes_without_a_silence_or_an_alarm(interval: float) -> None:
    program = Program(interval, every(interval / 2))
    while program.now < DAY:
        program.step()
        assert program.died is None
    assert max(gaps(program.sent)) <= interval
    assert len(program.sent) == pytest.approx(DAY / (interval / 2), abs=1)


@given(intervals, st.lists(fractions, min_size=1, max_size=60))
def test_we_are_never_silent_for_longer_than_the_interval(interval: float, pauses: list[float]) -> None:
    beat = Heartbeat(interval, 0.0)
    wrote = now = 0.0
    wake_at = beat.poll(now).wake_at
    for pause in pauses:
        traffic = now + pause * interval
        while wake_at <= traffic:
            now = wake_at
            beat.read(now)
            verdict = beat.poll(now)
            if verdict.send:
                assert now - wrote <= interval
                wrote = now
            wake_at = verdict.wake_at
        now = traffic
        assert now - wrote <= interval
        beat.wrote(now)
        wrote = now


@given(intervals, st.floats(0.01, 1.0), st.floats(0, 50))
def test_a_dead_peer_is_found_within_two_intervals(interval: float, period: float, lived: float) -> None:
    program = Program(interval, every(period * interval, until=lived * interval))
    while program.died is None:
        program.step()
    assert program.died - program.last_read == pytest.approx(2 * interval)


@given(intervals, st.lists(st.floats(0, 0.24), min_size=1, max_size=20), st.floats(0, 20))
def test_a_dead_peer_is_found_by_a_busy_loop_as_late_as_one_poll_is(
    interval: float, lateness: list[float], lived: float
) -> None:
    program = Program(interval, every(interval / 2, until=lived * interval))
    for count in range(1000):
        program.step(lateness[count % len(lateness)] * interval)
        if program.died is not None:
            break
    assert program.died is not None
    assert program.died - program.last_read <= (2 + max(lateness)) * interval * (1 + 1e-9)


@given(intervals, fractions, st.lists(st.floats(0, 0.24), min_size=1, max_size=60))
def test_a_busy_loop_raises_no_false_alarm(interval: float, period: float, lateness: list[float]) -> None:
    program = Program(interval, every(period * interval))
    for late in lateness:
        program.step(late * interval)
        assert program.died is None


@given(intervals, fractions, st.lists(st.floats(0, 0.24) | st.floats(0, 1000), min_size=1, max_size=60))
def test_stalls_raise_no_false_alarm_while_bytes_arrive(interval: float, period: float, lateness: list[float]) -> None:
    program = Program(interval, every(period * interval))
    for late in lateness:
        program.step(late * interval)
        assert program.died is None


def test_a_stall_after_a_stall_raises_no_false_alarm() -> None:
    program = Program(0.5, every(0.5))
    for late in (0.0, 0.0, 0.0, 0.1875, 1.0, 0.0):
        program.step(late)
    assert program.died is None


@given(intervals, st.floats(0.26, 10))
def test_a_dead_peer_is_found_by_a_loop_that_always_stalls(interval: float, stall: float) -> None:
    program = Program(interval, iter(()))
    while program.died is None:
        program.step(stall * interval)
        assert program.now <= (2.25 + 3 * (stall + 0.5)) * interval


@given(intervals, st.floats(0.26, 1000))
def test_a_stall_longer_than_two_intervals_delays_the_verdict_by_a_quarter(interval: float, stall: float) -> None:
    program = Program(interval, iter(()))
    program.step((2 + stall) * interval)
    assert program.died is None
    stalled_until = program.now
    while program.died is None:
        program.step()
    assert program.died - stalled_until == pytest.approx(interval / 4)


@given(st.lists(st.floats(0, 1e6), max_size=30).map(sorted))
def test_without_an_interval_there_are_neither_heartbeats_nor_alarms(times: list[float]) -> None:
    beat = Heartbeat(0, 0.0)
    for now in times:
        verdict = beat.poll(now)
        assert (verdict.send, verdict.dead, verdict.stalled, verdict.wake_at) == (False, False, 0.0, math.inf)
