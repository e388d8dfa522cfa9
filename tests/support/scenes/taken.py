"""Notes which cells of the tables are taken."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import Enum
from typing import Any, NamedTuple
from unittest import mock

from anyamqp.protocol.lifecycle.table import Lifecycle, Table


class Cell(NamedTuple):
    """An event in a state of a table."""

    kind: str
    state: Enum
    event: Enum


class Taken:
    """Notes each cell that is taken.

    Attributes:
        cells: the cells so far.
    """

    def __init__(self) -> None:
        self.cells: set[Cell] = set()
        self._reactions: dict[Enum, list[Callable[[], object]]] = defaultdict(list)

    @contextmanager
    def watching(self) -> Generator[None, None, None]:
        """Watch all tables."""
        trigger = Table[Any, Any, Any].trigger

        def watched(table: Table[Any, Any, Any], model: Lifecycle[Any, Any, Any], event: Enum) -> None:
            source = model.state
            trigger(table, model, event)
            self.cells.add(Cell(table.kind, source, event))
            for react in self._reactions.pop(event, ()):
                react()

        with mock.patch.object(Table, "trigger", watched):
            yield

    def at(self, event: Enum, react: Callable[[], object]) -> None:
        """Call ``react`` when ``event`` happens next, before anybody learns of it."""
        self._reactions[event].append(react)
