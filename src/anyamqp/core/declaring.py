"""Carries out the decisions of a declaring on the channels of one link."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from anyamqp.core.host import ChannelHost
from anyamqp.core.link_channel import LinkChannel
from anyamqp.errors import AnyamqpError, ChannelLimitReached, InvalidArgument, ReplyError
from anyamqp.net.link import Link
from anyamqp.net.timers import Deadlines
from anyamqp.protocol.channel import ChannelCore
from anyamqp.protocol.declaring import CloseLane, Declaring, Effects, Send, TellFailed
from anyamqp.protocol.lifecycle.channel import ChannelEvent, ChannelState
from anyamqp.protocol.ports import ChannelOwner
from anyamqp.protocol.requests import Purpose
from anyamqp.protocol.topology import Recorded
from anyamqp.wire.frames import describe
from anyamqp.wire.methods import Method


class DeclaringShell:
    """The lanes of one link.

    Args:
        host: the connection.
        declaring: the decisions.
        link: the link.
        failed: called with each entity that could not be declared, and the reason.
        news: called when the broker has answered a request or closed a lane.
    """

    def __init__(
        self,
        host: ChannelHost,
        declaring: Declaring,
        link: Link,
        failed: Callable[[Recorded, AnyamqpError], None],
        news: Callable[[], None],
    ) -> None:
        self.declaring: Declaring = declaring
        self._host = host
        self._link = link
        self._failed = failed
        self._news = news
        self._lanes: dict[int, ChannelCore[LinkChannel]] = {}
        self._closing: list[ChannelCore[LinkChannel]] = []
        self._deadlines = Deadlines(host.later, self._expire)

    @property
    def has_lanes(self) -> bool:
        """Whether a channel is open for declaring."""
        return bool(self._lanes) or self.is_closing

    @property
    def is_closing(self) -> bool:
        """Whether the close of one of these channels is not complete, so that its number is not free."""
        self._closing = [channel for channel in self._closing if channel.state is not ChannelState.CLOSED]
        return bool(self._closing)

    def begin(self) -> None:
        """Send the first requests."""
        self._carry_out(self.declaring.begin(self._now()))

    def end(self) -> None:
        """The link has ended, or nothing is left to declare. Call it before any channel learns of the end."""
        self._deadlines.cancel()

    def reset_timer(self) -> None:
        """The deadline of the declaring may have changed."""
        self._deadlines.add(self.declaring.deadline)

    # --- events of the lanes ------------------------------------------------------------------------------------------

    def answered(self, lane: int, request: Method, reply: Method) -> None:
        """The broker answered a request on a lane."""
        self._carry_out(self.declaring.answered(lane, request, reply, self._now()))
        self._news()

    def refused(self, lane: int, error: ReplyError) -> None:
        """The broker closed a lane."""
        del self._lanes[lane]
        self._carry_out(self.declaring.refused(lane, error, self._now()))
        self._news()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return self._host.loop.now()

    def _expire(self, now: float) -> float:
        self._carry_out(self.declaring.due(now))
        self._news()
        return self.declaring.deadline

    def _carry_out(self, effects: Effects) -> None:
        for effect in effects:
            self._do(effect)
        self._deadlines.add(self.declaring.deadline)

    def _do(self, effect: Send | CloseLane | TellFailed) -> None:
        match effect:
            case Send(lane, entities):
                self._send(lane, entities)
            case CloseLane(lane):
                channel = self._lanes.pop(lane)
                channel.take(ChannelEvent.CLOSE)
                self._closing.append(channel)
            case TellFailed(recorded, error):
                self._failed(recorded, error)

    def _send(self, lane: int, entities: Sequence[Recorded]) -> None:
        if lane not in self._lanes:
            channel = self._host.new_channel(_LaneOwner(self, lane))
            try:
                channel.attach(self._link)
            except ChannelLimitReached:
                self._carry_out(self.declaring.no_channel(lane, self._now()))
                return
            self._lanes[lane] = channel
        unsendable: list[tuple[Recorded, InvalidArgument]] = []
        for recorded in entities:
            try:
                self._lanes[lane].send(recorded.request, Purpose.RECOVERY)
            except Exception as error:  # noqa: BLE001 - it costs this entity, not the others
                unsendable.append((recorded, _unsendable(recorded.request, error)))
        for recorded, why in unsendable:
            self._carry_out(self.declaring.unsendable(lane, recorded, why, self._now()))


class _LaneOwner(ChannelOwner):
    """The owner of one lane's channel."""

    def __init__(self, shell: DeclaringShell, lane: int) -> None:
        self._shell = shell
        self._lane = lane

    def on_reply(self, request: Method, reply: Method) -> None:
        self._shell.answered(self._lane, request, reply)

    def on_failed(self, error: AnyamqpError) -> None:
        if isinstance(error, ReplyError):
            self._shell.refused(self._lane, error)


def _unsendable(method: Method, error: Exception) -> InvalidArgument:
    if isinstance(error, InvalidArgument):
        return error
    unsendable = InvalidArgument(f"{describe(method)} cannot be sent: {type(error).__name__}: {error}")
    unsendable.__cause__ = error
    return unsendable
