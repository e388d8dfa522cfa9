"""State tables, and the life cycles that follow them.

A table is total. Each cell (state, event) is a *row* with a target state and effects, or is *ignored* for a stated
reason, or is absent: the event cannot happen in that state, and firing it is a bug that raises
:class:`~anyamqp.errors.InvalidTransition`. The code that learns of an event fires it and carries out the effects that
``fire`` returns; it never reads the state to find out whether the event applies.

The tables run on ``transitions``. One unbound machine serves all objects of a kind. It runs at life-cycle events only,
never per message.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from transitions import Machine, MachineError

from anyamqp.errors import InvalidTransition

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)
F = TypeVar("F", bound=Enum)

MACHINE_NAME = "anyamqp"
"""The name that ``transitions`` logs, which identifies our machines among others in the process."""


class Row(NamedTuple, Generic[S, E, F]):
    """In each of ``sources``, ``event`` leads to ``target``; the caller carries out ``effects`` in order.

    The order matters, except for the swaps that docs/law.md lists as equal.
    """

    event: E
    sources: tuple[S, ...]
    target: S
    effects: tuple[F, ...] = ()


class Ignored(NamedTuple, Generic[S, E]):
    """In each of ``sources``, ``event`` may happen and changes nothing; ``why`` is the reason."""

    event: E
    sources: tuple[S, ...]
    why: str


class Step(NamedTuple, Generic[S, F]):
    """The result of an event: the states before and after it, and the effects to carry out."""

    source: S
    target: S
    effects: tuple[F, ...]


Cell: TypeAlias = Row[S, E, F] | Ignored[S, E]


class Table(Generic[S, E, F]):
    """The state table of one kind of object.

    Args:
        kind: the name of the kind, for errors.
        initial: the first state of each object.
        cells: the rows and the ignored events.

    Raises:
        ValueError: two cells have the same state and event.
    """

    def __init__(self, kind: str, initial: S, *cells: Cell[S, E, F]) -> None:
        self.kind: str = kind
        self.initial: S = initial
        self.cells: Mapping[tuple[S, E], Cell[S, E, F]] = dict(_by_place(kind, cells))
        self._machine = Machine(
            model=None,
            name=MACHINE_NAME,
            states=type(initial),
            initial=initial,
            transitions=[
                {
                    "trigger": event.value,
                    "source": source,
                    "dest": cell.target if isinstance(cell, Row) else None,
                }
                for (source, event), cell in self.cells.items()
            ],
            auto_transitions=False,
        )

    @property
    def rows(self) -> tuple[Row[S, E, F], ...]:
        """The rows, in the order of the table."""
        return tuple(dict.fromkeys(cell for cell in self.cells.values() if isinstance(cell, Row)))

    def begin(self) -> Lifecycle[S, E, F]:
        """Create the life cycle of one object, in the initial state."""
        return Lifecycle(self)

    def trigger(self, model: Lifecycle[S, E, F], event: E) -> None:
        """Change the state of ``model`` as the table says.

        Raises:
            MachineError: the table has no such cell; the state is unchanged.
        """
        self._machine.events[event.value].trigger(model)


class Lifecycle(Generic[S, E, F]):
    """The state of one object. Only :meth:`fire` changes it. Create one with :meth:`Table.begin`."""

    __slots__ = ("_table", "state")

    def __init__(self, table: Table[S, E, F]) -> None:
        self.state: S = table.initial
        self._table = table

    def fire(self, event: E) -> Step[S, F]:
        """Fire an event: change the state as the table says.

        Raises:
            InvalidTransition: the table has no such cell; the state is unchanged.
        """
        source = self.state
        try:
            self._table.trigger(self, event)
        except MachineError:
            raise InvalidTransition(self._table.kind, source.name, event.value) from None
        cell = self._table.cells[source, event]
        return Step(source, self.state, cell.effects if isinstance(cell, Row) else ())


def _by_place(kind: str, cells: tuple[Cell[S, E, F], ...]) -> Iterator[tuple[tuple[S, E], Cell[S, E, F]]]:
    seen: set[tuple[S, E]] = set()
    for cell in cells:
        for source in cell.sources:
            if (source, cell.event) in seen:
                raise ValueError(f"{kind}: two cells for {cell.event.value!r} in state {source.name}")
            seen.add((source, cell.event))
            yield (source, cell.event), cell
