"""Waiting for a state that nobody announces, and seeing what is left running."""

from __future__ import annotations

from collections.abc import Callable

import anyio


async def eventually(condition: Callable[[], bool], *, within: float = 10.0, every: float = 0.001) -> None:
    """Wait until ``condition`` holds, for at most ``within`` seconds, looking again after ``every`` seconds.

    Raises:
        AssertionError: it did not hold within so many seconds.
    """
    with anyio.move_on_after(within):
        while not condition():  # noqa: ASYNC110 - of a foreign state, which announces nothing
            await anyio.sleep(every)
        return
    raise AssertionError(f"did not become true within {within} s")


def running_tasks() -> set[int]:
    """The identities of the tasks that run now."""
    return {task.id for task in anyio.get_running_tasks()}
