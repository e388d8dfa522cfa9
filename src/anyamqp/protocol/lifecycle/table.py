"""Tables of states and events, and the objects that follow them.

A table is total. Each cell (state, event) is a *row*, which says where to go and what to do, or is *ignored*, with the
reason, or is absent: the event cannot happen there, and firing it is a bug that raises
:class:`~anyamqp.errors.InvalidTransition`. Whoever learns that something happened fires the event and carries out the
effects that come back; nobody asks for the state to find out whether an event applies.

The tables run on ``transitions``. One unbound machine serves all objects of a kind. It is asked at life-cycle events
only, never per message.
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
"""By which the log of ``transitions`` can be told from that of other machines in the process."""


class Row(NamedTuple, Generic[S, E, F]):
    """In each of ``sources``, ``event`` leads to ``target``, and ``effects`` are to be carried out in their order."""

    event: E
    sources: tuple[S, ...]
    target: S
    effects: tuple[F, ...] = ()


class Ignored(NamedTuple, Generic[S, E]):
    """In each of ``sources``, ``event`` may happen and changes nothing, because of ``why``."""

    event: E
    sources: tuple[S, ...]
    why: str


class Step(NamedTuple, Generic[S, F]):
    """An event was taken: the state before and after it, and the effects to carry out."""

    source: S
    target: S
    effects: tuple[F, ...]


Cell: TypeAlias = Row[S, E, F] | Ignored[S, E]


class Table(Generic[S, E, F]):
    """The law of one kind of object.

    Args:
        kind: what the objects are called.
        initial: the state that their lives begin in.
        cells: the rows and the ignored events.

    Raises:
        ValueError: two of them are about the same state and event.
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
        """The rows, in the order in which they were given."""
        return tuple(dict.fromkeys(cell for cell in self.cells.values() if isinstance(cell, Row)))

    def begin(self) -> Lifecycle[S, E, F]:
        """A life at its beginning."""
        return Lifecycle(self)

    def trigger(self, model: Lifecycle[S, E, F], event: E) -> None:
        """Change the state of ``model`` as the table says.

        Raises:
            MachineError: the table has no such cell; nothing was changed.
        """
        self._machine.events[event.value].trigger(model)


class Lifecycle(Generic[S, E, F]):
    """The state of one object, changed by :meth:`fire` alone. Made by :meth:`Table.begin`."""

    __slots__ = ("_table", "state")

    def __init__(self, table: Table[S, E, F]) -> None:
        self.state: S = table.initial
        self._table = table

    def fire(self, event: E) -> Step[S, F]:
        """Take an event.

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
