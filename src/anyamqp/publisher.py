"""Publishing with confirms: every publish ends in exactly one outcome (invariant 3).

A publish is encoded before anything else, so that what AMQP cannot carry is refused while nothing has happened. Then it
takes room in the window, and from there on it is in one of two places: in the *backlog*, waiting to be sent, or in the
*ledger* of the present link, sent and waiting for its confirm. Moving between them never waits, so no order is lost:

* the channel can publish: the backlog empties into the ledger, oldest first;
* the link is lost: the ledger goes back in front of the backlog, in the order of its tags, and the next link gets a new
  ledger, because delivery tags die with their link;
* the broker closes the channel because of a publish. It does not say which one it was, so the publisher makes a new
  channel and *probes*: it sends what was unconfirmed one at a time until the guilty one shows, then goes on at full
  speed;
* the broker closes the channel for anything else: the publisher makes a new one, after growing pauses if that happens
  again and again, and gives up at last;
* the broker nacks a publish that is to be retried: it waits apart for a while, then goes in front of the backlog.

Sending, settling and moving are plain code without an await, called where the link is read or from the publishing task,
so there is no lock and no task per message.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import chain, count, takewhile
from operator import attrgetter
from threading import get_ident
from types import TracebackType
from typing import Any, Final, Never, Self

import anyio
import anyio.lowlevel

from anyamqp.checks import check_flag, check_kind, check_seconds, check_whole
from anyamqp.core.attachment import Attachment
from anyamqp.core.channel import CLOSES_BEFORE_BLAME, ChannelHost, ChannelOwner, LogicalChannel, Publishing
from anyamqp.errors import (
    AnyamqpError,
    ChannelClosed,
    ConnectionBlocked,
    ConnectionForced,
    InvalidArgument,
    InvalidUse,
    PublishTimeout,
    ReplyError,
    Side,
    copy_of,
)
from anyamqp.message import NO_PROPERTIES, Message, Properties, check_message, random_id
from anyamqp.misuse import Entered, surplus_error
from anyamqp.net.timers import Deadlines, Timer
from anyamqp.protocol.confirms import Ledger
from anyamqp.protocol.contents import SAME, Returned
from anyamqp.protocol.events import Confirm, Content
from anyamqp.protocol.reconnect import Reopenings
from anyamqp.publication import (
    MOST_FAILURES,
    UNSET,
    Book,
    Entry,
    Publication,
    Receipt,
    Unset,
    Window,
    Wish,
    deadline_after,
    until,
)
from anyamqp.wire import methods
from anyamqp.wire.basic import Received, Routes, Template, encode_properties
from anyamqp.wire.frames import Method

DEFAULT_TIMEOUT: Final = 60.0
DEFAULT_WINDOW: Final = 256
DEFAULT_WINDOW_BYTES: Final = 16 * 1024 * 1024
_TURN: Final = 64
"""Messages after which submitting lets others run."""
_FIRST_NACK_PAUSE, _LONGEST_NACK_PAUSE = 0.05, 1.0
"""Seconds before what was nacked is sent again; doubled until something is confirmed."""


class Publisher(Entered, ChannelOwner):
    """Publishes with confirms: ``async with connection.publisher() as publisher``.

    Owns one channel for life. When the block ends, everything submitted has its outcome; when it ends with an error,
    what has none is given up. Made by :meth:`Connection.publisher`, which tells of the arguments.
    """

    _block = "async with connection.publisher() as publisher"

    def __init__(
        self,
        host: ChannelHost,
        *,
        registry: set[Publishing],
        exchange: str = "",
        defaults: Properties = NO_PROPERTIES,
        mandatory: bool = True,
        timeout: float | None = DEFAULT_TIMEOUT,
        window: int = DEFAULT_WINDOW,
        window_bytes: int = DEFAULT_WINDOW_BYTES,
        resend: bool = True,
        retry_nacked: bool = False,
        blocked_timeout: float | None = None,
    ) -> None:
        check_kind("defaults", defaults, Properties, 'Properties(app_id="billing")')
        check_seconds("timeout", timeout, none="for ever")
        check_whole("window", window, 1, unit="messages")
        check_whole("window_bytes", window_bytes, 1, unit="bytes")
        check_flag("resend", resend)
        check_flag("retry_nacked", retry_nacked)
        check_seconds("blocked_timeout", blocked_timeout, none="as long as each publish has")
        self._host = host
        self._loop = host.loop
        self._registry = registry
        self._exchange = exchange
        self._defaults = {
            field.name: value for field in fields(Properties) if (value := getattr(defaults, field.name)) is not None
        }
        self._template = None if "message_id" in self._defaults else Template(defaults)
        """The properties of messages that have none of their own."""
        self._routes = Routes()
        self._routes.get(exchange, "", mandatory=mandatory)  # refused here rather than by each publish
        self._id_prefix = f"{random_id()}-"
        self._ids = count(1)
        self._mandatory = mandatory
        self._timeout = timeout
        self._window = Window(window, window_bytes)
        self._resend = resend
        self._retry_nacked = retry_nacked
        self._blocked_timeout = blocked_timeout
        self._channel = LogicalChannel(host, self)
        self._reopenings = Reopenings()
        self._book = Book(max(MOST_FAILURES, window))
        self._backlog: deque[Entry] = deque()
        self._ledger: Ledger[Entry] = Ledger()
        self._submitted_at = 0.0
        self._turn = 0
        """How many were submitted since others had their turn."""
        self._last_returned = 0
        """The tag of the last publish that came back unroutable."""
        self._nacked: list[Entry] = []
        self._nack_pause = _FIRST_NACK_PAUSE
        self._block_timer: Timer | None = None
        self._block_reason = ""
        self._entering: set[anyio.CancelScope] = set()
        """Those who wait for room in the outgoing buffer."""
        self._deadlines = Deadlines(host.later, self._expire)
        self._probes = 0
        """How many entries from the front are still to be sent one at a time."""
        self._closed: AnyamqpError | None = None
        self._has_been_entered = False

    async def __aenter__(self) -> Self:
        self._host.loop.require_here("a publisher")
        if self._has_been_entered:
            raise InvalidUse("a publisher is entered once; make a new one with connection.publisher()")
        self._has_been_entered = True
        self._loop = self._book.loop = self._host.loop
        self._registry.add(self)
        self.on_blocked()  # it may be already
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
        return self._book.unsettled

    async def publish(
        self,
        message: Message,
        *surplus: Never,
        exchange: str | None = None,
        routing_key: str = "",
        mandatory: bool | None = None,
        timeout: float | Unset | None = UNSET,
    ) -> Receipt:
        """Publish a message and wait for the broker's confirm, over reconnects if need be.

        Args:
            message: the message; without a ``message_id`` it gets a random one, by which a consumer can tell a resend.
            surplus: nothing: all else is given by name.
            exchange: where to publish, instead of the publisher's own; empty for the default exchange, which routes to
                the queue named by the key.
            routing_key: the routing key.
            mandatory: whether it is an error if no queue takes the message, instead of the publisher's own.
            timeout: seconds until :class:`PublishTimeout`, instead of the publisher's own; None to wait for ever.

        Raises:
            Unroutable: mandatory, and no queue took it.
            Nacked: the broker refused it, and nacks are not retried.
            PublishTimeout: no outcome in time.
            OutcomeUnknown: the publisher was told not to send again, and a loss caught the confirm.
            ConnectionBlocked: the broker takes no publishes, for longer than ``blocked_timeout``.
            ConnectionClosed: the connection was closed or gave up first.
            ReplyError: what the broker closed the channel for, such as :class:`NotFound` for a missing exchange.
            InvalidArgument: AMQP cannot carry the message; nothing was sent.
            InvalidUse: called on another event loop than the connection's, or outside the publisher's block; nothing
                was sent.
        """
        if surplus:
            raise surplus_error(Publisher.publish)
        entry = self._entry(message, exchange, routing_key, mandatory, timeout)
        if not self._try_enter(entry):
            await self._enter(entry)
        entry.is_observed = True
        self._hand_over(entry, is_awaited=True)
        try:
            if entry.outcome is None:
                entry.waiter = waiter = self._loop.waiter()
                await waiter.wait()
            return entry.receipt()
        except BaseException:
            # Cancelled: nobody waits for it any more, so it is not sent again after a loss.
            entry.time_out()
            raise

    async def submit(
        self,
        message: Message,
        *surplus: Never,
        exchange: str | None = None,
        routing_key: str = "",
        mandatory: bool | None = None,
        timeout: float | Unset | None = UNSET,
    ) -> Publication:
        """Hand over a message, waiting only for room in the window; see :meth:`publish` for the arguments.

        Returns:
            A handle that can be awaited for the outcome. A failure that nobody awaited is raised by :meth:`flush`.

        Raises:
            PublishTimeout: no room in the window in time.
            ConnectionBlocked, ConnectionClosed, InvalidArgument: as for :meth:`publish`.
        """
        if surplus:
            raise surplus_error(Publisher.submit)
        self._turn += 1
        if self._turn >= _TURN:
            self._turn = 0
            await anyio.lowlevel.checkpoint()  # a large window is not to keep the event loop from everybody else
        entry = self._entry(message, exchange, routing_key, mandatory, timeout)
        if not self._try_enter(entry):
            self._turn = 0
            await self._enter(entry)
        self._hand_over(entry)
        return Publication(entry)

    async def flush(self) -> None:
        """Wait until everything submitted so far has its outcome.

        Raises:
            ExceptionGroup: the failures since the last flush that nobody awaited, each naming its message. Of more
                than 1000, or ``window`` if that is more, it has the first and the last, and its text says how many
                there were.
            InvalidUse: called on another event loop than the connection's.
        """
        self._loop.require_here("a publisher")
        # Newest first: its confirm mostly comes last, so there is mostly one wait for the whole window.
        for entry in reversed(self._unsettled()):
            if entry.outcome is None:
                await entry.wait()
        if (failures := self._book.take_failures()) is not None:
            raise failures

    # --- submitting -------------------------------------------------------------------------------------------------

    def _entry(
        self,
        message: Message,
        exchange: str | None,
        routing_key: str,
        mandatory: bool | None,
        timeout: float | Unset | None,
    ) -> Entry:
        if not self._has_been_entered:
            raise InvalidUse(f"a publisher works inside its block: {self._block}")
        loop = self._loop
        if get_ident() != loop.thread or not loop.is_running():
            loop.require_here("a publisher")
        check_message(message, self._host.max_message_size)
        route = self._routes.get(
            self._exchange if exchange is None else exchange,
            routing_key,
            mandatory=self._mandatory if mandatory is None else mandatory,
        )
        properties = message.properties
        if properties is NO_PROPERTIES and self._template is not None:
            message_id = f"{self._id_prefix}{next(self._ids)}"
            encoded = self._template.with_id(message_id)
        else:
            changes = self._changes(properties)
            message_id = changes.get("message_id", properties.message_id) or ""
            encoded = encode_properties(properties, **changes)
        self._submitted_at = now = loop.now()
        if timeout is UNSET:
            deadline = None if self._timeout is None else now + self._timeout
        else:
            deadline = deadline_after(now, timeout)
        return Entry(self._book, route, message_id, encoded, message.body, deadline)

    def _changes(self, properties: Properties) -> dict[str, Any]:
        """What a message with these properties gets from the publisher."""
        changes = {name: value for name, value in self._defaults.items() if getattr(properties, name) is None}
        if properties.headers is not None and "headers" in self._defaults:
            changes["headers"] = {**self._defaults["headers"], **properties.headers}
        if properties.message_id is None and "message_id" not in changes:
            changes["message_id"] = f"{self._id_prefix}{next(self._ids)}"
        return changes

    def _try_enter(self, entry: Entry) -> bool:
        """Take room in the window, if it is there and nobody has to wait for anything."""
        if self._host.block is not None:
            return False
        attachment = self._channel.attachment
        return (attachment is None or not attachment.link.is_full) and self._window.try_take(entry.size)

    def _hand_over(self, entry: Entry, *, is_awaited: bool = False) -> None:
        """Put the entry, which has room, on its way.

        No await between this and the taking of room: the order in which callers got room is the order of the backlog
        and of the ledger.
        """
        if self._closed is not None:
            self._leave(entry)
            raise copy_of(self._closed)
        self._book.add(entry)
        if entry.deadline is not None and entry.deadline < self._deadlines.nearest:
            self._deadlines.add(entry.deadline)
        if self._backlog or self._probes or not self._channel.can_publish or entry.is_finished(self._submitted_at):
            self._backlog.append(entry)
            self._send_backlog()
        else:
            self._send(entry)
            # Where others wait as well, what they publish is better sent together.
            self._channel.flush(is_awaited=is_awaited and len(self._ledger) == 1)

    def _expire(self, now: float) -> float | None:
        """Give those their outcome whose deadline is past; the nearest deadline of the others."""
        self._window.dismiss(now)
        waiting = [entry.deadline for entry in self._unsettled() if not entry.is_finished(now)]
        return min(self._window.nearest, *(deadline for deadline in waiting if deadline is not None), math.inf)

    def _unsettled(self) -> list[Entry]:
        """What has no outcome yet, in the order in which it was submitted."""
        entries = (*self._ledger.outstanding(), *self._nacked, *self._backlog)
        return sorted((entry for entry in entries if entry.outcome is None), key=attrgetter("number"))

    async def _enter(self, entry: Entry) -> None:
        """Wait for room in the outgoing buffer and in the window, and take it."""
        self._raise_if_blocked()
        await self._wait_for_buffer(entry)
        if not self._window.try_take(entry.size):
            self._drop_finished()
            self._deadlines.add(entry.deadline)
            if not await self._window.take(Wish(entry.size, entry.deadline, self._loop.waiter())):
                raise self._refusal(entry)
        if (error := self._blocked_error()) is not None:
            self._leave(entry)
            raise error

    async def _wait_for_buffer(self, entry: Entry) -> None:
        attachment = self._channel.attachment
        if attachment is None or not attachment.link.is_full:
            return
        with until(entry.deadline) as scope:
            self._entering.add(scope)
            try:
                await attachment.link.wait_not_full()
            finally:
                self._entering.discard(scope)
        if scope.cancelled_caught:
            raise self._refusal(entry)

    def _refusal(self, entry: Entry) -> ConnectionBlocked | PublishTimeout:
        """Why there was no room for it: its deadline, or the broker takes no publishes."""
        if entry.deadline is not None and anyio.current_time() >= entry.deadline:
            return PublishTimeout(entry.message_id, sent=False)
        return ConnectionBlocked(self._block_reason)

    def _raise_if_blocked(self) -> None:
        if (error := self._blocked_error()) is not None:
            raise error

    def _blocked_error(self) -> ConnectionBlocked | None:
        block = self._host.block
        if block is None or self._blocked_timeout is None:
            return None
        is_over = anyio.current_time() >= block.since + self._blocked_timeout
        return ConnectionBlocked(block.reason) if is_over else None

    # --- sending and settling; nothing below waits ------------------------------------------------------------------

    def _send_backlog(self) -> None:
        backlog = self._backlog
        while backlog and self._channel.can_publish and not (self._probes and len(self._ledger)):
            entry = backlog.popleft()
            if entry.is_finished(anyio.current_time()):
                self._probes = max(0, self._probes - 1)
                self._leave(entry)
                continue
            self._send(entry)
        self._channel.flush()

    def _send(self, entry: Entry) -> None:
        try:
            self._channel.publish(entry.route, entry.properties, entry.body)
        except InvalidArgument as error:
            entry.settle(error)
            self._leave(entry)
        else:
            entry.attempts += 1
            self._ledger.add(entry)

    def _drop_finished(self) -> None:
        """Free the room of what waits to be sent although its deadline is past or its caller was cancelled."""
        self._backlog = deque(self._unfinished(self._backlog))
        self._nacked = self._unfinished(self._nacked)
        # Suspects that went with it make the probing end a little late, which costs speed and nothing else.
        self._probes = min(self._probes, len(self._ledger) + len(self._backlog))

    def _unfinished(self, entries: Iterable[Entry]) -> list[Entry]:
        now = anyio.current_time()
        unfinished: list[Entry] = []
        for entry in entries:
            if entry.is_finished(now):
                self._leave(entry)
            else:
                unfinished.append(entry)
        return unfinished

    def _leave(self, entry: Entry) -> None:
        """The entry is in neither place any more: its room is free."""
        self._window.give_back(entry.size)
        entry.body = entry.properties = b""

    def _take_back(self) -> int:
        """Move what is in the ledger and still wanted in front of the backlog. Returns how many that are."""
        outstanding = self._ledger.outstanding()
        self._renew_ledger()
        for entry in outstanding:
            entry.returned = None
            entry.was_lost = True
        wanted = self._unfinished(outstanding)
        self._backlog.extendleft(reversed(wanted))
        return len(wanted)

    def _renew_ledger(self) -> None:
        self._ledger = Ledger()
        self._last_returned = 0

    def _lose(self, error: BaseException | None) -> None:
        """What is in the ledger may not be sent again, and nobody knows what became of it."""
        for entry in self._unfinished(self._ledger.outstanding()):
            entry.lose(error)
            self._leave(entry)
        self._renew_ledger()

    def _resend_nacked(self) -> None:
        waiting, self._nacked = self._unfinished(self._nacked), []
        # The broker confirms in any order; the backlog keeps that of the publishes.
        self._backlog.extendleft(sorted(waiting, key=attrgetter("number"), reverse=True))
        self._send_backlog()

    def _fail_unsent(self) -> None:
        """The broker has been taking no publishes for too long."""
        if (error := self._blocked_error()) is None:
            self.on_blocked()  # a timer may come a rounding error too early
            return
        self._block_reason = error.reason
        waiting = self._unfinished([*self._nacked, *self._backlog])
        self._nacked.clear()
        # What a loss caught may be with the broker, so it waits on for an outcome that is true.
        self._backlog = deque(entry for entry in waiting if entry.was_lost)
        for entry in waiting:
            if not entry.was_lost:
                entry.settle(ConnectionBlocked(error.reason))
                self._leave(entry)
        self._window.dismiss(math.inf)
        for scope in self._entering:
            scope.cancel()

    def _give_up(self) -> None:
        self._registry.discard(self)
        self.on_unblocked()
        self._deadlines.cancel()
        self._close(ChannelClosed("the publisher is closed"))
        self._channel.begin_close()

    def _close(self, error: AnyamqpError) -> None:
        if self._closed is None:
            self._closed = error
        for entry in (*self._ledger.outstanding(), *self._nacked, *self._backlog):
            entry.settle(copy_of(self._closed))
            self._leave(entry)
        self._renew_ledger()
        self._nacked.clear()
        self._backlog.clear()

    # --- what the channel tells -------------------------------------------------------------------------------------

    @property
    def awaits_answer(self) -> bool:
        return len(self._ledger) > 0

    def setup(self) -> Sequence[Method]:
        return [methods.Confirm.Select()]

    def on_opened(self) -> None:
        # What is to be sent again goes out when the whole connection is ready.
        self._reopenings.opened(anyio.current_time())

    def on_ready(self) -> None:
        self._send_backlog()

    def on_blocked(self) -> None:
        """The broker takes no publishes."""
        block = self._host.block
        if block is None or self._blocked_timeout is None:
            return
        left = block.since + self._blocked_timeout - anyio.current_time()
        if left <= 0:
            self._fail_unsent()
        else:
            self._block_timer = self._host.later(left, self._fail_unsent)

    def on_unblocked(self) -> None:
        """It does again, or the link is gone."""
        if self._block_timer is not None:
            self._block_timer.cancel()
            self._block_timer = None

    def on_method(self, method: Method) -> None:
        """A publisher's channel has no consumer that the broker could cancel."""

    def on_confirms(self, confirms: Sequence[Confirm]) -> None:
        count = size = 0
        for method in confirms:
            tag = method.delivery_tag or 0
            settled = self._ledger.settle(tag, multiple=bool(method.multiple))
            if not settled:
                self._host.journal.unknown_confirm(tag)
            is_ack = isinstance(method, methods.Basic.Ack)
            if is_ack:
                self._nack_pause = _FIRST_NACK_PAUSE
            elif self._retry_nacked:
                settled = self._retry_later(settled)
            for entry in settled:
                entry.confirm(is_ack=is_ack)
                size += entry.size
            count += len(settled)
        self._window.give_back(size, count)
        if self._reopenings.in_vain:
            self._reopenings.in_vain = 0
        if self._probes:
            self._probes = max(0, self._probes - count)
        if self._backlog:
            self._send_backlog()

    def on_contents(self, contents: Sequence[Content], attachment: Attachment) -> None:  # noqa: ARG002
        for method, message in contents:
            if isinstance(method, methods.Basic.Return):
                self._on_return(method, message)

    def _on_return(self, method: methods.Basic.Return, message: Received) -> None:
        # Each return comes before its confirm, so its publish is in the ledger, be it timed out. The broker may have
        # changed the headers, so it is the closest one.
        returned = Returned(message)
        closest: tuple[int, Entry] | None = None
        least: tuple[float, float] = (math.inf, math.inf)
        for tag, entry in self._returnable(method, returned.message_id):
            distance = returned.distance(entry.properties, entry.body)
            if distance < least:
                closest, least = (tag, entry), distance
            if distance == SAME:
                break
        if closest is not None:
            self._last_returned, entry = closest
            entry.returned = method

    def _returnable(self, method: methods.Basic.Return, message_id: str) -> Iterator[tuple[int, Entry]]:
        """What went where the return says, with that id; first what was sent after the last one that was returned.

        Returns come in the order of the publishes (RabbitMQ, "Publisher Confirms").
        """
        last = self._last_returned
        earlier = takewhile(lambda tagged: tagged[0] <= last, self._ledger.tagged())
        for tag, entry in chain(self._ledger.tagged(last), earlier):
            route = entry.route
            if (
                entry.returned is None
                and entry.message_id == message_id
                and route.mandatory
                and route.exchange == method.exchange
                and route.routing_key == (method.routing_key or "")
            ):
                yield tag, entry

    def on_lost(self, error: AnyamqpError | None) -> None:
        if isinstance(error, ReplyError) and self._may_be_ours(error):
            self._suspect(error)
        elif self._resend:
            self._take_back()
        else:
            self._lose(error)

    def on_failed(self, error: AnyamqpError) -> None:
        # An error before the channel was ever open is not a publish's: the channel itself cannot be had.
        if not isinstance(error, ReplyError) or not self._channel.has_been_open or self._closed is not None:
            self._close(self._channel.closed_error())
            return
        # A publish that the broker names is settled or found out by probing. Anything else may come again at once.
        is_named = error.method == "basic.publish" and len(self._ledger) > 0
        delay = 0.0 if is_named else self._reopenings.closed(anyio.current_time())
        self._suspect(error)
        if delay is None:
            self._close(error)
            return
        self._channel = LogicalChannel(self._host, self)
        try:
            self._channel.register(delay=delay)
        except AnyamqpError as refused:
            self._close(refused)

    def _suspect(self, error: ReplyError) -> None:
        """The broker closed the channel, or the whole link, perhaps because of something in the ledger."""
        suspects = self._ledger.outstanding()
        self._probes = 0
        if len(suspects) == 1:
            suspects[0].closes += 1
        if len(suspects) == 1 and self._is_guilty(suspects[0], error):
            self._renew_ledger()
            suspects[0].settle(error)
            self._leave(suspects[0])
        elif not self._resend:
            self._lose(error)
        else:
            self._probes = self._take_back()

    @staticmethod
    def _may_be_ours(error: ReplyError) -> bool:
        # A publish that the broker cannot even read costs the whole link (501, 502, 541, ...), and would cost every
        # link to come.
        is_hard = error.hard and error.found_by is Side.BROKER and not isinstance(error, ConnectionForced)
        return is_hard and error.method in (None, "basic.publish")

    def _retry_later(self, entries: Sequence[Entry]) -> list[Entry]:
        """Have them sent again, but for those that are past it, which are given back."""
        now = anyio.current_time()
        retried = [entry for entry in entries if not entry.is_finished(now)]
        if retried and not self._nacked:
            self._host.later(self._nack_pause, self._resend_nacked)
            self._nack_pause = min(2 * self._nack_pause, _LONGEST_NACK_PAUSE)
        for entry in retried:
            entry.returned = None
        self._nacked += retried
        return [entry for entry in entries if entry.outcome is not None]

    @staticmethod
    def _is_guilty(entry: Entry, error: ReplyError) -> bool:
        # RabbitMQ names basic.publish when it means a publish. A channel that is closed for another reason is no
        # entry's fault, unless it happens to the same one again and again.
        return error.method == "basic.publish" or entry.closes >= CLOSES_BEFORE_BLAME
