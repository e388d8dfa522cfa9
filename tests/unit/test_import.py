"""``import anyamqp`` is fast and imports nothing that the user did not ask for."""

from __future__ import annotations

import subprocess
import sys
from functools import cache

import anyio
import pytest

from anyamqp.testing import Broker

LONGEST = 5.0
"""Seconds, on any machine and under any load: only an import that does work of its own takes so long. What it takes
is measured by ``python -m benchmarks.startup``."""

UNWANTED = (
    "asyncio",
    "ssl",
    "uuid",
    "anyamqp.net.tls",
    "trio",
    "uvloop",
    "concurrent.futures",
    "multiprocessing",
    "subprocess",
    "http",
    "json",
    "unittest",
    "argparse",
    "importlib.metadata",
    "rich",
    "hypercorn",
    "opentelemetry",
    "prometheus_client",
    "aio_pika",
    "aiormq",
    "pika",
    "matplotlib",
    "pytest",
    "transitions.extensions",
    "graphviz",
    "anyamqp.cli",
    "anyamqp.mermaid",
    "anyamqp.extras",
    "anyamqp.testing",
    "feature_service",
)
"""An event loop is anyio's to import when it runs, and OpenSSL is loaded with the first TLS. The others belong to
extras, tests and tools."""

SCRIPT = """
import sys, time
already = set(sys.modules)
began = time.perf_counter()
import anyamqp
print(time.perf_counter() - began, *sorted(set(sys.modules) - already))
"""


@cache
def imported() -> tuple[float, frozenset[str]]:
    """Seconds that the import took in a fresh process, and the modules that it brought."""
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)  # noqa: S603 - our own interpreter
    seconds, *modules = run.stdout.split()
    return float(seconds), frozenset(modules)


@pytest.mark.parametrize("module", UNWANTED)
def test_import_does_not_bring(module: str) -> None:
    assert [name for name in imported()[1] if name == module or name.startswith(f"{module}.")] == []


def test_import_brings_no_distribution_but_those_it_depends_on() -> None:
    """anyio brings idna, sniffio and typing_extensions where the Python is old enough, transitions brings six."""
    wanted = {"anyamqp", "anyio", "pamqp", "transitions", "idna", "sniffio", "six", "typing_extensions"}
    roots = {name.partition(".")[0] for name in imported()[1]}
    assert roots - sys.stdlib_module_names <= wanted


def test_import_is_done_within_a_wide_bound() -> None:
    assert imported()[0] < LONGEST


FIRST_CONNECT = """
import sys
import {library}
import anyamqp

async def main():
    async with anyamqp.connect({url!r}) as connection, connection.publisher() as publisher:
        await publisher.publish(anyamqp.Message(b""), routing_key="nowhere", mandatory=False)

already = set(sys.modules)
{library}.run(main{call})
print(*sorted(set(sys.modules) - already))
"""


@pytest.mark.anyio
@pytest.mark.parametrize(("library", "call"), [("asyncio", "()"), ("trio", "")])
async def test_the_first_connect_loads_no_module(library: str, call: str) -> None:
    """It would delay every task of a loop that runs; a program that has imported the loop has all with anyamqp."""
    async with Broker() as broker:
        script = FIRST_CONNECT.format(library=library, call=call, url=await broker.listen())
        with anyio.fail_after(60):
            run = await anyio.run_process([sys.executable, "-c", script])
    assert run.stdout.split() == []
