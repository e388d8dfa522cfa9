"""The exploration of the core (``make explore``), as far as a test run can afford it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tools.explore.bugs import BUGS, Bug
from tools.explore.fingerprint import facts, fingerprint
from tools.explore.moves import moves, play
from tools.explore.report import Find, diagram
from tools.explore.scenarios import DEEP, SHALLOW
from tools.explore.search import Scenario, explore, few_collections
from tools.explore.snapshot import freeze, thaw

pytestmark = pytest.mark.no_cover  # long, and it covers nothing that others do not


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    with few_collections():
        yield


@pytest.mark.parametrize("scenario", SHALLOW, ids=[scenario.name for scenario in SHALLOW])
def test_every_order_of_moves_keeps_the_invariants(scenario: Scenario) -> None:
    """Invariants 1 to 8 and 13, and that CLOSED is within reach of every state."""
    found = explore(scenario)
    assert found.broken is None, diagram(scenario, found.broken)
    assert found.transitions > found.states > scenario.depth


@pytest.mark.parametrize("bug", BUGS, ids=[bug.name for bug in BUGS])
def test_each_planted_bug_is_found(bug: Bug) -> None:
    with bug.plant():
        find = Find(bug, explore(bug.scenario))
    assert find.is_found, find.exploration.broken


def test_a_copy_of_a_world_is_like_the_world() -> None:
    for scenario in DEEP:
        world = scenario.world()
        assert facts(thaw(freeze(world))) == facts(world)


def test_worlds_with_one_fingerprint_go_on_alike() -> None:
    """Or the exploration would leave out what follows from one of them."""
    first = DEEP[4].world(DEEP[5].begins[:5])  # the consumer's channel is being opened
    known, level, pairs = {fingerprint(first): freeze(first)}, [freeze(first)], 0
    for _ in range(3):
        reached: list[bytes] = []
        for frozen in level:
            for key, there in next_worlds(frozen).values():
                if key not in known:
                    known[key] = there
                    reached.append(there)
                elif there != known[key]:
                    pairs += 1
                    assert keys(there) == keys(known[key])
        level = reached
    assert pairs > 50


def next_worlds(frozen: bytes) -> dict[str, tuple[bytes, bytes]]:
    """The fingerprint and a copy of the world that each move leads to."""
    found: dict[str, tuple[bytes, bytes]] = {}
    for name, _ in list(moves(thaw(frozen))):
        world = thaw(frozen)
        play(world, name)
        found[name] = fingerprint(world), freeze(world)
    return found


def keys(frozen: bytes) -> dict[str, bytes]:
    return {name: key for name, (key, _) in next_worlds(frozen).items()}


def test_a_counterexample_is_drawn_up_to_the_broken_property() -> None:
    bug = BUGS[0]
    with bug.plant():
        broken = explore(bug.scenario).broken
        assert broken is not None
        drawn = diagram(bug.scenario, broken).splitlines()
    assert drawn[0] == "sequenceDiagram"
    assert "the link dies" in drawn[4]
    assert "invariant 1" in drawn[-1]
