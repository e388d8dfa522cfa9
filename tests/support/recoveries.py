"""A recovery with channels and queues, and the broker, played by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

from anyamqp.entities import RecoveryMode
from anyamqp.errors import AnyamqpError, ChannelLimitReached, InternalError, ReplyError
from anyamqp.protocol.channel import ChannelCore
from anyamqp.protocol.connection import ConnectionCore
from anyamqp.protocol.declaring import DeclaringEffect, Send, TellFailed
from anyamqp.protocol.lifecycle.channel import ChannelEvent, ChannelState
from anyamqp.protocol.lifecycle.recovery import RecoveryState
from anyamqp.protocol.ports import Consuming
from anyamqp.protocol.recovering import Abort, Attach, Effects, Fail, RecoveryCore, TellBack, TellNotBack
from anyamqp.protocol.requests import Request
from anyamqp.protocol.topology import Topology
from anyamqp.wire import methods
from anyamqp.wire.frames import build

ANSWER_WITHIN: Final = 30.0
MOST_ACTS: Final = 1000
"""Acts of a recovery in a row that are too many."""
UNEXPLAINED = InternalError("boom")
RESET = AnyamqpError("reset")
NO_NUMBER = ChannelLimitReached("all are open")


class Consumer:
    """A consumer that is not back as long as its channel is not open."""

    def __init__(self, queue: str, channel: ChannelCore[Any]) -> None:
        self.queue = queue
        self.channel = channel

    @property
    def not_back(self) -> str | None:
        return None if self.channel.state is ChannelState.OPEN_HELD else "the broker has not answered yet"


class OnLink:
    """A channel on a link, and the link, on which nothing happens."""

    def __init__(self, number: int = 1) -> None:
        self.number = number

    @property
    def link(self) -> OnLink:
        return self

    @property
    def session(self) -> OnLink:
        return self

    def attach(self, *_: object) -> int:
        return self.number

    def unanswered(self, _: int) -> Sequence[Request]:
        return ()

    def close_channel(self, _: int) -> None: ...

    def release(self) -> None: ...

    def leave(self) -> None: ...


class Case:
    """A connection with channels, its recovery, and the broker, played by hand.

    Attributes:
        opened: the channels that were opened on this link, in order.
        told: what else the recovery asked for.
        errors: the reasons for which channels cannot be opened.
    """

    def __init__(self, *channels: str) -> None:
        self.topology = Topology(RecoveryMode.EVERYTHING)
        self.connection: ConnectionCore[Any] = ConnectionCore(self.topology, cast(Any, self), OnLink)
        self.recovery: RecoveryCore[Any] = RecoveryCore(self.topology, self.connection, answer_within=ANSWER_WITHIN)
        self.now = 100.0
        self.opened: list[str] = []
        self.told: list[object] = []
        self.errors: dict[str, AnyamqpError] = {}
        self.seconds_to_attach = 0.0
        self.is_lane_closing = self.has_worked = False
        self.channels: dict[str, ChannelCore[Any]] = {}
        self._lanes: dict[str, int] = {}
        """The lane on which each queue was sent last."""
        self._requests: dict[str, methods.Queue.Declare] = {}
        """The request that was sent last for each queue."""
        for name in channels:
            self.add(name)

    def changed(self, *_: object) -> None:
        """The connection records a change of a public state."""
        self.recovery.heard(self.now)

    def add(self, name: str, event: ChannelEvent = ChannelEvent.DEFERRED) -> ChannelCore[Any]:
        channel: ChannelCore[Any] = ChannelCore(name, self.connection, None)
        channel.take(event)
        self.connection.channels[channel] = None
        self.channels[name] = channel
        return channel

    def queue(self, name: str) -> None:
        self.topology.record(cast(Any, self), build(methods.Queue.Declare, queue=name), methods.Queue.DeclareOk(name))

    def consumer(self, queue: str, channel: str) -> None:
        self.connection.consumers.add(cast(Consuming, Consumer(queue, self.channels[channel])))

    # --- what happens -------------------------------------------------------------------------------------------------

    def begin(self, *, lock_grace: float = 0.0) -> None:
        """A link is open."""
        self.opened.clear()
        self.told.clear()
        declaring = self.recovery.begin(list(self.topology.queues()), self.now + lock_grace, self.now)
        self._declare(declaring.begin(self.now))
        self.due()

    def declared(self, queue: str) -> None:
        """The broker answers for a queue."""
        assert self.recovery.declaring is not None
        request, reply = self._requests[queue], methods.Queue.DeclareOk(queue)
        self._declare(self.recovery.declaring.answered(self._lanes[queue], request, reply, self.now))
        self.recovery.heard(self.now)
        self.due()

    def refused(self, queue: str, error: ReplyError) -> None:
        """The broker closes a lane because of a queue."""
        assert self.recovery.declaring is not None
        self._declare(self.recovery.declaring.refused(self._lanes[queue], error, self.now))
        self.recovery.heard(self.now)
        self.due()

    def _declare(self, effects: Sequence[DeclaringEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                for recorded in effect.entities:
                    assert isinstance(recorded.request, methods.Queue.Declare)
                    self._lanes[recorded.request.queue] = effect.lane
                    self._requests[recorded.request.queue] = recorded.request

    def answer(self, *channels: str) -> None:
        """The broker opens channels."""
        for name in channels:
            self.channels[name].take(ChannelEvent.OPENED)
        self.due()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and have the recovery and its declaring act whenever they ask for that."""
        until = self.now + seconds
        for _ in range(MOST_ACTS):
            if self.deadline > until:
                break
            self.now = max(self.now, self.deadline)
            if self.recovery.declaring is not None:
                self._declare(self.recovery.declaring.due(self.now))
            self.due()
        else:
            raise AssertionError("it does not come to rest")
        self.now = until

    @property
    def deadline(self) -> float:
        declaring = self.recovery.declaring
        deadline = self.recovery.deadline
        return deadline if declaring is None else min(deadline, declaring.deadline)

    def due(self) -> None:
        """The recovery acts until it has nothing to do at once."""
        for _ in range(MOST_ACTS):
            self.act()
            if self.recovery.deadline > self.now:
                return
        raise AssertionError("it does not come to rest")

    def act(self) -> None:
        due = self.recovery.due(self.now, is_lane_closing=self.is_lane_closing, has_worked=self.has_worked)
        self.carry_out(due)

    def open(self) -> None:
        """The connection opens."""
        assert self.recovery.state is RecoveryState.SETTLED
        self.carry_out(self.recovery.opened())

    def lose(self, error: AnyamqpError) -> None:
        """The link ends; the channels are detached again."""
        self.carry_out(self.recovery.lost(error, self.now))
        for name in [name for name, channel in self.channels.items() if channel.state is not ChannelState.CLOSED]:
            self.connection.channels.pop(self.channels[name])
            self.add(name)

    def carry_out(self, effects: Effects[Any]) -> None:
        for effect in effects:
            match effect:
                case Attach(channels):
                    self.attach(list(channels))
                case Fail(channel, error):
                    self.told.append(f"shut {channel}: {error}")
                    channel.fail(error)
                case Abort(error):
                    self.told.append(f"abort: {error}")
                case TellFailed(recorded, error):
                    self.told.append(f"failed {recorded.entity}: {error}")
                case TellNotBack(missing):
                    self.told.append(missing)
                case TellBack():
                    self.told.append("back")

    def attach(self, channels: list[ChannelCore[Any]]) -> None:
        for channel in channels:
            self.now += self.seconds_to_attach
            if channel.name not in self.errors:
                assert self.recovery.is_off_link(channel)
                self.opened.append(channel.name)
                channel.attach(cast(Any, OnLink()))
                continue
            effects = self.recovery.unattached(channel, self.errors[channel.name], has_lanes=True)
            if not effects:
                return
            self.carry_out(effects)

    @property
    def state(self) -> RecoveryState:
        return self.recovery.state
