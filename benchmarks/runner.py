"""Runs every case of every client, each in a process of its own, against one broker of ours.

Clients take turns: a round goes through all cases, and through all clients within a case, so that what the machine does
meanwhile hits neighbours alike. Each round begins with another client.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from json import loads
from typing import Any

from benchmarks.cases import CASES, CLIENTS, FAIRNESS, LATENCY, QUIET_QUEUES, QUIET_RATE, Case, Client, messages_for
from benchmarks.pages import ROOT
from benchmarks.task import Task, encode
from benchmarks.wire import Wire

_QUEUE = "anyamqp.benchmark"
_WARM_UP = 0.1
"""Of a run's messages, how many are sent before the clock starts."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        name: its name.
        rounds: how often each run is made.
        scale: how long a run is; 1 is about a second.
        seconds: how long the paced cases last.
        rate: messages a second in the latency case: about half of what aio-pika publishes with confirms and consumes
            with acks in one process.
        deadline: seconds until a process that has not ended is ended.
        cases: what is measured.
        clients: of whom.
    """

    name: str
    rounds: int
    scale: float
    seconds: float
    rate: float = 1000.0
    deadline: float = 60.0
    cases: Sequence[Case] = (*CASES, LATENCY, FAIRNESS)
    clients: Sequence[Client] = CLIENTS


FULL = Plan("full", rounds=5, scale=1.0, seconds=4.0)
QUICK = Plan("quick", rounds=1, scale=0.5, seconds=1.5)


@dataclass(frozen=True, slots=True)
class Result:
    """What one process measured.

    Attributes:
        case, client: their names.
        round: counted from 1.
        messages: how many.
        seconds: wall time.
        cpu: CPU time of the process, user and system, in seconds.
        latencies: percentiles in µs, by what they are of.
        error: why there is nothing of the above; empty if there is.
    """

    case: str
    client: str
    round: int
    messages: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    latencies: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    error: str = ""


def turns(plan: Plan) -> Iterator[tuple[int, Case, Client]]:
    """Who does what, in order."""
    for number in range(1, plan.rounds + 1):
        for place, case in enumerate(plan.cases):
            able = [client for client in plan.clients if case.name in client.cases]
            first = (number - 1 + place) % len(able) if able else 0
            for client in [*able[first:], *able[:first]]:
                yield number, case, client


def measure(plan: Plan, url: str, say: Callable[[str], None]) -> list[Result]:
    """Run the whole plan against a broker."""
    everything = list(turns(plan))
    results: list[Result] = []
    for place, (number, case, client) in enumerate(everything, 1):
        result = _run(task_of(plan, case, client, url), case, client, number, plan.deadline)
        results.append(result)
        say(f"{place:3}/{len(everything)}  round {number}  {case.name:<9} {client.name:<17} {_told(result)}")
    return results


def _told(result: Result) -> str:
    if result.error:
        return f"failed: {result.error}"
    if result.latencies:
        return ", ".join(f"{what} p50 {told['p50']:,.0f} µs" for what, told in result.latencies.items())
    return f"{result.messages / result.seconds:,.0f} msg/s"


def task_of(plan: Plan, case: Case, client: Client, url: str) -> Task:
    """What a process is told to do."""
    rate = QUIET_RATE
    messages = messages_for(case, client, plan.scale)
    if case is LATENCY:
        rate = plan.rate
        messages = round(plan.rate * plan.seconds)
    return Task(
        module=client.module,
        case=case.name,
        url=url,
        queue=f"{_QUEUE}.{case.name}",
        messages=messages,
        warmup=max(5, round(messages * _WARM_UP)),
        size=case.size,
        loop=client.loop,
        rate=rate,
        seconds=plan.seconds,
    )


def _run(task: Task, case: Case, client: Client, number: int, deadline: float) -> Result:
    try:
        return Result(case.name, client.name, number, **output_of("benchmarks.worker", encode(task), deadline))
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        _clean_up(task)
        text = str(error) if isinstance(error, RuntimeError) else f"not done within {deadline:g} s"
        return Result(case.name, client.name, number, error=text)


def output_of(module: str, argument: str, deadline: float) -> dict[str, Any]:
    """Run a module of ours in a process of its own, and read the line of JSON that it ends with.

    Raises:
        RuntimeError: it failed; the text is its last word.
        TimeoutExpired: it took longer than ``deadline`` seconds, and was ended.
    """
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own module
        [sys.executable, "-m", module, argument],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,  # its helpers are in its group, and end with it
    )
    try:
        output, errors = process.communicate(timeout=deadline)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode != 0:
        last = (errors.strip().splitlines() or [f"exit {process.returncode}"])[-1]
        raise RuntimeError(last)
    result: dict[str, Any] = loads(output.splitlines()[-1])
    return result


def _clean_up(task: Task) -> None:
    """A process that was ended could not delete its queues."""
    time.sleep(0.2)
    with contextlib.suppress(OSError, EOFError), Wire(task.url) as wire:
        wire.open_channel(1)
        wire.delete(task.queue, task.warm_queue, *task.quiet_queues(QUIET_QUEUES))
