"""The clients that recover, each in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Final, Self

from benchmarks.pages import ROOT
from benchmarks.recovery_worker import Recovering

LIVED: Final = 5.5
"""Seconds that a connection has lived before it is lost. Both clients come back soon only if it has lived long enough:
anyamqp's default for that is 1 s (``stable_after``), aio-pika's is its ``reconnect_interval`` of 5 s."""


@dataclass(frozen=True, slots=True)
class Client:
    """Who recovers."""

    name: str
    client: str
    loop: str = "asyncio"
    interval: float | None = None


CLIENTS: Final = (
    Client("anyamqp", "anyamqp"),
    Client("anyamqp on trio", "anyamqp", loop="trio"),
    Client("aio-pika", "aio-pika"),
    Client("aio-pika, interval 0", "aio-pika", interval=0.0),
)


class Process:
    """The client's process, ended with the block."""

    def __init__(self, task: Recovering) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own module
            [sys.executable, "-m", "benchmarks.recovery_worker", json.dumps(asdict(task))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )
        self._unread = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def say(self, line: str) -> None:
        """Tell it something."""
        if self._process.stdin is not None:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def hear(self, wanted: str, deadline: float) -> None:
        """Wait until it says so."""
        if (line := self.line(deadline).strip()) != wanted:
            raise RuntimeError(f"{line!r} instead of {wanted!r}")

    def line(self, deadline: float) -> str:
        """Its next line.

        Raises:
            RuntimeError: it ended.
            TimeoutError: none came in time.
        """
        out, errors = self._process.stdout, self._process.stderr
        if out is None or errors is None:
            raise RuntimeError("a process without pipes")
        # Read here and not through the file, which would keep a second line where no selector sees it.
        while b"\n" not in self._unread:
            with selectors.DefaultSelector() as selector:
                selector.register(out, selectors.EVENT_READ)
                if not selector.select(deadline):
                    raise TimeoutError(f"not done within {deadline:g} s")
            data = os.read(out.fileno(), 65536)
            if not data:
                raise RuntimeError((errors.read().strip().splitlines() or ["ended"])[-1])
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()
