"""What a client module is given to do, and what it gives back."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Any, Self, TypeAlias

Samples: TypeAlias = Mapping[str, Sequence[float]]
"""Latencies in seconds, by what they are of; empty where only throughput counts."""


@dataclass(frozen=True, slots=True)
class Task:
    """One run of one case by one client.

    Attributes:
        module: the client's module.
        case: the case's name.
        loop: the event loop, if the client can run on several.
        url: the broker's.
        queue: the queue to use. It is there, and full if the case says so.
        messages: how many messages count.
        warmup: how many go before them, over :attr:`warm_queue`.
        size: bytes in a body.
        rate: messages a second, for what is paced.
        seconds: how long, for what is paced.
        role: ``run``, or what a helper process does: ``serve``, ``pace``.
    """

    module: str
    case: str
    url: str
    queue: str
    messages: int
    warmup: int
    size: int
    loop: str = ""
    rate: float = 0.0
    seconds: float = 0.0
    role: str = "run"

    @property
    def warm_queue(self) -> str:
        """The queue of the warm-up, so that nothing of it is left on the way when the clock starts."""
        return f"{self.queue}.warm-up"

    def quiet_queues(self, count: int) -> list[str]:
        """The queues of the quiet consumers."""
        return [f"{self.queue}.quiet-{number}" for number in range(count)]


class Stopwatch:
    """Wall time and this process's CPU time, from the operating system, of a ``with`` block."""

    def __init__(self) -> None:
        self.seconds: float = 0.0
        self.cpu: float = 0.0

    def __enter__(self) -> Self:
        self._cpu = _cpu()
        self._start = time.perf_counter()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._start
        self.cpu = _cpu() - self._cpu


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


@contextmanager
def helper(task: Task, role: str, **changes: Any) -> Generator[None, None, None]:
    """Another process that serves or paces for this one, in the same process group, ended with the block."""
    arguments = [sys.executable, "-m", "benchmarks.worker", encode(replace(task, role=role, **changes))]
    process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=os.environ)  # noqa: S603 - ourselves
    try:
        yield
        if process.poll() is not None:
            raise RuntimeError(f"the helper process ({role}) ended early, with {process.returncode}")
    finally:
        process.kill()
        process.wait()


def encode(task: Task) -> str:
    """A task as an argument of a process."""
    return json.dumps(asdict(task))
