"""The limit: a blocking socket, bytes that were encoded before the clock starts, and as little as possible behind them.

It does what AMQP asks for and nothing that a program needs: no names, no properties, no errors told apart. Every
delivery is found frame by frame; deliveries that came in one read are acknowledged by one frame, as anyamqp does.
"""

from __future__ import annotations

import select
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from pamqp import commands, header

from benchmarks.cases import LARGE_WINDOW, PREFETCH, QUIET_QUEUES, TASKS, WINDOW
from benchmarks.pacing import STAMP, stamped, waits
from benchmarks.task import Samples, Stopwatch, Task
from benchmarks.wire import BODY, BODY_SIZE, BODY_SIZE_AT, FRAME_OVERHEAD, HEADER, METHOD, PREFIX, Wire, parse, split

_CONFIRM: Final = struct.Struct(">BHIHHQB")
_ACK: Final = (60, 80)
_SETTLE, _SETTLE_SIZE = struct.Struct(">BHIHHQBB"), 13
_BATCH = 64
_REPLY_TO = "amq.rabbitmq.reply-to"
_SERVED = 1
_WARM, _TIMED, _OTHER = 1, 2, 3
"""Channel numbers."""


def run(task: Task, watch: Stopwatch) -> Samples:
    """Do what the task says."""
    if task.case == "latency":
        return _latency(task, watch)
    with Wire(task.url) as wire:
        return _RUNS[task.case](wire, task, watch)


def serve(task: Task) -> None:
    """Answer remote calls until the process is ended."""
    with Wire(task.url) as wire:
        wire.open_channel(_OTHER)
        data = wire.consume(_SERVED, task.queue, no_ack=True)
        # A caller's requests differ in nothing but their delivery: one answer serves them all.
        answers: dict[bytes, bytes] = {}
        while True:
            bounds, rest = split(data)
            for start, end in bounds:
                if data[start] == HEADER:
                    asked = data[start:end]
                    if asked not in answers:
                        answers[asked] = _answer(wire, asked, task.size)
                    wire.socket.sendall(answers[asked])
            data = rest + wire.receive()


def pace(task: Task) -> None:
    """Publish the time to the quiet queues, at the task's rate to each, until the process is ended."""
    with Wire(task.url) as wire:
        wire.open_channel(_TIMED)
        for wait in waits(task.rate):
            time.sleep(wait)
            for queue in task.quiet_queues(QUIET_QUEUES):
                wire.socket.sendall(wire.publication(_TIMED, queue, stamped(STAMP.size)))


# --- publishing -----------------------------------------------------------------------------------------------------


def _publish(wire: Wire, task: Task, watch: Stopwatch) -> Samples:
    def go(channel: int, queue: str, count: int) -> None:
        one = wire.publication(channel, queue, bytes(task.size))
        many = one * _BATCH
        for _ in range(count // _BATCH):
            wire.socket.sendall(many)
        wire.socket.sendall(one * (count % _BATCH))
        wire.call(channel, commands.Queue.Declare(queue=queue, passive=True), commands.Queue.DeclareOk)

    wire.open_channel(_WARM)
    wire.open_channel(_TIMED)
    go(_WARM, task.warm_queue, task.warmup)
    with watch:
        go(_TIMED, task.queue, task.messages)
    return {}


def _confirmed(window: int) -> Callable[[Wire, Task, Stopwatch], Samples]:
    def run_window(wire: Wire, task: Task, watch: Stopwatch) -> Samples:
        wire.open_channel(_WARM, confirms=True)
        wire.open_channel(_TIMED, confirms=True)
        _publish_confirmed(wire, _WARM, task.warm_queue, task.warmup, task.size, window)
        with watch:
            _publish_confirmed(wire, _TIMED, task.queue, task.messages, task.size, window)
        return {}

    return run_window


def _publish_confirmed(wire: Wire, channel: int, queue: str, count: int, size: int, window: int) -> None:
    one = wire.publication(channel, queue, bytes(size), mandatory=True)
    sent = confirmed = 0
    rest = b""
    while confirmed < count:
        room = min(window - (sent - confirmed), count - sent)
        if room:
            wire.socket.sendall(one * room if room > 1 else one)
            sent += room
        data = rest + wire.receive()
        position = 0
        while len(data) - position >= _CONFIRM.size + 1:
            _, _, _, group, method, tag, multiple = _CONFIRM.unpack_from(data, position)
            if (group, method) != _ACK:
                raise RuntimeError(f"{group}.{method} instead of a confirm")
            # One queue confirms in order, so the highest tag counts them all.
            if tag <= confirmed or (not multiple and tag != confirmed + 1):
                raise RuntimeError(f"a confirm for {tag} after one for {confirmed}")
            confirmed = tag
            position += _CONFIRM.size + 1
        rest = data[position:]


# --- consuming ------------------------------------------------------------------------------------------------------


def _consumed(*, prefetch: int) -> Callable[[Wire, Task, Stopwatch], Samples]:
    def run_consumer(wire: Wire, task: Task, watch: Stopwatch) -> Samples:
        _consume(wire, _WARM, task.warm_queue, task.warmup, prefetch)
        with watch:
            _consume(wire, _TIMED, task.queue, task.messages, prefetch)
        return {}

    return run_consumer


def _consume(wire: Wire, channel: int, queue: str, count: int, prefetch: int) -> None:
    data = wire.consume(channel, queue, no_ack=not prefetch, prefetch=prefetch)
    taken = left = 0
    while True:
        position, before, length = 0, taken, len(data)
        while length - position >= PREFIX.size:
            kind, _, size = PREFIX.unpack_from(data, position)
            end = position + size + FRAME_OVERHEAD
            if end > length:
                break
            if kind == HEADER:
                left = BODY_SIZE.unpack_from(data, position + BODY_SIZE_AT)[0]
            elif kind == BODY:
                left -= size
                taken += not left
            position = end
        if prefetch and taken > before:
            wire.socket.sendall(_ack(channel, taken))
        data = data[position:]
        if taken >= count:
            break
        data += wire.receive()
    wire.cancel(channel, data)


def _ack(channel: int, tag: int) -> bytes:
    """An acknowledgement of everything up to a tag."""
    return _SETTLE.pack(METHOD, channel, _SETTLE_SIZE, *_ACK, tag, 1, 0xCE)


def _large(wire: Wire, task: Task, watch: Stopwatch) -> Samples:
    def go(channels: tuple[int, int], queue: str, count: int) -> None:
        publishing, consuming = channels
        wire.open_channel(publishing, confirms=True)
        _publish_confirmed(wire, publishing, queue, count, task.size, LARGE_WINDOW)
        _consume(wire, consuming, queue, count, LARGE_WINDOW)

    go((1, 2), task.warm_queue, task.warmup)
    with watch:
        go((3, 4), task.queue, task.messages)
    return {}


# --- remote calls ---------------------------------------------------------------------------------------------------


def _rpc(wire: Wire, task: Task, watch: Stopwatch) -> Samples:
    rest = wire.consume(_TIMED, _REPLY_TO, no_ack=True)
    ask = wire.publication(
        _TIMED, task.queue, bytes(task.size), mandatory=True, reply_to=_REPLY_TO, correlation_id="0" * 32
    )
    took: list[float] = []

    def call() -> None:
        begun = time.perf_counter()
        wire.socket.sendall(ask)
        _next_body(wire, rest)
        took.append(time.perf_counter() - begun)

    for _ in range(task.warmup):
        call()
    took.clear()
    with watch:
        for _ in range(task.messages):
            call()
    return {"call": took}


def _next_body(wire: Wire, data: bytes) -> None:
    while True:
        bounds, rest = split(data)
        if any(data[start] == BODY for start, _ in bounds):
            return
        data = rest + wire.receive()


def _answer(wire: Wire, asked: bytes, size: int) -> bytes:
    head = parse(asked, 0, len(asked))
    if not isinstance(head, header.ContentHeader) or not head.properties.reply_to:
        raise RuntimeError(f"a request without reply_to: {head}")
    correlation_id = head.properties.correlation_id or ""
    return wire.publication(_OTHER, head.properties.reply_to, bytes(size), correlation_id=correlation_id)


# --- latency --------------------------------------------------------------------------------------------------------


def _latency(task: Task, watch: Stopwatch) -> Samples:
    confirms: list[float] = []
    arrivals: list[float] = []
    count = task.messages + task.warmup
    filling = bytes(task.size - STAMP.size)
    with Wire(task.url) as publishing, Wire(task.url) as consuming:
        publishing.open_channel(_TIMED, confirms=True)
        from_consumer = consuming.consume(_TIMED, task.queue, no_ack=False, prefetch=PREFETCH)
        template = publishing.publication(_TIMED, task.queue, bytes(STAMP.size) + filling, mandatory=True)
        at = len(template) - 1 - task.size
        from_publisher = b""
        outstanding: deque[float] = deque()
        sent = 0
        start = time.perf_counter()
        with watch:
            while len(arrivals) < count or outstanding:
                wait = start + sent / task.rate - time.perf_counter() if sent < count else 1.0
                if wait <= 0:
                    now = time.perf_counter()
                    publishing.socket.sendall(template[:at] + STAMP.pack(now) + template[at + STAMP.size :])
                    outstanding.append(now)
                    sent += 1
                    continue
                readable, _, _ = select.select([publishing.socket, consuming.socket], [], [], wait)
                if publishing.socket in readable:
                    from_publisher = _note_confirms(from_publisher + publishing.receive(), outstanding, confirms)
                if consuming.socket in readable:
                    before = len(arrivals)
                    from_consumer = _note_arrivals(from_consumer + consuming.receive(), arrivals)
                    if len(arrivals) > before:
                        consuming.socket.sendall(_ack(_TIMED, len(arrivals)))
        consuming.cancel(_TIMED)
    return {"confirm": confirms[task.warmup :], "end to end": arrivals[task.warmup :]}


def _note_confirms(data: bytes, outstanding: deque[float], confirms: list[float]) -> bytes:
    bounds, rest = split(data)
    for start, _ in bounds:
        tag, multiple = _CONFIRM.unpack_from(data, start)[-2:]
        now = time.perf_counter()
        settled = tag - len(confirms) if multiple else 1
        confirms.extend(now - outstanding.popleft() for _ in range(settled))
    return rest


def _note_arrivals(data: bytes, arrivals: list[float]) -> bytes:
    bounds, rest = split(data)
    for start, _ in bounds:
        if data[start] == BODY:
            arrivals.append(time.perf_counter() - STAMP.unpack_from(data, start + PREFIX.size)[0])
    return rest


_RUNS: Final = {
    "publish": _publish,
    "confirms": _confirmed(WINDOW),
    "tasks": _confirmed(TASKS),
    "serial": _confirmed(1),
    "consume": _consumed(prefetch=0),
    "ack": _consumed(prefetch=PREFETCH),
    "rpc": _rpc,
    "large": _large,
}
