"""One run in one process: ``python -m benchmarks.worker TASK``, the task as JSON, prints one line of JSON.

The queues are made, filled, checked and deleted here, by the same bare socket for all clients: what a client says it
published must be in the queue, and what it says it consumed and acknowledged must be gone from it.
"""

from __future__ import annotations

import gc
import importlib
import json
import math
import sys
from collections.abc import Sequence
from typing import Any, Protocol, cast

from benchmarks.cases import BY_NAME, QUIET_QUEUES
from benchmarks.task import Samples, Stopwatch, Task, helper
from benchmarks.wire import Wire

_PUBLISHES = frozenset({"publish", "confirms", "tasks", "serial"})


class ClientModule(Protocol):
    """What each of :mod:`benchmarks.clients` gives."""

    def run(self, task: Task, watch: Stopwatch) -> Samples:
        """Do what the task says; the clock runs for what counts."""
        ...

    def serve(self, task: Task) -> None:
        """Answer remote calls until the process is ended."""
        ...

    def pace(self, task: Task) -> None:
        """Publish the time at a steady rate until the process is ended."""
        ...


def main() -> None:
    """Do one task."""
    task = Task(**json.loads(sys.argv[1]))
    client = cast("ClientModule", importlib.import_module(f"benchmarks.clients.{task.module}"))
    if task.role == "serve":
        client.serve(task)
    elif task.role == "pace":
        client.pace(task)
    else:
        sys.stdout.write(json.dumps(measure(client, task, Stopwatch())) + "\n")


def measure(client: ClientModule, task: Task, watch: Stopwatch) -> dict[str, Any]:
    """Run a task in front of a broker whose queues are prepared, and check what became of the messages."""
    queues = [task.queue, task.warm_queue, *task.quiet_queues(QUIET_QUEUES if task.case == "fairness" else 0)]
    with Wire(task.url) as wire:
        wire.open_channel(1)
        wire.delete(*queues)
        wire.declare(*queues)
        try:
            if BY_NAME[task.case].prefilled:
                wire.fill(task.queue, task.messages, task.size)
                wire.fill(task.warm_queue, task.warmup, task.size)
            gc.collect()
            if task.case == "rpc":
                with helper(task, "serve"):
                    samples = client.run(task, watch)
            else:
                samples = client.run(task, watch)
            wire.await_depth(task.queue, task.messages if task.case in _PUBLISHES else 0)
        finally:
            wire.delete(*queues)
    return {
        "messages": task.messages,
        "seconds": watch.seconds,
        "cpu": watch.cpu,
        "latencies": {name: describe(values) for name, values in samples.items()},
    }


def describe(values: Sequence[float]) -> dict[str, float]:
    """Percentiles of latencies, in µs."""
    ordered = sorted(values)
    if not ordered:
        raise RuntimeError("no latency was measured")

    def percentile(share: float) -> float:
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] * 1e6

    return {
        "count": len(ordered),
        "p50": percentile(0.5),
        "p99": percentile(0.99),
        "p99.9": percentile(0.999),
        "max": percentile(1),
    }


if __name__ == "__main__":
    main()
