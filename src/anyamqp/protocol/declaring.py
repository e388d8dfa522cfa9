"""Declares exchanges, queues and bindings again on a new link, so that none waits for another without need.

The order is exchanges, queues, bindings. A step begins when each entity of the step before is declared, failed, late or
put aside. It sends its requests without waiting in between on a *lane*, a channel that belongs to recovery. A binding
waits for its own ends only.

* **Late.** A broker may take a minute and more to answer for one queue (RabbitMQ: a classic queue whose node is down),
  and executes no later request on the same channel meanwhile. If a lane is silent for ``PATIENCE`` seconds, the entity
  at its head is late. It keeps the lane; the entities behind it are sent again on other lanes, whose number doubles
  each time that a lane becomes late. A declare or bind may be sent twice, except for a server-named queue: each declare
  would make another queue. Such a queue is sent only behind others of its kind, and stays on its lane.
* **Put aside.** Our last link may lock an entity (405), until the broker notices the end of that link (RabbitMQ: two to
  three heartbeat intervals). The entity is tried again after pauses, until the grace is over.
* **Repeated.** When the broker notices that end, it deletes the link's exclusive and auto-delete entities: an exchange
  after our declare and before our bind, for example. So if an entity that was just declared is missing (404), the pass
  begins anew, a few times, before an entity fails.
* **Careful.** A broker may close the whole link for a request, which then fails. If the broker does not name the
  method, or several lanes wait for an answer to it, the next link sends one request at a time, and the request in
  flight at another close fails.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice
from typing import Final, NamedTuple, TypeAlias

from anyamqp.errors import AnyamqpError, NotFound, ReplyError, ResourceLocked, is_unexplained_close
from anyamqp.protocol.entity_lives import BINDINGS, EXCHANGES, NAMED, QUEUES, EntityLife, EntityLives
from anyamqp.protocol.lanes import Lane, Lanes
from anyamqp.protocol.lifecycle.entity import OVER, UNANSWERED, EntityEffect, EntityEvent, EntityState
from anyamqp.protocol.pauses import Pauses
from anyamqp.protocol.topology import Recorded, Topology
from anyamqp.wire.frames import method_name
from anyamqp.wire.methods import Method

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE_FOR_LOCKS: Final = 2.0
_LONGEST_PAUSE: Final = 10.0
"""Seconds between attempts at an entity that was put aside, and before a pass that begins anew."""

_MOST_REPEATS: Final = 3
"""Passes on one link besides the first."""

_FEW: Final = 16
"""Requests sent at a time after a refusal, doubled with each success: the broker executes no request behind a refused
one, and a thousand refusals among ten thousand entities would mean millions of requests. Entities that were put aside
are tried again in groups of the same size."""

_STEPS: Final = ((EXCHANGES,), (NAMED, EXCHANGES, QUEUES), (NAMED, EXCHANGES, QUEUES, BINDINGS))
"""The kinds that may be sent in each step."""


class Send(NamedTuple):
    """Send these requests on the channel of this lane, in order.

    Open a channel for a new lane first; if no number is free, call :meth:`Declaring.no_channel` instead. Call
    :meth:`Declaring.unsendable` for each request that cannot be sent.
    """

    lane: int
    entities: Sequence[Recorded]


class CloseLane(NamedTuple):
    """Close the channel of this lane: no more requests are sent on it."""

    lane: int


class TellFailed(NamedTuple):
    """Tell the user that this entity is not recovered, because of this error."""

    recorded: Recorded
    error: AnyamqpError


class BeCareful(NamedTuple):
    """Be careful on the next link: the broker closed this one, and did not name the request that was the reason."""


class Pending(NamedTuple):
    """An entity that is not recovered yet, and the reason in words."""

    recorded: Recorded
    reason: str


DeclaringEffect: TypeAlias = Send | CloseLane | TellFailed
Effects: TypeAlias = Sequence[DeclaringEffect]


class Declaring:
    """Declares the entities of a connection on one link.

    Each method for an event returns effects; the caller carries them out at once, in order. ``now`` is in seconds on
    the event loop's clock.

    Args:
        topology: the declarations of the connection; it learns the new names of server-named queues.
        entities: the entities to declare, in the order of their declaration.
        most_lanes: the most channels that may be open for declaring.
        locked_until: the time until which our last link may hold locks.
        is_careful: whether to send one request at a time, and to wait for each answer as long as it takes.
    """

    def __init__(
        self,
        topology: Topology,
        entities: Sequence[Recorded],
        *,
        most_lanes: int,
        locked_until: float,
        is_careful: bool,
    ) -> None:
        self._is_careful = is_careful
        self._topology = topology
        self._entities = EntityLives(topology, entities)
        self._lanes = Lanes(most_lanes)
        self._locked_until = locked_until
        self._batch: float = 1 if is_careful else math.inf
        """How many requests are sent at a time on a lane."""
        self._step = 0
        self._aside_until = math.inf
        self._aside_pauses = Pauses(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._repeat_at = math.inf
        """When the pass begins anew; nothing is sent before."""
        self._repeat_pauses = Pauses(_FIRST_PAUSE, _LONGEST_PAUSE, free=1)

    # --- questions ----------------------------------------------------------------------------------------------------

    @property
    def is_settled(self) -> bool:
        """Whether everything is answered except for entities that are late, put aside, or wait for one of these."""
        return not self._entities.count(EntityState.SENT) and self._repeat_at == math.inf

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to declare."""
        return not self._entities.left and self._repeat_at == math.inf

    @property
    def deadline(self) -> float:
        """When to call :meth:`due` next; infinity for never."""
        overdue_at = math.inf if self._is_careful else self._lanes.overdue_at
        is_waiting = self._entities.is_any_waiting and self._repeat_at == math.inf
        resume_at = self._lanes.resume_at if is_waiting else math.inf
        return min(overdue_at, resume_at, self._aside_until, self._repeat_at)

    @property
    def unanswered(self) -> list[Recorded]:
        """The entities whose requests are unanswered."""
        return [one.recorded for one in self._entities if one.state in UNANSWERED]

    def pending(self) -> list[Pending]:
        """The entities that are not recovered yet, each with the reason."""
        return [Pending(one.recorded, one.reason) for one in self._entities if one.state not in OVER]

    def holds(self, queue: str) -> bool:
        """Whether this queue is still to be declared."""
        entity = self._entities.queue(queue)
        return entity is not None and entity.state not in OVER

    def will_declare(self, queue: str, now: float) -> bool:
        """Whether a missing queue will be declared, perhaps once more. The call itself requests that."""
        entity = self._entities.queue(queue)
        if entity is None or entity.state in (EntityState.FAILED, EntityState.GONE):
            return False
        if entity.state is EntityState.DECLARED:
            if entity.kind == NAMED or not self._may_repeat:
                return False
            self._repeat(now)
        return True

    # --- events -------------------------------------------------------------------------------------------------------

    def begin(self, now: float) -> Effects:
        """The link is open."""
        return self._proceed(now)

    def answered(self, number: int, request: Method, reply: Method, now: float) -> Effects:
        """A request on a lane succeeded."""
        lane = self._lanes[number]
        entity = lane.take(request)
        lane.heard_at = now
        self._topology.declared_again(entity.recorded, reply)
        self._fire(entity, EntityEvent.ANSWERED, now)
        if entity.error is not None:
            # The reason for which it was put aside may be over for other entities as well.
            entity.error = None
            self._aside_pauses.reset()
            self._retry(list(self._entities.aside), now)
        if not lane.in_flight:
            if not lane.is_late and not self._is_careful:
                self._batch *= 2
            lane.is_late = False
        elif not self._entities.is_any_waiting:
            return ()
        return self._proceed(now)

    def refused(self, number: int, error: ReplyError, now: float) -> Effects:
        """The broker closed a lane for its oldest request, and executed no later one."""
        lane = self._lanes.remove(number)
        if not self._is_careful:
            self._batch = _FEW
        effects: Effects = ()
        if lane.in_flight:
            entity = lane.in_flight.popleft()
            effects = self._fire(entity, self._meaning(entity, error, now), now, error)
        self._undo(lane, now)
        return [*effects, *self._proceed(now)]

    def unsendable(self, number: int, recorded: Recorded, error: AnyamqpError, now: float) -> Effects:
        """A request was not sent: AMQP or the link cannot carry it. Call it after carrying out :class:`Send`."""
        lane = self._lanes[number]
        entity = lane.take(recorded.request)
        effects = self._fire(entity, EntityEvent.REFUSED, now, error)
        return effects if lane.in_flight else [*effects, *self._proceed(now)]

    def no_channel(self, number: int, now: float) -> Effects:
        """No number is free for the channel of a lane. Call it instead of carrying out :class:`Send`."""
        self._undo(self._lanes.remove(number), now)
        self._lanes.not_to_be_had(now + self._aside_pauses.next())
        return ()

    def lost(self, error: AnyamqpError | None, now: float) -> Sequence[TellFailed | BeCareful]:
        """The link has ended. Call no other method for an event after this."""
        suspects = [suspect for lane in self._lanes if (suspect := _suspect(lane, error)) is not None]
        if len(suspects) == 1 and (self._is_careful or not is_unexplained_close(error)):
            return self._fire(suspects[0], EntityEvent.REFUSED, now, error)
        return [BeCareful()] if suspects else ()

    def due(self, now: float) -> Effects:
        """:attr:`deadline` may have passed."""
        if not self._is_careful:
            for lane in self._lanes.overdue(now):
                self._overtake(lane, now)
        if now >= self._aside_until:
            self._retry(list(islice(self._entities.aside, _FEW)), now)
        if now >= self._repeat_at:
            self._repeat_at = math.inf
            self._step = 0
            for entity in self._entities:
                if entity.state is EntityState.DECLARED and entity.kind != NAMED:
                    self._fire(entity, EntityEvent.REPEATED, now)
        return self._proceed(now)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _proceed(self, now: float) -> Effects:
        """Send the requests that can be sent now. If none is left and all answers are in, close the lanes."""
        if self._repeat_at < math.inf:
            return ()
        idle = self._lanes.idle()
        places = len(idle) + self._lanes.room(now)
        most = places * self._batch if places else 0
        ready = self._entities.ready(_STEPS[self._step], most)
        while not ready and self._step + 1 < len(_STEPS) and not self._entities.is_any_undecided(_STEPS[self._step]):
            self._step += 1
            ready = self._entities.ready(_STEPS[self._step], most)
        if ready:
            size = int(min(self._batch, math.ceil(len(ready) / places)))
            parts = [ready[first : first + size] for first in range(0, len(ready), size)]
            return [self._send(idle.pop(0) if idle else self._lanes.new(), part, now) for part in parts]
        if self._entities.is_any_undecided(_STEPS[-1]):
            return ()
        return [CloseLane(self._lanes.remove(lane.number).number) for lane in idle]

    def _send(self, lane: Lane, entities: Sequence[EntityLife], now: float) -> Send:
        lane.heard_at = now
        for entity in entities:
            self._fire(entity, EntityEvent.SENT, now)
            entity.lane = lane
            lane.in_flight.append(entity)
        return Send(lane.number, [entity.recorded for entity in entities])

    def _overtake(self, lane: Lane, now: float) -> None:
        """Note that the entity at the head of the lane is late. Those behind it will be sent on other lanes."""
        lane.is_late = True
        for place, entity in enumerate(lane.in_flight):
            if entity.lane is lane:
                stays = place == 0 or entity.kind == NAMED
                self._fire(entity, EntityEvent.SILENT if stays else EntityEvent.OVERTAKEN, now)

    def _undo(self, lane: Lane, now: float) -> None:
        for entity in lane.in_flight:
            if entity.lane is lane:
                self._fire(entity, EntityEvent.UNDONE, now)

    def _meaning(self, entity: EntityLife, error: ReplyError, now: float) -> EntityEvent:
        """The meaning of an error that closed a lane."""
        if isinstance(error, ResourceLocked) and now < self._locked_until:
            return EntityEvent.NOT_YET
        if isinstance(error, NotFound):
            if entity.kind in (NAMED, QUEUES):
                # RabbitMQ would make a missing queue, so the queue exists and its node is down.
                return EntityEvent.NOT_YET
            is_declared = any(end.state is EntityState.DECLARED for end in self._entities.ends(entity))
            if self._may_repeat and is_declared:
                return EntityEvent.VANISHED
        return EntityEvent.REFUSED

    @property
    def _may_repeat(self) -> bool:
        return self._repeat_at < math.inf or self._repeat_pauses.taken < _MOST_REPEATS

    def _repeat(self, now: float) -> None:
        if self._repeat_at == math.inf:
            self._repeat_at = now + self._repeat_pauses.next()

    def _retry(self, entities: Sequence[EntityLife], now: float) -> None:
        """Try again entities that were put aside."""
        self._aside_until = math.inf
        for entity in entities:
            self._fire(entity, EntityEvent.DUE, now)
        self._pause_aside(now)

    def _pause_aside(self, now: float) -> None:
        if self._entities.aside and self._aside_until == math.inf:
            longest = _LONGEST_PAUSE_FOR_LOCKS if now < self._locked_until else _LONGEST_PAUSE
            self._aside_until = now + min(self._aside_pauses.next(), longest)

    def _fire(
        self, entity: EntityLife, event: EntityEvent, now: float, error: AnyamqpError | None = None
    ) -> list[TellFailed]:
        effects: list[TellFailed] = []
        for effect in self._entities.fire(entity, event):
            if effect is EntityEffect.PUT_ASIDE:
                entity.error = error
                self._pause_aside(now)
            elif effect is EntityEffect.REPEAT:
                self._repeat(now)
            elif effect is EntityEffect.TELL_FAILED and error is not None:
                effects.append(TellFailed(entity.recorded, error))
        return effects


def _suspect(lane: Lane, error: AnyamqpError | None) -> EntityLife | None:
    """The entity on a lane for which the broker may have closed the whole link."""
    if is_unexplained_close(error):
        return lane.in_flight[0] if lane.in_flight else None
    if not isinstance(error, ReplyError) or error.method is None:
        return None
    return next((one for one in lane.in_flight if method_name(one.recorded.request) == error.method), None)
