"""A bounded pool that lends channels, for code that needs one now and then."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import anyio

from anyamqp.channel import Channel
from anyamqp.checks import check_seconds, check_whole
from anyamqp.core.channel import ChannelHost
from anyamqp.errors import ChannelLimitReached, InvalidUse, RequestTimeout
from anyamqp.misuse import Entered
from anyamqp.protocol.lifecycle import State


class ChannelPool(Entered):
    """Lends channels and reuses them: ``async with connection.channel_pool(size=8) as pool``.

    Args:
        host: the connection.
        size: at most so many channels; more borrowers wait for their turn.

    Raises:
        InvalidArgument: the size is not a whole number from 1 up.
    """

    _kind = "a pool"
    _block = "async with connection.channel_pool(8) as pool"

    def __init__(self, host: ChannelHost, size: int) -> None:
        check_whole("size", size, 1)
        self._host = host
        self._room = anyio.Semaphore(size)
        self._idle: list[Channel] = []
        self._starving: deque[anyio.CancelScope] = deque()
        self._is_closed = False

    async def __aenter__(self) -> Self:
        self._host.loop.require_here(self._kind)
        self._begin_block()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_closed = True
        idle, self._idle = self._idle, []
        # All closes are on their way before the first is waited for.
        for channel in idle:
            channel.begin_close()
        for channel in idle:
            await channel.close()

    @asynccontextmanager
    async def channel(self, timeout: float | None = None) -> AsyncGenerator[Channel, None]:
        """Borrow a channel.

        Args:
            timeout: seconds to wait for one to be free; None to wait for ever.

        Raises:
            RequestTimeout: none was free in time.
            InvalidUse: the pool is closed, or its block was not entered.
            InvalidArgument: that is no timeout.
        """
        check_seconds("timeout", timeout, none="for ever")
        self._host.loop.require_here(self._kind)
        self._check_entered()
        if self._is_closed:
            raise InvalidUse("the pool is closed")
        channel: Channel | None = None
        with anyio.move_on_after(timeout):
            channel = await self._borrow()
        if channel is None:
            raise RequestTimeout(f"no channel of the pool was free within {timeout} s")
        try:
            yield channel
        finally:
            self._put(channel)

    async def _borrow(self) -> Channel:
        await self._room.acquire()
        try:
            while True:
                while self._idle:
                    channel = self._idle.pop()
                    if channel.state not in (State.CLOSING, State.CLOSED):
                        return channel
                channel = Channel(self._host)
                try:
                    await channel.open()
                except ChannelLimitReached:
                    await self._starve()
                except BaseException:
                    channel.begin_close()
                    raise
                else:
                    return channel
        except BaseException:
            self._room.release()
            raise

    async def _starve(self) -> None:
        """Wait until a number is free, or until a channel is given back."""
        with anyio.CancelScope() as starving:
            self._starving.append(starving)
            try:
                await self._host.wait_forgotten()
            finally:
                if starving in self._starving:
                    self._starving.remove(starving)

    def _put(self, channel: Channel) -> None:
        if self._is_closed:
            channel.begin_close()
        elif channel.state not in (State.CLOSING, State.CLOSED):
            self._idle.append(channel)
            if self._starving:
                self._starving.popleft().cancel()
        self._room.release()
