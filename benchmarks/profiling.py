"""``python -m benchmarks.profiling``: where anyamqp's CPU time goes, case by case. Writes ``docs/profile.md``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.broker import running_broker
from benchmarks.cases import CASES, CLIENTS
from benchmarks.machine import machine
from benchmarks.pages import ASIDE, DOCS, folder_of, link_to_raw, write_raw
from benchmarks.profile_worker import LOOP, TIMED
from benchmarks.report import table
from benchmarks.runner import FULL, output_of, task_of
from benchmarks.task import encode

ROUNDS: Final = 3
SEGMENTS: Final = (*dict.fromkeys(segment for _, _, segment in TIMED), LOOP)

_TEXT: Final = f"""\
Where the CPU time of the cases of [benchmarks.md](benchmarks.md) goes, on asyncio's own event loop: µs a message,
medians of {ROUNDS} runs. The clock is the thread's CPU time; its calls are in the figures, so a run here takes longer
than there. Each column is without the others:

* **select()**, **recv()**, **send()**: the system calls, with what Python does around them. A send includes waking the
  broker.
* **decode**: bytes to events. **settle, hand out**: telling publishers and consumers of them. **join output**: putting
  what leaves together into one piece.
* **tasks**: what else runs in tasks: `publish`, `submit`, `call`, the iteration of a consumer, acknowledging, the
  writer, and the benchmark's own loop.
* **event loop**: asyncio's turns, besides the above.

The rest of the wall time is the broker's, which has the same two processors."""


def main() -> None:
    """Measure, or write the page anew."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profiling", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, to build/benchmarks")
    parser.add_argument("--render", type=Path, metavar="JSON", help="only write the page anew")
    arguments = parser.parse_args()
    kept: dict[str, Any]
    if arguments.render:
        kept = json.loads(arguments.render.read_text())
    else:
        with running_broker() as url:
            kept = {
                "command": " ".join(["python -m benchmarks.profiling", *sys.argv[1:]]),
                "machine": machine(url),
                "runs": profiles(url, 1 if arguments.quick else ROUNDS),
            }
    folder = folder_of(arguments.render) if arguments.render else ASIDE if arguments.quick else DOCS
    folder.mkdir(parents=True, exist_ok=True)
    write_raw(folder, "profile", kept)
    (folder / "profile.md").write_text(page(kept))
    print(f"{_figures(kept['runs'])}\n\nWritten: {folder / 'profile.md'}")


def profiles(url: str, rounds: int) -> list[dict[str, Any]]:
    """Profile each case so many times."""
    asyncio = next(client for client in CLIENTS if client.is_ours and client.loop == "asyncio")
    plan = replace(FULL, scale=0.5)
    return [
        {"case": case.name, **output_of("benchmarks.profile_worker", encode(task_of(plan, case, asyncio, url)), 60.0)}
        for _ in range(rounds)
        for case in CASES
    ]


def page(kept: Mapping[str, Any]) -> str:
    """The whole page."""
    facts = "\n".join(f"* {name}: {value}" for name, value in kept["machine"].items())
    return (
        f"# Where the time goes\n\nWritten by `{kept['command']}`; the raw samples are in {link_to_raw('profile')}."
        f"\n\n{_TEXT}\n\n{_figures(kept['runs'])}\n\n## Machine and versions\n\n{facts}\n"
    )


def _figures(runs: Sequence[Mapping[str, Any]]) -> str:
    rows: list[Sequence[str]] = []
    for case in CASES:
        mine = [run for run in runs if run["case"] == case.name]
        wall = median(run["seconds"] / run["messages"] * 1e6 for run in mine)
        cpu = median(run["cpu"] / run["messages"] * 1e6 for run in mine)
        spent = [median(run["spent"].get(segment, 0.0) for run in mine) for segment in SEGMENTS]
        rows.append([case.title, *(f"{value:,.1f}" for value in (wall, cpu, *spent))])
    return table(["case", "wall", "CPU", *SEGMENTS], rows)


if __name__ == "__main__":
    main()
