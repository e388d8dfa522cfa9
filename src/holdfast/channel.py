"""A logical AMQP channel: requests, and moving from link to link.

A channel is attached to a link and detached from it again; in between it is the same object. A call on a detached
channel waits on the channel's own machine. Attaching sends everything that brings the channel back into shape (open,
qos, confirm mode, consumers) in one go and without an await, so whoever attaches first is the only one, and there is
no lock. Replies come in the order of the requests (AMQP 0-9-1, 4.2.3), so a queue of requests is all the matching
there is, and a cancelled caller leaves nothing behind: its reply is taken and dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Protocol, Self, TypeVar

import anyio
from pamqp import commands

from holdfast.errors import (
    ChannelClosed,
    ConnectionClosed,
    ConnectionLost,
    Cure,
    HoldfastError,
    InvalidUse,
    ReplyError,
    RequestTimeout,
)
from holdfast.link import Link
from holdfast.message import Delivery, FieldTable, Message
from holdfast.observe import Journal
from holdfast.protocol.lifecycle import ChannelEvent, State, Transition, channel_lifecycle
from holdfast.protocol.wire import Method, build, field_table, method_name

T = TypeVar("T")


class Queue:
    """A declared queue.

    A queue that the broker named comes back under a new name after a reconnect; :attr:`name` follows.

    Attributes:
        message_count: messages that were ready when it was declared.
        consumer_count: consumers that it had when it was declared.
    """

    __slots__ = ("_declared_name", "_recorder", "consumer_count", "message_count")

    def __init__(self, name: str, message_count: int, consumer_count: int, recorder: Recorder) -> None:
        self._declared_name = name
        self._recorder = recorder
        self.message_count = message_count
        self.consumer_count = consumer_count

    @property
    def name(self) -> str:
        """Its present name."""
        return self._recorder.present_name(self._declared_name)

    def __repr__(self) -> str:
        return f"<Queue {self.name!r}>"


class Recorder(Protocol):
    """Remembers what was declared, to declare it again."""

    def record(self, channel: Channel, request: Method, reply: Method) -> None:
        """A request that changes the topology succeeded."""
        ...

    def first_name(self, queue: str) -> str:
        """The name under which the user first saw a queue; it stays when the broker gives the queue another."""
        ...

    def present_name(self, queue: str) -> str:
        """The present name of a queue that has this name now or had it first."""
        ...


class ChannelHost(Protocol):
    """What a channel needs of its connection."""

    @property
    def journal(self) -> Journal: ...

    @property
    def recorder(self) -> Recorder: ...

    @property
    def link_number(self) -> int: ...

    @property
    def request_timeout(self) -> float | None: ...

    @property
    def close_timeout(self) -> float: ...

    @property
    def lock_grace(self) -> float: ...

    def next_channel_id(self) -> int:
        """A number to tell a channel apart in logs."""
        ...

    def register(self, channel: Channel) -> None:
        """Keep the channel until :meth:`forget`, and attach it whenever a link is ready; at once if one is.

        Raises:
            ChannelLimitReached: as many are open as was agreed.
            ConnectionClosed: the connection is closed.
        """
        ...

    def forget(self, channel: Channel) -> None:
        """The channel is closed."""
        ...


class ChannelOwner(Protocol):
    """What a channel works for: a publisher or a consumer. None of this may raise or wait."""

    def setup(self) -> Sequence[Method]:
        """The requests that bring a fresh channel into shape."""
        ...

    def on_ready(self) -> None:
        """The channel takes publishes, now or again."""
        ...

    def on_content(self, method: Method, message: Message, attachment: Attachment) -> None:
        """A delivery or a return."""
        ...

    def on_method(self, method: Method) -> None:
        """A confirm, or the broker's basic.cancel."""
        ...

    def on_lost(self) -> None:
        """The link is gone."""
        ...

    def on_failed(self, error: HoldfastError) -> None:
        """The channel is closed for good."""
        ...


class Attachment:
    """A channel on one link. What was delivered through it can be settled through it, and nowhere else."""

    __slots__ = ("_channel", "link", "number", "settled_up_to")

    def __init__(self, channel: Channel, link: Link, number: int) -> None:
        self._channel = channel
        self.settled_up_to = 0
        """The highest tag that was settled together with everything before it."""
        self.link = link
        self.number = number

    @property
    def is_stale(self) -> bool:
        """Whether the channel has left this link (invariant 8: an ack never crosses links)."""
        return self._channel.attachment is not self

    def ack(self, delivery_tag: int, *, multiple: bool) -> None:
        self._note(delivery_tag, multiple=multiple)
        self._settle(commands.Basic.Ack(delivery_tag, multiple))

    def nack(self, delivery_tag: int, *, multiple: bool, requeue: bool) -> None:
        self._note(delivery_tag, multiple=multiple)
        self._settle(commands.Basic.Nack(delivery_tag, multiple, requeue))

    def reject(self, delivery_tag: int, *, requeue: bool) -> None:
        self._settle(commands.Basic.Reject(delivery_tag, requeue))

    def _note(self, delivery_tag: int, *, multiple: bool) -> None:
        if multiple:
            self.settled_up_to = max(self.settled_up_to, delivery_tag)

    def _settle(self, method: Method) -> None:
        if self.is_stale:
            self._channel.journal.stale_acks += 1
        else:
            self.link.session.send(self.number, method)
            self.link.flush()


class _Request:
    """A method that waits for its reply."""

    __slots__ = ("_is_abandoned", "attachment", "done", "error", "message", "method", "on_reply", "reply")

    def __init__(self, method: Method, attachment: Attachment, on_reply: Callable[[Method], None] | None) -> None:
        self.method = method
        self.attachment = attachment
        self.on_reply = on_reply
        self.done = anyio.Event()
        self.reply: Method | None = None
        self.message: Message | None = None
        self.error: HoldfastError | None = None
        """Set if no reply will come. None with no reply: the link was lost."""
        self._is_abandoned = False

    def answer(self, reply: Method, message: Message | None) -> None:
        """The reply came."""
        self.reply = reply
        self.message = message
        if self.on_reply is not None:
            self.on_reply(reply)
        self.done.set()
        if self._is_abandoned:
            self._give_back()

    def abandon(self) -> None:
        """The caller was cancelled: nobody takes the reply."""
        self._is_abandoned = True
        self._give_back()

    def _give_back(self) -> None:
        if (
            isinstance(self.reply, commands.Basic.GetOk)
            and isinstance(self.method, commands.Basic.Get)
            and not self.method.no_ack
        ):
            self.attachment.nack(self.reply.delivery_tag or 0, multiple=False, requeue=True)


class Channel:
    """A channel of a connection: ``async with connection.channel() as channel``.

    Made by the connection. It survives reconnects. An error that the broker finds in a request closes it for good
    (AMQP 0-9-1, 4.9: soft errors); the request raises that error, every later one raises :class:`ChannelClosed`.

    All requests wait while the connection is away, and are sent again if a loss caught them. They raise
    :class:`RequestTimeout` after ``request_timeout``, :class:`ChannelClosed`, :class:`ConnectionClosed`,
    :class:`InvalidArgument` for what AMQP cannot carry, and the :class:`ReplyError` that the broker names.
    """

    def __init__(self, host: ChannelHost, owner: ChannelOwner | None = None) -> None:
        self._host = host
        self._owner = owner
        self._id = host.next_channel_id()
        self._lifecycle = channel_lifecycle()
        self._changed = anyio.Event()
        self._requests: deque[_Request] = deque()
        self._prefetch: int | None = None
        self._error: HoldfastError | None = None
        self._is_registered = False
        self.has_been_open = False
        """Whether it was ever open, so that an error is not for what it is made for."""
        self.attachment: Attachment | None = None
        """Where the channel is now; None while it is on no link."""

    def __repr__(self) -> str:
        return f"<Channel {self._id} {self.state.name}>"

    @property
    def state(self) -> State:
        """Where its life cycle is."""
        return self._lifecycle.state

    @property
    def journal(self) -> Journal:
        """Where its transitions go."""
        return self._host.journal

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            self.begin_close()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    # --- queues, exchanges, bindings --------------------------------------------------------------------------------

    async def declare_queue(
        self,
        name: str = "",
        *,
        passive: bool = False,
        durable: bool = True,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: FieldTable | None = None,
    ) -> Queue:
        """Declare a queue (queue.declare); it is declared again after every reconnect.

        Args:
            name: its name; empty lets the broker choose one.
            passive: only check that it exists. Such a declaration is not repeated after a reconnect.
            durable: it survives a restart of the broker.
            exclusive: only this connection may use it, and it goes with the connection.
            auto_delete: it goes when its last consumer does.
            arguments: such as ``{"x-message-ttl": 86400000}``.

        Raises:
            NotFound: passive, and there is no such queue.
            PreconditionFailed: it exists with other settings.
            ResourceLocked: it is another connection's exclusive queue.
        """
        method = build(
            commands.Queue.Declare,
            queue=name,
            passive=passive,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            arguments=field_table(arguments),
        )
        reply = await self._change(method)
        if not isinstance(reply, commands.Queue.DeclareOk):
            raise TypeError(f"queue.declare was answered by {method_name(reply)}")
        return Queue(reply.queue or "", reply.message_count or 0, reply.consumer_count or 0, self._host.recorder)

    async def delete_queue(self, queue: Queue | str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete a queue (queue.delete); RabbitMQ takes the deletion of no queue for a success.

        Args:
            queue: the queue or its name.
            if_unused: only if it has no consumers.
            if_empty: only if it has no messages.

        Returns:
            How many messages went with it.

        Raises:
            PreconditionFailed: it is in use, or not empty.
        """
        method = build(commands.Queue.Delete, queue=self._name(queue), if_unused=if_unused, if_empty=if_empty)
        reply = await self._change(method)
        return reply.message_count or 0 if isinstance(reply, commands.Queue.DeleteOk) else 0

    async def purge_queue(self, queue: Queue | str) -> int:
        """Drop the messages that are ready in a queue (queue.purge).

        Returns:
            How many there were.

        Raises:
            NotFound: there is no such queue.
        """
        reply = await self._request(build(commands.Queue.Purge, queue=self._name(queue)))
        return reply.message_count or 0 if isinstance(reply, commands.Queue.PurgeOk) else 0

    async def bind_queue(
        self, queue: Queue | str, exchange: str, routing_key: str = "", *, arguments: FieldTable | None = None
    ) -> None:
        """Bind a queue to an exchange (queue.bind); it is bound again after every reconnect.

        Raises:
            NotFound: there is no such queue or exchange.
        """
        await self._change(
            build(
                commands.Queue.Bind,
                queue=self._name(queue),
                exchange=exchange,
                routing_key=routing_key,
                arguments=field_table(arguments),
            )
        )

    async def unbind_queue(
        self, queue: Queue | str, exchange: str, routing_key: str = "", *, arguments: FieldTable | None = None
    ) -> None:
        """Undo :meth:`bind_queue` (queue.unbind); RabbitMQ takes the removal of no binding for a success."""
        await self._change(
            build(
                commands.Queue.Unbind,
                queue=self._name(queue),
                exchange=exchange,
                routing_key=routing_key,
                arguments=field_table(arguments),
            )
        )

    async def bind_exchange(
        self, destination: str, source: str, routing_key: str = "", *, arguments: FieldTable | None = None
    ) -> None:
        """Bind an exchange to another (exchange.bind; RabbitMQ, "Exchange to Exchange Bindings").

        Args:
            destination: the exchange that messages go to.
            source: the exchange that they come from.
            routing_key: which ones.
            arguments: for exchange types that route by them.

        Raises:
            NotFound: there is no such exchange.
        """
        await self._change(
            build(
                commands.Exchange.Bind,
                destination=destination,
                source=source,
                routing_key=routing_key,
                arguments=field_table(arguments),
            )
        )

    async def unbind_exchange(
        self, destination: str, source: str, routing_key: str = "", *, arguments: FieldTable | None = None
    ) -> None:
        """Undo :meth:`bind_exchange` (exchange.unbind)."""
        await self._change(
            build(
                commands.Exchange.Unbind,
                destination=destination,
                source=source,
                routing_key=routing_key,
                arguments=field_table(arguments),
            )
        )

    async def declare_exchange(
        self,
        name: str,
        type: str = "direct",  # noqa: A002 - AMQP's name
        *,
        passive: bool = False,
        durable: bool = True,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: FieldTable | None = None,
    ) -> None:
        """Declare an exchange (exchange.declare); it is declared again after every reconnect.

        Args:
            name: its name.
            type: ``direct``, ``fanout``, ``topic``, ``headers``, or a plugin's.
            passive: only check that it exists. Such a declaration is not repeated after a reconnect.
            durable: it survives a restart of the broker.
            auto_delete: it goes when the last binding from it does.
            internal: only other exchanges may publish to it.
            arguments: such as ``{"alternate-exchange": "unrouted"}``.

        Raises:
            NotFound: passive, and there is no such exchange.
            PreconditionFailed: it exists with other settings.
            CommandInvalid: the broker knows no such type; RabbitMQ closes the connection for it.
        """
        await self._change(
            build(
                commands.Exchange.Declare,
                exchange=name,
                exchange_type=type,
                passive=passive,
                durable=durable,
                auto_delete=auto_delete,
                internal=internal,
                arguments=field_table(arguments),
            )
        )

    async def delete_exchange(self, name: str, *, if_unused: bool = False) -> None:
        """Delete an exchange (exchange.delete).

        Args:
            name: its name.
            if_unused: only if nothing is bound to it.

        Raises:
            PreconditionFailed: it is in use.
        """
        await self._change(build(commands.Exchange.Delete, exchange=name, if_unused=if_unused))

    # --- qos, get ---------------------------------------------------------------------------------------------------

    async def set_qos(self, prefetch: int) -> None:
        """Limit unacknowledged deliveries for each consumer of the channel (basic.qos); kept over reconnects.

        Args:
            prefetch: at most so many; 0 for no limit.
        """
        await self._request(build(commands.Basic.Qos, prefetch_count=prefetch))
        self._prefetch = prefetch

    async def get(self, queue: Queue | str, *, no_ack: bool = False) -> Delivery | None:
        """Fetch one message (basic.get).

        Args:
            queue: the queue or its name.
            no_ack: the broker forgets the message as it sends it.

        Returns:
            The message, or None if the queue is empty.

        Raises:
            NotFound: there is no such queue.
            ConnectionLost: a loss caught a ``get`` with ``no_ack``: a message may be gone.
        """
        method = build(commands.Basic.Get, queue=self._name(queue), no_ack=no_ack)
        request = await self._completed(method, repeat=not no_ack)
        reply, message = request.reply, request.message
        if message is None or not isinstance(reply, commands.Basic.GetOk):
            return None
        return Delivery(
            message,
            exchange=reply.exchange,
            routing_key=reply.routing_key or "",
            delivery_tag=reply.delivery_tag or 0,
            redelivered=reply.redelivered,
            message_count=reply.message_count,
            settler=None if no_ack else request.attachment,
        )

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
        try:
            await self._within_deadline(self.wait_open(), "opening a channel")
        except ChannelClosed:
            if isinstance(self._error, ReplyError):
                raise self._error from None
            raise

    def register(self) -> None:
        """Begin to live: the connection opens the channel when it can, and after every reconnect."""
        if self._is_registered:
            raise InvalidUse("a channel is entered once; make a new one with connection.channel()")
        self._is_registered = True
        self._host.register(self)

    async def wait_open(self) -> None:
        """Wait until the channel is usable.

        Raises:
            ChannelClosed, ConnectionClosed: it never will be (again).
        """
        while self.state not in (State.OPEN, State.BLOCKED):
            if self.state in (State.CLOSING, State.CLOSED):
                raise self.closed_error()
            await self._changed.wait()

    async def wait_settled(self) -> None:
        """Wait until the channel is open on the present link, or closed, or has lost that link.

        Raises:
            RequestTimeout: the broker did not answer.
        """
        await self._within_deadline(self._until_settled(), "opening a channel")

    async def close(self) -> None:
        """Close the channel and wait for the broker's close-ok, for at most ``close_timeout`` seconds."""
        self.begin_close()
        with anyio.move_on_after(self._host.close_timeout):
            while self.state is State.CLOSING:
                await self._changed.wait()

    def begin_close(self) -> None:
        """Send channel.close and wait for nothing; the number is free again when the broker's close-ok comes."""
        if self.state in (State.CLOSING, State.CLOSED):
            return
        self._fire(ChannelEvent.CLOSE)
        attachment = self.attachment
        if attachment is not None and attachment.link.is_open:
            attachment.link.session.close_channel(attachment.number)
            attachment.link.flush()
        else:
            self._finish(ChannelEvent.CLOSED)
        self.attachment = None
        self._fail_requests(None)

    def attach(self, link: Link) -> None:
        """Open the channel on a link, and bring it into shape there.

        Raises:
            ChannelLimitReached: as many are open as was agreed.
        """
        self.attachment = Attachment(self, link, link.attach(self))
        self._requests.append(_Request(commands.Channel.Open(), self.attachment, None))
        for method in self._setup():
            self._send(method, None)
        self._requests[-1].on_reply = self._on_attached

    def shut(self, error: HoldfastError) -> None:
        """The connection is closed, or something that the channel cannot do without is gone."""
        if self.state is State.CLOSING:
            self._finish(ChannelEvent.CLOSED)
        elif self.state is not State.CLOSED:
            attachment, self.attachment = self.attachment, None
            if attachment is not None and attachment.link.is_open:
                attachment.link.session.close_channel(attachment.number)
                attachment.link.flush()
            if isinstance(error, ConnectionClosed) and error.__cause__ is None:
                # The user is leaving, which is no failure.
                self._fire(ChannelEvent.CLOSE)
                self._end(error, ChannelEvent.CLOSED)
            else:
                self._end(error, ChannelEvent.FAILED)

    def closed_error(self) -> HoldfastError:
        """What a call on the closed channel raises."""
        if isinstance(self._error, ConnectionClosed):
            error: HoldfastError = ConnectionClosed(str(self._error))
            error.__cause__ = self._error.__cause__
        else:
            error = ChannelClosed(f"the channel is closed: {self._error}" if self._error else "the channel is closed")
            error.__cause__ = self._error
        return error

    # --- publishing -------------------------------------------------------------------------------------------------

    @property
    def can_publish(self) -> bool:
        """Whether what is published now goes out: open, recovered, not blocked."""
        attachment = self.attachment
        return (
            attachment is not None
            and self.state is State.OPEN
            and attachment.link.is_ready
            and not attachment.link.is_blocked
        )

    def publish(self, method: commands.Basic.Publish, properties: bytes, body: bytes) -> None:
        """Append a publish to the outgoing buffer. Only if :attr:`can_publish`.

        Raises:
            InvalidArgument: the properties do not fit a frame; nothing was appended.
        """
        attachment = self.attachment
        if attachment is None:
            raise InvalidUse("publish on a channel that is on no link")
        attachment.link.session.publish(attachment.number, method, properties, body)
        attachment.link.flush()

    def resume(self) -> None:
        """Recovery of the connection is done: whoever owns the channel may send."""
        if self._owner is not None and self.can_publish:
            self._owner.on_ready()

    # --- what the link tells ----------------------------------------------------------------------------------------

    def on_method(self, method: Method, *, is_reply: bool) -> None:
        if is_reply:
            self._complete(method, None)
        elif isinstance(method, commands.Channel.Flow):
            self._on_flow(active=bool(method.active))
        elif self._owner is not None:
            self._owner.on_method(method)

    def on_content(self, method: Method, message: Message) -> None:
        if isinstance(method, commands.Basic.GetOk):
            self._complete(method, message)
        elif self._owner is not None and self.attachment is not None:
            self._owner.on_content(method, message, self.attachment)

    def on_closed(self, error: ReplyError) -> None:
        self.attachment = None
        self._end(error, ChannelEvent.FAILED)

    def on_released(self) -> None:
        if self.state is State.CLOSING:
            self._finish(ChannelEvent.CLOSED)

    def on_writable(self) -> None:
        self.resume()

    def on_lost(self, error: HoldfastError | None) -> None:
        self.attachment = None
        if self.state is State.CLOSED:
            return
        if self.state is State.CLOSING:
            self._finish(ChannelEvent.CLOSED)
            return
        guilty = self._guilty_of(error)
        if guilty is not None and isinstance(error, ReplyError) and self.state not in (State.OPEN, State.BLOCKED):
            # What the channel is for costs the link: reopening it would cost the next one as well.
            self._end(error, ChannelEvent.FAILED)
            return
        if self._lifecycle.allows(ChannelEvent.LOST):
            self._fire(ChannelEvent.LOST)
        requests = self._requests
        self._requests = deque()
        for request in requests:
            if request is guilty:
                request.error = error
            request.done.set()
        self._changed.set()
        self._changed = anyio.Event()
        if self._owner is not None:
            self._owner.on_lost()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _guilty_of(self, error: HoldfastError | None) -> _Request | None:
        """The request for which the broker closed the whole connection, if it may be one of ours.

        A hard error names the method, not the channel (AMQP 0-9-1, connection.close). Where several channels wait for
        an answer to that method, each takes it for its own: sent again, it would cost the next link as well.
        """
        if not isinstance(error, ReplyError) or error.method is None or error.cure is not Cure.CHANGE:
            return None
        return next((one for one in self._requests if method_name(one.method) == error.method), None)

    def _setup(self) -> Sequence[Method]:
        if self._owner is not None:
            return self._owner.setup()
        return [] if self._prefetch is None else [commands.Basic.Qos(prefetch_count=self._prefetch)]

    def _on_attached(self, _: Method) -> None:
        self.has_been_open = True
        self._fire(ChannelEvent.OPENED)
        self.resume()

    def _on_flow(self, *, active: bool) -> None:
        event = ChannelEvent.UNBLOCKED if active else ChannelEvent.BLOCKED
        if self._lifecycle.allows(event):
            self._fire(event)
        self.resume()

    def _name(self, queue: Queue | str) -> str:
        return queue.name if isinstance(queue, Queue) else self._host.recorder.present_name(queue)

    async def _change(self, method: Method) -> Method:
        # Recorded when the reply comes, not when the caller goes on: a caller that was cancelled meanwhile has
        # changed the broker all the same.
        return await self._request(method, on_reply=lambda reply: self._host.recorder.record(self, method, reply))

    async def _request(self, method: Method, *, on_reply: Callable[[Method], None] | None = None) -> Method:
        request = await self._completed(method, on_reply=on_reply)
        if request.reply is None:
            raise ConnectionLost(f"{method_name(method)} was in flight when the link died")
        return request.reply

    async def _completed(
        self, method: Method, *, on_reply: Callable[[Method], None] | None = None, repeat: bool = True
    ) -> _Request:
        return await self._within_deadline(self._until_answered(method, on_reply, repeat=repeat), method_name(method))

    async def _until_answered(
        self, method: Method, on_reply: Callable[[Method], None] | None, *, repeat: bool
    ) -> _Request:
        if not self._is_registered:
            raise InvalidUse("a channel works inside its block: async with connection.channel() as channel")
        while True:
            await self.wait_open()
            request = self._send(method, on_reply)
            try:
                await request.done.wait()
            except BaseException:
                request.abandon()
                raise
            if request.error is not None:
                raise request.error
            if request.reply is not None:
                return request
            if not repeat:
                raise ConnectionLost(f"{method_name(method)} was in flight when the link died")

    async def _until_settled(self) -> None:
        while self.attachment is not None and self.state in (State.CONNECTING, State.RECONNECTING):
            await self._changed.wait()

    async def replay(self, methods: Sequence[Method], on_reply: Callable[[Method, Method], None]) -> None:
        """Send requests one behind the other without waiting in between, for recovery.

        Raises:
            ReplyError: the broker refused one; those before it succeeded, none after it was done.
            ConnectionLost: the link died.
            RequestTimeout: the broker did not answer.
        """
        sent = [self._send(method, partial(on_reply, method)) for method in methods]
        for request in sent:
            await self._within_deadline(request.done.wait(), method_name(request.method))
            if request.error is not None:
                raise request.error
            if request.reply is None:
                raise ConnectionLost("the link died during recovery")

    def _send(self, method: Method, on_reply: Callable[[Method], None] | None) -> _Request:
        attachment = self.attachment
        if attachment is None:
            raise InvalidUse(f"{method_name(method)} on a channel that is on no link")
        attachment.link.session.request(attachment.number, method)
        attachment.link.flush()
        request = _Request(method, attachment, on_reply)
        self._requests.append(request)
        return request

    def _complete(self, reply: Method, message: Message | None) -> None:
        self._requests.popleft().answer(reply, message)

    def _end(self, error: HoldfastError, event: ChannelEvent) -> None:
        self._error = error
        self._finish(event, reason=str(error))
        self._fail_requests(error if isinstance(error, ReplyError) else None)
        if self._owner is not None:
            self._owner.on_failed(error)

    def _fail_requests(self, error: ReplyError | None) -> None:
        # The broker works a channel's methods off in order, so the one it complains of is the oldest of that name;
        # nothing behind it was done.
        requests = self._requests
        self._requests = deque()
        for request in requests:
            if error is not None and (error.method is None or error.method == method_name(request.method)):
                request.error = error
                error = None
            else:
                request.error = self.closed_error()
            request.done.set()

    def _finish(self, event: ChannelEvent, *, reason: str | None = None) -> None:
        self._fire(event, reason=reason)
        self._host.forget(self)

    def _fire(self, event: ChannelEvent, *, reason: str | None = None) -> None:
        source = self._lifecycle.fire(event)
        self._host.journal.record(
            Transition(
                f"channel {self._id}", source, event, self.state, anyio.current_time(), reason, self._host.link_number
            )
        )
        self._changed.set()
        self._changed = anyio.Event()

    async def _within_deadline(self, work: Awaitable[T], what: str) -> T:
        timeout = self._host.request_timeout
        with anyio.move_on_after(timeout):
            return await work
        raise RequestTimeout(f"{what}: no answer within {timeout} s; the connection's last error: {self._last_error()}")

    def _last_error(self) -> str:
        error = self._host.journal.last_error
        return "none" if error is None else str(error)
