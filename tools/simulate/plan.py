"""The plan of a world: its actors and its faults, drawn from a seed.

Each actor has random numbers of its own, so that the others do the same without it: that is what makes plans shrink.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Final

DURABLE: Final = ("orders", "events")
"""Queues that no fault deletes."""
VOLATILE: Final = "scratch"
"""A queue that faults delete."""
CALLS: Final = "calls"
"""The queue of the RPC server."""

SETTLING: Final = 1200.0
"""Virtual seconds that a world may last longer than twice the time in which its actors act."""


@dataclass(frozen=True, slots=True)
class Actor:
    """A task or a few tasks that use a connection.

    Attributes:
        name: its name, which its messages bear.
        kind: the function in :mod:`tools.simulate.actors` that it runs.
        connection: the number of its connection.
        queue: the queue that it uses.
        pace: the mean of its pauses, in seconds.
        width: its tasks, its window or its prefetch.
    """

    name: str
    kind: str
    connection: int
    queue: str
    pace: float
    width: int

    def __str__(self) -> str:
        return f"{self.name}: {self.kind} on connection {self.connection}, queue {self.queue}, width {self.width}"


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault.

    Attributes:
        at: when it happens, in seconds.
        kind: its name in :mod:`tools.simulate.faults`.
        connection: the connection that it hits, where it hits one.
        lasts: how long it lasts, in seconds, where it lasts.
        number: what decides the details, such as a channel, a code or a count of bytes.
    """

    at: float
    kind: str
    connection: int
    lasts: float
    number: int

    def __str__(self) -> str:
        return f"{self.at:.3f} s: {self.kind}, connection {self.connection}, for {self.lasts:.3f} s, {self.number}"


@dataclass(frozen=True, slots=True)
class Plan:
    """A world to be.

    Attributes:
        seed: the seed that it came from.
        minutes: how long actors act and faults happen, in virtual minutes.
        heartbeat: the interval of all connections, in seconds.
        actors: the actors.
        faults: the faults, in order.
    """

    seed: int
    minutes: float
    heartbeat: int
    actors: tuple[Actor, ...]
    faults: tuple[Fault, ...]

    @property
    def connections(self) -> tuple[int, ...]:
        """The numbers of the connections that its actors use."""
        return tuple(sorted({actor.connection for actor in self.actors}))

    @property
    def seconds(self) -> float:
        """How long its actors act."""
        return self.minutes * 60

    def without_faults(self, *faults: Fault) -> Plan:
        """The same plan without some faults."""
        return replace(self, faults=tuple(fault for fault in self.faults if fault not in faults))

    def without_actor(self, actor: Actor) -> Plan:
        """The same plan without an actor."""
        return replace(self, actors=tuple(one for one in self.actors if one != actor))

    def with_actor(self, actor: Actor) -> Plan:
        """The same plan with one more actor."""
        return replace(self, actors=(*self.actors, actor))


_WEIGHTS: Final = {
    "reset": 4,
    "finish": 2,
    "cut": 3,
    "darken": 2,
    "refuse": 2,
    "reset all": 2,
    "freeze": 3,
    "kill node": 2,
    "refuse all": 1,
    "block": 3,
    "close connections": 2,
    "close channels": 4,
    "delete queue": 2,
    "reset at": 6,
    "finish at": 3,
    "close channel at": 5,
    "close connection at": 3,
}
_PUBLISHING: Final = (
    ("before", "basic.publish"),
    ("after", "basic.publish"),
    ("before", "basic.ack"),
    ("after", "basic.ack"),
)
POINTS: Final = (
    *(5 * _PUBLISHING),
    ("before", "connection.tune-ok"),
    ("before", "connection.open"),
    ("before", "channel.open"),
    ("after", "channel.open"),
    ("before", "confirm.select"),
    ("after", "confirm.select"),
    ("before", "basic.qos"),
    ("before", "basic.consume"),
    ("after", "basic.consume"),
    ("before", "queue.declare"),
    ("after", "queue.declare"),
    ("before", "basic.deliver"),
    ("after", "basic.deliver"),
    ("before", "basic.return"),
    ("before", "basic.cancel"),
    ("before", "channel.close"),
    ("after", "channel.close"),
    ("before", "channel.close-ok"),
)
"""The points of the protocol at which faults happen, some of them more often."""


def draw(seed: int, minutes: float) -> Plan:
    """Draw a plan.

    Args:
        seed: the seed.
        minutes: how long actors act and faults happen, in virtual minutes.
    """
    random = Random(f"plan {seed}")  # noqa: S311 - not a secret
    connections = random.randint(2, 4)
    pace = random.choice((4.0, 8.0, 16.0))
    actors: list[Actor] = []

    def add(kind: str, queue: str, width: int, *, on: int | None = None) -> None:
        number = random.randrange(connections) if on is None else on
        actors.append(Actor(f"{kind[0]}{len(actors)}", kind, number, queue, pace * random.uniform(0.5, 2), width))

    for queue in DURABLE:
        for _ in range(random.randint(1, 2)):
            add("publisher", queue, random.randint(1, 3))
        for _ in range(random.randint(1, 2)):
            add("consumer", queue, random.choice((1, 3, 10, 50)))
    for width in (random.choice((1, 4)), 32):
        add("submitter", random.choice(DURABLE), width)
    add("publisher", VOLATILE, 1)
    add("consumer", VOLATILE, random.choice((1, 10)))
    add("declarer", "", 1)
    add("server", CALLS, random.randint(1, 3))
    add("client", CALLS, random.randint(1, 3))
    return Plan(seed, minutes, random.choice((6, 12, 24)), tuple(actors), _draw_faults(random, minutes, connections))


def _draw_faults(random: Random, minutes: float, connections: int) -> tuple[Fault, ...]:
    faults: list[Fault] = []
    at = random.uniform(0, 5)
    mean = random.choice((3.0, 15.0, 40.0))
    while at < minutes * 60:
        kind = random.choices(tuple(_WEIGHTS), tuple(_WEIGHTS.values()))[0]
        number = random.randint(0, 10_000)
        faults.append(Fault(at, kind, random.randrange(connections), random.expovariate(1 / 6), number))
        at += random.expovariate(1 / mean)
    return tuple(faults)
