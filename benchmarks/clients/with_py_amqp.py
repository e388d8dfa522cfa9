"""py-amqp, the client below kombu and Celery, as its users have it: publishes wait for their confirms one by one."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final
from urllib.parse import urlsplit

from benchmarks.cases import LARGE_WINDOW, PREFETCH
from benchmarks.task import Samples, Stopwatch, Task

amqp = import_module("amqp")  # it has no types: taken by name, it is Any and not unknown

_REPLY_TO = "amq.rabbitmq.reply-to"
_CONFIRMED = frozenset({"serial", "large"})


def run(task: Task, watch: Stopwatch) -> Samples:
    """Do what the task says."""
    with _connect(task, confirm_publish=task.case in _CONFIRMED) as connection:
        return _RUNS[task.case](connection, task, watch)


def serve(task: Task) -> None:
    """Answer remote calls until the process is ended."""
    body = bytes(task.size)
    with _connect(task, confirm_publish=False) as connection:
        channel = connection.channel()

        def answer(request: Any) -> None:
            reply = _message(body, correlation_id=request.properties["correlation_id"])
            channel.basic_publish(reply, routing_key=request.properties["reply_to"])

        channel.basic_consume(task.queue, callback=answer, no_ack=True)
        while True:
            connection.drain_events()


def _connect(task: Task, *, confirm_publish: bool) -> Any:
    parts = urlsplit(task.url)
    return amqp.Connection(
        f"{parts.hostname}:{parts.port or 5672}",
        parts.username or "guest",
        parts.password or "guest",
        confirm_publish=confirm_publish,
    )


def _message(body: bytes, **more: Any) -> Any:
    return amqp.Message(body, delivery_mode=2, **more)


def _publish(connection: Any, task: Task, watch: Stopwatch) -> Samples:
    channel = connection.channel()

    def go(queue: str, count: int) -> None:
        body = bytes(task.size)
        for _ in range(count):
            channel.basic_publish(_message(body), routing_key=queue)
        channel.queue_declare(queue, passive=True)

    go(task.warm_queue, task.warmup)
    with watch:
        go(task.queue, task.messages)
    return {}


def _serial(connection: Any, task: Task, watch: Stopwatch) -> Samples:
    channel = connection.channel()
    _one_by_one(channel, task.warm_queue, task.warmup, task.size)
    with watch:
        _one_by_one(channel, task.queue, task.messages, task.size)
    return {}


def _one_by_one(channel: Any, queue: str, count: int, size: int) -> None:
    body = bytes(size)
    for _ in range(count):
        channel.basic_publish(_message(body), routing_key=queue, mandatory=True)


def _take(connection: Any, queue: str, count: int, prefetch: int) -> None:
    """Without a prefetch, without acks."""
    taken = 0
    channel = connection.channel()
    if prefetch:
        channel.basic_qos(0, prefetch, False)

    def on_message(message: Any) -> None:
        nonlocal taken
        if prefetch:
            channel.basic_ack(message.delivery_tag)
        taken += 1

    tag = channel.basic_consume(queue, callback=on_message, no_ack=not prefetch)
    while taken < count:
        connection.drain_events()
    channel.basic_cancel(tag)


def _consumed(*, prefetch: int) -> Callable[[Any, Task, Stopwatch], Samples]:
    def run_consumer(connection: Any, task: Task, watch: Stopwatch) -> Samples:
        _take(connection, task.warm_queue, task.warmup, prefetch)
        with watch:
            _take(connection, task.queue, task.messages, prefetch)
        return {}

    return run_consumer


def _rpc(connection: Any, task: Task, watch: Stopwatch) -> Samples:
    body = bytes(task.size)
    took: list[float] = []
    replies: list[Any] = []
    channel = connection.channel()
    channel.basic_consume(_REPLY_TO, callback=replies.append, no_ack=True)

    def go(count: int) -> None:
        for number in range(count):
            begun = time.perf_counter()
            request = _message(body, reply_to=_REPLY_TO, correlation_id=str(number))
            channel.basic_publish(request, routing_key=task.queue, mandatory=True)
            while not replies:
                connection.drain_events()
            replies.clear()
            took.append(time.perf_counter() - begun)

    go(task.warmup)
    took.clear()
    with watch:
        go(task.messages)
    return {"call": took}


def _large(connection: Any, task: Task, watch: Stopwatch) -> Samples:
    channel = connection.channel()

    def go(queue: str, count: int) -> None:
        _one_by_one(channel, queue, count, task.size)
        _take(connection, queue, count, LARGE_WINDOW)

    go(task.warm_queue, task.warmup)
    with watch:
        go(task.queue, task.messages)
    return {}


_RUNS: Final = {
    "publish": _publish,
    "serial": _serial,
    "consume": _consumed(prefetch=0),
    "ack": _consumed(prefetch=PREFETCH),
    "rpc": _rpc,
    "large": _large,
}
