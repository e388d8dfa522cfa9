"""The transitions of a connection as a stream."""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol, Self

import anyio

from anyamqp.net.event_loop import Loop, running_loop
from anyamqp.protocol.lifecycle import Transition

_MOST_WAITING: Final = 1024
"""Unread transitions that are kept; beyond these the oldest are dropped."""


class HasLoop(Protocol):
    """An object that knows the event loop of its connection, once the connection is entered."""

    loop: Loop


class TransitionStream:
    """Transitions as they happen: ``async for transition in connection.transitions()``.

    The stream begins with the next transition and ends when the connection is closed. It keeps the last 1024 unread
    transitions; a slower reader misses the oldest ones, which :attr:`dropped` counts. Read it on the event loop of the
    connection.

    Args:
        home: the journal of the connection.

    Attributes:
        dropped: the number of transitions that the reader missed.
    """

    def __init__(self, home: HasLoop) -> None:
        self.dropped: int = 0
        self._home = home
        self._loop: Loop = Loop()
        """The reader's event loop; without a thread before the first read."""
        self._waiting: deque[Transition] = deque()
        self._ended = False
        self._news = anyio.Event()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Transition:
        """The next transition.

        Raises:
            InvalidUse: the caller is on another event loop than the connection, or in another thread.
        """
        if self._loop.thread is None:
            self._loop = running_loop()
        for loop in (self._home.loop, self._loop):
            loop.require_here("a stream of transitions")
        while not self._waiting:
            if self._ended:
                raise StopAsyncIteration
            await self._news.wait()
        return self._waiting.popleft()

    def push(self, transition: Transition) -> int:
        """Add a transition.

        Returns:
            The number of transitions dropped for it, 0 or 1.
        """
        self._waiting.append(transition)
        self._wake()
        if len(self._waiting) <= _MOST_WAITING:
            return 0
        self._waiting.popleft()
        self.dropped += 1
        return 1

    def end(self) -> None:
        """End the iteration after the unread transitions."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        # A reader that began on another loop, before the connection was entered, cannot be woken from here.
        if self._loop.is_here:
            self._news.set()
            self._news = anyio.Event()
