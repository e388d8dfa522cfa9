"""Every cell of a recovery's table, through the real recovery, against a plan written by hand (invariant 2)."""

from __future__ import annotations

import pytest

from anyamqp.errors import InternalError, InvalidTransition, ResourceLocked
from anyamqp.protocol.lanes import PATIENCE
from anyamqp.protocol.lifecycle.recovery import RECOVERY, RecoveryEvent, RecoveryState
from support.plans import cells_of
from support.recoveries import UNEXPLAINED, Case

PLAN = """
                      BEGUN             DUE                   DECLARED              LANES_CLOSED      LANES_LATE        ALL_ANSWERED PATIENCE_OVER NO_NUMBER  OPENED       OPENED_EARLY ALL_BACK QUEUE_MISSED          LOST         CLOSED_UNEXPLAINED SUSPECTED
IDLE                  DECLARING         IDLE                  -                     -                 -                 -            -             -          IDLE         -            -        IDLE                  IDLE         -                  CAREFUL_IDLE
DECLARING             -                 DECLARING             CLOSING_LANES         -                 -                 -            -             -          -            -            -        -                     IDLE         -                  -
CLOSING_LANES         -                 CLOSING_LANES         -                     REOPENING         REOPENING         -            -             -          -            -            -        -                     IDLE         -                  -
REOPENING             -                 REOPENING             -                     -                 -                 SETTLED      SETTLED       SETTLED    -            -            -        REOPENING             IDLE         CAREFUL_IDLE       -
CAREFUL_IDLE          CAREFUL_DECLARING CAREFUL_IDLE          -                     -                 -                 -            -             -          CAREFUL_IDLE -            -        CAREFUL_IDLE          CAREFUL_IDLE -                  -
CAREFUL_DECLARING     -                 CAREFUL_DECLARING     CAREFUL_CLOSING_LANES -                 -                 -            -             -          -            -            -        -                     CAREFUL_IDLE -                  -
CAREFUL_CLOSING_LANES -                 CAREFUL_CLOSING_LANES -                     CAREFUL_REOPENING CAREFUL_REOPENING -            -             -          -            -            -        -                     CAREFUL_IDLE -                  -
CAREFUL_REOPENING     -                 CAREFUL_REOPENING     -                     -                 -                 SETTLED      -             SETTLED    -            -            -        CAREFUL_REOPENING     CAREFUL_IDLE CAREFUL_IDLE       -
SETTLED               -                 SETTLED               -                     -                 -                 -            -             SETTLED    COMPLETE     LATECOMERS   -        -                     IDLE         CAREFUL_IDLE       -
LATECOMERS            -                 LATECOMERS            -                     -                 -                 -            -             LATECOMERS -            -            COMPLETE LATECOMERS            IDLE         IDLE               -
COMPLETE              -                 COMPLETE              -                     -                 -                 -            -             -          -            -            -        COMPLETE              IDLE         -                  -
"""  # noqa: E501
"""Where each event leads; "-" if it cannot happen."""

LOCKED = ResourceLocked("our last link has it")
NAMED = InternalError("boom", method="queue.declare")

OPENS: dict[tuple[str, str], list[str]] = {
    ("CLOSING_LANES", "LANES_CLOSED"): ["a", "b", "new"],
    ("CLOSING_LANES", "LANES_LATE"): ["a", "b", "new"],
    ("CAREFUL_CLOSING_LANES", "LANES_CLOSED"): ["a"],
    ("CAREFUL_CLOSING_LANES", "LANES_LATE"): ["a"],
    ("REOPENING", "DUE"): ["new"],
    ("REOPENING", "PATIENCE_OVER"): ["new"],
    ("LATECOMERS", "DUE"): ["new"],
}
"""The channels that are opened."""

QUEUE_FAILED = f"failed queue 'q': {NAMED}"
QUEUE_SUSPECTED = f"failed queue 'q': {UNEXPLAINED}"
NOT_BACK = (
    "queue 'q': the broker does not answer",
    "a: the broker has not answered yet",
    "b: the broker has not answered yet",
    "new: waits for a number",
)
ON_LINK = tuple(state.name for state in RecoveryState if state.name not in ("IDLE", "CAREFUL_IDLE", "COMPLETE"))
TELLS: dict[tuple[str, str], list[object]] = {
    ("SETTLED", "OPENED_EARLY"): [NOT_BACK],
    ("LATECOMERS", "ALL_BACK"): ["back"],
    ("CAREFUL_REOPENING", "CLOSED_UNEXPLAINED"): [f"shut a: {UNEXPLAINED}", QUEUE_SUSPECTED],
    **{(state, "LOST"): [QUEUE_FAILED] for state in ON_LINK},
}
"""What else is asked for."""


def at(name: str) -> Case:
    """A recovery in a state, on a link whose queue "r" is declared, while the broker does not answer for "q"."""
    case, state = Case("a", "b"), RecoveryState[name]
    case.queue("r")
    case.queue("q")
    if is_careful := name.startswith("CAREFUL"):
        case.begin()
        case.lose(UNEXPLAINED)
    if case.state is state:
        return case
    case.is_lane_closing = True
    case.begin(lock_grace=60)
    case.declared("r")
    if case.state is state:
        return case
    if is_careful:
        case.refused("q", LOCKED)
        case.pass_time(0.1)  # it was put aside, and is sent again
    else:
        case.pass_time(PATIENCE)
    if case.state is state:
        return case
    case.is_lane_closing = False
    case.due()
    if case.state is state:
        return case
    case.pass_time(PATIENCE)
    if case.state is state:
        return case
    case.open()
    if case.state is state:
        return case
    case.declared("q")
    case.answer("a", "b")
    assert case.state is state
    return case


def fire(case: Case, event: str) -> None:
    """The event happens."""
    core = case.recovery
    if event == "BEGUN":
        case.begin()
    elif event == "QUEUE_MISSED":
        core.will_declare("r", case.now)
    else:
        error = {"LOST": NAMED, "CLOSED_UNEXPLAINED": UNEXPLAINED}.get(event)
        case.carry_out(core._fire(RecoveryEvent[event], case.now, error))  # pyright: ignore[reportPrivateUsage] - where its events are fired


def test_the_plan_is_whole() -> None:
    assert {state for state, _, _ in cells_of(PLAN)} == {state.name for state in RecoveryState}
    assert {event for _, event, _ in cells_of(PLAN)} == {event.name for event in RecoveryEvent}
    cells = {(state.name, event.name) for state, event in RECOVERY.cells}
    assert cells == {(state, event) for state, event, target in cells_of(PLAN) if target != "-"}


@pytest.mark.parametrize(("state", "event", "target"), list(cells_of(PLAN)))
def test_cell(state: str, event: str, target: str) -> None:
    case = at(state)
    if (state, event) == ("LATECOMERS", "CLOSED_UNEXPLAINED"):
        case.declared("q")  # or it would be suspected
    case.add("new")
    case.opened.clear()
    case.told.clear()
    declaring = case.recovery.declaring
    if target == "-":
        with pytest.raises(InvalidTransition):
            fire(case, event)
        assert case.state.name == state
        assert case.recovery.declaring is declaring
    else:
        fire(case, event)
        assert case.state.name == target
        assert (case.recovery.declaring is None) is (target in ("IDLE", "CAREFUL_IDLE", "COMPLETE"))
    assert case.opened == OPENS.get((state, event), [])
    assert case.told == TELLS.get((state, event), [])


@pytest.mark.parametrize(
    "state", [state for state, event, to in cells_of(PLAN) if event == "QUEUE_MISSED" and to != "-"]
)
def test_a_missing_queue_is_declared_again_while_channels_are_reopened(state: str) -> None:
    is_declared_again = state in ("REOPENING", "CAREFUL_REOPENING")
    case = at(state)
    assert case.recovery.will_declare("r", case.now) is is_declared_again
