"""The event-loop primitives behave like anyio's: the clock, and waiting."""

from __future__ import annotations

import anyio
import anyio.to_thread
import pytest

from anyamqp.net.event_loop import Flag, Loop, running_loop

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


async def test_all_connections_of_a_loop_share_one_object() -> None:
    assert running_loop() is running_loop()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
async def test_another_loop_of_the_same_thread_gets_its_own(backend: str) -> None:
    async def of_the_loop() -> Loop:
        return running_loop()

    def of_new_loops() -> list[Loop]:
        return [anyio.run(of_the_loop, backend=name) for name in ("asyncio", backend, "asyncio")]

    first, _, last = await anyio.to_thread.run_sync(of_new_loops)
    assert first is not last


async def test_a_flag_wakes_all_that_wait() -> None:
    flag = Flag()
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(flag.wait)
            tasks.start_soon(flag.wait)
            await anyio.wait_all_tasks_blocked()
            assert not flag.is_set()
            flag.set()
        assert flag.is_set()


async def test_a_flag_that_was_set_before_only_yields() -> None:
    flag = Flag()
    flag.set()
    flag.set()
    with anyio.fail_after(LIMIT):
        await flag.wait()
    with anyio.move_on_after(0) as scope:
        await flag.wait()
    assert scope.cancelled_caught


async def test_a_cancelled_wait_leaves_the_flag_to_the_others() -> None:
    flag = Flag()
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(flag.wait)
            await anyio.wait_all_tasks_blocked()
            with anyio.move_on_after(0) as scope:
                await flag.wait()
            assert scope.cancelled_caught
            flag.set()
