"""The records of a connection: its log, its counters, its streams of transitions.

:meth:`Journal.record` takes every transition once. The logger ``anyamqp.connection`` has the connection's transitions
(INFO; WARNING for a loss and its reason), ``anyamqp.channel`` and ``anyamqp.link`` have those of channels and links
(DEBUG; WARNING for a failure). Lines that can be frequent are limited (:mod:`anyamqp.core.limited_log`).
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

from anyamqp.core.limited_log import LimitedLog
from anyamqp.core.transition_stream import TransitionStream
from anyamqp.errors import printable, reason_of
from anyamqp.net.event_loop import Loop
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
"""Events that a broker or an application can cause again and again, with the kind of their lines."""
_MOST_NAMED = 5
"""Entities, consumers and channels named in one line."""


def _is_not_ours(record: logging.LogRecord) -> bool:
    arguments = record.args
    return not (isinstance(arguments, tuple) and arguments and str(arguments[0]).startswith(f"{MACHINE_NAME}: "))


# transitions logs callbacks at INFO, four lines for each event, although our machines have no callbacks.
logging.getLogger("transitions.core").addFilter(_is_not_ours)


class _Loss(NamedTuple):
    """A loss that is not over: when and why it began, and how often the connection had dialed by then."""

    at: float
    reason: str | None
    dials: int


class _Printable:
    """An error whose text is made printable when its line is written."""

    __slots__ = ("_error",)

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __str__(self) -> str:
        return printable(str(self._error))


def _some(count: int, noun: str, plural: str) -> str:
    return f"{count} {noun}{'' if count == 1 else plural}"


def _fields_of(transition: Transition) -> dict[str, object]:
    return {
        "machine": transition.machine,
        "event": transition.event.value,
        "from_state": transition.source.name,
        "state": transition.target.name,
        "reason": transition.reason,
        "link": transition.link_number,
    }


def some_of(missing: Sequence[str]) -> str:
    """The first few of many texts, for one line."""
    more = len(missing) - _MOST_NAMED
    return "; ".join(missing[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")


class Journal:
    """The records of one connection with all its channels and links.

    Args:
        name: the connection's name, which begins each line of its log; None for no name.
        later: calls a function after some seconds.

    Attributes:
        loop: the event loop of the connection, once it is known.
        dials: attempts to connect.
        reconnects: how often the connection was lost and came back.
        stale_acks: acks, nacks and rejects that were not sent because their link was gone.
        unknown_confirms: confirms for a tag that nothing waited for.
        dropped_transitions: transitions that slow readers of the streams missed.
        stalls: how often the event loop was late.
        last_error: the last error that ended a link or an attempt.
        listener: called with each transition; None for nobody.
    """

    def __init__(self, name: str | None, later: Callable[[float, Callable[[], None]], object]) -> None:
        self.loop: Loop = Loop()
        self.dials: int = 0
        self.reconnects: int = 0
        self.stale_acks: int = 0
        self.unknown_confirms: int = 0
        self.dropped_transitions: int = 0
        self.stalls: int = 0
        self.last_error: Exception | None = None
        self.listener: Callable[[Transition], None] | None = None
        self._log = LimitedLog(name, later)
        # Weak, so that a stream disappears with its last reader.
        self._streams: weakref.WeakSet[TransitionStream] | None = None
        self._ended = False
        self._loss: _Loss | None = None
        self._blocked_since: float | None = None
        self._blocked_before = 0.0
        """Seconds of the blocks that have ended."""

    def blocked_seconds(self, now: float) -> float:
        """For how long the connection has been BLOCKED."""
        return self._blocked_before + (0.0 if self._blocked_since is None else now - self._blocked_since)

    def stream(self) -> TransitionStream:
        """A stream of the transitions from now on.

        Raises:
            InvalidUse: the caller is on another event loop than the connection, or in another thread.
        """
        self.loop.require_here("a connection")
        stream = TransitionStream(self)
        if self._ended:
            stream.end()
        else:
            if self._streams is None:
                self._streams = weakref.WeakSet()
            self._streams.add(stream)
        return stream

    def record(self, transition: Transition, *, unconfirmed: int = 0) -> None:
        """Log a transition and pass it to the streams.

        Args:
            transition: the transition.
            unconfirmed: for a connection that is back, the publishes that are sent now.
        """
        kind = transition.machine.partition(" ")[0]
        text, fields = "%s%s [link %d]", _fields_of(transition)
        if kind == "connection":
            self._count_blocked(transition)
            text += self._story(transition, unconfirmed, fields)
        logger = _LOGGERS[kind]
        routine = logging.INFO if isinstance(transition.event, ConnectionEvent) else logging.DEBUG
        level = logging.WARNING if transition.event in _ALARMING else routine
        if (limited := _LIMITED.get(transition.event)) is not None:
            arguments = (transition, transition.link_number)
            self._log.write(f"{limited} {kind}", logger, level, text, *arguments, fields=fields)
        elif logger.isEnabledFor(level):
            extra = self._log.fields(fields)
            logger.log(level, text, self._log.prefix, transition, transition.link_number, extra=extra)
        for stream in self._streams or ():
            self.dropped_transitions += stream.push(transition)
        if self.listener is not None:
            self.listener(transition)

    def _story(self, transition: Transition, unconfirmed: int, fields: dict[str, object]) -> str:
        """What a line tells of a loss that is over; its fields get the figures."""
        if transition.event is ConnectionEvent.LOST and self._loss is None:
            self._loss = _Loss(transition.at, transition.reason, self.dials)
        if transition.event is not ConnectionEvent.OPENED or (loss := self._loss) is None:
            return ""
        self._loss = None
        away, dials = transition.at - loss.at, self.dials - loss.dials
        fields |= {"away": away, "dials": dials, "unconfirmed": unconfirmed, "lost_because": loss.reason}
        again = f"; {_some(unconfirmed, 'unconfirmed publish', 'es')} sent" if unconfirmed else ""
        reason = (loss.reason or "no reason is known").replace("%", "%%")
        return f"; away for {away:.1f} s, {_some(dials, 'dial', 's')}{again}; it was lost because: {reason}"

    def _count_blocked(self, transition: Transition) -> None:
        if self._blocked_since is not None:
            self._blocked_before += transition.at - self._blocked_since
            self._blocked_since = None
        if transition.target is State.BLOCKED:
            self._blocked_since = transition.at

    def retrying(self, error: Exception, address: str, delay: float) -> None:
        """Log the reason why there is no link, and the delay of the next dial."""
        text, why = "%sno link: %s; dialing %s in %.1f s", reason_of(error)
        fields = {"reason": why, "address": address, "delay": delay}
        self._log.write("retry", _CONNECTION, logging.WARNING, text, why, address, delay, fields=fields)

    def not_renewed(self, error: Exception, expires_in: float, delay: float) -> None:
        """Log that the credentials on an open link could not be renewed, and the delay of the next attempt."""
        when = f"expire in {expires_in:.1f} s" if expires_in > 0 else "have expired"
        text = "%sthe credentials %s and were not renewed: %s; asking again in %.1f s"
        fields = {"reason": str(error), "expires_in": expires_in, "delay": delay}
        self._log.write("renewal", _CONNECTION, logging.WARNING, text, when, error, delay, fields=fields)

    def crashed(self, error: Exception) -> None:
        """Log a bug of anyamqp, with its traceback."""
        self._log.write("crash", _CONNECTION, logging.ERROR, "%sfailed by a fault of anyamqp's own", error=error)

    def unexpected(self, error: Exception) -> None:
        """Log an exception that ended an attempt, a link or a timer's call, with its traceback."""
        self._log.write("unexpected", _CONNECTION, logging.ERROR, "%sunexpected %s", type(error).__name__, error=error)

    def stalled(self, seconds: float) -> None:
        """Log that this process blocked its event loop."""
        self.stalls += 1
        text = "%sthe event loop was blocked for %.1f s: heartbeats were late, so the broker may drop this connection"
        self._log.write("stall", _LOGGERS["link"], logging.WARNING, text, seconds, fields={"seconds": seconds})

    def stale_ack(self) -> None:
        """Count an ack, nack or reject that was not sent because its link was gone."""
        self.stale_acks += 1

    def unknown_confirm(self, tag: int) -> None:
        """Log a confirm that nothing waited for."""
        self.unknown_confirms += 1
        text = "%sthe broker confirmed tag %d, which nothing waits for"
        self._log.write("confirm", _LOGGERS["channel"], logging.WARNING, text, tag, fields={"delivery_tag": tag})

    def handler_failed(self, queue: str, error: BaseException) -> None:
        """Log an exception that a handler of deliveries raised, with its traceback."""
        text, kind, fields = "%sa handler of queue %r failed", f"handler of {queue}", {"queue": queue}
        self._log.write(kind, _LOGGERS["channel"], logging.ERROR, text, queue, error=error, fields=fields)

    def consumer_cancelled(self, queue: str) -> None:
        """Log that the broker cancelled a consumer whose queue still exists, and that it consumes again."""
        text = (
            "%sthe broker cancelled the consumer of queue %r, which exists: an acknowledgement may have taken longer "
            "than consumer_timeout; consuming again"
        )
        fields = {"queue": queue}
        self._log.write(f"cancel of {queue}", _LOGGERS["channel"], logging.WARNING, text, queue, fields=fields)

    def delivery_rejected(self, queue: str, message_id: str | None, failures: int, error: Exception) -> None:
        """Log that a message was rejected, which drops it unless its queue dead-letters it."""
        text = "%smessage %r of queue %r is rejected after %d failures; the last: %s: %s"
        arguments = (message_id, queue, failures, type(error).__name__, _Printable(error))
        fields = {"queue": queue, "message_id": message_id, "failures": failures, "error_type": type(error).__name__}
        self._log.write(f"rejections of {queue}", _LOGGERS["channel"], logging.ERROR, text, *arguments, fields=fields)

    def hook_failed(self, hook: str, error: Exception) -> None:
        """Log an exception that a user's hook raised, with its traceback."""
        self._log.write(hook, _CONNECTION, logging.ERROR, "%s%s raised", hook, error=error, fields={"hook": hook})

    def entity_failed(self, entity: str, error: Exception) -> None:
        """Log that an entity could not be declared again after a reconnect."""
        self.last_error = error
        text, why = "%s%s could not be recovered: %s", reason_of(error)
        self._log.write(
            "entity", _CONNECTION, logging.ERROR, text, entity, why, fields={"entity": entity, "reason": why}
        )

    def not_back(self, missing: Sequence[str]) -> None:
        """Log that the connection is open without some of its entities, consumers or channels."""
        text = "%sopen, but not everything is back; retrying: %s"
        self._log.write(
            "recovery", _CONNECTION, logging.WARNING, text, some_of(missing), fields={"missing": tuple(missing)}
        )

    def back(self) -> None:
        """Log that the rest is back as well."""
        self._log.write("recovery", _CONNECTION, logging.INFO, "%severything is back")

    def end(self) -> None:
        """Write the counts of lines, and end the streams: the connection is closed."""
        self._ended = True
        self._log.write_counts()
        for stream in self._streams or ():
            stream.end()
