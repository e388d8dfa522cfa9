"""A declaring without an event loop, and a broker on the other side that a test plays by hand."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import count

from anyamqp.entities import RecoveryMode
from anyamqp.errors import AnyamqpError, InvalidArgument, ReplyError
from anyamqp.protocol.declaring import BeCareful, CloseLane, Declaring, Effects, Send, TellFailed
from anyamqp.protocol.topology import Recorded, Topology
from anyamqp.wire import methods
from anyamqp.wire.frames import build
from anyamqp.wire.methods import Method


class Owner:
    """A channel that declared something."""

    def fail(self, error: AnyamqpError) -> None:
        """Nobody asks."""


class Declarations:
    """Entities, their declaring on one link, and the requests that the broker has got and not answered.

    Asserts that a queue which the broker names is never asked for twice, nor behind anything else.

    Attributes:
        lanes: the entities whose requests are unanswered on each open channel, by name, the oldest first.
        sent: all that was sent, in its order, by name.
        failed: the entities that failed, by name, with their errors.
        unsendable: names of entities that do not fit the link.
        is_careful: whether the next link is to be treated with care.
        numbers: how many channels may be open; beyond that there is no number.
    """

    def __init__(self) -> None:
        self.topology = Topology(RecoveryMode.EVERYTHING)
        self.now = 100.0
        self.lanes: dict[int, deque[str]] = {}
        self.sent: list[str] = []
        self.failed: list[tuple[str, AnyamqpError]] = []
        self.unsendable: set[str] = set()
        self.numbers: float = math.inf
        self.is_careful = False
        self.declaring = Declaring(self.topology, (), most_lanes=1, locked_until=0.0, is_careful=False)
        self._owner = Owner()
        self._names = count(1)
        self._requests: dict[str, Method] = {}
        """The request that was sent last for each entity, by name."""

    # --- what there is ------------------------------------------------------------------------------------------------

    def exchange(self, *names: str) -> None:
        for name in names:
            self._record(build(methods.Exchange.Declare, exchange=name), methods.Exchange.DeclareOk())

    def queue(self, *names: str) -> None:
        for name in names:
            self._record(build(methods.Queue.Declare, queue=name), methods.Queue.DeclareOk(name, 0, 0))

    def named(self) -> str:
        """A queue that the broker names. Returns its first name."""
        name = f"amq.{next(self._names)}"
        self._record(build(methods.Queue.Declare), methods.Queue.DeclareOk(name, 0, 0))
        return name

    def bind(self, queue: str, exchange: str) -> None:
        self._record(build(methods.Queue.Bind, queue=queue, exchange=exchange), methods.Queue.BindOk())

    def delete(self, queue: str) -> None:
        self._record(build(methods.Queue.Delete, queue=queue), methods.Queue.DeleteOk(0))

    def is_recorded(self, name: str) -> bool:
        """Whether it was not deleted."""
        topology = self.topology
        return name in {_name(one) for one in (*topology.exchanges(), *topology.queues(), *topology.bindings())}

    def _record(self, request: Method, reply: Method) -> None:
        self.topology.record(self._owner, request, reply)

    # --- the link -----------------------------------------------------------------------------------------------------

    def begin(self, *, most_lanes: int = 100, grace: float = 0.0, is_careful: bool = False) -> None:
        """A link is open."""
        self.lanes.clear()
        self.sent.clear()
        topology = self.topology
        self.declaring = Declaring(
            topology,
            [*topology.exchanges(), *topology.queues(), *topology.bindings()],
            most_lanes=most_lanes,
            locked_until=self.now + grace,
            is_careful=is_careful,
        )
        self._carry_out(self.declaring.begin(self.now))

    def answer(self, lane: int, times: int = 1) -> None:
        """The broker declares the oldest one on a lane, and so on."""
        for _ in range(times):
            name = self.lanes[lane].popleft()
            reply = methods.Queue.DeclareOk(f"amq.{next(self._names)}" if name.startswith("amq.") else name, 0, 0)
            self._carry_out(self.declaring.answered(lane, self._requests[name], reply, self.now))

    def answer_all(self) -> None:
        """The broker declares everything that it is asked for."""
        while busy := [lane for lane, names in self.lanes.items() if names]:
            self.answer(busy[0])

    def refuse(self, lane: int, error: ReplyError) -> None:
        """The broker closes the channel of a lane."""
        del self.lanes[lane]
        self._carry_out(self.declaring.refused(lane, error, self.now))

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and have the declaring act whenever it asks for that."""
        until = self.now + seconds
        while self.declaring.deadline <= until:
            self.now = max(self.now, self.declaring.deadline)
            self._carry_out(self.declaring.due(self.now))
        self.now = until

    def lose(self, error: AnyamqpError) -> None:
        """The link ends."""
        for effect in self.declaring.lost(error, self.now):
            if isinstance(effect, BeCareful):
                self.is_careful = True
            else:
                self._carry_out([effect])

    def pending(self) -> dict[str, str]:
        """What is not back, and why."""
        return {_name(recorded): reason for recorded, reason in self.declaring.pending()}

    # --- effects ------------------------------------------------------------------------------------------------------

    def _carry_out(self, effects: Effects) -> None:
        for effect in effects:
            match effect:
                case Send(lane, entities):
                    self._send(lane, entities)
                case CloseLane(lane):
                    assert not self.lanes.pop(lane), "closed with requests on it"
                case TellFailed(recorded, error):
                    self.failed.append((_name(recorded), error))

    def _send(self, lane: int, entities: Sequence[Recorded]) -> None:
        if lane not in self.lanes and len(self.lanes) >= self.numbers:
            self._carry_out(self.declaring.no_channel(lane, self.now))
            return
        in_flight = self.lanes.setdefault(lane, deque())
        refused = [one for one in entities if _name(one) in self.unsendable]
        names = [_name(one) for one in entities if one not in refused]
        self._requests.update((_name(one), one.request) for one in entities)
        for name in names:
            if name.startswith("amq."):
                assert not any(name in sent for sent in self.lanes.values()), "declared twice: the broker makes two"
                assert all(before.startswith("amq.") for before in in_flight), "behind one that may be late"
            in_flight.append(name)
        self.sent += names
        for one in refused:
            self._carry_out(self.declaring.unsendable(lane, one, InvalidArgument("does not fit"), self.now))


def _name(recorded: Recorded) -> str:
    entity = recorded.entity
    return f"{entity.source}->{entity.name}" if entity.source else entity.name
