"""Worlds of real connections and the embedded broker, in virtual time: a sample of ``make simulate``.

Invariants 1 to 14, by number: tools/simulate/invariants.py and tools/simulate/watch.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from tools.simulate.__main__ import find_bug, main
from tools.simulate.bugs import BUGS, Bug
from tools.simulate.clock import BACKENDS
from tools.simulate.plan import draw
from tools.simulate.report import failure
from tools.simulate.shrink import shrink
from tools.simulate.world import Outcome, simulate

pytestmark = pytest.mark.no_cover  # long, and it covers nothing that others do not

_ROOT = Path(__file__).parents[2]


def log_of(outcome: Outcome) -> str:
    return sha256("\n".join(map(str, outcome.log)).encode()).hexdigest()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(1, 7))
def test_world_keeps_the_invariants(seed: int, backend: str) -> None:
    outcome = simulate(draw(seed, 2), backend)
    assert outcome.violation is None, failure(outcome)
    assert outcome.counts["delivery"] > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_seed_reproduces_a_world_in_every_detail(backend: str) -> None:
    one, other = simulate(draw(9, 1), backend), simulate(draw(9, 1), backend)
    assert one.log == other.log
    assert one.steps == other.steps


def test_world_does_not_depend_on_the_hashes_of_its_process() -> None:
    code = (
        "from tests.worlds.test_worlds import draw, log_of, simulate\n"
        "for backend in ('trio', 'asyncio'): print(log_of(simulate(draw(9, 1), backend)))\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code], cwd=_ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [log_of(simulate(draw(9, 1), backend)) for backend in ("trio", "asyncio")]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_planted_bug_is_found(bug: Bug) -> None:
    assert find_bug(bug, range(1, 11), 2) is not None


def test_failure_is_shrunk_and_drawn() -> None:
    bug = next(bug for bug in BUGS if bug.name == "a transport is left open")
    plan = draw(1, 1)
    with bug.plant():
        failed = shrink(simulate(plan, "asyncio"), most_runs=40)
    assert len(failed.plan.actors) < len(plan.actors)
    assert len(failed.plan.faults) < len(plan.faults)
    text = failure(failed)
    assert text.startswith("seed 1 on asyncio, step ")
    assert "invariant 1: connection" in text
    assert "sequenceDiagram" in text
    assert "->>Broker: " in text


def test_command_line_counts_worlds_and_tells_failures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "1-2", "--minutes", "0.2", "--workers", "1"]) == 0
    assert "2 worlds of 0.2 virtual minutes, " in capsys.readouterr().out
