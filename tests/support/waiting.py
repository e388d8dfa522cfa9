"""Polls for a state, measures time, and lists running tasks."""

from __future__ import annotations

from collections.abc import Callable

import anyio


async def eventually(condition: Callable[[], bool], *, within: float = 30.0, every: float = 0.001) -> None:
    """Wait until ``condition`` holds, for at most ``within`` seconds, looking again after ``every`` seconds.

    Raises:
        AssertionError: it did not hold in time.
    """
    with anyio.move_on_after(within):
        while not condition():  # noqa: ASYNC110 - of a foreign state, which announces nothing
            await anyio.sleep(every)
        return
    raise AssertionError(f"did not become true within {within} s")


class Stopwatch:
    """Seconds since its creation, on the event loop's clock, which is virtual in simulations."""

    def __init__(self) -> None:
        self._start = anyio.current_time()

    @property
    def seconds(self) -> float:
        return round(anyio.current_time() - self._start, 6)


def running_tasks() -> set[int]:
    """The ids of the running tasks."""
    return {task.id for task in anyio.get_running_tasks()}
