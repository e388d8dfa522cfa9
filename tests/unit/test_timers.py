"""Timers, in virtual time: they fire in order, on the second, and never after a cancel."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest
import trio.testing

from anyamqp.net.timers import Deadlines, Timer, Timers

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Virtual time: only trio has a clock that jumps."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


class Bench:
    """Timers that write down what they did, and when, in seconds from the start."""

    def __init__(self) -> None:
        self.timers = Timers()
        self.done: list[tuple[str, float]] = []
        self._start = anyio.current_time()

    def later(self, seconds: float, name: str) -> Timer:
        return self.timers.later(seconds, partial(self.note, name))

    def note(self, name: str) -> None:
        self.done.append((name, round(anyio.current_time() - self._start, 6)))


@asynccontextmanager
async def running() -> AsyncGenerator[Bench, None]:
    """A bench whose timers wait already."""
    bench = Bench()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.timers.run)
        await anyio.wait_all_tasks_blocked()
        yield bench
        tasks.cancel_scope.cancel()


async def test_timers_fire_on_time_in_any_order_of_adding() -> None:
    async with running() as bench:
        for seconds in (3.0, 1.0, 2.0):
            bench.later(seconds, f"after {seconds:g}")
        await anyio.sleep(10)
        assert bench.done == [("after 1", 1), ("after 2", 2), ("after 3", 3)]


async def test_those_of_the_same_moment_fire_in_the_order_in_which_they_were_added() -> None:
    async with running() as bench:
        names = [f"number {number}" for number in range(20)]
        for name in names:
            bench.later(1.0, name)
        await anyio.sleep(1.5)
        assert bench.done == [(name, 1) for name in names]


async def test_an_earlier_one_that_is_added_while_waiting_fires_first() -> None:
    async with running() as bench:
        bench.later(100.0, "late")
        await anyio.sleep(10)
        bench.later(5.0, "early")
        await anyio.sleep(5.5)
        assert bench.done == [("early", 15)]
        await anyio.sleep(100)
        assert bench.done == [("early", 15), ("late", 100)]


async def test_a_later_one_that_is_added_while_waiting_does_not_hold_up_the_first() -> None:
    async with running() as bench:
        bench.later(2.0, "first")
        await anyio.sleep(1)
        bench.later(50.0, "second")
        await anyio.sleep(60)
        assert bench.done == [("first", 2), ("second", 51)]


async def test_timers_added_before_anybody_waits_fire() -> None:
    bench = Bench()
    bench.later(1.0, "early bird")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.timers.run)
        await anyio.sleep(2)
        tasks.cancel_scope.cancel()
    assert bench.done == [("early bird", 1)]


async def test_no_seconds_is_as_soon_as_can_be_and_not_at_once() -> None:
    async with running() as bench:
        bench.later(0.0, "now")
        assert bench.done == []
        await anyio.wait_all_tasks_blocked()
        assert bench.done == [("now", 0)]


async def test_a_cancelled_one_does_nothing_and_the_others_are_on_time() -> None:
    async with running() as bench:
        bench.later(1.0, "first")
        cancelled = bench.later(2.0, "cancelled")
        bench.later(3.0, "last")
        await anyio.sleep(1.5)
        cancelled.cancel()
        await anyio.sleep(10)
        assert bench.done == [("first", 1), ("last", 3)]


async def test_one_can_cancel_another_of_the_same_moment() -> None:
    async with running() as bench:
        others: list[Timer] = []

        def cancel_others() -> None:
            for other in others:
                other.cancel()

        bench.timers.later(1.0, cancel_others)
        others.append(bench.later(1.0, "other"))
        await anyio.sleep(2)
        assert bench.done == []


async def test_cancelling_one_that_has_fired_changes_nothing() -> None:
    async with running() as bench:
        timer = bench.later(1.0, "once")
        await anyio.sleep(2)
        timer.cancel()
        timer.cancel()
        await anyio.sleep(2)
        assert bench.done == [("once", 1)]


async def test_one_fires_once() -> None:
    bench = Bench()
    timer = bench.later(1.0, "once")
    timer.fire()
    timer.fire()
    assert bench.done == [("once", 0)]


async def test_one_that_adds_the_next_keeps_a_beat() -> None:
    async with running() as bench:

        def beat() -> None:
            bench.note("beat")
            bench.timers.later(1.0, beat)

        bench.timers.later(1.0, beat)
        await anyio.sleep(4.5)
        assert bench.done == [("beat", 1), ("beat", 2), ("beat", 3), ("beat", 4)]


async def test_nothing_fires_after_the_task_has_ended() -> None:
    """Invariant 7."""
    async with running() as bench:
        bench.later(1.0, "too late")
    await anyio.sleep(5)
    assert bench.done == []


# --- many deadlines, one timer ----------------------------------------------------------------------------------------


class Due:
    """Deadlines that write down when each of them passed."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._open: list[float] = []
        self.deadlines = Deadlines(bench.timers.later, self.expire)
        self.calls = 0

    def add(self, seconds: float) -> float:
        deadline = anyio.current_time() + seconds
        self._open.append(deadline)
        self.deadlines.add(deadline)
        return deadline

    def expire(self, now: float) -> float | None:
        self.calls += 1
        for deadline in [deadline for deadline in self._open if deadline <= now]:
            self._open.remove(deadline)
            self._bench.note("due")
        return min(self._open, default=None)


async def test_each_deadline_passes_on_its_second_whatever_the_order() -> None:
    async with running() as bench:
        due = Due(bench)
        for seconds in (3.0, 1.0, 2.0):
            due.add(seconds)
        await anyio.sleep(10)
        assert bench.done == [("due", 1), ("due", 2), ("due", 3)]
        assert due.calls == 3


async def test_later_deadlines_set_no_timer_of_their_own() -> None:
    async with running() as bench:
        due = Due(bench)
        first = due.add(1.0)
        for number in range(100):
            due.add(2.0 + number / 1000)
        assert due.deadlines.nearest == first


async def test_no_deadline_is_never() -> None:
    async with running() as bench:
        due = Due(bench)
        due.deadlines.add(None)
        await anyio.sleep(1000)
        assert due.calls == 0


async def test_cancelled_deadlines_do_not_pass_and_new_ones_do() -> None:
    async with running() as bench:
        due = Due(bench)
        due.add(1.0)
        due.deadlines.cancel()
        await anyio.sleep(5)
        assert bench.done == []
        due.add(1.0)
        await anyio.sleep(5)
        assert bench.done == [("due", 6), ("due", 6)]


# --- what is held -----------------------------------------------------------------------------------------------------

MANY = 20_000


async def test_cancelled_timers_leave_the_heap() -> None:
    """Invariant 11: what is held is bounded by the timers that are still to fire."""
    timers = Timers()
    last = timers.later(60.0, lambda: None)
    for _ in range(MANY):
        timers.later(30.0, lambda: None).cancel()
        assert len(timers) <= 100
    last.cancel()
    last.cancel()
    assert len(timers) <= 100


async def test_of_many_timers_the_cancelled_leave_and_the_others_fire() -> None:
    async with running() as bench:
        added = [bench.later(float(number % 100), f"number {number}") for number in range(MANY)]
        for number, timer in enumerate(added):
            if number % 100:
                timer.cancel()
        assert len(bench.timers) <= 2 * MANY // 100 + 100
        await anyio.sleep(200)
        assert len(bench.done) == MANY // 100
        assert len(bench.timers) == 0


async def test_deadlines_that_come_closer_hold_one_timer() -> None:
    async with running() as bench:
        due = Due(bench)
        for number in range(MANY):
            due.deadlines.add(anyio.current_time() + 1000 - number / 1000)
        assert len(bench.timers) <= 100
