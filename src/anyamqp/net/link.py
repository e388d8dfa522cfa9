"""One transport of a connection, from dial to death: anyio around one session.

Three tasks: the reader, one writer that sends whatever has gathered since it last looked, and the heartbeat timer. What
is read is dispatched at once, by plain functions, for as long as other tasks can wait: on asyncio in a callback of the
event loop, of which the reader's task only waits for the end. A caller that sends only appends to the session's output
and wakes the writer, hence a caller's cancellation can never cut a frame in two, and there is no lock to wait for.

A link ends in one place, :meth:`Link._finish`, with one reason. What it ends with goes up in a fixed order and without
an await between: first the connection, then every channel on it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream

from anyamqp.errors import AnyamqpError, ConnectionLost, ReplyError, TransportError
from anyamqp.message import FieldTable
from anyamqp.net.dialer import transport_error
from anyamqp.net.event_loop import Waiter, running_loop
from anyamqp.net.tcp import Piece, SocketStream
from anyamqp.protocol.events import (
    Blocked,
    ChannelClosed,
    ChannelReleased,
    Confirm,
    ConfirmsReceived,
    Content,
    ContentsReceived,
    Ended,
    Event,
    MethodReceived,
    Opened,
    Replied,
    Stalled,
    Tuning,
    Unblocked,
)
from anyamqp.protocol.lifecycle import LinkState, Transition
from anyamqp.protocol.requests import Purpose, Request, Unanswered
from anyamqp.protocol.session import Session
from anyamqp.wire import methods
from anyamqp.wire.frames import method_name
from anyamqp.wire.methods import Method

HIGH_WATER: Final = 1024 * 1024
"""Bytes of outgoing buffer above which publishers wait."""

_CHUNK: Final = 127 * 1024
"""Bytes read at a time. What is larger the C library maps and unmaps anew for each read, however little comes: glibc,
mallopt(3), M_MMAP_THRESHOLD."""

_TURN: Final = 0.01
"""Seconds after which the events of one read let other tasks run: a broker can cause a lot of work with few bytes."""

_HEAD_START: Final = 2
"""Turns of the event loop: in the first the reader begins to listen, in the second it gets what is there."""

_LINGER: Final = 1.0
"""Seconds that the last frames of a session may take to leave."""


class ChannelHandler(Protocol):
    """What a link tells a channel that is attached to it."""

    def on_reply(self, request: Request) -> None:
        """The broker answered a request."""
        ...

    def on_method(self, method: Method) -> None:
        """A method came unasked."""
        ...

    def on_contents(self, contents: list[Content]) -> None: ...

    def on_confirms(self, confirms: list[Confirm]) -> None: ...

    def on_closed(self, error: ReplyError, unanswered: Unanswered) -> None:
        """The broker closed the channel, or made us close it."""
        ...

    def on_released(self) -> None:
        """Our close is complete."""
        ...

    @property
    def awaits_answer(self) -> bool:
        """Whether something was sent that the broker answers otherwise than with a reply."""
        ...

    def on_writable(self) -> None:
        """The broker takes publishes again."""
        ...

    def on_lost(self, error: AnyamqpError | None, unanswered: Unanswered) -> None:
        """The link is gone, for this reason."""
        ...


class LinkOwner(Protocol):
    """What a link tells its connection."""

    def on_link_opened(self, tuning: Tuning, server_properties: FieldTable) -> None: ...

    def on_link_blocked(self, reason: str) -> None: ...

    def on_link_unblocked(self) -> None: ...

    def on_number_free(self) -> None:
        """A channel's close is complete: another one may have its number."""
        ...

    def on_secret_updated(self, secret: str) -> None:
        """The broker took a new secret; in the order in which they were sent."""
        ...

    def on_link_ended(self, error: AnyamqpError | None) -> None:
        """The link is gone; the channels on it hear of it next."""
        ...


class Witness(Protocol):
    """Takes note of what happens on a link."""

    def record(self, transition: Transition) -> None: ...

    def stalled(self, seconds: float) -> None:
        """The event loop was late."""
        ...


class Link:
    """A transport with an AMQP session on it.

    Args:
        stream: the transport; the link owns it from here on.
        session: a fresh session.
        owner: the connection.
        journal: where transitions go.

    Attributes:
        number: counted from 1 in each connection.
        is_ready: whether recovery on it is done, so that channels may send new work. Set by the connection.
        has_worked: whether the broker delivered, confirmed or answered anything since recovery.
        is_over: whether it has ended.
        error: why it ended; None if we closed it.
    """

    def __init__(self, number: int, stream: ByteStream, session: Session, owner: LinkOwner, journal: Witness) -> None:
        self.number = number
        self.session = session
        self.is_ready = False
        self.has_worked: bool = False
        self.is_over: bool = False
        self.error: AnyamqpError | None = None
        self._loop = running_loop()
        self._stream = stream
        self._owner = owner
        self._journal = journal
        self._handlers: dict[int, ChannelHandler] = {}
        self._opened = anyio.Event()
        self._over = anyio.Event()
        self._writer_waits: Waiter | None = None
        """Set while the writer has nothing to do."""
        self._unsent: Sequence[Piece] = ()
        """What is left of output that was sent without a wait."""
        self._output_taken = anyio.Event()
        self._output_done = anyio.Event()
        self._is_dispatching = False
        self._closes: dict[int, float] = {}
        """When the closes without a reply were sent, the oldest first, by channel number; the connection's by 0."""
        self._reading = anyio.CancelScope()
        self._slow_readers: set[object] = set()
        self._caught_up = anyio.Event()

    # --- for the connection -----------------------------------------------------------------------------------------

    async def run(self, companion: Callable[[Link], Coroutine[Any, Any, None]] | None = None) -> None:
        """Move bytes until the link has ended, then close the transport.

        Args:
            companion: what else is to run as long as the link does, and no longer.
        """
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write)
                tasks.start_soon(self._beat)
                if companion is not None:
                    tasks.start_soon(companion, self)
                await self._read()
                if self.error is None or isinstance(self.error, ReplyError):
                    with anyio.move_on_after(_LINGER):
                        await self._output_done.wait()
                tasks.cancel_scope.cancel()
        finally:
            self.abort(TransportError("the link was dropped"))
            with anyio.CancelScope(shield=True), anyio.move_on_after(_LINGER):
                await self._stream.aclose()

    async def wait_open(self) -> None:
        """Wait until the handshake is done or the link has ended."""
        await self._opened.wait()

    async def wait_over(self) -> None:
        """Wait until the link has ended."""
        await self._over.wait()

    def close(self) -> None:
        """Begin the close handshake; the link ends when the broker has answered."""
        self.close_sent(0)
        self.session.close(anyio.current_time())
        self._dispatch()

    def abort(self, error: AnyamqpError) -> None:
        """End the link now, without a handshake."""
        self.session.transport_ended(error, anyio.current_time())
        self._dispatch()

    async def update_secret(self, update: methods.Connection.UpdateSecret) -> None:
        """Send a new secret and wait for the answer. Only while the link is open.

        Raises:
            InvalidArgument: it does not fit a frame; nothing was sent.
            ConnectionLost: the link ended before the answer.
            ReplyError: it ended because the broker refused the secret.
        """
        request = self.session.update_secret(update)
        request.waiter = waiter = anyio.Event()
        self.flush()
        await waiter.wait()
        if request.reply is not None:
            return
        error = self.error
        # The broker works them off in order, so it is the oldest that it refuses.
        is_oldest = request is self.session.unanswered(0)[0]
        if isinstance(error, ReplyError) and error.method == method_name(update) and is_oldest:
            raise error
        raise ConnectionLost("the link ended before the broker answered connection.update-secret") from error

    # --- for channels -----------------------------------------------------------------------------------------------

    @property
    def is_blocked(self) -> bool:
        """Whether the broker takes no publishes now."""
        return self.session.blocked is not None

    @property
    def is_full(self) -> bool:
        """Whether the outgoing buffer is above its mark."""
        return self.session.output_size > HIGH_WATER

    async def wait_not_full(self) -> None:
        """Wait until the outgoing buffer was taken by the writer, or the link has ended."""
        while self.is_full and not self.is_over:
            await self._output_taken.wait()

    def attach(self, handler: ChannelHandler, purpose: Purpose) -> int:
        """Open a channel for ``handler``: send channel.open, whose reply it gets for this purpose.

        Raises:
            ChannelLimitReached: as many are open as was agreed.
        """
        number = self.session.open_channel(purpose)
        self._handlers[number] = handler
        self.flush()
        return number

    def close_channel(self, number: int, error: ReplyError | None = None) -> None:
        """Send channel.close, for an error of the broker's if there is one.

        The handler's ``on_released`` tells of the reply.
        """
        self.close_sent(number)
        if error is None:
            self.session.close_channel(number)
        else:
            self.session.close_channel(number, error.text, error.code)
        self.flush()

    def close_deadline(self, timeout: float) -> float:
        """When to stop waiting for the reply to a close, on the event loop's clock.

        All closes of a link share one time-out, counted from the oldest that has no reply: a broker that does not
        answer is waited for once, however many channels are closed before the connection is.

        Args:
            timeout: seconds that a reply may take.
        """
        return next(iter(self._closes.values()), anyio.current_time()) + timeout

    def close_sent(self, number: int) -> None:
        """A close was sent on a channel, or another request of leaving; its reply is awaited from now on."""
        self._closes.setdefault(number, anyio.current_time())

    def close_answered(self, number: int) -> None:
        """The broker has replied to it, or will not because it has closed the channel."""
        self._closes.pop(number, None)

    def pause_reading(self, reader: object) -> None:
        """Read nothing more until ``reader`` has caught up; the broker is slowed down by TCP.

        Reading goes on as long as anybody on the link waits for an answer, which comes behind whatever else was sent.
        """
        self._slow_readers.add(reader)

    def resume_reading(self, reader: object) -> None:
        """``reader`` has caught up."""
        if reader in self._slow_readers:
            self._slow_readers.remove(reader)
            self._reconsider_reading()

    def _reconsider_reading(self) -> None:
        self._caught_up.set()
        self._caught_up = anyio.Event()

    @property
    def _is_paused(self) -> bool:
        """Whether nothing is read: somebody here has to catch up, or the broker has to take its answers first."""
        return self.session.owes_too_much or self._awaits_readers

    @property
    def _awaits_readers(self) -> bool:
        return (
            bool(self._slow_readers)
            and self.is_open
            and not self.session.awaits_reply(0)
            and not any(
                self.session.awaits_reply(number) or handler.awaits_answer for number, handler in self._handlers.items()
            )
        )

    def flush(self) -> None:
        """Wake the writer: the session has output."""
        if self._slow_readers:
            self._reconsider_reading()
        if self._writer_waits is not None:
            self._writer_waits.set()
            self._writer_waits = None

    def push(self) -> None:
        """Send the session's output at once if nothing is in its way, without the writer: for who waits for the answer.

        Nothing here waits, so a cancelled caller cannot cut a frame in two. What the system does not take, and the
        errors that it tells of, are the writer's.
        """
        if self._slow_readers:
            self._reconsider_reading()
        if self._writer_waits is not None and isinstance(self._stream, SocketStream):
            self._unsent = self._stream.send_nowait(self.session.output(self._loop.now()))
        if self._unsent or self.session.has_output:
            self.flush()

    # --- tasks ------------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        with self._reading:
            while not self.is_over:
                while self._is_paused:
                    await self._caught_up.wait()
                if self.session.has_unread:
                    await anyio.lowlevel.checkpoint()
                    self._dispatch()
                    continue
                try:
                    await self._listen()
                except anyio.EndOfStream:
                    self.abort(TransportError("the broker closed the TCP connection"))
                except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
                    self.abort(transport_error("reading", error))

    async def _listen(self) -> None:
        if isinstance(self._stream, SocketStream):
            await self._stream.listen(self._take, _CHUNK)
        else:
            while self._take(await self._stream.receive(_CHUNK)):
                pass

    def _take(self, data: bytes) -> bool:
        """Take what the broker sent. Returns whether there is to be more at once."""
        self.session.receive(data, self._loop.now())
        self._dispatch()
        return not (self._is_paused or self.is_over or self.session.has_unread)

    async def _write(self) -> None:
        session = self.session
        # Under TLS 1.3 a broker refuses our certificate when we take the handshake for done already: an alert, and a
        # reset behind it. asyncio throws away what is unread when a write fails, so the reader gets to look first.
        for _ in range(_HEAD_START):
            await anyio.lowlevel.checkpoint()
        while True:
            if self._unsent or session.has_output:
                was_full, owed_too_much = self.is_full, session.owes_too_much
                pieces, self._unsent = self._unsent or session.output(self._loop.now()), ()
                if was_full and not self.is_full:
                    self._output_taken.set()
                    self._output_taken = anyio.Event()
                if owed_too_much and not session.owes_too_much:
                    self._reconsider_reading()
                try:
                    if isinstance(self._stream, SocketStream):
                        await self._stream.send_pieces(pieces)
                    else:
                        await self._stream.send(b"".join(pieces))
                except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
                    self.abort(transport_error("writing", error))
                    self._output_done.set()
                    return
            elif self.is_over:
                self._output_done.set()
                return
            else:
                self._writer_waits = added = self._loop.waiter()
                await added.wait()

    async def _beat(self) -> None:
        await self._opened.wait()
        while not self.is_over:
            now = anyio.current_time()
            # A broker that does not take its answers is to blame for the silence (invariant 9).
            if self._awaits_readers and not self.session.owes_too_much:
                self.session.reading_paused(now)
            wake_at = self.session.poll(now)
            self._dispatch()
            await anyio.sleep_until(wake_at)

    # --- what happened ----------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        if self._is_dispatching:
            return  # by who is told of an event: what it leads to comes behind
        self._is_dispatching = True
        until = self._loop.now() + _TURN
        try:
            while (event := self.session.next_event()) is not None:
                self._tell(event)
                if self._loop.now() > until:
                    break  # the reader goes on when others have had their turn
        finally:
            self._is_dispatching = False
        if self.session.has_output:
            self.flush()

    def _tell(self, event: Event) -> None:
        handlers = self._handlers
        if isinstance(event, ContentsReceived):
            self.has_worked = True
            handlers[event.channel].on_contents(event.contents)
        elif isinstance(event, ConfirmsReceived):
            self.has_worked = True
            handlers[event.channel].on_confirms(event.confirms)
        elif isinstance(event, Replied):
            if event.channel:
                if self.is_ready:  # recovery's own requests are no work
                    self.has_worked = True
                handlers[event.channel].on_reply(event.request)
            else:
                secret = event.request.method
                if isinstance(secret, methods.Connection.UpdateSecret):
                    self._owner.on_secret_updated(secret.new_secret)
                event.request.finish()
        elif isinstance(event, MethodReceived):
            handlers[event.channel].on_method(event.method)
        elif isinstance(event, ChannelClosed):
            self.close_answered(event.channel)
            handlers.pop(event.channel).on_closed(event.error, event.unanswered)
        elif isinstance(event, ChannelReleased):
            # Nobody is there if we closed it for what the broker sent: on_closed was the last word then.
            self.close_answered(event.channel)
            handler = handlers.pop(event.channel, None)
            if handler is not None:
                handler.on_released()
            self._owner.on_number_free()
        elif isinstance(event, Transition):
            self._journal.record(event)
            self._reconsider_reading()  # a link that is closing is read, whatever it owes
        elif isinstance(event, Opened):
            self._owner.on_link_opened(event.tuning, event.server_properties)
            self._opened.set()
        elif isinstance(event, Blocked):
            self._owner.on_link_blocked(event.reason)
        elif isinstance(event, Unblocked):
            self._owner.on_link_unblocked()
            for handler in list(handlers.values()):
                handler.on_writable()
        elif isinstance(event, Stalled):
            self._journal.stalled(event.seconds)
        else:
            self._finish(event)

    def _finish(self, ended: Ended) -> None:
        self.is_over = True
        self.error = ended.error
        self._opened.set()
        self._over.set()
        self._output_taken.set()
        self.flush()
        self._reading.cancel()
        for request in self.session.unanswered(0):
            request.finish()
        self._owner.on_link_ended(ended.error)
        handlers = list(self._handlers.items())
        self._handlers.clear()
        for number, handler in handlers:
            handler.on_lost(ended.error, self.session.unanswered(number))

    @property
    def is_open(self) -> bool:
        """Whether the session is open and not closing."""
        return self.session.state is LinkState.OPEN
