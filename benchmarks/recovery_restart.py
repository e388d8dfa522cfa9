"""How long clients are away after their broker was killed and is ready again."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from anyamqp.wire.frames import PROTOCOL_HEADER
from benchmarks.broker import Killable
from benchmarks.recovery_process import CLIENTS, LIVED, Client, Process
from benchmarks.recovery_worker import Recovering

_WAITING: Final = tuple(client for client in CLIENTS if client.interval != 0)
"""A client that dials without a pause would take the processor from the broker that starts."""
_QUEUES: Final = 5
_LOOK_AGAIN: Final = 0.005
"""Seconds between two looks at whether the broker answers."""


@dataclass(frozen=True, slots=True)
class Restarted:
    """What one client showed in one restart.

    Attributes:
        client: its name.
        round: counted from 1.
        down: seconds from the kill until the broker answered a protocol header.
        recovered: seconds from then until the client said that everything is back.
        new: seconds from then to the confirm of a publish that was made after the kill.
        raised: publishes that raised and were made again by the caller.
        error: why there is nothing of the above; empty if there is.
    """

    client: str
    round: int
    down: float = 0.0
    recovered: float = 0.0
    new: float = 0.0
    raised: int = 0
    error: str = field(default="")


def measure_restarts(broker: Killable, rounds: int, deadline: float, say: Callable[[str], None]) -> list[Restarted]:
    """Kill and start the broker so many times, each time with all clients connected.

    Args:
        broker: running.
        rounds: how many times.
        deadline: seconds that each step may take.
        say: gets a line for each result.
    """
    results: list[Restarted] = []
    for number in range(1, rounds + 1):
        found = _restart(broker, number, deadline)
        for result in found:
            say(f"restart {number}  {_told(result)}")
        results += found
    return results


def _restart(broker: Killable, number: int, deadline: float) -> list[Restarted]:
    with ExitStack() as stack, ThreadPoolExecutor(1) as looking:
        processes = {client: stack.enter_context(Process(_task(client, broker.url))) for client in _WAITING}
        for process in processes.values():
            process.hear("connected", deadline)
            process.hear("ready", deadline)
        time.sleep(LIVED)
        broker.kill()
        killed = time.monotonic()
        for process in processes.values():
            process.say("cut")
        answered = looking.submit(_answered, broker.host, broker.port, deadline)
        broker.start()
        ready = answered.result()
        return [_heard(client, process, number, killed, ready, deadline) for client, process in processes.items()]


def _task(client: Client, url: str) -> Recovering:
    queues = [f"anyamqp.restart.{_WAITING.index(client)}.{place}" for place in range(_QUEUES)]
    return Recovering(client.client, client.loop, url, queues, interval=client.interval)


def _answered(host: str, port: int, deadline: float) -> float:
    """Wait until a broker answers a protocol header. Returns when it did."""
    until = time.monotonic() + deadline
    while time.monotonic() < until:
        try:
            with socket.create_connection((host, port), timeout=1.0) as looking:
                looking.sendall(PROTOCOL_HEADER)
                if looking.recv(1) == b"\1":
                    return time.monotonic()
        except OSError:
            pass
        time.sleep(_LOOK_AGAIN)
    raise TimeoutError(f"the broker did not answer within {deadline:g} s")


def _heard(client: Client, process: Process, number: int, killed: float, ready: float, deadline: float) -> Restarted:
    try:
        times: dict[str, Any] = json.loads(process.line(deadline))
    except (RuntimeError, TimeoutError) as error:
        return Restarted(client.name, number, error=str(error))
    return Restarted(
        client.name,
        number,
        down=ready - killed,
        recovered=times["recovered"] - ready,
        new=times["new"] - ready,
        raised=times["raised"],
    )


def _told(result: Restarted) -> str:
    if result.error:
        return f"{result.client:<22} failed: {result.error}"
    return f"{result.client:<22} {result.new:8.3f} s after the broker was ready, which took {result.down:.1f} s"
