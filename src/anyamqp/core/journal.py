"""What can be seen: the stream of transitions, the statistics, the log.

Every transition goes through :meth:`Journal.record`, once. Loggers: ``anyamqp.connection`` tells of the connection's
changes (INFO; WARNING for a loss and its reason), ``anyamqp.channel`` and ``anyamqp.link`` of theirs (DEBUG; WARNING
for a failure). Lines of one kind that come too fast are counted instead (see :class:`Journal`).
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Self

import anyio

from anyamqp.errors import printable, reason_of
from anyamqp.net.event_loop import Loop, running_loop
from anyamqp.protocol.lifecycle import ChannelEvent, ConnectionEvent, LinkEvent, State, Transition
from anyamqp.protocol.lifecycle.table import MACHINE_NAME

_LOGGERS = {kind: logging.getLogger(f"anyamqp.{kind}") for kind in ("connection", "channel", "link")}
_CONNECTION = _LOGGERS["connection"]
_ALARMING = (
    ConnectionEvent.LOST,
    ConnectionEvent.BLOCKED,
    ConnectionEvent.FAILED,
    ChannelEvent.FAILED,
)
_LIMITED = {
    ConnectionEvent.BLOCKED: "flapping",
    ConnectionEvent.UNBLOCKED: "flapping",
    ChannelEvent.BLOCKED: "flapping",
    ChannelEvent.UNBLOCKED: "flapping",
    ChannelEvent.FAILED: "failed",
    LinkEvent.SECURED: "flapping",
}
"""Events that a broker or an application can cause as often as it likes, with the kind of their lines."""
_STREAM_BOUND = 1024
_PERIOD = 10.0
"""Seconds in which lines of one kind are counted."""
_MOST_LINES = 20
"""Lines of one kind that are written in a period; those beyond are counted, and told when it is over."""
_MANY_KINDS = 100
"""Kinds of lines watched before those whose period is over are forgotten."""


def _is_not_ours(record: logging.LogRecord) -> bool:
    arguments = record.args
    return not (isinstance(arguments, tuple) and arguments and str(arguments[0]).startswith(f"{MACHINE_NAME}: "))


# The engine below the life cycles logs callbacks at INFO, four lines a transition, of which ours have none.
logging.getLogger("transitions.core").addFilter(_is_not_ours)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """A connection at one moment.

    Attributes:
        state: the connection's state.
        link_number: the present or last link, counted from 1; 0 before the first.
        dials: attempts to connect so far.
        reconnects: how often the connection was lost and came back.
        open_channels: channels in use on the present link.
        unconfirmed: publishes that wait for an outcome.
        blocked_since: when the broker blocked the connection, on the event loop's clock; None if it is not blocked.
        last_error: the last error that cost a link or an attempt; None if there was none.
        stale_acks: acks, nacks and rejects that were not sent because their link was gone.
        unknown_confirms: confirms for a tag that nothing waited for.
        dropped_transitions: transitions that slow readers of the stream missed.
        stalls: how often the event loop was late by more than a quarter of the heartbeat interval.
        bytes_sent, bytes_received: on all links together.
        frames_sent, frames_received: on all links together.
    """

    state: State
    link_number: int
    dials: int
    reconnects: int
    open_channels: int
    unconfirmed: int
    blocked_since: float | None
    last_error: Exception | None
    stale_acks: int
    unknown_confirms: int
    dropped_transitions: int
    stalls: int
    bytes_sent: int
    bytes_received: int
    frames_sent: int
    frames_received: int


class TransitionStream:
    """Transitions as they happen: ``async for transition in connection.transitions()``.

    Begins with the next transition and ends when the connection is closed. It holds the last 1024 that were not yet
    read; a reader that is slower misses the oldest, which :attr:`dropped` counts. It is read on the event loop of the
    connection.

    Args:
        journal: the connection's.
    """

    def __init__(self, journal: Journal) -> None:
        self.dropped: int = 0
        self._journal = journal
        self._loop: Loop = Loop()
        """Where it is read, once it is."""
        self._waiting: deque[Transition] = deque()
        self._ended = False
        self._news = anyio.Event()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Transition:
        """The next transition.

        Raises:
            InvalidUse: the caller is on another event loop than the connection, or in another thread.
        """
        if self._loop.thread is None:
            self._loop = running_loop()
        for loop in (self._journal.loop, self._loop):
            loop.require_here("a stream of transitions")
        while not self._waiting:
            if self._ended:
                raise StopAsyncIteration
            await self._news.wait()
        return self._waiting.popleft()

    def push(self, transition: Transition) -> int:
        """Add one. Returns how many were dropped for it, 0 or 1."""
        self._waiting.append(transition)
        self._wake()
        if len(self._waiting) <= _STREAM_BOUND:
            return 0
        self._waiting.popleft()
        self.dropped += 1
        return 1

    def end(self) -> None:
        """No more will come."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        # A reader that began elsewhere before the connection was entered cannot be woken from here.
        if self._loop.is_here:
            self._news.set()
            self._news = anyio.Event()


class _Printable:
    """An error's text with what is not printable escaped, made when its line is written."""

    __slots__ = ("_error",)

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __str__(self) -> str:
        return printable(str(self._error))


class _Lines:
    """The lines of one kind in one period."""

    __slots__ = ("arguments", "level", "logger", "more", "text", "until", "written")

    def __init__(self, logger: logging.Logger, until: float) -> None:
        self.logger: logging.Logger = logger
        self.until: float = until
        self.written: int = 0
        self.more: int = 0
        """How many were not written; the rest is about these."""
        self.level: int = logging.NOTSET
        self.text: str = ""
        self.arguments: tuple[object, ...] = ()


class Journal:
    """Where a connection and all that belongs to it record what happens.

    Lines that a broker or a handler can cause again and again are limited: of each kind 20 are written in 10 seconds,
    and one line at the end of those says how many more there were.

    Args:
        name: the connection's name, if it has one; the log tells connections apart by it.
        later: calls a function in so many seconds.

    Attributes:
        loop: the event loop of the connection, once it is known.
    """

    def __init__(self, name: str | None, later: Callable[[float, Callable[[], None]], object]) -> None:
        self.loop: Loop = Loop()
        self._later = later
        self._prefix = f"{name}: " if name else ""
        self.dials = 0
        self.reconnects = 0
        self.stale_acks: int = 0
        self.unknown_confirms: int = 0
        self.dropped_transitions: int = 0
        self.stalls: int = 0
        self.last_error: Exception | None = None
        # Weak, so that a stream which nobody reads any more needs no goodbye.
        self._streams: weakref.WeakSet[TransitionStream] = weakref.WeakSet()
        self._ended = False
        self._lines: dict[str, _Lines] = {}

    @property
    def kinds_watched(self) -> int:
        """How many kinds of lines are counted."""
        return len(self._lines)

    def stream(self) -> TransitionStream:
        """A stream of what is recorded from now on.

        Raises:
            InvalidUse: the caller is on another event loop than the connection, or in another thread.
        """
        self.loop.require_here("a connection")
        stream = TransitionStream(self)
        if self._ended:
            stream.end()
        else:
            self._streams.add(stream)
        return stream

    def record(self, transition: Transition) -> None:
        """Log a transition and pass it to the streams."""
        kind = transition.machine.partition(" ")[0]
        logger = _LOGGERS[kind]
        routine = logging.INFO if isinstance(transition.event, ConnectionEvent) else logging.DEBUG
        level = logging.WARNING if transition.event in _ALARMING else routine
        if (limited := _LIMITED.get(transition.event)) is not None:
            self._write(f"{limited} {kind}", logger, level, "%s%s [link %d]", transition, transition.link_number)
        else:
            logger.log(level, "%s%s [link %d]", self._prefix, transition, transition.link_number)
        for stream in self._streams:
            self.dropped_transitions += stream.push(transition)

    def retrying(self, error: Exception, address: str, delay: float) -> None:
        """Log why there is no link, and what comes next."""
        text = "%sno link: %s; dialing %s in %.1f s"
        self._write("retry", _CONNECTION, logging.WARNING, text, reason_of(error), address, delay)

    def not_renewed(self, error: Exception, expires_in: float, delay: float) -> None:
        """Log that the credentials on an open link could not be renewed, and what comes next."""
        when = f"expire in {expires_in:.1f} s" if expires_in > 0 else "have expired"
        text = "%sthe credentials %s and were not renewed: %s; asking again in %.1f s"
        self._write("renewal", _CONNECTION, logging.WARNING, text, when, error, delay)

    def crashed(self, error: Exception) -> None:
        """Log a fault of anyamqp's own, with its traceback."""
        self._write("crash", _CONNECTION, logging.ERROR, "%sfailed by a fault of anyamqp's own", error=error)

    def unexpected(self, error: Exception) -> None:
        """Log an exception that ended an attempt, a link or a timer's call, with its traceback."""
        self._write("unexpected", _CONNECTION, logging.ERROR, "%sunexpected %s", type(error).__name__, error=error)

    def stalled(self, seconds: float) -> None:
        """Log that the event loop was late: something in this process blocks it."""
        self.stalls += 1
        text = "%sthe event loop was blocked for %.1f s: heartbeats were late, the broker may give this client up"
        self._write("stall", _LOGGERS["link"], logging.WARNING, text, seconds)

    def stale_ack(self) -> None:
        """Count an ack, nack or reject that was not sent because its link was gone."""
        self.stale_acks += 1

    def unknown_confirm(self, tag: int) -> None:
        """Log a confirm that nothing waited for."""
        self.unknown_confirms += 1
        text = "%sthe broker confirmed tag %d, which nothing waits for"
        self._write("confirm", _LOGGERS["channel"], logging.WARNING, text, tag)

    def handler_failed(self, queue: str, error: BaseException) -> None:
        """Log what a handler of deliveries raised, with its traceback."""
        text = "%sa handler of queue %r failed"
        self._write(f"handler of {queue}", _LOGGERS["channel"], logging.ERROR, text, queue, error=error)

    def consumer_cancelled(self, queue: str) -> None:
        """Log that the broker cancelled a consumer whose queue is there, which consumes again."""
        text = (
            "%sthe broker cancelled the consumer of queue %r, which is there: an acknowledgement may have taken longer "
            "than consumer_timeout; consuming again"
        )
        self._write(f"cancel of {queue}", _LOGGERS["channel"], logging.WARNING, text, queue)

    def delivery_rejected(self, queue: str, message_id: str | None, failures: int, error: Exception) -> None:
        """Log that a message was rejected: it is dropped, or dead-lettered if its queue says so."""
        text = "%smessage %r of queue %r is rejected after %d failures; the last: %s: %s"
        arguments = (message_id, queue, failures, type(error).__name__, _Printable(error))
        self._write(f"rejections of {queue}", _LOGGERS["channel"], logging.ERROR, text, *arguments)

    def hook_failed(self, hook: str, error: Exception) -> None:
        """Log an exception that a user's hook raised, with its traceback."""
        self._write(hook, _CONNECTION, logging.ERROR, "%s%s raised", hook, error=error)

    def entity_failed(self, entity: str, error: Exception) -> None:
        """Log that something could not be declared again after a reconnect."""
        self.last_error = error
        self._write("entity", _CONNECTION, logging.ERROR, "%s%s could not be recovered: %s", entity, reason_of(error))

    def _write(
        self,
        kind: str,
        logger: logging.Logger,
        level: int,
        text: str,
        *arguments: object,
        error: BaseException | None = None,
    ) -> None:
        """Log a line, unless there were too many of its kind: then count it. ``text`` begins with the prefix."""
        if not logger.isEnabledFor(level):
            return
        now = anyio.current_time()
        lines = self._lines.get(kind)
        if lines is None or (now >= lines.until and not lines.more):
            if len(self._lines) >= _MANY_KINDS:
                self._lines = {key: one for key, one in self._lines.items() if one.more or now < one.until}
            lines = self._lines[kind] = _Lines(logger, now + _PERIOD)
        if lines.written < _MOST_LINES:
            lines.written += 1
            logger.log(level, text, self._prefix, *arguments, exc_info=error)
            return
        if not lines.more:
            self._later(lines.until - now, partial(self._tell_more, kind))
        lines.more += 1
        lines.level, lines.text, lines.arguments = max(level, lines.level), text, arguments

    def _tell_more(self, kind: str) -> None:
        """Log how many lines of a kind were not written."""
        lines = self._lines.pop(kind, None)
        if lines is not None and lines.more:
            text = "%s... and %d more like it within %.0f s; the latest: %s"
            latest = lines.text % ("", *lines.arguments)
            lines.logger.log(lines.level, text, self._prefix, lines.more, _PERIOD, latest)

    def end(self) -> None:
        """The connection is closed: every stream ends after what it still holds."""
        self._ended = True
        for kind in list(self._lines):
            self._tell_more(kind)
        for stream in self._streams:
            stream.end()
