"""Every cell of an entity's table, through the lives of a recovery, against a plan written by hand (invariant 2)."""

from __future__ import annotations

import math

import pytest

from anyamqp.errors import InvalidTransition
from anyamqp.protocol.entity_lives import BINDINGS, QUEUES, EntityLife, EntityLives
from anyamqp.protocol.lifecycle.entity import EntityEffect, EntityEvent, EntityState
from support.declarations import Declarations
from support.plans import cells_of

PLAN = """
         SENT ANSWERED SILENT OVERTAKEN UNDONE  HELD_UP FREED   NOT_YET  DUE     VANISHED REPEATED REFUSED  REPLACED
WAITING  SENT DECLARED -      -         -       HELD    -       ASIDE    -       WAITING  -        FAILED   GONE
SENT     -    DECLARED LATE   WAITING   WAITING -       -       ASIDE    -       WAITING  -        FAILED   -
LATE     -    DECLARED -      -         WAITING -       -       ASIDE    -       WAITING  -        FAILED   -
HELD     -    DECLARED -      -         -       -       WAITING HELD     -       HELD     -        FAILED   -
ASIDE    -    DECLARED -      -         -       -       -       ASIDE    WAITING ASIDE    -        FAILED   -
DECLARED -    DECLARED -      -         -       -       -       DECLARED -       DECLARED WAITING  DECLARED -
FAILED   -    FAILED   -      -         -       -       -       FAILED   -       FAILED   -        FAILED   -
GONE     -    GONE     -      -         -       -       -       GONE     -       GONE     -        GONE     -
"""
"""Where each event leads; "-" if it cannot happen."""


WAYS: dict[str, tuple[str, ...]] = {
    "WAITING": (),
    "SENT": ("SENT",),
    "LATE": ("SENT", "SILENT"),
    "HELD": ("HELD_UP",),
    "ASIDE": ("SENT", "NOT_YET"),
    "DECLARED": ("SENT", "ANSWERED"),
    "FAILED": ("SENT", "REFUSED"),
    "GONE": ("REPLACED",),
}
"""How to come to each state."""


class Recovery:
    """The recovery of a queue in a state, and of a binding that waits for it if it is not decided."""

    def __init__(self, state: str) -> None:
        case = Declarations()
        case.queue("q")
        case.exchange("x")
        case.bind("q", "x")
        self.lives = EntityLives(case.topology, [*case.topology.queues(), *case.topology.bindings()])
        self.queue, self.binding = self.lives
        for event in WAYS[state]:
            self.lives.fire(self.queue, EntityEvent[event])
        self.queue.lane = "lane" if state in ("SENT", "LATE") else None
        self.ready(BINDINGS)
        assert self.queue.state.name == state

    def ready(self, kind: int) -> list[EntityLife]:
        return self.lives.ready((kind,), math.inf)

    def check_books(self) -> None:
        state = self.queue.state
        assert self.ready(QUEUES) == ([self.queue] if state is EntityState.WAITING else [])
        assert list(self.lives.aside) == ([self.queue] if state is EntityState.ASIDE else [])
        assert self.lives.count(state) == (2 if self.binding.state is state else 1)
        assert self.lives.is_any_undecided((QUEUES,)) == (state in (EntityState.WAITING, EntityState.SENT))
        assert state in (EntityState.SENT, EntityState.LATE) or self.queue.lane is None


@pytest.mark.parametrize(("state", "event", "target"), list(cells_of(PLAN)))
def test_cell(state: str, event: str, target: str) -> None:
    recovery = Recovery(state)
    lives, queue, binding = recovery.lives, recovery.queue, recovery.binding
    is_over = state in ("DECLARED", "FAILED", "GONE")
    assert binding.state is (EntityState.WAITING if is_over else EntityState.HELD)
    if target == "-":
        with pytest.raises(InvalidTransition):
            lives.fire(queue, EntityEvent[event])
        assert queue.state.name == state
        assert binding.state is (EntityState.WAITING if is_over else EntityState.HELD)
    else:
        effects = lives.fire(queue, EntityEvent[event])
        assert queue.state.name == target
        is_decided = target in ("DECLARED", "FAILED", "GONE")
        assert binding.state is (EntityState.WAITING if is_over or is_decided else EntityState.HELD)
        assert (EntityEffect.TELL_FAILED in effects) is (not is_over and target == "FAILED")
        assert (EntityEffect.PUT_ASIDE in effects) is (state != "ASIDE" and target == "ASIDE")
        assert (EntityEffect.REPEAT in effects) is (event == "VANISHED" and target == "WAITING")
    recovery.check_books()
