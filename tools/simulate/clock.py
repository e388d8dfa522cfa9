"""Event loops with virtual time and a reproducible order of tasks, for asyncio and trio.

trio has a clock that jumps, ``MockClock``, and a switch for a deterministic scheduler. For asyncio,
:class:`VirtualLoop` jumps to the next timer instead of waiting for it. Its tasks and cancel scopes are hashed by their
number and not by their address, because anyio keeps them in sets and cancels them in the order of the set.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from contextlib import contextmanager
from importlib import import_module
from itertools import count
from typing import Any, Final, TypeVar
from unittest.mock import patch

import anyio
import trio
import trio.testing

T = TypeVar("T")

BACKENDS: Final = ("trio", "asyncio")


class Deadlock(Exception):
    """All tasks wait, and no timer is set."""


class _Selector(selectors.DefaultSelector):
    """Waits for no descriptor: it advances the time of its loop to the next timer."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout != 0:
            if timeout is None:
                raise Deadlock("all tasks wait, and no timer is set")
            self.loop.skip(timeout)
        self.loop.on_step()
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop of asyncio in virtual time, which begins at 0.

    Args:
        on_step: called once a turn.
    """

    def __init__(self, on_step: Callable[[], None]) -> None:
        selector = _Selector()
        selector.loop = self
        self.on_step: Callable[[], None] = on_step
        self._virtual_now = 0.0
        super().__init__(selector)
        numbers = count()

        class NumberedTask(asyncio.Task[Any]):
            """A task whose hash is its number."""

            def __init__(self, *given: Any, **named: Any) -> None:
                self._number = next(numbers)
                super().__init__(*given, **named)

            def __hash__(self) -> int:
                return self._number

        def make(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **named: Any) -> NumberedTask:
            return NumberedTask(coro, loop=loop, **named)

        factory: Any = make
        self.set_task_factory(factory)

    def time(self) -> float:
        """The virtual time in seconds."""
        return self._virtual_now

    def skip(self, seconds: float) -> None:
        """Advance the time."""
        self._virtual_now += seconds


class _Stepper(trio.abc.Instrument):
    """Calls a function after each step of each task."""

    def __init__(self, on_step: Callable[[], None]) -> None:
        self._on_step = on_step

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        del task
        self._on_step()


def run(main: Callable[[], Awaitable[T]], *, backend: str, seed: int, on_step: Callable[[], None]) -> T:
    """Run an async function in virtual time.

    Args:
        main: the function.
        backend: ``trio`` or ``asyncio``.
        seed: decides the order of trio's tasks. asyncio runs its tasks in the order in which they became ready.
        on_step: called after each step of a task on trio, and in each turn of the loop on asyncio. On trio, an
            exception of it is lost.

    Raises:
        Deadlock: all tasks wait for ever, on asyncio. trio would wait.
    """
    if backend == "trio":
        with _ordered_trio(seed):
            options: Mapping[str, Any] = {
                "clock": trio.testing.MockClock(autojump_threshold=0),
                "instruments": [_Stepper(on_step)],
            }
            return anyio.run(main, backend="trio", backend_options=dict(options))
    with _ordered_scopes():
        return anyio.run(main, backend="asyncio", backend_options={"loop_factory": lambda: VirtualLoop(on_step)})


@contextmanager
def _ordered_trio(seed: int) -> Generator[None, None, None]:
    """Let trio run the tasks of a batch in the order of their creation or its reverse, as the seed decides."""
    scheduler = import_module("trio._core._run")
    vars(scheduler)["_r"].seed(seed)
    with patch.object(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", new=True):
        yield


@contextmanager
def _ordered_scopes() -> Generator[None, None, None]:
    backend = import_module("anyio._backends._asyncio")
    scope: type[Any] = backend.CancelScope
    numbers = count()

    def begin(self: Any, *given: Any, **named: Any) -> None:
        self._number = next(numbers)
        scope.__init__(self, *given, **named)

    def number(self: Any) -> int:
        found: int = self._number
        return found

    numbered = type("NumberedScope", (scope,), {"__init__": begin, "__hash__": number})
    with patch.object(backend, "CancelScope", numbered):
        yield
