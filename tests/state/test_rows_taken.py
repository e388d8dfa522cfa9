"""Real code takes every row of every table, on asyncio and on trio.

The scenes of ``support/scenes`` drive connections through the public API against a scripted broker, in virtual time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from anyamqp.protocol.lifecycle.table import Table
from support.scenes.report import LOOPS, PLACE, TABLES, played, report, untaken
from support.scenes.taken import Cell


@pytest.fixture(scope="module")
def cells() -> Mapping[str, set[Cell]]:
    """The cells that all scenes take, for each event loop."""
    return {loop: played(loop) for loop in LOOPS}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.kind)
def test_real_code_takes_every_row(table: Table[Any, Any, Any], loop: str, cells: Mapping[str, set[Cell]]) -> None:
    assert untaken(table, cells[loop]) == []


def test_the_report_in_the_docs_is_current(cells: Mapping[str, set[Cell]]) -> None:
    assert PLACE.read_text() == report(cells)
