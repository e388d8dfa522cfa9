"""Breadth-first search: all worlds that can be reached in so many moves, each once."""

from __future__ import annotations

import gc
import os
import zlib
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from enum import Enum
from multiprocessing import get_context
from typing import Any, Final, NamedTuple, TypeAlias
from unittest.mock import patch

from anyamqp.protocol.lifecycle import ConnectionState
from anyamqp.protocol.lifecycle.table import Lifecycle, Table
from tools.explore.fingerprint import fingerprint
from tools.explore.moves import moves, play
from tools.explore.properties import check, check_end, ending, error_of, sometimes
from tools.explore.snapshot import freeze, thaw
from tools.explore.world import Parts, World

Path: TypeAlias = tuple[str, ...]
Cell: TypeAlias = tuple[str, Enum, Enum]
_FEW: Final = 200
"""Worlds of one level below which it is not worth another process."""

_SELDOM: Final = 100_000
"""Objects made between two collections."""


class Scenario(NamedTuple):
    """Where a search begins, and how far it goes.

    Attributes:
        name: its name.
        parts: the objects in the world.
        begins: the moves that were made before.
        depth: how many moves are made from there.
    """

    name: str
    parts: Parts
    begins: Path
    depth: int

    def world(self, path: Path = ()) -> World:
        """The world at the beginning, or after some moves."""
        world = World(self.parts)
        for name in (*self.begins, *path):
            play(world, name)
        return world


class Counterexample(NamedTuple):
    """A broken property, and the shortest way there."""

    path: Path
    error: str


class Reached(NamedTuple):
    """A world that was reached for the first time."""

    path: Path
    frozen: bytes


class Level(NamedTuple):
    """All that follows from some worlds in one move.

    Attributes:
        worlds: the new worlds, by fingerprint.
        transitions: how many moves were made.
        ways_out: for each of the worlds, the one that follows when the user closes the connection.
        facts: the remarkable events, each with a path.
        cells: the cells of the tables that were entered.
        broken: the first broken property.
    """

    worlds: dict[bytes, Reached]
    transitions: int
    ways_out: dict[bytes, bytes | None]
    facts: dict[str, Path]
    cells: set[Cell]
    broken: Counterexample | None


class Exploration:
    """The result of a search.

    Attributes:
        scenario: its scenario.
        levels: how many new worlds each number of moves reached, from none on.
        transitions: how many moves were made.
        is_complete: whether there is no world beyond those that were reached.
        facts: the remarkable events, each with the shortest path to one.
        broken: the broken property that is the fewest moves away; None if all hold.
        cells: the cells of the tables that were entered: the table's kind, state and event.
        seconds: how much CPU time it took, in all processes.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.scenario: Scenario = scenario
        self.levels: list[int] = [1]
        self.transitions: int = 0
        self.is_complete: bool = False
        self.facts: dict[str, Path] = {}
        self.broken: Counterexample | None = None
        self.cells: set[Cell] = set()
        self.seconds: float = 0.0

    @property
    def states(self) -> int:
        """How many different worlds were reached."""
        return sum(self.levels)


def explore(scenario: Scenario, *, workers: int = 1) -> Exploration:
    """Explore a scenario, in so many processes, until its depth or the first broken property."""
    begun = _cpu_seconds()
    found = Exploration(scenario)
    with entering(found.cells):
        world = scenario.world()
    first = fingerprint(world)
    check(world)
    frontier = {first: Reached((), _pack(world))}
    known = {first}
    ways_out: dict[bytes, bytes | None] = {}
    for depth in range(1, scenario.depth + 1):
        worlds: dict[bytes, Reached] = {}
        for level in _levels(frontier, known, workers, is_last=depth == scenario.depth):
            for key, reached in level.worlds.items():
                worlds.setdefault(key, reached)
            found.transitions += level.transitions
            ways_out |= level.ways_out
            found.cells |= level.cells
            found.facts = level.facts | found.facts
            found.broken = found.broken or level.broken
        if worlds:
            found.levels.append(len(worlds))
        known |= worlds.keys()
        frontier = worlds
        if found.broken is not None or not worlds:
            break
    found.is_complete = not frontier
    if found.broken is None:
        found.broken = _endless(ways_out)
    found.seconds = _cpu_seconds() - begun
    return found


@contextmanager
def few_collections() -> Generator[None, None, None]:
    """Collect garbage seldom: worlds are full of cycles, and there are many."""
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(_SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _levels(frontier: dict[bytes, Reached], known: set[bytes], workers: int, *, is_last: bool) -> Sequence[Level]:
    items = list(frontier.items())
    if workers == 1 or len(items) < _FEW:
        return [_expand(items, known, is_last=is_last)]
    size = -(-len(items) // (4 * workers))
    shares = [items[start : start + size] for start in range(0, len(items), size)]
    # Forked anew for each level, so that each process has all that is known by then.
    _inherited[:] = [known]
    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        return list(pool.map(_expand_inherited, shares, [is_last] * len(shares)))


_inherited: list[set[bytes]] = []


def _expand_inherited(share: list[tuple[bytes, Reached]], is_last: bool) -> Level:
    return _expand(share, _inherited[0], is_last=is_last)


def _expand(share: list[tuple[bytes, Reached]], known: set[bytes], *, is_last: bool) -> Level:
    level = Level({}, 0, {}, {}, set(), None)
    with entering(level.cells):
        return _expand_into(level, share, known, is_last=is_last)


def _expand_into(level: Level, share: list[tuple[bytes, Reached]], known: set[bytes], *, is_last: bool) -> Level:
    for key, (path, packed) in share:
        frozen = zlib.decompress(packed)
        world = thaw(frozen)
        possible = [name for name, _ in moves(world)]
        way_out = None if world.core.state is ConnectionState.CLOSED else ending(possible)
        if way_out is not None:
            level.ways_out[key] = None
        elif world.core.state is not ConnectionState.CLOSED:
            return level._replace(broken=Counterexample(path, f"eventually: {world.core.state.name} for ever"))
        for name in possible:
            there = (*path, name)
            world = thaw(frozen)
            try:
                play(world, name)
                check(world)
            except Exception as error:  # noqa: BLE001 - whatever a move raises is a broken property
                return level._replace(broken=Counterexample(there, error_of(error)))
            level = level._replace(transitions=level.transitions + 1)
            for fact in sometimes(world):
                level.facts.setdefault(fact, there)
            child = fingerprint(world)
            if name == way_out and world.core.state is not ConnectionState.CLOSED:
                level.ways_out[key] = child
            if child not in known and child not in level.worlds:
                level.worlds[child] = Reached(there, b"" if is_last else _pack(world))
                if is_last and (broken := _ends(world, there)) is not None:
                    return level._replace(broken=broken)
    return level


def entering(cells: set[Cell]) -> AbstractContextManager[object]:
    """Take note of the cells of the tables that are entered."""
    trigger = Table[Any, Any, Any].trigger

    def noting(table: Table[Any, Any, Any], model: Lifecycle[Any, Any, Any], event: Enum) -> None:
        cells.add((table.kind, model.state, event))
        trigger(table, model, event)

    return patch.object(Table, "trigger", noting)


def _cpu_seconds() -> float:
    return sum(os.times()[:4])


def _ends(world: World, path: Path) -> Counterexample | None:
    try:
        check_end(world)
    except Exception as error:  # noqa: BLE001 - whatever a move raises is a broken property
        return Counterexample(path, f"on the way to the end: {error_of(error)}")
    return None


def _endless(ways_out: dict[bytes, bytes | None]) -> Counterexample | None:
    """*Eventually*, for the worlds whose moves were all made: the ways out lead to CLOSED, or to the last level."""
    ends: set[bytes] = set()
    for key in ways_out:
        way: list[bytes] = []
        here: bytes | None = key
        while here is not None and here in ways_out and here not in ends:
            if here in way:
                return Counterexample((), "eventually: a way out goes round in a circle")
            way.append(here)
            here = ways_out[here]
        ends.update(way)
    return None


def _pack(world: World) -> bytes:
    return zlib.compress(freeze(world), 1)
