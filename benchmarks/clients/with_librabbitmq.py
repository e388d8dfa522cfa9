"""librabbitmq, the client for C: a program of its own does the work and measures itself, ``librabbitmq.c``.

:func:`compiled` builds it on demand; where no compiler or no librabbitmq is, the benchmark goes on without it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import unquote, urlsplit

from benchmarks.cases import LARGE_WINDOW, PREFETCH, WINDOW
from benchmarks.task import Samples, Stopwatch, Task

_SOURCE: Final = Path(__file__).with_name("librabbitmq.c")
_PROGRAM: Final = "ANYAMQP_BENCHMARK_LIBRABBITMQ"
"""The environment variable that tells the processes of a run where the program is."""

_WINDOWS: Final = {"confirms": WINDOW, "serial": 1, "ack": PREFETCH, "large": LARGE_WINDOW}


class CannotCompile(Exception):
    """There is no program; the text says why."""


@contextmanager
def compiled() -> Generator[str, None, None]:
    """Compile the program into a temporary folder, for the processes that are started in the block.

    Returns:
        The version of librabbitmq.

    Raises:
        CannotCompile: the machine has no compiler or no librabbitmq.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise CannotCompile("no C compiler")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "librabbitmq")
        command = [compiler, "-O2", "-o", str(program), str(_SOURCE), "-lrabbitmq"]
        built = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own source
        if built.returncode != 0:
            errors = [line for line in built.stderr.splitlines() if "error" in line or "cannot find" in line]
            raise CannotCompile((errors or ["the compiler failed"])[0].rpartition("error: ")[2])
        version = subprocess.run([program, "version"], capture_output=True, text=True, check=True)  # noqa: S603 - ours
        os.environ[_PROGRAM] = str(program)
        try:
            yield version.stdout.strip()
        finally:
            del os.environ[_PROGRAM]


def run(task: Task, watch: Stopwatch) -> Samples:
    """Do what the task says; the clock is the program's own."""
    done = subprocess.run(_command(task, task.case), capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip() or f"the program ended with {done.returncode}")
    times, *calls = done.stdout.splitlines()
    watch.seconds, watch.cpu = map(float, times.split())
    return {"call": list(map(float, calls))} if calls else {}


def serve(task: Task) -> NoReturn:
    """Answer remote calls until the process is ended, which is the program from here on."""
    command = _command(task, "serve")
    os.execv(command[0], command)  # noqa: S606 - ours


def _command(task: Task, case: str) -> list[str]:
    parts = urlsplit(task.url)
    values = (
        case,
        parts.hostname or "localhost",
        parts.port or 5672,
        unquote(parts.username or "guest"),
        unquote(parts.password or "guest"),
        unquote(parts.path[1:]) or "/",
        task.queue,
        task.warm_queue,
        task.messages,
        task.warmup,
        task.size,
        _WINDOWS.get(case, 0),
    )
    return [os.environ[_PROGRAM], *map(str, values)]
