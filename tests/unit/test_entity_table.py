"""The table of one entity of a recovery, against a plan written by hand (invariant 2)."""

from __future__ import annotations

import pytest

from anyamqp.errors import InvalidTransition
from anyamqp.protocol.lifecycle.entity import ENTITY, EntityEffect, EntityEvent, EntityState
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


@pytest.mark.parametrize(("state", "event", "target"), list(cells_of(PLAN)))
def test_cell(state: str, event: str, target: str) -> None:
    life = ENTITY.begin()
    life.state = EntityState[state]
    if target == "-":
        with pytest.raises(InvalidTransition):
            life.fire(EntityEvent[event])
        return
    step = life.fire(EntityEvent[event])
    assert step.target.name == target
    is_first = state not in ("DECLARED", "FAILED", "GONE")
    assert (EntityEffect.TELL_FAILED in step.effects) is (is_first and target == "FAILED")
    assert (EntityEffect.FREE in step.effects) is (is_first and target in ("DECLARED", "FAILED", "GONE"))
    assert (EntityEffect.PUT_ASIDE in step.effects) is (state != "ASIDE" and target == "ASIDE")
    assert (EntityEffect.REPEAT in step.effects) is (event == "VANISHED" and target == "WAITING")
