"""One broker under test, embedded or RabbitMQ, as a conformance test sees it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeAlias

import anyio
import anyio.abc

import anyamqp
from anyamqp import Channel, Connection, ReplyError
from anyamqp.testing.embedded.versions import Rules
from anyamqp.wire import methods
from support.administration import Administrator
from support.rawpeer import RawPeer, raw_peer

Dial: TypeAlias = Callable[[object], Awaitable[anyio.abc.ByteStream]]
"""Opens a transport to the broker."""

LIMIT = 60.0
"""Seconds for a test."""


class Refusal(NamedTuple):
    """How a broker refuses a request.

    Attributes:
        closes: what it closes: ``"channel"`` or ``"connection"``.
        code: its reply code.
        text: its reply text, as it came.
    """

    closes: str
    code: int
    text: str


class Target:
    """A broker under test.

    Args:
        url: where it is; the user may do everything.
        dial: opens a transport to it.
        rules: how a RabbitMQ of its version behaves.
        administrator: adds users and virtual hosts.

    Attributes:
        is_embedded: whether it is the embedded broker; only the short list of intended differences may ask.
    """

    def __init__(self, url: str, dial: Dial, rules: Rules, administrator: Administrator, *, is_embedded: bool) -> None:
        self.url: str = url
        self.dial: Dial = dial
        self.rules: Rules = rules
        self.administrator: Administrator = administrator
        self.is_embedded: bool = is_embedded

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Connection, None]:
        """A connection of this project's client."""
        with anyio.fail_after(LIMIT):
            async with anyamqp.connect(self.url, dial=self.dial) as connection:
                yield connection

    @asynccontextmanager
    async def channel(self) -> AsyncGenerator[Channel, None]:
        """A channel on a connection of its own."""
        async with self.connection() as connection, connection.channel() as channel:
            yield channel

    @asynccontextmanager
    async def raw(self, *channels: int, user: str = "guest", virtual_host: str = "/") -> AsyncGenerator[RawPeer, None]:
        """A client that sends only the frames of the test, after its handshake, with channels of these numbers.

        Args:
            channels: numbers of channels to open.
            user: its user, whose password is its name.
            virtual_host: the virtual host that it opens.
        """
        with anyio.fail_after(LIMIT):
            async with raw_peer(
                await self.dial(None), *channels, response=f"\0{user}\0{user}", virtual_host=virtual_host
            ) as peer:
                yield peer

    @asynccontextmanager
    async def logged_in(self, user: str = "guest") -> AsyncGenerator[RawPeer, None]:
        """A client that has logged in and not opened its connection yet."""
        with anyio.fail_after(LIMIT):
            async with await self.dial(None) as stream:
                peer = RawPeer(stream)
                await peer.log_in(response=f"\0{user}\0{user}")
                await peer.tune()
                yield peer

    async def refusal(self, *requests: methods.Method, user: str = "guest") -> Refusal:
        """How the broker refuses the last of these requests, which are sent on a channel of their own."""
        async with self.raw(1, user=user) as peer:
            await peer.send(1, *requests)
            while True:
                frame = await peer.frame()
                if isinstance(frame.payload, methods.Channel.Close):
                    return Refusal("channel", frame.payload.reply_code, frame.payload.reply_text)
                if isinstance(frame.payload, methods.Connection.Close):
                    return Refusal("connection", frame.payload.reply_code, frame.payload.reply_text)


async def error_of(request: Awaitable[object]) -> ReplyError:
    """The error with which the broker refuses a request."""
    try:
        await request
    except ReplyError as error:
        return error
    raise AssertionError("the broker does not refuse it")
