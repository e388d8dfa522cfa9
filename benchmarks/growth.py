"""``python -m benchmarks.growth``: does a message cost more when there is more of everything?

Measures the cost of a message while channels, connections, windows, bodies and the topology grow, and writes
``docs/growth.md`` with its picture and its raw figures. ``--quick`` writes a short measurement to ``build/benchmarks``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Final, TypeAlias

from benchmarks.broker import running_broker
from benchmarks.curves import Panel, draw
from benchmarks.growing import MIB, Point, encode
from benchmarks.machine import machine
from benchmarks.pages import ASIDE, DOCS, folder_of, link_to_raw, write_raw
from benchmarks.report import table
from benchmarks.runner import output_of
from benchmarks.summary import Spread

_DEADLINE: Final = 120.0
_ROUNDS: Final = 3
_HUNDRED: Final = 100
"""From this value on, fixed costs such as the wait for an answer are spread over enough messages to be negligible."""
_MICRO: Final = 1e6

_INTRODUCTION: Final = (
    "Does a message cost more when there is more of everything? The tables show the CPU time of the client's process, "
    "user and system, in µs: the median of the rounds, and the least and the most in brackets. Wall time is beside it "
    "and includes the broker. Each figure comes from a process and connections of its own. Bodies have 100 bytes, "
    "except where their size grows. The queues are transient."
)

Figure: TypeAlias = Mapping[str, float]
"""See :data:`benchmarks.growing.Figures`."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A quantity that grows.

    Attributes:
        title: its title.
        unit: the unit whose cost is shown.
        lines: the series of :mod:`benchmarks.growing`, by their names on the page.
        counts: the number of messages measured at each value.
        names: names of the values; None to show plain numbers.
        text: describes the measurement and how to read the figures.
    """

    title: str
    unit: str
    lines: Mapping[str, str]
    counts: Mapping[int, int]
    text: str
    names: Mapping[int, str] | None = None

    def name(self, value: int) -> str:
        """A value as the page shows it."""
        return f"{value:,}" if self.names is None else self.names[value]


_COPIES: Final = {"published": "copies, published", "consumed": "copies, consumed"}
_LARGEST: Final = 64 * MIB
_SIZES: Final = {0: "0", 1024: "1 KiB", 65536: "64 KiB", MIB: "1 MiB", 16 * MIB: "16 MiB", _LARGEST: "64 MiB"}

KINDS: Final = (
    Kind(
        "Channels of a connection",
        "message",
        {"all but one idle": "channels, one busy", "all in turn": "channels, all busy"},
        dict.fromkeys((1, 10, 100, 1000), 20_000),
        "Publishers with a channel each: one of them publishes, or all publish in turn. A broker can confirm several "
        "messages with one frame, but only on one channel: the last column shows the frames received for each message "
        "when they publish in turn.",
    ),
    Kind(
        "Connections of a process",
        "message",
        {"all but one idle": "connections, one busy", "all in turn": "connections, all busy"},
        dict.fromkeys((1, 10, 50, 200), 20_000),
        "Connections with a publisher each: one of them publishes, or all publish in turn. In turn, the client writes "
        "to and reads from all their sockets. The last column shows the frames received for each message.",
    ),
    Kind(
        "Unconfirmed messages",
        "message",
        {"publish": "unconfirmed"},
        {1: 1000, 10: 5000, 100: 20_000, 1000: 20_000, 10_000: 20_000, 100_000: 100_000},
        "The client fills a window of this size without reading a confirm, then reads all confirms, and so on. With "
        "one message at a time, each pays for a round trip to the broker.",
    ),
    Kind(
        "Unacknowledged deliveries",
        "message",
        {"oldest first": "unacked, oldest first", "newest first": "unacked, newest first"},
        {1: 1000, 10: 5000, 100: 20_000, 1000: 20_000, 10_000: 20_000, 100_000: 100_000},
        "The consumer takes this many deliveries, then acknowledges each of them. A prefetch cannot be 100,000, so "
        "that consumer has none. With one delivery at a time, each pays for a round trip to the broker.",
    ),
    Kind(
        "Size of the body",
        "message",
        {"publish": "body, published", "consume": "body, consumed"},
        {0: 5000, 1024: 5000, 65536: 1000, MIB: 60, 16 * MIB: 5, _LARGEST: 3},
        "Published with confirms; consumed with acknowledgements from a full queue. The second table shows the same by "
        "size. For each received body above 32 MiB, glibc gets fresh memory, which the kernel clears page by page. If "
        "glibc reuses memory (`MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=2000000000`), a MiB of a 64 MiB body costs as "
        "much as a MiB of a 16 MiB body.",
        _SIZES,
    ),
    Kind(
        "Queues in the topology",
        "queue",
        {"recover": "queues"},
        dict.fromkeys((10, 100, 1000, 10_000), _ROUNDS),
        "The client declares this many transient queues, then the TCP connection is cut. The measurement begins with "
        "the cut and ends when the connection is open again, with every queue declared anew; the broker still has the "
        "queues. A new connection costs a few milliseconds, more than ten queues do. With a real broker, not the "
        "embedded one.",
    ),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of one process at one point."""

    series: str
    value: int
    figure: Figure


def main() -> None:
    """The command ``python -m benchmarks.growth``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, in less than a minute")
    parser.add_argument("--url", help="a broker that runs already, instead of one started for the measurement")
    parser.add_argument("--render", type=Path, metavar="JSON", help="only write the page and the picture anew")
    arguments = parser.parse_args()
    if arguments.render:
        kept = json.loads(arguments.render.read_text())
        samples = [Sample(**one) for one in kept["samples"]]
        page = save(folder_of(arguments.render), kept["command"], kept["machine"], samples)
    else:
        with running_broker(arguments.url) as url:
            facts = machine(url)
            samples = measure(url, quick=arguments.quick)
        command = " ".join(["python -m benchmarks.growth", *sys.argv[1:]])
        page = save(ASIDE if arguments.quick else DOCS, command, facts, samples)
    sys.stdout.write(f"Written: {page}\n")


# --- measuring ------------------------------------------------------------------------------------------------------


def points(url: str, *, quick: bool) -> list[Point]:
    """The points of one round, in order."""
    chosen: list[Point] = []
    for kind in KINDS:
        for value, count in kind.counts.items():
            # The ends of each series show whether it grows.
            if quick and value not in (min(kind.counts), 50, 100, 1000, MIB, 16 * MIB):
                continue
            recoveries = kind.unit == "queue"
            few = count if recoveries else max(1, count // 10)
            chosen += [Point(series, value, few if quick else count, url) for series in kind.lines.values()]
    return [*chosen, *(Point(series, _LARGEST, 1, url) for series in _COPIES.values())]


def measure(url: str, *, quick: bool) -> list[Sample]:
    """Measure each point, in a process of its own each time.

    Raises:
        RuntimeError: a process failed.
    """
    samples: list[Sample] = []
    for number in range(1 if quick else _ROUNDS):
        for point in points(url, quick=quick):
            if number and point.series == "queues":
                continue  # one process recovers several times: declaring takes the broker the longest
            figures: list[Figure] = output_of("benchmarks.growing", encode(point), _DEADLINE)["figures"]
            samples += [Sample(point.series, point.value, figure) for figure in figures]
            cost = (
                f"{_cost(figures[-1]):,.1f} µs of CPU" if "cpu" in figures[-1] else f"{figures[-1]['peak']:,.0f} bytes"
            )
            sys.stdout.write(f"round {number + 1}  {point.series:<22} {point.value:>10,}  {cost}\n")
            sys.stdout.flush()
    return samples


def _cost(figure: Figure) -> float:
    return figure["cpu"] / figure["units"] * _MICRO


# --- the page -------------------------------------------------------------------------------------------------------


def save(folder: Path, command: str, facts: Mapping[str, str], samples: Sequence[Sample]) -> Path:
    """Write page, picture and raw figures.

    Returns:
        The page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    raw = {"command": command, "machine": dict(facts), "samples": [asdict(one) for one in samples]}
    write_raw(folder, "growth", raw)
    panels: list[Panel] = []
    for kind in KINDS:
        lines = {name: line(samples, series, "cpu") for name, series in kind.lines.items()}
        ticks = {value: kind.name(value) for value in next(iter(lines.values()))}
        panels.append(Panel(f"{kind.title} (µs of CPU a {kind.unit})", lines, ticks))
    draw(panels, folder / "growth.svg")
    (folder / "growth.md").write_text(page(samples, facts, command))
    return folder / "growth.md"


def line(samples: Iterable[Sample], series: str, what: str) -> dict[int, Spread]:
    """A series: the cost of one unit at each value, ``cpu`` or ``seconds`` in µs, or millionths of ``frames``."""
    at: dict[int, list[float]] = {}
    for sample in samples:
        if sample.series == series and what in sample.figure:
            at.setdefault(sample.value, []).append(sample.figure[what] / sample.figure["units"] * _MICRO)
    return {value: Spread(median(costs), min(costs), max(costs)) for value, costs in at.items()}


def page(samples: Sequence[Sample], facts: Mapping[str, str], command: str) -> str:
    """The whole page."""
    parts = [
        "# Growth",
        f"Written by `{command}`; the raw figures are in {link_to_raw('growth')}.",
        _INTRODUCTION,
        "![The cost of a message as each quantity grows](growth.svg)",
        "## At a glance",
        _glance(samples),
    ]
    for kind in KINDS:
        parts += [f"## {kind.title}", kind.text, _figures(samples, kind)]
        if kind.names is not None:
            parts += [_by_size(samples, kind), _copies(samples)]
    parts += ["## Where", table(["", ""], [[name, value] for name, value in facts.items()])]
    return "\n\n".join(parts) + "\n"


def _glance(samples: Sequence[Sample]) -> str:
    rows: list[list[str]] = []
    for kind in KINDS:
        if kind.names is not None:
            continue
        for name, series in kind.lines.items():
            costs = line(samples, series, "cpu")
            first = min(value for value in costs if value >= min(_HUNDRED, max(costs)) or kind.title.startswith("C"))
            last = max(costs)
            ratio = costs[last].median / costs[first].median
            rows.append(
                [
                    kind.title,
                    name,
                    *(f"{costs[at].median:,.1f} at {kind.name(at)}" for at in (first, last)),
                    f"{ratio:.2f}",
                ]
            )
    return (
        f"µs of CPU for one unit. Windows and queues are compared from {_HUNDRED} on, where enough of them share the "
        "wait for an answer.\n\n" + table(["quantity", "", "from", "to", "times"], rows)
    )


def _figures(samples: Sequence[Sample], kind: Kind) -> str:
    head = [kind.title.lower()]
    lines: list[tuple[dict[int, Spread], dict[int, Spread]]] = []
    for name, series in kind.lines.items():
        head += [f"{name}, CPU", f"{name}, wall"]
        lines.append((line(samples, series, "cpu"), line(samples, series, "seconds")))
    rows = [
        [
            kind.name(value),
            *(cell for cpu, wall in lines for cell in (_range(cpu[value]), f"{wall[value].median:,.1f}")),
        ]
        for value in lines[0][0]
    ]
    # The frames received in the last series, if they were counted.
    if frames := line(samples, [*kind.lines.values()][-1], "frames"):
        head.append("frames in")
        for row, spread in zip(rows, frames.values(), strict=True):
            row.append(f"{spread.median / _MICRO:.2f}")
    return table(head, rows)


def _by_size(samples: Sequence[Sample], kind: Kind) -> str:
    lines = [line(samples, series, "cpu") for series in kind.lines.values()]
    rows = [
        [kind.name(value), *(_range(_per_mib(costs[value], value)) for costs in lines)]
        for value in lines[0]
        if value >= min(_LARGEST, 65536)
    ]
    return "µs of CPU for each MiB:\n\n" + table([kind.title.lower(), *kind.lines], rows)


def _per_mib(spread: Spread, size: int) -> Spread:
    return Spread(*(cost * MIB / size for cost in (spread.median, spread.low, spread.high)))


def _copies(samples: Sequence[Sample]) -> str:
    peaks = {
        name: max(sample.figure["peak"] for sample in samples if sample.series == series)
        for name, series in _COPIES.items()
    }
    return (
        f"A body of {_SIZES[_LARGEST]} goes to the socket in pieces. Publishing it takes at most "
        f"{peaks['published'] / _LARGEST:.3f} of its size in memory, beyond the body that the caller holds. Receiving "
        f"it takes {peaks['consumed'] / _LARGEST:.3f} of its size: the pieces, and the body joined from them "
        "(tracemalloc, the most of the rounds)."
    )


def _range(spread: Spread) -> str:
    return f"{spread.median:,.1f} ({spread.low:,.1f} to {spread.high:,.1f})"


if __name__ == "__main__":
    main()
