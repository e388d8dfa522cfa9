"""A scripted broker. It records everything that a client sends; a test decides how and when it answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

import anyio
import anyio.abc

import anyamqp
from anyamqp import Connection, Message, ReconnectPolicy
from anyamqp.testing.memory import MemoryStream, stream_pair
from anyamqp.wire import methods
from anyamqp.wire.basic import Received
from anyamqp.wire.decoder import Decoder
from anyamqp.wire.frames import Frame, ProtocolHeader, encode_content, encode_method
from anyamqp.wire.methods import Method
from anyamqp.wire.receiving import Header

URL: Final = "amqp://guest:guest@memory/?heartbeat=0"
FRAME_MAX: Final = 131072
STEADY: Final = ReconnectPolicy(first=0.0, initial=1.0, factor=1.0, maximum=1.0, jitter=0.0)
"""Dial at once, then every second."""
EAGER: Final = ReconnectPolicy(initial=0.001, factor=1.0, maximum=0.001, jitter=0.0)
"""For tests in real time."""

M = TypeVar("M", bound=Method)


@dataclass(frozen=True)
class Sent:
    """A publish that the broker received.

    Attributes:
        at: when it came, in seconds from the start of the test.
        channel: the channel that it came on.
        tag: its delivery tag, for a confirm.
    """

    at: float
    channel: int
    tag: int
    method: methods.Basic.Publish
    message: Message


@dataclass
class Habits:
    """The broker's automatic answers on every link.

    Attributes:
        silent_on: channels on which it answers nothing.
        silent_to: methods that it does not answer.
        starts: whether it answers a protocol header with connection.start.
    """

    silent_on: set[int] = field(default_factory=set[int])
    silent_to: set[type[Method]] = field(default_factory=set[type[Method]])
    starts: bool = True


class ServedLink:
    """The broker's end of one link. It answers requests as if they succeeded, and records everything else.

    Attributes:
        published: the publishes, in order.
        methods: all methods with their channels, in order; publishes are among them.
        flow_oks: the client's answers to channel.flow.
    """

    def __init__(self, stream: MemoryStream, start: float, habits: Habits) -> None:
        self.published: list[Sent] = []
        self.methods: list[tuple[int, Method]] = []
        self.flow_oks: list[bool] = []
        self._stream = stream
        self._start = start
        self._habits = habits
        self._unanswered: list[tuple[int, Method, Method]] = []
        """Requests with their channels and the answers that they would have got."""
        self._tags: dict[int, int] = {}
        self._incoming: dict[int, tuple[methods.Basic.Publish, list[Header], list[bytes]]] = {}

    # Sending.

    async def tell(self, channel: int, *methods: Method) -> None:
        """Send methods, in one piece."""
        await self._stream.send(b"".join(encode_method(channel, method) for method in methods))

    async def ack(self, tag: int, *, multiple: bool = False, channel: int | None = None) -> None:
        """Confirm, by default on the channel of the last publish."""
        await self.tell(channel or self._publishing, methods.Basic.Ack(tag, multiple))

    async def nack(self, tag: int, *, multiple: bool = False, channel: int | None = None) -> None:
        """Refuse, by default on the channel of the last publish."""
        await self.tell(channel or self._publishing, methods.Basic.Nack(tag, multiple, requeue=False))

    async def give_back(self, *publishes: Sent) -> None:
        """Return publishes as unroutable, in this order."""
        for sent in publishes:
            method = methods.Basic.Return(312, "NO_ROUTE", sent.method.exchange, sent.method.routing_key)
            await self.tell_content(sent.channel, method, sent.message)

    async def deliver(self, message: Message, *, tag: int = 1, channel: int = 1) -> None:
        """Deliver a message to the channel's consumer."""
        method = methods.Basic.Deliver("by hand", tag, redelivered=False, exchange="", routing_key="q")
        await self.tell_content(channel, method, message)
        await settled()

    async def tell_content(self, channel: int, method: Method, message: Message) -> None:
        """Send a method with its content, in one piece."""
        await self._stream.send(b"".join(encode_content(channel, method, message, FRAME_MAX)))

    async def answer_all(self) -> None:
        """Answer all unanswered requests."""
        await self.answer_to(Method)

    async def answer_to(self, *kinds: type[Method]) -> None:
        """Answer the unanswered requests of these kinds."""
        waiting = [one for one in self._unanswered if isinstance(one[1], kinds)]
        self._unanswered = [one for one in self._unanswered if not isinstance(one[1], kinds)]
        for channel, _, answer in waiting:
            await self.tell(channel, answer)
        await settled()

    async def block(self, reason: str = "low on memory") -> None:
        await self.tell(0, methods.Connection.Blocked(reason))
        await settled()

    async def unblock(self) -> None:
        await self.tell(0, methods.Connection.Unblocked())
        await settled()

    async def close_channel(self, close: methods.Channel.Close, channel: int | None = None) -> None:
        """Close a channel, by default that of the last publish."""
        await self.tell(channel or self._publishing, close)
        await settled()

    async def flow(self, channel: int, *, active: bool) -> None:
        await self.tell(channel, methods.Channel.Flow(active))
        await settled()

    async def reset(self) -> None:
        self._stream.reset()
        await settled()

    # Received.

    def bodies(self, channel: int | None = None) -> list[bytes]:
        """The published bodies, on one channel or on all."""
        return [sent.message.body for sent in self.published if channel in (None, sent.channel)]

    def sent(self, kind: type[M], channel: int | None = None) -> list[M]:
        """The methods of one kind, on one channel or on all."""
        return [method for number, method in self.methods if channel in (None, number) and isinstance(method, kind)]

    @property
    def _publishing(self) -> int:
        return self.published[-1].channel if self.published else 1

    # Answering.

    async def serve(self) -> None:
        decoder = Decoder(FRAME_MAX, as_server=True)
        async with self._stream:
            while True:
                try:
                    decoder.feed(await self._stream.receive())
                except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                    return
                for frame in decoder.frames():
                    await self._take(frame)

    async def _take(self, frame: Frame) -> None:
        number, payload = frame
        if isinstance(payload, Header):
            self._incoming[number][1].append(payload)
            self._note_if_whole(number)
        elif isinstance(payload, bytes):
            self._incoming[number][2].append(payload)
            self._note_if_whole(number)
        elif isinstance(payload, ProtocolHeader):
            if self._habits.starts:
                await self.tell(0, methods.Connection.Start(0, 9, {"product": "by hand"}, "PLAIN", "en_US"))
        elif isinstance(payload, Method):
            self.methods.append((number, payload))
            await self._take_method(number, payload)

    async def _take_method(self, number: int, method: Method) -> None:
        if isinstance(method, methods.Basic.Publish):
            self._incoming[number] = method, [], []
        elif isinstance(method, methods.Channel.FlowOk):
            self.flow_oks.append(bool(method.active))
        elif isinstance(method, methods.Channel.Open):
            self._tags[number] = 0
        answer = _answer(method)
        if answer is not None:
            if number in self._habits.silent_on or type(method) in self._habits.silent_to:
                self._unanswered.append((number, method, answer))
            else:
                await self.tell(number, answer)

    def _note_if_whole(self, number: int) -> None:
        method, (header,), pieces = self._incoming[number]
        body = b"".join(pieces)
        if len(body) == header.body_size:
            self._tags[number] += 1
            at = round(anyio.current_time() - self._start, 6)
            message = Received(body, header.encoded)
            self.published.append(Sent(at, number, self._tags[number], method, message))


def _answer(method: Method) -> Method | None:
    """The answer to a request that succeeds."""
    if isinstance(method, methods.Basic.Consume):
        return methods.Basic.ConsumeOk(method.consumer_tag)
    if isinstance(method, methods.Basic.Cancel):
        return methods.Basic.CancelOk(method.consumer_tag)
    if isinstance(method, methods.Queue.Declare):
        return methods.Queue.DeclareOk(method.queue, 0, 0)
    return _ANSWERS.get(type(method))


_ANSWERS: dict[type[Method], Method] = {
    methods.Connection.StartOk: methods.Connection.Tune(2047, FRAME_MAX, 0),
    methods.Connection.Open: methods.Connection.OpenOk(),
    methods.Connection.Close: methods.Connection.CloseOk(),
    methods.Channel.Open: methods.Channel.OpenOk(),
    methods.Channel.Close: methods.Channel.CloseOk(),
    methods.Confirm.Select: methods.Confirm.SelectOk(),
    methods.Exchange.Declare: methods.Exchange.DeclareOk(),
    methods.Queue.Bind: methods.Queue.BindOk(),
    methods.Queue.Delete: methods.Queue.DeleteOk(),
    methods.Basic.Get: methods.Basic.GetEmpty(),
    methods.Basic.Qos: methods.Basic.QosOk(),
    methods.Tx.Select: methods.Tx.SelectOk(),
    methods.Tx.Commit: methods.Tx.CommitOk(),
    methods.Tx.Rollback: methods.Tx.RollbackOk(),
}


class HandBroker:
    """The scripted broker of a test.

    Attributes:
        links: all links so far.
        habits: the broker's automatic answers.
        is_refusing: whether it refuses new links.
    """

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self.links: list[ServedLink] = []
        self.habits: Habits = Habits()
        self.is_refusing = False
        self._tasks = tasks
        self._start = anyio.current_time()

    @property
    def link(self) -> ServedLink:
        """The current link."""
        return self.links[-1]

    @property
    def published(self) -> list[Sent]:
        """The publishes on all links together."""
        return [sent for link in self.links for sent in link.published]

    def bodies(self) -> list[bytes]:
        return [sent.message.body for sent in self.published]

    async def dial(self, _: object) -> anyio.abc.ByteStream:
        await settled()
        return self.serve()

    def serve(self) -> anyio.abc.ByteStream:
        """The client's end of a new link.

        Raises:
            ConnectionRefusedError: the broker refuses new links.
        """
        if self.is_refusing:
            raise ConnectionRefusedError(111, "Connection refused")
        ours, theirs = stream_pair()
        self.links.append(ServedLink(ours, self._start, self.habits))
        self._tasks.start_soon(self.links[-1].serve)
        return theirs


async def settled() -> None:
    """Wait until all sent bytes have been handled. Takes no virtual time."""
    await anyio.wait_all_tasks_blocked()


@asynccontextmanager
async def connected(
    *, reconnect: ReconnectPolicy = STEADY, **changes: Any
) -> AsyncGenerator[tuple[HandBroker, Connection], None]:
    """A scripted broker and a connection to it.

    Args:
        reconnect: the connection's reconnect policy.
        changes: other settings that differ from the defaults.
    """
    settings = replace(anyamqp.Settings.from_urls(URL), reconnect=reconnect, **changes)
    async with anyio.create_task_group() as tasks:
        broker = HandBroker(tasks)
        async with anyamqp.connect(settings, dial=broker.dial) as connection:
            yield broker, connection
        tasks.cancel_scope.cancel()
