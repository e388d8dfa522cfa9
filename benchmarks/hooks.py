"""What hooks cost: the CPU time that a message takes with none, with Prometheus, and with OpenTelemetry.

    python -m benchmarks.hooks [--messages 3000] [--rounds 5]

Client and embedded broker share one process, so only the differences count. Rounds of all cases take turns; the medians
are printed as Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import anyio
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry

import anyamqp
from anyamqp import Hooks, Message
from anyamqp.extras.opentelemetry import OpenTelemetry
from anyamqp.extras.prometheus import Prometheus
from anyamqp.testing import Broker

CASES: Final[dict[str, Callable[[], list[Hooks]]]] = {
    "no hooks": list,
    "hooks that do nothing": lambda: [Hooks()],
    "Prometheus": lambda: [Prometheus(CollectorRegistry())],
    "OpenTelemetry": lambda: [OpenTelemetry(tracer_provider=TracerProvider(), meter_provider=MeterProvider())],
}


async def measured(hooks: list[Hooks], messages: int) -> tuple[float, float]:
    """The microseconds of CPU time that a publish with confirm and a delivery with ack take."""
    async with Broker() as broker:
        connection = anyamqp.connect("amqp://guest:guest@memory/", dial=broker.dial, hooks=hooks)
        async with connection:
            async with connection.channel() as channel:
                await channel.declare_queue("q")
            begun = time.process_time()
            async with connection.publisher() as publisher:
                for _ in range(messages):
                    await publisher.submit(Message(b"x" * 200), routing_key="q")
            published = time.process_time()
            async with connection.consumer("q") as consumer:
                for _ in range(messages):
                    async with await anext(consumer):
                        pass
            consumed = time.process_time()
    return (published - begun) / messages * 1e6, (consumed - published) / messages * 1e6


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the medians of all rounds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hooks", description=__doc__)
    parser.add_argument("--messages", type=int, default=3000, metavar="N", help="messages of each round")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds of each case")
    given = parser.parse_args(arguments)
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in CASES}
    for _ in range(given.rounds):
        for name, hooks in CASES.items():
            figures[name].append(anyio.run(partial(measured, hooks(), given.messages)))
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in figures.items()
    }
    publish, consume = medians["no hooks"]
    sys.stdout.write("| hooks | publish adds | delivery adds |\n|---|---:|---:|\n")
    for name, (published, consumed) in medians.items():
        if name != "no hooks":
            sys.stdout.write(f"| {name} | {published - publish:.1f} µs | {consumed - consume:.1f} µs |\n")


if __name__ == "__main__":
    main()
