"""Finds leaks of a closed connection in this process: tasks, timers, sockets, threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import trio

_POOLS = ("AnyIO worker thread", "Trio thread")
"""Threads that the event loops keep for the tests' own blocking calls."""


@dataclass(frozen=True)
class Belongings:
    """A snapshot of tasks, timers, sockets and threads. It holds the objects, so that no new one can have the same id.

    Attributes:
        tasks: the tasks, on asyncio.
        timers: the scheduled callbacks, on asyncio. On trio, a deadline ends with its task.
        living: the number of tasks, on trio, which does not list them.
        sockets: the kernel's numbers of the open sockets.
        threads: the threads, except those of the loops' own pools.
    """

    tasks: frozenset[object]
    timers: frozenset[object]
    living: int
    sockets: frozenset[str]
    threads: frozenset[threading.Thread]

    def added_since(self, before: Belongings) -> Mapping[str, object]:
        """The objects that are not in the snapshot ``before``; empty if there are none."""
        added = {
            "tasks": self.tasks - before.tasks,
            "timers": self.timers - before.timers,
            "trio tasks": max(0, self.living - before.living),
            "sockets": self.sockets - before.sockets,
            "threads": self.threads - before.threads,
        }
        return {kind: what for kind, what in added.items() if what}


def belongings() -> Belongings:
    """Take a snapshot of the running event loop and the process."""
    tasks: frozenset[object] = frozenset()
    timers: frozenset[object] = frozenset()
    living = 0
    if _on_trio():
        living = trio.lowlevel.current_statistics().tasks_living
    else:
        loop = asyncio.get_running_loop()
        tasks = frozenset(asyncio.all_tasks(loop))
        timers = frozenset(timer for timer in vars(loop)["_scheduled"] if not timer.cancelled())
    return Belongings(tasks, timers, living, open_sockets(), _threads())


def open_sockets() -> frozenset[str]:
    """The kernel's numbers of this process's sockets."""
    names: set[str] = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            name = str(descriptor.readlink())
        except FileNotFoundError:  # the descriptor that lists them
            continue
        if name.startswith("socket:"):
            names.add(name)
    return frozenset(names)


def _on_trio() -> bool:
    try:
        trio.lowlevel.current_trio_token()
    except RuntimeError:
        return False
    return True


def _threads() -> frozenset[threading.Thread]:
    return frozenset(thread for thread in threading.enumerate() if not thread.name.startswith(_POOLS))
