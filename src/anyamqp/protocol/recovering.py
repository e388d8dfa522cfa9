"""The decisions of a recovery: when to open which channel again, when the connection may open, and what is not back.

A link goes through the stages of :class:`Stage`. The entities come first (:mod:`anyamqp.protocol.declaring`), then the
channels. The connection opens without those that the broker does not answer for; they come back later.

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
from enum import Enum
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

from anyamqp.errors import AnyamqpError, ChannelLimitReached, RequestTimeout, is_unexplained_close
from anyamqp.protocol.channel import ChannelCore
from anyamqp.protocol.channel_numbers import HIGHEST_CHANNEL
from anyamqp.protocol.connection import ConnectionCore
from anyamqp.protocol.declaring import BeCareful, Declaring, TellFailed
from anyamqp.protocol.lanes import PATIENCE
from anyamqp.protocol.lifecycle.channel import OPENING, ChannelState
from anyamqp.protocol.ports import ChannelOnLink, Consuming
from anyamqp.protocol.topology import Recorded, Topology

P = TypeVar("P", bound=ChannelOnLink)

LONGEST_REOPENING: Final = 10 * PATIENCE
"""Seconds after which the connection opens, however many channels the broker still answers for one by one."""

_DETACHED = (ChannelState.CONNECTING_DETACHED, ChannelState.RECONNECTING_DETACHED)


class Stage(Enum):
    """How far the recovery of a connection is."""

    IDLE = "idle"
    """There is no link to recover on."""
    DECLARING = "declaring"
    CLOSING_LANES = "closing lanes"
    """The channels that declared are being closed; the user's channels may need their numbers."""
    REOPENING = "reopening"
    SETTLED = "settled"
    """The connection may open."""
    LATECOMERS = "latecomers"
    """The connection is open, and not everything is back."""
    COMPLETE = "complete"
    """The connection is open, and everything is back."""


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


Effects: TypeAlias = Sequence[Attach[P] | Fail[P] | Abort | TellFailed | TellNotBack | TellBack]


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
        stage: how far it is.
        is_careful: whether to send one request and to open one channel at a time.
        declaring: declares the entities on the present link; None if there is none, or everything is back.
    """

    __slots__ = (
        "_answer_within",
        "_asked",
        "_candidate",
        "_connection",
        "_earlier_paused",
        "_ends_at",
        "_news_at",
        "_silent_at",
        "_topology",
        "_until",
        "declaring",
        "is_careful",
        "stage",
    )

    def __init__(self, topology: Topology, connection: ConnectionCore[P], *, answer_within: float) -> None:
        self.stage: Stage = Stage.IDLE
        self.is_careful: bool = False
        self.declaring: Declaring | None = None
        self._topology = topology
        self._connection = connection
        self._answer_within = answer_within
        self._earlier_paused: set[ChannelCore[P]] = set()
        """The channels whose pause began on an earlier link. On the present one there is no reason to pause."""
        self._asked: dict[ChannelCore[P], None] = {}
        """The channels that recovery has opened on this link, until it has seen that they are open or closed."""
        self._candidate: ChannelCore[P] | None = None
        """The last channel that was opened carefully."""
        self._news_at = math.inf
        """When something was answered that :meth:`due` has not looked at; infinity if there is nothing."""
        self._silent_at = math.inf
        """When the broker has answered nothing for too long."""
        self._until = math.inf
        """When the present stage ends without an answer."""
        self._ends_at = math.inf
        """When the reopening ends in any case."""

    # --- questions ----------------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether the connection is OPEN on the link, so that only latecomers are waited for."""
        return self.stage in (Stage.LATECOMERS, Stage.COMPLETE)

    @property
    def deadline(self) -> float:
        """When to call :meth:`due` next; infinity for never."""
        if self.stage in (Stage.IDLE, Stage.SETTLED, Stage.COMPLETE):
            return math.inf
        return min(self._news_at, self._until, self._silent_at)

    @property
    def not_back(self) -> tuple[str, ...]:
        """The entities, consumers and channels that are not back on the present link, each with the reason."""
        if self.declaring is None:
            return ()
        consumers = list(self._connection.consumers)
        theirs = {consumer.channel for consumer in consumers}
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
        if self.declaring is None:
            return False
        return self.declaring.holds(queue) if self.is_open else self.declaring.will_declare(queue, now)

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
        self.stage = Stage.DECLARING
        self._asked.clear()
        self._candidate = None
        self._until = self._ends_at = math.inf
        self._earlier_paused = {one for one in connection.unopened if one.state is ChannelState.CONNECTING_PAUSED}
        most = connection.most_channels or HIGHEST_CHANNEL
        self.declaring = Declaring(
            self._topology,
            entities,
            # The channels that there are need the rest.
            most_lanes=max(1, (most - len(connection.channels)) // 2),
            locked_until=locked_until,
            is_careful=self.is_careful,
        )
        self.heard(now)
        return self.declaring

    def heard(self, now: float) -> None:
        """The broker has answered something, or a channel has changed. :meth:`due` decides about it, when everybody
        has heard."""
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
        if self.stage is Stage.DECLARING and self.declaring is not None and self.declaring.is_settled:
            self.stage, self._until = Stage.CLOSING_LANES, now + PATIENCE
        if self.stage is Stage.CLOSING_LANES and (not is_lane_closing or now >= self._until):
            self.stage, self._until = Stage.REOPENING, math.inf
        if self.stage is Stage.REOPENING:
            return self._reopen_carefully() if self.is_careful else self._reopen(now)
        return self._look() if self.stage is Stage.LATECOMERS else []

    def unattached(self, channel: ChannelCore[P], error: AnyamqpError, *, has_lanes: bool) -> Effects[P]:
        """A channel of :class:`Attach` could not be opened.

        Args:
            channel: the channel.
            error: the reason.
            has_lanes: whether a channel is open for declaring.

        Returns:
            Effects; none if it waits for a number, and so do all the others.
        """
        if not (isinstance(error, ChannelLimitReached) and has_lanes):
            return [Fail(channel, error)]
        # A lane has the number, and gives it back when it is done: a late one, after the connection has opened.
        if self.stage is Stage.REOPENING and not self._opening:
            self._until = -math.inf
        return []

    def opened(self) -> Effects[P]:
        """The connection is OPEN on the link."""
        if self.stage is not Stage.SETTLED:
            return []
        self.stage = Stage.LATECOMERS
        missing = self.not_back
        if missing:
            return [TellNotBack(missing)]
        self._complete()
        return []

    def lost(self, error: AnyamqpError | None, now: float) -> Effects[P]:
        """The link has ended. Call it before any channel hears of it."""
        declaring, opening = self.declaring, [] if self.is_open else self._opening
        self.stage, self.declaring = Stage.IDLE, None
        if declaring is None:
            return []
        effects: list[Fail[P] | TellFailed] = []
        was_careful = self.is_careful
        if opening and error is not None and is_unexplained_close(error):
            if was_careful:
                effects.append(Fail(opening[0], error))
            self.is_careful = True
        for effect in declaring.lost(error, now):
            if isinstance(effect, BeCareful):
                self.is_careful = True
            else:
                effects.append(effect)
        return effects

    # --- inside -------------------------------------------------------------------------------------------------------

    def _reopen(self, now: float) -> Effects[P]:
        """Open all channels that are on no link; settle when all are answered for, or for too long none was."""
        detached = self._detached
        is_any_new = any(channel not in self._asked for channel in detached)
        answered = [channel for channel in self._asked if channel.state not in OPENING]
        for channel in answered:
            del self._asked[channel]
        if self._until == math.inf or not all(self.is_off_link(channel) for channel in answered):
            self._until = now + PATIENCE
        self._until = min(self._until, self._ends_at)
        if now >= self._until or not (self._asked or detached):
            return self._settle()
        if is_any_new:
            # To open thousands takes a while. Patience begins after that.
            self._until, self._news_at = math.inf, now
        elif self._ends_at == math.inf:
            self._ends_at = now + LONGEST_REOPENING
        return self._attach(detached)

    def _reopen_carefully(self) -> Effects[P]:
        """Open the next channel when the last one is answered for; settle after the last, or if one stays off."""
        if self._candidate is not None and self._candidate.state in OPENING:
            return []
        detached = self._detached
        if not detached or detached[0] is self._candidate:
            self.is_careful = False
            return self._settle()
        self._candidate = detached[0]
        return self._attach([self._candidate])

    def _settle(self) -> Effects[P]:
        self.stage, self._until = Stage.SETTLED, math.inf
        return self._attach(self._detached)

    def _look(self) -> Effects[P]:
        """Open the channels that can be opened by now; complete when everything is back."""
        detached = self._detached
        if detached:
            return self._attach(detached)
        return [TellBack()] if not self.not_back and self._complete() else []

    def _complete(self) -> bool:
        """Drop all that a recovery needs, if nothing is left to declare. Returns whether that is so."""
        if self.declaring is None or not self.declaring.is_complete:
            return False
        self.stage, self.declaring = Stage.COMPLETE, None
        self._asked.clear()
        self._earlier_paused.clear()
        self._candidate = None
        return True

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
