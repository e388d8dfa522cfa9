"""Waiting for a state that nobody announces, and seeing what is left running."""

from __future__ import annotations

from collections.abc import Callable

import anyio


async def eventually(condition: Callable[[], bool], *, within: float = 10.0) -> None:
    """Wait until ``condition`` holds, looking again whenever the event loop has nothing else to do.

    Raises:
        AssertionError: it did not hold within so many seconds.
    """
    with anyio.move_on_after(within):
        while not condition():  # noqa: ASYNC110 - of a foreign state, which announces nothing
            await anyio.sleep(0.001)
        return
    raise AssertionError(f"did not become true within {within} s")


def running_tasks() -> set[int]:
    """The identities of the tasks that run now."""
    return {task.id for task in anyio.get_running_tasks()}
