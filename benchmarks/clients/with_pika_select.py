"""pika's SelectConnection, which is callbacks all the way.

What happens once is written as a script, a generator that yields what it waits for: a function that is given the
callback to go on with. What happens for each message is a plain callback, as pika's users write it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from importlib import import_module
from typing import Any, Final, TypeAlias

from benchmarks.cases import LARGE_WINDOW, PREFETCH, WINDOW
from benchmarks.pacing import age, stamped, waits
from benchmarks.task import Samples, Stopwatch, Task

pika = import_module("pika")  # it has no types: taken by name, it is Any and not unknown

Resume: TypeAlias = Callable[..., None]
Step: TypeAlias = Generator[Callable[[Resume], Any], Any, None]
Script: TypeAlias = Generator[Callable[[Resume], Any], Any, Samples]

_REPLY_TO = "amq.rabbitmq.reply-to"
_BATCH = 100
"""Publishes without a confirm between two turns of the loop."""


def run(task: Task, watch: Stopwatch) -> Samples:
    """Do what the task says."""
    return _drive(task, lambda connection: _RUNS[task.case](connection, task, watch))


def serve(task: Task) -> None:
    """Answer remote calls until the process is ended."""
    _drive(task, lambda connection: _serve(connection, task))


def _drive(task: Task, begin: Callable[[Any], Script]) -> Samples:
    scripts: list[Script] = []
    results: list[Samples] = []

    def start(connection: Any) -> None:
        scripts.append(begin(connection))
        step()

    def step(value: Any = None, *_: Any) -> None:
        try:
            wait = scripts[0].send(value)
        except StopIteration as end:
            results.append(end.value)
            connection.close()
            return
        wait(step)

    def stop(_: Any, reason: Any) -> None:
        connection.ioloop.stop()
        if not results:
            raise ConnectionError(f"the connection ended: {reason!r}")

    connection = pika.SelectConnection(
        pika.URLParameters(task.url), on_open_callback=start, on_open_error_callback=stop, on_close_callback=stop
    )
    connection.ioloop.start()
    return results[0]


def _properties(**more: Any) -> Any:
    return pika.BasicProperties(delivery_mode=2, **more)


def _open_channel(connection: Any) -> Generator[Callable[[Resume], Any], Any, Any]:
    return (yield lambda resume: connection.channel(on_open_callback=resume))


def _serve(connection: Any, task: Task) -> Script:
    body = bytes(task.size)
    channel = yield from _open_channel(connection)

    def answer(channel: Any, _: Any, request: Any, __: bytes) -> None:
        channel.basic_publish("", request.reply_to, body, _properties(correlation_id=request.correlation_id))

    channel.basic_consume(task.queue, answer, auto_ack=True)
    yield lambda _: None
    return {}


# --- publishing -----------------------------------------------------------------------------------------------------


def _publish(connection: Any, task: Task, watch: Stopwatch) -> Script:
    body = bytes(task.size)
    channel = yield from _open_channel(connection)

    def go(queue: str, count: int) -> Step:
        for number in range(count):
            channel.basic_publish("", queue, body, _properties())
            if number % _BATCH == _BATCH - 1:
                yield connection.ioloop.add_callback_threadsafe
        yield lambda resume: channel.queue_declare(queue, passive=True, callback=resume)

    yield from go(task.warm_queue, task.warmup)
    with watch:
        yield from go(task.queue, task.messages)
    return {}


def _confirmed(window: int) -> Callable[[Any, Task, Stopwatch], Script]:
    def run_window(connection: Any, task: Task, watch: Stopwatch) -> Script:
        warm = yield from _open_channel(connection)
        timed = yield from _open_channel(connection)
        yield from _in_window(warm, task.warm_queue, task.warmup, task.size, window)
        with watch:
            yield from _in_window(timed, task.queue, task.messages, task.size, window)
        return {}

    return run_window


def _in_window(channel: Any, queue: str, count: int, size: int, window: int) -> Step:
    body = bytes(size)
    sent = confirmed = 0
    done: Resume | None = None

    def fill() -> None:
        nonlocal sent
        while sent < count and sent - confirmed < window:
            channel.basic_publish("", queue, body, _properties(), mandatory=True)
            sent += 1

    def on_confirm(frame: Any) -> None:
        nonlocal confirmed
        if not isinstance(frame.method, pika.spec.Basic.Ack):
            raise TypeError(f"{frame.method!r} instead of a confirm")
        confirmed = frame.method.delivery_tag  # one queue confirms in order
        if confirmed == count and done is not None:
            done()
        else:
            fill()

    def start(resume: Resume) -> None:
        nonlocal done
        done = resume
        fill()

    yield lambda resume: channel.confirm_delivery(on_confirm, callback=resume)
    yield start


# --- consuming ------------------------------------------------------------------------------------------------------


def _consumed(*, prefetch: int) -> Callable[[Any, Task, Stopwatch], Script]:
    def run_consumer(connection: Any, task: Task, watch: Stopwatch) -> Script:
        yield from _take(connection, task.warm_queue, task.warmup, prefetch)
        with watch:
            yield from _take(connection, task.queue, task.messages, prefetch)
        return {}

    return run_consumer


def _take(connection: Any, queue: str, count: int, prefetch: int) -> Step:
    """Without a prefetch, without acks."""
    channel = yield from _open_channel(connection)
    taken = 0
    tag = ""

    def consume(resume: Resume) -> None:
        nonlocal tag

        def on_message(channel: Any, delivery: Any, _: Any, __: bytes) -> None:
            nonlocal taken
            if prefetch:
                channel.basic_ack(delivery.delivery_tag)
            taken += 1
            if taken == count:
                resume()

        tag = channel.basic_consume(queue, on_message, auto_ack=not prefetch)

    if prefetch:
        yield lambda resume: channel.basic_qos(prefetch_count=prefetch, callback=resume)
    yield consume
    yield lambda resume: channel.basic_cancel(tag, callback=resume)


def _large(connection: Any, task: Task, watch: Stopwatch) -> Script:
    def go(queue: str, count: int) -> Step:
        channel = yield from _open_channel(connection)
        yield from _in_window(channel, queue, count, task.size, LARGE_WINDOW)
        yield from _take(connection, queue, count, LARGE_WINDOW)

    yield from go(task.warm_queue, task.warmup)
    with watch:
        yield from go(task.queue, task.messages)
    return {}


# --- latencies ------------------------------------------------------------------------------------------------------


def _rpc(connection: Any, task: Task, watch: Stopwatch) -> Script:
    body = bytes(task.size)
    took: list[float] = []
    channel = yield from _open_channel(connection)
    resume_call: Resume | None = None

    def on_reply(*_: Any) -> None:
        if resume_call is not None:
            resume_call()

    def call(resume: Resume) -> None:
        nonlocal resume_call
        resume_call = resume
        request = _properties(reply_to=_REPLY_TO, correlation_id=str(len(took)))
        channel.basic_publish("", task.queue, body, request, mandatory=True)

    def go(count: int) -> Step:
        for _ in range(count):
            begun = time.perf_counter()
            yield call
            took.append(time.perf_counter() - begun)

    channel.basic_consume(_REPLY_TO, on_reply, auto_ack=True)
    yield from go(task.warmup)
    took.clear()
    with watch:
        yield from go(task.messages)
    return {"call": took}


def _latency(connection: Any, task: Task, watch: Stopwatch) -> Script:
    confirms: list[float] = []
    arrivals: list[float] = []
    outstanding: deque[float] = deque()
    count = task.warmup + task.messages
    done: Resume | None = None
    own = yield lambda resume: pika.SelectConnection(
        pika.URLParameters(task.url), on_open_callback=resume, custom_ioloop=connection.ioloop
    )
    consuming = yield from _open_channel(own)
    channel = yield from _open_channel(connection)

    def finish() -> None:
        if done is not None and len(arrivals) == len(confirms) == count:
            done()

    def on_confirm(frame: Any) -> None:
        while len(confirms) < frame.method.delivery_tag:
            confirms.append(time.perf_counter() - outstanding.popleft())
        finish()

    def on_message(channel: Any, delivery: Any, _: Any, body: bytes) -> None:
        arrivals.append(age(body))
        channel.basic_ack(delivery.delivery_tag)
        finish()

    yield lambda resume: channel.confirm_delivery(on_confirm, callback=resume)
    yield lambda resume: consuming.basic_qos(prefetch_count=PREFETCH, callback=resume)
    yield lambda resume: consuming.basic_consume(task.queue, on_message, callback=resume)
    with watch:
        for wait in waits(task.rate, count):
            yield partial(connection.ioloop.call_later, wait)
            outstanding.append(time.perf_counter())
            channel.basic_publish("", task.queue, stamped(task.size), _properties(), mandatory=True)

        def wait_for_all(resume: Resume) -> None:
            nonlocal done
            done = resume
            finish()

        yield wait_for_all
    own.close()
    return {"confirm": confirms[task.warmup :], "end to end": arrivals[task.warmup :]}


_RUNS: Final[dict[str, Callable[[Any, Task, Stopwatch], Script]]] = {
    "publish": _publish,
    "confirms": _confirmed(WINDOW),
    "serial": _confirmed(1),
    "consume": _consumed(prefetch=0),
    "ack": _consumed(prefetch=PREFETCH),
    "rpc": _rpc,
    "large": _large,
    "latency": _latency,
}
