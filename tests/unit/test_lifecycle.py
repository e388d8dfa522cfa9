"""The three tables, held against the design by hand, and the one use of ``transitions`` that runs them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import FrozenInstanceError, dataclass
from enum import Enum
from typing import Any, TypeAlias

import pytest
from transitions import Machine

from anyamqp.errors import InvalidTransition
from anyamqp.protocol.lifecycle import (
    CHANNEL,
    CONNECTION,
    LINK,
    ChannelEvent,
    ChannelState,
    ConnectionEvent,
    ConnectionState,
    LinkEvent,
    LinkState,
    State,
    Transition,
)
from anyamqp.protocol.lifecycle.table import E, F, Ignored, Lifecycle, Row, S, Table

AnyLifecycle: TypeAlias = Lifecycle[Any, Any, Any]
AnyTable: TypeAlias = Table[Any, Any, Any]
Step: TypeAlias = tuple[str, str, str]

CONNECTION_DESIGN = {
    ("CONNECTING_NEW", "started", "CONNECTING_WAITING"),
    ("CONNECTING_WAITING", "due", "CONNECTING_DIALING"),
    ("CONNECTING_DIALING", "refused", "CONNECTING_WAITING"),
    ("CONNECTING_DIALING", "dialed", "CONNECTING_HANDSHAKING"),
    ("CONNECTING_HANDSHAKING", "connected", "CONNECTING_RECOVERING"),
    ("CONNECTING_HANDSHAKING", "lost", "CONNECTING_WAITING"),
    ("CONNECTING_RECOVERING", "lost", "CONNECTING_WAITING"),
    ("CONNECTING_RECOVERING", "opened", "OPEN"),
    ("RECONNECTING_WAITING", "due", "RECONNECTING_DIALING"),
    ("RECONNECTING_DIALING", "refused", "RECONNECTING_WAITING"),
    ("RECONNECTING_DIALING", "dialed", "RECONNECTING_HANDSHAKING"),
    ("RECONNECTING_HANDSHAKING", "connected", "RECONNECTING_RECOVERING"),
    ("RECONNECTING_HANDSHAKING", "lost", "RECONNECTING_WAITING"),
    ("RECONNECTING_RECOVERING", "lost", "RECONNECTING_WAITING"),
    ("RECONNECTING_RECOVERING", "opened", "OPEN"),
    ("OPEN", "lost", "RECONNECTING_WAITING"),
    ("BLOCKED", "lost", "RECONNECTING_WAITING"),
    ("OPEN", "blocked", "BLOCKED"),
    ("BLOCKED", "unblocked", "OPEN"),
    ("CLOSING", "dialed", "CLOSING"),
    ("CLOSING", "connected", "CLOSING"),
    ("CLOSING", "lost", "CLOSING"),
    ("CONNECTING_NEW", "close", "CLOSING"),
    ("CONNECTING_WAITING", "close", "CLOSING"),
    ("CONNECTING_DIALING", "close", "CLOSING"),
    ("CONNECTING_HANDSHAKING", "close", "CLOSING"),
    ("CONNECTING_RECOVERING", "close", "CLOSING"),
    ("RECONNECTING_WAITING", "close", "CLOSING"),
    ("RECONNECTING_DIALING", "close", "CLOSING"),
    ("RECONNECTING_HANDSHAKING", "close", "CLOSING"),
    ("RECONNECTING_RECOVERING", "close", "CLOSING"),
    ("OPEN", "close", "CLOSING"),
    ("BLOCKED", "close", "CLOSING"),
    ("CONNECTING_WAITING", "closed", "CLOSED"),
    ("CONNECTING_DIALING", "closed", "CLOSED"),
    ("CONNECTING_HANDSHAKING", "closed", "CLOSED"),
    ("CONNECTING_RECOVERING", "closed", "CLOSED"),
    ("RECONNECTING_WAITING", "closed", "CLOSED"),
    ("RECONNECTING_DIALING", "closed", "CLOSED"),
    ("RECONNECTING_HANDSHAKING", "closed", "CLOSED"),
    ("RECONNECTING_RECOVERING", "closed", "CLOSED"),
    ("OPEN", "closed", "CLOSED"),
    ("BLOCKED", "closed", "CLOSED"),
    ("CLOSING", "closed", "CLOSED"),
    ("CONNECTING_WAITING", "failed", "CLOSED"),
    ("CONNECTING_DIALING", "failed", "CLOSED"),
    ("CONNECTING_HANDSHAKING", "failed", "CLOSED"),
    ("CONNECTING_RECOVERING", "failed", "CLOSED"),
    ("RECONNECTING_WAITING", "failed", "CLOSED"),
    ("RECONNECTING_DIALING", "failed", "CLOSED"),
    ("RECONNECTING_HANDSHAKING", "failed", "CLOSED"),
    ("RECONNECTING_RECOVERING", "failed", "CLOSED"),
    ("OPEN", "failed", "CLOSED"),
    ("BLOCKED", "failed", "CLOSED"),
    ("CLOSING", "failed", "CLOSED"),
}
CHANNEL_DESIGN = {
    ("CONNECTING_NEW", "registered", "CONNECTING_NEW"),
    ("CONNECTING_NEW", "deferred", "CONNECTING_DETACHED"),
    ("CONNECTING_NEW", "postponed", "CONNECTING_PAUSED"),
    ("CONNECTING_NEW", "attached", "CONNECTING_OPENING"),
    ("CONNECTING_PAUSED", "due", "CONNECTING_PAUSED"),
    ("CONNECTING_PAUSED", "deferred", "CONNECTING_DETACHED"),
    ("CONNECTING_PAUSED", "attached", "CONNECTING_OPENING"),
    ("CONNECTING_DETACHED", "attached", "CONNECTING_OPENING"),
    ("RECONNECTING_DETACHED", "attached", "RECONNECTING_OPENING"),
    ("CONNECTING_OPENING", "opened", "OPEN_HELD"),
    ("RECONNECTING_OPENING", "opened", "OPEN_HELD"),
    ("OPEN_HELD", "ready", "OPEN"),
    ("BLOCKED_HELD", "ready", "BLOCKED_STOPPED"),
    ("OPEN_HELD", "stopped", "BLOCKED_HELD"),
    ("OPEN", "stopped", "BLOCKED_STOPPED"),
    ("BLOCKED_CONNECTION", "stopped", "BLOCKED_TWICE"),
    ("BLOCKED_HELD", "started", "OPEN_HELD"),
    ("BLOCKED_STOPPED", "started", "OPEN"),
    ("BLOCKED_TWICE", "started", "BLOCKED_CONNECTION"),
    ("OPEN", "blocked", "BLOCKED_CONNECTION"),
    ("OPEN_HELD", "blocked", "BLOCKED_CONNECTION"),
    ("BLOCKED_HELD", "blocked", "BLOCKED_TWICE"),
    ("BLOCKED_STOPPED", "blocked", "BLOCKED_TWICE"),
    ("BLOCKED_CONNECTION", "unblocked", "OPEN"),
    ("BLOCKED_TWICE", "unblocked", "BLOCKED_STOPPED"),
    ("CONNECTING_OPENING", "lost", "RECONNECTING_DETACHED"),
    ("OPEN_HELD", "lost", "RECONNECTING_DETACHED"),
    ("OPEN", "lost", "RECONNECTING_DETACHED"),
    ("BLOCKED_HELD", "lost", "RECONNECTING_DETACHED"),
    ("BLOCKED_STOPPED", "lost", "RECONNECTING_DETACHED"),
    ("BLOCKED_CONNECTION", "lost", "RECONNECTING_DETACHED"),
    ("BLOCKED_TWICE", "lost", "RECONNECTING_DETACHED"),
    ("RECONNECTING_OPENING", "lost", "RECONNECTING_DETACHED"),
    ("CONNECTING_NEW", "close", "CLOSING"),
    ("CONNECTING_PAUSED", "close", "CLOSING"),
    ("CONNECTING_DETACHED", "close", "CLOSING"),
    ("CONNECTING_OPENING", "close", "CLOSING"),
    ("OPEN_HELD", "close", "CLOSING"),
    ("OPEN", "close", "CLOSING"),
    ("BLOCKED_HELD", "close", "CLOSING"),
    ("BLOCKED_STOPPED", "close", "CLOSING"),
    ("BLOCKED_CONNECTION", "close", "CLOSING"),
    ("BLOCKED_TWICE", "close", "CLOSING"),
    ("RECONNECTING_DETACHED", "close", "CLOSING"),
    ("RECONNECTING_OPENING", "close", "CLOSING"),
    ("CONNECTING_PAUSED", "leave", "CLOSING"),
    ("CONNECTING_PAUSED", "failed", "CLOSED"),
    ("CONNECTING_DETACHED", "leave", "CLOSING"),
    ("CONNECTING_DETACHED", "failed", "CLOSED"),
    ("CONNECTING_OPENING", "leave", "CLOSING"),
    ("CONNECTING_OPENING", "ended", "CLOSED"),
    ("CONNECTING_OPENING", "failed", "CLOSED"),
    ("OPEN_HELD", "leave", "CLOSING"),
    ("OPEN_HELD", "ended", "CLOSED"),
    ("OPEN_HELD", "failed", "CLOSED"),
    ("OPEN", "leave", "CLOSING"),
    ("OPEN", "ended", "CLOSED"),
    ("OPEN", "failed", "CLOSED"),
    ("BLOCKED_HELD", "leave", "CLOSING"),
    ("BLOCKED_HELD", "ended", "CLOSED"),
    ("BLOCKED_HELD", "failed", "CLOSED"),
    ("BLOCKED_STOPPED", "leave", "CLOSING"),
    ("BLOCKED_STOPPED", "ended", "CLOSED"),
    ("BLOCKED_STOPPED", "failed", "CLOSED"),
    ("BLOCKED_CONNECTION", "leave", "CLOSING"),
    ("BLOCKED_CONNECTION", "ended", "CLOSED"),
    ("BLOCKED_CONNECTION", "failed", "CLOSED"),
    ("BLOCKED_TWICE", "leave", "CLOSING"),
    ("BLOCKED_TWICE", "ended", "CLOSED"),
    ("BLOCKED_TWICE", "failed", "CLOSED"),
    ("RECONNECTING_DETACHED", "leave", "CLOSING"),
    ("RECONNECTING_DETACHED", "failed", "CLOSED"),
    ("RECONNECTING_OPENING", "leave", "CLOSING"),
    ("RECONNECTING_OPENING", "ended", "CLOSED"),
    ("RECONNECTING_OPENING", "failed", "CLOSED"),
    ("CLOSING", "lost", "CLOSING"),
    ("CLOSING", "leave", "CLOSING"),
    ("CLOSING", "ended", "CLOSING"),
    ("CLOSING", "failed", "CLOSING"),
    ("CLOSING", "closed", "CLOSED"),
}
LINK_DESIGN = {
    ("AWAITING_START", "started", "AWAITING_TUNE"),
    ("AWAITING_TUNE", "secured", "AWAITING_TUNE"),
    ("AWAITING_TUNE", "tuned", "AWAITING_OPEN_OK"),
    ("AWAITING_OPEN_OK", "opened", "OPEN"),
    ("OPEN", "blocked", "OPEN"),
    ("OPEN", "unblocked", "OPEN"),
    ("OPEN", "renewed", "OPEN"),
    ("OPEN", "close", "CLOSING"),
    ("CLOSING", "their close-ok", "CLOSED"),
    ("AWAITING_START", "their close", "CLOSED"),
    ("AWAITING_TUNE", "their close", "CLOSED"),
    ("AWAITING_OPEN_OK", "their close", "CLOSED"),
    ("OPEN", "their close", "CLOSED"),
    ("CLOSING", "their close", "CLOSED"),
    ("AWAITING_START", "broken", "CLOSED"),
    ("AWAITING_TUNE", "broken", "CLOSED"),
    ("AWAITING_OPEN_OK", "broken", "CLOSED"),
    ("OPEN", "broken", "CLOSED"),
    ("CLOSING", "broken", "CLOSED"),
    ("AWAITING_START", "died", "CLOSED"),
    ("AWAITING_TUNE", "died", "CLOSED"),
    ("AWAITING_OPEN_OK", "died", "CLOSED"),
    ("OPEN", "died", "CLOSED"),
    ("CLOSING", "died", "CLOSED"),
}


def steps(table: Table[S, E, F]) -> tuple[Step, ...]:
    return tuple((source.name, row.event.value, row.target.name) for row in table.rows for source in row.sources)


@dataclass(frozen=True)
class Kind:
    """One of the machines, with all that its tests need to know."""

    name: str
    table: AnyTable
    states: type[Enum]
    events: type[Enum]
    initial: Enum
    design: set[Step]

    @property
    def steps(self) -> tuple[Step, ...]:
        return steps(self.table)

    def at(self, state: Enum) -> AnyLifecycle:
        """A life cycle that stands in ``state``."""
        lifecycle = self.table.begin()
        lifecycle.state = state
        return lifecycle


KINDS = (
    Kind("connection", CONNECTION, ConnectionState, ConnectionEvent, ConnectionState.CONNECTING_NEW, CONNECTION_DESIGN),
    Kind("channel", CHANNEL, ChannelState, ChannelEvent, ChannelState.CONNECTING_NEW, CHANNEL_DESIGN),
    Kind("link", LINK, LinkState, LinkEvent, LinkState.AWAITING_START, LINK_DESIGN),
)


@pytest.fixture(params=KINDS, ids=[kind.name for kind in KINDS])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each of the three machines in turn."""
    given: Kind = request.param
    return given


def machine_of(table: AnyTable) -> Machine:
    return table._machine  # pyright: ignore[reportPrivateUsage] - the contract is with what it holds


def reachable(design: Iterable[Step], start: str) -> set[str]:
    found = {start}
    while more := {target for source, _, target in design if source in found} - found:
        found |= more
    return found


def test_table_is_the_design(kind: Kind) -> None:
    assert set(kind.steps) == kind.design


def test_no_event_leaves_a_state_twice(kind: Kind) -> None:
    edges = [(source, event) for source, event, _ in kind.steps]
    assert len(edges) == len(set(edges))


def test_every_event_occurs_in_the_table(kind: Kind) -> None:
    assert {event for _, event in kind.table.cells} == set(kind.events)


def test_every_state_is_reachable_from_the_beginning(kind: Kind) -> None:
    assert reachable(kind.steps, kind.initial.name) == set(kind.states.__members__)


def test_closed_is_reachable_from_every_state(kind: Kind) -> None:
    assert all("CLOSED" in reachable(kind.steps, state.name) for state in kind.states)


def test_nothing_leaves_closed(kind: Kind) -> None:
    assert [row for row in kind.table.rows if kind.states["CLOSED"] in row.sources] == []


def test_life_begins_in_the_initial_state(kind: Kind) -> None:
    assert kind.table.begin().state is kind.initial


def test_kind_names_the_machine(kind: Kind) -> None:
    assert kind.table.kind == kind.name


def test_every_step_of_the_design_can_be_taken(kind: Kind) -> None:
    for source, event, target in sorted(kind.design):
        lifecycle = kind.at(kind.states[source])
        lifecycle.fire(kind.events(event))
        assert lifecycle.state is kind.states[target], (source, event)


def test_fire_tells_the_step_and_its_effects(kind: Kind) -> None:
    for row in kind.table.rows:
        for source in row.sources:
            assert kind.at(source).fire(row.event) == (source, row.target, row.effects)


def test_what_is_ignored_changes_nothing_and_has_no_effects(kind: Kind) -> None:
    for (state, event), cell in kind.table.cells.items():
        if isinstance(cell, Ignored):
            lifecycle = kind.at(state)
            assert lifecycle.fire(event) == (state, state, ())
            assert lifecycle.state is state


def test_every_ignored_event_has_a_reason(kind: Kind) -> None:
    assert all(cell.why for cell in kind.table.cells.values() if isinstance(cell, Ignored))


def test_every_other_step_is_refused_and_changes_nothing(kind: Kind) -> None:
    for state in kind.states:
        for event in kind.events:
            if (state, event) not in kind.table.cells:
                lifecycle = kind.at(state)
                with pytest.raises(InvalidTransition):
                    lifecycle.fire(event)
                assert lifecycle.state is state


def test_two_cells_for_one_place_are_refused() -> None:
    text = re.escape("channel: two cells for 'close' in state OPEN")
    with pytest.raises(ValueError, match=text):
        Table(
            "channel",
            State.CONNECTING,
            Row(ChannelEvent.CLOSE, (State.OPEN,), State.CLOSING),
            Ignored(ChannelEvent.CLOSE, (State.OPEN,), "twice"),
        )


def test_refusal_names_machine_state_and_event() -> None:
    lifecycle = LINK.begin()
    lifecycle.state = LinkState.OPEN
    text = re.escape("link: no transition for 'tuned' in state OPEN")
    with pytest.raises(InvalidTransition, match=text) as caught:
        lifecycle.fire(LinkEvent.TUNED)
    assert (caught.value.machine, caught.value.state, caught.value.event) == ("link", "OPEN", "tuned")


def test_refusal_does_not_show_the_engine_below(kind: Kind) -> None:
    absent = (
        (state, event) for state in kind.states for event in kind.events if (state, event) not in kind.table.cells
    )
    state, event = next(absent)
    with pytest.raises(InvalidTransition) as caught:
        kind.at(state).fire(event)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_lives_of_one_kind_are_apart(kind: Kind) -> None:
    first, second = kind.table.begin(), kind.table.begin()
    _, event, _ = next(step for step in sorted(kind.design) if step[0] == kind.initial.name and step[2] != step[0])
    first.fire(kind.events(event))
    assert second.state is kind.initial


def test_machine_is_bound_to_no_model(kind: Kind) -> None:
    kind.table.begin().fire(kind.table.rows[0].event)
    assert machine_of(kind.table).models == []


def test_machine_knows_the_events_of_the_table_and_no_back_doors(kind: Kind) -> None:
    assert set(machine_of(kind.table).events) == {event.value for event in kind.events}


def test_machine_calls_nobody_back(kind: Kind) -> None:
    machine = machine_of(kind.table)
    rows = [row for event in machine.events.values() for rows in event.transitions.values() for row in rows]
    assert rows
    assert [row for row in rows if row.conditions or row.prepare or row.before or row.after] == []
    assert [state for state in machine.states.values() if state.on_enter or state.on_exit] == []
    assert (machine.prepare_event, machine.before_state_change, machine.after_state_change) == ([], [], [])


def test_lifecycle_shows_nothing_that_was_generated(kind: Kind) -> None:
    lifecycle = kind.table.begin()
    lifecycle.fire(kind.table.rows[0].event)
    assert {name for name in dir(lifecycle) if not name.startswith("_")} == {"fire", "state"}
    assert not hasattr(lifecycle, "__dict__")


def test_transition_reads_as_a_line() -> None:
    transition = Transition("channel 3", State.OPEN, ChannelEvent.LOST, State.RECONNECTING, 1.5, None, 2)
    assert str(transition) == "channel 3 OPEN -> RECONNECTING (lost)"


def test_transition_with_a_reason_ends_with_it() -> None:
    transition = Transition("link 2", LinkState.OPEN, LinkEvent.DIED, LinkState.CLOSED, 1.5, "end of stream", 2)
    assert str(transition) == "link 2 OPEN -> CLOSED (died: end of stream)"


def test_transition_cannot_be_changed() -> None:
    transition = Transition("link 1", LinkState.OPEN, LinkEvent.CLOSE, LinkState.CLOSING, 0.0, None, 1)
    with pytest.raises(FrozenInstanceError):
        transition.at = 1.0  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue] - the point of the test
