"""``python -m benchmarks.startup``: importing and connecting, beside the other clients. Writes ``docs/startup.md``.

Whatever is less than the whole measurement is written to ``build/benchmarks`` instead.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from anyamqp.testing import FaultProxy
from benchmarks.broker import running_broker
from benchmarks.machine import machine
from benchmarks.pages import ASIDE, DOCS, ROOT, folder_of
from benchmarks.startup_report import COLD, COMPILED, DELAY, WARM, save

ROUNDS: Final = 9
CONNECTS: Final = 20
DELAYED_CONNECTS: Final = 5
PACKAGES: Final = ("anyamqp", "anyio", "aio_pika", "pika")
CLIENTS: Final = ("raw socket", "anyamqp", "anyamqp on trio", "aio-pika")
FIRST: Final = CLIENTS[1:]
DEADLINE: Final = 60.0


def main() -> None:
    """Measure, or write the page anew."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two rounds")
    parser.add_argument("--render", type=Path, metavar="JSON", help="only write the page anew")
    arguments = parser.parse_args()
    if arguments.render:
        kept = json.loads(arguments.render.read_text())
    else:
        rounds = 2 if arguments.quick else ROUNDS
        with running_broker() as url:
            kept = {
                "command": " ".join(["python -m benchmarks.startup", *sys.argv[1:]]),
                "rounds": rounds,
                "machine": machine(url),
                **imports(rounds, lambda line: print(line, flush=True)),
                **first_confirms(url, rounds, lambda line: print(line, flush=True)),
                **connects(url, lambda line: print(line, flush=True)),
            }
    folder = folder_of(arguments.render) if arguments.render else ASIDE if arguments.quick else DOCS
    print(f"\nWritten: {save(folder, kept)}")


# --- importing ------------------------------------------------------------------------------------------------------


def imports(rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Import each package in each state of the caches; the packages take turns."""
    samples: dict[str, dict[str, list[dict[str, Any]]]] = {
        state: {package: [] for package in PACKAGES} for state in (COMPILED, COLD, WARM)
    }
    modules: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        bytecode, empty = Path(folder, "bytecode"), Path(folder, "empty")
        files = {package: _import(package, bytecode, writes=True)["files"] for package in PACKAGES}
        for number in range(1, rounds + 1):
            for package in PACKAGES:
                samples[COMPILED][package].append(_import(package, empty))
                _forget(files[package])
                samples[COLD][package].append(_import(package, bytecode))
                samples[WARM][package].append(_import(package, bytecode))
            for name, milliseconds in _import_times(bytecode):
                modules.setdefault(name, []).append(milliseconds)
            say(f"round {number}: " + ", ".join(f"{package} {_last(samples, package)}" for package in PACKAGES))
    for of_state in samples.values():
        for of_package in of_state.values():
            for sample in of_package:
                del sample["files"]  # where things are on this machine is no result
    return {"imports": samples, "modules": modules}


def _last(samples: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], package: str) -> str:
    return " / ".join(f"{of_state[package][-1]['ms']:.0f}" for of_state in samples.values()) + " ms"


def _import(package: str, bytecode: Path, *, writes: bool = False) -> dict[str, Any]:
    output, _ = _run(["-m", "benchmarks.startup_worker", "import", package], bytecode, writes=writes)
    sample: dict[str, Any] = json.loads(output)
    return sample


def _import_times(bytecode: Path) -> Iterable[tuple[str, float]]:
    """Each module that ``import anyamqp`` brings, and the ms that it took without those that it imports itself."""
    _, told = _run(["-X", "importtime", "-c", "import anyamqp"], bytecode)
    for line in told.splitlines():
        own, _, rest = line.removeprefix("import time:").partition("|")
        if own.strip().isdigit():
            yield rest.rpartition("|")[2].strip(), int(own) / 1000


def _forget(files: Iterable[str]) -> None:
    """Have the system drop these files from its page cache, so that they come from the disk."""
    for file in files:
        with open(file, "rb") as opened:  # noqa: PTH123 - a descriptor is wanted, not a path
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# --- the first confirm ----------------------------------------------------------------------------------------------


def first_confirms(url: str, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Publish one message in a fresh process, with bytecode and files in memory; the clients take turns."""
    samples: dict[str, list[dict[str, float]]] = {client: [] for client in FIRST}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 1):
            for client, of_client in samples.items():
                arguments = ["-m", "benchmarks.startup_worker", "confirm", client, url]
                output, _ = _run(arguments, Path(folder), writes=not number)
                if number:
                    of_client.append(json.loads(output))
    for client, of_client in samples.items():
        say(f"first confirm: {client} {median(one['ms'] for one in of_client):.1f} ms")
    return {"first_confirms": samples}


# --- connecting -----------------------------------------------------------------------------------------------------


def connects(url: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Connect with each client: directly, and over a distance, which tells round trips apart from everything else."""
    host, _, port = url.rpartition("@")[2].rstrip("/").partition(":")
    direct: dict[str, list[float]] = {}
    far: dict[str, list[float]] = {}
    with FaultProxy(host, int(port)) as proxy:
        through = f"amqp://guest:guest@{proxy.host}:{proxy.port}/"
        for client in CLIENTS:
            direct[client] = _connect(client, url, CONNECTS)
            proxy.delay(0)
            near = _connect(client, through, DELAYED_CONNECTS)
            proxy.delay(DELAY)
            delayed = _connect(client, through, DELAYED_CONNECTS)
            far[client] = [(slow - median(near)) / (2 * DELAY * 1000) for slow in delayed]
            say(f"connect: {client} {median(direct[client]):.1f} ms, {median(far[client]):.2f} round trips")
    return {"connects": direct, "round_trips": far}


def _connect(client: str, url: str, count: int) -> list[float]:
    output, _ = _run(["-m", "benchmarks.startup_worker", "connect", client, url, str(count)], None)
    times: list[float] = json.loads(output)["ms"]
    return times


def _run(arguments: Sequence[str], bytecode: Path | None, *, writes: bool = False) -> tuple[str, str]:
    unset = ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONPROFILEIMPORTTIME")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    if bytecode is not None:
        environment["PYTHONPYCACHEPREFIX"] = str(bytecode)
        if not writes:
            environment["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=DEADLINE,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no word"])[-1])
    return done.stdout, done.stderr


if __name__ == "__main__":
    main()
