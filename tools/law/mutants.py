"""The mutants of a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from itertools import pairwise, product
from typing import Any, NamedTuple, TypeAlias

from transitions.core import Event

from anyamqp.protocol.lifecycle.table import Cell, Ignored, Row, Table

AnyTable: TypeAlias = Table[Any, Any, Any]
AnyCell: TypeAlias = Cell[Any, Any, Any]
Place: TypeAlias = tuple[Enum, Enum]
"""A state and an event."""

KINDS = (
    "refuse nothing",
    "row absent",
    "row redirected",
    "effect dropped",
    "effects swapped",
    "ignored absent",
    "absent ignored",
)
"""In the order of the score."""


class Mutant(NamedTuple):
    """A table that differs in some cells.

    Attributes:
        kind: one of :data:`KINDS`.
        name: the place and the difference.
        cells: the cells that differ; None for one that is absent.
    """

    kind: str
    name: str
    cells: Mapping[Place, AnyCell | None]


def places(table: AnyTable) -> Iterator[Place]:
    """Each state with each event of a table."""
    events = (event for _, event in table.cells)
    return product(_members(table.initial), _members(next(events)))


def _members(one: Enum) -> tuple[Enum, ...]:
    """All members of its kind."""
    return tuple(type(one))


def mutants(table: AnyTable) -> Iterator[Mutant]:
    """The coarsest mutant, which refuses nothing, and then the mutants of each cell."""
    absent = [place for place in places(table) if place not in table.cells]
    yield Mutant("refuse nothing", "refuses nothing", {place: _ignored(place) for place in absent})
    for place in places(table):
        state, event = place
        at = f"{state.name}, {event.name}"
        cell = table.cells.get(place)
        if cell is None:
            yield Mutant("absent ignored", f"{at}: ignored", {place: _ignored(place)})
        elif isinstance(cell, Ignored):
            yield Mutant("ignored absent", f"{at}: absent", {place: None})
        else:
            yield Mutant("row absent", f"{at}: absent", {place: None})
            for target in _members(state):
                if target is not cell.target:
                    other = Row(event, (state,), target, cell.effects)
                    yield Mutant("row redirected", f"{at}: to {target.name}", {place: other})
            yield from _with_other_effects(cell, place, at)


def sample(table: AnyTable, every: int) -> Iterator[Mutant]:
    """The coarsest mutant, and each ``every``-th of the others."""
    return (mutant for number, mutant in enumerate(mutants(table)) if number % every == 0)


def _with_other_effects(row: Row[Any, Any, Any], place: Place, at: str) -> Iterator[Mutant]:
    state, event = place
    effects = row.effects
    for index, effect in enumerate(effects):
        fewer = Row(event, (state,), row.target, (*effects[:index], *effects[index + 1 :]))
        yield Mutant("effect dropped", f"{at}: without {effect.name}", {place: fewer})
    for index, (first, second) in enumerate(pairwise(effects)):
        swapped = (*effects[:index], second, first, *effects[index + 2 :])
        other = Row(event, (state,), row.target, swapped)
        yield Mutant("effects swapped", f"{at}: {second.name} before {first.name}", {place: other})


def _ignored(place: Place) -> Ignored[Any, Any]:
    state, event = place
    return Ignored(event, (state,), "a mutant")


def put_in_place(mutant: Mutant, table: AnyTable) -> None:
    """Make the table, which objects hold on to, the mutant."""
    events = {event for _, event in table.cells}
    cells: dict[Place, AnyCell | None] = {**table.cells, **mutant.cells}
    alone = (cell._replace(sources=(state,)) for (state, _), cell in cells.items() if cell is not None)
    other: AnyTable = Table(table.kind, table.initial, *alone)
    machine = vars(other)["_machine"]
    for event in events:  # an event without cells is refused like any other
        machine.events.setdefault(event.value, Event(event.value, machine))
    vars(table).update(vars(other))
