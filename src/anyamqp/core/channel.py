"""The core of a channel: requests, and moving from link to link.

A channel is attached to a link and detached from it again; in between it is the same object. A call on a detached
channel waits on the channel's own machine. Attaching sends everything that brings the channel back into shape (open,
qos, confirm mode, consumers) in one go and without an await, so whoever attaches first is the only one, and there is
no lock. Replies come in the order of the requests (AMQP 0-9-1, 4.2.3), so a queue of requests is all the matching
there is, and a cancelled caller leaves nothing behind: its reply is taken and dropped.

What a channel is for is its owner's matter: :class:`anyamqp.channel.Channel` for the user's own requests,
:class:`anyamqp.publisher.Publisher`, :class:`anyamqp.consumer.Consumer` and :class:`anyamqp.rpc.RpcClient`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import anyio

from anyamqp.core.journal import Journal
from anyamqp.core.link_channel import LinkChannel
from anyamqp.core.waiting import Signal
from anyamqp.errors import (
    AnyamqpError,
    ChannelClosed,
    ChannelLimitReached,
    CloseFacts,
    CloseFrame,
    ConnectionClosed,
    ConnectionLost,
    InvalidArgument,
    InvalidUse,
    ReplyError,
    RequestTimeout,
    Side,
    copy_of,
    is_unexplained_close,
    reason_of,
)
from anyamqp.net.event_loop import Loop
from anyamqp.net.link import Link
from anyamqp.net.timers import Timer
from anyamqp.protocol.blame import CLOSES_BEFORE_BLAME
from anyamqp.protocol.events import Confirm, Content
from anyamqp.protocol.lifecycle import CHANNEL, ChannelEvent, State, Transition
from anyamqp.protocol.requests import Purpose, Request, Unanswered
from anyamqp.wire import methods
from anyamqp.wire.basic import Received, Route
from anyamqp.wire.frames import describe, method_name
from anyamqp.wire.methods import Method

T = TypeVar("T")


class Recorder(Protocol):
    """Remembers what was declared, to declare it again."""

    def record(self, channel: LogicalChannel, request: Method, reply: Method) -> None:
        """A request that changes the topology succeeded."""
        ...

    def first_name(self, queue: str) -> str:
        """The name under which the user first saw a queue; it stays when the broker gives the queue another."""
        ...

    def present_name(self, queue: str) -> str:
        """The present name of a queue that has this name now or had it first."""
        ...

    def as_sent(self, request: Method) -> Method:
        """The request with the present name of its queue."""
        ...

    def is_stream(self, queue: str) -> bool:
        """Whether a queue was declared as a stream on this connection."""
        ...

    def consumer_started(self, queue: str) -> None:
        """A consumer of this connection consumes from the queue."""
        ...

    def consumer_ended(self, queue: str) -> None:
        """It does not any more: an auto-delete queue went with the last one."""
        ...


class Block(NamedTuple):
    """The broker takes no publishes: why, and since when on the event loop's clock."""

    reason: str
    since: float


class ChannelHost(Protocol):
    """What a channel and its owner need of their connection."""

    @property
    def journal(self) -> Journal: ...

    @property
    def recorder(self) -> Recorder: ...

    @property
    def link_number(self) -> int: ...

    @property
    def block(self) -> Block | None:
        """Set while the broker takes no publishes."""
        ...

    @property
    def progress(self) -> str:
        """How the connection does, for the text of an error that tells of a time-out."""
        ...

    @property
    def request_timeout(self) -> float | None: ...

    @property
    def close_timeout(self) -> float: ...

    @property
    def loop(self) -> Loop: ...

    @property
    def max_message_size(self) -> int: ...

    @property
    def lock_grace(self) -> float: ...

    def next_channel_id(self) -> int:
        """A number to tell a channel apart in logs."""
        ...

    def register(self, channel: LogicalChannel, *, delay: float = 0.0) -> None:
        """Keep the channel until :meth:`forget`, and attach it whenever a link is ready.

        Args:
            channel: the channel.
            delay: seconds until it is attached to the present link, if that is ready.

        Raises:
            ChannelLimitReached: as many are open as was agreed.
            ConnectionClosed: the connection is closed.
        """
        ...

    def forget(self, channel: LogicalChannel) -> None:
        """The channel is closed."""
        ...

    def will_declare(self, queue: str) -> bool:
        """Whether a queue that is missing is declared once more in the recovery that is under way."""
        ...

    async def wait_forgotten(self) -> None:
        """Wait until some channel is closed, or its number free."""
        ...

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call a function in so many seconds, unless the connection is closed before."""
        ...


class ChannelOwner(Protocol):
    """What a channel works for. None of this may raise or wait."""

    @property
    def awaits_answer(self) -> bool:
        """Whether it waits for something of the broker's besides replies to requests."""
        return False

    def setup(self) -> Sequence[Method]:
        """The requests that bring a fresh channel into shape."""
        ...

    def on_opened(self) -> None:
        """The channel is in shape on the present link."""
        ...

    def on_ready(self) -> None:
        """The channel takes publishes, now or again."""
        ...

    def on_contents(self, contents: Sequence[Content], link_channel: LinkChannel) -> None:
        """Deliveries or returns."""
        ...

    def on_confirms(self, confirms: Sequence[Confirm]) -> None:  # noqa: ARG002
        """Confirms, which come to nobody but a publisher."""
        return

    def on_method(self, method: Method) -> None:
        """The broker's basic.cancel."""
        ...

    def on_reply(self, reply: Method) -> None:  # noqa: ARG002
        """The reply to a request of the owner's, who makes none unless he says so."""
        return

    def on_lost(self, error: AnyamqpError | None) -> None:
        """The link is gone, for this reason; None if we closed it."""
        ...

    def on_failed(self, error: AnyamqpError) -> None:
        """The channel is closed for good."""
        ...


class Publishing(Protocol):
    """A publisher, as its connection sees it."""

    @property
    def unconfirmed(self) -> int:
        """Publishes that wait for their outcome."""
        ...

    def on_blocked(self) -> None:
        """The broker takes no publishes."""
        ...

    def on_unblocked(self) -> None:
        """It does again, or the link is gone."""
        ...


class Consuming(Protocol):
    """A consumer, as its connection sees it."""

    @property
    def queue(self) -> str:
        """The present name of the queue."""
        ...

    def fail(self, error: AnyamqpError) -> None:
        """The queue could not be recovered."""
        ...

    def cancel(self) -> None:
        """The connection is about to be closed: have the broker deliver no more, and wait for nothing."""
        ...

    def give_back(self) -> None:
        """Return what was not handed out, which the end of the channel would count as failed. After :meth:`cancel`."""
        ...

    def on_connection_closed(self, error: AnyamqpError) -> None:
        """Nothing will come any more; told also while there is no channel."""
        ...


class Answer(NamedTuple):
    """The answer to a request.

    Attributes:
        reply: the reply.
        content: the content that came with it; only basic.get-ok has one.
        link_channel: where the channel was when the request was sent.
    """

    reply: Method
    content: Received | None
    link_channel: LinkChannel


class LogicalChannel:
    """A channel that survives reconnects.

    An error that the broker finds in a request closes it for good (AMQP 0-9-1, 4.9: soft errors); the request raises
    that error, every later one raises :class:`ChannelClosed`.

    Requests wait while the connection is away, and are sent again if a loss caught them. They raise
    :class:`RequestTimeout` after ``request_timeout``, :class:`ChannelClosed`, :class:`ConnectionClosed`,
    :class:`InvalidArgument` for what AMQP cannot carry, and the :class:`ReplyError` that the broker names.

    Args:
        host: the connection.
        owner: what the channel works for.
    """

    def __init__(self, host: ChannelHost, owner: ChannelOwner | None) -> None:
        self._host = host
        self._owner = owner
        self._id = host.next_channel_id()
        self._lifecycle = CHANNEL.begin()
        self._changed = Signal()
        self._abandoned: set[Request] = set()
        """Requests whose caller was cancelled: nobody takes the reply."""
        self._is_registered = False
        self._closing_on: Link | None = None
        """Where channel.close was sent."""
        self.error: AnyamqpError | None = None
        """What closed it; None if nothing but its owner did."""
        self.has_been_open: bool = False
        """Whether it was open on the present link, so that an error is not for the requests that open it."""
        self.link_channel: LinkChannel | None = None
        """Where the channel is now; None while it is on no link."""

    def __str__(self) -> str:
        return f"channel {self._id}"

    @property
    def state(self) -> State:
        """Where its life cycle is."""
        return self._lifecycle.state

    @property
    def is_closed(self) -> bool:
        """Whether it is closed or closing."""
        return self.state in (State.CLOSING, State.CLOSED)

    def require_here(self) -> None:
        """Refuse callers on another event loop or in another thread.

        Raises:
            InvalidUse: the caller is one.
        """
        self._host.loop.require_here("a channel")

    # --- life cycle -------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Begin to live, and wait until the channel is open.

        Raises:
            ChannelLimitReached: as many are open as was agreed.
            RequestTimeout: it took longer than ``request_timeout``.
            ConnectionClosed: the connection is closed.
            ReplyError: the broker refused what the channel is for, such as consuming from a queue that is not there.
        """
        self.register()
        await self.wait_usable()

    async def wait_usable(self) -> None:
        """Wait until the channel is open.

        Raises:
            RequestTimeout: it took longer than ``request_timeout``.
            ConnectionClosed: the connection is closed.
            ReplyError: the broker refused what the channel is for.
            ChannelLimitReached: as many are open as was agreed.
            ChannelClosed: the channel was closed otherwise.
        """
        try:
            await self._within_deadline(self.wait_open(), "opening a channel")
        except ChannelClosed:
            if isinstance(self.error, ReplyError | ChannelLimitReached):
                raise self.error from None
            raise

    def register(self, *, delay: float = 0.0) -> None:
        """Begin to live: the connection opens the channel when it can, and after every reconnect.

        Args:
            delay: seconds to wait before it is opened on the present link.
        """
        if self._is_registered:
            raise InvalidUse("a channel is entered once; make a new one with connection.channel()")
        self._is_registered = True
        self._host.register(self, delay=delay)

    async def open_within(self, seconds: float) -> None:
        """:meth:`open`, waiting for a free number for at most so many seconds.

        Raises:
            ChannelLimitReached: none was free in time.
        """
        deadline = anyio.current_time() + seconds
        while True:
            try:
                self.register()
                break
            except ChannelLimitReached:
                self._is_registered = False
                with anyio.CancelScope(deadline=deadline) as scope:
                    await self._host.wait_forgotten()
                if scope.cancelled_caught:
                    raise
        await self.wait_usable()

    async def wait_open(self) -> None:
        """Wait until the channel is usable.

        Raises:
            ChannelClosed, ConnectionClosed: it never will be (again).
        """
        while self.state not in (State.OPEN, State.BLOCKED):
            if self.state in (State.CLOSING, State.CLOSED):
                raise self.closed_error()
            await self._changed.wait()

    async def wait_settled(self, within: float) -> None:
        """Wait until the channel is open on the present link, or closed, or has lost that link.

        Args:
            within: seconds that the broker has for its answer.

        Raises:
            RequestTimeout: the broker did not answer in time.
        """
        await self._within(within, self._until_settled(), "opening a channel")

    async def close(self) -> None:
        """Close the channel and wait for the broker's close-ok, as :meth:`Link.close_deadline` says."""
        self.begin_close()
        if self._closing_on is None:
            return
        with anyio.CancelScope(deadline=self._closing_on.close_deadline(self._host.close_timeout)):
            while self.state is State.CLOSING:
                await self._changed.wait()

    def begin_close(self) -> None:
        """Send channel.close and wait for nothing; the number is free again when the broker's close-ok comes."""
        if self.state in (State.CLOSING, State.CLOSED):
            return
        self._fire(ChannelEvent.CLOSE)
        link_channel = self.link_channel
        if link_channel is not None and link_channel.link.is_open:
            link_channel.release()
            self._closing_on = link_channel.link
            link_channel.link.close_channel(link_channel.number)
        else:
            self._finish(ChannelEvent.CLOSED)
        self._fail(self._detach())

    def attach(self, link: Link) -> None:
        """Open the channel on a link, and bring it into shape there.

        Raises:
            ChannelLimitReached: as many are open as was agreed.
            InvalidArgument: a request that brings it into shape does not fit a frame of the link.
        """
        setup: list[Method] = [] if self._owner is None else list(self._owner.setup())
        number = link.attach(self, Purpose.SETUP if setup else Purpose.LAST_OF_SETUP)
        self.link_channel = LinkChannel(link, number, self._host.journal.stale_ack, self._host.later)
        try:
            for method in setup:
                self._send(method, Purpose.LAST_OF_SETUP if method is setup[-1] else Purpose.SETUP)
        except BaseException:
            self._detach()
            link.session.close_channel(number)
            link.flush()
            raise

    def shut(self, error: AnyamqpError) -> None:
        """The connection is closed, or something that the channel cannot do without is gone."""
        if self.state is State.CLOSING:
            self._finish(ChannelEvent.CLOSED)
        elif self.state is not State.CLOSED:
            link_channel = self.link_channel
            if link_channel is not None and link_channel.link.is_open:
                link_channel.release()
                link_channel.link.close_channel(link_channel.number)
            unanswered = self._detach()
            if isinstance(error, ConnectionClosed) and error.__cause__ is None:
                # The user is leaving, which is no failure.
                self._fire(ChannelEvent.CLOSE)
                self._end(error, ChannelEvent.CLOSED, unanswered)
            else:
                self._end(error, ChannelEvent.FAILED, unanswered)

    def refuse(self, error: ReplyError) -> None:
        """Close the channel for what the broker sent on it."""
        link_channel, unanswered = self.link_channel, self._detach()
        if link_channel is not None and link_channel.link.is_open:
            error.close = CloseFacts(None, CloseFrame(error.code, error.text, None), Side.CLIENT)
            link_channel.link.close_channel(link_channel.number, error)
        self._end(error, ChannelEvent.FAILED, unanswered)

    def closed_error(self) -> AnyamqpError:
        """What a call on the closed channel raises."""
        if isinstance(self.error, ConnectionClosed):
            return copy_of(self.error)
        closed = ChannelClosed(f"the channel is closed: {self.error}" if self.error else "the channel is closed")
        closed.close = self.error.close if isinstance(self.error, ReplyError) else None
        closed.__cause__ = self.error
        return closed

    # --- requests ---------------------------------------------------------------------------------------------------

    async def request(
        self,
        method: Method,
        *,
        purpose: Purpose = Purpose.CALLER,
        repeat: bool = True,
        pinned: LinkChannel | None = None,
    ) -> Answer:
        """Send a method and wait for its reply.

        Args:
            method: the method.
            purpose: for whom the reply is besides the caller.
            repeat: whether to send it again after a loss.
            pinned: send it there or nowhere.

        Raises:
            ConnectionLost: it may not be repeated, and a loss caught it.
        """
        if not self._is_registered:
            raise InvalidUse("a channel works inside its block: async with connection.channel() as channel")
        self.require_here()
        answered = self._until_answered(method, purpose, repeat=repeat, pinned=pinned)
        return await self._within_deadline(answered, describe(method))

    async def last_request(self, method: Method) -> None:
        """Send a request that is part of leaving, and wait for its reply as :meth:`close` does.

        Raises nothing: what the caller leaves for matters more, and a link or channel that ends needs no goodbye.
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

    def ask(self, method: Method) -> None:
        """Send a method for the owner, on a channel that is on a link; the owner gets the reply. A loss drops it."""
        self._send(method, Purpose.OWNER)

    def tell(self, method: Method) -> None:
        """Send a method that has no answer, on a channel that is open on a link."""
        link_channel = self.link_channel
        if link_channel is not None:
            link_channel.link.session.send(link_channel.number, method)
            link_channel.link.flush()

    async def replay(self, requests: Sequence[Method], on_reply: Callable[[Method], None], *, within: float) -> None:
        """Send requests one behind the other without waiting in between, for recovery.

        Args:
            requests: the requests.
            on_reply: called with each reply, in order.
            within: seconds that the broker has for an answer.

        Raises:
            ReplyError: the broker refused one; those before it succeeded, none after it was done.
            InvalidArgument: one cannot be sent on this link; those before it succeeded, none after it was sent.
            ConnectionLost: the link died.
            RequestTimeout: the broker did not answer in time.
        """
        sent: list[Request] = []
        unsendable: InvalidArgument | None = None
        for method in requests:
            try:
                sent.append(self._send(method, Purpose.CALLER))
            except Exception as error:  # noqa: BLE001 - it costs this request, not the others
                unsendable = _unsendable(method, error)
                break
        for request in sent:
            if not request.is_over:  # most are: many replies come at a time
                await self._within(within, self._until_over(request), describe(request.method))
            if request.error is not None:
                raise request.error
            if request.reply is None:
                raise ConnectionLost("the link died during recovery")
            on_reply(request.reply)
        if unsendable is not None:
            raise unsendable

    # --- publishing -------------------------------------------------------------------------------------------------

    @property
    def can_publish(self) -> bool:
        """Whether what is published now goes out: open, recovered, not blocked."""
        link_channel = self.link_channel
        return (
            link_channel is not None
            and self._lifecycle.state is State.OPEN
            and link_channel.link.is_ready
            and not link_channel.link.is_blocked
        )

    @property
    def is_writable(self) -> bool:
        """Whether it does, and the outgoing buffer has room."""
        link_channel = self.link_channel
        return link_channel is not None and self.can_publish and not link_channel.link.is_full

    async def wait_writable(self, what: str) -> LinkChannel:
        """Wait until what is published now goes out, and the outgoing buffer has room.

        Args:
            what: what the caller is about to do, for the error.

        Returns:
            Where the channel is. No await between this and the publish, or it may be gone again.

        Raises:
            RequestTimeout, ChannelClosed, ConnectionClosed: it does not come to that.
        """
        return await self._within_deadline(self._until_writable(), what)

    def publish(self, route: Route, properties: bytes, body: bytes) -> None:
        """Append a publish to the outgoing buffer; it leaves after :meth:`flush`. Only if :attr:`can_publish`.

        Raises:
            InvalidArgument: the properties do not fit a frame; nothing was appended.
        """
        link_channel = self.link_channel
        if link_channel is None:
            raise InvalidUse("publish on a channel that is on no link")
        link_channel.link.session.publish(link_channel.number, route, properties, body)

    def flush(self, *, is_awaited: bool = False) -> None:
        """Let what was published leave; at once if somebody waits for the answer and there is nothing to wait for."""
        if self.link_channel is not None:
            if is_awaited:
                self.link_channel.link.push()
            else:
                self.link_channel.link.flush()

    def resume(self) -> None:
        """Recovery of the connection is done: whoever owns the channel may send."""
        if self._owner is not None and self.can_publish:
            self._owner.on_ready()
            self._wake()

    # --- what the link tells ----------------------------------------------------------------------------------------

    def on_reply(self, request: Request) -> None:
        reply = request.reply
        if reply is None:
            return
        if isinstance(reply, methods.Basic.GetOk) and self.link_channel is not None:
            self.link_channel.last_tag = reply.delivery_tag
            if request in self._abandoned:
                self._give_back(reply, self.link_channel, request.method)
        if request.purpose is Purpose.DECLARATION:
            self._host.recorder.record(self, request.method, reply)
        elif request.purpose is Purpose.LAST_OF_SETUP:
            self._on_set_up()
        elif request.purpose is Purpose.FAREWELL and self.link_channel is not None:
            self.link_channel.link.close_answered(self.link_channel.number)
        elif request.purpose is Purpose.OWNER and self._owner is not None:
            self._owner.on_reply(reply)
        self._abandoned.discard(request)
        request.finish()

    def on_method(self, method: Method) -> None:
        if isinstance(method, methods.Channel.Flow):
            self._on_flow(active=bool(method.active))
        elif self._owner is not None:
            self._owner.on_method(method)

    def on_contents(self, contents: list[Content]) -> None:
        link_channel = self.link_channel
        if link_channel is None:
            return
        if self._owner is not None:
            method, _ = contents[-1]
            if isinstance(method, methods.Basic.Deliver):
                link_channel.last_tag = method.delivery_tag
            self._owner.on_contents(contents, link_channel)

    @property
    def awaits_answer(self) -> bool:
        return self.state is State.CLOSING or (self._owner is not None and self._owner.awaits_answer)

    def on_confirms(self, confirms: list[Confirm]) -> None:
        if self._owner is not None:
            self._owner.on_confirms(confirms)

    def on_closed(self, error: ReplyError, unanswered: Unanswered) -> None:
        self._detach()
        self._end(error, ChannelEvent.FAILED, unanswered)

    def on_released(self) -> None:
        if self.state is State.CLOSING:
            self._finish(ChannelEvent.CLOSED)

    def on_writable(self) -> None:
        self.resume()

    def on_lost(self, error: AnyamqpError | None, unanswered: Unanswered) -> None:
        self._detach()
        self.has_been_open = False
        if self.state is State.CLOSED:
            return
        if self.state is State.CLOSING:
            self._finish(ChannelEvent.CLOSED)
            return
        guilty = self._guilty_of(error, unanswered)
        if guilty is not None and isinstance(error, ReplyError) and self.state not in (State.OPEN, State.BLOCKED):
            # The requests that open the channel cost the link, and would cost the next one as well.
            self._end(error, ChannelEvent.FAILED, unanswered)
            return
        self._fire(ChannelEvent.LOST)
        for request in unanswered:
            if request is guilty and isinstance(error, ReplyError):
                error.request = describe(request.method)
                request.error = error
            elif is_unexplained_close(error):
                request.suspicion = error
            request.finish()
        self._abandoned.clear()
        self._wake()
        if self._owner is not None:
            self._owner.on_lost(error)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _detach(self) -> Unanswered:
        """Leave the link. Returns the requests that it will not answer any more."""
        link_channel, self.link_channel = self.link_channel, None
        if link_channel is None:
            return ()
        link_channel.leave()
        return link_channel.link.session.unanswered(link_channel.number)

    @staticmethod
    def _guilty_of(error: AnyamqpError | None, unanswered: Unanswered) -> Request | None:
        """The request for which the broker closed the whole connection, if it may be one of ours.

        A hard error names the method, not the channel (AMQP 0-9-1, connection.close). Where several channels wait for
        an answer to that method, each takes it for its own, whatever the code: sent again, it would cost the next link
        as well.
        """
        if not isinstance(error, ReplyError) or error.method is None:
            return None
        return next((one for one in unanswered if method_name(one.method) == error.method), None)

    def _on_set_up(self) -> None:
        self.has_been_open = True
        self._fire(ChannelEvent.OPENED)
        if self._owner is not None:
            self._owner.on_opened()
        self.resume()

    def _on_flow(self, *, active: bool) -> None:
        self._fire(ChannelEvent.UNBLOCKED if active else ChannelEvent.BLOCKED)
        self.resume()

    async def _until_writable(self) -> LinkChannel:
        while True:
            await self.wait_open()
            link_channel = self.link_channel
            if link_channel is not None and self.can_publish:
                if not link_channel.link.is_full:
                    return link_channel
                await link_channel.link.wait_not_full()
            else:
                await self._changed.wait()

    async def _until_answered(
        self,
        method: Method,
        purpose: Purpose,
        *,
        repeat: bool,
        pinned: LinkChannel | None,
    ) -> Answer:
        suspicions = 0
        while True:
            await self.wait_open()
            if pinned is not None and pinned.is_stale:
                raise ConnectionLost(f"{describe(method)}: the link that it belongs to was lost")
            request = self._send(method, purpose)
            link_channel = self.link_channel
            try:
                await self._until_over(request)
            except BaseException:
                self._abandon(request, link_channel)
                raise
            if request.error is not None:
                raise request.error
            if request.reply is not None and link_channel is not None:
                return Answer(request.reply, request.content, link_channel)
            if request.suspicion is not None:
                suspicions += 1
                if suspicions >= CLOSES_BEFORE_BLAME:
                    raise request.suspicion
            if not repeat:
                raise ConnectionLost(f"{describe(method)} was in flight when the link died")

    async def _until_settled(self) -> None:
        while self.link_channel is not None and self.state in (State.CONNECTING, State.RECONNECTING):
            await self._changed.wait()

    @staticmethod
    async def _until_over(request: Request) -> None:
        waiter = anyio.Event()
        request.waiter = waiter
        if not request.is_over:
            await waiter.wait()

    def _abandon(self, request: Request, link_channel: LinkChannel | None) -> None:
        """The caller was cancelled: nobody takes the reply."""
        if not request.is_over:
            self._abandoned.add(request)
        elif isinstance(request.reply, methods.Basic.GetOk) and link_channel is not None:
            self._give_back(request.reply, link_channel, request.method)

    @staticmethod
    def _give_back(reply: methods.Basic.GetOk, link_channel: LinkChannel, get: Method) -> None:
        if isinstance(get, methods.Basic.Get) and not get.no_ack:
            link_channel.nack(reply.delivery_tag, multiple=False, requeue=True)

    def _send(self, method: Method, purpose: Purpose) -> Request:
        link_channel = self.link_channel
        if link_channel is None:
            raise InvalidUse(f"{method_name(method)} on a channel that is on no link")
        # Named here, because a request may have waited for this link, on which the broker named the queue anew.
        as_sent = self._host.recorder.as_sent(method)
        request = link_channel.link.session.request(link_channel.number, method, purpose, as_sent=as_sent)
        link_channel.link.flush()
        return request

    def _end(self, error: AnyamqpError, event: ChannelEvent, unanswered: Unanswered) -> None:
        self.error = error
        self._blame(error, unanswered)
        self._finish(event, reason=reason_of(error))
        self._fail(unanswered)
        if self._owner is not None:
            self._owner.on_failed(error)

    @staticmethod
    def _blame(error: AnyamqpError, unanswered: Unanswered) -> None:
        # The broker works a channel's methods off in order, so the one it complains of is the oldest of that name;
        # nothing behind it was done.
        if isinstance(error, ReplyError):
            for request in unanswered:
                if error.method is None or error.method == method_name(request.method):
                    error.request = describe(request.method)
                    request.error = error
                    return

    def _fail(self, unanswered: Unanswered) -> None:
        for request in unanswered:
            request.error = request.error or self.closed_error()
            request.finish()
        self._abandoned.clear()

    def _finish(self, event: ChannelEvent, *, reason: str | None = None) -> None:
        self._fire(event, reason=reason)
        self._host.forget(self)

    def _fire(self, event: ChannelEvent, *, reason: str | None = None) -> None:
        step = self._lifecycle.fire(event)
        if step.source is not step.target:
            now, number = anyio.current_time(), self._host.link_number
            self._host.journal.record(Transition(str(self), step.source, event, step.target, now, reason, number))
            self._wake()

    def _wake(self) -> None:
        self._changed.give()

    async def _within_deadline(self, work: Awaitable[T], what: str) -> T:
        timeout = self._host.request_timeout
        with anyio.move_on_after(timeout):
            return await work
        raise RequestTimeout(f"{what}: no answer within {timeout} s; {self._host.progress}")

    async def _within(self, timeout: float, work: Awaitable[T], what: str) -> T:
        with anyio.move_on_after(timeout):
            return await work
        # In recovery: this becomes the connection's last error, which its progress names.
        raise RequestTimeout(f"{what}: no answer within {timeout} s")


def _unsendable(method: Method, error: Exception) -> InvalidArgument:
    if isinstance(error, InvalidArgument):
        return error
    unsendable = InvalidArgument(f"{describe(method)} cannot be sent: {type(error).__name__}: {error}")
    unsendable.__cause__ = error
    return unsendable
