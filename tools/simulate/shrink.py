"""Makes the plan of a failing world smaller for as long as the same invariant breaks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from tools.simulate.plan import Plan
from tools.simulate.world import Outcome, simulate

MOST_RUNS: Final = 150
"""Worlds that are tried for one failure."""


def shrink(failed: Outcome, *, most_runs: int = MOST_RUNS) -> Outcome:
    """Drop faults and actors, and the time after the failure, greedily.

    Args:
        failed: a world with a violation.
        most_runs: how many smaller worlds to try.

    Returns:
        The smallest world found in which the same invariant breaks.
    """
    runs, is_smaller = 0, True
    while is_smaller:
        is_smaller = False
        for plan in _smaller(failed):
            runs += 1
            if runs > most_runs:
                return failed
            tried = simulate(plan, failed.backend)
            if _number(tried) == _number(failed):
                failed, is_smaller = tried, True
                break
    return failed


def _number(outcome: Outcome) -> int | None:
    return None if outcome.violation is None else outcome.violation.number


def _smaller(failed: Outcome) -> Iterator[Plan]:
    """Plans that are smaller by one step, the largest steps first."""
    plan = failed.plan
    end = failed.log[-1].at if failed.log else plan.seconds
    late = [fault for fault in plan.faults if fault.at > end]
    if late:
        yield plan.without_faults(*late)
    if end + 1 < plan.seconds:
        yield replace(plan, minutes=(end + 1) / 60)
    size = len(plan.faults) // 2
    while size:
        for first in range(0, len(plan.faults), size):
            yield plan.without_faults(*plan.faults[first : first + size])
        size //= 2
    for actor in plan.actors:
        if len(plan.actors) > 1:
            yield plan.without_actor(actor)
        if actor.width > 1:
            yield plan.without_actor(actor).with_actor(replace(actor, width=1))
