"""The mutation run over the tables: some mutants of each, among them the coarsest, which refuses nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from anyamqp.protocol.lifecycle.caller import CALLER, CallerEvent, CallerState
from tools.law.mutants import KINDS, mutants, places, sample
from tools.law.suites import SUITES

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(300)
def test_sample_of_mutants_is_killed_in_each_table() -> None:
    """A process of its own: it forks, and runs pytest.

    It fails where a table may refuse nothing and no test notices: with tests/state/test_channel_law.py asking only for
    the cells of its plan, the channel's coarsest mutant survives.
    """
    run = [sys.executable, "-m", "tools.law", "--sample", "200"]
    ended = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [line.partition(":")[0] for line in ended.stdout.splitlines() if " mutants, " in line] == [
        suite.name for suite in SUITES
    ]


def test_sample_begins_with_the_coarsest_mutant() -> None:
    for suite in SUITES:
        absent = set(places(suite.table)) - suite.table.cells.keys()
        assert next(sample(suite.table, 1000)).cells.keys() == absent


def test_each_cell_is_mutated_in_every_way() -> None:
    found = list(mutants(CALLER))
    assert len({mutant.name for mutant in found}) == len(found)
    assert {mutant.kind for mutant in found} == set(KINDS)
    place = (CallerState.OPEN, CallerEvent.CHANNEL_CLOSED)
    assert [mutant.name for mutant in found if mutant.cells.keys() == {place}] == [
        "OPEN, CHANNEL_CLOSED: absent",
        "OPEN, CHANNEL_CLOSED: to NEW",
        "OPEN, CHANNEL_CLOSED: to OPEN",
        "OPEN, CHANNEL_CLOSED: to CLOSED",
        "OPEN, CHANNEL_CLOSED: without ACCUSE",
        "OPEN, CHANNEL_CLOSED: without REOPEN",
        "OPEN, CHANNEL_CLOSED: REOPEN before ACCUSE",
    ]
