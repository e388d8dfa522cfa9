"""Plays all scenes, and reports which rows of the tables they take, on which event loop.

Run it with ``make rows``, which writes docs/rows.md.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Final

from anyamqp.protocol.lifecycle import CHANNEL, CONNECTION, LINK
from anyamqp.protocol.lifecycle.caller import CALLER
from anyamqp.protocol.lifecycle.consumer import CONSUMER
from anyamqp.protocol.lifecycle.entity import ENTITY
from anyamqp.protocol.lifecycle.pool import POOL
from anyamqp.protocol.lifecycle.publisher import PUBLISHER
from anyamqp.protocol.lifecycle.recovery import RECOVERY
from anyamqp.protocol.lifecycle.table import Row, Table
from anyamqp.protocol.lifecycle.transaction import TRANSACTION
from support.scenes import caller, channel, connection, consumer, publisher, recovery
from support.scenes.stage import Scene, play
from support.scenes.taken import Cell, Taken
from tools.simulate.clock import BACKENDS, run

TABLES: Final[tuple[Table[Any, Any, Any], ...]] = (
    CONNECTION,
    LINK,
    CHANNEL,
    PUBLISHER,
    CONSUMER,
    CALLER,
    TRANSACTION,
    POOL,
    RECOVERY,
    ENTITY,
)
"""The tables that run in production; that of a publish runs in tests only."""

LOOPS: Final = tuple(sorted(BACKENDS))
PLACE: Final = Path(__file__).parents[3] / "docs" / "rows.md"


def scenes() -> Iterator[tuple[str, Scene]]:
    """All scenes by name."""
    return chain.from_iterable(part.scenes() for part in (connection, channel, publisher, consumer, caller, recovery))


def played(loop: str) -> set[Cell]:
    """The cells that all scenes take on an event loop."""
    taken = Taken()
    with taken.watching():
        for _, scene in scenes():
            run(partial(play, taken, scene), backend=loop, seed=1, on_step=_nothing)
    return taken.cells


def _nothing() -> None:
    """Nothing is to be done after a step."""


def untaken(table: Table[Any, Any, Any], cells: set[Cell]) -> list[tuple[str, str]]:
    """The rows of a table that are not among the cells: the event of each, and its states."""
    return [_name(row) for row in table.rows if not _is_taken(table, row, cells)]


def report(cells: Mapping[str, set[Cell]]) -> str:
    """The report as Markdown, from the cells of each event loop."""
    lines = [
        "# Rows that real code takes",
        "",
        "`make rows` writes this file: it plays short scenes of a client and a scripted broker on both event loops,",
        "and counts the rows of the tables that the client takes. `tests/state/test_rows_taken.py` demands them all.",
        "",
        f"| table | rows | {' | '.join(f'taken on {loop}' for loop in LOOPS)} |",
        f"|---|---:|{'---:|' * len(LOOPS)}",
    ]
    for table in TABLES:
        counts = [str(len(table.rows) - len(untaken(table, cells[loop]))) for loop in LOOPS]
        lines.append(f"| {table.kind} | {len(table.rows)} | {' | '.join(counts)} |")
    return "\n".join((*lines, ""))


def _is_taken(table: Table[Any, Any, Any], row: Row[Any, Any, Any], cells: set[Cell]) -> bool:
    return any(Cell(table.kind, state, row.event) in cells for state in row.sources)


def _name(row: Row[Any, Any, Any]) -> tuple[str, str]:
    return row.event.value, ", ".join(state.name for state in row.sources)


if __name__ == "__main__":
    logging.disable()
    PLACE.write_text(report({loop: played(loop) for loop in LOOPS}))
