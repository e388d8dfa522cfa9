"""Publishing with confirms: every publish ends in exactly one outcome (invariant 3).

A publish is encoded before anything else, so that what AMQP cannot carry is refused while nothing has happened. Then it
takes room in the window, and from there on it is in one of two places: in the *backlog*, waiting to be sent, or in the
*ledger* of the present link, sent and waiting for its confirm. Moving between them never waits, so no order is lost:

* the channel can publish: the backlog empties into the ledger, oldest first;
* the link is lost: the ledger goes back in front of the backlog, in the order of its tags, and the next link gets a new
  ledger, because delivery tags die with their link;
* the broker closes the channel because of a publish. It does not say which one it was, so the publisher makes a new
  channel and *probes*: it sends what was unconfirmed one at a time until the guilty one shows, then goes on at full
  speed.

Sending, settling and moving are plain code without an await, called from the reader's task or the publishing one, so
there is no lock and no task per message.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Final, Self

import anyio
from pamqp import commands

from holdfast.channel import Attachment, Channel, ChannelOwner
from holdfast.errors import (
    ChannelClosed,
    HoldfastError,
    InvalidArgument,
    InvalidUse,
    PublishTimeout,
    ReplyError,
)
from holdfast.message import Message
from holdfast.protocol.confirms import Ledger
from holdfast.protocol.wire import Method, build
from holdfast.publication import Book, Entry, Publication, Receipt, Window, until

DEFAULT_TIMEOUT: Final = 60.0
DEFAULT_WINDOW: Final = 256
DEFAULT_WINDOW_BYTES: Final = 16 * 1024 * 1024
_ATTEMPTS_BEFORE_BLAME: Final = 3


class Publisher(ChannelOwner):
    """Publishes with confirms: ``async with connection.publisher() as publisher``.

    Owns one channel for life. When the block ends, everything submitted has its outcome; when it ends with an error,
    what has none is given up.

    Args:
        new_channel: makes a channel that works for the publisher.
        register: tells the connection of the publisher, or takes that back.
        window: how many publishes may be without an outcome.
        window_bytes: how many bytes of bodies they may hold together.
        max_message_size: largest body accepted, in bytes.
    """

    def __init__(
        self,
        new_channel: Callable[[ChannelOwner], Channel],
        *,
        registry: set[Publisher],
        window: int = DEFAULT_WINDOW,
        window_bytes: int = DEFAULT_WINDOW_BYTES,
        max_message_size: int,
    ) -> None:
        if window < 1 or window_bytes < 1:
            raise InvalidArgument(f"window {window} and window_bytes {window_bytes} must be at least 1")
        self._new_channel = new_channel
        self._registry = registry
        self._window = Window(window, window_bytes)
        self._max_message_size = max_message_size
        self._channel = new_channel(self)
        self._book = Book()
        self._backlog: deque[Entry] = deque()
        self._ledger: Ledger[Entry] = Ledger()
        self._probes = 0
        """How many entries from the front are still to be sent one at a time."""
        self._closed: HoldfastError | None = None
        self._has_been_entered = False

    async def __aenter__(self) -> Self:
        if self._has_been_entered:
            raise InvalidUse("a publisher is entered once; make a new one with connection.publisher()")
        self._has_been_entered = True
        self._registry.add(self)
        try:
            await self._channel.open()
        except BaseException:
            self._give_up()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if exc_type is None:
                await self.flush()
        finally:
            self._give_up()
            await self._channel.close()

    @property
    def unconfirmed(self) -> int:
        """Publishes that wait for their outcome."""
        return len(self._book.unsettled)

    async def publish(
        self,
        message: Message,
        *,
        exchange: str = "",
        routing_key: str = "",
        mandatory: bool = True,
        timeout: float | None = DEFAULT_TIMEOUT,
    ) -> Receipt:
        """Publish a message and wait for the broker's confirm, over reconnects if need be.

        Args:
            message: the message; without a ``message_id`` it gets a random one, by which a consumer can tell a resend.
            exchange: where to publish; empty for the default exchange, which routes to the queue named by the key.
            routing_key: the routing key.
            mandatory: whether it is an error if no queue takes the message.
            timeout: seconds until :class:`PublishTimeout`; None to wait for ever.

        Raises:
            Unroutable: mandatory, and no queue took it.
            Nacked: the broker refused it.
            PublishTimeout: no outcome in time.
            ConnectionClosed: the connection was closed or gave up first.
            ReplyError: what the broker closed the channel for, such as :class:`NotFound` for a missing exchange.
            InvalidArgument: AMQP cannot carry the message; nothing was sent.
        """
        entry = await self._submit(message, exchange, routing_key, mandatory=mandatory, timeout=timeout)
        entry.is_observed = True
        try:
            return await Publication(entry).wait()
        except BaseException:
            # Cancelled: nobody waits for it any more, so it is not sent again after a loss.
            entry.time_out()
            raise

    async def submit(
        self,
        message: Message,
        *,
        exchange: str = "",
        routing_key: str = "",
        mandatory: bool = True,
        timeout: float | None = DEFAULT_TIMEOUT,
    ) -> Publication:
        """Hand over a message, waiting only for room in the window; see :meth:`publish` for the arguments.

        Returns:
            A handle that can be awaited for the outcome. A failure that nobody awaited is raised by :meth:`flush`.

        Raises:
            PublishTimeout: no room in the window in time.
            ConnectionClosed, InvalidArgument: as for :meth:`publish`.
        """
        return Publication(await self._submit(message, exchange, routing_key, mandatory=mandatory, timeout=timeout))

    async def flush(self) -> None:
        """Wait until everything submitted so far has its outcome.

        Raises:
            ExceptionGroup: the failures since the last flush that nobody awaited, each naming its message.
        """
        # Newest first: its confirm mostly comes last, so there is mostly one wait for the whole window.
        for entry in reversed(list(self._book.unsettled)):
            await entry.wait()
        failures, self._book.failures = self._book.failures, []
        errors = [entry.outcome for entry in failures if isinstance(entry.outcome, Exception) and not entry.is_observed]
        if errors:
            raise ExceptionGroup(f"{len(errors)} publishes failed", errors)

    # --- submitting -------------------------------------------------------------------------------------------------

    async def _submit(
        self, message: Message, exchange: str, routing_key: str, *, mandatory: bool, timeout: float | None
    ) -> Entry:
        size = len(message.body)
        if size > self._max_message_size:
            raise InvalidArgument(f"a body of {size} bytes, but max_message_size is {self._max_message_size}")
        message_id = message.message_id
        if message_id is None:
            message_id = uuid.uuid4().hex
            message = replace(message, message_id=message_id)
        method = build(commands.Basic.Publish, exchange=exchange, routing_key=routing_key, mandatory=mandatory)
        deadline = None if timeout is None else anyio.current_time() + timeout
        entry = Entry(self._book, message, message_id, method, deadline)
        if not self._has_been_entered:
            raise InvalidUse("a publisher works inside its block: async with connection.publisher() as publisher")
        with until(deadline) as scope:
            await self._wait_for_buffer()
            if not self._window.try_take(size):
                self._drop_finished()
                await self._window.take(size)
        if scope.cancelled_caught:
            raise PublishTimeout(message_id, sent=False)
        # No await from here on: the order in which callers got room is the order of the backlog and of the ledger.
        if self._closed is not None:
            self._window.give_back(size)
            raise self._closed_error(self._closed)
        self._book.unsettled[entry] = None
        self._backlog.append(entry)
        self._send_backlog()
        return entry

    async def _wait_for_buffer(self) -> None:
        attachment = self._channel.attachment
        if attachment is not None and attachment.link.is_full:
            await attachment.link.wait_not_full()

    # --- sending and settling; nothing below waits ------------------------------------------------------------------

    def _send_backlog(self) -> None:
        backlog = self._backlog
        while backlog and self._channel.can_publish and not (self._probes and len(self._ledger)):
            entry = backlog.popleft()
            if entry.is_finished(anyio.current_time()):
                self._probes = max(0, self._probes - 1)
                self._leave(entry)
                continue
            try:
                self._channel.publish(entry.method, entry.properties, entry.body)
            except InvalidArgument as error:
                entry.settle(error)
                self._leave(entry)
                continue
            entry.attempts += 1
            self._ledger.add(entry)

    def _drop_finished(self) -> None:
        """Free the room of what waits in the backlog although its deadline is past or its caller was cancelled."""
        now = anyio.current_time()
        backlog, self._backlog = self._backlog, deque()
        for entry in backlog:
            if entry.is_finished(now):
                self._leave(entry)
            else:
                self._backlog.append(entry)
        # Suspects that went with it make the probing end a little late, which costs speed and nothing else.
        self._probes = min(self._probes, len(self._ledger) + len(self._backlog))

    def _leave(self, entry: Entry) -> None:
        """The entry is in neither place any more: its room is free."""
        self._window.give_back(len(entry.body))

    def _take_back(self) -> int:
        """Move what is in the ledger and still wanted in front of the backlog. Returns how many that are."""
        now = anyio.current_time()
        wanted: list[Entry] = []
        for entry in self._ledger.outstanding():
            entry.returned = None
            if entry.is_finished(now):
                self._leave(entry)
            else:
                wanted.append(entry)
        self._ledger = Ledger()
        self._backlog.extendleft(reversed(wanted))
        return len(wanted)

    def _give_up(self) -> None:
        self._registry.discard(self)
        self._close(ChannelClosed("the publisher is closed"))
        self._channel.begin_close()

    def _close(self, error: HoldfastError) -> None:
        if self._closed is None:
            self._closed = error
        for entry in (*self._ledger.outstanding(), *self._backlog):
            entry.settle(self._closed_error(self._closed))
            self._leave(entry)
        self._ledger = Ledger()
        self._backlog.clear()

    def _closed_error(self, error: HoldfastError) -> HoldfastError:
        # One exception a caller: a shared one would collect the traceback of each.
        mine = type(error)(str(error))
        mine.__cause__ = error.__cause__
        return mine

    # --- what the channel tells -------------------------------------------------------------------------------------

    def setup(self) -> Sequence[Method]:
        return [commands.Confirm.Select()]

    def on_ready(self) -> None:
        self._send_backlog()

    def on_method(self, method: Method) -> None:
        if not isinstance(method, commands.Basic.Ack | commands.Basic.Nack):
            return
        tag = method.delivery_tag or 0
        settled = self._ledger.settle(tag, multiple=bool(method.multiple))
        if not settled:
            self._channel.journal.unknown_confirm(tag)
        for entry in settled:
            entry.confirm(is_ack=isinstance(method, commands.Basic.Ack))
            self._leave(entry)
        self._probes = max(0, self._probes - len(settled))
        self._send_backlog()

    def on_content(self, method: Method, message: Message, attachment: Attachment) -> None:  # noqa: ARG002
        if not isinstance(method, commands.Basic.Return):
            return
        # Returns come in the order of the publishes, each before its confirm (RabbitMQ, "Publisher Confirms").
        for entry in self._ledger.outstanding():
            if (
                entry.returned is None
                and entry.method.mandatory
                and entry.message_id == message.message_id
                and entry.method.exchange == method.exchange
                and entry.method.routing_key == (method.routing_key or "")
            ):
                entry.returned = method
                return

    def on_lost(self) -> None:
        self._take_back()

    def on_failed(self, error: HoldfastError) -> None:
        # An error before the channel was ever open is not a publish's: the channel itself cannot be had.
        if not isinstance(error, ReplyError) or not self._channel.has_been_open or self._closed is not None:
            self._close(self._channel.closed_error())
            return
        is_alone = len(self._ledger) == 1
        self._probes = self._take_back()
        if is_alone and self._probes and self._is_guilty(self._backlog[0], error):
            guilty = self._backlog.popleft()
            guilty.settle(error)
            self._leave(guilty)
        if is_alone:
            self._probes = 0
        self._channel = self._new_channel(self)
        try:
            self._channel.register()
        except HoldfastError as refused:
            self._close(refused)

    @staticmethod
    def _is_guilty(entry: Entry, error: ReplyError) -> bool:
        # RabbitMQ names basic.publish when it means a publish. A channel that is closed for another reason is no
        # entry's fault, unless it happens to the same one again and again.
        return error.method == "basic.publish" or entry.attempts >= _ATTEMPTS_BEFORE_BLAME
