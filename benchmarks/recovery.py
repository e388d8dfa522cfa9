"""``python -m benchmarks.recovery``: how long a client is away after a reset. Writes ``docs/recovery.md``.

Each run is a client in a process of its own, in front of it a proxy in this process, behind that a broker that was
started for the measurement. Whatever is less than the whole measurement is written to ``build/benchmarks`` instead.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from pamqp import commands

from anyamqp.testing import FaultProxy
from benchmarks.broker import running_broker
from benchmarks.machine import machine
from benchmarks.recovery_report import save
from benchmarks.recovery_worker import Recovering
from benchmarks.runner import ASIDE, DOCS, ROOT
from benchmarks.wire import Wire

_LIVED: Final = 5.5
"""Seconds that a connection has lived before it is cut. Both clients dial at once only if it has lived long enough:
anyamqp's default for that is 1 s (``stable_after``), aio-pika's is its ``reconnect_interval`` of 5 s."""

_NAME: Final = "anyamqp.recovery"


@dataclass(frozen=True, slots=True)
class Case:
    """What is to be recovered: so many queues, each with a binding, and so many publishes without a confirm."""

    queues: int
    unconfirmed: int = 0

    @property
    def entities(self) -> int:
        """Queues and bindings."""
        return 2 * self.queues


@dataclass(frozen=True, slots=True)
class Client:
    """Who recovers."""

    name: str
    client: str
    loop: str = "asyncio"
    interval: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured; ``deadline`` is in seconds, for a run without its preparation."""

    name: str
    rounds: int
    cases: Sequence[Case]
    deadline: float = 60.0


CLIENTS: Final = (
    Client("anyamqp", "anyamqp"),
    Client("anyamqp on trio", "anyamqp", loop="trio"),
    Client("aio-pika", "aio-pika"),
    Client("aio-pika, interval 0", "aio-pika", interval=0.0),
)
UNCONFIRMED: Final = Case(1, unconfirmed=10_000)
FULL: Final = Plan("full", 3, (Case(5), Case(500), Case(5_000), UNCONFIRMED))
QUICK: Final = Plan("quick", 1, (Case(5), Case(500), UNCONFIRMED))


@dataclass(frozen=True, slots=True)
class Result:
    """What one run measured.

    Attributes:
        client: its name.
        entities, unconfirmed: the case.
        round: counted from 1.
        recovered: seconds from the reset until the client says that everything is back.
        new: seconds to the confirm of a publish that was made after the reset.
        old: seconds to the last confirm of what was unconfirmed.
        raised: publishes that raised and were made again by the caller.
        cpu: seconds of CPU time in the client's process.
        error: why there is nothing of the above; empty if there is.
    """

    client: str
    entities: int
    unconfirmed: int
    round: int
    recovered: float = 0.0
    new: float = 0.0
    old: float = 0.0
    raised: int = 0
    cpu: float = 0.0
    error: str = field(default="")


def main() -> None:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recovery", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of the smaller cases, in about a minute")
    parser.add_argument("--render", type=Path, metavar="JSON", help="only write the page and the picture anew")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    if arguments.render:
        kept = json.loads(arguments.render.read_text())
    else:
        with running_broker() as url:
            kept = {
                "plan": asdict(plan),
                "command": " ".join(["python -m benchmarks.recovery", *sys.argv[1:]]),
                "lived": _LIVED,
                "machine": machine(url),
                "results": [asdict(result) for result in measure(plan, url, lambda line: print(line, flush=True))],
            }
    folder = arguments.render.parent if arguments.render else DOCS if plan is FULL else ASIDE
    print(f"\nWritten: {save(folder, kept)}")


def measure(plan: Plan, url: str, say: Callable[[str], None]) -> list[Result]:
    """Run the whole plan; clients take turns within each case, every round begins with another one."""
    names = [f"{_NAME}.{number}" for number in range(max(case.queues for case in plan.cases))]
    with Wire(url) as wire:
        wire.open_channel(1)
        _make(wire, names)
        results: list[Result] = []
        for number in range(1, plan.rounds + 1):
            for place, case in enumerate(plan.cases):
                first = (number - 1 + place) % len(CLIENTS)
                for client in [*CLIENTS[first:], *CLIENTS[:first]]:
                    result = _run(plan, url, case, client, names[: case.queues], number)
                    if not result.error and wire.depth(names[0]) <= case.unconfirmed:
                        raise RuntimeError(f"{client.name}: what was confirmed is not in the queue")
                    wire.call(1, commands.Queue.Purge(queue=names[0]), commands.Queue.PurgeOk)
                    results.append(result)
                    say(f"round {number}  {_told(result)}")
    return results


def _make(wire: Wire, names: Sequence[str]) -> None:
    """The queues, transient, made beforehand: what is measured is the client, not how fast the broker creates them."""
    for start in range(0, len(names), 500):
        some = names[start : start + 500]
        wire.send(1, *(commands.Queue.Declare(queue=name, durable=False) for name in some))
        for _ in some:
            wire.expect(commands.Queue.DeclareOk)


def _told(result: Result) -> str:
    what = f"{result.unconfirmed:,} unconfirmed" if result.unconfirmed else f"{result.entities:,} entities"
    if result.error:
        return f"{what:<20} {result.client:<22} failed: {result.error}"
    old = f", all of the old in {result.old:.3f} s, {result.raised:,} raised" if result.unconfirmed else ""
    times = f"{result.new:8.3f} s, all back {result.recovered:.3f} s, CPU {result.cpu:.3f} s"
    return f"{what:<20} {result.client:<22} {times}{old}"


def _run(plan: Plan, url: str, case: Case, client: Client, queues: list[str], number: int) -> Result:
    about: dict[str, Any] = {
        "client": client.name,
        "entities": 0 if case.unconfirmed else case.entities,
        "unconfirmed": case.unconfirmed,
        "round": number,
    }
    address = url.rpartition("@")[2].rstrip("/").partition(":")
    with FaultProxy(address[0], int(address[2])) as proxy:
        through = f"amqp://guest:guest@{proxy.host}:{proxy.port}/"
        task = Recovering(client.client, client.loop, through, queues, case.unconfirmed, client.interval)
        try:
            with _Process(task) as process:
                return Result(**about, **_cut(process, proxy, plan.deadline, is_held=case.unconfirmed > 0))
        except (RuntimeError, TimeoutError) as error:
            return Result(**about, error=str(error))


def _cut(process: _Process, proxy: FaultProxy, deadline: float, *, is_held: bool) -> dict[str, Any]:
    process.hear("connected", deadline)
    connected = time.monotonic()
    if is_held:
        process.hear("prepared", deadline)
        proxy.black_hole()
        process.say("hold")
    process.hear("ready", 2 * deadline)
    time.sleep(max(0.0, connected + _LIVED - time.monotonic()))
    began = time.monotonic()
    proxy.reset()
    proxy.heal()
    process.say("cut")
    times: dict[str, Any] = json.loads(process.line(deadline))
    return times | {name: times[name] - began for name in ("recovered", "new", "old") if times[name]}


class _Process:
    """The client's process, ended with the block."""

    def __init__(self, task: Recovering) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own module
            [sys.executable, "-m", "benchmarks.recovery_worker", json.dumps(asdict(task))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def say(self, line: str) -> None:
        """Tell it something."""
        if self._process.stdin is not None:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def hear(self, wanted: str, deadline: float) -> None:
        """Wait until it says so."""
        if (line := self.line(deadline).strip()) != wanted:
            raise RuntimeError(f"{line!r} instead of {wanted!r}")

    def line(self, deadline: float) -> str:
        """Its next line.

        Raises:
            RuntimeError: it ended.
            TimeoutError: none came in time.
        """
        out, errors = self._process.stdout, self._process.stderr
        if out is None or errors is None:
            raise RuntimeError("a process without pipes")
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            if not selector.select(deadline):
                raise TimeoutError(f"not done within {deadline:g} s")
        if line := out.readline():
            return line
        raise RuntimeError((errors.read().strip().splitlines() or ["ended"])[-1])


if __name__ == "__main__":
    main()
