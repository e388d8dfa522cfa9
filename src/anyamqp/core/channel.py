"""The shell of a logical channel: it waits. :mod:`anyamqp.protocol.channel` decides."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import anyio

from anyamqp.core.host import ChannelHost
from anyamqp.core.link_channel import LinkChannel
from anyamqp.core.waiting import answered_within
from anyamqp.errors import (
    AnyamqpError,
    ChannelLimitReached,
    ConnectionLost,
)
from anyamqp.net.event_loop import next_news
from anyamqp.protocol.blame import Tries
from anyamqp.protocol.channel import ChannelCore
from anyamqp.protocol.getting import abandon
from anyamqp.protocol.lifecycle.channel import ChannelEvent, ChannelState
from anyamqp.protocol.lifecycle.states import State
from anyamqp.protocol.ports import ChannelOwner
from anyamqp.protocol.requests import Purpose, Request
from anyamqp.wire.basic import Received
from anyamqp.wire.frames import describe
from anyamqp.wire.methods import Method


class Answer(NamedTuple):
    """The answer to a request.

    Attributes:
        reply: the reply.
        content: the content that came with it; only basic.get-ok has one.
        link_channel: the channel on the link on which the request was sent.
    """

    reply: Method
    content: Received | None
    link_channel: LinkChannel


class LogicalChannel:
    """A channel that survives reconnects.

    An error that the broker finds in a request closes the channel for good (AMQP 0-9-1, 4.9: soft errors). The request
    raises that error, all later ones raise :class:`ChannelClosed`.

    Requests wait while the connection is away, and are sent again after a loss. They raise :class:`RequestTimeout`
    after ``request_timeout``, :class:`ChannelClosed`, :class:`ConnectionClosed`, :class:`InvalidArgument` if AMQP
    cannot carry an argument, and the :class:`ReplyError` that the broker sends.

    Args:
        host: the connection.
        owner: gets the events of the channel.

    Attributes:
        core: the channel's decisions.
    """

    def __init__(self, host: ChannelHost, owner: ChannelOwner | None) -> None:
        self.core: ChannelCore[LinkChannel] = host.new_channel(owner)
        self._host = host
        self._owner = owner

    def __str__(self) -> str:
        return self.core.name

    @property
    def state(self) -> State:
        """The state that users see."""
        return self.core.state.public

    @property
    def link_channel(self) -> LinkChannel | None:
        """The channel on the current link; None while it is on no link."""
        return self.core.link_channel

    def require_here(self) -> None:
        """Refuse callers on another event loop or in another thread.

        Raises:
            InvalidUse: the caller is not on the event loop of the connection.
        """
        self._host.loop.require_here("a channel")

    # --- life cycle -------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Register the channel, and wait until it is open.

        Raises:
            ChannelLimitReached: no channel number is free.
            RequestTimeout: opening took longer than ``request_timeout``.
            ConnectionClosed: the connection is closed.
            ReplyError: the broker refused a request of the channel's setup, such as consuming from a missing queue.
        """
        self.register()
        await self.wait_usable()

    async def wait_usable(self) -> None:
        """Wait until the channel is open.

        Raises:
            RequestTimeout: opening took longer than ``request_timeout``.
            ConnectionClosed: the connection is closed.
            ReplyError: the broker refused a request of the channel's setup.
            ChannelLimitReached: no channel number is free.
            ChannelClosed: the channel was closed for another reason.
        """
        opened = self.wait_open(is_opening=True)
        await answered_within(self._host.request_timeout, opened, "opening a channel", lambda: self._host.progress)

    def register(self, *, delay: float = 0.0) -> None:
        """Have the connection open the channel as soon as it can, and after every reconnect.

        Args:
            delay: seconds before the channel is opened on the current link.

        Raises:
            ChannelLimitReached: no channel number is free.
            ConnectionClosed: the connection is closed.
        """
        self._host.register(self.core, delay=delay)

    def renew(self, *, delay: float = 0.0) -> AnyamqpError | None:
        """Register a fresh channel in place of a closed one.

        Args:
            delay: seconds to wait before it is opened on the current link.

        Returns:
            The error if the connection refuses it.
        """
        self.core = self._host.new_channel(self._owner)
        try:
            self.register(delay=delay)
        except AnyamqpError as refused:
            return refused
        return None

    async def open_within(self, seconds: float) -> None:
        """As :meth:`open`, but wait for a free channel number.

        Args:
            seconds: the longest wait for a number.

        Raises:
            ChannelLimitReached: no number was free in time.
        """
        deadline = anyio.current_time() + seconds
        while True:
            try:
                self.register()
                break
            except ChannelLimitReached:
                with anyio.CancelScope(deadline=deadline) as scope:
                    await self._host.wait_forgotten()
                if scope.cancelled_caught:
                    raise
        await self.wait_usable()

    async def wait_open(self, *, is_opening: bool = False) -> None:
        """Wait until the channel is usable: see :meth:`ChannelCore.check_usable`.

        Raises:
            InvalidUse: the channel was never registered.
            ChannelClosed, ConnectionClosed: it will never be usable again.
        """
        core = self.core
        while not core.check_usable(is_opening=is_opening):
            await next_news(core.wakers)

    async def close(self) -> None:
        """Close the channel and wait for the broker's close-ok, until :meth:`Link.close_deadline`."""
        core = self.core
        core.take(ChannelEvent.CLOSE)
        with anyio.CancelScope(deadline=core.close_deadline(self._host.close_timeout)):
            while core.state is ChannelState.CLOSING:
                await next_news(core.wakers)

    def begin_close(self) -> None:
        """Send channel.close without waiting; the number is free again when the broker's close-ok comes."""
        self.core.take(ChannelEvent.CLOSE)

    # --- requests ---------------------------------------------------------------------------------------------------

    async def request(
        self,
        method: Method,
        *,
        purpose: Purpose = Purpose.CALLER,
        repeat: bool = True,
    ) -> Answer:
        """Send a method and wait for its reply.

        Args:
            method: the method.
            purpose: the use of the reply.
            repeat: whether to send the method again after a loss.

        Raises:
            ConnectionLost: the link was lost before the reply, and the method may not be sent again.
            InvalidUse: the channel was never registered.
        """
        self.require_here()
        answer = self._until_answered(method, purpose, repeat=repeat)
        return await answered_within(self._host.request_timeout, answer, describe(method), lambda: self._host.progress)

    async def last_request(self, method: Method) -> None:
        """Send a request before the end of the channel, and wait for its reply as :meth:`close` does.

        Raises nothing: the caller may be handling another error, and a link or channel that ends makes the request
        unnecessary.
        """
        link_channel = self.link_channel
        if link_channel is None:
            return
        link, number = link_channel.link, link_channel.number
        link.close_sent(number)
        with (
            anyio.CancelScope(deadline=link.close_deadline(self._host.close_timeout)),
            contextlib.suppress(AnyamqpError),
        ):
            await self._until_answered(method, Purpose.FAREWELL, repeat=False, pinned=link_channel)

    async def _until_answered(
        self, method: Method, purpose: Purpose, *, repeat: bool, pinned: LinkChannel | None = None
    ) -> Answer:
        tries = Tries(repeat=repeat)
        while True:
            await self.wait_open()
            if pinned is not None and pinned.is_stale:
                raise ConnectionLost(f"{describe(method)}: the link that it belongs to was lost")
            request = self.core.send(method, purpose)
            link_channel = self.link_channel
            try:
                await _until_over(request)
            except BaseException:
                abandon(request, link_channel)
                raise
            if request.reply is not None and link_channel is not None:
                return Answer(request.reply, request.content, link_channel)
            if (error := tries.failed(request)) is not None:
                raise error

    # --- publishing -------------------------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether the outgoing buffer is full."""
        link_channel = self.core.link_channel
        return link_channel is not None and link_channel.link.is_full

    async def wait_not_full(self, scope: anyio.CancelScope) -> bool:
        """Wait until the outgoing buffer has room, or the link has ended.

        Args:
            scope: limits the wait. The caller sets its deadline, and may cancel it.

        Returns:
            False if the scope ended the wait.
        """
        link_channel = self.core.link_channel
        if link_channel is not None:
            with scope:
                await link_channel.link.wait_not_full()
        return not scope.cancelled_caught

    @property
    def is_writable(self) -> bool:
        """Whether a publish can be sent now: the broker accepts it, and the outgoing buffer has room."""
        return self.core.can_publish and not self.is_full

    async def wait_writable(self, request: str) -> LinkChannel:
        """Wait until :attr:`is_writable`.

        Args:
            request: the caller's request, for the error.

        Returns:
            The channel on the current link. It is valid only until the next await.

        Raises:
            RequestTimeout, ChannelClosed, ConnectionClosed: the channel did not become writable.
        """
        return await answered_within(
            self._host.request_timeout, self._until_writable(), request, lambda: self._host.progress
        )

    async def _until_writable(self) -> LinkChannel:
        while True:
            await self.wait_open()
            link_channel = self.link_channel
            if link_channel is None or not self.core.can_publish:
                await next_news(self.core.wakers)
            elif link_channel.link.is_full:
                await link_channel.link.wait_not_full()
            else:
                return link_channel


async def _until_over(request: Request) -> None:
    waiter = anyio.Event()
    request.waiter = waiter
    if not request.is_over:
        await waiter.wait()
