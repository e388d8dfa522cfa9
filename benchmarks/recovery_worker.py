"""One client that is cut off and recovers: ``python -m benchmarks.recovery_worker TASK``, the task as JSON.

The process that holds the proxy says when, line by line: it hears ``connected`` and ``prepared``, says ``hold`` once
nothing moves any more (only for what is to be unconfirmed), hears ``ready``, cuts, says ``cut``, and gets one line of
JSON with the times, on the machine's monotonic clock, which is the same in all processes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, Final

import aio_pika
import anyio
import anyio.to_thread

import anyamqp
from anyamqp import ConnectionEvent, Message, Publication, TransitionStream
from benchmarks.task import Stopwatch

EXCHANGE: Final = "amq.direct"
PAUSE: Final = 0.1
"""Seconds after which a caller of aio-pika whose publish has raised tries again."""

_BODY: Final = bytes(64)
_LEARNED: Final = (*aio_pika.exceptions.CONNECTION_EXCEPTIONS, aio_pika.exceptions.AMQPError)
"""What aio-pika raises for a publish that a loss has caught, or that comes before it has recovered."""


@dataclass(frozen=True, slots=True)
class Recovering:
    """What a process is to do.

    Attributes:
        client: ``anyamqp`` or ``aio-pika``.
        loop: the event loop.
        url: the proxy's.
        queues: their names; they are there already, and each is declared and bound by the client.
        unconfirmed: how many publishes are to be without a confirm when the cut comes.
        interval: aio-pika's ``reconnect_interval``; None for its default.
    """

    client: str
    loop: str
    url: str
    queues: list[str]
    unconfirmed: int = 0
    interval: float | None = None


@dataclass(slots=True)
class Times:
    """What the process measured.

    Attributes:
        recovered: when the client said that everything is back.
        new: when a publish that was made after the cut was confirmed.
        old: when the last of those that the cut left unconfirmed was; 0 if there were none.
        raised: how many publishes raised an error and were made again by the caller.
        cpu: seconds of CPU time, user and system, from the cut to the last of these.
    """

    recovered: float = 0.0
    new: float = 0.0
    old: float = 0.0
    raised: int = 0
    cpu: float = 0.0


def main() -> None:
    """Do one task."""
    # What a client logs while it recovers is no result, and a terminal costs time.
    logging.disable()
    task = Recovering(**json.loads(sys.argv[1]))
    is_ours = task.client == "anyamqp"
    times = anyio.run(_anyamqp, task, backend=task.loop) if is_ours else asyncio.run(_aio_pika(task))
    _say(json.dumps(asdict(times)))


# --- anyamqp -------------------------------------------------------------------------------------------------------


async def _anyamqp(task: Recovering) -> Times:
    times = Times()
    target = task.queues[0]
    async with (
        anyamqp.connect(task.url) as connection,
        connection.channel() as channel,
        connection.publisher(window=max(256, task.unconfirmed + 1)) as publisher,
    ):
        _say("connected")
        for name in task.queues:
            await channel.declare_queue(name, durable=False)
            await channel.bind_queue(name, EXCHANGE, name)
        await publisher.publish(Message(_BODY), routing_key=target)
        await _prepared(task)
        waiting: list[Publication] = [
            await publisher.submit(Message(_BODY), routing_key=target) for _ in range(task.unconfirmed)
        ]
        watch = Stopwatch()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_see_recovered, connection.transitions(), times)
            await _told("ready", "cut")
            with watch:
                await publisher.publish(Message(_BODY), routing_key=target)
                times.new = time.monotonic()
                for publication in waiting:
                    await publication
                times.old = time.monotonic() if waiting else 0.0
    times.cpu = watch.cpu
    return times


async def _see_recovered(transitions: TransitionStream, times: Times) -> None:
    async for transition in transitions:
        if transition.event is ConnectionEvent.OPENED:
            times.recovered = time.monotonic()
            return


# --- aio-pika -------------------------------------------------------------------------------------------------------


async def _aio_pika(task: Recovering) -> Times:
    times = Times()
    target = task.queues[0]
    options: dict[str, Any] = {} if task.interval is None else {"reconnect_interval": task.interval}
    connection = await aio_pika.connect_robust(task.url, **options)
    async with connection:
        _say("connected")
        channel = await connection.channel()
        for name in task.queues:
            queue = await channel.declare_queue(name)
            await queue.bind(EXCHANGE, name)

        async def publish() -> float:
            """Again until there is a confirm, as aio-pika's documentation leaves to the caller."""
            while True:
                message = aio_pika.Message(_BODY, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
                try:
                    await channel.default_exchange.publish(message, target)
                except _LEARNED:
                    times.raised += 1
                    await asyncio.sleep(PAUSE)  # ready() takes the dead channel for a good one for a while
                    await channel.ready()
                else:
                    return time.monotonic()

        recovered = asyncio.Event()

        def note_recovered(*_: object) -> None:
            times.recovered = time.monotonic()
            recovered.set()

        await publish()
        await _prepared(task)
        waiting = [asyncio.create_task(publish()) for _ in range(task.unconfirmed)]
        await asyncio.sleep(0)
        connection.reconnect_callbacks.add(note_recovered)
        await _told("ready", "cut")
        watch = Stopwatch()
        with watch:
            times.new = await publish()
            times.old = max(await asyncio.gather(*waiting), default=0.0)
            await recovered.wait()  # what is confirmed may be so before the last queue is back
    times.cpu = watch.cpu
    return times


# --- the other process ----------------------------------------------------------------------------------------------


async def _prepared(task: Recovering) -> None:
    if task.unconfirmed:
        await _told("prepared", "hold")


async def _told(say: str, wanted: str) -> None:
    _say(say)
    heard = await anyio.to_thread.run_sync(sys.stdin.readline)
    if heard.strip() != wanted:
        raise RuntimeError(f"heard {heard!r} instead of {wanted!r}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
