"""The stage of the scenes that take rows of the tables: a connection, a scripted broker, and users in tasks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

import anyio
import anyio.abc

import anyamqp
from anyamqp import AnyamqpError, Connection, Message
from anyamqp.wire import methods
from anyamqp.wire.methods import Method
from support.handbroker import STEADY, URL, HandBroker, ServedLink
from support.scenes.taken import Taken
from support.waiting import eventually

AT_ONCE: Final = replace(STEADY, stable_after=0.0)
"""Dial at once after each loss, then every second."""
TURN: Final = 0.1
"""Virtual seconds within which a client that may dial at once has its turn."""
LONGEST: Final = 600.0
"""Virtual seconds for a scene."""
_TURNS: Final = 60
"""Turns of the event loop in which every task has done all that it can do now."""

T = TypeVar("T")
Scene: TypeAlias = Callable[["Stage"], Awaitable[None]]


class Stay:
    """A block of a user's, entered in a task of its own."""

    def __init__(self, block: AbstractAsyncContextManager[Any]) -> None:
        self._block = block
        self._scope = anyio.CancelScope()
        self._leave = anyio.Event()
        self._fail = False

    async def run(self) -> None:
        try:
            with self._scope:
                async with self._block:
                    await self._stay()
        except (AnyamqpError, ExceptionGroup, LookupError):
            pass  # the rows are the matter

    async def _stay(self) -> None:
        await self._leave.wait()
        if self._fail:
            raise LookupError("the user's")

    def leave(self, *, fail: bool = False) -> None:
        """End the block, with an error of the user's if it is to ``fail``."""
        self._fail = fail
        self._leave.set()

    def cancel(self) -> None:
        """Cancel the task."""
        self._scope.cancel()


class StageBroker(HandBroker):
    """A scripted broker whose dials a scene can hold.

    Attributes:
        gate: a dial waits until this is set, whatever is cancelled meanwhile.
    """

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        super().__init__(tasks)
        self.gate = anyio.Event()
        self.gate.set()

    async def dial(self, _: object) -> anyio.abc.ByteStream:
        with anyio.CancelScope(shield=True):
            await self.gate.wait()
        return self.serve()


class Stage:
    """A scripted broker, a connection, and users.

    Attributes:
        broker: the broker.
        taken: the cells.
        connection: the connection; a scene begins with :meth:`connect`.
        stay: the block of the connection.
    """

    def __init__(self, broker: anyio.abc.TaskGroup, users: anyio.abc.TaskGroup, taken: Taken) -> None:
        self.broker = StageBroker(broker)
        self.taken = taken
        self._tasks = users
        self._stays: list[Stay] = []
        self.make()

    @property
    def link(self) -> ServedLink:
        """The current link, as the broker sees it."""
        return self.broker.link

    # --- the connection -----------------------------------------------------------------------------------------------

    def make(self, **changes: Any) -> None:
        """Make the connection, with other settings."""
        settings = replace(anyamqp.Settings.from_urls(URL), **{"reconnect": AT_ONCE} | changes)
        self.connection: Connection = anyamqp.connect(settings, dial=self.broker.dial, ready_timeout=0)
        self.stay: Stay = Stay(self.connection)

    async def connect(self) -> None:
        """Enter the connection. It may still be connecting when this returns."""
        self._tasks.start_soon(self.stay.run)
        await quiet()

    async def close(self) -> None:
        """Begin to close the connection."""
        await self.begin(self.connection.close)

    # --- users --------------------------------------------------------------------------------------------------------

    async def enter(self, block: AbstractAsyncContextManager[Any]) -> Stay:
        """Enter a block in a task of its own. It may still be entering when this returns."""
        stay = Stay(block)
        self._stays.append(stay)
        self._tasks.start_soon(stay.run)
        await quiet()
        return stay

    async def begin(self, call: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Begin a call in a task of its own, which may outlast this. Its errors are no matter."""

        async def run() -> None:
            with suppress(AnyamqpError, ExceptionGroup):
                await call()

        self._tasks.start_soon(run)
        await quiet()

    async def leave(self) -> None:
        """End all blocks, the last one first."""
        for stay in (*reversed(self._stays), self.stay):
            stay.leave()
            await quiet()

    # --- the broker ---------------------------------------------------------------------------------------------------

    def hold(self, *kinds: type[Method]) -> None:
        """Leave these methods without an answer, until :meth:`answer`."""
        self.broker.habits.silent_to.update(kinds)

    async def answer(self) -> None:
        """Answer everything, from now on and what was left without an answer on the current link."""
        self.broker.gate.set()
        self.broker.is_refusing = False
        self.broker.habits.silent_to.clear()
        self.broker.habits.silent_on.clear()
        with _ended_links():
            await self.link.answer_all()
        await quiet()

    async def let(self, *kinds: type[Method]) -> None:
        """Answer these methods again."""
        self.broker.habits.silent_to.difference_update(kinds)
        with _ended_links():
            await self.link.answer_to(*kinds)
        await quiet()

    def number(self, kind: type[Method]) -> int:
        """The channel on which a method of this kind came last; 1 if none came."""
        methods = self.link.methods if self.broker.links else []
        return next((number for number, method in reversed(methods) if isinstance(method, kind)), 1)

    async def tell(self, channel: int, *told: Method) -> None:
        """Send methods, in one piece."""
        with _ended_links():
            await self.link.tell(channel, *told)
        await quiet()

    async def tell_content(self, channel: int, method: Method, message: Message) -> None:
        """Send a method with its content, in one piece."""
        with _ended_links():
            await self.link.tell_content(channel, method, message)
        await quiet()

    async def refuse(self, channel: int, code: int, cause: type[Method] | None = None, text: str = "NO") -> None:
        """Close a channel because of a method."""
        await self.tell(channel, closing(code, cause, text))

    async def come(self, kind: type[Method], seen: int) -> None:
        """Wait some time until more methods of this kind than ``seen`` came on the current link."""
        with suppress(AssertionError):
            await eventually(lambda: len(self.link.sent(kind)) > seen, within=20, every=0.5)

    async def end(self, code: int, cause: type[Method] | None = None, text: str = "NO") -> None:
        """Close the link because of a method."""
        await self.tell(0, methods.Connection.Close(code, text, *_number_of(cause)))

    async def end_and_return(self, code: int) -> None:
        """Close the link without naming a method, and wait until the client is back."""
        await self.end(code)
        await anyio.sleep(1 + TURN)
        await quiet()

    async def lose(self) -> None:
        """Reset the link. The client is back when this returns, if the broker lets it."""
        with _ended_links():
            await self.link.reset()
        await quiet()
        await anyio.sleep(TURN)
        await quiet()


def _ended_links() -> AbstractContextManager[None]:
    """A broker tells nothing if there is no link."""
    return suppress(anyio.ClosedResourceError, anyio.BrokenResourceError, IndexError)


def closing(code: int, cause: type[Method] | None = None, text: str = "NO") -> methods.Channel.Close:
    """The close of a channel because of a method."""
    return methods.Channel.Close(code, text, *_number_of(cause))


def _number_of(cause: type[Method] | None) -> tuple[int, int]:
    return (0, 0) if cause is None else (cause.index >> 16, cause.index & 0xFFFF)


async def quiet() -> None:
    """Let every task do all that it can do now. Takes no virtual time."""
    for _ in range(_TURNS):
        await anyio.lowlevel.checkpoint()


async def play(taken: Taken, scene: Scene) -> None:
    """Play a scene on a stage of its own."""
    with anyio.fail_after(LONGEST):
        async with anyio.create_task_group() as broker:
            async with anyio.create_task_group() as users:
                on = Stage(broker, users, taken)
                try:
                    await scene(on)
                finally:
                    on.broker.gate.set()
                await on.leave()
            broker.cancel_scope.cancel()


def product(
    kind: str, acts: Iterable[tuple[Callable[[Stage], Awaitable[T]], Sequence[Callable[[T], Awaitable[None]]]]]
) -> Iterator[tuple[str, Scene]]:
    """Scenes by name: each reaches a state of an object, and then something happens."""
    for reach, events in acts:
        for act in events:
            yield f"{kind}: {reach.__name__}, {act.__name__}", partial(_play, reach, act)


async def _play(reach: Callable[[Stage], Awaitable[T]], act: Callable[[T], Awaitable[None]], stage: Stage) -> None:
    await act(await reach(stage))
