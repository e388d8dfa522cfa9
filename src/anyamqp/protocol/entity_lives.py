"""The entities of one recovery, each with its life cycle, sorted by state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from anyamqp.errors import AnyamqpError, reason_of
from anyamqp.protocol.lifecycle.entity import ENTITY, OVER, UNANSWERED, EntityEffect, EntityEvent, EntityState
from anyamqp.protocol.lifecycle.table import Lifecycle
from anyamqp.protocol.topology import Recorded, Topology
from anyamqp.wire import methods

NAMED, EXCHANGES, QUEUES, BINDINGS = range(4)
"""The kinds of entities, in the order in which their requests are sent. Server-named queues come
first, and are never behind other kinds."""

UNDECIDED: Final = (EntityState.WAITING, EntityState.SENT)
"""The states of entities for which later kinds wait."""

_REASONS: Final = {
    EntityState.WAITING: "waits for its turn",
    EntityState.SENT: "the broker has not answered yet",
    EntityState.LATE: "the broker does not answer",
}


class EntityLife:
    """One entity.

    Attributes:
        recorded: the declaration in the topology.
        kind: one of the kinds above.
        lane: the lane of its latest unanswered request; None if there is none.
        error: the error for which it was last put aside; None if it never was, or is declared again.
        needs: the entity that holds it up, or did so last.
        holds_up: the bindings that it holds up.
    """

    __slots__ = ("error", "holds_up", "kind", "lane", "life", "needs", "recorded")

    def __init__(self, recorded: Recorded) -> None:
        self.recorded: Recorded = recorded
        self.kind: int = _kind_of(recorded)
        self.lane: object | None = None
        self.error: AnyamqpError | None = None
        self.needs: EntityLife | None = None
        self.holds_up: dict[EntityLife, None] = {}
        self.life: Lifecycle[EntityState, EntityEvent, EntityEffect] = ENTITY.begin()

    @property
    def state(self) -> EntityState:
        """The state of its life cycle."""
        return self.life.state

    @property
    def reason(self) -> str:
        """The reason, in words, why it is not declared."""
        if self.state is EntityState.HELD and self.needs is not None:
            return f"waits for {self.needs.recorded.entity}"
        if self.error is not None:
            return reason_of(self.error)
        return _REASONS[self.state]


class EntityLives:
    """The entities of one recovery.

    Args:
        topology: the declarations of the connection.
        entities: the entities to declare, in the order of their declaration.

    Attributes:
        aside: the entities that are put aside, the one that waits longest first.
    """

    def __init__(self, topology: Topology, entities: Sequence[Recorded]) -> None:
        self.aside: dict[EntityLife, None] = {}
        self._topology = topology
        self._all = {recorded: EntityLife(recorded) for recorded in entities}
        self._waiting: tuple[dict[EntityLife, None], ...] = ({}, {}, {}, {})
        self._counts: Counter[EntityState] = Counter()
        self._undecided: Counter[int] = Counter()
        for entity in self._all.values():
            self._entered(entity, EntityState.WAITING)

    def __iter__(self) -> Iterator[EntityLife]:
        return iter(self._all.values())

    def of(self, recorded: Recorded) -> EntityLife | None:
        """An entity of this recovery; None if it is not part of it."""
        return self._all.get(recorded)

    def queue(self, name: str) -> EntityLife | None:
        """The queue whose current or first name this is, if it is part of this recovery."""
        recorded = self._topology.queue(name)
        return None if recorded is None else self.of(recorded)

    def ends(self, entity: EntityLife) -> list[EntityLife]:
        """The entities of this recovery at the ends of a binding; none for an exchange or a queue."""
        ends = [self.of(end) for end in self._topology.ends(entity.recorded)] if entity.kind == BINDINGS else ()
        return [end for end in ends if end is not None]

    def count(self, *states: EntityState) -> int:
        """How many are in one of these states."""
        return sum(self._counts[state] for state in states)

    @property
    def left(self) -> int:
        """Number of entities that are still to be declared."""
        return len(self._all) - self.count(*OVER)

    @property
    def is_any_waiting(self) -> bool:
        """Whether any entity is still to be sent."""
        return self._counts[EntityState.WAITING] > 0

    def is_any_undecided(self, kinds: Sequence[int]) -> bool:
        """Whether any of these kinds is waiting or sent."""
        return any(self._undecided[kind] for kind in kinds)

    def ready(self, kinds: Sequence[int], most: float) -> list[EntityLife]:
        """The first entities of these kinds that may be sent, ``most`` of them at most.

        It skips entities that the topology no longer holds, and holds up bindings of entities that are not decided.
        """
        ready: list[EntityLife] = []
        for kind in kinds:
            for entity in list(self._waiting[kind]):
                if len(ready) >= most:
                    return ready
                if not self._topology.holds(entity.recorded):
                    self.fire(entity, EntityEvent.REPLACED)
                elif (needed := next((end for end in self.ends(entity) if end.state not in OVER), None)) is not None:
                    entity.needs = needed
                    needed.holds_up[entity] = None
                    self.fire(entity, EntityEvent.HELD_UP)
                else:
                    ready.append(entity)
        return ready

    def fire(self, entity: EntityLife, event: EntityEvent) -> Sequence[EntityEffect]:
        """Take an event. Returns the effects that are left to carry out."""
        step = entity.life.fire(event)
        if step.source is not step.target:
            self._left(entity, step.source, step.target)
            self._entered(entity, step.target)
        if EntityEffect.FREE in step.effects:
            for binding in list(entity.holds_up):
                self.fire(binding, EntityEvent.FREED)
        return step.effects

    def _left(self, entity: EntityLife, state: EntityState, target: EntityState) -> None:
        self._counts[state] -= 1
        if state in UNDECIDED:
            self._undecided[entity.kind] -= 1
        if state is EntityState.WAITING:
            del self._waiting[entity.kind][entity]
        elif state is EntityState.ASIDE:
            del self.aside[entity]
        elif state is EntityState.HELD and entity.needs is not None:
            del entity.needs.holds_up[entity]
        elif state in UNANSWERED and target not in UNANSWERED:
            entity.lane = None

    def _entered(self, entity: EntityLife, state: EntityState) -> None:
        self._counts[state] += 1
        if state in UNDECIDED:
            self._undecided[entity.kind] += 1
        if state is EntityState.WAITING:
            self._waiting[entity.kind][entity] = None
        elif state is EntityState.ASIDE:
            self.aside[entity] = None


def _kind_of(recorded: Recorded) -> int:
    if recorded.is_named_by_broker:
        return NAMED
    if isinstance(recorded.request, methods.Exchange.Declare):
        return EXCHANGES
    return QUEUES if isinstance(recorded.request, methods.Queue.Declare) else BINDINGS
