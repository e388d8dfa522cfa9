"""A bounded pool that lends channels, for code that needs one now and then."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import anyio

from anyamqp.channel import Channel
from anyamqp.channel_shell import ChannelShell
from anyamqp.checks import check_seconds, check_whole
from anyamqp.core.host import ChannelHost
from anyamqp.errors import ChannelLimitReached, RequestTimeout
from anyamqp.misuse import Entered
from anyamqp.protocol.lending import Lending
from anyamqp.protocol.lifecycle.channel import OVER
from anyamqp.protocol.lifecycle.pool import PoolState


class _Member:
    """A channel of the pool, and its shell, which opens and closes it."""

    __slots__ = ("channel", "shell")

    def __init__(self, host: ChannelHost) -> None:
        self.shell: ChannelShell = ChannelShell(host)
        self.channel: Channel = Channel(self.shell)

    @property
    def is_usable(self) -> bool:
        return self.shell.channel.core.state not in OVER


class ChannelPool(Entered):
    """Lends channels and reuses them: ``async with connection.channel_pool(8) as pool``.

    Made by :meth:`Connection.channel_pool`. At most ``size`` channels are open; further borrowers wait.
    """

    _kind = "a pool"
    _block = "async with connection.channel_pool(8) as pool"

    def __init__(self, host: ChannelHost, size: int) -> None:
        check_whole("size", size, 1)
        self._host = host
        self._room = anyio.Semaphore(size)
        self._lending: Lending[_Member] = Lending()
        self._starving: deque[anyio.CancelScope] = deque()
        """The scopes of the tasks that wait for a channel number."""

    @property
    def _is_new(self) -> bool:
        return self._lending.state is PoolState.NEW

    async def __aenter__(self) -> Self:
        self._host.loop.require_here(self._kind)
        self._check_new()
        self._lending.enter()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        idle = self._lending.leave()
        # All closes are sent before the first wait.
        for member in idle:
            member.shell.channel.begin_close()
        for member in idle:
            await member.channel.close()

    @asynccontextmanager
    async def channel(self, timeout: float | None = None) -> AsyncGenerator[Channel, None]:
        """Borrow a channel.

        Args:
            timeout: seconds to wait for a free one; None to wait for ever.

        Raises:
            RequestTimeout: none was free in time.
            InvalidUse: the pool is closed, or its block was not entered.
            InvalidArgument: ``timeout`` is not a number of seconds.
        """
        check_seconds("timeout", timeout, none="for ever")
        self._host.loop.require_here(self._kind)
        self._check_entered()
        self._lending.check()
        member: _Member | None = None
        with anyio.move_on_after(timeout):
            member = await self._borrow()
        if member is None:
            raise RequestTimeout(f"no channel of the pool was free within {timeout} s")
        try:
            yield member.channel
        finally:
            self._put(member)

    async def _borrow(self) -> _Member:
        await self._room.acquire()
        try:
            while (member := self._lending.take()) is None:
                member = _Member(self._host)
                try:
                    await member.shell.open()
                except ChannelLimitReached:
                    await self._starve()
                except BaseException:
                    member.shell.channel.begin_close()
                    raise
                else:
                    break
        except BaseException:
            self._room.release()
            raise
        return member

    async def _starve(self) -> None:
        """Wait until a channel number is free, or until a channel is given back."""
        with anyio.CancelScope() as starving:
            self._starving.append(starving)
            try:
                await self._host.wait_forgotten()
            finally:
                if starving in self._starving:
                    self._starving.remove(starving)

    def _put(self, member: _Member) -> None:
        if not self._lending.give_back(member):
            member.shell.channel.begin_close()
        elif self._starving:
            self._starving.popleft().cancel()
        self._room.release()
