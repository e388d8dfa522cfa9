"""What is done without anyio does what anyio does: the clock, and the wait for one thing."""

from __future__ import annotations

import anyio
import pytest

from anyamqp.net.event_loop import running_loop

pytestmark = pytest.mark.anyio

LIMIT = 10.0


async def test_the_clock_is_that_of_anyio() -> None:
    loop = running_loop()
    before = anyio.current_time()
    assert before <= loop.now() <= anyio.current_time()


async def test_a_waiter_wakes_its_task() -> None:
    waiter = running_loop().waiter()
    woken = anyio.Event()

    async def wait() -> None:
        await waiter.wait()
        woken.set()

    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            assert not woken.is_set()
            waiter.set()
            await woken.wait()


async def test_a_waiter_that_was_set_before_does_not_wait() -> None:
    waiter = running_loop().waiter()
    waiter.set()
    waiter.set()
    with anyio.fail_after(LIMIT):
        await waiter.wait()


async def test_a_waiter_may_be_set_after_its_task_was_cancelled() -> None:
    waiter = running_loop().waiter()
    with anyio.move_on_after(0) as scope:
        await waiter.wait()
    assert scope.cancelled_caught
    waiter.set()
