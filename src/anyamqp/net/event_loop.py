"""What happens with every message, done as the running event loop does it.

anyio looks for the event loop in each call, and its events are made for many waiters; on asyncio it also registers a
socket anew for each wait. Three things are needed so often that this shows in a profile: the time, a task that waits
for one thing, and a socket that is read. They are here in their native form for asyncio and trio. Everything else, and
any other event loop, is anyio's.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Protocol, cast

import anyio

from anyamqp.errors import InvalidUse

if TYPE_CHECKING:
    import asyncio


class Waiter(Protocol):
    """One task waits until it is set, once."""

    def set(self) -> object: ...

    def wait(self) -> Awaitable[object]: ...


class Loop:
    """What is used of an event loop, by way of anyio.

    Attributes:
        now: the present time in seconds, on the clock of :func:`anyio.current_time`.
        waiter: makes a :class:`Waiter`.
        thread: the thread that it runs in; None if that is not known.
        is_running: whether it runs now. Asked in its thread, this costs a third of looking for the loop that runs.
    """

    now: Callable[[], float] = staticmethod(anyio.current_time)
    waiter: Callable[[], Waiter] = anyio.Event
    is_running: Callable[[], bool] = staticmethod(lambda: True)
    thread: int | None = None

    @property
    def is_here(self) -> bool:
        """Whether the caller is on this event loop, as far as that is known."""
        return self.thread is None or (get_ident() == self.thread and self.is_running())

    def require_here(self, what: str) -> None:
        """Refuse callers on another event loop or in another thread, before anything is done for them.

        Args:
            what: the object that they use.

        Raises:
            InvalidUse: the caller is one.
        """
        if not self.is_here:
            raise InvalidUse(
                f"{what} is used on the event loop on which its connection was entered, and on no other; "
                "other threads go through anyio.from_thread.run or asyncio.run_coroutine_threadsafe"
            )

    async def while_readable(self, source: socket.socket, read: Callable[[], bool]) -> None:
        """Call ``read`` whenever there is something to read, until it returns False. What it raises is raised here.

        Args:
            source: a non-blocking socket, which nobody else reads or closes meanwhile.
            read: a plain function that reads some of what is there.
        """
        goes_on = True
        while goes_on:
            await anyio.wait_readable(source)
            goes_on = read()


class _AsyncioLoop(Loop):
    def __init__(self) -> None:
        import asyncio

        self.thread = get_ident()
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        create_future = self._loop.create_future
        self.waiter = lambda: _FutureWaiter(create_future())
        self.is_running = self._loop.is_running

    async def while_readable(self, source: socket.socket, read: Callable[[], bool]) -> None:
        done = self._loop.create_future()

        def on_readable() -> None:
            try:
                goes_on = done.done() or read()
            except BaseException as error:
                if done.done():  # read() had the one who waits cancelled
                    raise
                done.set_exception(error)
            else:
                if not goes_on and not done.done():
                    done.set_result(None)

        try:
            self._loop.add_reader(source, _as_in_a_task(on_readable))
        except NotImplementedError:  # the proactor loop of Windows
            await super().while_readable(source, read)
            return
        try:
            await done
        finally:
            self._loop.remove_reader(source)


def _as_in_a_task(call: Callable[[], None]) -> Callable[[], object]:
    """A function for the event loop to call, in which sniffio finds asyncio.

    Where sniffio is installed anyio asks it, and it knows asyncio by the current task, of which a callback has none.
    """
    try:
        from sniffio import current_async_library_cvar
    except ImportError:  # anyio asks asyncio itself then
        return call
    context = copy_context()
    context.run(current_async_library_cvar.set, "asyncio")
    return partial(context.run, call)


class _FutureWaiter:
    __slots__ = ("_future",)

    def __init__(self, future: asyncio.Future[None]) -> None:
        self._future = future

    def set(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    def wait(self) -> asyncio.Future[None]:
        return self._future


class _TrioLoop(Loop):
    def __init__(self) -> None:
        import trio

        self.thread = get_ident()
        self.now = trio.current_time
        self.waiter = trio.Event
        self.is_running = trio.lowlevel.in_trio_run
        self._wait_readable = trio.lowlevel.wait_readable

    async def while_readable(self, source: socket.socket, read: Callable[[], bool]) -> None:
        goes_on = True
        while goes_on:
            await self._wait_readable(source)
            goes_on = read()


def running_loop() -> Loop:
    """The event loop that runs now."""
    library = anyio.get_cancelled_exc_class().__module__.partition(".")[0]
    if library == "asyncio":
        return _AsyncioLoop()
    return _TrioLoop() if library == "trio" else Loop()


def is_cancelled() -> bool:
    """Whether the running task is cancelled: through a cancel scope around it, or on asyncio by ``Task.cancel``."""
    if anyio.current_effective_deadline() == -math.inf:
        return True
    if not anyio.get_cancelled_exc_class().__module__.startswith("asyncio"):
        return False
    import asyncio

    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def failure_of(raised: BaseException) -> Exception | None:
    """The failure that an exception stands for; None if it ends the task: a cancellation, KeyboardInterrupt and such.

    In a cancelled task nothing is a failure: the cancellation may have become another error on its way.

    CancelledError also comes out of awaiting somebody else's task or future that was cancelled. Where nobody cancelled
    the task itself, that is a failure like any other.
    """
    if is_cancelled():
        return None
    if isinstance(raised, Exception):
        return raised
    if not all(isinstance(one, Exception | anyio.get_cancelled_exc_class()) for one in _all(raised)):
        return None
    failure = InvalidUse(
        f"{type(raised).__name__} was raised, but this task was not cancelled: something that it awaited was"
    )
    failure.__cause__ = raised
    return failure


def _all(raised: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group, and in groups within it; or the one that is no group."""
    if isinstance(raised, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", raised)
        for one in group.exceptions:
            yield from _all(one)
    else:
        yield raised


@contextmanager
def interrupt_as_itself() -> Generator[None, None, None]:
    """Take a KeyboardInterrupt out of its group: trio raises it in whatever task is running, and that may be ours."""
    try:
        yield
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        raise KeyboardInterrupt from None
