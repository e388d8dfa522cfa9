"""A consumer's subscription, stepped through random orders of the user's calls, the broker's answers and losses."""

from __future__ import annotations

from collections import Counter
from functools import cache
from random import Random

import pytest

from anyamqp.protocol.lifecycle.consumer import CONSUMER, OVER, ConsumerEffect, ConsumerEvent, ConsumerState
from anyamqp.protocol.lifecycle.table import Lifecycle, Step
from anyamqp.protocol.subscribing import OnCancel
from anyamqp.protocol.subscription import Subscription
from support.subscribing import World

WALKS = 300
BLOCKS = 20
STEPS = 60
STEPS_WHEN_OVER = 12
WEIGHTS = {
    **dict.fromkeys(("open", "link"), 6.0),
    **dict.fromkeys(("cancel", "found", "cancel-ok"), 2.0),
    **dict.fromkeys(("close", "entering fails", "closed", "refused"), 0.15),
    "stop": 0.3,
    **dict.fromkeys(("open late", "not found", "vanish", "lose"), 0.4),
}
"""How likely an event is, so that walks come far."""
ON_CANCEL: tuple[OnCancel, ...] = ("raise", "resubscribe", "end")

Cell = tuple[ConsumerState, ConsumerEvent]
STOPPED_AFTER_THREE_YOUNG_ENDS = {
    (ConsumerState.STOPPING, ConsumerEvent.CANCELLED_TOO_OFTEN),
    (ConsumerState.ENDED, ConsumerEvent.CANCELLED_TOO_OFTEN),
}
"""Too rare for random walks; tests/unit/test_subscription.py goes there."""


def walk(seed: int) -> list[Cell]:
    """One random walk; the cells of the table that it went through."""
    random = Random(seed)
    world = World(
        random.choice(ON_CANCEL),
        no_ack=random.random() < 0.2,
        exclusive=random.random() < 0.3,
        stream_offset=random.choice((None, "next")),
    )
    cells = watched(world.core)
    path: list[str] = []
    steps_left = STEPS
    while steps_left and world.is_connected:
        steps_left = min(steps_left - 1, STEPS if world.core.state not in OVER else STEPS_WHEN_OVER)
        moves = world.moves()
        (name,) = random.choices(list(moves), [WEIGHTS.get(move, 1.0) for move in moves])
        path.append(name)
        try:
            moves[name]()
            world.check_settled()
        except Exception as error:
            error.add_note(f"seed {seed}, {world.on_cancel}: {' > '.join(path)}")
            raise
    return cells


def watched(core: Subscription) -> list[Cell]:
    """The cells that its life cycle goes through from here on."""
    cells: list[Cell] = []

    class Watched(Lifecycle[ConsumerState, ConsumerEvent, ConsumerEffect]):
        def fire(self, event: ConsumerEvent) -> Step[ConsumerState, ConsumerEffect]:
            cells.append((self.state, event))
            return super().fire(event)

    setattr(core, "_lifecycle", Watched(CONSUMER))  # noqa: B010 - a private attribute
    return cells


@cache
def walks(block: int) -> Counter[Cell]:
    """Some random walks; how often each cell of the table was gone through."""
    cells: Counter[Cell] = Counter()
    for seed in range(block * WALKS, (block + 1) * WALKS):
        cells.update(walk(seed))
    return cells


@pytest.mark.parametrize("block", range(BLOCKS))
def test_every_order_of_events_stays_in_the_table_and_keeps_its_promises(block: int) -> None:
    """Invariants 2 and 8; that the topology hears of one start and one end; that no pause is forgotten."""
    assert walks(block).total() > WALKS


def test_every_cell_of_the_table_is_reached() -> None:
    """A cell that nothing reaches is a wrong guess about what can happen."""
    passed = sum(map(walks, range(BLOCKS)), Counter[Cell]())
    assert CONSUMER.cells.keys() - passed.keys() == STOPPED_AFTER_THREE_YOUNG_ENDS
