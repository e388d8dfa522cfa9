"""One profiled run in one process: ``python -m benchmarks.profile_worker TASK`` prints one line of JSON.

Segments are told apart by the thread's CPU time, each without what it calls of the others. Nothing that happens with
every message of a batch is timed by itself: that would cost more than it.
"""

from __future__ import annotations

import asyncio
import json
import selectors
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar, cast

from anyamqp.protocol.dispatch import Dispatcher
from anyamqp.protocol.session import Session
from benchmarks.clients import with_anyamqp
from benchmarks.task import Stopwatch, Task
from benchmarks.worker import ClientModule, measure

P = ParamSpec("P")
R = TypeVar("R")

LOOP: Final = "event loop"
TIMED: Final = (
    (selectors.DefaultSelector, "select", "select()"),
    (socket.socket, "recv", "recv()"),
    (socket.socket, "send", "send()"),
    (socket.socket, "sendmsg", "send()"),
    (Session, "next_event", "decode"),
    (Dispatcher, "tell", "settle, hand out"),
    (Session, "output", "join output"),
    (asyncio.Handle, "_run", "tasks"),
)
"""Whose method belongs to which segment."""


class Segments(Stopwatch):
    """A stopwatch that also tells where the CPU time went.

    Attributes:
        spent: seconds of CPU time by segment.
        calls: how often each was entered.
    """

    def __init__(self) -> None:
        super().__init__()
        self.spent: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._open: list[str] = [LOOP]
        self._is_running = False
        self._since = 0.0

    def __enter__(self) -> Self:
        super().__enter__()
        self._is_running = True
        self._since = time.thread_time()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._turn_over()
        self._is_running = False
        super().__exit__(exc_type, exc, traceback)

    def timed(self, segment: str, call: Callable[P, R]) -> Callable[P, R]:
        """The function, whose time is the segment's."""

        def in_segment(*args: P.args, **named: P.kwargs) -> R:
            self._turn_over()
            self._open.append(segment)
            self.calls[segment] += self._is_running
            try:
                return call(*args, **named)
            finally:
                self._turn_over()
                self._open.pop()

        return in_segment

    def _turn_over(self) -> None:
        now = time.thread_time()
        if self._is_running:
            self.spent[self._open[-1]] += now - self._since
        self._since = now


def main() -> None:
    """Do one task."""
    task = Task(**json.loads(sys.argv[1]))
    segments = Segments()
    for owner, name, segment in TIMED:
        setattr(owner, name, segments.timed(segment, getattr(owner, name)))
    figures: dict[str, Any] = measure(cast("ClientModule", with_anyamqp), task, segments)
    figures["spent"] = {name: seconds / task.messages * 1e6 for name, seconds in segments.spent.items()}
    figures["calls"] = {name: calls / task.messages for name, calls in segments.calls.items()}
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
