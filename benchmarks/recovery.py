"""``python -m benchmarks.recovery``: how long is a client away after a loss? Writes ``docs/recovery.md``.

Each client has a process of its own. Resets: a proxy in this process stands between the client and a broker that was
started for the measurement. Restarts: that broker is killed and started again, and all clients wait for it. A quick
measurement is written to ``build/benchmarks`` instead.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from pamqp import commands

from anyamqp.testing import FaultProxy
from benchmarks.broker import killable_broker, running_broker
from benchmarks.machine import machine
from benchmarks.pages import ASIDE, DOCS, folder_of, raw_of
from benchmarks.recovery_process import CLIENTS, LIVED, Client, Process
from benchmarks.recovery_report import save
from benchmarks.recovery_restart import measure_restarts
from benchmarks.recovery_worker import Recovering
from benchmarks.wire import Wire

_NAME: Final = "anyamqp.recovery"


@dataclass(frozen=True, slots=True)
class Case:
    """The state to recover: a number of queues, each with a binding, and of publishes without a confirm."""

    queues: int
    unconfirmed: int = 0

    @property
    def entities(self) -> int:
        """Queues and bindings."""
        return 2 * self.queues


@dataclass(frozen=True, slots=True)
class Plan:
    """The extent of a measurement; ``deadline`` is in seconds, for one run without its preparation."""

    name: str
    rounds: int
    cases: Sequence[Case]
    restarts: int
    deadline: float = 60.0


UNCONFIRMED: Final = Case(1, unconfirmed=10_000)
FULL: Final = Plan("full", 3, (Case(5), Case(500), Case(5_000), UNCONFIRMED), restarts=10)
QUICK: Final = Plan("quick", 1, (Case(5), Case(500), UNCONFIRMED), restarts=1)


@dataclass(frozen=True, slots=True)
class Result:
    """The measurement of one run.

    Attributes:
        client: its name.
        entities, unconfirmed: the case.
        round: counted from 1.
        recovered: seconds from the reset until the client says that everything is back.
        new: seconds to the confirm of a publish that was made after the reset.
        old: seconds to the last confirm of the publishes that were unconfirmed.
        raised: publishes that raised and that the caller made again.
        cpu: seconds of CPU time in the client's process.
        error: the reason why the run failed; empty if it did not.
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
    """The command ``python -m benchmarks.recovery``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recovery", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of the smaller cases, in about two minutes")
    parser.add_argument(
        "--only", choices=("resets", "restarts"), help="measure these; the others stay as the page has them"
    )
    parser.add_argument("--render", type=Path, metavar="JSON", help="only write the page and the picture anew")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    folder = folder_of(arguments.render) if arguments.render else DOCS if plan is FULL else ASIDE
    kept: dict[str, Any] = {}
    if arguments.render or arguments.only:
        kept = json.loads((arguments.render or raw_of(folder, "recovery")).read_text())
    if not arguments.render:
        about = {
            "plan": asdict(plan),
            "lived": LIVED,
            "command": " ".join(["python -m benchmarks.recovery", *sys.argv[1:]]),
        }
        if arguments.only != "restarts":
            with running_broker() as url:
                kept |= about | {"machine": machine(url)}
                kept["results"] = [asdict(result) for result in measure(plan, url, _say)]
        if arguments.only != "resets":
            with killable_broker() as broker:
                found = measure_restarts(broker, plan.restarts, plan.deadline, _say)
                kept["restarts"] = about | {
                    "machine": machine(broker.url),
                    "results": [asdict(result) for result in found],
                }
    print(f"\nWritten: {save(folder, kept)}")


def _say(line: str) -> None:
    print(line, flush=True)


def measure(plan: Plan, url: str, say: Callable[[str], None]) -> list[Result]:
    """Run the whole plan. Clients take turns within each case, and each round begins with another one."""
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
                        raise RuntimeError(f"{client.name}: confirmed messages are not in the queue")
                    wire.call(1, commands.Queue.Purge(queue=names[0]), commands.Queue.PurgeOk)
                    results.append(result)
                    say(f"round {number}  {_told(result)}")
    return results


def _make(wire: Wire, names: Sequence[str]) -> None:
    """Declare the transient queues beforehand: the run measures the client, not how fast the broker creates queues."""
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
            with Process(task) as process:
                return Result(**about, **_cut(process, proxy, plan.deadline, is_held=case.unconfirmed > 0))
        except (RuntimeError, TimeoutError) as error:
            return Result(**about, error=str(error))


def _cut(process: Process, proxy: FaultProxy, deadline: float, *, is_held: bool) -> dict[str, Any]:
    process.hear("connected", deadline)
    connected = time.monotonic()
    if is_held:
        process.hear("prepared", deadline)
        proxy.black_hole()
        process.say("hold")
    process.hear("ready", 2 * deadline)
    time.sleep(max(0.0, connected + LIVED - time.monotonic()))
    began = time.monotonic()
    proxy.reset()
    proxy.heal()
    process.say("cut")
    times: dict[str, Any] = json.loads(process.line(deadline))
    return times | {name: times[name] - began for name in ("recovered", "new", "old") if times[name]}


if __name__ == "__main__":
    main()
