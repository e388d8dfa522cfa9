"""The page about importing and connecting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.pages import link_to_raw, write_raw
from benchmarks.report import ends, table
from benchmarks.summary import spread

COMPILED: Final = "no bytecode"
COLD: Final = "not in memory"
WARM: Final = "warm"
DELAY: Final = 0.05
"""Seconds that the proxy adds in each direction."""

_MOST: Final = 15
_BOUND: Final = 150
_NAME: Final = "startup"

_IMPORTS: Final = f"""\
Milliseconds of `import` in a fresh process, median of {{rounds}} rounds with the least and the most. Three states of
the caches:

* **{COMPILED}**: the bytecode cache is empty (`PYTHONPYCACHEPREFIX` names an empty folder, and nothing is written), so
  Python compiles every module anew, the standard library's too. This is no state that an installed package is in; it
  tells how much source there is.
* **{COLD}**: the bytecode is there, as after an installation, but the system was told to drop every file that the
  import reads from its page cache (`posix_fadvise`, `DONTNEED`), so they come from the disk. This is the first start
  on a machine, and what is meant by a cold cache here. How much was read is in the table.
* **{WARM}**: bytecode and files are in memory."""

_WEIGHTS: Final = f"""\
The {_MOST} modules that weigh most in a process that imports anyamqp (`-X importtime`, warm), each without what it
imports itself. The interpreter's own start is among them."""

_FIRST: Final = """\
From the end of the imports to the first confirm, in a fresh process, with bytecode and files in memory: the event loop
starts, a connection and a publisher open, and one message is confirmed. The program imports the event loop's library
before the client. Modules are those that were loaded meanwhile, in a loop that runs and whose tasks wait for that."""

_CONNECTS: Final = f"""\
From the call until the connection can be used, each connection closed before the next. Round trips: the same through a
proxy without and with {DELAY * 1000:.0f} ms of delay in each direction; the added median, divided by
{2 * DELAY * 1000:.0f} ms. Opening the TCP connection is not delayed. The raw socket does the handshake and nothing
else."""


def save(folder: Path, kept: Mapping[str, Any]) -> Path:
    """Write the page and the raw samples.

    Returns:
        The page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_raw(folder, _NAME, kept)
    (folder / f"{_NAME}.md").write_text(page(kept))
    return folder / f"{_NAME}.md"


def page(kept: Mapping[str, Any]) -> str:
    """The whole page."""
    parts = [
        "# Import and start",
        f"Written by `{kept['command']}`; the raw samples are in {link_to_raw(_NAME)}.",
        "## Import",
        _IMPORTS.format(rounds=kept["rounds"]),
        _imports(kept["imports"]),
        _verdict(kept["imports"]),
        _WEIGHTS,
        _modules(kept["modules"]),
        "## First confirm",
        _FIRST,
        _first_confirms(kept["first_confirms"]),
        "## Connect",
        _CONNECTS,
        _connects(kept["connects"], kept["round_trips"]),
        "## Where",
        table(["", ""], [[name, value] for name, value in kept["machine"].items()]),
    ]
    return "\n\n".join(parts) + "\n"


def _imports(samples: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> str:
    rows: list[list[str]] = []
    for package in samples[WARM]:
        cells = [_spread([one["ms"] for one in samples[state][package]], ".0f") for state in (COMPILED, COLD, WARM)]
        read = spread([one["read"] for one in samples[COLD][package]]).median
        cpu = [_spread([one["cpu"] for one in samples[state][package]], ".0f") for state in (COLD, WARM)]
        rows.append([package, *cells, *cpu, f"{read:,.0f}", str(samples[WARM][package][-1]["modules"])])
    head = ["", COMPILED, COLD, WARM, f"CPU, {COLD}", f"CPU, {WARM}", "KiB read from the disk", "modules"]
    return table(head, rows)


def _verdict(samples: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> str:
    cold, cpu = (spread([one[what] for one in samples[COLD]["anyamqp"]]) for what in ("ms", "cpu"))
    met = "met" if cold.median < _BOUND else "missed"
    return (
        f"The target is less than {_BOUND} ms with a cold cache: {cold.median:.0f} ms, at best {cold.low:.0f}: {met}.\n"
        f"Of CPU time it takes {cpu.median:.0f} ms; the rest is the disk, and what else the machine does (last table)."
    )


def _modules(modules: Mapping[str, Sequence[float]]) -> str:
    heaviest = sorted(modules.items(), key=lambda one: -spread(one[1]).median)[:_MOST]
    return table(["module", "ms"], [[f"`{name}`", _spread(values, ".1f")] for name, values in heaviest])


def _first_confirms(samples: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    rows = [
        [
            client,
            *(_spread([one[what] for one in of_client], ".1f") for what in ("ms", "cpu")),
            f"{of_client[-1]['modules']}",
        ]
        for client, of_client in samples.items()
    ]
    return table(["", "ms", "CPU", "modules"], rows)


def _connects(direct: Mapping[str, Sequence[float]], trips: Mapping[str, Sequence[float]]) -> str:
    rows = [[client, _spread(times, ".1f"), _spread(trips[client], ".1f")] for client, times in direct.items()]
    return table(["", "ms", "round trips"], rows)


def _spread(values: Sequence[float], form: str) -> str:
    of_values = spread(values)
    return f"{of_values.median:{form}} ({ends(of_values, form)})"
