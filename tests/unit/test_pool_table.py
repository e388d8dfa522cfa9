"""Every cell of the table of a channel pool, through the real object, against a plan written by hand (invariant 2)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from anyamqp.errors import InvalidTransition, InvalidUse
from anyamqp.protocol.lending import Lending
from anyamqp.protocol.lifecycle.pool import POOL, PoolEvent, PoolState
from support.plans import cells_of

PLAN = """
        ENTERED BORROWED RETURNED LEFT
NEW     LENDING -        -        -
LENDING -       LENDING  LENDING  CLOSED
CLOSED  -       CLOSED   CLOSED   -
"""
"""The target of each event; "-" if it cannot happen."""

WAYS = {"NEW": (), "LENDING": ("ENTERED",), "CLOSED": ("ENTERED", "LEFT")}
"""The events that lead to each state."""


class Lent:
    """A channel that may be closed."""

    def __init__(self, *, is_usable: bool = True) -> None:
        self.is_usable = is_usable


def borrow(lending: Lending[Lent]) -> None:
    if lending.state is not PoolState.CLOSED:
        assert lending.take() is None
        return
    with pytest.raises(InvalidUse, match="pool is closed"):
        lending.take()


def give_back(lending: Lending[Lent]) -> None:
    is_kept = lending.give_back(Lent())
    assert is_kept is (lending.state is PoolState.LENDING)


ACTS: dict[str, Callable[[Lending[Lent]], object]] = {
    "ENTERED": lambda lending: lending.enter(),
    "BORROWED": borrow,
    "RETURNED": give_back,
    "LEFT": lambda lending: lending.leave(),
}


def test_the_plan_is_whole() -> None:
    assert {state for state, _, _ in cells_of(PLAN)} == {state.name for state in PoolState}
    assert {event for _, event, _ in cells_of(PLAN)} == {event.name for event in PoolEvent}
    cells = {(state.name, event.name) for state, event in POOL.cells}
    assert cells == {(state, event) for state, event, target in cells_of(PLAN) if target != "-"}


@pytest.mark.parametrize(("state", "event", "target"), list(cells_of(PLAN)))
def test_cell(state: str, event: str, target: str) -> None:
    lending: Lending[Lent] = Lending()
    for step in WAYS[state]:
        ACTS[step](lending)
    assert lending.state.name == state
    if target == "-":
        with pytest.raises(InvalidTransition):
            ACTS[event](lending)
    else:
        ACTS[event](lending)
    assert lending.state.name == (state if target == "-" else target)


def test_the_last_channel_given_back_is_lent_first() -> None:
    lending: Lending[Lent] = Lending()
    lending.enter()
    first, second = Lent(), Lent()
    assert lending.give_back(first)
    assert lending.give_back(second)
    assert [lending.take(), lending.take(), lending.take()] == [second, first, None]


def test_closed_channel_is_neither_kept_nor_lent() -> None:
    lending: Lending[Lent] = Lending()
    lending.enter()
    assert not lending.give_back(Lent(is_usable=False))
    closed_later = Lent()
    assert lending.give_back(closed_later)
    closed_later.is_usable = False
    assert lending.take() is None


def test_leaving_yields_the_idle_channels_once() -> None:
    lending: Lending[Lent] = Lending()
    lending.enter()
    idle = Lent()
    lending.give_back(idle)
    assert lending.leave() == [idle]
    with pytest.raises(InvalidUse):
        lending.take()
