"""The window of a publisher: who gets room, in which order, and who waits no longer."""

from __future__ import annotations

import asyncio

import anyio
import pytest
from anyio.abc import TaskGroup

from anyamqp.net.event_loop import running_loop
from anyamqp.publication import Window, Wish

pytestmark = pytest.mark.anyio

SIZE = 10


class Room:
    """A window of so many bytes, and what became of those who wanted some of it."""

    def __init__(self, tasks: TaskGroup) -> None:
        self.window = Window(100, SIZE)
        self.granted: list[str] = []
        self.dismissed: list[str] = []
        self._tasks = tasks

    async def wants(self, name: str, size: int, deadline: float | None = None) -> anyio.CancelScope:
        """Somebody wants room; returns when it is granted or waited for."""
        scope = anyio.CancelScope()

        async def take() -> None:
            with scope:
                granted = await self.window.take(Wish(size, deadline, running_loop().waiter()))
                (self.granted if granted else self.dismissed).append(name)

        self._tasks.start_soon(take)
        await anyio.wait_all_tasks_blocked()
        return scope


async def test_room_is_granted_in_the_order_in_which_it_was_wanted() -> None:
    async with anyio.create_task_group() as tasks:
        room = Room(tasks)
        await room.wants("first", SIZE)
        await room.wants("second", SIZE)
        await room.wants("third", 1)
        room.window.give_back(SIZE)
        await anyio.wait_all_tasks_blocked()
        assert room.granted == ["first", "second"]
        room.window.give_back(SIZE)
        await anyio.wait_all_tasks_blocked()
        assert room.granted == ["first", "second", "third"]


async def test_who_is_past_the_deadline_is_dismissed_and_makes_way_for_those_behind() -> None:
    async with anyio.create_task_group() as tasks:
        room = Room(tasks)
        await room.wants("first", 6)
        await room.wants("late", 8, deadline=1.0)
        await room.wants("small", 1, deadline=2.0)
        assert room.window.nearest == 1.0
        room.window.dismiss(1.5)
        await anyio.wait_all_tasks_blocked()
        assert (room.granted, room.dismissed) == (["first", "small"], ["late"])
        assert room.window.nearest == float("inf")
        assert room.window.try_take(SIZE - 7)
        assert not room.window.try_take(1)


async def test_who_waits_for_ever_is_dismissed_at_the_end_of_time() -> None:
    async with anyio.create_task_group() as tasks:
        room = Room(tasks)
        await room.wants("first", SIZE)
        await room.wants("patient", 1)
        room.window.dismiss(float("inf"))
        await anyio.wait_all_tasks_blocked()
        assert room.dismissed == ["patient"]


async def test_who_is_cancelled_makes_way_for_those_behind() -> None:
    async with anyio.create_task_group() as tasks:
        room = Room(tasks)
        await room.wants("first", 6)
        large = await room.wants("large", 8)
        await room.wants("small", 1)
        large.cancel()
        await anyio.wait_all_tasks_blocked()
        assert room.granted == ["first", "small"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_who_is_cancelled_when_it_was_granted_gives_the_room_back() -> None:
    window = Window(1, SIZE)
    assert window.try_take(1)
    taking = asyncio.create_task(window.take(Wish(1, None, running_loop().waiter())))
    await anyio.wait_all_tasks_blocked()
    window.give_back(1)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    assert window.try_take(1)
