"""What is measured, of whom, and what anyamqp is meant to reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

KIB: Final = 1024
MIB: Final = 1024 * KIB

WINDOW: Final = 256
PREFETCH: Final = 256
TASKS: Final = 64
LARGE_WINDOW: Final = 16
"""Publishes of 1 MiB without a confirm, and deliveries of 1 MiB without an ack."""

QUIET_QUEUES: Final = 3
QUIET_RATE: Final = 100.0
"""Messages a second to each quiet consumer."""

Unit = Literal["msg/s", "MiB/s", "µs"]
"""What a case's figure is in: throughput, or the median latency."""


@dataclass(frozen=True, slots=True)
class Case:
    """Something that a client does.

    Attributes:
        name: its name on the command line and in the raw samples.
        title: its name in the tables.
        messages: how many messages aio-pika takes about a second for.
        size: bytes in a body.
        unit: what its figure is in.
        targets: the bound of anyamqp's ratio to each peer: from below for a throughput, from above for a latency.
        cpu_target: µs of the process's CPU time a message, at most.
        most_pace: the largest factor by which a faster client is given more messages.
        prefilled: whether the messages lie in the queue before the clock starts.
    """

    name: str
    title: str
    messages: int
    size: int = KIB
    unit: Unit = "msg/s"
    targets: Mapping[str, float] = field(default_factory=dict[str, float])
    cpu_target: float | None = None
    most_pace: float = 6.0
    prefilled: bool = False


@dataclass(frozen=True, slots=True)
class Client:
    """Who does it.

    Attributes:
        name: its name in the tables.
        module: its module in :mod:`benchmarks.clients`.
        distribution: the package whose version is told; empty for none.
        loop: the event loop that it runs on, if it can run on several.
        pace: about how many times aio-pika's throughput it has, so that all runs take about as long.
        cases: what it can do.
    """

    name: str
    module: str
    distribution: str
    cases: frozenset[str]
    pace: float
    loop: str = ""

    @property
    def is_ours(self) -> bool:
        """Whether it is anyamqp."""
        return self.distribution == "anyamqp"


AIO_PIKA: Final = "aio-pika asyncio"
AIO_PIKA_UVLOOP: Final = "aio-pika uvloop"
PIKA_SELECT: Final = "pika Select"
C: Final = "C librabbitmq"
RAW: Final = "raw socket"

CASES: Final = (
    Case("publish", "publish, no confirm", 9000, targets={AIO_PIKA: 6, PIKA_SELECT: 1.5, RAW: 0.85}),
    Case(
        "confirms",
        f"submit and flush, confirms, window {WINDOW}",
        5000,
        targets={AIO_PIKA: 7, PIKA_SELECT: 1.8, RAW: 0.85},
        cpu_target=12,
    ),
    Case("tasks", f"await publish() from {TASKS} tasks", 5000, targets={AIO_PIKA: 5, RAW: 0.6}),
    Case("serial", "confirm one by one", 2500, targets={AIO_PIKA: 1.8, RAW: 0.6}, most_pace=2),
    Case("consume", "consume, no ack", 10_000, targets={AIO_PIKA: 6.5, PIKA_SELECT: 1.8, RAW: 0.85}, prefilled=True),
    Case(
        "ack",
        f"consume, ack each, prefetch {PREFETCH}",
        6000,
        targets={AIO_PIKA: 5.5, PIKA_SELECT: 1.6, RAW: 0.85},
        cpu_target=16,
        prefilled=True,
    ),
    Case("rpc", "remote call, p50", 1200, unit="µs", targets={AIO_PIKA: 0.5, RAW: 2}, most_pace=2),
    Case("large", "bodies of 1 MiB, both ways", 60, MIB, "MiB/s", {AIO_PIKA: 1.8, RAW: 0.75}, most_pace=3),
)
"""The main table, row by row."""

LATENCY: Final = Case("latency", "latency at half load", 0)
FAIRNESS: Final = Case("fairness", "quiet consumers beside a busy one", 15_000, most_pace=4, prefilled=True)

BY_NAME: Final = {case.name: case for case in (*CASES, LATENCY, FAIRNESS)}

_ALL = frozenset(case.name for case in CASES)
_OURS = _ALL | {"latency", "fairness"}
_ONE_BY_ONE = _ALL - {"confirms", "tasks"}

CLIENTS: Final = (
    Client("anyamqp asyncio", "with_anyamqp", "anyamqp", _OURS, 4, "asyncio"),
    Client("anyamqp uvloop", "with_anyamqp", "anyamqp", _OURS, 4, "uvloop"),
    Client("anyamqp trio", "with_anyamqp", "anyamqp", _OURS, 4, "trio"),
    Client(AIO_PIKA, "with_aio_pika", "aio-pika", _ALL | {"latency"}, 1, "asyncio"),
    Client(AIO_PIKA_UVLOOP, "with_aio_pika", "aio-pika", _ALL, 1, "uvloop"),
    Client("pika Blocking", "with_pika_blocking", "pika", _ONE_BY_ONE, 2),
    Client(PIKA_SELECT, "with_pika_select", "pika", (_ALL - {"tasks"}) | {"latency"}, 3),
    Client("py-amqp", "with_py_amqp", "amqp", _ONE_BY_ONE, 2),
    Client(C, "with_librabbitmq", "", _ALL - {"tasks"}, 5),
    Client(RAW, "with_raw_socket", "", _ALL | {"latency"}, 6),
)
"""The columns. The C client is left out where it cannot be compiled."""


def forms_of_aio_pika(case: Case) -> list[tuple[Case, Client]]:
    """The ways in which aio-pika can do what a case is about: on either event loop, and confirms also from tasks."""
    cases = (case, BY_NAME["tasks"]) if case.name == "confirms" else (case,)
    return [(one, client) for one in cases for client in CLIENTS if client.distribution == "aio-pika"]


def messages_for(case: Case, client: Client, scale: float) -> int:
    """How many messages a run is made of."""
    return max(10, round(case.messages * min(client.pace, case.most_pace) * scale))
