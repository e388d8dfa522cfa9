"""Event-loop primitives for the per-message hot path, native to asyncio and trio.

anyio looks up the event loop in each call, its events support many waiters, and on asyncio it registers a socket anew
for each wait. For three primitives this shows in a profile: the time, a task that waits for one event, and reading a
socket. This module has them in native form for asyncio and trio. Everything else, and any other event loop, goes
through anyio.
"""

from __future__ import annotations

import math
import socket
import sys
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import partial
from importlib import import_module
from threading import get_ident
from typing import TYPE_CHECKING, Final, Protocol, cast
from weakref import WeakValueDictionary

import anyio
import anyio.lowlevel

from anyamqp.errors import InvalidUse
from anyamqp.protocol.waking import Wakers

if TYPE_CHECKING:
    import asyncio


for _library in anyio.get_all_backends():
    # anyio loads 15 modules when an event loop first uses it. On the first connect that would delay all other tasks, so
    # a program that has imported the event loop's library by now loads them here.
    if _library in sys.modules:
        with suppress(ImportError):
            import_module(f"anyio._backends._{_library}")


class Waiter(Protocol):
    """An event for one task, set once."""

    def set(self) -> object: ...

    def wait(self) -> Awaitable[object]: ...


class Loop:
    """The primitives of an event loop, through anyio.

    Attributes:
        now: the current time in seconds, on the clock of :func:`anyio.current_time`.
        waiter: makes a :class:`Waiter`.
        thread: the thread that the loop runs in; None if unknown.
        is_running: whether the loop runs now. In its thread, this costs a third of looking up the running loop.
    """

    now: Callable[[], float] = staticmethod(anyio.current_time)
    waiter: Callable[[], Waiter] = anyio.Event
    is_running: Callable[[], bool] = staticmethod(lambda: True)
    thread: int | None = None

    @property
    def is_here(self) -> bool:
        """Whether the caller is on this event loop; True if that is unknown."""
        return self.thread is None or (get_ident() == self.thread and self.is_running())

    def require_here(self, what: str) -> None:
        """Refuse callers on another event loop or in another thread.

        Args:
            what: the object that the caller uses, for the error.

        Raises:
            InvalidUse: the caller is not on this event loop.
        """
        if not self.is_here:
            raise InvalidUse(
                f"{what} is used on the event loop on which its connection was entered, and on no other; "
                "other threads go through anyio.from_thread.run or asyncio.run_coroutine_threadsafe"
            )

    async def while_readable(self, source: socket.socket, read: Callable[[], bool]) -> None:
        """Call ``read`` whenever the socket is readable, until it returns False. Its exceptions are raised here.

        Args:
            source: a non-blocking socket, which nobody else reads or closes meanwhile.
            read: a plain function that reads some of the bytes.
        """
        goes_on = True
        while goes_on:
            await anyio.wait_readable(source)
            goes_on = read()

    def notify_closing(self, source: socket.socket) -> None:
        """Make tasks that wait for a socket raise ClosedResourceError; the caller may then close it."""
        anyio.notify_closing(source)


class _AsyncioLoop(Loop):
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.thread = get_ident()
        self._loop = loop
        self._read: dict[socket.socket, asyncio.Future[None]] = {}
        """The sockets that :meth:`while_readable` reads, with the futures that end it."""
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
                if done.done():  # read() cancelled the waiting task
                    raise
                done.set_exception(error)
            else:
                if not goes_on and not done.done():
                    done.set_result(None)

        try:
            self._loop.add_reader(source, _as_in_a_task(on_readable))
        except NotImplementedError:  # Windows: the proactor loop
            await super().while_readable(source, read)
            return
        self._read[source] = done
        try:
            await done
        finally:
            if self._read.pop(source, None) is not None:
                self._loop.remove_reader(source)

    def notify_closing(self, source: socket.socket) -> None:
        if (done := self._read.pop(source, None)) is not None:
            self._loop.remove_reader(source)
            if not done.done():
                done.set_exception(anyio.ClosedResourceError())
        super().notify_closing(source)

    def is_of(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether this stands for ``loop``."""
        return self._loop is loop


def _as_in_a_task(call: Callable[[], None]) -> Callable[[], object]:
    """Wrap a callback of the event loop so that sniffio finds asyncio in it.

    If sniffio is installed, anyio asks it. It recognises asyncio by the current task, and a callback has none.
    """
    try:
        from sniffio import current_async_library_cvar
    except ImportError:  # then anyio asks asyncio itself
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
        self._clock = trio.lowlevel.current_clock()
        self.now = self._clock.current_time  # unlike trio.current_time, this works in every thread
        self.waiter = trio.Event
        self.is_running = trio.lowlevel.in_trio_run
        self._wait_readable = trio.lowlevel.wait_readable
        self._closed = trio.ClosedResourceError

    def is_present(self) -> bool:
        """Whether it is the loop that runs now: each run has a clock of its own."""
        import trio

        return self._clock is trio.lowlevel.current_clock()

    async def while_readable(self, source: socket.socket, read: Callable[[], bool]) -> None:
        goes_on = True
        while goes_on:
            try:
                await self._wait_readable(source)
            except self._closed:
                raise anyio.ClosedResourceError from None
            goes_on = read()


_OF_THREADS: Final[WeakValueDictionary[int, Loop]] = WeakValueDictionary()
"""The last loop of each thread, shared by its users."""


def running_loop() -> Loop:
    """The running event loop."""
    library = anyio.get_cancelled_exc_class().__module__.partition(".")[0]
    last = _OF_THREADS.get(get_ident())
    loop: Loop
    if library == "asyncio":
        import asyncio

        running = asyncio.get_running_loop()
        if isinstance(last, _AsyncioLoop) and last.is_of(running):
            return last
        loop = _AsyncioLoop(running)
    elif library == "trio":
        if isinstance(last, _TrioLoop) and last.is_present():
            return last
        loop = _TrioLoop()
    else:
        loop = Loop()
    _OF_THREADS[get_ident()] = loop
    return loop


class Flag:
    """Like :class:`anyio.Event`, which takes 900 bytes on asyncio; a flag takes 50 until a task waits for it."""

    __slots__ = ("_is_set", "_waiters")

    def __init__(self) -> None:
        self._is_set = False
        self._waiters: list[Waiter] | None = None

    def set(self) -> None:
        """Wake all waiting tasks, now and later."""
        self._is_set = True
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            waiter.set()

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._is_set

    async def wait(self) -> None:
        """Wait until it is set."""
        if self._is_set:
            await anyio.lowlevel.checkpoint()
            return
        waiter = running_loop().waiter()
        if self._waiters is None:
            self._waiters = []
        waiters = self._waiters
        waiters.append(waiter)
        try:
            await waiter.wait()
        finally:
            if not self.is_set():
                waiters.remove(waiter)


async def next_news(wakers: Wakers) -> None:
    """Wait until there is news."""
    waker = running_loop().waiter()
    wakers.add(waker)
    try:
        await waker.wait()
    finally:
        wakers.discard(waker)


def is_cancelled() -> bool:
    """Whether the running task is cancelled, by a cancel scope around it or, on asyncio, by ``Task.cancel``."""
    if anyio.current_effective_deadline() == -math.inf:
        return True
    if not anyio.get_cancelled_exc_class().__module__.startswith("asyncio"):
        return False
    import asyncio

    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def failure_of(raised: BaseException) -> Exception | None:
    """The failure that an exception stands for; None if it ends the task, like a cancellation or KeyboardInterrupt.

    In a cancelled task nothing is a failure: the cancellation may have become another error on its way.

    Awaiting another task or future that was cancelled also raises CancelledError. If nobody cancelled the running task,
    that is a failure like any other.
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
    """The exceptions in a group and in groups within it; an exception that is no group yields itself."""
    if isinstance(raised, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", raised)
        for one in group.exceptions:
            yield from _all(one)
    else:
        yield raised


@contextmanager
def interrupt_as_itself() -> Generator[None, None, None]:
    """Take a KeyboardInterrupt out of its group: trio raises it in the running task, which may be one of ours."""
    try:
        yield
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        raise KeyboardInterrupt from None
