"""Event-loop primitives for the per-message hot path, native to asyncio and trio.

anyio looks for the event loop in each call, and its events are made for many waiters; on asyncio it also registers a
socket anew for each wait. Three things are needed so often that this shows in a profile: the time, a task that waits
for one thing, and a socket that is read. They are here in their native form for asyncio and trio. Everything else, and
any other event loop, is anyio's.
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
    # anyio loads 15 modules when an event loop first uses it. The first connect would do that while the loop runs, and
    # so delay every other task. A program that has imported the library by now pays for it here.
    if _library in sys.modules:
        with suppress(ImportError):
            import_module(f"anyio._backends._{_library}")


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

    def notify_closing(self, source: socket.socket) -> None:
        """Have those who wait for a socket raise ClosedResourceError; afterwards it may be closed."""
        anyio.notify_closing(source)


class _AsyncioLoop(Loop):
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.thread = get_ident()
        self._loop = loop
        self._read: dict[socket.socket, asyncio.Future[None]] = {}
        """The sockets of :meth:`while_readable`, with the futures that end it."""
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
        """Whether this is for that event loop of asyncio."""
        return self._loop is loop


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
        self._closed = trio.ClosedResourceError

    async def while_readable(self, source: socket.socket, read: Callable[[], bool]) -> None:
        goes_on = True
        while goes_on:
            try:
                await self._wait_readable(source)
            except self._closed:
                raise anyio.ClosedResourceError from None
            goes_on = read()


_OF_THREADS: Final[WeakValueDictionary[int, Loop]] = WeakValueDictionary()
"""The last loop of each thread, shared by all that use it."""


def running_loop() -> Loop:
    """The event loop that runs now."""
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
        if isinstance(last, _TrioLoop):
            return last
        loop = _TrioLoop()
    else:
        loop = Loop()
    _OF_THREADS[get_ident()] = loop
    return loop


class Flag:
    """As :class:`anyio.Event`, which takes 900 bytes on asyncio; this takes 50 until somebody waits for it."""

    __slots__ = ("_is_set", "_waiters")

    def __init__(self) -> None:
        self._is_set = False
        self._waiters: list[Waiter] | None = None

    def set(self) -> None:
        """Wake all who wait, now and later."""
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
