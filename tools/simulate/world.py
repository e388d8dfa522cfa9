"""A world: one embedded broker, connections, actors and faults, run by a plan in virtual time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from random import Random
from typing import Any, Final, NamedTuple
from unittest.mock import patch

import anyio

import anyamqp
from anyamqp import Connection, State
from anyamqp.net.event_loop import running_loop
from anyamqp.testing import Broker
from tools.simulate import clock, faults
from tools.simulate.actors import KINDS
from tools.simulate.invariants import Invariants
from tools.simulate.messages import Messages
from tools.simulate.network import Network
from tools.simulate.plan import CALLS, DURABLE, SETTLING, VOLATILE, Plan
from tools.simulate.violation import Violation, innermost
from tools.simulate.watch import Watch

URL: Final = "amqp://guest:guest@broker/"
_TICK: Final = 1.0
"""Virtual seconds between two looks at the state of the broker."""
_STUCK: Final = 200_000
"""Steps at one moment of virtual time after which a world counts as stuck."""


class Entry(NamedTuple):
    """A line of a world's log."""

    at: float
    who: str
    text: str

    def __str__(self) -> str:
        return f"{self.at:.4f} {self.who}: {self.text}"


@dataclass(slots=True)
class Outcome:
    """What became of a world.

    Attributes:
        plan: its plan.
        backend: the event loop.
        violation: the first broken invariant.
        steps: how many steps its tasks took; turns of the loop, on asyncio.
        log: its log.
        counts: how often what happened.
    """

    plan: Plan
    backend: str
    violation: Violation | None = None
    steps: int = 0
    log: list[Entry] = field(default_factory=list[Entry])
    counts: dict[str, int] = field(default_factory=dict[str, int])


class World:
    """A running world.

    Args:
        outcome: where its log goes.
        watch: watches the objects inside.

    Attributes:
        plan: its plan.
        broker: the broker.
        networks: the connections' ways to the broker, by number.
        connections: the connections, by number.
        messages: what was published, confirmed and delivered.
    """

    def __init__(self, outcome: Outcome) -> None:
        self.plan: Plan = outcome.plan
        self.broker: Broker = Broker(heartbeat=self.plan.heartbeat)
        self.networks: dict[int, Network] = {}
        self.connections: dict[int, Connection] = {}
        self.messages: Messages = Messages(self.broken)
        self.watch: Watch = Watch(self.broken, self.messages.given_up)
        self.invariants: Invariants = Invariants(self)
        self._outcome = outcome
        self._now: Callable[[], float] = lambda: 0.0
        self._over: anyio.Event | None = None
        self._ends_at = 0.0
        self._last_at = 0.0
        self._steps_at_once = 0

    @property
    def now(self) -> float:
        """The virtual time in seconds."""
        return self._now()

    @property
    def is_acting(self) -> bool:
        """Whether actors begin anything new."""
        return self.now < self._ends_at

    async def pause(self, seconds: float) -> None:
        """Sleep, but no longer than actors act."""
        await anyio.sleep(min(seconds, max(0.0, self._ends_at - self.now)))

    def random(self, name: str) -> Random:
        """Random numbers that belong to one name."""
        return Random(f"{self.plan.seed} {name}")  # noqa: S311 - not a secret

    def log(self, who: str, text: str) -> None:
        """Write a line of the log."""
        self._outcome.log.append(Entry(self.now, who, text))

    def count(self, what: str) -> None:
        """Count something that happened."""
        self._outcome.counts[what] = self._outcome.counts.get(what, 0) + 1

    def broken(self, violation: Violation) -> None:
        """Note a broken invariant; the first one ends the world."""
        if self._outcome.violation is None:
            self._outcome.violation = violation
            self.log("world", str(violation))
            if self._over is not None:
                self._over.set()

    def step(self) -> None:
        """Check what can be checked after each step of a task."""
        if self._over is None:
            return
        self._outcome.steps += 1
        now = self.now
        self._steps_at_once = self._steps_at_once + 1 if now == self._last_at else 0
        self._last_at = now
        if self._steps_at_once == _STUCK:
            self.broken(Violation(12, f"{_STUCK} steps at one moment"))
        self.watch.check_deadlines(now)
        self.invariants.check_step(now)

    async def run(self) -> None:
        """Run it to its end, or to the first violation."""
        self._now = running_loop().now
        self._over = over = anyio.Event()
        before = len(anyio.get_running_tasks())
        with self.watch.watching():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._play)
                await over.wait()
                if self._outcome.violation is not None:
                    tasks.cancel_scope.cancel()
        if self._outcome.violation is None:
            self.watch.check_end()
            self.invariants.check_end(len(anyio.get_running_tasks()) - before)

    async def _play(self) -> None:
        try:
            with anyio.fail_after(2 * self.plan.seconds + SETTLING):
                async with self.broker:
                    await self._play_on_broker()
        except TimeoutError:
            self.broken(Violation(13, "the world did not end in time"))
        except Exception as error:  # noqa: BLE001 - whatever no actor expects is a finding
            inner = innermost(error)
            self.broken(inner if isinstance(inner, Violation) else Violation(12, f"unexpected {inner!r}"))
        finally:
            if self._over is not None:
                self._over.set()

    async def _play_on_broker(self) -> None:
        await self._declare()
        async with AsyncExitStack() as stack:
            for number in self.plan.connections:
                self.connections[number] = await stack.enter_async_context(self._connection(number))
                self.networks[number].dials.clear()
            async with anyio.create_task_group() as watchers:
                watchers.start_soon(self._tick)
                for number in self.plan.connections:
                    watchers.start_soon(self._follow, number)
                await self._act()
                watchers.cancel_scope.cancel()
        await self.invariants.leave()

    async def _act(self) -> None:
        self._ends_at = self.now + self.plan.seconds
        async with anyio.create_task_group() as consumers:
            async with anyio.create_task_group() as actors:
                for actor in self.plan.actors:
                    group = consumers if actor.kind in {"consumer", "server"} else actors
                    group.start_soon(KINDS[actor.kind], self, actor)
                async with anyio.create_task_group() as happenings:
                    for fault in self.plan.faults:
                        happenings.start_soon(faults.happen, self, fault)
                    await self.pause(self.plan.seconds)
                    happenings.cancel_scope.cancel()
                await faults.end_all(self)
                self.log("world", "all faults have ended")
            await self.invariants.settle()
            consumers.cancel_scope.cancel()
        self.log("world", "all actors have ended")

    async def _declare(self) -> None:
        async with (
            anyamqp.connect(URL, dial=self.broker.dial, name="setup") as connection,
            connection.channel() as channel,
        ):
            for queue in (*DURABLE, VOLATILE, CALLS):
                await channel.declare_queue(queue)

    def _connection(self, number: int) -> Connection:
        self.networks[number] = network = Network(
            self.broker,
            self.random(f"network {number}"),
            lambda wire, channel, tag, multiple: self.watch.check_ack(wire, channel, tag, multiple=multiple),
            self.invariants.check_silence,
        )
        return anyamqp.connect(
            URL, dial=network.dial, heartbeat=self.plan.heartbeat, name=f"connection {number}", ready_timeout=None
        )

    async def _follow(self, number: int) -> None:
        async for transition in self.connections[number].transitions():
            self.log(f"connection {number}", str(transition))
            self.invariants.on_transition(number, transition)

    async def _tick(self) -> None:
        while True:
            await anyio.sleep(_TICK)
            self.invariants.check_tick(self.now)

    def is_open(self, number: int) -> bool:
        """Whether a connection is open."""
        return self.connections[number].state is State.OPEN


def simulate(plan: Plan, backend: str = "trio") -> Outcome:
    """Run the world of a plan.

    Args:
        plan: the plan.
        backend: ``trio`` or ``asyncio``.
    """
    outcome = Outcome(plan, backend)
    world = World(outcome)
    with _reproducible(plan.seed):
        clock.run(world.run, backend=backend, seed=plan.seed, on_step=world.step)
    return outcome


@contextmanager
def _reproducible(seed: int) -> Generator[None, None, None]:
    """Let everything that is random depend on the seed: ids, jitter, and the order of trio's tasks."""
    random = Random(seed)  # noqa: S311 - not a secret
    level = logging.getLogger("anyamqp").level
    logging.getLogger("anyamqp").setLevel(logging.CRITICAL + 1)
    link_maker: Any = import_module("anyamqp.core.link_maker")
    message: Any = import_module("anyamqp.message")
    try:
        with (
            patch.object(link_maker, "_RANDOM", random),
            patch.object(message.os, "urandom", random.randbytes),
        ):
            yield
    finally:
        logging.getLogger("anyamqp").setLevel(level)
