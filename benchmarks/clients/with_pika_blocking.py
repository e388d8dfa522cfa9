"""pika's BlockingConnection as its users have it: publishes wait for their confirms one by one."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

from benchmarks.cases import LARGE_WINDOW, PREFETCH
from benchmarks.task import Samples, Stopwatch, Task

pika = import_module("pika")  # it has no types: taken by name, it is Any and not unknown

_REPLY_TO = "amq.rabbitmq.reply-to"


def run(task: Task, watch: Stopwatch) -> Samples:
    """Do what the task says."""
    connection = pika.BlockingConnection(pika.URLParameters(task.url))
    try:
        return _RUNS[task.case](connection, task, watch)
    finally:
        connection.close()


def serve(task: Task) -> None:
    """Answer remote calls until the process is ended."""
    body = bytes(task.size)
    channel = pika.BlockingConnection(pika.URLParameters(task.url)).channel()

    def answer(channel: Any, _: Any, request: Any, __: bytes) -> None:
        channel.basic_publish("", request.reply_to, body, _properties(correlation_id=request.correlation_id))

    channel.basic_consume(task.queue, answer, auto_ack=True)
    channel.start_consuming()


def _properties(**more: Any) -> Any:
    return pika.BasicProperties(delivery_mode=2, **more)


def _publish(connection: Any, task: Task, watch: Stopwatch) -> Samples:
    channel = connection.channel()

    def go(queue: str, count: int) -> None:
        body = bytes(task.size)
        for _ in range(count):
            channel.basic_publish("", queue, body, _properties())
        channel.queue_declare(queue, passive=True)

    go(task.warm_queue, task.warmup)
    with watch:
        go(task.queue, task.messages)
    return {}


def _serial(connection: Any, task: Task, watch: Stopwatch) -> Samples:
    channel = connection.channel()
    channel.confirm_delivery()
    _one_by_one(channel, task.warm_queue, task.warmup, task.size)
    with watch:
        _one_by_one(channel, task.queue, task.messages, task.size)
    return {}


def _one_by_one(channel: Any, queue: str, count: int, size: int) -> None:
    body = bytes(size)
    for _ in range(count):
        channel.basic_publish("", queue, body, _properties(), mandatory=True)


def _take(connection: Any, queue: str, count: int, prefetch: int) -> None:
    """Without a prefetch, without acks."""
    taken = 0
    channel = connection.channel()
    if prefetch:
        channel.basic_qos(prefetch_count=prefetch)

    def on_message(channel: Any, delivery: Any, _: Any, __: bytes) -> None:
        nonlocal taken
        if prefetch:
            channel.basic_ack(delivery.delivery_tag)
        taken += 1
        if taken == count:
            channel.stop_consuming()

    channel.basic_consume(queue, on_message, auto_ack=not prefetch)
    channel.start_consuming()


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
    replies: list[bytes] = []
    channel = connection.channel()

    def on_reply(_: Any, __: Any, ___: Any, reply: bytes) -> None:
        replies.append(reply)

    channel.basic_consume(_REPLY_TO, on_reply, auto_ack=True)

    def go(count: int) -> None:
        for number in range(count):
            begun = time.perf_counter()
            request = _properties(reply_to=_REPLY_TO, correlation_id=str(number))
            channel.basic_publish("", task.queue, body, request, mandatory=True)
            while not replies:
                connection.process_data_events(time_limit=None)
            replies.clear()
            took.append(time.perf_counter() - begun)

    go(task.warmup)
    took.clear()
    with watch:
        go(task.messages)
    return {"call": took}


def _large(connection: Any, task: Task, watch: Stopwatch) -> Samples:
    channel = connection.channel()
    channel.confirm_delivery()

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
