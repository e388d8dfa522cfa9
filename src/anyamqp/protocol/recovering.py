"""The decisions of a recovery: when each channel is opened again, when the connection may open, what is not back.

It follows the table :data:`~anyamqp.protocol.lifecycle.recovery.RECOVERY`. The entities come first
(:mod:`anyamqp.protocol.declaring`), then the channels. The connection opens without those that the broker does not
answer for; they come back later.

* **Patience.** A channel that the broker does not answer for holds the connection for ``PATIENCE`` seconds after the
  last answer for another one, and for ``LONGEST_REOPENING`` seconds at most.
* **Silence.** A link on which the broker answers nothing at all is ended.
* **Careful.** If the broker closes a link and does not name the request that was the reason, recovery on the next link
  sends one request and opens one channel at a time, and waits for each as long as it takes. If the link is closed in
  this way again, recovery gives up the one that was under way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

from anyamqp.errors import AnyamqpError, ChannelLimitReached, RequestTimeout, is_unexplained_close
from anyamqp.protocol.channel import ChannelCore
from anyamqp.protocol.channel_numbers import HIGHEST_CHANNEL
from anyamqp.protocol.connection import ConnectionCore
from anyamqp.protocol.declaring import BeCareful, Declaring, TellFailed
from anyamqp.protocol.lanes import PATIENCE
from anyamqp.protocol.lifecycle.channel import OPENING, ChannelState
from anyamqp.protocol.lifecycle.recovery import (
    CAREFUL,
    OFF_LINK,
    OPEN,
    RECOVERY,
    RecoveryEffect,
    RecoveryEvent,
    RecoveryState,
)
from anyamqp.protocol.ports import ChannelOnLink, Consuming
from anyamqp.protocol.topology import Recorded, Topology

P = TypeVar("P", bound=ChannelOnLink)

LONGEST_REOPENING: Final = 10 * PATIENCE
"""Seconds after which the connection opens, even if the broker still answers for one channel after the other."""

_NOT_WAITING: Final = (*OFF_LINK, RecoveryState.SETTLED, RecoveryState.COMPLETE)
_DETACHED: Final = (ChannelState.CONNECTING_DETACHED, ChannelState.RECONNECTING_DETACHED)


class Attach(NamedTuple, Generic[P]):
    """Open these channels on the link, in order.

    Before each, ask :meth:`RecoveryCore.is_off_link`: an earlier one may have changed it. Call
    :meth:`RecoveryCore.unattached` for one that raises.
    """

    channels: Sequence[ChannelCore[P]]


class Fail(NamedTuple, Generic[P]):
    """Close this channel for good, because of this error."""

    channel: ChannelCore[P]
    error: AnyamqpError


class Abort(NamedTuple):
    """End the link, because of this error."""

    error: AnyamqpError


class TellNotBack(NamedTuple):
    """Tell the user that the connection is open without these."""

    missing: Sequence[str]


class TellBack(NamedTuple):
    """Tell the user that they are back as well."""


Effect: TypeAlias = Attach[P] | Fail[P] | Abort | TellFailed | TellNotBack | TellBack
Effects: TypeAlias = Sequence[Effect[P]]


class RecoveryCore(Generic[P]):
    """The recovery of one connection, on one link after the other.

    Methods for events that may change something at once return effects; the caller carries them out at once, in order.
    ``now`` is in seconds on the event loop's clock.

    Args:
        topology: the declarations of the connection.
        connection: whose channels to reopen.
        answer_within: seconds for an answer. Without a limit, a broker that gives none would hold the connection for
            ever.

    Attributes:
        declaring: declares the entities on the present link; None if there is none, or everything is back.
    """

    __slots__ = (
        "_answer_within",
        "_asked",
        "_connection",
        "_earlier_paused",
        "_ends_at",
        "_is_lane_closing",
        "_lifecycle",
        "_news_at",
        "_silent_at",
        "_topology",
        "_until",
        "declaring",
    )

    def __init__(self, topology: Topology, connection: ConnectionCore[P], *, answer_within: float) -> None:
        self.declaring: Declaring | None = None
        self._lifecycle = RECOVERY.begin()
        self._topology = topology
        self._connection = connection
        self._answer_within = answer_within
        self._earlier_paused: set[ChannelCore[P]] = set()
        """The channels whose pause began on an earlier link. On the present one there is no reason to pause."""
        self._asked: dict[ChannelCore[P], None] = {}
        """The channels that recovery has opened on this link, until it has seen that they are open or closed."""
        self._is_lane_closing = False
        """Whether a lane was closing at the last :meth:`due`."""
        self._news_at = math.inf
        """The time of the last answer that :meth:`due` has not considered yet; infinity if there is none."""
        self._silent_at = math.inf
        """When the broker has answered nothing for too long."""
        self._until = math.inf
        """When the present state ends without an answer."""
        self._ends_at = math.inf
        """When the reopening ends in any case."""

    # --- questions ----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> RecoveryState:
        """The state of its life cycle."""
        return self._lifecycle.state

    @property
    def is_open(self) -> bool:
        """Whether the connection is OPEN on the link, so that only latecomers are waited for."""
        return self.state in OPEN

    @property
    def deadline(self) -> float:
        """When to call :meth:`due` next; infinity for never."""
        if self.state in _NOT_WAITING:
            return math.inf
        return min(self._news_at, self._until, self._silent_at)

    @property
    def not_back(self) -> tuple[str, ...]:
        """The entities, consumers and channels that are not back on the present link, each with the reason."""
        if self.declaring is None:
            return ()
        consumers = list(self._connection.consumers)
        theirs = {consumer.channel for consumer in consumers if consumer.not_back is not None}
        channels = [channel for channel in (*self._opening, *self._detached) if channel not in theirs]
        return (
            *(f"{recorded.entity}: {reason}" for recorded, reason in self.declaring.pending()),
            *(text for consumer in consumers if (text := self._missing(consumer)) is not None),
            *(f"{channel}: {_reason(channel)}" for channel in channels),
        )

    def is_off_link(self, channel: ChannelCore[P]) -> bool:
        """Whether a channel is on no link, and may be opened on the present one."""
        return channel.state in _DETACHED or (
            channel.state is ChannelState.CONNECTING_PAUSED and channel in self._earlier_paused
        )

    def will_declare(self, queue: str, now: float) -> bool:
        """Whether a missing queue will be declared, perhaps once more. Before the connection is OPEN, the call itself
        requests that."""
        is_wanted = RecoveryEffect.DECLARE_AGAIN in self._lifecycle.fire(RecoveryEvent.QUEUE_MISSED).effects
        if self.declaring is None:
            return False
        return self.declaring.will_declare(queue, now) if is_wanted else self.declaring.holds(queue)

    # --- events -------------------------------------------------------------------------------------------------------

    def begin(self, entities: Sequence[Recorded], locked_until: float, now: float) -> Declaring:
        """A link is open.

        Args:
            entities: the entities to declare, in the order of their declaration.
            locked_until: the time until which our last link may hold locks.
            now: the time.

        Returns:
            The declaring of the entities. The caller begins it, and tells of its answers with :meth:`heard`.
        """
        connection = self._connection
        self._fire(RecoveryEvent.BEGUN)
        self._ends_at = math.inf
        self._earlier_paused = {one for one in connection.unopened if one.state is ChannelState.CONNECTING_PAUSED}
        most = connection.most_channels or HIGHEST_CHANNEL
        self.declaring = Declaring(
            self._topology,
            entities,
            # The registered channels need the other numbers.
            most_lanes=max(1, (most - len(connection.channels)) // 2),
            locked_until=locked_until,
            is_careful=self.state in CAREFUL,
        )
        self.heard(now)
        return self.declaring

    def heard(self, now: float) -> None:
        """The broker has answered something, or a channel has changed. The decision waits for :meth:`due`, so that all
        objects have taken the event first."""
        self._news_at = now
        self._silent_at = now + self._answer_within

    def due(self, now: float, *, is_lane_closing: bool, has_worked: bool) -> Effects[P]:
        """:attr:`deadline` may have passed.

        Args:
            now: the time.
            is_lane_closing: whether the close of a channel that declared is not complete.
            has_worked: whether the broker has done any work on the link besides recovery.
        """
        self._news_at = math.inf
        if now >= self._silent_at:
            self._silent_at = now + self._answer_within
            if not has_worked and (request := self._unanswered) is not None:
                return [Abort(RequestTimeout(f"{request}: no answer within {self._answer_within} s"))]
        self._is_lane_closing = is_lane_closing
        return self._fire(RecoveryEvent.DUE, now)

    def unattached(self, channel: ChannelCore[P], error: AnyamqpError, *, has_lanes: bool) -> Effects[P]:
        """A channel of :class:`Attach` could not be opened.

        Args:
            channel: the channel.
            error: the reason.
            has_lanes: whether a channel is open for declaring.

        Returns:
            Effects; none while other channels are being opened, and this one waits for a number.
        """
        if not (isinstance(error, ChannelLimitReached) and has_lanes):
            return [Fail(channel, error)]
        # A lane has the number, and gives it back when it is done: a late one, after the connection has opened.
        return [] if self._opening else self._fire(RecoveryEvent.NO_NUMBER)

    def opened(self) -> Effects[P]:
        """The connection is OPEN on the link."""
        return self._fire(RecoveryEvent.OPENED if self._is_all_back else RecoveryEvent.OPENED_EARLY)

    def lost(self, error: AnyamqpError | None, now: float) -> Effects[P]:
        """The link has ended. Call it before any channel hears of it."""
        is_suspect = bool(self._opening) and is_unexplained_close(error)
        event = RecoveryEvent.CLOSED_UNEXPLAINED if is_suspect else RecoveryEvent.LOST
        return self._fire(event, now, error)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _fire(self, event: RecoveryEvent, now: float = 0.0, error: AnyamqpError | None = None) -> list[Effect[P]]:
        """Fire an event. Returns the effects that are left to the caller."""
        step = self._lifecycle.fire(event)
        if step.target is not step.source:
            self._until = math.inf
        left: list[Effect[P]] = []
        for effect in step.effects:
            left += self._carry_out(effect, now, error)
        return left

    def _carry_out(self, effect: RecoveryEffect, now: float, error: AnyamqpError | None) -> Effects[P]:
        match effect:
            case RecoveryEffect.CHECK_ENTITIES:
                if self.declaring is not None and self.declaring.is_settled:
                    return self._fire(RecoveryEvent.DECLARED, now)
            case RecoveryEffect.AWAIT_LANES:
                self._until = now + PATIENCE
            case RecoveryEffect.CHECK_LANES:
                if not self._is_lane_closing:
                    return self._fire(RecoveryEvent.LANES_CLOSED, now)
                if now >= self._until:
                    return self._fire(RecoveryEvent.LANES_LATE, now)
            case RecoveryEffect.REOPEN:
                return self._reopen(now)
            case RecoveryEffect.REOPEN_NEXT:
                return self._reopen_next()
            case RecoveryEffect.REOPEN_REST:
                return self._attach(self._detached)
            case RecoveryEffect.CHECK_LATECOMERS:
                return self._fire(RecoveryEvent.ALL_BACK) if self._is_all_back else self._attach(self._detached)
            case RecoveryEffect.FAIL_CHANNEL:
                return [] if error is None else [Fail(self._opening[0], error)]
            case RecoveryEffect.LOSE_ENTITIES:
                return self._lose_entities(error, now)
            case RecoveryEffect.FORGET:
                self.declaring = None
                self._asked.clear()
                self._earlier_paused.clear()
            case RecoveryEffect.DECLARE_AGAIN:
                pass  # will_declare does it
            case RecoveryEffect.TELL_NOT_BACK:
                return [TellNotBack(missing)] if (missing := self.not_back) else []
            case RecoveryEffect.TELL_BACK:
                return [TellBack()]
        return []

    def _reopen(self, now: float) -> Effects[P]:
        """Open all channels that are on no link. End when the broker has answered for all, or for too long for none."""
        detached = self._detached
        is_any_new = any(channel not in self._asked for channel in detached)
        answered = [channel for channel in self._asked if channel.state not in OPENING]
        for channel in answered:
            del self._asked[channel]
        if self._until == math.inf or not all(self.is_off_link(channel) for channel in answered):
            self._until = now + PATIENCE
        self._until = min(self._until, self._ends_at)
        if not (self._asked or detached):
            return self._fire(RecoveryEvent.ALL_ANSWERED)
        if now >= self._until:
            return self._fire(RecoveryEvent.PATIENCE_OVER)
        if is_any_new:
            # To open thousands takes a while. Patience begins after that.
            self._until, self._news_at = math.inf, now
        elif self._ends_at == math.inf:
            self._ends_at = now + LONGEST_REOPENING
        return self._attach(detached)

    def _reopen_next(self) -> Effects[P]:
        """Open the next channel when the last one is answered for."""
        if self._opening:
            return []
        detached = self._detached
        return self._attach(detached[:1]) if detached else self._fire(RecoveryEvent.ALL_ANSWERED)

    def _lose_entities(self, error: AnyamqpError | None, now: float) -> Effects[P]:
        """Find out which entities cost the link, if any."""
        left: list[Effect[P]] = []
        for effect in () if self.declaring is None else self.declaring.lost(error, now):
            left += self._fire(RecoveryEvent.SUSPECTED) if isinstance(effect, BeCareful) else [effect]
        return left

    @property
    def _is_all_back(self) -> bool:
        return not self.not_back and (self.declaring is None or self.declaring.is_complete)

    def _attach(self, channels: Sequence[ChannelCore[P]]) -> Effects[P]:
        if not channels:
            return []
        self._asked.update(dict.fromkeys(channels))
        return [Attach(channels)]

    @property
    def _unanswered(self) -> str | None:
        """A request of the recovery that the broker has not answered, in words."""
        entities = [] if self.declaring is None else self.declaring.unanswered
        if entities:
            return f"declaring {entities[0].entity}"
        return "opening a channel" if self._opening else None

    @property
    def _opening(self) -> list[ChannelCore[P]]:
        """The channels that recovery has opened, and the broker has not answered for."""
        return [channel for channel in self._asked if channel.state in OPENING]

    @property
    def _detached(self) -> list[ChannelCore[P]]:
        """The channels to open on the present link; not those of consumers whose queue is still to be declared."""
        held = {consumer.channel for consumer in self._connection.consumers if self._is_held(consumer.queue)}
        off_link = [channel for channel in self._connection.unopened if self.is_off_link(channel)]
        return [channel for channel in off_link if channel not in held]

    def _is_held(self, queue: str) -> bool:
        return self.declaring is not None and self.declaring.holds(queue)

    def _missing(self, consumer: Consuming) -> str | None:
        reason = consumer.not_back
        if reason is None:
            return None
        queue = f"queue {consumer.queue!r}"
        return f"consumer of {queue}: {f'waits for {queue}' if self._is_held(consumer.queue) else reason}"


def _reason(channel: ChannelCore[P]) -> str:
    return "the broker has not answered yet" if channel.state in OPENING else "waits for a number"
