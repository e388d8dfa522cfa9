"""Runs worlds in parallel, prints their counts and each failure, shrunk and drawn.

The exit status is 1 if an invariant broke, or, with ``--bugs``, if a planted bug was not found.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Final

from tools.simulate.bugs import BUGS, Bug
from tools.simulate.clock import BACKENDS
from tools.simulate.plan import draw
from tools.simulate.report import failure
from tools.simulate.shrink import shrink
from tools.simulate.world import Outcome, simulate

_EVERY: Final = 50
"""Worlds between two lines of progress."""
_MOST_SEEDS: Final = 50
"""Seeds that are tried for a planted bug."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.simulate", description=__doc__)
    parser.add_argument("--seeds", default="1-100", metavar="FIRST-LAST", help="the seeds, or one")
    parser.add_argument("--minutes", type=float, default=10.0, metavar="N", help="virtual minutes of each world")
    parser.add_argument("--backend", choices=(*BACKENDS, "both"), default="both", help="both: seeds take turns")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="how many processes")
    parser.add_argument("--bugs", action="store_true", help="find the planted bugs instead")
    given = parser.parse_args(arguments)
    first, _, last = str(given.seeds).partition("-")
    seeds = range(int(first), int(last or first) + 1)
    if given.bugs:
        return _find_bugs(seeds, given.minutes)
    return _run(seeds, given.minutes, given.backend, given.workers)


def backend_of(seed: int, backend: str) -> str:
    """The event loop of a seed."""
    return BACKENDS[seed % len(BACKENDS)] if backend == "both" else backend


def world_of(seed: int, minutes: float, backend: str) -> Outcome:
    """Run the world of a seed; a clean one comes back without its log, which is long."""
    outcome = simulate(draw(seed, minutes), backend_of(seed, backend))
    if outcome.violation is None:
        outcome.log.clear()
    return outcome


def _run(seeds: Sequence[int], minutes: float, backend: str, workers: int) -> int:
    begun = time.monotonic()
    failed: list[Outcome] = []
    counts: Counter[str] = Counter()
    steps = done = 0
    with ProcessPoolExecutor(workers) as pool:
        outcomes: Iterable[Outcome] = pool.map(partial(world_of, minutes=minutes, backend=backend), seeds)
        for outcome in outcomes:
            done += 1
            steps += outcome.steps
            counts.update(outcome.counts)
            if outcome.violation is not None:
                failed.append(outcome)
                _print(f"seed {outcome.plan.seed} on {outcome.backend}: {outcome.violation}")
            if done % _EVERY == 0:
                _print(f"{done} worlds, {steps} steps, {len(failed)} failed, {time.monotonic() - begun:.0f} s")
    for outcome in failed[:3]:
        _print(failure(shrink(outcome)))
    _print(", ".join(f"{what} {count}" for what, count in sorted(counts.items())))
    _print(
        f"{done} worlds of {minutes:g} virtual minutes, {steps} steps, {len(failed)} failed, "
        f"{time.monotonic() - begun:.0f} s"
    )
    return 1 if failed else 0


def find_bug(bug: Bug, seeds: Iterable[int], minutes: float) -> Outcome | None:
    """The first world in which a planted bug shows, and the invariant that it breaks is one that it must break."""
    with bug.plant():
        for seed in seeds:
            outcome = simulate(draw(seed, minutes), backend_of(seed, "both"))
            if outcome.violation is not None:
                return outcome if outcome.violation.number in bug.breaks else None
    return None


def _find_bugs(seeds: Sequence[int], minutes: float) -> int:
    missed = 0
    for bug in BUGS:
        found = find_bug(bug, seeds[:_MOST_SEEDS], minutes)
        if found is None:
            missed += 1
            _print(f"{bug.name}: NOT FOUND")
        else:
            _print(f"{bug.name}: seed {found.plan.seed} on {found.backend}, step {found.steps}: {found.violation}")
    return 1 if missed else 0


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
