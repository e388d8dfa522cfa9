"""One transport of a connection, from dial to death: anyio around one session.

Three tasks: a reader, a writer that sends the output gathered since its last write, and the heartbeat timer. Plain
functions dispatch all input as it is read, until it is time for other tasks to run; on asyncio they run in a callback
of the event loop, and the reader's task waits only for the end. A caller that sends only appends to the session's
output and wakes the writer. Hence a cancelled caller cannot cut a frame in two, and there is no lock to wait for.

The session's events go up through :mod:`anyamqp.protocol.dispatch`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream

from anyamqp.errors import AnyamqpError, ConnectionLost, ReplyError, TransportError
from anyamqp.net.dialer import transport_error
from anyamqp.net.event_loop import Flag, Waiter, next_news, running_loop
from anyamqp.net.tcp import Piece, SocketStream
from anyamqp.protocol.blame import guilty_request
from anyamqp.protocol.dispatch import Dispatcher, LinkOwner, Witness
from anyamqp.protocol.events import Ended
from anyamqp.protocol.lifecycle import LinkState, Transition
from anyamqp.protocol.lifecycle.link import HANDSHAKE, LOGIN
from anyamqp.protocol.ports import ChannelHandler
from anyamqp.protocol.requests import Purpose
from anyamqp.protocol.session import Session
from anyamqp.protocol.waking import Wakers
from anyamqp.wire import methods

HIGH_WATER: Final = 1024 * 1024
"""Bytes in the outgoing buffer above which publishers wait."""

_CHUNK: Final = 127 * 1024
"""Bytes read at a time. glibc allocates larger buffers with mmap and frees them after every read, however few bytes
came: mallopt(3), M_MMAP_THRESHOLD."""

_TURN: Final = 0.01
"""Seconds of dispatching after which other tasks run: a broker can cause a lot of work with few bytes."""

_HEAD_START: Final = 2
"""Turns of the event loop: in the first the reader begins to listen, in the second it gets the bytes that are there."""

_LINGER: Final = 1.0
"""Seconds that sending the last frames of a session may take."""

_STEPS: Final = (Transition, Ended)


class Link:
    """A transport with an AMQP session on it.

    Args:
        stream: the transport; the link owns it from here on.
        session: a fresh session.
        owner: the connection.
        journal: records transitions.

    Attributes:
        number: the links of a connection count from 1.
        session: the session.
        dispatcher: tells the connection and the channels of the session's events.
    """

    def __init__(self, number: int, stream: ByteStream, session: Session, owner: LinkOwner, journal: Witness) -> None:
        self.number: int = number
        self.session: Session = session
        self.dispatcher: Dispatcher = Dispatcher(session, owner, journal)
        self._loop = running_loop()
        self._stream = stream
        self._steps = Wakers()
        """Woken when the session's state has changed."""
        self._writer_waits: Waiter | None = None  # set while the writer has nothing to do
        self._unsent: Sequence[Piece] = ()
        """The rest of output that was only partly sent without a wait."""
        self._output_taken = Wakers()
        self._output_done = Flag()
        self._is_dispatching = False
        self._reading = anyio.CancelScope()
        self._slow_readers: set[object] = set()
        self._caught_up = Wakers()

    # --- for the connection -----------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether the session is open and not closing."""
        return self.session.state is LinkState.OPEN

    @property
    def has_ended(self) -> bool:
        """Whether the session has ended."""
        return self.session.state is LinkState.CLOSED

    @property
    def error(self) -> AnyamqpError | None:
        """Why it ended; None if we closed it."""
        return self.dispatcher.error

    async def run(self, companion: Callable[[Link], Coroutine[Any, Any, None]] | None = None) -> None:
        """Move bytes until the link has ended.

        Args:
            companion: runs beside the link, and is cancelled when the link has ended.
        """
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

    async def tear_down(self) -> None:
        """Close the transport, whatever is cancelled meanwhile. A link that has not ended yet ends now."""
        self.abort(TransportError("the link was dropped"))
        with anyio.CancelScope(shield=True), anyio.move_on_after(_LINGER):
            await self._stream.aclose()

    async def wait_open(self) -> None:
        """Wait until the handshake is done or the link has ended."""
        while self.session.state in HANDSHAKE:
            await next_news(self._steps)

    async def wait_over(self) -> None:
        """Wait until the link has ended."""
        while not self.has_ended:
            await next_news(self._steps)

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
        """Send a new secret and wait for the answer. The link must be open.

        Raises:
            InvalidArgument: the secret does not fit a frame; nothing was sent.
            ConnectionLost: the link ended before the answer.
            ReplyError: the link ended because the broker refused the secret.
        """
        request = self.session.update_secret(update)
        request.waiter = waiter = Flag()
        self.flush()
        await waiter.wait()
        if request.reply is not None:
            return
        error = self.error
        if isinstance(error, ReplyError) and guilty_request(error, self.session.unanswered(0)) is request:
            raise error
        raise ConnectionLost("the link ended before the broker answered connection.update-secret") from error

    # --- for channels -----------------------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether the outgoing buffer is above its high-water mark."""
        return self.session.output_size > HIGH_WATER

    async def wait_not_full(self) -> None:
        """Wait until the writer has taken the outgoing buffer, or the link has ended."""
        while self.is_full and not self.has_ended:
            await next_news(self._output_taken)

    def attach(self, handler: ChannelHandler, purpose: Purpose) -> int:
        """Open a channel: send channel.open, whose reply ``handler`` gets with this purpose.

        Raises:
            ChannelLimitReached: no channel number is free.
        """
        number = self.dispatcher.attach(handler, purpose)
        self.flush()
        return number

    def close_channel(self, number: int, error: ReplyError | None = None) -> None:
        """Send channel.close, with the code and text of ``error`` if there is one.

        The handler learns of the reply in ``on_released``, or of the link's end in ``on_lost``.
        """
        self.close_sent(number)
        if error is None:
            self.session.close_channel(number)
        else:
            self.session.close_channel(number, error.text, error.code)
        self.flush()

    def close_deadline(self, timeout: float) -> float:
        """When to stop waiting for a close whose reply may take ``timeout`` seconds: see :class:`Closes`."""
        return self.dispatcher.closes.deadline(timeout, anyio.current_time())

    def close_sent(self, number: int) -> None:
        """Note that a close, or another request of leaving, is sent on a channel; its reply is awaited from now on."""
        self.dispatcher.closes.sent(number, anyio.current_time())

    def pause_reading(self, reader: object) -> None:
        """Stop reading until ``reader`` has caught up; TCP slows the broker down.

        Reading goes on while anybody on the link waits for an answer, which the broker sends after everything else.
        """
        self._slow_readers.add(reader)

    def resume_reading(self, reader: object) -> None:
        """Read again, unless another reader has to catch up."""
        if reader in self._slow_readers:
            self._slow_readers.remove(reader)
            self._caught_up.wake()

    @property
    def _is_paused(self) -> bool:
        """Whether reading pauses: a reader has to catch up, or the broker has to take its answers first."""
        return self.session.owes_too_much or self._awaits_readers

    @property
    def _awaits_readers(self) -> bool:
        return bool(self._slow_readers) and self.is_open and not self.dispatcher.awaits_answer

    def flush(self) -> None:
        """Wake the writer to send the session's output."""
        if self._slow_readers:
            self._caught_up.wake()
        if self._writer_waits is not None:
            self._writer_waits.set()
            self._writer_waits = None

    def push(self) -> None:
        """Send the session's output at once, unless the writer is busy: for callers that await a reply.

        Nothing here waits, so a cancelled caller cannot cut a frame in two. The writer sends the bytes that the system
        does not take, and meets its errors.
        """
        if self._slow_readers:
            self._caught_up.wake()
        if self._writer_waits is not None and isinstance(self._stream, SocketStream):
            self._unsent = self._stream.send_nowait(self.session.output(self._loop.now()))
        if self._unsent or self.session.has_output:
            self.flush()

    # --- tasks ------------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        with self._reading:
            while not self.has_ended:
                while self._is_paused:
                    await next_news(self._caught_up)
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
        """Dispatch bytes from the broker. Returns whether to read more at once."""
        self.session.receive(data, self._loop.now())
        self._dispatch()
        return not (self._is_paused or self.has_ended or self.session.has_unread)

    async def _write(self) -> None:
        session = self.session
        # Under TLS 1.3 a broker refuses our certificate after our side has finished the handshake: it sends an alert,
        # then a reset. asyncio drops unread bytes when a write fails, so the reader looks first.
        for _ in range(_HEAD_START):
            await anyio.lowlevel.checkpoint()
        while True:
            if self._unsent or session.has_output:
                was_full, owed_too_much = self.is_full, session.owes_too_much
                pieces, self._unsent = self._unsent or session.output(self._loop.now()), ()
                if was_full and not self.is_full:
                    self._output_taken.wake()
                if owed_too_much and not session.owes_too_much:
                    self._caught_up.wake()
                try:
                    if isinstance(self._stream, SocketStream):
                        await self._stream.send_pieces(pieces)
                    else:
                        await self._stream.send(b"".join(pieces))
                except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
                    self.abort(transport_error("writing", error))
                    self._output_done.set()
                    return
            elif self.has_ended:
                self._output_done.set()
                return
            else:
                self._writer_waits = added = self._loop.waiter()
                await added.wait()

    async def _beat(self) -> None:
        while self.session.state in LOGIN:
            await next_news(self._steps)
        while not self.has_ended:
            now = anyio.current_time()
            # A broker that does not take its answers causes the silence itself (invariant 9).
            if self._awaits_readers and not self.session.owes_too_much:
                self.session.reading_paused(now)
            wake_at = self.session.poll(now)
            self._dispatch()
            await anyio.sleep_until(wake_at)

    # --- events -----------------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        if self._is_dispatching:
            return  # re-entered from an event handler; the events it causes are dispatched after the current one
        self._is_dispatching = True
        until, tell = self._loop.now() + _TURN, self.dispatcher.tell
        try:
            while (event := self.session.next_event()) is not None:
                if isinstance(event, _STEPS):
                    self._step(event)
                tell(event)
                # The end of a link is told at once: until then its channels would send on it.
                if self._loop.now() > until and not self.has_ended:
                    break  # the reader continues after other tasks have run
        finally:
            self._is_dispatching = False
        if self.session.has_output:
            self.flush()

    def _step(self, event: Transition | Ended) -> None:
        """Wake the tasks that wait for a step of the session."""
        if isinstance(event, Transition):
            self._steps.wake()
            self._caught_up.wake()  # a closing link reads, even if readers have to catch up
        else:
            self._output_taken.wake()
            self.flush()
            self._reading.cancel()
