"""``python -m benchmarks.memory``: what connections, channels and messages weigh, and whether a soak leaves something.

Writes ``docs/memory.md`` and its raw figures. With ``--quick``, a short soak and fewer of each thing; written to
``build/benchmarks``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from benchmarks.broker import running_broker
from benchmarks.footprint import BODY_SIZE, OWN, SHARED, SOAK, Weighing, encode
from benchmarks.machine import machine
from benchmarks.pages import ASIDE, DOCS, folder_of, link_to_raw, write_raw
from benchmarks.report import table
from benchmarks.runner import output_of

_DEADLINE: Final = 120.0
_LOOPS: Final = ("asyncio", "trio")
_SCALES: Final = ("traced", "resident")
_ROUNDS: Final = 100
"""Of the soak."""

COUNTS: Final = {
    "connection": 50,
    "channel": 500,
    "publisher": 500,
    "consumer": 500,
    "queue": 1000,
    SHARED: 10_000,
    OWN: 10_000,
}
"""How many of each thing are weighed."""

_TITLES: Final = {
    "connection": "idle connection, with its tasks",
    "channel": "open channel",
    "publisher": "publisher with nothing to publish, its channel included",
    "consumer": "consumer of an empty queue, its channel included",
    "queue": "declared queue, to be declared again after a loss",
    SHARED: "unconfirmed message, its body not counted",
    OWN: f"unconfirmed message with a body of its own of {BODY_SIZE:,} bytes",
}

_METHOD: Final = (
    "Bytes for one more of each thing, on a real broker: one is made first, then many, and the difference is divided. "
    "Traced is what Python allocated (tracemalloc). Resident is what the process grew by, from a run without "
    "tracemalloc; it comes in pages and includes what allocators keep. Each figure is from a process of its own."
)
_MESSAGES: Final = (
    "The unconfirmed messages are sent, and no confirm is read. First all have the same body object: what they weigh "
    "is what anyamqp adds to a message. Then each has a body of its own, made by the caller: they weigh that object "
    "more, {object} bytes with what Python adds, and nothing else. A body is held, not copied."
)
_SOAKING: Final = (
    "Messages are published with confirms, consumed and acknowledged, in rounds of 500; in every tenth the TCP "
    "connection is cut while messages are on their way. Traced bytes are told after a quarter as many rounds of "
    "warm-up and at the end, both times with nothing on its way."
)


@dataclass(frozen=True, slots=True)
class Weighed:
    """What a process found."""

    thing: str
    loop: str
    scale: str
    count: int
    figures: Mapping[str, float]


def main() -> None:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--url", help="a broker that runs already, instead of one started for the measurement")
    parser.add_argument("--render", type=Path, metavar="JSON", help="only write the page anew")
    arguments = parser.parse_args()
    if arguments.render:
        kept = json.loads(arguments.render.read_text())
        everything = [Weighed(**one) for one in kept["weighed"]]
        written = save(folder_of(arguments.render), kept["command"], kept["machine"], everything)
    else:
        with running_broker(arguments.url) as url:
            facts = machine(url)
            everything = measure(url, share=10 if arguments.quick else 1)
        command = " ".join(["python -m benchmarks.memory", *sys.argv[1:]])
        written = save(ASIDE if arguments.quick else DOCS, command, facts, everything)
    sys.stdout.write(f"Written: {written}\n")


def measure(url: str, *, share: int) -> list[Weighed]:
    """Weigh everything, on each event loop.

    Args:
        url: the broker's.
        share: weigh so many times fewer of each.

    Raises:
        RuntimeError: a process failed.
    """
    found: list[Weighed] = []
    for loop in _LOOPS:
        plan = [(thing, scale, count) for thing, count in COUNTS.items() for scale in _SCALES]
        for thing, scale, count in [*plan, (SOAK, "traced", _ROUNDS)]:
            weighing = Weighing(thing, count // share, loop, url, scale)
            figures = output_of("benchmarks.footprint", encode(weighing), _DEADLINE)
            found.append(Weighed(thing, loop, scale, weighing.count, figures))
            told = ", ".join(f"{name} {figure:,.0f}" for name, figure in figures.items())
            sys.stdout.write(f"{loop:<8} {thing:<18} {scale:<9} {told}\n")
            sys.stdout.flush()
    return found


# --- the page -------------------------------------------------------------------------------------------------------


def save(folder: Path, command: str, facts: Mapping[str, str], everything: Sequence[Weighed]) -> Path:
    """Write page and raw figures.

    Returns:
        The page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    raw = {"command": command, "machine": dict(facts), "weighed": [asdict(one) for one in everything]}
    write_raw(folder, "memory", raw)
    (folder / "memory.md").write_text(page(everything, facts, command))
    return folder / "memory.md"


def page(everything: Sequence[Weighed], facts: Mapping[str, str], command: str) -> str:
    """The whole page."""
    found = {(one.thing, one.loop, one.scale): one.figures for one in everything}
    columns = [(loop, scale) for loop in _LOOPS for scale in _SCALES]
    weights = [
        [title, *(f"{found[thing, loop, scale]['bytes']:,.0f}" for loop, scale in columns)]
        for thing, title in _TITLES.items()
    ]
    soaks = [(loop, found[SOAK, loop, "traced"]) for loop in _LOOPS]
    names = ("messages", "losses", "before", "after")
    soaked = [
        [loop, *(f"{figures[name]:,.0f}" for name in names), f"{figures['after'] - figures['before']:+,.0f}"]
        for loop, figures in soaks
    ]
    parts = [
        "# Memory",
        f"Written by `{command}`; the raw figures are in {link_to_raw('memory')}.",
        _METHOD,
        table(["bytes for one", *(f"{loop}, {scale}" for loop, scale in columns)], weights),
        _MESSAGES.format(object=f"{sys.getsizeof(bytes(BODY_SIZE)):,}"),
        "Tests hold these within bounds: `tests/simulation/test_memory_bounds.py`.",
        "## Soak",
        _SOAKING,
        table(["", "messages", "losses", "bytes before", "bytes after", "difference"], soaked),
        "## Where",
        table(["", ""], [[name, value] for name, value in facts.items()]),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
